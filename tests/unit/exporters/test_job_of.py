"""The job that a provider's metrics, and so the alerts of its monitors, are of."""

from __future__ import annotations

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.exporters.provider import job_of
from genmeter.monitor import GenerationMonitor
from genmeter.testing import fresh_runtime, isolated_monitor


@pytest.mark.parametrize(
    ("attributes", "job"),
    [
        ({"service.name": "nightly"}, "nightly"),
        ({"service.name": "nightly", "service.namespace": "texts"}, "texts/nightly"),
        ({"service.name": "unknown_service"}, "genmeter"),
        ({"service.name": "unknown_service:python", "service.namespace": "texts"}, "genmeter"),
        ({"service.name": ""}, "genmeter"),
        ({}, "genmeter"),
    ],
)
def test_the_job_is_the_services_name(attributes: dict[str, str], job: str) -> None:
    """It is spelled as Prometheus spells it for OTLP; without one, as the shipped scrape job is."""
    provider = MeterProvider(resource=Resource(attributes), shutdown_on_exit=False)
    assert job_of(provider) == job
    provider.shutdown()


def test_a_provider_that_hides_its_resource_has_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing can be read, the standard variables say it."""
    assert job_of(metrics.NoOpMeterProvider()) == "genmeter"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=texts")
    assert job_of(metrics.NoOpMeterProvider()) == "texts/nightly"


def test_our_own_provider_and_a_given_one_name_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert has the job of the provider that its monitor's metrics go to."""
    jobs: list[str] = []
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    with fresh_runtime():
        monitor = GenerationMonitor(
            alert_handlers=[lambda alert: jobs.append(alert.labels["job"])],
            metrics_interval=0,
            config=MonitorConfig(endpoint=EndpointConfig(enabled=False)),
        )
        monitor.track_generation(1.0, False)
        monitor.check_alerts()
        monitor.shutdown()
    with isolated_monitor(
        alert_handlers=[lambda alert: jobs.append(alert.labels["job"])], metrics_interval=0
    ) as given:
        given.track_generation(1.0, False)
        given.check_alerts()
    assert jobs == ["nightly", "nightly", "genmeter", "genmeter"]
