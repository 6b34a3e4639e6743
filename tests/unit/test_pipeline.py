"""The drain: when it runs, what it holds, and what it survives."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import pipeline as module
from genmeter.config import LabelLimits
from genmeter.events import CallDefaults, Raw
from genmeter.pipeline import CAPACITY, HIGH_WATER, SLICE, WAKE, Pipeline
from genmeter.recorders.history import History
from genmeter.recorders.relay import Relay
from genmeter.sink import Sink
from genmeter.tallies import Tallies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0
"""Seconds after which a test gives up on something that should take an instant."""


def eventually(holds: Callable[[], Any]) -> bool:
    """Wait until something holds; tell whether it did in the end."""
    deadline = time.monotonic() + PATIENCE
    while not (held := bool(holds())) and time.monotonic() < deadline:
        time.sleep(0.005)
    return held


def in_thread(function: Callable[[], Any]) -> Any:
    """Call something on another thread; give what it gives, raise what it raises."""
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
    """A pipeline with one sink, and what a monitor does with them."""

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        limits = {
            name: getattr(LabelLimits(), name)
            for name in LabelLimits.__dataclass_fields__
            if name != "combinations"
        }
        self.tallies = Tallies()
        self.pipeline = Pipeline(limits, tallies=self.tallies, on_start=on_start)
        relay = Relay(self.tallies, self.pipeline.notices)
        self.sink = Sink(CallDefaults("m", None, "chat"), History(100_000), relay)

    def append(self, count: int = 1, duration: Any = 0.1) -> None:
        """Append events without looking after the inbox."""
        for _ in range(count):
            self.pipeline.inbox.append(
                (Raw.GENERATION, self.sink, time.time(), duration, True, {}, None)
            )

    def tell(self, count: int = 1, *, inline: bool = False, duration: Any = 0.1) -> None:
        """Append events, looking after the inbox after each."""
        for _ in range(count):
            self.append(duration=duration)
            self.pipeline.tend(inline=inline)

    def read(self, timeout: float | None = None) -> int:
        """Read how many events the history has."""
        return self.pipeline.run(lambda: self.sink.history.size, timeout)

    def run_thread(self) -> None:
        """Have the pipeline's thread run, and idle."""
        self.pipeline.start()
        assert self.pipeline.is_running

    @property
    def recorded(self) -> int:
        """How many events were drained."""
        return self.tallies.recorded

    @property
    def rejected(self) -> dict[str, int]:
        """What was left out, by reason."""
        return self.tallies.rejected

    def close(self) -> None:
        """End the pipeline's threads."""
        thread, self.pipeline._thread = self.pipeline._thread, None
        self.pipeline._is_rung = False
        self.pipeline._ring()
        if isinstance(thread, threading.Thread) and thread.ident is not None:
            thread.join(PATIENCE)
        self.pipeline.notices.finish(PATIENCE)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give a bench whose thread does not run yet."""
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
    """Let no thread be started."""
    monkeypatch.setattr(threading.Thread, "start", _refuse)


class Holder:
    """Another thread that holds the drain's lock in a block."""

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


def test_an_event_is_drained_though_nobody_reads(bench: Bench) -> None:
    """One event reaches the history by the pipeline's own thread."""
    bench.tell()
    assert eventually(lambda: bench.recorded == 1)


def test_a_second_that_goes_by_drains_what_nobody_rang_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events below the wake mark are drained at the next turn of the thread."""
    monkeypatch.setattr(module, "_INTERVAL", 0.02)
    bench.run_thread()
    for told in range(1, 4):
        bench.append()
        assert eventually(lambda told=told: bench.recorded == told)


@pytest.mark.usefixtures("lazy")
def test_a_burst_wakes_the_thread(bench: Bench) -> None:
    """The event that makes :data:`WAKE` has the thread drain them all, whatever its interval."""
    bench.run_thread()
    bench.append(WAKE - 1)
    bench.tell()
    assert eventually(lambda: bench.recorded == WAKE)


def test_the_thread_drains_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long inbox is drained a slice at a time, and the lock is free in between."""
    limits: list[int] = []
    drain = bench.pipeline._drain
    monkeypatch.setattr(
        bench.pipeline, "_drain", lambda limit: (limits.append(limit), drain(limit))
    )
    bench.append(10 * SLICE)
    bench.run_thread()
    assert eventually(lambda: bench.recorded == 10 * SLICE)
    assert limits == [SLICE] * 10


def test_an_inline_event_is_drained_in_its_own_call(bench: Bench) -> None:
    """With ``drain="inline"`` the caller drains, and no thread is started."""
    bench.tell(3, inline=True)
    assert bench.recorded == 3
    assert not bench.pipeline.is_running


def test_a_collection_drains_what_waits(bench: Bench) -> None:
    """What was told before a collection is recorded when it reads."""
    bench.append(5)
    bench.pipeline.drain_for_collection()
    assert bench.recorded == 5


def test_a_collection_gives_up_on_a_lock_that_is_not_free(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that cannot drain within its budget goes on without."""
    monkeypatch.setattr(module, "_LONGEST_DRAIN", 0.01)
    bench.append()
    with Holder(bench.pipeline):
        bench.pipeline.drain_for_collection()
        assert bench.recorded == 0


# --- back-pressure -------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads")
def test_over_high_water_a_producer_drains(bench: Bench) -> None:
    """Without any other thread the producer keeps its own inbox at the mark, and loses nothing."""
    total = HIGH_WATER + 10 * SLICE
    longest = 0
    for _ in range(total):
        bench.tell()
        longest = max(longest, len(bench.pipeline.inbox))
    assert longest < HIGH_WATER
    assert bench.read() == total
    assert bench.rejected == {}


@pytest.mark.usefixtures("lazy")
def test_the_main_thread_does_not_drain_while_the_pipelines_thread_lives(bench: Bench) -> None:
    """Over high water the main thread lets the pipeline's thread do it."""
    drained_by: set[int] = set()
    bench.sink.instruments = Spy(lambda event: drained_by.add(threading.get_ident()))
    bench.run_thread()
    bench.tell(2 * HIGH_WATER)
    assert bench.read() == 2 * HIGH_WATER
    thread = bench.pipeline._thread
    assert thread is not None
    assert drained_by == {thread.ident}


def test_a_producer_never_waits_for_the_lock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over high water a call lets go of the interpreter for a moment where another one drains."""
    naps: list[float] = []
    with Holder(bench.pipeline):
        bench.append(HIGH_WATER)
        monkeypatch.setattr(module.time, "sleep", naps.append)
        in_thread(bench.tell)
        monkeypatch.undo()
    assert naps == [module._YIELD]
    assert bench.read() == HIGH_WATER + 1


def test_past_the_cap_events_are_dropped_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While nothing can be drained the inbox stays at its cap, and each dropped event is counted."""
    monkeypatch.setattr(module, "CAPACITY", 1_000)
    monkeypatch.setattr(module, "HIGH_WATER", 500)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with Holder(bench.pipeline):
        longest = 0
        for _ in range(1_500):
            bench.tell()
            longest = max(longest, len(bench.pipeline.inbox))
        assert longest == 1_000
        assert bench.rejected == {"inbox_full": 500}
    monkeypatch.undo()
    assert bench.read() == 1_000
    assert bench.recorded == 1_000
    bench.pipeline.notices.finish(PATIENCE)
    assert sum("inbox full" in record.getMessage() for record in caplog.records) == 1


def test_the_cap_is_far_above_the_mark() -> None:
    """A drain that is late by a moment costs no event."""
    assert WAKE < HIGH_WATER < CAPACITY / 8


def test_taking_back_from_an_empty_inbox_counts_nothing(bench: Bench) -> None:
    """A producer that finds the inbox drained meanwhile has nothing to drop."""
    bench.pipeline._shed()
    assert bench.rejected == {}


def test_an_event_that_was_taken_back_ends_the_drain_quietly(bench: Bench) -> None:
    """A drain that finds fewer events than it had counted is no defect."""
    bench.sink.instruments = Spy(lambda event: bench.pipeline.inbox.clear())
    bench.append(3)
    assert bench.read() == 1
    assert bench.rejected == {}


# --- reading -------------------------------------------------------------------------------------


class Spy:
    """A recorder that calls a function with each event."""

    def __init__(
        self, on_event: Callable[[Any], Any] = lambda event: None, on_flush: Any = lambda: None
    ) -> None:
        self.record = on_event
        self.flush = on_flush


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("caller", [lambda function: function(), in_thread])
def test_every_thread_reads_what_it_wrote(
    bench: Bench, is_running: bool, caller: Callable[[Any], Any]
) -> None:
    """What a thread told before a read is in what it reads."""
    if is_running:
        bench.run_thread()

    def tell_and_read() -> list[int]:
        counts = []
        for _ in range(50):
            bench.append()
            counts.append(bench.read())
        return counts

    assert caller(tell_and_read) == list(range(1, 51))


def test_the_main_thread_asks_the_pipelines_thread(bench: Bench) -> None:
    """What the main thread reads is read by the pipeline's thread, and by itself before that."""
    name = lambda: threading.current_thread().name  # noqa: E731
    assert bench.pipeline.run(name) == "MainThread"
    bench.run_thread()
    assert bench.pipeline.run(name) == "genmeter"


def test_another_thread_reads_by_itself(bench: Bench) -> None:
    """A thread that runs no signal handlers takes the lock."""
    bench.run_thread()
    ident, reader = in_thread(
        lambda: (threading.get_ident(), bench.pipeline.run(threading.get_ident))
    )
    assert ident == reader


@pytest.mark.parametrize("is_running", [False, True])
def test_what_a_read_raises_reaches_who_asked(bench: Bench, is_running: bool) -> None:
    """An error of the function comes out of ``run``, and the pipeline goes on."""
    if is_running:
        bench.run_thread()
    with pytest.raises(ZeroDivisionError):
        bench.pipeline.run(lambda: 1 // 0)
    bench.append()
    assert bench.read() == 1


def test_a_read_in_a_read_is_answered_at_once(bench: Bench) -> None:
    """A function that reads again does not wait for its own lock."""
    bench.append()
    assert bench.pipeline.run(bench.read) == 1
    bench.run_thread()
    assert bench.pipeline.run(bench.read) == 1


def test_a_read_gives_up_after_its_time(bench: Bench) -> None:
    """With a time-out a read of any thread raises where the lock is not free in time."""
    bench.run_thread()
    with Holder(bench.pipeline):
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.01 s"):
            bench.read(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"was not free within 0\.01 s"):
            in_thread(lambda: bench.read(timeout=0.01))
    bench.append()
    assert bench.read(timeout=PATIENCE) == 1


def test_an_endless_time_out_is_no_error(bench: Bench) -> None:
    """A time-out beyond what a lock takes means: until it is free."""
    bench.append()
    assert bench.read(timeout=1e12) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_read_outlives_the_thread_that_should_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pipeline's thread is gone while it is asked, the main thread reads by itself."""
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
    bench.tell()
    assert bench.pipeline.is_running
    assert bench.pipeline.run(lambda: threading.current_thread().name) == "genmeter"


def test_at_the_very_end_of_the_interpreter_a_read_asks_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where daemon threads are frozen already, the main thread reads by itself."""
    bench.run_thread()
    bench.append()
    monkeypatch.setattr(module.sys, "is_finalizing", lambda: True)
    assert bench.pipeline.run(lambda: threading.current_thread().name) == "MainThread"


def test_an_interrupt_of_the_first_call_leaves_the_drain_to_the_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an exception cut the start of the thread short, a read makes up for it."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.tell()
    assert bench.pipeline.run(lambda: threading.current_thread().name) == "genmeter"
    assert bench.recorded == 1


def test_a_long_answer_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread goes on asking while the pipeline's thread is busy."""
    monkeypatch.setattr(module, "_POLL", 0.001)
    bench.run_thread()
    assert bench.pipeline.run(lambda: time.sleep(0.05) or "done", timeout=PATIENCE) == "done"


def test_a_signal_handler_that_comes_as_the_lock_is_taken_reads_its_writes(bench: Bench) -> None:
    """Code that runs in the thread that just took the lock neither waits for it nor misses a write."""
    assert bench.pipeline.lock.take(0)
    try:
        bench.append()
        assert bench.read() == 1
        bench.tell(inline=True)
        assert bench.recorded == 2
    finally:
        bench.pipeline.lock.give_back()


def test_a_signal_handler_in_the_middle_of_a_drain_only_appends(bench: Bench) -> None:
    """What is told while the same thread drains waits for the next drain, and none is nested."""
    depth = 0

    def tell_once(event: Any) -> None:
        nonlocal depth
        depth += 1
        assert depth == 1
        if bench.recorded == 0:
            bench.tell(inline=True)
        depth -= 1

    bench.sink.instruments = Spy(tell_once)
    bench.tell(inline=True)
    assert bench.recorded == 1
    assert bench.read() == 2


# --- the thread ----------------------------------------------------------------------------------


def test_without_a_thread_everything_still_counts(
    bench: Bench, no_threads: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no thread can be started, reads drain, and one warning says so."""
    bench.tell(5)
    assert not bench.pipeline.is_running
    assert bench.read() == 5
    bench.pipeline.notices.tell()
    (record,) = caplog.records
    assert "thread cannot be started (can't start new thread)" in record.getMessage()


def test_a_thread_is_started_as_soon_as_there_is_one_to_have(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that failed is made up for at the next event."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        bench.tell()
    bench.tell()
    assert bench.pipeline.is_running
    assert eventually(lambda: bench.recorded == 2)


def test_of_two_threads_one_stays(bench: Bench) -> None:
    """Two starts at one time leave one thread, which answers."""
    bench.run_thread()
    first = bench.pipeline._thread
    bench.pipeline.is_running = False
    bench.pipeline.start()
    second = bench.pipeline._thread
    assert first is not None
    assert second is not None
    assert second is not first
    assert eventually(lambda: bench.pipeline._ring() or not first.is_alive())
    assert second.is_alive()
    bench.append()
    assert bench.read(timeout=PATIENCE) == 1


def test_starting_a_thread_that_runs_does_nothing(bench: Bench) -> None:
    """A second start keeps the thread."""
    bench.run_thread()
    thread = bench.pipeline._thread
    bench.pipeline.start()
    assert bench.pipeline._thread is thread


def test_a_failed_start_keeps_the_thread_that_was(bench: Bench, no_threads: None) -> None:
    """A start that fails beside one that succeeds leaves the one that did."""
    other = threading.Thread()
    bench.pipeline._thread = other
    bench.pipeline.start()
    assert bench.pipeline._thread is other


def test_telemetry_starts_before_the_first_event_is_recorded() -> None:
    """``on_start`` is called once, under the lock, when the first event is drained and not before."""
    calls: list[tuple[bool, int]] = []
    bench = Bench(lambda: calls.append((bench.pipeline.lock.is_mine, bench.recorded)))
    bench.read()
    assert calls == []
    bench.tell(3, inline=True)
    assert calls == [(True, 0)]


def test_telemetry_starts_again_when_asked() -> None:
    """After ``begin_again`` it is called once more, before the next event."""
    calls: list[int] = []
    bench = Bench(lambda: calls.append(bench.recorded))
    bench.tell(inline=True)
    bench.pipeline.begin_again()
    bench.read()
    assert calls == [0]
    bench.tell(2, inline=True)
    assert calls == [0, 1]


def test_a_start_that_is_asked_for_meanwhile_is_not_lost() -> None:
    """Asked for while ``on_start`` runs, another start is made before the next event."""
    calls: list[int] = []

    def start() -> None:
        calls.append(bench.recorded)
        if len(calls) == 1:
            bench.pipeline.begin_again()

    bench = Bench(start)
    bench.tell(3, inline=True)
    assert calls == [0, 1]


def test_telemetry_that_cannot_start_does_not_stop_the_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of ``on_start`` is logged, and events are recorded all the same."""
    bench = Bench(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    bench.tell(3, inline=True)
    assert bench.recorded == 3
    (record,) = caplog.records
    assert "telemetry could not be started" in record.getMessage()
    assert record.exc_info


# --- defects -------------------------------------------------------------------------------------


def test_a_defect_of_a_recorder_is_counted_and_ends_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A recorder that raises costs its own event only; the log has the traceback once."""

    def fail_twice(event: Any) -> None:
        if event.duration == 13:
            raise ValueError("a defect")

    bench.sink.instruments = Spy(fail_twice)
    bench.run_thread()
    for duration in (1, 13, 2, 13, 3):
        bench.append(duration=duration)
    bench.read()
    assert bench.recorded == 3
    assert bench.rejected == {"internal": 2}
    thread = bench.pipeline._thread
    assert thread is not None
    assert thread.is_alive()
    bench.pipeline.notices.finish(PATIENCE)
    (record,) = caplog.records
    assert record.getMessage() == "generation failed inside genmeter; the job is not harmed"
    assert record.exc_info


def test_a_defect_of_a_flush_is_counted_and_ends_nothing(bench: Bench) -> None:
    """A recorder that cannot flush does not keep the others from it."""
    flushed: list[int] = []
    bench.pipeline.register(Spy(on_flush=lambda: 1 // 0))
    bench.pipeline.register(Spy(on_flush=lambda: flushed.append(1)))
    bench.append()
    assert bench.read() == 1
    assert flushed == [1]
    assert bench.rejected == {"internal": 1}


def test_a_forgotten_recorder_is_not_flushed(bench: Bench) -> None:
    """What was forgotten, even twice, is not called again."""
    spy = Spy(on_flush=lambda: 1 // 0)
    bench.pipeline.register(spy)
    bench.pipeline.forget(spy)
    bench.pipeline.forget(spy)
    bench.read()
    assert bench.rejected == {}


def test_an_event_without_a_shape_is_counted(bench: Bench) -> None:
    """A raw event that cannot be taken apart is left out like any other defect."""
    bench.pipeline.inbox.append((Raw.GENERATION, bench.sink))
    bench.append()
    assert bench.read() == 1
    assert bench.rejected == {"internal": 1}


def test_a_defect_of_the_thread_itself_does_not_end_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a turn of the thread raises is counted, and the next turn comes."""
    serve = bench.pipeline._serve
    turns = iter([RuntimeError("a defect")])

    def fail_once() -> None:
        for error in turns:
            raise error
        serve()

    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(bench.pipeline, "_serve", fail_once)
    bench.tell()
    assert eventually(lambda: bench.recorded == 1)
    assert bench.rejected == {"internal": 1}


# --- the log -------------------------------------------------------------------------------------


class Listening(logging.Handler):
    """A logging handler that calls a function with each record, and does so under its own lock."""

    def __init__(self, on_record: Callable[[logging.LogRecord], Any]) -> None:
        super().__init__()
        self._on_record = on_record

    def emit(self, record: logging.LogRecord) -> None:
        """Call the function."""
        self._on_record(record)


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[logging.LogRecord], Any]], Listening]]:
    """Give a function that adds a logging handler of one's own to the logger, for one test."""
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
    """A notice is logged where nobody waits for the thread that logs it."""
    seen: list[tuple[bool, str]] = []
    listen(
        lambda record: seen.append((bench.pipeline.lock.is_mine, threading.current_thread().name))
    )
    bench.tell(duration="nonsense")
    assert eventually(lambda: seen)
    assert seen == [(False, "genmeter-log")]


def test_a_read_inside_a_logging_handler_does_not_hang(bench: Bench, listen: Any) -> None:
    """The main thread may read while it holds a handler's lock that a notice waits for."""
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
def test_a_logging_handler_may_tell_and_read(bench: Bench, listen: Any, inline: bool) -> None:
    """A handler that tells what causes a notice itself, and reads, ends and loses nothing."""
    read: list[int] = []

    def tell_and_read(record: logging.LogRecord) -> None:
        bench.append()
        bench.pipeline.inbox.append((Raw.METRIC, bench.sink, time.time(), "name", "nonsense", None))
        bench.pipeline.tend(inline=inline)
        read.append(bench.read(timeout=PATIENCE))

    listen(tell_and_read)
    bench.tell(inline=inline, duration="nonsense")
    assert eventually(lambda: len(read) == 2)
    assert read[0] >= 2
    assert set(bench.rejected) == {"not_a_number"}


@pytest.mark.parametrize("inline", [False, True])
def test_a_broken_logging_handler_harms_nobody(bench: Bench, listen: Any, inline: bool) -> None:
    """A handler that raises neither reaches the caller nor ends a thread."""
    listen(lambda record: 1 // 0)
    bench.tell(inline=inline, duration="nonsense")
    bench.tell(inline=inline)
    assert eventually(lambda: not bench.pipeline.notices and bench.recorded == 2)


def test_only_the_first_of_a_kind_is_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each reason and name is told once, and past a number of them no further one."""
    monkeypatch.setattr(module, "_MOST_NOTICES", 3)
    for number in range(10):
        for _ in range(2):
            bench.pipeline.inbox.append(
                (Raw.METRIC, bench.sink, time.time(), f"name{number}", "nonsense", None)
            )
    bench.read()
    bench.pipeline.notices.tell()
    assert len(caplog.records) == 3
    assert bench.rejected == {"not_a_number": 20}


# --- fork ----------------------------------------------------------------------------------------


def test_nothing_drains_while_the_lock_is_kept_for_a_fork(bench: Bench) -> None:
    """Between ``hold`` and ``let_go`` other threads wait, and afterwards nothing is lost."""
    bench.run_thread()
    bench.pipeline.hold(PATIENCE)
    bench.append()
    with pytest.raises(TimeoutError):
        in_thread(lambda: bench.read(timeout=0.01))
    bench.pipeline.let_go()
    assert bench.read(timeout=PATIENCE) == 1


def test_a_fork_goes_ahead_without_a_lock_that_is_not_free(bench: Bench) -> None:
    """``hold`` gives up after its time, and ``let_go`` then leaves the lock to its holder."""
    with Holder(bench.pipeline):
        bench.pipeline.hold(0.01)
        bench.pipeline.let_go()
        with pytest.raises(TimeoutError):
            bench.read(timeout=0.01)
    assert bench.read() == 0


def test_a_child_begins_with_nothing(bench: Bench) -> None:
    """After a fork the child's inbox is empty, nobody holds its lock, and it starts anew."""
    bench.append(5)
    bench.pipeline.register(Spy())
    bench.pipeline.notices.add(logging.WARNING, "the parent's")
    with Holder(bench.pipeline):
        bench.pipeline.reset_after_fork()
        assert bench.read(timeout=PATIENCE) == 0
    assert bench.pipeline.epoch == 1
    assert not bench.pipeline.notices
    assert repr(bench.pipeline) == "<Pipeline with 0 waiting events>"
    bench.tell()
    assert bench.read(timeout=PATIENCE) == 1
