"""From the caller's thread to the recorders: the inbox, and the one drain.

A caller appends a tuple of plain data to the inbox and goes on. The pipeline's thread alone owns
all state behind it: it drains the inbox in the order of the appends, and every read is a request to
it, which is cancelled when its time is over. No caller's thread ever holds a lock of ours, so a
signal handler, a fork or an exception in the middle of a call finds nothing half done.

Where a monitor drains inline, and where no thread can be started, the callers' threads drain under
one lock, which the thread holds too while it works.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from genmeter.clock import seconds_left
from genmeter.events.model import Raw, Reason
from genmeter.events.sanitize import Normaliser
from genmeter.events.values import safe_text
from genmeter.pipeline.deferred_log import DeferredLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from genmeter.events.model import CallDefaults, Event
    from genmeter.pipeline.self_metrics import SelfMetrics

    RawEvent = tuple[Any, ...]

__all__ = ["DrainLock", "Pipeline", "Recorder", "Recording", "Request"]

_T = TypeVar("_T")


# Neither the lock nor a request is built on threading.Event or Condition: these have a lock inside,
# and a signal handler that came while its own thread held that one would wait for ever.
class DrainLock:
    """A lock that knows whether its holder is in the middle of something.

    It is re-entrant only because such a lock knows its owner from the moment on that it is taken,
    and a signal handler may come at that very moment.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_busy = False

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the lock."""
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined] # noqa: SLF001
        return owned

    @property
    def is_inside(self) -> bool:
        """Whether this thread is in the middle of a :meth:`call`."""
        return self._is_busy and self.is_mine

    def call(self, function: Callable[[], _T], timeout: float | None) -> _T:
        """Call ``function`` under the lock.

        Args:
            function: What to call.
            timeout: Seconds to wait for the lock; None means until it is free.

        Raises:
            TimeoutError: The lock was not free in time.
        """
        if timeout is None:
            with self._lock:  # no exception of a signal handler can come between lock and release
                return self._busily(function)
        try:
            if not self.acquire(timeout):
                raise TimeoutError(f"the drain's lock was not free within {timeout} s")
            return self._busily(function)
        finally:
            self.release()

    def acquire(self, timeout: float) -> bool:
        """Acquire the lock until :meth:`release`; returns whether it was free in time.

        Args:
            timeout: Seconds to wait.
        """
        return self._lock.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def release(self) -> None:
        """Release the lock, where this thread holds it."""
        if self.is_mine:
            self._lock.release()

    def _busily(self, function: Callable[[], _T]) -> _T:
        self._is_busy = True
        try:
            return function()
        finally:
            self._is_busy = False


class _CancelledError(Exception):
    """The asker of a request does not wait any more."""


class Request:
    """A function that the owner is asked to call; it is called once or never.

    Args:
        function: The function.

    Attributes:
        result: What it returned.
        error: What it raised.
    """

    __slots__ = ("_answered", "_claims", "_function", "error", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Any = None
        self.error: BaseException | None = None
        # Whoever takes it out, to call the function or to cancel, was first.
        self._claims = [None]
        self._answered = threading.Lock()
        self._answered.acquire()

    def answer(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        """Have ``call`` call the function, and wake the asker; never raises.

        It may be cancelled until the very moment that ``call`` calls it: the owner may have to wait
        for a lock, or to drain, before it comes to that.
        """
        if not self._claims:
            return
        try:
            self.result = call(self._claim)
        except _CancelledError:
            pass
        except BaseException as error:  # raised again in the thread that asked
            self.error = error
        finally:
            self._answered.release()

    def cancel(self) -> bool:
        """Keep the function from being called; returns False where its call has begun."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def _claim(self) -> Any:
        if not self.cancel():
            raise _CancelledError
        return self._function()

    def wait(self, timeout: float) -> bool:
        """Wait for the answer; returns whether it came.

        Args:
            timeout: Seconds to wait at most.
        """
        return self._answered.acquire(timeout=timeout)


WAKE = 256
"""Waiting events at which the pipeline's thread is woken before its second is over."""
HIGH_WATER = 4_096
"""Waiting events from which on a producer lets go of the interpreter, for the drain's sake."""
CAPACITY = 131_072
"""Waiting events at which further ones are dropped and counted."""
SLICE = 64
"""Events that are drained before the interpreter's other threads get a turn."""
_INTERVAL = 1.0
_YIELD = 0.0005
_POLL = 0.25
_MOST_LINES = 1_000
_LONGEST_DRAIN = 2.0  # seconds; a collection that outlasts its time-out is a failed scrape


class Recorder(Protocol):
    """Keeps events."""

    def record(self, event: Event) -> None:
        """Keep a clean event."""


class RecordingState(Protocol):
    """What is known of one monitor.

    Attributes:
        defaults: The labels of calls that do not say.
        has_events: Set with the first event.
    """

    defaults: CallDefaults
    has_events: bool


class Recording(Protocol):
    """What the events of one monitor are recorded in.

    Attributes:
        recorders: Each gets every event, in this order.
        is_started: Whether :meth:`start` has done its work.
    """

    recorders: tuple[Recorder, ...]
    is_started: bool

    @property
    def state(self) -> RecordingState:
        """What is known of the monitor."""

    def start(self) -> None:
        """Start what waits for the first event of the monitor."""


class Pipeline:
    """The inbox of a process and the drain of its events.

    Args:
        limits: How many values each label may take, by the name of the limit.
        self_metrics: Where rejected values are counted.
        on_start: Called by the owner before the first drain, and again after
            :meth:`request_restart` and in a forked child that records anything: the place to bind
            sockets and start pushes. It must not log.
        on_turn: Called by the pipeline's thread at each turn, once a second at least, and by callers'
            threads that drain inline; must not wait.

    Attributes:
        inbox: The events that wait for the drain.
        lock: Held by whoever drains.
        deferred_log: The lines that wait to be logged.
        backlog: How many events the newest read had to wait for.
        is_running: Whether the thread was started.
        epoch: How often this process came out of a fork.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        *,
        self_metrics: SelfMetrics,
        on_start: Callable[[], None] = lambda: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.inbox: deque[RawEvent] = deque()
        self.self_metrics = self_metrics
        self.deferred_log = DeferredLog()
        self.epoch = 0
        self.backlog = 0
        self._on_start = on_start
        self._on_turn = on_turn
        self.normaliser = Normaliser(limits, on_reject=self.reject, on_overflow=self._overflow)
        self._clean: dict[Raw, Callable[[float, Any, CallDefaults], Event | None]] = {
            Raw.GENERATION: self.normaliser.generation,
            Raw.EVALUATION: self.normaliser.evaluation,
            Raw.METRIC: lambda when, payload, _: self.normaliser.metric(when, payload),
            Raw.SAMPLE: lambda when, payload, _: self.normaliser.sample(when, payload),
            Raw.LOG: lambda when, payload, _: self.normaliser.log(when, payload),
        }
        self._warned: set[tuple[Reason, str]] = set()
        self._requests: deque[Request] = deque()
        self._reset_thread_state()

    def __repr__(self) -> str:
        return f"<Pipeline with {len(self.inbox)} waiting events>"

    def _reset_thread_state(self) -> None:
        self.is_running = False
        self._wants_thread = False
        self._is_stopped = False
        self.lock = DrainLock()
        self._thread: threading.Thread | None = None
        # Released to wake the thread: a release never waits, so a signal handler may do it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_woken = False
        # Starts that were asked for, and the last of them that was made.
        self._starts = 1
        self._started = 0

    # --- the caller's path ---------------------------------------------------------------------

    def after_append(self, *, inline: bool) -> None:
        """Look after the inbox after an append.

        A monitor calls this where the pipeline does not run yet, where it drains inline, and
        where :data:`WAKE` or more events wait. Never raises, never waits for a lock.
        """
        if inline:
            self._drain_in_passing(sys.maxsize)
            self._on_turn()
            self.deferred_log.flush()
            return
        self._wants_thread = True
        if not self.is_running:
            self.start()
        waiting = len(self.inbox)
        if waiting >= WAKE:
            self.wake()
        if waiting < HIGH_WATER:
            return
        if waiting > CAPACITY:
            self._drop_newest()
        elif not self.is_running and self._drain_in_passing(SLICE):
            return
        # The thread drains: let go of the interpreter for a moment.
        time.sleep(_YIELD)

    def post(self, function: Callable[[], object]) -> None:
        """Have a function called by the owner, in its turn among the events.

        Never raises, never waits for a lock.
        """
        self.inbox.append((Raw.CALL, function))
        if len(self.inbox) >= WAKE or not self.is_running:
            self.after_append(inline=False)

    def reject(self, reason: Reason, name: str, value: object) -> None:
        """Count a value that is dropped; the first of its kind is logged."""
        self.self_metrics.count_rejected(reason)
        if self._is_new(reason, name):
            self.deferred_log.add(
                logging.WARNING,
                "dropped invalid %s=%s (%s); logged once, then only counted in "
                "genmeter_monitor_events_total",
                name,
                safe_text(value, 200),
                reason.value.replace("_", " "),
            )

    def _overflow(self, limit: str) -> None:
        self.self_metrics.count_overflow(limit)
        if self._is_new(Reason.OVERFLOW, limit):
            self.deferred_log.add(
                logging.WARNING,
                "%s limit reached; new values are recorded as 'other', in metrics and in reports; "
                "LabelLimits.%s (GENMETER_MAX_%s) raises it",
                limit.replace("_", " "),
                limit,
                limit.upper(),
            )

    def _drop_newest(self) -> None:
        try:
            self.inbox.pop()
        except IndexError:
            return
        self.reject(Reason.INBOX_FULL, "event", f"the newest of {CAPACITY} that wait")

    def _is_new(self, reason: Reason, name: str) -> bool:
        key = (reason, name)
        if key in self._warned or len(self._warned) >= _MOST_LINES:
            return False
        self._warned.add(key)
        return True

    # --- reading -------------------------------------------------------------------------------

    def run(self, function: Callable[[], _T], timeout: float | None = None) -> _T:
        """Drain the events that wait now, then have the owner call ``function``.

        Args:
            function: Reads or changes state; it must not wait for anything.
            timeout: Seconds to wait; None means until it is done.

        Returns:
            What ``function`` returns.

        Raises:
            TimeoutError: The owner did not come to it in time; ``function`` is not called later.
        """
        if self.lock.is_inside:
            return function()
        if self._wants_thread and not self.is_running:
            self.start()
        if self._may_hold_lock():
            return self.lock.call(lambda: self._read(function), timeout)
        return self._ask(function, timeout)

    def drain_for_collection(self) -> None:
        """Drain the events that wait now, within a budget; for a collection that is about to read."""
        with contextlib.suppress(TimeoutError):
            self.run(lambda: None, timeout=_LONGEST_DRAIN)

    def reserve(self, limit: str, values: Iterable[str]) -> None:
        """Keep a place for values of a label; to be called through :meth:`run`."""
        self.normaliser.tables[limit].reserve(values)

    def _may_hold_lock(self) -> bool:
        # Not Thread.is_alive(), which an exception of a signal handler can make lie for ever.
        return not self.is_running or self.lock.is_mine or sys.is_finalizing()

    def _ask(self, function: Callable[[], _T], timeout: float | None) -> _T:
        request = Request(function)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._requests.append(request)
        self.wake()
        try:
            while not request.wait(_poll(deadline)):
                if deadline is not None and time.monotonic() >= deadline:
                    if request.cancel():
                        raise TimeoutError(f"the pipeline did not answer within {timeout} s")
                    deadline = None  # it is being called, which takes a moment only
                if self._may_hold_lock():  # its thread is gone
                    if request.cancel():
                        return self.run(function, _left(deadline))
                    if sys.is_finalizing():
                        raise TimeoutError("the interpreter ends, and its threads are frozen")
                self.wake()
        finally:
            request.cancel()
        if request.error is not None:
            raise request.error
        result: _T = request.result
        return result

    # --- draining ------------------------------------------------------------------------------

    def _read(self, function: Callable[[], _T]) -> _T:
        self.backlog = len(self.inbox)
        self._drain(self.backlog)
        return function()

    def _drain_in_passing(self, limit: int) -> bool:
        """Drain without waiting for the lock; returns whether it was free."""
        if self.lock.is_inside:
            return False
        try:
            self.lock.call(lambda: self._drain(min(limit, len(self.inbox))), 0)
        except TimeoutError:
            return False
        return True

    def _drain(self, limit: int) -> None:
        if limit and self._started != self._starts:
            self._begin()
        take = self.inbox.popleft
        clean = self._clean
        try:
            for _ in range(limit):
                raw = take()
                kind = raw[0]
                try:
                    if kind is Raw.CALL:
                        raw[1]()
                        continue
                    session: Recording = raw[1]
                    state = session.state
                    event = clean[kind](raw[2], raw[3:], state.defaults)
                    if event is None:
                        continue
                    if not session.is_started:
                        state.has_events = True
                        session.start()
                    for recorder in session.recorders:
                        recorder.record(event)
                except Exception as error:
                    self._report_defect(kind, error)
                    continue
                self.self_metrics.recorded += 1
        except IndexError:
            pass  # a producer took back an event that this drain had counted on

    def _report_defect(self, what: str, error: Exception) -> None:
        self.self_metrics.count_rejected(Reason.INTERNAL)
        if self._is_new(Reason.INTERNAL, what):
            self.deferred_log.add(
                logging.ERROR,
                "internal error while processing %s; the event was dropped",
                what,
                error=error,
            )

    # --- the thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the pipeline's thread, if it does not run yet; of two that start, one stays."""
        if self.is_running or self._is_stopped:
            return
        before = self._thread
        thread = threading.Thread(target=self._loop, name="genmeter", daemon=True)
        self._thread = thread
        try:
            thread.start()
            self.is_running = True
        except RuntimeError as error:
            # No thread to be had (the interpreter ends, or the system's limit): every read and
            # every full inbox still drains, in the caller's thread.
            self._thread = before
            if self._is_new(Reason.INTERNAL, "thread"):
                self.deferred_log.add(
                    logging.WARNING,
                    "the pipeline's thread cannot be started (%s); the job's own calls drain",
                    error,
                )

    def stop(self, timeout: float) -> None:
        """End the thread, once it has drained; later events are drained by reads.

        Args:
            timeout: Seconds to wait for it at most.
        """
        self._is_stopped = True
        thread = self._thread
        self._is_woken = False
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # it was not started
                thread.join(min(timeout, threading.TIMEOUT_MAX))

    def request_restart(self) -> None:
        """Have ``on_start`` called once more, before the next event is drained."""
        self._starts += 1

    def wake(self) -> None:
        """Wake the thread; never waits."""
        if self._is_woken:
            return
        self._is_woken = True
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def _begin(self) -> None:
        asked = self._starts
        try:
            self._on_start()
        except Exception as error:
            self.deferred_log.add(
                logging.ERROR,
                "telemetry could not be started; the job goes on without it",
                error=error,
            )
        self._started = asked

    def _loop(self) -> None:
        me = threading.current_thread()
        wake = self._wake
        try:
            # In a forked child of gevent's the parent's greenlets live on, and end here.
            while self._thread is me:
                self.is_running = True  # also where an exception cut start() short
                self._turn()
                if self._is_stopped:
                    return
                wake.acquire(timeout=_INTERVAL)
                self._is_woken = False
        finally:
            if self._thread in (me, None):
                self.is_running = False

    def _turn(self) -> None:
        try:
            self._serve()
            while self.inbox:
                self.lock.call(lambda: self._drain(SLICE), None)
                time.sleep(0)
                self._serve()
                self.deferred_log.flush_in_background()
            self.lock.call(self._on_turn, None)
            self.deferred_log.flush_in_background()
        except Exception as error:
            self._report_defect("the drain", error)

    def _serve(self) -> None:
        while self._requests:
            with contextlib.suppress(IndexError):  # the thread that this one replaces was faster
                self._requests.popleft().answer(self._answer)

    def _answer(self, function: Callable[[], _T]) -> _T:
        return self.lock.call(lambda: self._read(function), None)

    # --- fork ----------------------------------------------------------------------------------

    def acquire_for_fork(self, timeout: float) -> bool:
        """Hold the lock until :meth:`release_after_fork`, so that the owner is in no foreign code.

        Args:
            timeout: Seconds to wait; the fork then goes ahead without it.

        Returns:
            Whether the lock is held.
        """
        return self.lock.acquire(timeout)

    def release_after_fork(self) -> None:
        """Release the lock, in the parent, where this thread holds it."""
        self.lock.release()

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child: nothing waits, no thread runs, nobody holds a lock."""
        self.inbox.clear()
        self._requests.clear()
        self.deferred_log.clear()
        self.epoch += 1
        self._reset_thread_state()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else seconds_left(deadline)


def _poll(deadline: float | None) -> float:
    left = _left(deadline)
    return _POLL if left is None else min(_POLL, left)
