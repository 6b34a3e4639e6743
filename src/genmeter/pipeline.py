"""From the caller's thread to the recorders: the inbox, and the one drain.

A caller appends a tuple to the inbox and goes on. Everything else happens in :meth:`Pipeline.run`
and in the pipeline's own thread, in the order of the appends, under one lock.

The main thread never holds that lock while the pipeline's thread is alive: it asks that thread
instead and waits for the answer. Only the main thread runs signal handlers, and a handler that
reports, reads or shuts down must find nothing half done and no lock that its own thread holds.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from genmeter.events import Raw, Reason
from genmeter.labels import safe_text
from genmeter.normaliser import Normaliser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from genmeter.events import CallDefaults, Event
    from genmeter.recorders.history import History
    from genmeter.tallies import Tallies

    RawEvent = tuple[Any, ...]

__all__ = ["Pipeline", "Recorder", "Sink"]

_logger = logging.getLogger("genmeter")
_T = TypeVar("_T")

WAKE = 256
"""Waiting events at which the pipeline's thread is woken before its second is over."""
HIGH_WATER = 4_096
"""Waiting events from which on a producer helps to drain."""
CAPACITY = 131_072
"""Waiting events at which further ones are dropped and counted."""
SLICE = 64
"""Events that are drained before the interpreter's other threads get a turn."""
_INTERVAL = 1.0
_YIELD = 0.0005
_POLL = 0.25
_MOST_NOTICES = 1_000
_LONGEST_DRAIN = 2.0  # seconds; a collection that outlasts its time-out is a failed scrape


class Recorder(Protocol):
    """Where a clean event is kept."""

    def record(self, event: Event) -> None:
        """Keep the event."""

    def flush(self) -> None:
        """Make what was recorded visible to readers."""


class Sink:
    """What one monitor's events go to.

    Args:
        defaults: What the monitor fills in where a call does not say.
        history: The monitor's history.
        expected_samples: Samples that the monitor's job is to make.
        timeout: Seconds that the monitor's shutdown may take.
    """

    def __init__(
        self,
        defaults: CallDefaults,
        history: History,
        *,
        expected_samples: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.defaults = defaults
        self.history = history
        self.expected_samples = expected_samples
        self.timeout = timeout
        self.instruments: Recorder | None = None
        self.on_rebirth: Callable[[], None] | None = None
        self.was_told = False
        self.is_closed = False

    def reset(self) -> None:
        """Begin with an empty history, in a forked child."""
        self.history = self.history.emptied()
        self.instruments = None
        self.was_told = False


class _Request:
    """A question of the main thread to the pipeline's."""

    __slots__ = ("_answered", "error", "function", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        # A bare lock: an Event has a lock inside that a signal handler could find taken.
        self._answered = threading.Lock()
        self._answered.acquire()

    def answer(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # raised again in the thread that asked
            self.error = error
        finally:
            self._answered.release()

    def wait(self, timeout: float) -> bool:
        return self._answered.acquire(timeout=timeout)


class Pipeline:
    """The inbox of a process and the drain of its events.

    Args:
        limits: How many values each label may take, by the name of the limit.
        tallies: Where what is left out is counted.
        on_start: Called on the pipeline's thread before its first drain, and once more in a
            forked child that tells anything: the place to bind sockets and start pushes.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        *,
        tallies: Tallies,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.inbox: deque[RawEvent] = deque()
        self.tallies = tallies
        self.is_running = False
        self.epoch = 0
        self._on_start = on_start
        self._normaliser = Normaliser(
            limits, on_reject=self.reject, on_overflow=tallies.count_overflow
        )
        self._warned: set[tuple[Reason, str]] = set()
        self._recorders: dict[Recorder, None] = {}
        self._requests: deque[_Request] = deque()
        self._notices: deque[tuple[str, str | None, str]] = deque()
        self._reset_thread_state()

    def __repr__(self) -> str:
        return f"<Pipeline with {len(self.inbox)} waiting events>"

    def _reset_thread_state(self) -> None:
        self.lock = threading.Lock()
        self._owner: int | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        # Released to wake the thread: a release never waits, so a signal handler may do it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_rung = False
        self._is_held = False
        self._has_begun = False

    # --- the caller's path ---------------------------------------------------------------------

    def tend(self, *, inline: bool) -> None:
        """Look after the inbox after an append.

        A monitor calls this where the pipeline does not run yet, where it drains inline, and
        where :data:`WAKE` or more events wait. Never raises, never waits for a lock.
        """
        if inline:
            self._drain_in_passing(sys.maxsize)
            self._tell()
            return
        if not self.is_running:
            self.start()
        waiting = len(self.inbox)
        if waiting >= WAKE:
            self._ring()
        if waiting < HIGH_WATER:
            return
        if waiting > CAPACITY:
            self._shed()
        elif self._may_hold_lock() and self._drain_in_passing(SLICE):
            return
        # Another thread drains, or this one must not: let go of the interpreter for a moment.
        time.sleep(_YIELD)

    def reject(self, reason: Reason, name: str, value: object) -> None:
        """Count a value that is left out; the first of its kind is told to the log."""
        self.tallies.count_rejected(reason)
        key = (reason, name)
        if key in self._warned or len(self._warned) >= _MOST_NOTICES:
            return
        self._warned.add(key)
        self._notices.append((name, safe_text(value, 200), reason.value.replace("_", " ")))

    def _shed(self) -> None:
        try:
            self.inbox.pop()
        except IndexError:
            return
        self.reject(Reason.INBOX_FULL, "event", f"the newest of {CAPACITY} that wait")

    def _tell(self) -> None:
        """Log the notices; not under the lock, since a logging handler may do anything."""
        while self._notices:
            try:
                notice = self._notices.popleft()
            except IndexError:
                return
            _logger.warning(
                "left out %s=%s: %s; further ones are only counted, "
                "in genmeter_monitor_events_total",
                *notice,
            )

    # --- reading -------------------------------------------------------------------------------

    def run(self, function: Callable[[], _T], timeout: float | None = None) -> _T:
        """Drain what waits now, then call ``function`` under the drain's lock.

        Args:
            function: What to read; it must not wait for anything.
            timeout: Seconds to wait for the lock; None means until it is free.

        Returns:
            What ``function`` gives.

        Raises:
            TimeoutError: The lock was not free in time.
        """
        if self._owner == threading.get_ident():
            return function()
        if not self._may_hold_lock():
            return self._ask(function, timeout)
        with self._locked(timeout):
            self._drain(len(self.inbox))
            self._flush()
            return function()

    def drain_for_collection(self) -> None:
        """Drain what waits now, within a budget; for a collection that is about to read."""
        with contextlib.suppress(TimeoutError):
            self.run(lambda: None, timeout=_LONGEST_DRAIN)

    def register(self, recorder: Recorder) -> None:
        """Have a recorder flushed at the end of every drain."""
        self._recorders[recorder] = None

    def reserve(self, limit: str, values: Iterable[str]) -> None:
        """Keep a place for values of a label; to be called through :meth:`run`."""
        self._normaliser.tables[limit].reserve(values)

    def forget(self, recorder: Recorder) -> None:
        """Stop flushing a recorder."""
        self._recorders.pop(recorder, None)

    def _may_hold_lock(self) -> bool:
        if threading.get_ident() != threading.main_thread().ident:
            return True
        thread = self._thread
        return not (self.is_running and thread is not None and thread.is_alive())

    def _ask(self, function: Callable[[], _T], timeout: float | None) -> _T:
        request = _Request(function)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._requests.append(request)
        self._ring()
        while not request.wait(_POLL):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the pipeline did not answer within {timeout} s")
            if self._may_hold_lock():  # its thread is gone
                return self.run(function, timeout)
            self._ring()
        if request.error is not None:
            raise request.error
        result: _T = request.result
        return result

    @contextlib.contextmanager
    def _locked(self, timeout: float | None) -> Iterator[None]:
        if not self.lock.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError(f"the drain's lock was not free within {timeout} s")
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self.lock.release()

    # --- draining ------------------------------------------------------------------------------

    def _drain_in_passing(self, limit: int) -> bool:
        """Drain without waiting for the lock; tells whether it was free."""
        if not self.lock.acquire(blocking=False):
            return False
        self._owner = threading.get_ident()
        try:
            self._drain(min(limit, len(self.inbox)))
        finally:
            self._owner = None
            self.lock.release()
        return True

    def _drain(self, limit: int) -> None:
        if limit and not self._has_begun:
            self._begin()
        take = self.inbox.popleft
        try:
            for _ in range(limit):
                self._process(take())
        except IndexError:
            pass  # a producer took back an event that this drain had counted on

    def _flush(self) -> None:
        for recorder in tuple(self._recorders):
            try:
                recorder.flush()
            except Exception as error:
                self._report_defect("flush", error)

    def _process(self, raw: RawEvent) -> None:
        try:
            event = self._clean(raw)
            if event is None:
                return
            sink: Sink = raw[1]
            sink.was_told = True
            sink.history.record(event)
            if sink.instruments is not None:
                sink.instruments.record(event)
        except Exception as error:
            self._report_defect(raw[0], error)
            return
        self.tallies.recorded += 1

    def _report_defect(self, what: str, error: Exception) -> None:
        self.tallies.count_rejected(Reason.INTERNAL)
        key = (Reason.INTERNAL, what)
        if key not in self._warned:
            self._warned.add(key)
            _logger.error("%s failed inside genmeter; the job is not harmed", what, exc_info=error)

    def _clean(self, raw: RawEvent) -> Event | None:
        kind, sink, when = raw[:3]
        payload: Any = raw[3:]
        normaliser = self._normaliser
        if kind is Raw.GENERATION:
            return normaliser.generation(when, payload, sink.defaults)
        if kind is Raw.EVALUATION:
            return normaliser.evaluation(when, payload, sink.defaults)
        if kind is Raw.METRIC:
            return normaliser.metric(when, payload)
        if kind is Raw.SAMPLE:
            return normaliser.sample(when, payload)
        if kind is Raw.ACTIVE:
            return normaliser.active(payload, sink.defaults)
        return normaliser.log(when, payload)

    # --- the thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the pipeline's thread, if it does not run yet; never raises."""
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self.is_running:
                return
            thread = threading.Thread(target=self._loop, name="genmeter", daemon=True)
            thread.start()
            self._thread = thread
            self.is_running = True
        except RuntimeError:
            # No thread to be had (the interpreter ends, or the system's limit): every read and
            # every full inbox still drains, in the caller's thread.
            _logger.debug("the pipeline's thread could not be started", exc_info=True)
        finally:
            self._starting.release()

    def _ring(self) -> None:
        if self._is_rung:
            return
        self._is_rung = True
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        try:
            self._on_start()
        except Exception:
            _logger.exception("telemetry could not be started; the job goes on without it")

    def _loop(self) -> None:
        wake = self._wake
        with self._locked(None):
            self._begin()
        while True:
            wake.acquire(timeout=_INTERVAL)
            self._is_rung = False
            self._serve()
            if self.inbox:
                while self.inbox:
                    with self._locked(None):
                        self._drain(SLICE)
                    time.sleep(0)
                    self._serve()
                with self._locked(None):
                    self._flush()
            self._tell()

    def _serve(self) -> None:
        while self._requests:
            with self._locked(None):
                self._drain(len(self.inbox))
                self._flush()
                self._requests.popleft().answer()

    # --- fork ----------------------------------------------------------------------------------

    def hold(self, timeout: float) -> None:
        """Drain, and keep the lock until :meth:`let_go`; for a fork.

        Where the lock is not free within ``timeout`` seconds the fork goes ahead without it.
        """
        self._is_held = self.lock.acquire(timeout=timeout)
        if self._is_held:
            self._owner = threading.get_ident()
            self._flush()

    def let_go(self) -> None:
        """Give the lock back, in the parent."""
        if self._is_held:
            self._is_held = False
            self._owner = None
            self.lock.release()

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child: nothing waits, no thread runs, nobody holds a lock."""
        self.inbox.clear()
        self._requests.clear()
        self._notices.clear()
        self._recorders.clear()
        self.is_running = False
        self.epoch += 1
        self._reset_thread_state()
