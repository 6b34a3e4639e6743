"""State that the monitors of a process share."""

from __future__ import annotations

import gc
import threading
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pytest
from _runtimes import (
    ANY_PORT,
    OFF,
    foreign,
    monitor_of,
    page_of,
    record,
    scrape,
    value,
    warnings_of,
)
from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider

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
from genmeter.schema import indicators

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
    for indicator, expected in ((indicators.COST, 1.0), (indicators.MEAN_SCORE, 0.75)):
        rows = indicator.query.parts[0].rows
        assert rows is not None
        assert history.window(rows, (), 0.0)[()].sum == expected


def test_label_limits_are_shared_by_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """A monitor of another provider logs the ignored limits too."""
    monitor_of(limits=LabelLimits(models=7))
    monitor_of(
        limits=LabelLimits(models=8, combinations=50), meter_provider=MeterProvider(), endpoint=OFF
    )
    (warning,) = warnings_of(caplog)
    assert "ignoring limits.models=8:" in warning


# --- providers ----------------------------------------------------------------------------------


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
