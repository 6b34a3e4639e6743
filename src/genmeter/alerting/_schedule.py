"""The thread that evaluates the alerts of all monitors of a process periodically.

AfterImage creates a monitor for every generator, so a thread for each would be too many.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genmeter.pipeline.worker import Worker, catch_all

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Schedule", "schedule"]


@dataclass(slots=True)
class _Entry:
    function: Callable[[], object]
    interval: float
    due: float


class Schedule:
    """Calls functions, each at its own interval, one after the other.

    The thread starts with the first function and ends with the last.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()

    def _begin(self) -> None:
        # Dict operations are atomic, so the garbage collector may discard an entry at any time.
        self._entries: dict[int, _Entry] = {}
        # Held only to start and end the worker, and never by the garbage collector.
        self._lock = threading.RLock()
        self._worker: Worker[None] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: int, function: Callable[[], object], interval: float) -> bool:
        """Call a function periodically; does nothing if the key exists.

        Args:
            key: Identifies the function for :meth:`discard`.
            function: The function. It must not keep a monitor alive.
            interval: Seconds before the first call, and between the end of a call and the next.

        Returns:
            Whether the thread runs; if it could not be started, call again.
        """
        with self._lock:
            worker = self._worker
            if worker is None or worker.is_closing:
                # The queue's items only wake the thread, so one is enough.
                worker = self._worker = Worker(
                    lambda _: self._call_due(), name=self._name, tick=self._call_due, capacity=1
                )
            self._entries.setdefault(key, _Entry(function, interval, time.monotonic() + interval))
            worker.put(None)
            return worker.start()

    def discard(self, key: int) -> None:
        """Stop calling a function; takes no lock and starts no thread."""
        self._entries.pop(key, None)
        worker = self._worker
        if worker is not None and worker.is_running:
            worker.put(None)

    def after_fork_in_child(self) -> None:
        """Reset: nothing is scheduled and no thread runs."""
        self._begin()

    def _call_due(self) -> None:
        for entry in tuple(self._entries.values()):
            if entry.due <= time.monotonic():
                with catch_all():
                    entry.function()
                entry.due = time.monotonic() + entry.interval
        with self._lock:
            worker = self._worker
            if worker is None:
                return
            if not self._entries:
                worker.close()
                return
            worker.tick_in(min(each.due for each in self._entries.values()) - time.monotonic())


schedule = Schedule("genmeter-alerts")
"""The schedule of the process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=schedule.after_fork_in_child)
