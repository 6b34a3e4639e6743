"""A bounded queue with a thread of its own: what takes its time must not hold up the drain.

The producer, which is the drain, neither waits nor takes a lock. Whatever the receiver does, block,
raise or take its time, stays on the feed's thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BATCH", "CAPACITY", "Feed", "Loss", "OnLoss", "is_feed_thread"]

_T = TypeVar("_T")

CAPACITY = 100_000
"""Items that may wait; further ones are dropped and counted."""
BATCH = 512
"""Most items that are handed over at once."""
_INTERVAL = 1.0
_POLL = 0.002
_RETRY = 1.0  # seconds between attempts to start a thread where the system gives none


class Loss(StrEnum):
    """Why items did not get where they should."""

    RAISED = "raised"
    QUEUE_FULL = "queue_full"
    UNFINISHED = "unfinished"


class OnLoss(Protocol):
    """Told of items that are lost, on the feed's thread or on its producer's; must not wait."""

    def __call__(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Take note of ``count`` items that are lost."""


class _FeedThread(threading.Thread):
    """What :func:`is_feed_thread` knows a feed's thread by."""


def is_feed_thread() -> bool:
    """Tell whether this is some feed's thread, which must not wait for a feed."""
    return type(threading.current_thread()) is _FeedThread


class Feed(Generic[_T]):
    """Hands what it is given to a receiver, in order, in batches, on a thread of its own.

    The thread starts with the first item. Where none is to be had, as at the end of the
    interpreter, whoever waits for the feed delivers.

    Args:
        deliver: The receiver. It may raise anything, which costs its batch.
        name: The thread's name.
        on_loss: Told of items that were dropped, and of batches that the receiver raised at.
        on_end: Called after the last item of a closed feed, by whoever delivered it.
        capacity: Items that may wait.
        batch: Most items of one batch.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[_T]], object],
        *,
        name: str,
        on_loss: OnLoss,
        on_end: Callable[[], object] = lambda: None,
        capacity: int = CAPACITY,
        batch: int = BATCH,
    ) -> None:
        self._deliver = deliver
        self._name = name
        self._on_loss = on_loss
        self._on_end = on_end
        self._capacity = capacity
        self._batch = batch
        self.reset()

    def __repr__(self) -> str:
        return f"<Feed {self._name!r} with {len(self._queue)} waiting items>"

    def reset(self) -> None:
        """Begin anew in a forked child: nothing waits, no thread runs, nobody holds a lock."""
        self._queue: deque[_T] = deque()
        # Each has one writer at a time: the producer, and whoever delivers.
        self._accepted = 0
        self._done = 0
        self._delivering = threading.Lock()
        self._thread: _FeedThread | None = None
        self._is_running = False
        self._retry_at = 0.0
        # Released to wake the thread: a release never waits, so a signal handler may do it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_rung = False
        self._is_closing = False
        self._has_ended = False

    # --- the producer's side -------------------------------------------------------------------

    def put(self, item: _T) -> None:
        """Queue an item; never raises or waits. Only one thread at a time may call this."""
        if self._has_ended:
            self._on_loss(Loss.UNFINISHED, 1)
            return
        if len(self._queue) >= self._capacity:
            self._on_loss(Loss.QUEUE_FULL, 1)
            return
        self._queue.append(item)
        self._accepted += 1
        self.start()
        self._ring()

    def close(self) -> None:
        """Have the thread end once nothing waits any more; does not wait for that.

        What is put from then on is delivered by the thread while it runs, else by :meth:`join`.
        """
        self._is_closing = True
        self._ring()

    @property
    def is_idle(self) -> bool:
        """Whether all that was put was delivered."""
        return self._done >= self._accepted

    def start(self) -> None:
        """Start the thread, unless it runs; the first :meth:`put` does so at the latest."""
        if self._is_running or self._is_closing or time.monotonic() < self._retry_at:
            return
        self._thread = _FeedThread(target=self._loop, name=self._name, daemon=True)
        self._is_running = True
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends, or the system's limit is reached
            self._is_running = False
            self._retry_at = time.monotonic() + _RETRY

    def _ring(self) -> None:
        if self._is_rung:
            return
        self._is_rung = True
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    # --- waiting -------------------------------------------------------------------------------

    def wait_until_delivered(self, deadline: float) -> bool:
        """Wait for all that was put before the call.

        A receiver may call this on a feed's thread, where it does not wait.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            Whether it was delivered in time; True at once on a feed's thread.
        """
        if is_feed_thread():
            return True
        wanted = self._accepted
        while self._done < wanted and time.monotonic() < deadline:
            if self._is_running:
                _pause(deadline)
            else:
                self._deliver_next(deadline)
        return self._done >= wanted

    def join(self, deadline: float) -> int:
        """Wait for a closed feed's end; what is left at the deadline is dropped.

        On the feed's own thread it does not wait, and that thread goes on to the end.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            Items that were not delivered.
        """
        if self._has_ended or self._thread is threading.current_thread():
            return 0
        while self._is_running and time.monotonic() < deadline:
            _pause(deadline)
        if not self._is_running and self._queue:
            while self._queue and time.monotonic() < deadline:
                self._deliver_next(deadline)
            self._end()
        self._has_ended = True
        self._queue.clear()
        return self._accepted - self._done

    # --- delivering ----------------------------------------------------------------------------

    def _loop(self) -> None:
        me = threading.current_thread()
        try:
            while self._thread is me:
                self._is_running = True  # also where an exception cut the start short
                while self._queue:
                    self._deliver_next(None)
                if self._is_closing:
                    self._end()
                    return
                self._wake.acquire(timeout=_INTERVAL)
                self._is_rung = False
        finally:
            if self._thread is me:
                self._is_running = False

    def _deliver_next(self, deadline: float | None) -> None:
        patience = -1 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._delivering.acquire(timeout=patience):
            return
        batch: list[_T] = []
        try:
            batch = self._take()
            if batch:
                self._guard(lambda: self._deliver(batch), len(batch))
        finally:
            self._done += len(batch)
            self._delivering.release()

    def _take(self) -> list[_T]:
        batch: list[_T] = []
        with contextlib.suppress(IndexError):  # nothing waits, or join() dropped what did
            for _ in range(self._batch):
                batch.append(self._queue.popleft())  # noqa: PERF401 - keeps what it took
        return batch

    def _end(self) -> None:
        self._guard(self._on_end, 1)

    def _guard(self, function: Callable[[], object], count: int) -> None:
        try:
            function()
        except BaseException as error:
            self._on_loss(Loss.RAISED, count, error)
            # Of the user's own keys, where the thread that waits had to deliver.
            if type(error) is KeyboardInterrupt and not is_feed_thread():
                raise


def _pause(deadline: float) -> None:
    time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))
