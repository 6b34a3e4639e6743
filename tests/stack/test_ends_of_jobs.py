"""The alerts on jobs, pods and Collectors that end: those that die raise one, those that end do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from _collector import Collector
from _engines import RECEIVERS, RELEASES, VICTORIA_FLAGS, shipped
from _prometheus import Prometheus
from _victoria import VictoriaMetrics, Vmalert

from genmeter import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = Path(__file__).with_name("_killed_job.py")
LOOKBACK = "10s"  # five minutes by default
SETTINGS = """
[alerts]
target_down = { window = "5m", for = "1s" }
target_lost = { window = "20s", for = "1s" }
push_stopped = { window = "5m", for = "1s" }
collector_down = { window = "5m", for = "1s" }
"""
FIRING = 'ALERTS{alertstate="firing",job="%s"}'


class Forgetful(Collector):
    """A Collector that drops the series of a process soon after its last push."""

    def command(self) -> list[str | Path]:
        """Change the configuration."""
        command = super().command()
        path = self.folder / "collector.yaml"
        config = json.loads(path.read_text())
        config["exporters"]["prometheus"]["metric_expiration"] = "3s"
        path.write_text(json.dumps(config))
        return command


class Servers(NamedTuple):
    """An engine with the rules, and a Collector that it scrapes.

    Attributes:
        engine: The server.
        collector: The Collector.
        receiver: The address of the engine's own OTLP receiver; None without one.
    """

    engine: Prometheus | VictoriaMetrics
    collector: Forgetful
    receiver: str | None

    def wait_for_alert(self, job: str, name: str, **labels: str) -> None:
        """Wait for an alert of a job, which has to be the only one."""
        expected = {"alertname": name, "severity": "warning", "job": job, **labels}
        (found,) = self.engine.wait_for(FIRING % job)
        assert expected.items() <= found.labels.items()


@pytest.fixture(params=["oldest", "newest", "victoria"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """Start both servers."""
    settings, rules = tmp_path / "alerts.toml", tmp_path / "rules.yml"
    settings.write_text(SETTINGS)
    assert cli.main(["render", "rules", "--settings", str(settings), "--out", str(rules)]) == 0
    for name in ("engine", "collector"):
        (tmp_path / name).mkdir()
    with (
        running_engine(request.param, tmp_path / "engine", rules) as engine,
        Forgetful(tmp_path / "collector") as collector,
    ):
        page = urlsplit(collector.metrics_url).netloc
        engine.add_job(
            {
                "job_name": "collector",
                "honor_labels": True,
                "static_configs": [{"targets": [page]}],
            }
        )
        path = RECEIVERS.get(request.param)
        yield Servers(engine, collector, path and f"{engine.url}/{path}")


@contextmanager
def running_engine(name: str, folder: Path, rules: Path) -> Iterator[Prometheus | VictoriaMetrics]:
    """Run an engine to which series without further samples are soon gone."""
    if name == "victoria":
        flags = (
            *VICTORIA_FLAGS,
            "-search.latencyOffset=0s",
            f"-search.maxStalenessInterval={LOOKBACK}",
        )
        with (
            VictoriaMetrics(folder, flags) as server,
            Vmalert(folder, server.url, [rules], delay="3s"),
        ):
            yield server
        return
    flags = (f"--query.lookback-delta={LOOKBACK}",)
    settings: dict[str, Any] = {}
    if name in RECEIVERS:
        flags = (*flags, "--web.enable-otlp-receiver")
        settings = {"otlp": shipped("prometheus-otlp.yml")["otlp"]}
    with Prometheus(
        folder,
        ("created-timestamp-zero-ingestion",),
        rules=[rules],
        release=RELEASES[name],
        flags=flags,
        settings=settings,
    ) as prometheus:
        yield prometheus


@contextmanager
def running(linger: float = 0.0, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a job; yield its process and the address of its endpoint."""
    with subprocess.Popen(
        [sys.executable, JOB, "0", str(linger)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as job:
        assert job.stdout is not None
        try:
            yield job, job.stdout.readline().strip()
        finally:
            job.kill()


def end(job: subprocess.Popen[str]) -> None:
    """Let a job end as it should."""
    assert job.stdin is not None
    job.stdin.close()
    assert job.wait(60) == 0


def test_only_jobs_that_die_are_reported_as_down(servers: Servers) -> None:
    """A job that ends, with or without a last scrape, raises no alert; one that is killed does."""
    engine = servers.engine
    with running() as (short, a), running(30) as (waits, b), running(30) as (dies, c):
        jobs = {"short": a, "waits": b, "dies": c}
        for job, url in jobs.items():
            engine.add_target(url, job=job)
        for job in jobs:
            engine.wait_for(f'genmeter_job_finished{{job="{job}"}} == 0')
        end(short)
        end(waits)
        dies.kill()
        servers.wait_for_alert("dies", "MonitorTargetDown", target="down")
        for job in ("short", "waits"):
            assert engine.query(f'sum by (job) (up{{job="{job}"}}) == 0')
            assert not engine.query(f'last_over_time(ALERTS{{job="{job}"}}[5m])')


def test_a_process_that_is_killed_and_replaced_is_reported(servers: Servers) -> None:
    """Service discovery drops the target of a dead pod, and adds that of its replacement."""
    engine = servers.engine
    with running() as (old, url):
        instance = engine.add_target(url, job="replaced")
        engine.wait_for('genmeter_job_finished{job="replaced"} == 0')
        old.kill()
        engine.remove_target(instance)
        with running() as (_, new):
            engine.add_target(new, job="replaced")
            servers.wait_for_alert("replaced", "MonitorTargetDown", target="lost")
            engine.wait_for(FIRING % "replaced", lambda found: not found, 60)


@pytest.mark.parametrize("way", ["collector", "otlp"])
def test_a_job_that_pushes_and_is_killed_is_reported(servers: Servers, way: str) -> None:
    """One that ends pushes once more, which says that it is finished."""
    if way == "otlp" and servers.receiver is None:
        return  # as test_debians_prometheus_has_no_otlp_receiver says
    pushes = {job: pushing(servers, way, job) for job in ("dies-pushing", "ends-pushing")}
    with (
        running(**pushes["dies-pushing"]) as (dies, _),
        running(**pushes["ends-pushing"]) as (ends, _),
    ):
        for job in pushes:
            servers.engine.wait_for(f'genmeter_job_finished{{job="{job}"}} == 0')
        end(ends)
        dies.kill()
        servers.wait_for_alert("dies-pushing", "MonitorPushStopped")
        gone = 'genmeter_job_finished{job="ends-pushing"}'
        servers.engine.wait_for(gone, lambda found: not found)
        assert servers.engine.query(f"last_over_time({gone}[5m]) == 1")
        assert not servers.engine.query('last_over_time(ALERTS{job="ends-pushing"}[5m])')


def pushing(servers: Servers, way: str, job: str) -> dict[str, str]:
    """Return the variables of a job that pushes to the Collector or to the engine itself."""
    variables = servers.collector.environment("http/protobuf", job)
    if way == "otlp":
        assert servers.receiver is not None
        variables["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = servers.receiver
    return {**variables, "OTEL_METRIC_EXPORT_INTERVAL": "500"}


def test_a_collector_that_dies_is_reported(servers: Servers) -> None:
    """So are the jobs that push to it, which Alertmanager inhibits then."""
    with running(**pushing(servers, "collector", "pushes")):
        servers.engine.wait_for('genmeter_job_finished{job="pushes"} == 0')
        assert not servers.engine.query(FIRING % "collector")
        servers.collector.stop()
        servers.wait_for_alert("collector", "MonitorCollectorDown")
        servers.wait_for_alert("pushes", "MonitorPushStopped")
        servers.collector.start_again()
        for job in ("collector", "pushes"):
            servers.engine.wait_for(FIRING % job, lambda found: not found)
