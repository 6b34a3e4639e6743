"""Warnings that are logged once for each key, off the caller's thread and without a monitor.

What observes calls has warnings before there is a monitor, whose deferred log it could use otherwise.
"""

from __future__ import annotations

import atexit
import logging
import os
from typing import TYPE_CHECKING

from genmeter.pipeline.deferred_log import DeferredLog
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["MAX_KEYS", "FirstTimes", "OnceLog"]

MAX_KEYS = 1_000
"""Different keys that are kept; what comes later is not new."""
_AT_EXIT = 0.5  # seconds that lines may take which are left at the end of the process


class FirstTimes:
    """The keys that were seen; bounded, and for any number of threads."""

    def __init__(self) -> None:
        self._keys: dict[Hashable, object] = {}

    def is_new(self, key: Hashable) -> bool:
        """Return whether a key was not seen before; True once for each."""
        if key in self._keys or len(self._keys) >= MAX_KEYS:
            return False
        mine = object()
        return self._keys.setdefault(key, mine) is mine  # atomic: of two threads one is first

    def clear(self) -> None:
        """Forget all."""
        self._keys.clear()


class OnceLog:
    """Logs warnings of one part, each key once."""

    def __init__(self) -> None:
        self._first = FirstTimes()

    def warn(self, key: Hashable, message: str, *arguments: object) -> None:
        """Log a warning unless its key was logged; never raises or waits for a logging handler.

        Args:
            key: What it is about.
            message: The message, with ``%s`` for each argument.
            *arguments: Its arguments; their texts are made on the thread that logs.
        """
        if self._first.is_new(key):
            _lines.add(logging.WARNING, message, *arguments)
            # A worker of its own: one that runs may be about to end.
            worker: Worker[None] = Worker(_flush, name="genmeter-log")
            worker.put(None)
            worker.close()

    def clear(self) -> None:
        """Log each key once more."""
        self._first.clear()


_lines = DeferredLog()


def _flush(_items: object) -> None:
    _lines.flush()


atexit.register(_lines.finish, _AT_EXIT)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lines.clear)
