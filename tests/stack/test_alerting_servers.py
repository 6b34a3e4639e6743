"""The servers for alerts and their fakes work as the tests expect."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from _alerting import SHIPPED, shipped_alertmanager_config
from _alertmanager import Alertmanager
from _prometheus import Prometheus
from _servers import free_port, program, request, run

if TYPE_CHECKING:
    from pathlib import Path

    from _alerting import AlertingStack
    from _webhook import Webhook

# The user `prometheus` with the password `secret`, at a low cost, so that requests are fast.
USERS = {"prometheus": "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"}
TIMINGS = {"group_wait", "group_interval"}


def alert(name: str, job: str, severity: str = "warning", **fields: str) -> dict[str, Any]:
    """Return an alert for a post."""
    return {"labels": {"alertname": name, "job": job, "severity": severity}, **fields}


def without_timings(route: dict[str, Any]) -> dict[str, Any]:
    """Return a route and its children, without waits."""
    kept = {key: value for key, value in route.items() if key not in TIMINGS}
    return kept | {"routes": [without_timings(child) for child in route.get("routes", [])]}


def test_alertmanager_delivers_firing_and_resolved_alerts(
    alertmanager: Alertmanager, webhook: Webhook
) -> None:
    """An alert posted to Alertmanager reaches the receiver, and so does its end."""
    alertmanager.post([alert("Probe", "posted")])
    assert webhook.wait_for_alert("firing", job="posted").receiver == "chat"
    assert webhook.alerts("resolved", job="posted") == []
    alertmanager.post([alert("Probe", "posted", endsAt=datetime.now(UTC).isoformat())])
    assert webhook.wait_for_alert("resolved", job="posted").labels["alertname"] == "Probe"
    assert alertmanager.wait_for(lambda found: not found, job="posted") == []


def test_critical_alerts_page(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """The shipped routes are used: the receiver depends on the severity."""
    alertmanager.post([alert("Probe", "paged", "critical"), alert("Other", "paged", "info")])
    assert webhook.wait_for_alert("firing", job="paged").receiver == "page"
    held = alertmanager.wait_for(lambda found: len(found) == 2, job="paged")
    assert {a["labels"]["severity"]: a["receivers"] for a in held} == {
        "critical": [{"name": "page"}],
        "info": [{"name": "nobody"}],
    }


def test_inhibited_alerts_are_not_sent(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """The shipped inhibitions are used for alerts that start together."""
    alertmanager.post(
        [
            alert("GenerationSuccessRateLow", "inhibited"),
            alert("GenerationErrorRateHigh", "inhibited", "critical"),
            alert("Probe", "inhibited"),
        ]
    )
    for name in ("GenerationErrorRateHigh", "Probe"):
        webhook.wait_for_alert("firing", job="inhibited", alertname=name)
    (held,) = alertmanager.wait_for(
        lambda found: bool(found) and found[0]["status"]["state"] == "suppressed",
        job="inhibited",
        alertname="GenerationSuccessRateLow",
    )
    assert len(held["status"]["inhibitedBy"]) == 1
    assert webhook.alerts(job="inhibited", alertname="GenerationSuccessRateLow") == []


def test_silenced_alerts_are_not_sent(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """A silence mutes only alerts that have its labels."""
    silence = alertmanager.silence({"job": "silenced", "alertname": "Probe"})
    alertmanager.post([alert("Probe", "silenced"), alert("Other", "silenced")])
    webhook.wait_for_alert("firing", job="silenced", alertname="Other")
    (held,) = alertmanager.alerts(job="silenced", alertname="Probe")
    assert held["status"]["silencedBy"] == [silence]
    assert webhook.alerts(job="silenced", alertname="Probe") == []


def test_failed_wait_lists_the_received_alerts(webhook: Webhook) -> None:
    """A wait that times out fails the test."""
    with pytest.raises(AssertionError, match="not notified as expected within 0 s"):
        webhook.wait_for_alert("firing", timeout=0, job="nobody's")


def test_alertmanager_works_with_tls_auth_and_a_prefix(tmp_path: Path, webhook: Webhook) -> None:
    """The fake requires TLS and basic auth, and has its pages below a prefix."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    guard = {
        "tls_server_config": {
            "cert_file": str(tmp_path / "cert.pem"),
            "key_file": str(tmp_path / "key.pem"),
        },
        "basic_auth_users": USERS,
    }
    with Alertmanager(
        tmp_path,
        shipped_alertmanager_config(webhook),
        path_prefix="/alerts",
        web_config=guard,
        auth=("prometheus", "secret"),
        ca=tmp_path / "ca.pem",
    ) as server:
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+/alerts", server.url)
        server.post([alert("Probe", "guarded")])
        assert webhook.wait_for_alert("firing", job="guarded").receiver == "chat"
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert request("GET", f"{server.url}/api/v2/alerts", tls=trust)[0] == 401


def test_only_timings_and_addresses_differ_from_the_shipped_configuration(webhook: Webhook) -> None:
    """The quick configuration has the shipped routes, receivers and inhibitions."""
    shipped = yaml.safe_load((SHIPPED / "alertmanager.yml").read_text())
    quick = shipped_alertmanager_config(webhook)
    assert without_timings(quick["route"]) == without_timings(shipped["route"])
    assert quick["inhibit_rules"] == shipped["inhibit_rules"]
    urls = {
        receiver["name"]: [target.pop("url") for target in receiver.get("webhook_configs", [])]
        for receiver in quick["receivers"]
    }
    assert urls == {
        "page": [webhook.url_of("page")],
        "chat": [webhook.url_of("chat")],
        "nobody": [],
    }
    for receiver in shipped["receivers"]:
        for target in receiver.get("webhook_configs", []):
            del target["url"]
    assert quick["receivers"] == shipped["receivers"]


def test_firing_rule_reaches_the_receiver(
    tmp_path: Path, alertmanager: Alertmanager, webhook: Webhook
) -> None:
    """An alert of a rule file reaches the receiver through both servers, and so does its end."""
    rule = {
        "alert": "Down",
        "expr": 'up{job="ruled"} == 0',
        "labels": {"severity": "critical"},
        "annotations": {"summary": "{{ $labels.job }} is {{ $value }}"},
    }
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "probe", "rules": [rule]}]}))
    with Prometheus(tmp_path, rules=[rules], alertmanagers=[alertmanager.url]) as server:
        instance = server.add_target(f"http://127.0.0.1:{free_port()}/metrics", job="ruled")
        sent = webhook.wait_for_alert("firing", job="ruled")
        assert (sent.receiver, sent.annotations) == ("page", {"summary": "ruled is 0"})
        (firing,) = server.alerts()
        assert (firing["labels"]["instance"], firing["state"]) == (instance, "firing")
        assert [(found["name"], found["health"]) for found in server.rules()] == [("Down", "ok")]
        server.remove_target(instance)
        webhook.wait_for_alert("resolved", job="ruled")
        assert server.alerts() == []


def test_shipped_rules_load(alerting_stack: AlertingStack) -> None:
    """Prometheus has every rule of the shipped file, and an Alertmanager."""
    groups = yaml.safe_load((SHIPPED / "rules.yml").read_text())["groups"]
    shipped = [rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]]
    assert sorted(found["name"] for found in alerting_stack.prometheus.rules()) == sorted(shipped)


def test_pint_rejects_invalid_rules(tmp_path: Path) -> None:
    """Pint, installed by `make servers`, rejects a rule whose template names a lost label."""
    found = {}
    for name, label in (("good", "job"), ("bad", "model")):
        rules = tmp_path / f"{name}.yml"
        rule = {
            "alert": "Probe",
            "expr": "sum by (job) (rate(probe_total[5m])) > 1",
            "annotations": {"summary": f"{{{{ $labels.{label} }}}}"},
        }
        rules.write_text(yaml.safe_dump({"groups": [{"name": "probe", "rules": [rule]}]}))
        found[name] = run(program("pint"), "--offline", "lint", rules).returncode
    assert found["good"] == 0
    assert found["bad"] != 0


def test_dashboard_linter_rejects_invalid_dashboards(tmp_path: Path) -> None:
    """Dashboard-linter, installed by `make servers`, rejects a panel without a title."""
    dashboard = tmp_path / "dashboard.json"
    dashboard.write_text('{"title": "probe", "panels": [{"id": 1, "type": "timeseries"}]}')
    checked = run(program("dashboard-linter"), "lint", "--strict", dashboard)
    assert checked.returncode != 0
    assert "missing title" in checked.stdout
