"""What the tests of a process's runtime share: monitors, calls, and pages."""

from __future__ import annotations

import logging
import urllib.request
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from _waiting import PATIENCE
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig, runtime
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    import pytest

    from genmeter.exporters._http import ScrapeServer
    from otlp_receiver import HttpReceiver

__all__ = [
    "ANY_PORT",
    "OFF",
    "foreign",
    "monitor_of",
    "page_of",
    "pushes_to",
    "record",
    "scrape",
    "server_of",
    "value",
    "warnings_of",
]

OFF = EndpointConfig(enabled=False)
ANY_PORT = EndpointConfig(port=0)


def monitor_of(**settings: Any) -> GenerationMonitor:
    """Create a monitor with defaults, without an endpoint unless configured."""
    settings.setdefault("endpoint", OFF)
    return GenerationMonitor(config=MonitorConfig(**settings))


def record(monitor: GenerationMonitor, tokens: int = 1) -> GenerationMonitor:
    """Record one call."""
    monitor.track_generation(
        0.1, True, model_name="m", prompt_token_count=tokens, completion_token_count=0
    )
    return monitor


def scrape(url: str | None) -> str:
    """Return a page."""
    assert url is not None
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310, a loopback URL
        page: str = answer.read().decode()
        return page


def value(page: str, name: str, **labels: str) -> float:
    """Sum the samples of a series on a page."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def page_of(process: runtime.Runtime) -> str:
    """Render the page of a scrape."""
    return process.render(openmetrics=False).decode()


def server_of(process: runtime.Runtime) -> ScrapeServer:
    """Return the server of the endpoint."""
    assert process._exporters is not None
    assert process._exporters.server is not None
    return process._exporters.server


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings logged so far."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def pushes_to(receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have monitors push to a receiver, at their end or when asked."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")


def foreign() -> tuple[MeterProvider, PrometheusReader]:
    """Create a provider of the application, and its reader."""
    reader = PrometheusReader()
    return MeterProvider(metric_readers=[reader], shutdown_on_exit=False), reader
