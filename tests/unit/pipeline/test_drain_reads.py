"""The pipeline: reads, from any thread, and requests that are cancelled."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from _bench import Bench, Holder, in_thread, interrupt_start

from _waiting import PATIENCE, eventually
from genmeter.pipeline import drain as module

if TYPE_CHECKING:
    from collections.abc import Callable

# --- reading -------------------------------------------------------------------------------------


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
    with (
        Holder(bench.pipeline),
        pytest.raises(TimeoutError, match=r"^the drain's lock was not free within 0\.01 s$"),
    ):
        bench.read(timeout=0.01)
    bench.run_thread()
    with Holder(bench.pipeline):
        for caller in (lambda function: function(), in_thread):
            with pytest.raises(TimeoutError, match=r"^the pipeline did not answer within 0\.01 s$"):
                caller(lambda: bench.read(timeout=0.01))
    bench.append()
    assert bench.read(timeout=PATIENCE) == 1


def test_backlog_is_what_the_newest_read_found(bench: Bench) -> None:
    """A reader sees whether the drain keeps up."""
    assert bench.pipeline.backlog == 0
    bench.append(5)
    assert repr(bench.pipeline) == "<Pipeline with 5 pending events>"
    bench.read()
    assert bench.pipeline.backlog == 5
    bench.read()
    assert bench.pipeline.backlog == 0


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
        patch.setattr(threading.Thread, "start", interrupt_start)
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
        with pytest.raises(
            TimeoutError, match=r"^the interpreter ends, and its threads are frozen$"
        ):
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
