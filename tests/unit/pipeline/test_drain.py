"""The pipeline: what drains its inbox, back-pressure, posted functions and defects."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from _bench import Bench, Holder, in_thread

from _waiting import PATIENCE, eventually
from genmeter.config.monitor import LabelLimits
from genmeter.events.model import Raw, Reason
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


def test_each_kind_of_event_reaches_the_recorders(bench: Bench) -> None:
    """With its own values and time."""
    events: list[Any] = []
    bench.spy(events.append)
    raw: list[tuple[Any, ...]] = [
        (Raw.GENERATION, 1.0, 0.5, True, {}, None, None, None, None),
        (Raw.EVALUATION, 2.0, 0.5, True, "judge", {"s": 0.25}, {}, None, None, None),
        (Raw.METRIC, 3.0, "m", 1.5, None),
        (Raw.SAMPLE, 4.0, False, "why"),
        (Raw.LOG, 5.0, "info", "text", {"key": 1}, None),
    ]
    for kind, *rest in raw:
        bench.pipeline.inbox.append((kind, bench.session, *rest))
    bench.read()
    assert (bench.recorded, bench.rejected) == (5, {})
    assert [type(event).__name__ for event in events] == [
        *("Generation", "Evaluation", "Metric", "Sample", "Log")
    ]
    assert [event.time for event in events] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert events[0].duration == 0.5
    assert events[1].evaluator == "judge"
    assert (events[2].name, events[2].value) == ("m", 1.5)
    assert (events[3].accepted, events[3].reason) == (False, "why")
    assert (events[4].level, events[4].message, events[4].data) == ("info", "text", {"key": 1})


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
    (record,) = caplog.records
    assert record.getMessage() == (
        "dropped invalid event=the newest of 1000 pending (inbox full); logged once, then only "
        "counted in genmeter_monitor_events_total"
    )


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


def test_full_inbox_drops_events_and_droppable_posts_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What must happen, as the end of a reservation, happens also if a job outruns its drain."""
    monkeypatch.setattr(module, "CAPACITY", 10)
    monkeypatch.setattr(module, "HIGH_WATER", 5)
    monkeypatch.setattr(module, "WAKE", 1)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    seen: list[str] = []
    with Holder(bench.pipeline):
        bench.append(10)
        bench.pipeline.post(lambda: seen.append("observed"), may_drop=True)
        bench.pipeline.post(lambda: seen.append("must"))
        bench.pipeline.post(lambda: seen.append("observed"), may_drop=True)
    assert bench.read(timeout=PATIENCE) == 10
    assert seen == ["must"]
    assert bench.rejected == {"inbox_full": 2}


# --- ends of turns ------------------------------------------------------------------------------


class Turns:
    """Counts the ends of turns, and fails at the first."""

    def __init__(self, recorded: Callable[[], int]) -> None:
        self.seen: list[int] = []
        self._recorded = recorded

    def end(self) -> None:
        """Note how many events were recorded before."""
        self.seen.append(self._recorded())
        if len(self.seen) == 1:
            raise ValueError("a defect")


def test_end_of_each_turn_is_told_until_it_is_removed(bench: Bench) -> None:
    """With `drain="inline"` each event is a turn; an error at an end costs nothing else."""
    turns, others = Turns(lambda: bench.recorded), Turns(lambda: bench.recorded)
    others.seen.append(-1)
    bench.pipeline.add_turn_end(turns.end)
    bench.pipeline.add_turn_end(others.end)
    bench.record(2, inline=True)
    bench.pipeline.remove_turn_end(turns.end)
    bench.pipeline.remove_turn_end(turns.end)
    bench.record(inline=True)
    assert turns.seen == [1, 2]
    assert others.seen == [-1, 1, 2, 3]
    assert bench.rejected == {"internal": 1}


def test_ends_of_turns_do_not_keep_their_object_alive(bench: Bench) -> None:
    """An object that is gone is not told, and later ones still are."""
    gone, stays = Turns(lambda: bench.recorded), Turns(lambda: bench.recorded)
    gone.seen.append(-1)
    stays.seen.append(-1)
    bench.pipeline.add_turn_end(gone.end)
    bench.pipeline.add_turn_end(stays.end)
    del gone
    bench.record(2, inline=True)
    assert stays.seen == [-1, 1, 2]
    assert bench.rejected == {}


def test_idle_thread_ends_a_turn_each_interval(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a time, as calls that may be repeated, does not wait for the next event."""
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    turns = Turns(lambda: bench.recorded)
    bench.pipeline.add_turn_end(turns.end)
    bench.run_thread()
    assert eventually(lambda: len(turns.seen) > 2)


# --- events that are recorded at once -----------------------------------------------------------


def _metric(bench: Bench, name: str, value: object) -> tuple[Any, ...]:
    return (Raw.METRIC, bench.session, 7.0, name, value, None)


def test_owner_records_an_event_at_its_own_time(bench: Bench) -> None:
    """An observed call that waited for others has the time at which it ended."""
    events: list[Any] = []
    bench.spy(events.append)
    bench.pipeline.run(lambda: bench.pipeline.record(_metric(bench, "m", 1.5)))
    bench.pipeline.run(lambda: bench.pipeline.record(_metric(bench, "m", "nonsense")))
    assert [(event.time, event.name, event.value) for event in events] == [(7.0, "m", 1.5)]
    assert (bench.recorded, bench.rejected) == (1, {"not_a_number": 1})
    assert bench.session.state.has_events


def test_failing_recorder_loses_only_the_event_that_is_recorded_at_once(bench: Bench) -> None:
    """The owner goes on."""

    def fail(event: Any) -> None:
        if event.value == 13:
            raise ValueError("a defect")

    bench.spy(fail)
    for value in (13, 1):
        bench.pipeline.run(lambda value=value: bench.pipeline.record(_metric(bench, "m", value)))
    assert (bench.recorded, bench.rejected) == (1, {"internal": 1})


# --- what is dropped ----------------------------------------------------------------------------


def test_log_says_what_was_dropped_and_why(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A long value is cut."""
    bench.pipeline.reject(Reason.NOT_A_NUMBER, "cost", "x" * 10_000)
    bench.pipeline.deferred_log.flush()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"dropped invalid cost={'x' * 200} (not a number); logged once, then only counted in "
        "genmeter_monitor_events_total"
    )


def test_log_says_which_limit_is_reached_and_how_to_raise_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each limit; each value beyond it is counted."""
    for limit in ("error_types", "steps"):
        table = bench.pipeline.normaliser.tables[limit]
        for number in range(getattr(LabelLimits(), limit) + 2):
            table.clean(f"name {number}")
    bench.pipeline.deferred_log.flush()
    assert bench.self_metrics.overflows == {"error_types": 2, "steps": 2}
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert caplog.records[0].getMessage() == (
        "error types limit reached; new values are recorded as 'other', in metrics and in reports; "
        "LabelLimits.error_types (GENMETER_MAX_ERROR_TYPES) raises it"
    )
    assert caplog.records[1].getMessage().startswith("steps limit reached; ")


def test_notice_is_logged_once_for_each_key(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Its reason is counted each time, if it has one."""
    for key in ("a", "a", "b"):
        bench.pipeline.notice(Reason.NOT_A_NUMBER, key, "the key %s", key)
    bench.pipeline.notice(None, "c", "the key %s", "c")
    bench.pipeline.deferred_log.flush()
    assert [record.getMessage() for record in caplog.records] == [
        *("the key a", "the key b", "the key c")
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert bench.rejected == {"not_a_number": 3}


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
