"""The pipeline: the inbox, the drain, reads, the thread and forks."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from _waiting import PATIENCE, eventually
from genmeter.config.monitor import LabelLimits
from genmeter.events.model import CallDefaults, Raw
from genmeter.handlers.dispatch import HandlerDispatcher
from genmeter.history.store import History
from genmeter.pipeline import drain as module
from genmeter.pipeline.drain import CAPACITY, HIGH_WATER, SLICE, WAKE, Pipeline
from genmeter.pipeline.self_metrics import SelfMetrics
from genmeter.session import Session, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def in_thread(function: Callable[[], Any]) -> Any:
    """Call a function on another thread; return its result or raise its error."""
    found: dict[str, Any] = {}

    def call() -> None:
        try:
            found["result"] = function()
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if "error" in found:
        raise found["error"]
    return found["result"]


class Bench:
    """A pipeline with one session, used as a monitor does."""

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        limits = {
            name: getattr(LabelLimits(), name)
            for name in LabelLimits.__dataclass_fields__
            if name != "combinations"
        }
        self.self_metrics = SelfMetrics()
        self.pipeline = Pipeline(limits, self_metrics=self.self_metrics, on_start=on_start)
        dispatcher = HandlerDispatcher(self.self_metrics, self.pipeline.deferred_log)
        state = SessionState(CallDefaults("m", None, "chat"), History(100_000))
        self.session = Session(state, dispatcher)
        state.is_closed = True  # so that it is not closed at its end

    def append(self, count: int = 1, duration: Any = 0.1) -> None:
        """Append events without calling ``after_append``."""
        for _ in range(count):
            self.pipeline.inbox.append(
                (
                    Raw.GENERATION,
                    self.session,
                    time.time(),
                    duration,
                    False,
                    {},
                    None,
                    None,
                    None,
                    None,
                )
            )

    def record(self, count: int = 1, *, inline: bool = False, duration: Any = 0.1) -> None:
        """Append events, calling ``after_append`` after each."""
        for _ in range(count):
            self.append(duration=duration)
            self.pipeline.after_append(inline=inline)

    def read(self, timeout: float | None = None) -> int:
        """Return how many events the history has."""
        return self.pipeline.run(lambda: self.session.history.size, timeout)

    def spy(self, on_event: Callable[[Any], Any]) -> None:
        """Have a function called with each event after the history has it."""
        self.session.recorders = (self.session.history, Spy(on_event))

    def run_thread(self) -> None:
        """Start the pipeline's thread."""
        self.pipeline.start()
        assert self.pipeline.is_running

    @property
    def recorded(self) -> int:
        """How many events were drained."""
        return self.self_metrics.recorded

    @property
    def rejected(self) -> dict[str, int]:
        """Dropped values by reason."""
        return self.self_metrics.rejected

    def close(self) -> None:
        """End the pipeline's threads."""
        thread, self.pipeline._thread = self.pipeline._thread, None
        self.pipeline._is_woken = False
        self.pipeline.wake()
        if isinstance(thread, threading.Thread) and thread.ident is not None:
            thread.join(PATIENCE)
        self.pipeline.deferred_log.finish(PATIENCE)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a bench whose thread does not run yet."""
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pipeline's thread sleep until it is woken."""
    monkeypatch.setattr(module, "_INTERVAL", 3_600.0)


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def _interrupt(thread: threading.Thread) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent the start of threads."""
    monkeypatch.setattr(threading.Thread, "start", _refuse)


class Holder:
    """Holds the drain's lock on another thread in a block."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._release = threading.Event()
        self._held = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        def wait() -> None:
            self._held.set()
            self._release.wait(PATIENCE)

        self._pipeline.lock.call(wait, None)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._release.set()
        self._thread.join(PATIENCE)


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


# --- reading -------------------------------------------------------------------------------------


class Spy:
    """A recorder that calls a function with each event."""

    def __init__(self, on_event: Callable[[Any], Any]) -> None:
        self.record = on_event


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("caller", [lambda function: function(), in_thread])
def test_every_thread_reads_its_own_writes(
    bench: Bench, is_running: bool, caller: Callable[[Any], Any]
) -> None:
    """A read contains the events that its thread recorded before."""
    if is_running:
        bench.run_thread()

    def record_and_read() -> list[int]:
        counts = []
        for _ in range(50):
            bench.append()
            counts.append(bench.read())
        return counts

    assert caller(record_and_read) == list(range(1, 51))


@pytest.mark.parametrize("caller", [lambda function: function(), in_thread])
def test_reads_run_on_the_pipelines_thread(bench: Bench, caller: Callable[[Any], Any]) -> None:
    """Before it runs, each caller reads on its own thread."""
    asked = lambda: (threading.get_ident(), bench.pipeline.run(threading.get_ident))  # noqa: E731
    caller_ident, reader = caller(asked)
    assert caller_ident == reader
    bench.run_thread()
    assert caller(lambda: bench.pipeline.run(lambda: threading.current_thread().name)) == "genmeter"


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt, TimeoutError])
def test_error_of_a_read_reaches_its_caller(
    bench: Bench, is_running: bool, error: type[BaseException]
) -> None:
    """The pipeline continues."""
    if is_running:
        bench.run_thread()

    def fail() -> None:
        raise error("of the function")

    with pytest.raises(error, match="of the function"):
        bench.pipeline.run(fail, PATIENCE)
    bench.append()
    assert bench.read() == 1


def test_nested_read_returns_at_once(bench: Bench) -> None:
    """It does not wait for its own lock."""
    bench.append()
    assert bench.pipeline.run(bench.read) == 1
    bench.run_thread()
    assert bench.pipeline.run(bench.read) == 1


def test_read_times_out(bench: Bench) -> None:
    """A read on any thread raises TimeoutError if the owner is busy for too long."""
    with Holder(bench.pipeline), pytest.raises(TimeoutError, match=r"was not free within 0\.01 s"):
        bench.read(timeout=0.01)
    bench.run_thread()
    with Holder(bench.pipeline):
        for caller in (lambda function: function(), in_thread):
            with pytest.raises(TimeoutError, match=r"did not answer within 0\.01 s"):
                caller(lambda: bench.read(timeout=0.01))
    bench.append()
    assert bench.read(timeout=PATIENCE) == 1


def test_infinite_timeout_is_valid(bench: Bench) -> None:
    """A timeout longer than a lock supports means without a limit."""
    bench.append()
    assert bench.read(timeout=1e12) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_read_succeeds_after_the_thread_has_died(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread then reads by itself."""
    bench.run_thread()
    turn, thread = bench.pipeline._turn, bench.pipeline._thread

    def die() -> None:
        raise SystemExit

    monkeypatch.setattr(module, "_POLL", 0.01)
    monkeypatch.setattr(bench.pipeline, "_turn", die)
    bench.append()
    assert bench.read(timeout=PATIENCE) == 1
    assert not bench.pipeline.is_running
    assert isinstance(thread, threading.Thread)
    thread.join(PATIENCE)  # what it ended with is reported before this test's end, not in another's
    monkeypatch.setattr(bench.pipeline, "_turn", turn)
    bench.record()
    assert bench.pipeline.is_running
    assert bench.pipeline.run(lambda: threading.current_thread().name) == "genmeter"


def test_read_at_the_end_of_the_interpreter_uses_no_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemon threads are frozen then, so the main thread reads by itself."""
    bench.run_thread()
    bench.append()
    monkeypatch.setattr(module.sys, "is_finalizing", lambda: True)
    assert bench.pipeline.run(lambda: threading.current_thread().name) == "MainThread"


def test_interrupted_start_is_repeated_by_a_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception may interrupt the start of the thread."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.record()
    assert bench.pipeline.run(lambda: threading.current_thread().name) == "genmeter"
    assert bench.recorded == 1


def test_read_waits_for_a_slow_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread polls while the pipeline's thread is busy."""
    monkeypatch.setattr(module, "_POLL", 0.001)
    bench.run_thread()
    assert bench.pipeline.run(lambda: time.sleep(0.05) or "done", timeout=PATIENCE) == "done"


def test_signal_handler_reads_right_after_the_lock_is_acquired(bench: Bench) -> None:
    """It neither waits for its own thread's lock nor misses a write."""
    assert bench.pipeline.lock.acquire(0)
    try:
        bench.append()
        assert bench.read() == 1
        bench.record(inline=True)
        assert bench.recorded == 2
    finally:
        bench.pipeline.lock.release()


def test_signal_handler_during_a_drain_only_appends(bench: Bench) -> None:
    """Its events wait for the next drain; drains are not nested."""
    depth = 0

    def record_once(event: Any) -> None:
        nonlocal depth
        depth += 1
        assert depth == 1
        if bench.recorded == 0:
            bench.record(inline=True)
        depth -= 1

    bench.spy(record_once)
    bench.record(inline=True)
    assert bench.recorded == 1
    assert bench.read() == 2


# --- requests that are cancelled ----------------------------------------------------------------


class Busy:
    """Keeps the pipeline's thread busy in a block, in one of four ways."""

    def __init__(self, bench: Bench, how: str) -> None:
        self._bench = bench
        self._how = how
        self._gate = threading.Event()
        self._busy = threading.Event()
        self._holder = Holder(bench.pipeline)
        self._asker = threading.Thread(target=bench.pipeline.run, args=[self._wait])

    def _wait(self, _event: object = None) -> None:
        self._busy.set()
        self._gate.wait(PATIENCE)

    def __enter__(self) -> None:
        if self._how == "lock":
            self._holder.__enter__()
            return
        if self._how == "request":
            self._asker.start()
        elif self._how == "event":
            self._bench.spy(self._wait)
            self._bench.record()
            self._bench.pipeline.wake()
        else:
            self._bench.pipeline.post(self._wait)
            self._bench.pipeline.wake()
        assert self._busy.wait(PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._gate.set()
        if self._how == "lock":
            self._holder.__exit__()
        elif self._how == "request":
            self._asker.join(PATIENCE)


BUSY = ["lock", "request", "event", "function"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("how", BUSY)
def test_timed_out_request_is_never_executed(bench: Bench, how: str, count: int) -> None:
    """It reads and changes nothing, in each way of keeping the owner busy."""
    bench.run_thread()
    calls: list[int] = []

    def ask(number: int) -> None:
        with pytest.raises(TimeoutError):
            bench.pipeline.run(lambda: calls.append(number), 0.02)

    with Busy(bench, how):
        askers = [threading.Thread(target=ask, args=[number]) for number in range(count)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(PATIENCE)
            assert not asker.is_alive()
    assert bench.pipeline.run(lambda: "answered", PATIENCE) == "answered"
    assert calls == []
    assert not bench.pipeline._requests


def test_request_waiting_for_the_lock_can_be_cancelled(bench: Bench) -> None:
    """The owner may wait for a fork's lock after it has taken a request."""
    bench.run_thread()
    calls: list[int] = []

    def ask() -> None:
        with pytest.raises(TimeoutError):
            bench.pipeline.run(lambda: calls.append(1), 0.2)

    with Holder(bench.pipeline):
        asker = threading.Thread(target=ask)
        asker.start()
        assert eventually(lambda: not bench.pipeline._requests)  # the owner has it
        asker.join(PATIENCE)
    bench.read(timeout=PATIENCE)
    assert calls == []


def test_a_request_is_executed_exactly_once_or_times_out(bench: Bench) -> None:
    """Timeout and answer race, and the result always agrees with the calls."""
    bench.run_thread()
    calls: dict[tuple[int, int], int] = {}
    outcomes: dict[tuple[int, int], str] = {}

    def call(key: tuple[int, int]) -> str:
        calls[key] = calls.get(key, 0) + 1
        return "answered"

    def ask(asker: int) -> None:
        for number in range(200):
            key = (asker, number)
            try:
                outcomes[key] = bench.pipeline.run(lambda key=key: call(key), number % 8 * 2e-5)
            except TimeoutError:
                outcomes[key] = "gave up"

    askers = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(PATIENCE)
        assert not asker.is_alive()
    bench.read(timeout=PATIENCE)
    assert len(outcomes) == 800
    assert calls == {key: 1 for key, outcome in outcomes.items() if outcome == "answered"}


def test_request_that_has_begun_returns_its_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout does not apply once the function was called."""
    bench.run_thread()
    begun = threading.Event()
    wake = bench.pipeline.wake

    def wake_and_see_it_begin() -> None:
        wake()
        assert begun.wait(PATIENCE)

    def work() -> str:
        begun.set()
        time.sleep(0.05)
        return "done"

    monkeypatch.setattr(bench.pipeline, "wake", wake_and_see_it_begin)
    assert bench.pipeline.run(work, timeout=0.0) == "done"


def test_request_begun_by_a_frozen_thread_times_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the interpreter threads no longer run."""
    monkeypatch.setattr(module, "_POLL", 0.01)
    bench.run_thread()
    gate, begun = threading.Event(), threading.Event()

    def freeze() -> None:
        monkeypatch.setattr(module.sys, "is_finalizing", lambda: True)
        begun.set()
        gate.wait(PATIENCE)

    try:
        with pytest.raises(TimeoutError, match="the interpreter ends"):
            bench.pipeline.run(freeze)
        assert begun.is_set()
    finally:
        gate.set()


def test_interrupted_read_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise while its thread waits for an answer."""
    bench.run_thread()
    calls: list[int] = []
    wake = bench.pipeline.wake

    def interrupt() -> None:
        wake()
        raise KeyboardInterrupt

    with Busy(bench, "request"):
        monkeypatch.setattr(module.Request, "wait", lambda self, timeout: interrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.pipeline.run(lambda: calls.append(1))
        monkeypatch.undo()
    bench.read(timeout=PATIENCE)
    assert calls == []


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
    assert "thread cannot be started (can't start new thread)" in record.getMessage()


def test_failed_start_is_repeated_at_the_next_event(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread starts as soon as the system allows it."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
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
    assert "telemetry could not be started" in record.getMessage()
    assert record.exc_info


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
