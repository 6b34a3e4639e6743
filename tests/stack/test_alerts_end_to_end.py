"""Each alert, from a job to its receiver: through Prometheus, and directly from the process.

All jobs run at once, each with its own monitor. Prometheus scrapes them, evaluates rules with short
windows, and sends alerts to one Alertmanager. The monitors evaluate the same settings, and send
alerts to a handler and a second Alertmanager. Both Alertmanagers have the shipped routes and
inhibitions.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from _alert_causes import ELSEWHERE, SETTINGS, causes
from _alert_stage import PATIENCE, Jobs, Witness, job_of
from _alerting import SHIPPED, shipped_alertmanager_config
from _alertmanager import Alertmanager
from _prometheus import NEWEST, Prometheus
from _servers import poll
from _victoria import VictoriaMetrics, Vmalert
from _webhook import Webhook

from genmeter import AlertmanagerHandler, GenerationMonitor, cli
from genmeter.config.alerts import AlertSettings
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.schema.alerts import ALERT_RULES
from genmeter.testing import fresh_runtime
from otlp_receiver import HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _alert_causes import Cause
    from _alerting import AlertingStack

    from genmeter.schema.alerts import AlertRule

SHORT = AlertSettings._from_table(tomllib.loads(SETTINGS)).rules()
# Rows of these settings; those without a setting are from the table.
ROWS = {rule.id: rule for rule in (*ALERT_RULES, *SHORT)}
CAUSED = sorted(ROWS.keys() - ELSEWHERE.keys())
SENT = [id_ for id_ in CAUSED if ROWS[id_].severity != "info"]
RECEIVERS = {"critical": "page", "warning": "chat", "info": "nobody"}
FEATURES = ("exemplar-storage", "created-timestamp-zero-ingestion")


class Way(NamedTuple):
    """One of the two ways of an alert: an Alertmanager, its receiver, and its witness."""

    alertmanager: Alertmanager
    webhook: Webhook
    witness: Witness


class Stage(NamedTuple):
    """The jobs, the Prometheus that scrapes them, and both ways of their alerts."""

    prometheus: Prometheus
    jobs: Jobs
    causes: dict[str, Cause]
    by_prometheus: Way
    by_process: Way


@contextmanager
def a_way(folder: Path) -> Iterator[Way]:
    """Start an Alertmanager with the shipped routes, and its receiver."""
    folder.mkdir()
    with (
        Webhook() as webhook,
        Alertmanager(folder, shipped_alertmanager_config(webhook)) as alertmanager,
        Witness(alertmanager) as witness,
    ):
        yield Way(alertmanager, webhook, witness)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return all jobs, which cause their alerts after the servers are ready."""
    folder = tmp_path_factory.mktemp("stage")
    settings, rules = folder / "alerts.toml", folder / "rules.yml"
    settings.write_text(SETTINGS)
    assert cli.main(["render", "rules", "--settings", str(settings), "--out", str(rules)]) == 0
    (folder / "prometheus").mkdir()
    with (
        a_way(folder / "by-prometheus") as by_prometheus,
        a_way(folder / "by-process") as by_process,
        Prometheus(
            folder / "prometheus",
            FEATURES,
            rules=[rules],
            alertmanagers=[by_prometheus.alertmanager.url],
        ) as prometheus,
        HttpReceiver() as receiver,
    ):
        receiver.failing = 400
        table = causes(receiver)
        handlers = lambda: [AlertmanagerHandler(by_process.alertmanager.url)]  # noqa: E731
        with Jobs(table, settings, handlers) as jobs:
            prometheus.add_job(scraped(jobs))
            yield Stage(prometheus, jobs, table, by_prometheus, by_process)


def scraped(jobs: Jobs) -> dict[str, Any]:
    """Return the scrape job for all of them, each with its own label `job`."""
    return {
        "job_name": "all",
        "scrape_protocols": ["OpenMetricsText1.0.0"],
        # Not five times a second: one process serves all of them.
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [
            {"targets": [urlsplit(url).netloc], "labels": {"job": job_of(id_)}}
            for id_, url in jobs.urls.items()
        ],
    }


def labels_of(rule: AlertRule, job: str, **group: str) -> dict[str, str]:
    """Return the expected labels of an alert on both ways."""
    own = {"alertname": rule.name, "severity": rule.severity, "job": job}
    return {**own, **group, **dict(rule.labels)}


def test_every_alert_of_the_table_has_a_cause() -> None:
    """Every new row needs a cause here, or a reason why it has none."""
    with HttpReceiver() as receiver:
        assert causes(receiver).keys() | ELSEWHERE.keys() == ROWS.keys()


@pytest.mark.parametrize("alert_id", CAUSED)
def test_alerts_of_prometheus_and_of_the_process_are_equal(stage: Stage, alert_id: str) -> None:
    """Each is sent as firing and later as resolved, on both ways with the same labels.

    Alerts of the severity ``info`` are visible in Alertmanager only.
    """
    rule = ROWS[alert_id]
    labels = labels_of(rule, job_of(alert_id), **stage.causes[alert_id].labels)
    is_sent = alert_id in SENT
    for way in (stage.by_prometheus, stage.by_process):
        receivers = way.witness.receivers(labels)
        assert receivers == {RECEIVERS[rule.severity]}
        if is_sent:
            sent = way.webhook.wait_for_alert("firing", PATIENCE, **labels)
            assert sent.labels == labels
            assert {sent.receiver} == receivers
            way.webhook.wait_for_alert("resolved", PATIENCE, **labels)

    def received() -> list[str]:
        return [alert.status for alert in stage.jobs.received[alert_id] if alert.labels == labels]

    # A job that stalls at its end fires again.
    arrived, states = poll(received, lambda found: len(found) >= 2, PATIENCE)
    assert arrived, f"the handler received {states} of {labels}"
    assert states[:2] == ["firing", "resolved"]
    if not is_sent:
        assert not stage.by_prometheus.webhook.alerts(**labels)
        assert not stage.by_process.webhook.alerts(**labels)


@pytest.mark.parametrize("alert_id", SENT)
def test_annotations_of_both_ways_are_equal(stage: Stage, alert_id: str) -> None:
    """Summary, description and runbook are set on both ways."""
    labels = labels_of(ROWS[alert_id], job_of(alert_id), **stage.causes[alert_id].labels)
    first, second = (
        way.webhook.wait_for_alert("firing", PATIENCE, **labels).annotations
        for way in (stage.by_prometheus, stage.by_process)
    )
    assert first.keys() == second.keys() == {"summary", "description", "runbook_url"}
    assert first["runbook_url"] == second["runbook_url"]
    assert first["runbook_url"].endswith(f"#{ROWS[alert_id].name.lower()}")


@pytest.mark.parametrize(
    ("cause", "inhibited"),
    [
        ("high_error_rate", "low_success_rate"),
        ("error_budget_burn:1h", "error_budget_burn:1d"),
        ("cost_budget_burn:critical", "cost_budget_burn:warning"),
        ("token_budget_burn:critical", "token_budget_burn:warning"),
    ],
)
def test_inhibited_alerts_are_not_sent(stage: Stage, cause: str, inhibited: str) -> None:
    """On both ways Alertmanager mutes the alert while the other one fires."""
    job = job_of(cause)
    source, target = labels_of(ROWS[cause], job), labels_of(ROWS[inhibited], job)
    for way in (stage.by_prometheus, stage.by_process):
        assert way.witness.was_inhibited(target)
        way.webhook.wait_for_alert("resolved", PATIENCE, **source)
        assert not way.webhook.alerts(**target)


def test_absent_job_is_reported(stage: Stage) -> None:
    """A required job is reported until it has a target."""
    labels = labels_of(ROWS["target_absent"], "nobody-started-it")
    webhook = stage.by_prometheus.webhook
    assert webhook.wait_for_alert("firing", PATIENCE, **labels).labels == labels
    stage.prometheus.add_target(stage.jobs.urls[CAUSED[0]], job="nobody-started-it", path="second")
    webhook.wait_for_alert("resolved", PATIENCE, **labels)


def test_killed_job_is_reported_as_down_but_not_as_stalled(stage: Stage) -> None:
    """While all targets of a job are down, only that alert is sent."""
    labels = labels_of(ROWS["target_down"], "killed")
    way = stage.by_prometheus
    with killed_job(0) as (job, url):
        stage.prometheus.add_target(url, job="killed")
        stage.prometheus.wait_for('genmeter_job_finished{job="killed"} == 0')
        job.kill()
        assert way.webhook.wait_for_alert("firing", PATIENCE, **labels).labels == labels
    # The process may have sent it just before.
    stalled = labels_of(ROWS["generation_stalled"], "killed")
    way.alertmanager.post([{"labels": stalled}])
    assert way.witness.was_inhibited(stalled)
    assert not way.webhook.alerts(**stalled)
    with killed_job(urlsplit(url).port or 0):
        way.webhook.wait_for_alert("resolved", PATIENCE, **labels)


@contextmanager
def killed_job(port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a job that can be killed; yield its process and endpoint."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_killed_job.py")), str(port), "30"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stdout is not None
        try:
            yield job, job.stdout.readline().strip()
        finally:
            job.kill()


@pytest.fixture(params=["oldest", "newest", "victoria"])
def engine(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    alerting_stack: AlertingStack,
) -> Iterator[Prometheus | VictoriaMetrics]:
    """Run an engine with the shipped rules that sends alerts to the Alertmanager."""
    rules, alertmanagers = [SHIPPED / "rules.yml"], [alerting_stack.alertmanager.url]
    if request.param == "oldest":
        yield alerting_stack.prometheus
    elif request.param == "newest":
        with Prometheus(
            tmp_path, FEATURES, release=NEWEST, rules=rules, alertmanagers=alertmanagers
        ) as prometheus:
            yield prometheus
    else:
        with (
            VictoriaMetrics(tmp_path, ["-search.latencyOffset=2s"]) as victoria,
            Vmalert(tmp_path, victoria.url, rules, delay="2s", alertmanagers=alertmanagers),
        ):
            yield victoria


def test_shipped_rules_report_failure_and_recovery(
    engine: Prometheus | VictoriaMetrics,
    alerting_stack: AlertingStack,
    request: pytest.FixtureRequest,
) -> None:
    """With the shipped rules failures are sent at once, and resolved later."""
    job = f"fails-and-recovers-{request.node.callspec.id}"
    labels = labels_of(ROWS["high_error_rate"], job)
    own = {"alertgroup": "genmeter"} if isinstance(engine, VictoriaMetrics) else {}
    with (
        fresh_runtime(),
        GenerationMonitor(
            config=MonitorConfig(models=("atlas",), endpoint=EndpointConfig(port=0))
        ) as monitor,
    ):
        assert monitor.endpoint_url is not None
        engine.add_target(monitor.endpoint_url, job=job)
        # Not every engine knows what was counted before.
        engine.wait_for(f'genmeter_generations_total{{job="{job}"}} == 0')
        for _ in range(10):
            monitor.track_generation(1.0, False, model_name="atlas", error=TimeoutError("late"))
        sent = alerting_stack.webhook.wait_for_alert("firing", PATIENCE, **labels)
        assert sent.labels == {**labels, **own}
        assert sent.receiver == "page"
        for _ in range(100):
            monitor.track_generation(1.0, True, model_name="atlas")
        alerting_stack.webhook.wait_for_alert("resolved", PATIENCE, **labels)
