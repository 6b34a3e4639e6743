"""The endpoint's settings, from the configuration to the page."""

from __future__ import annotations

import ssl
import urllib.request
from typing import TYPE_CHECKING

import pytest
import trustme

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

HANG = 60


@pytest.fixture(autouse=True)
def runtime() -> Iterator[None]:
    """Isolate the monitors of each test."""
    with fresh_runtime():
        yield


def scraped(
    monitor: AbstractContextManager[GenerationMonitor], context: ssl.SSLContext | None = None
) -> str:
    """Record a call, and return the OpenMetrics page of the monitor's endpoint."""
    with monitor as used:
        used.track_generation(0.1, True, model_name="m")
        request = urllib.request.Request(  # noqa: S310, our own URL
            used.endpoint_url, headers={"Accept": "application/openmetrics-text"}
        )
        with urllib.request.urlopen(request, timeout=HANG, context=context) as response:  # noqa: S310
            return str(response.read().decode())


def monitor_with(endpoint: EndpointConfig) -> GenerationMonitor:
    """Return a monitor with these endpoint settings."""
    return GenerationMonitor(metrics_interval=None, config=MonitorConfig(endpoint=endpoint))


@pytest.mark.parametrize(
    ("variable", "setting", "expected"),
    [
        (None, None, True),
        (None, False, False),
        ("true", None, False),
        ("true", True, True),
        ("false", None, True),
    ],
)
def test_created_series_are_configurable(
    variable: str | None,
    setting: bool | None,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code wins over prometheus_client's variable; the default is on."""
    if variable is not None:
        monkeypatch.setenv("PROMETHEUS_DISABLE_CREATED_SERIES", variable)
    page = scraped(monitor_with(EndpointConfig(port=0, created_series=setting)))
    assert "genmeter_generations_total{" in page
    assert ("genmeter_generations_created{" in page) is expected


def test_a_client_certificate_may_be_required(tmp_path: Path) -> None:
    """With client_ca_file only clients with a certificate get the page."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    endpoint = EndpointConfig(
        port=0, certfile=str(tmp_path / "server.pem"), client_ca_file=str(tmp_path / "ca.pem")
    )
    for certificate in (None, authority.issue_cert("prometheus")):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if certificate is None:
            with pytest.raises(OSError, match=r"alert|reset|closed|pipe|EOF"):
                scraped(monitor_with(endpoint), context)
        else:
            certificate.configure_cert(context)
            assert "genmeter_generations_total{" in scraped(monitor_with(endpoint), context)
