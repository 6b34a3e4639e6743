"""From the caller's thread to the recorders: the inbox, and the one drain.

A caller appends a tuple to the inbox and goes on. Everything else happens in :meth:`Pipeline.run`
and in the pipeline's own thread, in the order of the appends, under one lock.

The main thread never holds that lock while the pipeline's thread is alive (but for a fork): it
asks that thread instead and waits for the answer. Only the main thread runs signal handlers, and a
handler that reports, reads or shuts down must find nothing half done and no lock that its own
thread holds. For the same reason nothing is logged under the lock or on the pipeline's thread.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from genmeter.events import Raw, Reason
from genmeter.labels import safe_text
from genmeter.locking import DrainLock, Request
from genmeter.normaliser import Normaliser
from genmeter.notices import Notices
from genmeter.sink import Recorder, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from genmeter.events import Event
    from genmeter.tallies import Tallies

    RawEvent = tuple[Any, ...]

__all__ = ["Pipeline", "Recorder", "Sink"]

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


class Pipeline:
    """The inbox of a process and the drain of its events.

    Args:
        limits: How many values each label may take, by the name of the limit.
        tallies: Where what is left out is counted.
        on_start: Called under the drain's lock before the first drain, and again after
            :meth:`begin_again` and in a forked child that tells anything: the place to bind sockets
            and start pushes. It must not log.

    Attributes:
        inbox: What waits for the drain.
        lock: The drain's.
        notices: What waits to be logged.
        is_running: Whether the thread was started.
        epoch: How often this process came out of a fork.
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
        self.notices = Notices()
        self.epoch = 0
        self._on_start = on_start
        self._normaliser = Normaliser(limits, on_reject=self.reject, on_overflow=self._overflow)
        self._warned: set[tuple[Reason, str]] = set()
        self._recorders: dict[Recorder, None] = {}
        self._requests: deque[Request] = deque()
        self._reset_thread_state()

    def __repr__(self) -> str:
        return f"<Pipeline with {len(self.inbox)} waiting events>"

    def _reset_thread_state(self) -> None:
        self.is_running = False
        self._wants_thread = False
        self.lock = DrainLock()
        self._thread: threading.Thread | None = None
        # Released to wake the thread: a release never waits, so a signal handler may do it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_rung = False
        # Starts that were asked for, and the last of them that was made.
        self._starts = 1
        self._started = 0

    # --- the caller's path ---------------------------------------------------------------------

    def tend(self, *, inline: bool) -> None:
        """Look after the inbox after an append.

        A monitor calls this where the pipeline does not run yet, where it drains inline, and
        where :data:`WAKE` or more events wait. Never raises, never waits for a lock.
        """
        if inline:
            self._drain_in_passing(sys.maxsize)
            self.notices.tell()
            return
        self._wants_thread = True
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
        if self._is_news(reason, name):
            self.notices.add(
                logging.WARNING,
                "left out %s=%s: %s; further ones are only counted, "
                "in genmeter_monitor_events_total",
                name,
                safe_text(value, 200),
                reason.value.replace("_", " "),
            )

    def _overflow(self, limit: str) -> None:
        self.tallies.count_overflow(limit)
        if self._is_news(Reason.OVERFLOW, limit):
            self.notices.add(
                logging.WARNING,
                "further %s are called 'other', in metrics and in reports; LabelLimits.%s "
                "(GENMETER_MAX_%s) raises the limit",
                limit.replace("_", " "),
                limit,
                limit.upper(),
            )

    def _shed(self) -> None:
        try:
            self.inbox.pop()
        except IndexError:
            return
        self.reject(Reason.INBOX_FULL, "event", f"the newest of {CAPACITY} that wait")

    def _is_news(self, reason: Reason, name: str) -> bool:
        key = (reason, name)
        if key in self._warned or len(self._warned) >= _MOST_NOTICES:
            return False
        self._warned.add(key)
        return True

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
        if self.lock.is_inside:
            return function()
        if self._wants_thread and not self.is_running:
            self.start()
        if not self._may_hold_lock():
            return self._ask(function, timeout)
        return self.lock.call(lambda: self._read(function), timeout)

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
        # Not Thread.is_alive(), which an exception of a signal handler can make lie for ever.
        return (
            not self.is_running
            or threading.get_ident() != threading.main_thread().ident
            or self.lock.is_mine
            or sys.is_finalizing()
        )

    def _ask(self, function: Callable[[], _T], timeout: float | None) -> _T:
        request = Request(function)
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

    # --- draining ------------------------------------------------------------------------------

    def _read(self, function: Callable[[], _T]) -> _T:
        self._drain(len(self.inbox))
        self._flush()
        return function()

    def _drain_in_passing(self, limit: int) -> bool:
        """Drain without waiting for the lock; tells whether it was free."""
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
            sink.relay.record(event)
        except Exception as error:
            self._report_defect(raw[0], error)
            return
        self.tallies.recorded += 1

    def _report_defect(self, what: str, error: Exception) -> None:
        self.tallies.count_rejected(Reason.INTERNAL)
        if self._is_news(Reason.INTERNAL, what):
            self.notices.add(
                logging.ERROR, "%s failed inside genmeter; the job is not harmed", what, error=error
            )

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
        """Start the pipeline's thread, if it does not run yet; of two that start, one stays."""
        if self.is_running:
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
            if self._is_news(Reason.INTERNAL, "thread"):
                self.notices.add(
                    logging.WARNING,
                    "the pipeline's thread cannot be started (%s); the job's own calls drain",
                    error,
                )

    def begin_again(self) -> None:
        """Have ``on_start`` called once more, before the next event is drained."""
        self._starts += 1

    def _ring(self) -> None:
        if self._is_rung:
            return
        self._is_rung = True
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def _begin(self) -> None:
        asked = self._starts
        try:
            self._on_start()
        except Exception as error:
            self.notices.add(
                logging.ERROR,
                "telemetry could not be started; the job goes on without it",
                error=error,
            )
        self._started = asked

    def _loop(self) -> None:
        me = threading.current_thread()
        wake = self._wake
        try:
            while self._thread is me:
                self.is_running = True  # also where an exception cut start() short
                self._turn()
                wake.acquire(timeout=_INTERVAL)
                self._is_rung = False
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
                self.notices.tell_aside()
            self.lock.call(self._flush, None)
            self.notices.tell_aside()
        except Exception as error:
            self._report_defect("the drain", error)

    def _serve(self) -> None:
        while self._requests:
            with contextlib.suppress(IndexError):  # the thread that this one replaces was faster
                self._requests.popleft().answer(self.run)

    # --- fork ----------------------------------------------------------------------------------

    def hold(self, timeout: float) -> None:
        """Keep the lock until :meth:`let_go`; for a fork.

        Where the lock is not free within ``timeout`` seconds the fork goes ahead without it.
        """
        self.lock.take(timeout)

    def let_go(self) -> None:
        """Give the lock back, in the parent."""
        self.lock.give_back()

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child: nothing waits, no thread runs, nobody holds a lock."""
        self.inbox.clear()
        self._requests.clear()
        self._recorders.clear()
        self.notices.clear()
        self.epoch += 1
        self._reset_thread_state()
