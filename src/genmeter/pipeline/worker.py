"""A worker: a bounded queue, and the daemon thread that serves it.

Each handler, exporter and periodic callback has a worker, and so have deferred log lines and other
libraries' callbacks: code that blocks, raises or is slow runs on the worker's thread. Producers
neither wait nor take a lock.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from genmeter.clock import seconds_left

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BATCH", "CAPACITY", "Loss", "OnLoss", "Worker", "catch_all", "is_worker_thread"]

_T = TypeVar("_T")

CAPACITY = 100_000
"""Items that may be queued; further ones are dropped and counted."""
BATCH = 512
"""Maximum number of items of a batch."""
_INTERVAL = 1.0
_POLL = 0.002
_RETRY = 1.0  # seconds until the next attempt after a thread could not be started


class Loss(StrEnum):
    """Why items were not delivered."""

    RAISED = "raised"
    QUEUE_FULL = "queue_full"
    UNFINISHED = "unfinished"


class OnLoss(Protocol):
    """Called when items are lost, on the worker's or the producer's thread; must not wait."""

    def __call__(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Handle the loss of ``count`` items."""


def _ignore_loss(loss: Loss, count: int, error: BaseException | None = None) -> None:
    """Ignore items that are lost."""


class _WorkerThread(threading.Thread):
    """A thread type that :func:`is_worker_thread` recognizes."""


def is_worker_thread() -> bool:
    """Return whether the current thread is a worker's, which must not wait for a worker."""
    return type(threading.current_thread()) is _WorkerThread


def catch_all() -> contextlib.suppress:
    """Return a context that suppresses exceptions of the job's own code.

    On a worker's thread it suppresses any BaseException, which elsewhere may come from a signal
    handler.
    """
    return contextlib.suppress(BaseException if is_worker_thread() else Exception)


class Worker(Generic[_T]):
    """Passes queued items to a function, in order and in batches, on its own daemon thread.

    The thread starts with the first item, or with :meth:`start`. If none can be started, as at the
    end of the interpreter, the thread that waits for the worker delivers. A forked child resets all
    its workers: their queues are empty, no thread runs, no lock is held.

    Args:
        deliver: Takes a batch. If it raises, that batch is lost.
        name: The thread's name.
        on_loss: Called with the number of dropped items, and with the error of a batch, tick or end
            that raised.
        on_end: Called after the last item of a closed worker, on the thread that delivered it; also
            without items if the worker ticks.
        on_reset: Called by :meth:`reset` in a forked child; must take no lock.
        tick: Called on the same thread every ``interval`` seconds, and when :meth:`tick_in` has
            scheduled it.
        interval: Seconds from the end of a tick to the next one; None means only scheduled ticks.
        capacity: Maximum number of queued items.
        batch: Maximum number of items of a batch.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[_T]], object] = lambda _: None,
        *,
        name: str,
        on_loss: OnLoss = _ignore_loss,
        on_end: Callable[[], object] = lambda: None,
        on_reset: Callable[[], object] = lambda: None,
        tick: Callable[[], object] = lambda: None,
        interval: float | None = None,
        capacity: int = CAPACITY,
        batch: int = BATCH,
    ) -> None:
        self._deliver = deliver
        self._name = name
        self._on_loss = on_loss
        self._on_end = on_end
        self._tick = tick
        self._interval = interval
        self._capacity = capacity
        self._batch = batch
        self._on_reset = on_reset
        self._initialise()
        _workers.add(self)

    def __repr__(self) -> str:
        return f"<Worker {self._name!r} with {len(self._queue)} queued items>"

    def reset(self) -> None:
        """Reset in a forked child; takes no lock."""
        self._initialise()
        self._on_reset()

    def _initialise(self) -> None:
        self._queue: deque[_T] = deque()
        # Each has one writer at a time: the producer, and the delivering thread.
        self._accepted = 0
        self._done = 0
        self._delivering = threading.Lock()
        self._shared = _Shared()
        self._retry_at = 0.0
        self._is_closing = False
        self._has_ended = False
        self._is_end_done = False

    # --- the producer's side -------------------------------------------------------------------

    def put(self, item: _T) -> bool:
        """Queue an item; never raises or waits. Returns whether it was queued.

        If :meth:`wait_until_delivered` is used, only one thread at a time may call this.
        """
        if self._has_ended:
            self._on_loss(Loss.UNFINISHED, 1)
            return False
        if self.is_full:
            self._on_loss(Loss.QUEUE_FULL, 1)
            return False
        self._queue.append(item)
        self._accepted += 1
        self._shared.kept = self
        self.start()
        self.wake()
        return True

    def close(self) -> None:
        """Have the thread end once the queue is empty, without waiting.

        Later items are delivered by the thread while it runs, else by :meth:`join`.
        """
        self._is_closing = True
        if self._shared.is_running:
            self._shared.kept = self
        self.wake()

    @property
    def is_idle(self) -> bool:
        """Whether all items were delivered."""
        # In this order: an item leaves the queue only while the lock is held.
        return not self._queue and not self._delivering.locked()

    @property
    def is_full(self) -> bool:
        """Whether the queue is full."""
        return len(self._queue) >= self._capacity

    @property
    def waiting(self) -> tuple[_T, ...]:
        """The queued items."""
        return tuple(self._queue)

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._shared.is_running

    @property
    def is_closing(self) -> bool:
        """Whether the worker was closed."""
        return self._is_closing

    def start(self) -> bool:
        """Start the thread unless it runs, as :meth:`put` does; returns whether it runs now."""
        if not self._is_closing:
            self._launch()
        return self._shared.is_running

    def _launch(self) -> None:
        shared = self._shared
        if shared.is_running or time.monotonic() < self._retry_at:
            return
        if self._interval is not None:
            self.tick_in(self._interval)
        # The thread of a collected worker is woken, so that it ends at once.
        found = weakref.ref(self, lambda _: shared.wake())
        thread = _WorkerThread(target=_serve, args=(found, shared), name=self._name, daemon=True)
        before, shared.thread = shared.thread, thread
        shared.is_running = True
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or the system's limit is reached
            shared.thread = before
            shared.is_running = False
            self._retry_at = time.monotonic() + _RETRY
        except BaseException:  # of a signal handler; if the thread runs, it sets this itself
            shared.is_running = False
            raise

    def wake(self) -> None:
        """Wake the thread; never waits, so a signal handler may call it."""
        self._shared.wake()

    def tick_in(self, seconds: float) -> None:
        """Schedule the next tick in so many seconds at the latest.

        Only ``deliver`` and ``tick`` may call this.
        """
        self._shared.due = min(self._shared.due, time.monotonic() + seconds)

    def tick_now(self) -> None:
        """Have the running thread tick as soon as it is free; never waits.

        A tick that begins at the same moment may count as this one, so ask again if it must be newer.
        """
        self._shared.due = -math.inf
        self.wake()

    # --- waiting -------------------------------------------------------------------------------

    def wait_until_delivered(self, deadline: float) -> bool:
        """Wait until all items put so far are delivered.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            Whether they were delivered in time; True at once on a worker's thread.
        """
        if is_worker_thread():
            return True
        wanted = self._accepted
        while self._done < wanted and not self._has_ended and time.monotonic() < deadline:
            if self._shared.is_running:
                _pause(deadline)
            else:
                self._deliver_next(deadline)
        return self._done >= wanted

    def join(self, deadline: float) -> int:
        """Wait for a closed worker's end; items still queued at the deadline are dropped.

        After it returns no delivery starts, but one that started before may still run. On the
        worker's own thread it returns at once, and that thread goes on to the end.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            Number of items that were not delivered.
        """
        if self._has_ended or self._shared.thread is threading.current_thread():
            return 0
        if self._queue:
            # An idle thread ends when the worker is garbage, even if a finalizer revives it.
            self._launch()
        while self._shared.is_running and time.monotonic() < deadline:
            _pause(deadline)
        is_end_due = self._queue or (self._interval is not None and not self._is_end_done)
        if not self._shared.is_running and is_end_due:
            while self._queue and time.monotonic() < deadline:
                self._deliver_next(deadline)
            self._end()
        self._has_ended = True
        self._queue.clear()
        return self._accepted - self._done

    # --- the thread ----------------------------------------------------------------------------

    def _turn(self, shared: _Shared) -> float | None:
        """Deliver all items and tick if due; return the seconds to the next turn, None at the end."""
        # Read before the queue: an item may be put just before the worker is closed.
        is_closing = self._is_closing
        # With gevent, the parent's greenlets go on in a forked child; they end here.
        while self._queue and self._shared is shared:
            self._deliver_next(None)
        if self._shared is not shared:
            return None
        if is_closing:
            self._end()
            return None
        if time.monotonic() >= shared.due:
            shared.due = math.inf
            self._guard(self._tick, 1)
            if self._interval is not None:
                self.tick_in(self._interval)
        if shared.due == math.inf:
            return _INTERVAL
        return min(max(0.0, shared.due - time.monotonic()), threading.TIMEOUT_MAX)

    def _release(self, shared: _Shared) -> None:
        shared.kept = None
        if self._queue or self._is_closing:  # since the turn
            shared.kept = self

    def _deliver_next(self, deadline: float | None) -> None:
        timeout = -1 if deadline is None else seconds_left(deadline)
        # Local, since with gevent a forked child may reset the worker meanwhile.
        shared, delivering = self._shared, self._delivering
        if not delivering.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            return
        batch: list[_T] = []
        try:
            batch = self._take()
            if batch:
                self._guard(lambda: self._deliver(batch), len(batch))
        finally:
            if self._shared is shared:
                self._done += len(batch)
            delivering.release()

    def _take(self) -> list[_T]:
        batch: list[_T] = []
        with contextlib.suppress(IndexError):  # empty, or join() dropped the items
            for _ in range(self._batch):
                batch.append(self._queue.popleft())  # noqa: PERF401 - keeps the items
        return [] if self._has_ended else batch

    def _end(self) -> None:
        self._is_end_done = True
        self._guard(self._on_end, 1)

    def _guard(self, function: Callable[[], object], count: int) -> None:
        try:
            function()
        except BaseException as error:
            self._on_loss(Loss.RAISED, count, error)
            # The user's Ctrl-C, when the waiting thread had to deliver.
            if type(error) is KeyboardInterrupt and not is_worker_thread():
                raise


class _Shared:
    """State that a worker shares with its thread; an idle thread refers to nothing else.

    So an idle thread keeps neither its worker nor the objects of the worker alive.

    Attributes:
        kept: The worker, kept alive while it has items to deliver or its end to run.
        due: Time of the next tick, on the clock of ``time.monotonic()``. Here, so that a thread of
            before a reset cannot put off the tick of the next thread.
    """

    __slots__ = ("due", "is_awake", "is_running", "kept", "signal", "thread")

    def __init__(self) -> None:
        self.due = math.inf
        self.kept: Worker[Any] | None = None
        self.thread: _WorkerThread | None = None
        self.is_running = False
        # Released to wake the thread: a release never waits, so a signal handler may wake it.
        self.signal = threading.Lock()
        self.signal.acquire()
        self.is_awake = False

    def wake(self) -> None:
        """Wake the thread; never waits."""
        if self.is_awake:
            return
        self.is_awake = True
        with contextlib.suppress(RuntimeError):  # it is awake already
            self.signal.release()


def _serve(found: weakref.ref[Worker[Any]], shared: _Shared) -> None:
    me = threading.current_thread()
    try:
        while shared.thread is me:
            shared.is_running = True  # also if an exception interrupted the start
            worker = found() if shared.kept is None else shared.kept
            rest = None if worker is None else worker._turn(shared)  # noqa: SLF001 - its own thread
            if worker is None or rest is None:
                return
            worker._release(shared)  # noqa: SLF001
            del worker
            shared.signal.acquire(timeout=rest)
            shared.is_awake = False
    finally:
        if shared.thread is me:
            shared.is_running = False
            shared.kept = None


def _pause(deadline: float) -> None:
    time.sleep(min(_POLL, seconds_left(deadline)))


_workers: weakref.WeakSet[Worker[Any]] = weakref.WeakSet()


def _reset_in_child() -> None:
    for worker in list(_workers):
        worker.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
