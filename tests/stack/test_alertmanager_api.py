"""Alerts that a job posts directly to a real Alertmanager, without a Prometheus."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import trustme
from _alertmanager import Alertmanager
from _servers import LOOPBACK, free_port, poll

from genmeter import (
    AlertmanagerHandler,
    AlertOverride,
    AlertSettings,
    EndpointConfig,
    GenerationMonitor,
    MonitorConfig,
)
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from _webhook import Webhook

INTERVAL = 0.2
SILENT = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
NAME = "GenerationErrorRateHigh"
USER, PASSWORD = "prometheus", "secret"
# bcrypt of the password, at its minimum cost.
USERS = {USER: "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"}
SETTINGS = AlertSettings(alerts={NAME: AlertOverride(for_=0, min_samples=1)})


@contextmanager
def job(
    name: str, monkeypatch: pytest.MonkeyPatch, handlers: list[AlertmanagerHandler], **config: Any
) -> Iterator[GenerationMonitor]:
    """Run a job whose calls have all failed, without a scraper."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    settings = MonitorConfig(
        endpoint=EndpointConfig(enabled=False), alerts=SETTINGS, default_model="m", **config
    )
    with (
        fresh_runtime(),
        GenerationMonitor(
            alert_handlers=handlers, metrics_interval=INTERVAL, config=settings
        ) as monitor,
    ):
        for _ in range(5):
            monitor.track_generation(0.1, False, error="boom")
        yield monitor


def ends_at(alertmanager: Alertmanager, **labels: str) -> datetime | None:
    """Return the end of a firing alert; None if it does not fire."""
    found = alertmanager.alerts(alertname=NAME, **labels)
    return datetime.fromisoformat(found[0]["endsAt"]) if found else None


def test_alert_fires_is_extended_and_resolved(
    alertmanager: Alertmanager, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the receiver, fires over many evaluations, and is resolved at once."""
    handler = AlertmanagerHandler([alertmanager.url], labels={"site": "lab"})
    with job("api-resolved", monkeypatch, [handler]) as monitor:
        sent = webhook.wait_for_alert("firing", alertname=NAME, job="api-resolved")
        assert sent.labels == {
            "alertname": NAME,
            "severity": "critical",
            "job": "api-resolved",
            "site": "lab",
        }
        assert sent.annotations.keys() == {"summary", "description"}
        (first,) = alertmanager.wait_for(alertname=NAME, job="api-resolved")
        ends = {first["endsAt"]}

        def look() -> int:
            ends.update(
                each["endsAt"] for each in alertmanager.alerts(alertname=NAME, job="api-resolved")
            )
            return len(ends)

        refreshed, _ = poll(look, lambda count: count >= 4, 30)
        assert refreshed, ends
        (last,) = alertmanager.alerts(alertname=NAME, job="api-resolved")
        assert last["startsAt"] == first["startsAt"]
        assert not webhook.alerts("resolved", alertname=NAME, job="api-resolved")
        for _ in range(100):
            monitor.track_generation(0.1, True)
        webhook.wait_for_alert("resolved", alertname=NAME, job="api-resolved")
        assert ends_at(alertmanager, job="api-resolved") is None


def test_alert_of_a_finished_job_expires(
    alertmanager: Alertmanager, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the shutdown it fires until ``ends_after`` has passed."""
    handler = AlertmanagerHandler([alertmanager.url], ends_after=4)
    with job("api-expires", monkeypatch, [handler]):
        webhook.wait_for_alert("firing", alertname=NAME, job="api-expires")
    end = ends_at(alertmanager, job="api-expires")
    assert end is not None
    assert end.timestamp() > time.time()
    webhook.wait_for_alert("resolved", alertname=NAME, job="api-expires")
    assert time.time() >= end.timestamp()


def test_peer_that_was_down_gets_the_latest_state(
    alertmanager: Alertmanager, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer that is up gets the alert at once, the other one after it has started."""
    late = Alertmanager(tmp_path, SILENT)
    port = free_port()
    monkeypatch.setattr("_alertmanager.free_port", lambda: port)
    handler = AlertmanagerHandler([f"http://{LOOPBACK}:{port}", alertmanager.url])
    with job("api-late", monkeypatch, [handler]):
        webhook.wait_for_alert("firing", alertname=NAME, job="api-late")
        with late:
            assert late.url.endswith(f":{port}")
            (found,) = late.wait_for(alertname=NAME, job="api-late")
            (first,) = alertmanager.alerts(alertname=NAME, job="api-late")
            assert found["startsAt"] == first["startsAt"]


def test_variable_works_with_basic_auth_and_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password in the address are used, below any path."""
    with Alertmanager(
        tmp_path,
        SILENT,
        path_prefix="/team/alerts",
        web_config={"basic_auth_users": USERS},
        auth=(USER, PASSWORD),
    ) as guarded:
        address = guarded.url.replace("://", f"://{USER}:{PASSWORD}@")
        monkeypatch.setenv("GENMETER_ALERTMANAGER_URL", address)
        urls = MonitorConfig.from_env().alertmanager_urls
        with job("api-guarded", monkeypatch, [], alertmanager_urls=urls):
            (found,) = guarded.wait_for(alertname=NAME)
            assert found["labels"]["job"] == "api-guarded"


def test_tls_and_basic_authentication_by_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job trusts the given authority, and authenticates with a password from a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pem = str(tmp_path / "server.pem")
    authority.issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(pem)
    web = {
        "tls_server_config": {"cert_file": pem, "key_file": pem},
        "basic_auth_users": USERS,
    }
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "server").mkdir()
    with Alertmanager(
        tmp_path / "server",
        SILENT,
        web_config=web,
        auth=(USER, PASSWORD),
        ca=tmp_path / "ca.pem",
    ) as server:
        handler = AlertmanagerHandler(
            [server.url],
            ca_file=tmp_path / "ca.pem",
            username=USER,
            password_file=tmp_path / "password",
        )
        with job("api-tls", monkeypatch, [handler]):
            server.wait_for(alertname=NAME, job="api-tls")
