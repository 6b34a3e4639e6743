"""The pipeline: what drains its inbox, back-pressure, posted functions and defects."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from _bench import Bench, Holder, in_thread

from _waiting import PATIENCE, eventually
from genmeter.events.model import Raw
from genmeter.pipeline import drain as module
from genmeter.pipeline.drain import CAPACITY, HIGH_WATER, SLICE, WAKE

if TYPE_CHECKING:
    from collections.abc import Callable

# --- what drains ---------------------------------------------------------------------------------


def test_event_is_drained_without_a_read(bench: Bench) -> None:
    """The pipeline's thread moves it to the history."""
    bench.record()
    assert eventually(lambda: bench.recorded == 1)


def test_idle_thread_drains_below_the_wake_threshold(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn of the thread drains them."""
    monkeypatch.setattr(module, "_INTERVAL", 0.02)
    bench.run_thread()
    for count in range(1, 4):
        bench.append()
        assert eventually(lambda count=count: bench.recorded == count)


@pytest.mark.usefixtures("lazy")
def test_burst_wakes_the_thread(bench: Bench) -> None:
    """At :data:`WAKE` events the thread drains all, before its interval is over."""
    bench.run_thread()
    bench.append(WAKE - 1)
    bench.record()
    assert eventually(lambda: bench.recorded == WAKE)


def test_thread_drains_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is free between the slices."""
    limits: list[int] = []
    drain = bench.pipeline._drain
    monkeypatch.setattr(
        bench.pipeline, "_drain", lambda limit: (limits.append(limit), drain(limit))
    )
    bench.append(10 * SLICE)
    bench.run_thread()
    assert eventually(lambda: bench.recorded == 10 * SLICE)
    assert limits == [SLICE] * 10


def test_inline_event_is_drained_in_its_own_call(bench: Bench) -> None:
    """With ``drain="inline"`` the caller drains, and no thread is started."""
    bench.record(3, inline=True)
    assert bench.recorded == 3
    assert not bench.pipeline.is_running


def test_collection_drains_pending_events(bench: Bench) -> None:
    """Events recorded before a collection are in it."""
    bench.append(5)
    bench.pipeline.drain_for_collection()
    assert bench.recorded == 5


@pytest.mark.parametrize("is_running", [False, True])
def test_collection_gives_up_on_a_busy_owner(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_running: bool
) -> None:
    """It continues without the pending events."""
    monkeypatch.setattr(module, "_MAX_DRAIN", 0.01)
    if is_running:
        bench.run_thread()
    bench.append()
    with Holder(bench.pipeline):
        bench.pipeline.drain_for_collection()
        assert bench.recorded == 0


# --- back-pressure -------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads")
def test_producer_drains_above_high_water_without_a_thread(bench: Bench) -> None:
    """Its inbox stays at the mark, and no event is lost."""
    total = HIGH_WATER + 10 * SLICE
    longest = 0
    for _ in range(total):
        bench.record()
        longest = max(longest, len(bench.pipeline.inbox))
    assert longest < HIGH_WATER
    assert bench.read() == total
    assert bench.rejected == {}


@pytest.mark.usefixtures("lazy")
@pytest.mark.parametrize("caller", [lambda function: function(), in_thread])
def test_producer_does_not_drain_while_the_thread_runs(
    bench: Bench, caller: Callable[[Any], Any]
) -> None:
    """Above high water it leaves that to the pipeline's thread."""
    drained_by: set[int] = set()
    bench.spy(lambda event: drained_by.add(threading.get_ident()))
    bench.run_thread()
    caller(lambda: bench.record(2 * HIGH_WATER))
    assert bench.read() == 2 * HIGH_WATER
    thread = bench.pipeline._thread
    assert thread is not None
    assert drained_by == {thread.ident}


def test_producer_does_not_wait_for_the_lock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above high water it only yields if another thread drains."""
    naps: list[float] = []
    with Holder(bench.pipeline):
        bench.append(HIGH_WATER)
        monkeypatch.setattr(module.time, "sleep", naps.append)
        in_thread(bench.record)
        monkeypatch.undo()
    assert naps == [module._YIELD]
    assert bench.read() == HIGH_WATER + 1


def test_events_past_the_capacity_are_dropped_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If nothing can be drained, the inbox stays at its capacity."""
    monkeypatch.setattr(module, "CAPACITY", 1_000)
    monkeypatch.setattr(module, "HIGH_WATER", 500)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with Holder(bench.pipeline):
        longest = 0
        for _ in range(1_500):
            bench.record()
            longest = max(longest, len(bench.pipeline.inbox))
        assert longest == 1_000
        assert bench.rejected == {"inbox_full": 500}
    monkeypatch.undo()
    assert bench.read() == 1_000
    assert bench.recorded == 1_000
    bench.pipeline.deferred_log.finish(PATIENCE)
    assert sum("inbox full" in record.getMessage() for record in caplog.records) == 1


def test_capacity_is_far_above_high_water() -> None:
    """A drain that is slightly late loses no event."""
    assert WAKE < HIGH_WATER < CAPACITY / 8


def test_dropping_from_an_empty_inbox_counts_nothing(bench: Bench) -> None:
    """A drain may have emptied the inbox meanwhile."""
    bench.pipeline._drop_newest()
    assert bench.rejected == {}


def test_dropped_event_ends_the_drain_without_an_error(bench: Bench) -> None:
    """The drain then finds fewer events than it had counted."""
    bench.spy(lambda event: bench.pipeline.inbox.clear())
    bench.append(3)
    assert bench.read() == 1
    assert bench.rejected == {}


# --- functions that are posted ------------------------------------------------------------------


@pytest.mark.parametrize("is_running", [False, True])
def test_posted_function_runs_in_order_with_the_events(bench: Bench, is_running: bool) -> None:
    """It sees earlier events, but not later ones."""
    seen: list[int] = []
    if is_running:
        bench.run_thread()
    with Holder(bench.pipeline):
        for number in range(1, 6):
            bench.append(number)
            bench.pipeline.post(lambda: seen.append(bench.session.history.size))
        bench.append(7)
    assert bench.read(timeout=PATIENCE) == 22
    assert seen == [1, 3, 6, 10, 15]
    assert bench.recorded == 22


def test_post_runs_without_a_read(bench: Bench) -> None:
    """The first post starts the thread, without any event."""
    called = threading.Event()
    bench.pipeline.post(called.set)
    assert called.wait(PATIENCE)


@pytest.mark.usefixtures("no_threads")
def test_post_without_a_thread_runs_at_the_next_read(bench: Bench) -> None:
    """No thread can be started."""
    seen: list[str] = []
    bench.pipeline.post(lambda: seen.append(threading.current_thread().name))
    assert seen == []
    bench.read()
    assert seen == ["MainThread"]


def test_failing_post_loses_no_event(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and logged once."""
    bench.run_thread()
    for _ in range(2):
        bench.append()
        bench.pipeline.post(lambda: 1 // 0)
    bench.append()
    assert bench.read(timeout=PATIENCE) == 3
    assert bench.rejected == {"internal": 2}
    bench.pipeline.deferred_log.finish(PATIENCE)
    (record,) = caplog.records
    assert record.getMessage() == "internal error while processing call; the event was dropped"


# --- defects -------------------------------------------------------------------------------------


def test_failing_recorder_loses_only_its_event(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback is logged once."""

    def fail_twice(event: Any) -> None:
        if event.duration == 13:
            raise ValueError("a defect")

    bench.spy(fail_twice)
    bench.run_thread()
    for duration in (1, 13, 2, 13, 3):
        bench.append(duration=duration)
    bench.read()
    assert bench.recorded == 3
    assert bench.rejected == {"internal": 2}
    thread = bench.pipeline._thread
    assert thread is not None
    assert thread.is_alive()
    bench.pipeline.deferred_log.finish(PATIENCE)
    (record,) = caplog.records
    assert record.getMessage() == (
        "internal error while processing generation; the event was dropped"
    )
    assert record.exc_info


def test_malformed_event_is_counted(bench: Bench) -> None:
    """It is dropped like after any other internal error."""
    bench.pipeline.inbox.append((Raw.GENERATION, bench.session))
    bench.append()
    assert bench.read() == 1
    assert bench.rejected == {"internal": 1}


def test_error_in_a_turn_does_not_end_the_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, and the next turn follows."""
    serve = bench.pipeline._serve
    turns = iter([RuntimeError("a defect")])

    def fail_once() -> None:
        for error in turns:
            raise error
        serve()

    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(bench.pipeline, "_serve", fail_once)
    bench.record()
    assert eventually(lambda: bench.recorded == 1)
    assert bench.rejected == {"internal": 1}
