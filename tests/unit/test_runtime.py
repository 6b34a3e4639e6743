"""What the monitors of a process share, and how it begins and ends."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import urllib.request
from datetime import timedelta
from importlib.metadata import version
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
from genmeter import runtime as exit_hook
from genmeter.errors import EndpointError
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
    """Give a runtime as a new process has it: no monitor yet, nothing in the environment."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "GENMETER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(free_port()))
    with fresh_runtime() as fresh:
        yield fresh


def free_port() -> int:
    """Find a port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def monitor_of(**settings: Any) -> GenerationMonitor:
    """Make a monitor; what is not said is the default, and it listens nowhere unless told to."""
    settings.setdefault("endpoint", OFF)
    return GenerationMonitor(config=MonitorConfig(**settings))


def told(monitor: GenerationMonitor, tokens: int = 1) -> GenerationMonitor:
    """Tell a monitor of one call."""
    monitor.track_generation(
        0.1, True, model_name="m", prompt_token_count=tokens, completion_token_count=0
    )
    return monitor


def scrape(url: str | None) -> str:
    """Get a page."""
    assert url is not None
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310, a loopback URL
        page: str = answer.read().decode()
        return page


def value(page: str, name: str, **labels: str) -> float:
    """Sum the samples of a series of a page."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def page_of(process: runtime.Runtime) -> str:
    """Render what a scrape would get."""
    return process.render(openmetrics=False).decode()


def server_of(process: runtime.Runtime) -> ScrapeServer:
    """Return what serves the endpoint."""
    assert process._exporters is not None
    assert process._exporters.server is not None
    return process._exporters.server


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the texts of the warnings so far."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- sharing -------------------------------------------------------------------------------------


def test_monitors_feed_the_same_series(process: runtime.Runtime) -> None:
    """What all monitors of a process tell is summed in one page, and each has its own report."""
    one, other = told(monitor_of(), 1), told(monitor_of(), 2)
    page = page_of(process)
    assert value(page, "genmeter_generations_total", genmeter_outcome="success") == 2
    assert value(page, "genmeter_tokens_total") == 3
    assert one.get_total_token_usage().total_tokens == 1
    assert other.get_total_token_usage().total_tokens == 2
    assert process_token_usage().total_tokens == 3


def test_the_last_monitor_closes_what_is_shared() -> None:
    """The endpoint serves until the last monitor of the process is shut down."""
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


def test_later_monitors_log_the_shared_settings_that_are_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A later monitor that asks for other shared settings gets a warning that names each of them."""
    monitor_of(limits=LabelLimits(models=7))
    monitor_of(
        limits=LabelLimits(models=8, steps=9),
        prices={"m": {"input": 1, "output": 2}},
        score_scales={"s": (0, 5)},
        endpoint=EndpointConfig(enabled=False, linger=3, username="u", password="hidden"),
    )
    (warning,) = warnings_of(caplog)
    assert (
        "ignoring prices, score_scales, limits.models=8, limits.steps=9, endpoint.username='u', "
        "endpoint.password=another, endpoint.linger=3:"
    ) in warning


def test_defaults_of_a_later_monitor_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A monitor that leaves shared settings alone is not warned about those of the first."""
    monitor_of(
        limits=LabelLimits(models=7), score_scales={"s": (0, 5)}, endpoint=EndpointConfig(linger=1)
    )
    GenerationMonitor(config=MonitorConfig())
    GenerationMonitor()
    assert warnings_of(caplog) == []


def test_what_is_each_monitors_own_may_differ(caplog: pytest.LogCaptureFixture) -> None:
    """Default models, expected samples and histories of two monitors differ without a warning."""
    monitor_of(default_model="a", expected_samples=1)
    monitor_of(default_model="b", expected_samples=2)
    assert warnings_of(caplog) == []


def test_a_later_history_counts_by_the_prices_and_scales_that_hold() -> None:
    """Its alerts see the cost and the scores that the metrics have, whatever it asked for."""
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


def test_label_limits_hold_for_the_whole_process(caplog: pytest.LogCaptureFixture) -> None:
    """Label limits belong to the process, so another provider's monitor is told too."""
    monitor_of(limits=LabelLimits(models=7))
    monitor_of(
        limits=LabelLimits(models=8, combinations=50), meter_provider=MeterProvider(), endpoint=OFF
    )
    (warning,) = warnings_of(caplog)
    assert "ignoring limits.models=8:" in warning


# --- whose provider ------------------------------------------------------------------------------


def foreign() -> tuple[MeterProvider, PrometheusReader]:
    """Make a provider of the application's, and what reads it."""
    reader = PrometheusReader()
    return MeterProvider(metric_readers=[reader], shutdown_on_exit=False), reader


def test_a_provider_that_is_passed_in_gets_the_metrics() -> None:
    """With a provider of the application's, ours is not made, and its end is not ours."""
    provider, reader = foreign()
    monitor = told(monitor_of(meter_provider=provider))
    assert monitor.endpoint_url is None
    monitor.shutdown()
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 1
    assert value(page, "genmeter_job_finished") == 1


def test_monitors_of_one_foreign_provider_share_its_instruments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two monitors on one provider make one set of instruments; the first settings hold."""
    provider, reader = foreign()
    told(monitor_of(meter_provider=provider))
    told(monitor_of(meter_provider=provider, score_scales={"s": (0, 5)}))
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 2
    assert value(page, "genmeter_monitor_events_total", genmeter_result="recorded") == 2
    (warning,) = warnings_of(caplog)
    assert "ignoring score_scales:" in warning


def test_monitors_of_two_providers_are_kept_apart(process: runtime.Runtime) -> None:
    """A provider gets the events of its own monitors only."""
    provider, reader = foreign()
    told(monitor_of(meter_provider=provider))
    for _ in range(3):
        told(monitor_of())
    assert value(reader.render(openmetrics=False).decode(), "genmeter_generations_total") == 1
    assert value(page_of(process), "genmeter_generations_total") == 3


def test_a_provider_of_our_own_starts_beside_one_that_runs(process: runtime.Runtime) -> None:
    """The endpoint is bound though the pipeline began with another provider's monitor."""
    provider, _ = foreign()
    told(monitor_of(meter_provider=provider)).flush()
    monitor = told(monitor_of(endpoint=EndpointConfig()))
    monitor.flush()
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1


def test_the_global_provider_is_used_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``"global"`` the application's own provider gets the metrics."""
    provider, reader = foreign()
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: provider)
    told(monitor_of(meter_provider="global"))
    told(monitor_of(meter_provider="global"))
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 2


def test_the_global_provider_is_one_also_where_it_is_set_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Monitors made before and after the application sets its provider count each event once."""
    stand_in = _ProxyMeterProvider()
    provider, reader = foreign()
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: stand_in)
    early = monitor_of(meter_provider="global")
    stand_in.on_set_meter_provider(provider)
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: provider)
    told(early)
    told(monitor_of(meter_provider="global"))
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 2
    assert value(page, "genmeter_monitor_events_total", genmeter_result="recorded") == 2
    early.shutdown()


def test_there_is_no_page_of_a_foreign_provider(process: runtime.Runtime) -> None:
    """Rendering says why there is nothing to render."""
    monitor_of(meter_provider=MeterProvider())
    with pytest.raises(ConfigError, match="no page: the meter provider is the application's"):
        process.render(openmetrics=False)


# --- the endpoint --------------------------------------------------------------------------------


def test_the_endpoint_is_bound_at_the_first_event(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing listens before the first event; then one line names the URL."""
    caplog.set_level(logging.INFO, logger="genmeter")
    port = os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"]
    monitor = GenerationMonitor()
    monitor.flush()
    monitor.get_total_token_usage()
    assert monitor.endpoint_url is None
    told(monitor).flush()
    assert monitor.endpoint_url == f"http://127.0.0.1:{port}/metrics"
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1
    monitor.shutdown()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"metrics are served at http://127.0.0.1:{port}/metrics"]


@pytest.mark.parametrize("name", ["enabled", "host", "port"])
def test_asked_for_in_code_it_is_bound_at_once(name: str) -> None:
    """With ``enabled``, ``host`` or ``port`` in code it serves before any event."""
    asked: dict[str, Any] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    monitor = GenerationMonitor(
        config=MonitorConfig(endpoint=EndpointConfig(**{name: asked[name]}))
    )
    assert "genmeter_build_info" in scrape(monitor.endpoint_url)


def test_a_taken_port_in_code_is_an_error() -> None:
    """The constructor raises, and leaves nothing behind that a second try would share."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"port {port}"):
            monitor_of(endpoint=EndpointConfig(port=port))
    assert monitor_of(endpoint=ANY_PORT).endpoint_url is not None


def test_a_taken_port_of_the_environment_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on without an endpoint, one line says so, and no other port is tried."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        monitor = GenerationMonitor()
        for _ in range(3):
            told(monitor).flush()
        assert monitor.endpoint_url is None
        assert monitor.get_total_token_usage().total_tokens == 3
        monitor.shutdown()
    (warning,) = warnings_of(caplog)
    assert warning.startswith("metrics are not served yet, the job goes on and tries again:")
    assert f"port {port}" in warning
    assert "choose another port" in warning


def test_an_endpoint_for_everybody_is_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interface beyond loopback from the environment serves, and the log says what that means."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0")
    monitor = told(GenerationMonitor())
    monitor.flush()
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1
    monitor.shutdown()
    (warning,) = warnings_of(caplog)
    assert "beyond this machine" in warning


@pytest.mark.parametrize("is_child", [False, True])
def test_a_bad_variable_of_the_environment_is_a_warning(
    process: runtime.Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_child: bool,
) -> None:
    """The constructor names the variable and what it takes, in children too, and goes on."""
    process._is_child = is_child
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus,otpl")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "tcp://10.0.0.1:9464")
    GenerationMonitor().shutdown()
    name, port = warnings_of(caplog)[:2]
    assert "'otpl' in OTEL_METRICS_EXPORTER" in name
    assert "OTEL_EXPORTER_PROMETHEUS_PORT: must be a whole number from 0 to 65535" in port


def test_an_endpoint_that_is_turned_off_in_code_stays_off(process: runtime.Runtime) -> None:
    """``enabled=False`` serves nothing; the page can still be mounted elsewhere."""
    monitor = told(monitor_of(endpoint=OFF))
    monitor.flush()
    assert monitor.endpoint_url is None
    assert value(page_of(process), "genmeter_generations_total") == 1


@pytest.mark.parametrize("exporters", ["none", "console"])
def test_without_prometheus_among_the_exporters_nothing_listens(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, exporters: str
) -> None:
    """``OTEL_METRICS_EXPORTER`` without ``prometheus`` means no endpoint and no page."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", exporters)
    monitor = told(GenerationMonitor())
    assert monitor.get_total_token_usage().total_tokens == 1
    assert monitor.endpoint_url is None
    with pytest.raises(ConfigError, match="OTEL_METRICS_EXPORTER"):
        process.render(openmetrics=False)


def test_an_endpoint_that_is_asked_for_in_code_wins_over_the_exporters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``EndpointConfig(port=...)`` serves though ``OTEL_METRICS_EXPORTER`` is ``none``."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monitor = told(monitor_of(endpoint=ANY_PORT))
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1


@pytest.mark.parametrize("endpoint", [EndpointConfig(), ANY_PORT])
def test_a_disabled_sdk_sends_and_serves_nothing(
    monkeypatch: pytest.MonkeyPatch, endpoint: EndpointConfig
) -> None:
    """``OTEL_SDK_DISABLED`` turns all ways out off, whatever the code asks for; reports go on."""
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_SDK_DISABLED", " True ")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus,otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monitor = told(GenerationMonitor(config=MonitorConfig(endpoint=endpoint)))
        assert monitor.get_total_token_usage().total_tokens == 1
        assert monitor.endpoint_url is None
        monitor.shutdown()
        assert receiver.requests == []


def test_a_child_process_leaves_the_endpoint_to_the_main_one(process: runtime.Runtime) -> None:
    """In a child nothing listens, not even where the code names the port."""
    process._is_child = True
    monitor = told(monitor_of(endpoint=EndpointConfig(port=free_port())))
    monitor.flush()
    assert monitor.endpoint_url is None


@pytest.mark.parametrize("is_in_code", [False, True])
def test_a_child_process_may_serve_at_any_free_port(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, is_in_code: bool
) -> None:
    """With port 0, in code or in the environment, each process has an endpoint of its own."""
    process._is_child = True
    if not is_in_code:
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    monitor = told(monitor_of(endpoint=ANY_PORT if is_in_code else EndpointConfig()))
    monitor.flush()
    assert value(scrape(monitor.endpoint_url), "genmeter_generations_total") == 1


# --- gauges of the job ---------------------------------------------------------------------------


def test_a_job_is_finished_when_all_who_told_are_shut_down() -> None:
    """``genmeter_job_finished`` is 0 while a monitor that told anything is open, then 1."""
    provider, reader = foreign()

    def finished() -> float:
        return value(reader.render(openmetrics=False).decode(), "genmeter_job_finished")

    one, other, silent = (monitor_of(meter_provider=provider) for _ in range(3))
    assert finished() == 0
    told(one).shutdown()
    told(other).flush()
    assert finished() == 0
    other.shutdown()
    assert finished() == 1
    silent.shutdown()
    assert finished() == 1


def test_expected_samples_are_summed(process: runtime.Runtime) -> None:
    """``genmeter_job_samples_expected`` is what all jobs of the process are to make, or absent."""
    silent = monitor_of()
    assert "genmeter_job_samples_expected" not in page_of(process)
    jobs = [monitor_of(expected_samples=30), monitor_of(expected_samples=12)]
    assert value(page_of(process), "genmeter_job_samples_expected") == 42
    del silent, jobs
    gc.collect()
    last = monitor_of(expected_samples=100)
    assert value(page_of(process), "genmeter_job_samples_expected") == 142
    last.shutdown()


def test_a_job_whose_monitor_is_gone_is_finished(process: runtime.Runtime) -> None:
    """A monitor that nobody holds any more counts as shut down."""
    provider, reader = foreign()
    forgotten(1, meter_provider=provider)
    assert eventually(lambda: open_sessions(process) == 0)
    assert value(reader.render(openmetrics=False).decode(), "genmeter_job_finished") == 1


def test_the_build_is_told(process: runtime.Runtime) -> None:
    """``genmeter_build_info`` has the versions of genmeter and of the SDK."""
    monitor_of()
    labels = {"version": __version__, "otel_sdk": version("opentelemetry-sdk")}
    assert value(page_of(process), "genmeter_build_info", **labels) == 1


def test_the_monitor_tells_of_itself(process: runtime.Runtime) -> None:
    """The page says what was recorded, what was left out, and how full the histories are."""
    monitor = told(monitor_of())
    monitor.track_generation(float("nan"), True)
    page = page_of(process)
    name = "genmeter_monitor_events_total"
    assert value(page, name, genmeter_result="recorded") == 2
    assert value(page, name, genmeter_result="rejected", genmeter_reason="not_finite") == 1
    assert value(page, "genmeter_monitor_history_size") == 2
    assert value(page, "genmeter_monitor_history_capacity") >= 100_000


def test_what_overflows_and_what_fails_is_told(process: runtime.Runtime) -> None:
    """Values past a label's limit, a callback's errors and an exporter's failures are counted."""
    monitor = monitor_of(limits=LabelLimits(models=1))
    told(monitor)
    monitor.track_generation(0.1, True, model_name="another")
    process.self_metrics.count_handler_error("token_usage_callback")
    process.self_metrics.count_export_failure("otlp")
    page = page_of(process)
    assert value(page, "genmeter_monitor_label_overflow_total") == 1
    assert value(page, "genmeter_monitor_handler_errors_total") == 1
    assert value(page, "genmeter_monitor_export_failures_total", genmeter_exporter="otlp") == 1


def test_models_of_the_configuration_are_known_at_zero(process: runtime.Runtime) -> None:
    """Both outcomes of the configured models are on the page before the first event."""
    monitor_of(models=("a", "b"), default_model="c")
    page = page_of(process)
    for model in "abc":
        for outcome in ("success", "failure"):
            assert f'genmeter_outcome="{outcome}"' in page
            assert f'gen_ai_request_model="{model}"' in page
    assert value(page, "genmeter_generations_total") == 0


# --- monitors that are forgotten -----------------------------------------------------------------


def forgotten(tokens: int, **settings: Any) -> None:
    """Make a monitor, record a call, and drop the monitor."""
    told(monitor_of(**settings), tokens)
    gc.collect()


def open_sessions(process: runtime.Runtime) -> int:
    """Count the sessions that are not closed, once the garbage is collected.

    An event that still waits keeps its session, so that one collection may come too early.
    """
    gc.collect()
    return len(process._open_sessions())


def test_monitors_that_are_gone_count_on(process: runtime.Runtime) -> None:
    """The report of the process has the tokens of monitors that nobody holds any more."""
    for _ in range(5):
        forgotten(2)
    assert process_token_usage().total_tokens == 10
    kept = told(monitor_of(), 1)
    forgotten(2)
    assert process_token_usage().total_tokens == 13
    assert process_token_usage().complete
    assert eventually(lambda: open_sessions(process) == len(process._states) == 1)
    assert process_token_usage().total_tokens == 13
    kept.shutdown()
    assert process_token_usage().total_tokens == 13


def test_a_window_that_reaches_to_one_that_is_gone_says_so(process: runtime.Runtime) -> None:
    """A windowed report that lacks a collected monitor's tokens is not called complete."""
    forgotten(2)
    kept = told(monitor_of(), 1)
    assert eventually(lambda: open_sessions(process) == len(process._states) == 1)
    report = process_token_usage(timedelta(hours=1))
    assert report.total_tokens == 1
    assert not report.complete
    kept.shutdown()


def test_a_window_after_the_last_one_that_is_gone_is_complete(process: runtime.Runtime) -> None:
    """A window that no lost monitor's event can lie in is complete."""
    forgotten(2)
    monitor = told(monitor_of(), 1)
    assert eventually(lambda: open_sessions(process) == len(process._states) == 1)
    process._retired._until -= 3_600
    report = process_token_usage(timedelta(minutes=1))
    assert report.total_tokens == 1
    assert report.complete
    monitor.shutdown()


def test_the_provider_outlives_monitors_that_are_forgotten(process: runtime.Runtime) -> None:
    """The endpoint and its counters go on from one forgotten monitor to the next."""
    forgotten(2, endpoint=ANY_PORT)
    url = process.url()
    assert process_token_usage().total_tokens == 2
    monitor = told(monitor_of(), 3)
    assert monitor.endpoint_url == url
    page = scrape(url)
    assert value(page, "genmeter_tokens_total") == 5
    assert eventually(lambda: open_sessions(process) == 1)


def test_a_forgotten_monitor_of_a_foreign_provider_is_let_go(process: runtime.Runtime) -> None:
    """Its history is freed though it was the last one, and its tokens stay."""
    provider, reader = foreign()
    forgotten(2, meter_provider=provider)
    assert eventually(lambda: open_sessions(process) == len(process._states) == 0)
    assert process_token_usage().total_tokens == 2
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_tokens_total") == 2
    assert value(page, "genmeter_monitor_history_capacity") == 0


def test_a_process_without_monitors_has_an_empty_report() -> None:
    """Asking for the report makes nothing and fails nowhere."""
    assert process_token_usage().total_tokens == 0
    assert process_token_usage().by_model == []


def test_reports_and_monitors_do_not_wait_for_each_other(process: runtime.Runtime) -> None:
    """Reports of several threads while collected monitors are closed count each of them once."""
    kept = told(monitor_of(), 1)
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


def test_reads_go_on_after_shutdown() -> None:
    """A monitor that was shut down still reports what it was told, and takes nothing more."""
    monitor = told(monitor_of(), 5)
    monitor.shutdown()
    told(monitor, 7)
    assert monitor.get_total_token_usage().total_tokens == 5
    assert monitor.get_metrics("success_rate")["count"] == 1
    assert process_token_usage().total_tokens == 5


def test_what_comes_after_shutdown_is_counted_as_left_out(process: runtime.Runtime) -> None:
    """A call after shutdown is rejected by name, and warned about once."""
    monitor = monitor_of()
    monitor.shutdown()
    told(told(monitor))
    assert process.self_metrics.rejected == {"after_shutdown": 2}


def test_a_monitor_after_the_last_shutdown_starts_anew(process: runtime.Runtime) -> None:
    """It has a new provider that counts from 0, and an endpoint on the same port."""
    urls = []
    for round_ in range(1, 4):
        monitor = GenerationMonitor()
        for _ in range(round_):
            told(monitor)
        monitor.flush()
        page = scrape(monitor.endpoint_url)
        assert value(page, "genmeter_generations_total") == round_
        urls.append(monitor.endpoint_url)
        monitor.shutdown()
        assert process.url() is None
    assert len(set(urls)) == 1
    assert process_token_usage().total_tokens == 6


def test_a_monitor_after_the_last_shutdown_pushes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second provider of a process has pushes of its own, at intervals and at the end."""
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
        for _ in range(2):
            before = len(receiver.requests)
            monitor = told(GenerationMonitor())
            assert receiver.wait_for(lambda before=before: len(receiver.requests) > before)
            monitor.shutdown()
        assert receiver.latest("genmeter.generations")
        assert [count for _, count in receiver.points("genmeter.job.finished")].count(1) == 2


def test_a_lingering_endpoint_serves_one_more_whole_scrape() -> None:
    """``shutdown`` waits for a scrape that began after it, which has everything, then closes."""
    monitor = told(monitor_of(endpoint=EndpointConfig(port=0, linger=PATIENCE)))
    url = monitor.endpoint_url
    scrape(url)
    told(monitor)
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


def test_lingering_ends_after_its_time() -> None:
    """Where nobody scrapes, ``shutdown`` ends all the same."""
    monitor = told(monitor_of(endpoint=EndpointConfig(port=0, linger=0.05)))
    monitor.shutdown()
    assert monitor.endpoint_url is None


def test_what_cuts_the_end_short_is_made_up_for_at_exit(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler's exception in ``shutdown`` loses neither the last push nor the endpoint."""
    monitor = told(monitor_of(endpoint=ANY_PORT))
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


def test_a_defect_at_the_end_is_logged_and_ends_the_rest(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the last push neither reaches the job nor keeps monitors open."""
    monitor = told(monitor_of())
    monkeypatch.setattr(process._exporters, "finish", lambda timeout: 1 // 0)
    monitor.shutdown()
    (record,) = caplog.records
    assert "the last push or scrape failed" in record.getMessage()
    process.exit()


def test_exit_closes_every_monitor(process: runtime.Runtime) -> None:
    """At the end of the process what was told is drained and everything is closed."""
    monitors = [told(monitor_of(endpoint=ANY_PORT)) for _ in range(3)]
    url = monitors[0].endpoint_url
    process.exit()
    process.exit()
    assert process.self_metrics.recorded == 3
    with pytest.raises(OSError, match="refused"):
        scrape(url)
    assert all(monitor.get_total_token_usage().total_tokens == 1 for monitor in monitors)


def test_shutdown_does_not_wait_for_ever(
    process: runtime.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the drain is stuck, shutdown gives up after its time and says what is left."""
    monitor = GenerationMonitor(shutdown_timeout=0.01, config=MonitorConfig(endpoint=OFF))
    told(monitor).flush(timeout=PATIENCE)
    pipeline = process.require_pipeline()
    release, held = threading.Event(), threading.Event()

    def stick() -> None:
        held.set()
        release.wait(PATIENCE)

    sticking = threading.Thread(target=lambda: pipeline.lock.call(stick, None))
    sticking.start()
    assert held.wait(PATIENCE)
    told(monitor)
    monitor.shutdown()
    release.set()
    sticking.join(PATIENCE)
    assert warnings_of(caplog) == ["shutdown timed out with 1 events pending"]


def test_nothing_is_shared_before_the_first_monitor(process: runtime.Runtime) -> None:
    """Hooks and reads of a runtime without monitors do nothing."""
    process.before_fork()
    process.after_fork_in_parent()
    process.after_fork_in_child()
    assert process.url() is None
    with pytest.raises(AssertionError, match="attach"):
        process.require_pipeline()


# --- fork, as far as one process shows it (tests/process/test_fork.py has the rest) --------------


def test_a_fork_does_not_wait_for_ever_for_the_drain(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the drain hangs in the application's provider, the fork goes ahead without its lock."""
    monkeypatch.setattr(runtime, "_FORK_TIMEOUT", 0.01)
    provider, reader = foreign()
    monitor = told(monitor_of(meter_provider=provider))
    lock = process.require_pipeline().lock
    with held(process.require_pipeline()):
        process.before_fork()
        assert not lock.is_mine
        process.after_fork_in_parent()
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_generations_total") == 1
    monitor.shutdown()


def test_a_fork_holds_the_drain_of_an_applications_provider(process: runtime.Runtime) -> None:
    """Between the hooks no drain is in its locks; a fork of another runtime releases none of them."""
    provider, reader = foreign()
    monitor = told(monitor_of(meter_provider=provider))
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


def test_a_fork_holds_nothing_where_the_provider_is_our_own(process: runtime.Runtime) -> None:
    """The built-in provider has no locks, so a fork waits for nothing."""
    monitor = told(monitor_of())
    with held(process.require_pipeline()):
        process.before_fork()
        assert not process.require_pipeline().lock.is_mine
        process.after_fork_in_parent()
    assert monitor.get_total_token_usage().total_tokens == 1


def test_a_child_counts_from_zero_and_calls_back(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the child history, counters and the process's report begin anew, as does the callback."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")  # so that the child has a page
    seen: list[int] = []
    monitor = GenerationMonitor(
        config=MonitorConfig(endpoint=OFF, default_model="m"),
        token_usage_callback=lambda report: seen.append(report.total_tokens),
        token_usage_callback_interval_seconds=0.01,
    )
    closed = told(monitor_of(), 100)
    closed.shutdown()
    told(monitor, 100).flush()
    process.after_fork_in_child()
    seen.clear()
    told(monitor, 7)
    assert monitor.get_total_token_usage().total_tokens == 7
    assert process_token_usage().total_tokens == 7
    process._rebuild()
    assert value(page_of(process), "genmeter_tokens_total") == 7
    assert eventually(lambda: seen and seen[-1] == 7)
    monitor.shutdown()


def test_a_childs_exit_is_hooked_where_atexit_does_not_run(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a child of multiprocessing the end is one of its finalizers."""
    finalizers: list[Any] = []
    monkeypatch.setattr(exit_hook.multiprocessing, "parent_process", object)
    monkeypatch.setattr(
        exit_hook.mp_util, "Finalize", lambda owner, call, exitpriority: finalizers.append(call)
    )
    monkeypatch.setattr(runtime, "_exit_hook", exit_hook.ExitHook(runtime._exit_all))
    told(monitor_of())
    monitor_of()
    (finish,) = finalizers
    finish()
    assert process.self_metrics.recorded == 1
    assert process.url() is None


def test_every_kind_of_event_is_drained(process: runtime.Runtime) -> None:
    """What each method tells reaches its own series."""
    monitor = told(monitor_of())
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


def test_a_monitor_that_a_child_makes_shares_with_the_inherited_ones(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child's new monitor and its inherited one feed one provider, which is the child's own."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    inherited = GenerationMonitor()
    process.after_fork_in_child()
    made = GenerationMonitor(config=MonitorConfig(models=("b",)))
    told(inherited, 2)
    told(made, 3)
    page = page_of(process)
    assert value(page, "genmeter_tokens_total") == 5
    assert 'gen_ai_request_model="b"' in page
    assert made.endpoint_url == inherited.endpoint_url is not None


def test_a_child_that_tells_nothing_ends_nothing_of_the_parents(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent's provider is neither pushed nor closed by a child that only ends."""
    monitor = monitor_of()
    finished: list[float] = []
    monkeypatch.setattr(process._exporters, "finish", finished.append)
    process.after_fork_in_child()
    monitor.shutdown()
    process.exit()
    assert finished == []


def test_a_foreign_provider_counts_on_in_a_child(
    process: runtime.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be mended from here, so the child feeds it as it is and says so once."""
    provider, reader = foreign()
    monitor = told(monitor_of(meter_provider=provider), 100)
    monitor.flush()
    process.after_fork_in_child()
    told(told(monitor, 7), 7)
    assert monitor.get_total_token_usage().total_tokens == 14
    page = reader.render(openmetrics=False).decode()
    assert value(page, "genmeter_tokens_total") == 114
    monitor.shutdown()
    (warning,) = warnings_of(caplog)
    assert "create a new provider in the child" in warning
