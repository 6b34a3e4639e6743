"""The endpoint of a process: when it is bound, and when it is not."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import pytest
from _runtimes import ANY_PORT, OFF, monitor_of, page_of, record, scrape, value, warnings_of

from _ports import free_port
from genmeter import ConfigError, EndpointConfig, GenerationMonitor, MonitorConfig, runtime
from genmeter.errors import EndpointError
from otlp_receiver import HttpReceiver

# --- the endpoint --------------------------------------------------------------------------------


def test_endpoint_is_bound_at_the_first_event(caplog: pytest.LogCaptureFixture) -> None:
    """Then one line logs the URL."""
    caplog.set_level(logging.INFO, logger="genmeter")
    port = os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"]
    monitor = GenerationMonitor()
    monitor.flush()
    monitor.get_total_token_usage()
    assert monitor.endpoint_url is None
    record(monitor).flush()
    assert monitor.endpoint_url == f"http://127.0.0.1:{port}/metrics"
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1
    monitor.shutdown()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"metrics are served at http://127.0.0.1:{port}/metrics"]


@pytest.mark.parametrize("name", ["enabled", "host", "port"])
def test_endpoint_enabled_in_code_is_bound_at_once(name: str) -> None:
    """``enabled``, ``host`` or ``port`` in code bind it before any event."""
    asked: dict[str, Any] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    monitor = GenerationMonitor(
        config=MonitorConfig(endpoint=EndpointConfig(**{name: asked[name]}))
    )
    assert "genmeter_build_info" in scrape(monitor.endpoint_url)


def test_port_in_use_set_in_code_is_an_error() -> None:
    """The constructor raises, and leaves no state for a second attempt."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"port {port}"):
            monitor_of(endpoint=EndpointConfig(port=port))
    assert monitor_of(endpoint=ANY_PORT).endpoint_url is not None


def test_port_in_use_set_in_the_environment_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on without an endpoint; no other port is tried."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        monitor = GenerationMonitor()
        for _ in range(3):
            record(monitor).flush()
        assert monitor.endpoint_url is None
        assert monitor.get_total_token_usage().total_tokens == 3
        monitor.shutdown()
    (warning,) = warnings_of(caplog)
    assert warning.startswith("metrics are not served yet, the job goes on and tries again:")
    assert f"port {port}" in warning
    assert "choose another port" in warning


def test_endpoint_beyond_loopback_logs_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves, and the log explains the risk."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0")
    monitor = record(GenerationMonitor())
    monitor.flush()
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1
    monitor.shutdown()
    (warning,) = warnings_of(caplog)
    assert "beyond this machine" in warning


@pytest.mark.parametrize("is_child", [False, True])
def test_invalid_variable_is_a_warning(
    process: runtime.Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_child: bool,
) -> None:
    """The constructor names the variable and valid values, in children too."""
    process._is_child = is_child
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus,otpl")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "tcp://10.0.0.1:9464")
    GenerationMonitor().shutdown()
    name, port = warnings_of(caplog)[:2]
    assert "'otpl' in OTEL_METRICS_EXPORTER" in name
    assert "OTEL_EXPORTER_PROMETHEUS_PORT: must be a whole number from 0 to 65535" in port


def test_endpoint_disabled_in_code_stays_off(process: runtime.Runtime) -> None:
    """The page can still be mounted elsewhere."""
    monitor = record(monitor_of(endpoint=OFF))
    monitor.flush()
    assert monitor.endpoint_url is None
    assert value(page_of(process), "genmeter_generations_total") == 1


@pytest.mark.parametrize("exporters", ["none", "console"])
def test_endpoint_needs_the_prometheus_exporter(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, exporters: str
) -> None:
    """``OTEL_METRICS_EXPORTER`` without ``prometheus`` means no endpoint and no page."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", exporters)
    monitor = record(GenerationMonitor())
    assert monitor.get_total_token_usage().total_tokens == 1
    assert monitor.endpoint_url is None
    with pytest.raises(ConfigError, match="OTEL_METRICS_EXPORTER"):
        process.render(openmetrics=False)


def test_endpoint_in_code_overrides_the_exporter_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``EndpointConfig(port=...)`` serves though ``OTEL_METRICS_EXPORTER`` is ``none``."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monitor = record(monitor_of(endpoint=ANY_PORT))
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1


@pytest.mark.parametrize("endpoint", [EndpointConfig(), ANY_PORT])
def test_disabled_sdk_exports_nothing(
    monkeypatch: pytest.MonkeyPatch, endpoint: EndpointConfig
) -> None:
    """``OTEL_SDK_DISABLED`` disables all exporters, also those set in code; reports work."""
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_SDK_DISABLED", " True ")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus,otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monitor = record(GenerationMonitor(config=MonitorConfig(endpoint=endpoint)))
        assert monitor.get_total_token_usage().total_tokens == 1
        assert monitor.endpoint_url is None
        monitor.shutdown()
        assert receiver.requests == []


def test_child_process_with_the_sdks_provider_binds_no_fixed_port(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens, even if the code sets the port: its metrics are not combined."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "always_on")
    process._is_child = True
    monitor = record(monitor_of(endpoint=EndpointConfig(port=free_port())))
    monitor.flush()
    assert monitor.endpoint_url is None


@pytest.mark.parametrize("is_in_code", [False, True])
def test_child_process_may_bind_a_free_port(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, is_in_code: bool
) -> None:
    """With port 0 each process has its own endpoint."""
    process._is_child = True
    if not is_in_code:
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    monitor = record(monitor_of(endpoint=ANY_PORT if is_in_code else EndpointConfig()))
    monitor.flush()
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1
