"""What the servers for alerts are told arrives where the tests look for it."""

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

# The user `prometheus` with the password `secret`; a low cost, so that no request waits for it.
USERS = {"prometheus": "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"}
TIMINGS = {"group_wait", "group_interval"}


def alert(name: str, job: str, severity: str = "warning", **fields: str) -> dict[str, Any]:
    """An alert as a client posts it."""
    return {"labels": {"alertname": name, "job": job, "severity": severity}, **fields}


def without_timings(route: dict[str, Any]) -> dict[str, Any]:
    """A route and those below it, but for how long they wait."""
    kept = {key: value for key, value in route.items() if key not in TIMINGS}
    return kept | {"routes": [without_timings(child) for child in route.get("routes", [])]}


def test_an_alert_arrives_firing_and_resolved(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """An alert that is posted to Alertmanager reaches the receiver, and so does its end."""
    alertmanager.post([alert("Probe", "posted")])
    assert webhook.wait_for_alert("firing", job="posted").receiver == "chat"
    assert webhook.told("resolved", job="posted") == []
    alertmanager.post([alert("Probe", "posted", endsAt=datetime.now(UTC).isoformat())])
    assert webhook.wait_for_alert("resolved", job="posted").labels["alertname"] == "Probe"
    assert alertmanager.wait_for(lambda found: not found, job="posted") == []


def test_a_critical_alert_pages(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """The shipped routes are in force: who is told depends on the severity."""
    alertmanager.post([alert("Probe", "paged", "critical"), alert("Other", "paged", "info")])
    assert webhook.wait_for_alert("firing", job="paged").receiver == "page"
    held = alertmanager.wait_for(lambda found: len(found) == 2, job="paged")
    assert {a["labels"]["severity"]: a["receivers"] for a in held} == {
        "critical": [{"name": "page"}],
        "info": [{"name": "nobody"}],
    }


def test_an_inhibited_alert_is_not_told(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """The shipped inhibitions are in force for alerts that start together."""
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
    assert webhook.told(job="inhibited", alertname="GenerationSuccessRateLow") == []


def test_a_silenced_alert_is_held_back(alertmanager: Alertmanager, webhook: Webhook) -> None:
    """A silence holds back the alerts that have its labels, and no others."""
    silence = alertmanager.silence({"job": "silenced", "alertname": "Probe"})
    alertmanager.post([alert("Probe", "silenced"), alert("Other", "silenced")])
    webhook.wait_for_alert("firing", job="silenced", alertname="Other")
    (held,) = alertmanager.alerts(job="silenced", alertname="Probe")
    assert held["status"]["silencedBy"] == [silence]
    assert webhook.told(job="silenced", alertname="Probe") == []


def test_a_wait_for_an_alert_says_what_came(webhook: Webhook) -> None:
    """A wait that ends in vain fails the test."""
    with pytest.raises(AssertionError, match="not notified as expected within 0 s"):
        webhook.wait_for_alert("firing", timeout=0, job="nobody's")


def test_alertmanager_behind_tls_auth_and_a_prefix(tmp_path: Path, webhook: Webhook) -> None:
    """An Alertmanager can ask for TLS and basic auth, and have its pages under a prefix."""
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


def test_only_timings_and_addresses_differ_from_what_ships(webhook: Webhook) -> None:
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


def test_a_rule_fires_through_to_the_receiver(
    tmp_path: Path, alertmanager: Alertmanager, webhook: Webhook
) -> None:
    """What a rule file says reaches the receiver through both servers, and so does its end."""
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
        told = webhook.wait_for_alert("firing", job="ruled")
        assert (told.receiver, told.annotations) == ("page", {"summary": "ruled is 0"})
        (firing,) = server.alerts()
        assert (firing["labels"]["instance"], firing["state"]) == (instance, "firing")
        assert [(found["name"], found["health"]) for found in server.rules()] == [("Down", "ok")]
        server.remove_target(instance)
        webhook.wait_for_alert("resolved", job="ruled")
        assert server.alerts() == []


def test_the_shipped_rules_load(alerting_stack: AlertingStack) -> None:
    """Prometheus has every rule of the shipped file, and the Alertmanager to tell."""
    groups = yaml.safe_load((SHIPPED / "rules.yml").read_text())["groups"]
    shipped = [rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]]
    assert sorted(found["name"] for found in alerting_stack.prometheus.rules()) == sorted(shipped)


def test_pint_tells_good_rules_from_bad(tmp_path: Path) -> None:
    """Pint, which `make servers` installs, refuses a rule whose template names a lost label."""
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


def test_dashboard_linter_runs(tmp_path: Path) -> None:
    """Dashboard-linter, which `make servers` installs, refuses a panel without a title."""
    dashboard = tmp_path / "dashboard.json"
    dashboard.write_text('{"title": "probe", "panels": [{"id": 1, "type": "timeseries"}]}')
    checked = run(program("dashboard-linter"), "lint", "--strict", dashboard)
    assert checked.returncode != 0
    assert "missing title" in checked.stdout
