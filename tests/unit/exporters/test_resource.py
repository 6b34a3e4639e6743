"""The resource of a process, and the job that its metrics and alerts belong to."""

from __future__ import annotations

import multiprocessing
import os

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.exporters import resource as resource_module
from genmeter.exporters.resource import job_of, resource_from_env
from genmeter.monitor import GenerationMonitor
from genmeter.testing import fresh_runtime, isolated_monitor

ID = "service.instance.id"


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an instance id in the environment."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{ID}=pod-1,service.name=s")


@pytest.mark.usefixtures("pod")
def test_the_main_process_keeps_the_instance_id_of_the_environment() -> None:
    """The user's name for the instance is used unchanged."""
    assert resource_from_env().attributes[ID] == "pod-1"


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize("start", ["multiprocessing", "fork"])
def test_a_child_adds_a_suffix_to_the_instance_id(
    monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """Children share the variable, and must not push the same series."""
    if start == "multiprocessing":
        monkeypatch.setattr(multiprocessing, "parent_process", object)
    ids = []
    for pid in (11, 12, 12):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        ids.append(str(resource_from_env().attributes[ID]))
    assert all(each.startswith("pod-1-") for each in ids)
    assert ids[0] != ids[1]
    assert ids[1] == ids[2]


@pytest.mark.usefixtures("pod")
def test_a_forked_child_keeps_attributes_and_changes_its_id() -> None:
    """Only the instance id and the process id differ from the parent's."""
    parent = Resource({"service.name": "s", ID: "pod-1-parent", "process.pid": 1})
    child = resource_from_env(parent).attributes
    assert child["service.name"] == "s"
    assert str(child[ID]).startswith("pod-1-")
    assert child[ID] != "pod-1-parent"
    assert child["process.pid"] == os.getpid()


def test_a_failing_resource_detector_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The attributes of the environment stay, and a warning names the detectors."""

    def fail() -> Resource:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(resource_module.Resource, "create", fail)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "s")
    found = resource_from_env().attributes
    assert found["service.name"] == "s"
    assert ID in found
    assert "resource detectors failed" in caplog.text


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
def test_the_job_is_the_service_name(attributes: dict[str, str], job: str) -> None:
    """The job is spelled as Prometheus does for OTLP; it defaults to the shipped scrape job."""
    provider = MeterProvider(resource=Resource(attributes), shutdown_on_exit=False)
    assert job_of(provider) == job
    provider.shutdown()


def test_a_provider_without_a_readable_resource_uses_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The standard variables name the job then."""
    assert job_of(metrics.NoOpMeterProvider()) == "genmeter"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=texts")
    assert job_of(metrics.NoOpMeterProvider()) == "texts/nightly"


def test_alerts_have_the_job_of_their_meter_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the built-in provider and the application's set the label ``job`` of an alert."""
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
