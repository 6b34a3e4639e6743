"""The pipeline: callers append events to an inbox, and one owner drains it.

A caller appends a tuple of plain data to the inbox and returns. Only the pipeline's thread uses the
state behind it: it drains the inbox in the order of the appends. Reads are requests to that thread,
which are cancelled when they time out. Callers' threads hold no lock, so a signal handler, a fork or
an exception in the middle of a call leaves nothing half done.

If a monitor drains inline, or no thread can be started, the callers' threads drain under a lock,
which the pipeline's thread also holds while it works.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from genmeter.clock import seconds_left
from genmeter.events.model import Raw, Reason
from genmeter.events.sanitize import Normaliser
from genmeter.events.values import shown
from genmeter.pipeline.deferred_log import DeferredLog
from genmeter.pipeline.once import FirstTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter.events.model import CallDefaults, Event
    from genmeter.pipeline.self_metrics import SelfMetrics

    RawEvent = tuple[Any, ...]

__all__ = ["DrainLock", "Pipeline", "Recorder", "Recording", "Request"]

_T = TypeVar("_T")


# Neither the lock nor a request uses threading.Event or Condition: these have an inner lock, and a
# signal handler that interrupts its holder would wait for it forever.
class DrainLock:
    """A lock that knows whether its holder is inside of a :meth:`call`.

    It is an RLock only because that knows its owner from the moment it is acquired, when a signal
    handler may already run.
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
    def is_busy(self) -> bool:
        """Whether a thread is inside of a :meth:`call`."""
        return self._is_busy

    @property
    def is_inside(self) -> bool:
        """Whether this thread is inside of a :meth:`call`."""
        return self._is_busy and self.is_mine

    def call(self, function: Callable[[], _T], timeout: float | None) -> _T:
        """Call ``function`` under the lock.

        Args:
            function: The function.
            timeout: Seconds to wait for the lock; None means without a limit.

        Raises:
            TimeoutError: The lock was not free in time.
        """
        if timeout is None:
            with self._lock:  # released even if a signal handler raises right after the acquisition
                return self._call(function)
        try:
            if not self.acquire(timeout):
                raise TimeoutError(f"the drain's lock was not free within {timeout} s")
            return self._call(function)
        finally:
            self.release()

    def acquire(self, timeout: float) -> bool:
        """Acquire the lock; returns whether it was free within ``timeout`` seconds."""
        return self._lock.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def release(self) -> None:
        """Release the lock if this thread holds it."""
        if self.is_mine:
            self._lock.release()

    def _call(self, function: Callable[[], _T]) -> _T:
        self._is_busy = True
        try:
            return function()
        finally:
            self._is_busy = False


class _CancelledError(Exception):
    """The request was cancelled."""


class Request:
    """A function for the owner to call, at most once.

    Args:
        function: The function.

    Attributes:
        result: Its result.
        error: The exception that it raised.
    """

    __slots__ = ("_answered", "_claims", "_function", "error", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Any = None
        self.error: BaseException | None = None
        # The first to pop it may call the function or cancel the request.
        self._claims = [None]
        self._answered = threading.Lock()
        self._answered.acquire()

    def answer(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        """Have ``call`` call the function, and wake the waiting thread; never raises.

        The request can be cancelled until ``call`` calls the function, for example while the owner
        waits for the lock or drains.
        """
        if not self._claims:
            return
        try:
            self.result = call(self._claim)
        except _CancelledError:
            pass
        except BaseException as error:  # raised again in the requesting thread
            self.error = error
        finally:
            self._answered.release()

    def cancel(self) -> bool:
        """Prevent the call; returns False if it has begun."""
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
        """Wait for the answer, ``timeout`` seconds at most; returns whether it came."""
        return self._answered.acquire(timeout=timeout)


WAKE = 256
"""Pending events at which the pipeline's thread is woken before its second is over."""
HIGH_WATER = 4_096
"""Pending events from which on producers yield to the drain."""
CAPACITY = 131_072
"""Pending events at which further ones are dropped and counted."""
SLICE = 64
"""Events drained before other threads get a turn."""
_INTERVAL = 1.0
_YIELD = 0.0005
_POLL = 0.25
_MAX_DRAIN = 2.0  # seconds; so that the scrape itself does not time out


class Recorder(Protocol):
    """Keeps events."""

    def record(self, event: Event) -> None:
        """Keep a clean event."""


class _RecordingState(Protocol):
    defaults: CallDefaults
    has_events: bool


class Recording(Protocol):
    """The part of a ``Session`` that the drain uses."""

    recorders: tuple[Recorder, ...]
    is_started: bool

    @property
    def state(self) -> _RecordingState:
        """The default labels, and whether any event was recorded."""

    def start(self) -> None:
        """Start the session's periodic work; called with each event until ``is_started``."""


class Pipeline:
    """The inbox of a process and the drain of its events.

    Args:
        limits: Maximum number of values of each label, by the name of the limit.
        self_metrics: Counts rejected values.
        on_start: Called by the owner before the first drain, after :meth:`request_restart`, and in
            a forked child that records anything: binds sockets and starts pushes. Must not log.
        on_turn: Called by the pipeline's thread at each turn, at least once a second, and by
            threads that drain inline; must not wait.

    Attributes:
        inbox: The pending events.
        lock: Held while draining.
        deferred_log: The pending log lines.
        backlog: Number of events that were pending at the newest read.
        is_running: Whether the thread was started.
        epoch: Number of forks that led to this process.
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
        self.normaliser = Normaliser(
            limits, on_reject=self.reject, on_overflow=self._overflow, notice=self.notice
        )
        self._clean: dict[Raw, Callable[[float, Any, CallDefaults], Event | None]] = {
            Raw.GENERATION: self.normaliser.generation,
            Raw.EVALUATION: self.normaliser.evaluation,
            Raw.METRIC: lambda when, payload, _: self.normaliser.metric(when, payload),
            Raw.SAMPLE: lambda when, payload, _: self.normaliser.sample(when, payload),
            Raw.LOG: lambda when, payload, _: self.normaliser.log(when, payload),
        }
        self._turn_ends: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._first = FirstTimes()
        self._requests: deque[Request] = deque()
        self._reset_thread_state()

    def __repr__(self) -> str:
        return f"<Pipeline with {len(self.inbox)} pending events>"

    def _reset_thread_state(self) -> None:
        self.is_running = False
        self._wants_thread = False
        self._is_stopped = False
        self.lock = DrainLock()
        self._thread: threading.Thread | None = None
        # Released to wake the thread: a release never waits, so a signal handler may wake it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_woken = False
        # The number of the last requested start, and of the last completed one.
        self._start_requested = 1
        self._start_done = 0

    # --- the caller's path ---------------------------------------------------------------------

    def after_append(self, *, inline: bool) -> None:
        """Start or wake the thread, drain inline, or limit the inbox, as needed after an append.

        A monitor calls this if the pipeline is not running, if it drains inline, or if :data:`WAKE`
        or more events are pending. Never raises or waits for a lock.
        """
        if inline:
            self._drain_if_free(sys.maxsize)
            self._on_turn()
            self.deferred_log.flush()
            return
        self._wants_thread = True
        if not self.is_running:
            self.start()
        pending = len(self.inbox)
        if pending >= WAKE:
            self.wake()
        if pending < HIGH_WATER:
            return
        if pending > CAPACITY:
            self._drop_newest()
        elif not self.is_running and self._drain_if_free(SLICE):
            return
        # Yield to the thread that drains.
        time.sleep(_YIELD)

    def post(
        self, function: Callable[[], object], *, inline: bool = False, may_drop: bool = False
    ) -> None:
        """Have the owner call a function, in order with the events; never raises or waits.

        Args:
            function: The function.
            inline: Whether it is drained at once, on this thread.
            may_drop: Whether it is dropped and counted if the inbox is full, as an event is.
        """
        self.inbox.append((Raw.OBSERVED if may_drop else Raw.CALL, function))
        if len(self.inbox) >= WAKE or inline or not self.is_running:
            self.after_append(inline=inline)

    @property
    def has_begun(self) -> bool:
        """Whether ``on_start`` has returned, which begins what the first event needs."""
        return self._start_done == self._start_requested

    @property
    def is_settled(self) -> bool:
        """Whether the owner is done with all that was appended, to the end of its turn."""
        # In this order: the owner is busy before it takes an event, until the end of the turn.
        return not self.inbox and not self.lock.is_busy

    @property
    def is_crowded(self) -> bool:
        """Whether so many events are pending that producers yield to the drain."""
        return len(self.inbox) >= HIGH_WATER

    def add_turn_end(self, method: Callable[[], object]) -> None:
        """Have the owner call a method at the end of each turn, at least once a second.

        If events are drained inline, it is called after each of them. It must not wait. Its object is not
        kept alive.
        """
        self._turn_ends.append(weakref.WeakMethod(method))

    def remove_turn_end(self, method: Callable[[], object]) -> None:
        """Undo :meth:`add_turn_end`."""
        with contextlib.suppress(ValueError):
            self._turn_ends.remove(weakref.WeakMethod(method))

    def reject(self, reason: Reason, name: str, value: object) -> None:
        """Count a dropped value, and log the first of its kind."""
        self.self_metrics.count_rejected(reason)
        if self._is_new(reason, name):
            self.deferred_log.add(
                logging.WARNING,
                "dropped invalid %s=%s (%s); logged once, then only counted in "
                "genmeter_monitor_events_total",
                name,
                shown(value),
                reason.value.replace("_", " "),
            )

    def notice(self, reason: Reason | None, key: str, message: str, *arguments: object) -> None:
        """Log a message once for each key, and count its reason; see ``events.hints.Notice``."""
        if reason is not None:
            self.self_metrics.count_rejected(reason)
        if self._is_new(reason, key):
            self.deferred_log.add(logging.WARNING, message, *arguments)

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
            newest = self.inbox.pop()
        except IndexError:
            return
        if newest[0] is Raw.CALL:  # may end a reservation, so that it cannot be dropped
            self.inbox.append(newest)
            return
        self.reject(Reason.INBOX_FULL, "event", f"the newest of {CAPACITY} pending")

    def _is_new(self, reason: Reason | None, name: str) -> bool:
        return self._first.is_new((reason, name))

    # --- reading -------------------------------------------------------------------------------

    def run(self, function: Callable[[], _T], timeout: float | None = None) -> _T:
        """Drain the pending events, then have the owner call ``function``; return its result.

        Args:
            function: Reads or changes state; must not wait.
            timeout: Seconds to wait; None means without a limit.

        Raises:
            TimeoutError: The owner was busy for too long; ``function`` is not called later.
        """
        if self.lock.is_inside:
            return function()
        if self._wants_thread and not self.is_running:
            self.start()
        if self._may_hold_lock():
            return self.lock.call(lambda: self._read(function), timeout)
        return self._request(function, timeout)

    def drain_for_collection(self) -> None:
        """Drain the pending events before a collection, for a limited time."""
        with contextlib.suppress(TimeoutError):
            self.run(lambda: None, timeout=_MAX_DRAIN)

    def _may_hold_lock(self) -> bool:
        # Not Thread.is_alive(), which an exception of a signal handler can make wrong forever.
        return not self.is_running or self.lock.is_mine or sys.is_finalizing()

    def _request(self, function: Callable[[], _T], timeout: float | None) -> _T:
        request = Request(function)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._requests.append(request)
        self.wake()
        try:
            while not request.wait(min(_POLL, _left(deadline))):
                if deadline is not None and time.monotonic() >= deadline:
                    if request.cancel():
                        raise TimeoutError(f"the pipeline did not answer within {timeout} s")
                    deadline = None  # it is being called, which takes a moment only
                if self._may_hold_lock():  # its thread is gone
                    if request.cancel():
                        return self.run(function, None if deadline is None else _left(deadline))
                    if sys.is_finalizing():
                        raise TimeoutError("the interpreter ends, and its threads are frozen")
                self.wake()
        finally:
            request.cancel()
        if request.error is not None:
            raise request.error
        return cast("_T", request.result)

    # --- draining ------------------------------------------------------------------------------

    def _read(self, function: Callable[[], _T]) -> _T:
        self.backlog = len(self.inbox)
        self._drain(self.backlog)
        return function()

    def _drain_if_free(self, limit: int) -> bool:
        """Drain unless the lock is held; returns whether it was free."""
        if self.lock.is_inside:
            return False
        try:
            self.lock.call(lambda: self._drain(min(limit, len(self.inbox))), 0)
        except TimeoutError:
            return False
        return True

    def _drain(self, limit: int) -> None:
        if limit and self._start_done != self._start_requested:
            self._begin()
        take = self.inbox.popleft
        clean = self._clean
        try:
            for _ in range(limit):
                raw = take()
                kind = raw[0]
                try:
                    if kind is Raw.CALL or kind is Raw.OBSERVED:
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
            pass  # a producer dropped an event that this drain had counted
        if self._turn_ends:
            self._end_turn()

    def _end_turn(self) -> None:
        for reference in tuple(self._turn_ends):
            method = reference()
            if method is None:
                with contextlib.suppress(ValueError):
                    self._turn_ends.remove(reference)
                continue
            try:
                method()
            except Exception as error:
                self._report_defect("the end of a turn", error)

    def record(self, raw: RawEvent) -> None:
        """Record an event at once, at the time that it has; called by the owner only."""
        kind, session = raw[0], raw[1]
        state = session.state
        try:
            event = self._clean[kind](raw[2], raw[3:], state.defaults)
            if event is None:
                return
            if not session.is_started:
                state.has_events = True
                session.start()
            for recorder in session.recorders:
                recorder.record(event)
        except Exception as error:
            self._report_defect(kind, error)
            return
        self.self_metrics.recorded += 1

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
        """Start the pipeline's thread unless it runs; of two started at once, one ends."""
        if self.is_running or self._is_stopped:
            return
        before = self._thread
        thread = threading.Thread(target=self._loop, name="genmeter", daemon=True)
        self._thread = thread
        try:
            thread.start()
            self.is_running = True
        except RuntimeError as error:
            # The interpreter ends, or the system's limit is reached: reads and full inboxes
            # still drain, on the caller's thread.
            self._thread = before
            if self._is_new(Reason.INTERNAL, "thread"):
                self.deferred_log.add(
                    logging.WARNING,
                    "the pipeline's thread cannot be started (%s); the job's own calls drain",
                    error,
                )

    def stop(self, timeout: float) -> None:
        """Stop the thread after a last drain, waiting ``timeout`` seconds at most.

        Later events are drained by reads.
        """
        self._is_stopped = True
        thread = self._thread
        self._is_woken = False
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # it was not started
                thread.join(min(timeout, threading.TIMEOUT_MAX))

    def request_restart(self) -> None:
        """Have ``on_start`` called again before the next event is drained."""
        self._start_requested += 1

    def wake(self) -> None:
        """Wake the thread; never waits."""
        if self._is_woken:
            return
        self._is_woken = True
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def _begin(self) -> None:
        number = self._start_requested
        try:
            self._on_start()
        except Exception as error:
            self.deferred_log.add(
                logging.ERROR,
                "telemetry could not be started; the job goes on without it",
                error=error,
            )
        self._start_done = number

    def _loop(self) -> None:
        me = threading.current_thread()
        wake = self._wake
        try:
            # With gevent, the parent's greenlets go on in a forked child; they end here.
            while self._thread is me:
                self.is_running = True  # also if an exception interrupted start()
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
            if self._turn_ends:
                self.lock.call(self._end_turn, None)
            self.lock.call(self._on_turn, None)
            self.deferred_log.flush_in_background()
        except Exception as error:
            self._report_defect("the drain", error)

    def _serve(self) -> None:
        while self._requests:
            with contextlib.suppress(IndexError):  # taken by the thread that this one replaces
                self._requests.popleft().answer(
                    lambda function: self.lock.call(lambda: self._read(function), None)
                )

    # --- fork ----------------------------------------------------------------------------------

    def reset_after_fork(self) -> None:
        """Reset in a forked child: nothing is pending, no thread runs, no lock is held."""
        self.inbox.clear()
        self._requests.clear()
        self.deferred_log.clear()
        self.epoch += 1
        self._reset_thread_state()


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else seconds_left(deadline)
