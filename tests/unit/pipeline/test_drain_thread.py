"""The pipeline: its thread, its log and forks."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from _bench import Bench, Holder, in_thread, refuse_start

from _waiting import PATIENCE, eventually
from genmeter.events.model import Raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# --- the thread ----------------------------------------------------------------------------------


def test_reads_drain_if_no_thread_can_be_started(
    bench: Bench, no_threads: None, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning is logged."""
    bench.record(5)
    assert not bench.pipeline.is_running
    assert bench.read() == 5
    bench.pipeline.deferred_log.flush()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "the pipeline's thread cannot be started (can't start new thread); the job's own calls drain"
    )


def test_failed_start_is_repeated_at_the_next_event(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread starts as soon as the system allows it."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_start)
        bench.record()
    bench.record()
    assert bench.pipeline.is_running
    assert eventually(lambda: bench.recorded == 2)


def test_two_simultaneous_starts_leave_one_thread(bench: Bench) -> None:
    """That thread answers."""
    bench.run_thread()
    first = bench.pipeline._thread
    bench.pipeline.is_running = False
    bench.pipeline.start()
    second = bench.pipeline._thread
    assert first is not None
    assert second is not None
    assert second is not first
    assert eventually(lambda: bench.pipeline.wake() or not first.is_alive())
    assert second.is_alive()
    bench.append()
    assert bench.read(timeout=PATIENCE) == 1


def test_second_start_does_nothing(bench: Bench) -> None:
    """The thread stays the same."""
    bench.run_thread()
    thread = bench.pipeline._thread
    bench.pipeline.start()
    assert bench.pipeline._thread is thread


def test_failed_start_keeps_the_running_thread(bench: Bench, no_threads: None) -> None:
    """One of two simultaneous starts may fail."""
    other = threading.Thread()
    bench.pipeline._thread = other
    bench.pipeline.start()
    assert bench.pipeline._thread is other


def test_telemetry_starts_before_the_first_event_is_recorded() -> None:
    """``on_start`` is called once, under the lock, when the first event is drained."""
    calls: list[tuple[bool, int]] = []
    bench = Bench(lambda: calls.append((bench.pipeline.lock.is_mine, bench.recorded)))
    bench.read()
    assert calls == []
    bench.record(3, inline=True)
    assert calls == [(True, 0)]


def test_requested_restart_precedes_the_next_event() -> None:
    """``on_start`` is called once more."""
    calls: list[int] = []
    bench = Bench(lambda: calls.append(bench.recorded))
    bench.record(inline=True)
    bench.pipeline.request_restart()
    bench.read()
    assert calls == [0]
    bench.record(2, inline=True)
    assert calls == [0, 1]


def test_restart_requested_during_a_start_is_not_lost() -> None:
    """It happens before the next event."""
    calls: list[int] = []

    def start() -> None:
        calls.append(bench.recorded)
        if len(calls) == 1:
            bench.pipeline.request_restart()

    bench = Bench(start)
    bench.record(3, inline=True)
    assert calls == [0, 1]


def test_failing_start_does_not_stop_the_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is logged, and events are recorded."""
    bench = Bench(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    bench.record(3, inline=True)
    assert bench.recorded == 3
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == ("telemetry could not be started; the job goes on without it")
    assert record.exc_info


# --- the log -------------------------------------------------------------------------------------


class Listening(logging.Handler):
    """A logging handler that calls a function with each record, under its own lock."""

    def __init__(self, on_record: Callable[[logging.LogRecord], Any]) -> None:
        super().__init__()
        self._on_record = on_record

    def emit(self, record: logging.LogRecord) -> None:
        """Call the function."""
        self._on_record(record)


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[logging.LogRecord], Any]], Listening]]:
    """Return a function that adds a logging handler for one test."""
    logger = logging.getLogger("genmeter")
    added: list[Listening] = []

    def add(on_record: Callable[[logging.LogRecord], Any]) -> Listening:
        handler = Listening(on_record)
        added.append(handler)
        logger.addHandler(handler)
        return handler

    yield add
    for handler in added:
        logger.removeHandler(handler)


def test_nothing_is_logged_under_the_lock_or_on_the_pipelines_thread(
    bench: Bench, listen: Any
) -> None:
    """Lines are logged where no thread waits for the logging thread."""
    seen: list[tuple[bool, str]] = []
    listen(
        lambda record: seen.append((bench.pipeline.lock.is_mine, threading.current_thread().name))
    )
    bench.record(duration="nonsense")
    assert eventually(lambda: seen)
    assert seen == [(False, "genmeter-log")]


def test_read_inside_a_logging_handler_does_not_hang(bench: Bench, listen: Any) -> None:
    """The main thread may hold a handler's lock that a log line waits for."""
    handler = listen(lambda record: None)
    bench.run_thread()
    handler.acquire()
    try:
        bench.append(duration="nonsense")
        assert bench.read(timeout=PATIENCE) == 1
        assert eventually(
            lambda: any(thread.name == "genmeter-log" for thread in threading.enumerate())
        )
        bench.append()
        assert bench.read(timeout=PATIENCE) == 2
    finally:
        handler.release()


@pytest.mark.parametrize("inline", [False, True])
def test_logging_handler_may_record_and_read(bench: Bench, listen: Any, inline: bool) -> None:
    """It may even cause new log lines; nothing is lost, and it ends."""
    read: list[int] = []

    def record_and_read(record: logging.LogRecord) -> None:
        bench.append()
        bench.pipeline.inbox.append(
            (Raw.METRIC, bench.session, time.time(), "name", "nonsense", None)
        )
        bench.pipeline.after_append(inline=inline)
        read.append(bench.read(timeout=PATIENCE))

    listen(record_and_read)
    bench.record(inline=inline, duration="nonsense")
    assert eventually(lambda: len(read) == 2)
    assert read[0] >= 2
    assert set(bench.rejected) == {"not_a_number"}


@pytest.mark.parametrize("inline", [False, True])
def test_failing_logging_handler_has_no_effect(bench: Bench, listen: Any, inline: bool) -> None:
    """Its error neither reaches the caller nor ends a thread."""
    listen(lambda record: 1 // 0)
    bench.record(inline=inline, duration="nonsense")
    bench.record(inline=inline)
    assert eventually(lambda: not bench.pipeline.deferred_log and bench.recorded == 2)


def test_only_the_first_of_a_kind_is_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each reason and name is logged once, up to a maximum number."""
    monkeypatch.setattr("genmeter.pipeline.once.MAX_KEYS", 3)
    for number in range(10):
        for _ in range(2):
            bench.pipeline.inbox.append(
                (Raw.METRIC, bench.session, time.time(), f"name{number}", "nonsense", None)
            )
    bench.read()
    bench.pipeline.deferred_log.flush()
    assert len(caplog.records) == 3
    assert bench.rejected == {"not_a_number": 20}


# --- fork ----------------------------------------------------------------------------------------


def test_nothing_drains_while_a_fork_holds_the_lock(bench: Bench) -> None:
    """Other threads wait for it, and no event is lost."""
    bench.run_thread()
    assert bench.pipeline.lock.acquire(PATIENCE)
    bench.append()
    with pytest.raises(TimeoutError):
        in_thread(lambda: bench.read(timeout=0.01))
    bench.pipeline.lock.release()
    assert bench.read(timeout=PATIENCE) == 1


def test_fork_does_not_wait_forever_for_the_lock(bench: Bench) -> None:
    """The lock stays with its holder."""
    with Holder(bench.pipeline):
        assert not bench.pipeline.lock.acquire(0.01)
        bench.pipeline.lock.release()
        with pytest.raises(TimeoutError):
            bench.read(timeout=0.01)
    assert bench.read() == 0


def test_stopped_pipeline_starts_no_thread_again(bench: Bench) -> None:
    """What was recorded before is drained by the thread, what comes later by the reads."""
    bench.run_thread()
    thread = bench.pipeline._thread
    assert thread is not None
    bench.append(5)
    bench.pipeline.stop(PATIENCE)
    assert not thread.is_alive()
    assert (bench.recorded, bench.pipeline.is_running) == (5, False)
    bench.record()
    assert not bench.pipeline.is_running
    assert bench.read(timeout=PATIENCE) == 6


def test_pipeline_is_settled_once_its_turn_has_ended(bench: Bench) -> None:
    """Not while events are pending, nor while the owner works on the last."""
    assert bench.pipeline.is_settled
    bench.append()
    assert not bench.pipeline.is_settled
    bench.read()
    assert bench.pipeline.is_settled
    with Holder(bench.pipeline):
        assert not bench.pipeline.is_settled


def test_child_starts_empty(bench: Bench) -> None:
    """Its inbox is empty, its lock is free, and telemetry starts again."""
    bench.append(5)
    bench.pipeline.deferred_log.add(logging.WARNING, "the parent's")
    with Holder(bench.pipeline):
        bench.pipeline.reset_after_fork()
        assert bench.read(timeout=PATIENCE) == 0
    assert bench.pipeline.epoch == 1
    assert not bench.pipeline.deferred_log
    assert repr(bench.pipeline) == "<Pipeline with 0 pending events>"
    bench.record()
    assert bench.read(timeout=PATIENCE) == 1
