"""The end of a process's runtime, and what a fork makes of it."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing import util as mp_util
from typing import Any

import pytest
from _held import held
from _runtimes import (
    ANY_PORT,
    OFF,
    foreign,
    monitor_of,
    page_of,
    pushes_to,
    record,
    scrape,
    server_of,
    value,
    warnings_of,
)

from _waiting import PATIENCE, eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig, process_token_usage, runtime
from genmeter.pipeline import exit_hook
from otlp_receiver import HttpReceiver

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
