"""State that the monitors of a process share, its start and its end."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import socket
import threading
import urllib.request
from datetime import timedelta
from importlib.metadata import version
from multiprocessing import util as mp_util
from typing import TYPE_CHECKING, Any

import pytest
from _held import held
from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from _waiting import PATIENCE, eventually
from genmeter import (
    ConfigError,
    EndpointConfig,
    GenerationMonitor,
    LabelLimits,
    MonitorConfig,
    __version__,
    process_token_usage,
    runtime,
)
from genmeter.errors import EndpointError
from genmeter.pipeline import exit_hook
from genmeter.schema import indicators
from genmeter.testing import fresh_runtime
from otlp_receiver import HttpReceiver
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.exporters._http import ScrapeServer

OFF = EndpointConfig(enabled=False)
ANY_PORT = EndpointConfig(port=0)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[runtime.Runtime]:
    """Return the runtime of a new process, without monitors and variables."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "GENMETER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(free_port()))
    with fresh_runtime() as fresh:
        yield fresh


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


# --- sharing -------------------------------------------------------------------------------------


def test_monitors_share_their_series(process: runtime.Runtime) -> None:
    """One page sums the events of all monitors; each has its own report."""
    one, other = record(monitor_of(), 1), record(monitor_of(), 2)
    page = page_of(process)
    assert value(page, "genmeter_generations_total", genmeter_outcome="success") == 2
    assert value(page, "genmeter_tokens_total") == 3
    assert one.get_total_token_usage().total_tokens == 1
    assert other.get_total_token_usage().total_tokens == 2
    assert process_token_usage().total_tokens == 3


def test_last_monitor_closes_the_endpoint() -> None:
    """It serves until the last monitor of the process is shut down."""
    one, other = monitor_of(endpoint=ANY_PORT), monitor_of(endpoint=ANY_PORT)
    url = one.endpoint_url
    assert url == other.endpoint_url
    one.shutdown()
    one.shutdown()
    assert "genmeter_build_info" in scrape(url)
    other.shutdown()
    assert other.endpoint_url is None
    with pytest.raises(OSError, match="refused"):
        scrape(url)


def test_ignored_settings_of_later_monitors_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning names each shared setting that differs."""
    monitor_of(limits=LabelLimits(models=7))
    monitor_of(
        limits=LabelLimits(models=8, steps=9),
        prices={"m": {"input": 1, "output": 2}},
        score_scales={"s": (0, 5)},
        older_metric_names=True,
        endpoint=EndpointConfig(enabled=False, linger=3, username="u", password="hidden"),
    )
    (warning,) = warnings_of(caplog)
    assert (
        "ignoring prices, score_scales, older_metric_names, limits.models=8, limits.steps=9, "
        "endpoint.username='u', endpoint.password=another, endpoint.linger=3:"
    ) in warning


def test_default_settings_of_later_monitors_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A later monitor without shared settings logs no warning."""
    monitor_of(
        limits=LabelLimits(models=7), score_scales={"s": (0, 5)}, endpoint=EndpointConfig(linger=1)
    )
    GenerationMonitor(config=MonitorConfig())
    GenerationMonitor()
    assert warnings_of(caplog) == []


def test_settings_of_each_monitor_may_differ(caplog: pytest.LogCaptureFixture) -> None:
    """Default models, expected samples and histories differ without a warning."""
    monitor_of(default_model="a", expected_samples=1)
    monitor_of(default_model="b", expected_samples=2)
    assert warnings_of(caplog) == []


def test_later_history_uses_the_shared_prices_and_scales() -> None:
    """Its alerts see the same cost and scores as the metrics."""
    monitor_of(prices={"m": (1, 2)}, score_scales={"s": (0, 4)})
    later = monitor_of(prices={"m": (100, 200)}, score_scales={"s": (0, 1)})
    later.track_generation(1.0, True, model_name="m", prompt_token_count=1_000_000)
    later.track_evaluation(1.0, True, "judge", {"s": 3.0})
    later.flush()
    history = later._session.history
    for indicator, value in ((indicators.COST, 1.0), (indicators.MEAN_SCORE, 0.75)):
        rows = indicator.query.parts[0].rows
        assert rows is not None
        assert history.window(rows, (), 0.0)[()].sum == value


def test_label_limits_are_shared_by_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """A monitor of another provider logs the ignored limits too."""
    monitor_of(limits=LabelLimits(models=7))
    monitor_of(
        limits=LabelLimits(models=8, combinations=50), meter_provider=MeterProvider(), endpoint=OFF
    )
    (warning,) = warnings_of(caplog)
    assert "ignoring limits.models=8:" in warning


# --- providers ----------------------------------------------------------------------------------


def foreign() -> tuple[MeterProvider, PrometheusReader]:
    """Create a provider of the application, and its reader."""
    reader = PrometheusReader()
    return MeterProvider(metric_readers=[reader], shutdown_on_exit=False), reader


def test_application_provider_gets_the_metrics() -> None:
    """The built-in provider is not created, and shutdown does not end the application's."""
    provider, reader = foreign()
    monitor = record(monitor_of(meter_provider=provider))
    assert monitor.endpoint_url is None
    monitor.shutdown()
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 1
    assert value(page, "genmeter_job_finished") == 1


def test_monitors_share_the_instruments_of_an_application_provider(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The settings of the first monitor apply."""
    provider, reader = foreign()
    record(monitor_of(meter_provider=provider))
    record(monitor_of(meter_provider=provider, score_scales={"s": (0, 5)}))
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 2
    assert value(page, "genmeter_monitor_events_total", genmeter_result="recorded") == 2
    (warning,) = warnings_of(caplog)
    assert "ignoring score_scales:" in warning


def test_each_provider_gets_the_events_of_its_own_monitors(process: runtime.Runtime) -> None:
    """A provider gets the events of its own monitors only."""
    provider, reader = foreign()
    record(monitor_of(meter_provider=provider))
    for _ in range(3):
        record(monitor_of())
    assert value(reader.render(openmetrics=False).decode(), "genmeter_generations_total") == 1
    assert value(page_of(process), "genmeter_generations_total") == 3


def test_builtin_provider_starts_beside_an_application_provider(process: runtime.Runtime) -> None:
    """The endpoint is bound though the pipeline runs already."""
    provider, _ = foreign()
    record(monitor_of(meter_provider=provider)).flush()
    monitor = record(monitor_of(endpoint=EndpointConfig()))
    monitor.flush()
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1


def test_global_provider_gets_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """``"global"`` stands for the application's own provider."""
    provider, reader = foreign()
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: provider)
    record(monitor_of(meter_provider="global"))
    record(monitor_of(meter_provider="global"))
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 2


def test_global_provider_may_be_set_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Monitors created before and after count each event once."""
    stand_in = _ProxyMeterProvider()
    provider, reader = foreign()
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: stand_in)
    early = monitor_of(meter_provider="global")
    stand_in.on_set_meter_provider(provider)
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: provider)
    record(early)
    record(monitor_of(meter_provider="global"))
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 2
    assert value(page, "genmeter_monitor_events_total", genmeter_result="recorded") == 2
    early.shutdown()


def test_application_provider_has_no_page(process: runtime.Runtime) -> None:
    """The page explains why it is empty."""
    monitor_of(meter_provider=MeterProvider())
    with pytest.raises(ConfigError, match="no page: the meter provider is the application's"):
        process.render(openmetrics=False)


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


# --- gauges of the job ---------------------------------------------------------------------------


def test_job_is_finished_after_all_used_monitors_are_shut_down() -> None:
    """``genmeter_job_finished`` is 0 while a monitor with events is open, then 1."""
    provider, reader = foreign()

    def finished() -> float:
        return value(reader.render(openmetrics=False).decode(), "genmeter_job_finished")

    one, other, silent = (monitor_of(meter_provider=provider) for _ in range(3))
    assert finished() == 0
    record(one).shutdown()
    record(other).flush()
    assert finished() == 0
    other.shutdown()
    assert finished() == 1
    silent.shutdown()
    assert finished() == 1


def test_expected_samples_are_summed(process: runtime.Runtime) -> None:
    """``genmeter_job_samples_expected`` is the sum over all monitors, or absent."""
    silent = monitor_of()
    assert "genmeter_job_samples_expected" not in page_of(process)
    jobs = [monitor_of(expected_samples=30), monitor_of(expected_samples=12)]
    assert value(page_of(process), "genmeter_job_samples_expected") == 42
    del silent, jobs
    gc.collect()
    last = monitor_of(expected_samples=100)
    assert value(page_of(process), "genmeter_job_samples_expected") == 142
    last.shutdown()


def test_collected_monitor_counts_as_shut_down(process: runtime.Runtime) -> None:
    """The job is finished without an explicit shutdown."""
    provider, reader = foreign()
    forgotten(1, meter_provider=provider)
    assert eventually(lambda: open_sessions(process) == 0)
    assert value(reader.render(openmetrics=False).decode(), "genmeter_job_finished") == 1


def test_build_info_is_exposed(process: runtime.Runtime) -> None:
    """``genmeter_build_info`` has the versions of genmeter and of the SDK."""
    monitor_of()
    labels = {"version": __version__, "otel_sdk": version("opentelemetry-sdk")}
    assert value(page_of(process), "genmeter_build_info", **labels) == 1


def test_self_metrics_are_exposed(process: runtime.Runtime) -> None:
    """The page has the recorded and rejected events, and the size of the histories."""
    monitor = record(monitor_of())
    monitor.track_generation(float("nan"), True)
    page = page_of(process)
    name = "genmeter_monitor_events_total"
    assert value(page, name, genmeter_result="recorded") == 2
    assert value(page, name, genmeter_result="rejected", genmeter_reason="not_finite") == 1
    assert value(page, "genmeter_monitor_history_size") == 2
    assert value(page, "genmeter_monitor_history_capacity") >= 100_000


def test_overflows_and_failures_are_exposed(process: runtime.Runtime) -> None:
    """Values past a label's limit, failures of a callback and of an exporter are counted."""
    monitor = monitor_of(limits=LabelLimits(models=1))
    record(monitor)
    monitor.track_generation(0.1, True, model_name="another")
    process.self_metrics.count_handler_error("token_usage_callback")
    process.self_metrics.count_export_failure("otlp")
    page = page_of(process)
    assert value(page, "genmeter_monitor_label_overflow_total") == 1
    assert value(page, "genmeter_monitor_handler_errors_total") == 1
    assert value(page, "genmeter_monitor_export_failures_total", genmeter_exporter="otlp") == 1


def test_configured_models_are_exposed_at_0(process: runtime.Runtime) -> None:
    """Both outcomes are on the page before the first event."""
    monitor_of(models=("a", "b"), default_model="c")
    page = page_of(process)
    for model in "abc":
        for outcome in ("success", "failure"):
            assert f'genmeter_outcome="{outcome}"' in page
            assert f'gen_ai_request_model="{model}"' in page
    assert value(page, "genmeter_generations_total") == 0


# --- collected monitors -------------------------------------------------------------------------


def forgotten(tokens: int, **settings: Any) -> None:
    """Create a monitor, record a call, and drop the monitor."""
    record(monitor_of(**settings), tokens)
    gc.collect()


def open_sessions(process: runtime.Runtime) -> int:
    """Count the sessions that are not closed, once the garbage is collected.

    An event that still waits keeps its session, so that one collection may come too early.
    """
    gc.collect()
    return len(process._open_sessions())


def test_process_report_includes_collected_monitors(process: runtime.Runtime) -> None:
    """Their tokens are kept."""
    for _ in range(5):
        forgotten(2)
    assert process_token_usage().total_tokens == 10
    kept = record(monitor_of(), 1)
    forgotten(2)
    assert process_token_usage().total_tokens == 13
    assert process_token_usage().complete
    assert eventually(lambda: open_sessions(process) == len(process._states) == 1)
    assert process_token_usage().total_tokens == 13
    kept.shutdown()
    assert process_token_usage().total_tokens == 13


def test_window_with_a_collected_monitor_is_incomplete(process: runtime.Runtime) -> None:
    """Its events in the window are missing."""
    forgotten(2)
    kept = record(monitor_of(), 1)
    assert eventually(lambda: open_sessions(process) == len(process._states) == 1)
    report = process_token_usage(timedelta(hours=1))
    assert report.total_tokens == 1
    assert not report.complete
    kept.shutdown()


def test_window_after_the_last_collected_monitor_is_complete(process: runtime.Runtime) -> None:
    """None of its events can be in the window."""
    forgotten(2)
    monitor = record(monitor_of(), 1)
    assert eventually(lambda: open_sessions(process) == len(process._states) == 1)
    process._retired._until -= 3_600
    report = process_token_usage(timedelta(minutes=1))
    assert report.total_tokens == 1
    assert report.complete
    monitor.shutdown()


def test_provider_outlives_collected_monitors(process: runtime.Runtime) -> None:
    """The endpoint and its counters continue with the next monitor."""
    forgotten(2, endpoint=ANY_PORT)
    url = process.url()
    assert process_token_usage().total_tokens == 2
    monitor = record(monitor_of(), 3)
    assert monitor.endpoint_url == url
    page = scrape(url)
    assert value(page, "genmeter_tokens_total") == 5
    assert eventually(lambda: open_sessions(process) == 1)


def test_collected_monitor_of_an_application_provider_is_freed(process: runtime.Runtime) -> None:
    """Its history is freed even if it was the last, and its tokens are kept."""
    provider, reader = foreign()
    forgotten(2, meter_provider=provider)
    assert eventually(lambda: open_sessions(process) == len(process._states) == 0)
    assert process_token_usage().total_tokens == 2
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_tokens_total") == 2
    assert value(page, "genmeter_monitor_history_capacity") == 0


def test_report_without_monitors_is_empty() -> None:
    """It creates nothing and raises nothing."""
    assert process_token_usage().total_tokens == 0
    assert process_token_usage().by_model == []


def test_concurrent_reports_count_each_monitor_once(process: runtime.Runtime) -> None:
    """Collected monitors are closed meanwhile."""
    kept = record(monitor_of(), 1)
    for _ in range(20):
        forgotten(1)
    totals: list[int] = []

    def report() -> None:
        totals.extend(process_token_usage().total_tokens for _ in range(10))

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(totals) == {21}
    assert eventually(lambda: open_sessions(process) == 1)
    kept.shutdown()


# --- the end -------------------------------------------------------------------------------------


def test_reads_work_after_shutdown() -> None:
    """The monitor reports its events, and accepts no more."""
    monitor = record(monitor_of(), 5)
    monitor.shutdown()
    record(monitor, 7)
    assert monitor.get_total_token_usage().total_tokens == 5
    assert monitor.get_metrics("success_rate")["count"] == 1
    assert process_token_usage().total_tokens == 5


def test_events_after_shutdown_are_rejected(process: runtime.Runtime) -> None:
    """They are counted by reason, and one warning is logged."""
    monitor = monitor_of()
    monitor.shutdown()
    record(record(monitor))
    assert process.self_metrics.rejected == {"after_shutdown": 2}


def test_monitor_after_the_last_shutdown_starts_at_0(process: runtime.Runtime) -> None:
    """It has a new provider, and an endpoint on the same port."""
    urls = []
    for round_ in range(1, 4):
        monitor = GenerationMonitor()
        for _ in range(round_):
            record(monitor)
        monitor.flush()
        page = scrape(monitor.endpoint_url)
        assert value(page, "genmeter_generations_total") == round_
        urls.append(monitor.endpoint_url)
        monitor.shutdown()
        assert process.url() is None
    assert len(set(urls)) == 1
    assert process_token_usage().total_tokens == 6


def test_monitor_after_the_last_shutdown_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new provider pushes at intervals and at the end."""
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
        for _ in range(2):
            before = len(receiver.requests)
            monitor = record(GenerationMonitor())
            assert receiver.wait_for(lambda before=before: len(receiver.requests) > before)
            monitor.shutdown()
        assert receiver.latest("genmeter.generations")
        assert [count for _, count in receiver.points("genmeter.job.finished")].count(1) == 2


def test_lingering_endpoint_serves_a_last_scrape() -> None:
    """``shutdown`` waits for a scrape that began after it and contains everything."""
    monitor = record(monitor_of(endpoint=EndpointConfig(port=0, linger=PATIENCE)))
    url = monitor.endpoint_url
    scrape(url)
    record(monitor)
    ending = threading.Thread(target=monitor.shutdown)
    ending.start()
    assert eventually(lambda: monitor.endpoint_url is None)
    page = ""

    def whole() -> bool:
        nonlocal page
        page = scrape(url)
        return value(page, "genmeter_job_finished") == 1

    assert eventually(whole)
    ending.join(PATIENCE)
    assert not ending.is_alive()
    assert value(page, "genmeter_generations_total") == 2
    with pytest.raises(OSError, match="refused"):
        scrape(url)


def test_lingering_times_out() -> None:
    """Without a scrape ``shutdown`` ends all the same."""
    monitor = record(monitor_of(endpoint=EndpointConfig(port=0, linger=0.05)))
    monitor.shutdown()
    assert monitor.endpoint_url is None


def test_interrupted_shutdown_is_completed_at_exit(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler's exception loses neither the last push nor the endpoint's end."""
    monitor = record(monitor_of(endpoint=ANY_PORT))
    url = monitor.endpoint_url
    server = server_of(process)
    close = server.close
    errors = iter([SystemExit(0)])

    def interrupted() -> None:
        for error in errors:
            raise error
        close()

    monkeypatch.setattr(server, "close", interrupted)
    with pytest.raises(SystemExit):
        monitor.shutdown()
    assert "genmeter_job_finished" in scrape(url)
    process.exit()
    with pytest.raises(OSError, match="refused"):
        scrape(url)


def test_failing_last_push_is_logged(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither reaches the job nor keeps monitors open."""
    monitor = record(monitor_of())
    monkeypatch.setattr(process._exporters, "finish", lambda timeout: 1 // 0)
    monitor.shutdown()
    (line,) = caplog.records
    assert "the last push or scrape failed" in line.getMessage()
    process.exit()


def test_exit_closes_every_monitor(process: runtime.Runtime) -> None:
    """At the end of the process pending events are drained."""
    monitors = [record(monitor_of(endpoint=ANY_PORT)) for _ in range(3)]
    url = monitors[0].endpoint_url
    process.exit()
    process.exit()
    assert process.self_metrics.recorded == 3
    with pytest.raises(OSError, match="refused"):
        scrape(url)
    assert all(monitor.get_total_token_usage().total_tokens == 1 for monitor in monitors)


def test_shutdown_times_out(process: runtime.Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """If the drain is stuck, the log has the number of pending events."""
    monitor = GenerationMonitor(shutdown_timeout=0.01, config=MonitorConfig(endpoint=OFF))
    record(monitor).flush(timeout=PATIENCE)
    pipeline = process.require_pipeline()
    release, held = threading.Event(), threading.Event()

    def stick() -> None:
        held.set()
        release.wait(PATIENCE)

    sticking = threading.Thread(target=lambda: pipeline.lock.call(stick, None))
    sticking.start()
    assert held.wait(PATIENCE)
    record(monitor)
    monitor.shutdown()
    release.set()
    sticking.join(PATIENCE)
    assert warnings_of(caplog) == ["shutdown timed out with 1 events pending"]


def test_unused_runtime_does_nothing(process: runtime.Runtime) -> None:
    """Hooks and reads work without monitors."""
    process.before_fork()
    process.after_fork_in_parent()
    process.after_fork_in_child()
    assert process.url() is None
    with pytest.raises(AssertionError, match="attach"):
        process.require_pipeline()


# --- fork, as far as one process shows it (tests/process/test_fork.py has the rest) --------------


def test_fork_does_not_wait_forever_for_the_drain(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain may hang in the application's provider."""
    monkeypatch.setattr(runtime, "_FORK_TIMEOUT", 0.01)
    provider, reader = foreign()
    monitor = record(monitor_of(meter_provider=provider))
    lock = process.require_pipeline().lock
    with held(process.require_pipeline()):
        process.before_fork()
        assert not lock.is_mine
        process.after_fork_in_parent()
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 1
    monitor.shutdown()


def test_fork_holds_the_drain_of_an_application_provider(process: runtime.Runtime) -> None:
    """A fork of another runtime does not release its lock."""
    provider, reader = foreign()
    monitor = record(monitor_of(meter_provider=provider))
    others = [runtime.Runtime() for _ in range(3)]
    for each in [*others, process, *others]:
        each.before_fork()
    assert process.require_pipeline().lock.is_mine
    for each in [*others, process, *others]:
        each.after_fork_in_parent()
    assert not process.require_pipeline().lock.is_mine
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 1
    assert monitor.get_total_token_usage().total_tokens == 1


def test_fork_does_not_lock_the_builtin_provider(process: runtime.Runtime) -> None:
    """It has no locks, so a fork does not wait."""
    monitor = record(monitor_of())
    with held(process.require_pipeline()):
        process.before_fork()
        assert not process.require_pipeline().lock.is_mine
        process.after_fork_in_parent()
    assert monitor.get_total_token_usage().total_tokens == 1


def test_child_counts_from_0_and_calls_back(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History, counters and the report of the process start empty, and the callback runs."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")  # so that the child has a page
    seen: list[int] = []
    monitor = GenerationMonitor(
        config=MonitorConfig(endpoint=OFF, default_model="m"),
        token_usage_callback=lambda report: seen.append(report.total_tokens),
        token_usage_callback_interval_seconds=0.01,
    )
    closed = record(monitor_of(), 100)
    closed.shutdown()
    record(monitor, 100).flush()
    process.after_fork_in_child()
    seen.clear()
    record(monitor, 7)
    assert monitor.get_total_token_usage().total_tokens == 7
    assert process_token_usage().total_tokens == 7
    process._rebuild()
    assert value(page_of(process), "genmeter_tokens_total") == 7
    assert eventually(lambda: seen and seen[-1] == 7)
    monitor.shutdown()


def test_exit_of_a_multiprocessing_child_is_hooked(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the end is a finalizer, since atexit does not run."""
    finalizers: list[Any] = []
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    monkeypatch.setattr(
        mp_util, "Finalize", lambda owner, call, exitpriority: finalizers.append(call)
    )
    monkeypatch.setattr(runtime, "_exit_hook", exit_hook.ExitHook(runtime._exit_all))
    record(monitor_of())
    monitor_of()
    (finish,) = finalizers
    finish()
    assert process.self_metrics.recorded == 1
    assert process.url() is None


def test_every_kind_of_event_is_drained(process: runtime.Runtime) -> None:
    """Each method records its own series."""
    monitor = record(monitor_of())
    monitor.track_evaluation(0.1, True, "judge", {"s": 0.5})
    monitor.record_metric("custom", 3)
    monitor.record_sample(True)
    monitor.log_info("a line")
    with monitor.generation(model="m"):
        page = page_of(process)
        assert value(page, "genmeter_generations_active") == 1
    for name in (
        "genmeter_generations_total",
        "genmeter_evaluations_total",
        "genmeter_custom_samples_total",
        "genmeter_samples_total",
        "genmeter_logs_total",
    ):
        assert value(page, name) == 1


def test_new_monitor_in_a_child_shares_the_inherited_provider(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is the child's own."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    inherited = GenerationMonitor()
    process.after_fork_in_child()
    made = GenerationMonitor(config=MonitorConfig(models=("b",)))
    record(inherited, 2)
    record(made, 3)
    page = page_of(process)
    assert value(page, "genmeter_tokens_total") == 5
    assert 'gen_ai_request_model="b"' in page
    assert made.endpoint_url == inherited.endpoint_url is not None


def test_unused_child_does_not_close_the_parents_provider(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither pushes nor closes."""
    monitor = monitor_of()
    finished: list[float] = []
    monkeypatch.setattr(process._exporters, "finish", finished.append)
    process.after_fork_in_child()
    monitor.shutdown()
    process.exit()
    assert finished == []


def test_application_provider_keeps_its_totals_in_a_child(
    process: runtime.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Genmeter cannot reset it, and logs that once."""
    provider, reader = foreign()
    monitor = record(monitor_of(meter_provider=provider), 100)
    monitor.flush()
    process.after_fork_in_child()
    record(record(monitor, 7), 7)
    assert monitor.get_total_token_usage().total_tokens == 14
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_tokens_total") == 114
    monitor.shutdown()
    (warning,) = warnings_of(caplog)
    assert "create a new provider in the child" in warning


# --- settling and hastening ------------------------------------------------------------------------


def test_settling_pushes_and_leaves_the_monitors_open(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything so far arrives, and so does what follows."""
    with HttpReceiver() as receiver:
        pushes_to(receiver, monkeypatch)
        process.settle()  # without a monitor there is nothing to do
        with monitor_of() as monitor:
            for count in (1, 2):
                record(monitor)
                process.settle()
                assert receiver.total("genmeter.generations") == count
        assert receiver.total("genmeter.job.finished") == 1


def test_hastening_pushes_what_is_new(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, and not again before something else was recorded."""
    monkeypatch.setattr(runtime, "_HASTENED_PAUSE", 0.0)
    with HttpReceiver() as receiver:
        pushes_to(receiver, monkeypatch)
        process.hasten()
        with monitor_of() as monitor:
            for count in (1, 2):
                record(monitor)
                monitor.flush()
                process.hasten()
                process.hasten()
                assert receiver.wait_for(lambda: receiver.total("genmeter.generations") == count)  # noqa: B023
            assert len(receiver.requests) == 2


def pushes_to(receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have monitors push to a receiver, at their end or when asked."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
