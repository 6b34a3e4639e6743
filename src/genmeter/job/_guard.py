"""The lock of all uses of SQLite in this process, which a fork takes too.

SQLite's own state must not be carried over a fork: a child's locks would be those of its parent, and
the file would be damaged.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Protocol

from genmeter.deferral import deferral
from genmeter.job.amounts import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["guard"]

_TIMEOUT = 5.0  # seconds to wait for another thread
_FORK_TIMEOUT = 2.0  # seconds that a fork waits for a use under way


class Closable(Protocol):
    """Has a connection."""

    def close_now(self) -> None:
        """Close the connection; for the holder of the lock."""


class Guard:
    """The lock of all stores of this process, which a fork takes too."""

    def __init__(self) -> None:
        self.open: set[Closable] = set()
        self.is_damaged = False
        self._lock = threading.Lock()
        self._is_forking = False

    def acquire(self) -> threading.Lock:
        """Take the lock, and put off the work of an exit; return the lock, for `release`.

        Raises:
            StoreError: It was not free in time, or this process must not use SQLite.
        """
        if self.is_damaged:
            raise StoreError(
                "this process was forked while a thread of its parent used the store of the job"
            )
        lock = self._lock
        deferral.__enter__()
        try:
            if not lock.acquire(timeout=_TIMEOUT):
                raise StoreError("the store of the job is busy in this process")
        except BaseException:
            deferral.__exit__()
            raise
        return lock

    def release(self, lock: threading.Lock) -> None:
        """Free the lock that `acquire` has returned."""
        lock.release()
        deferral.__exit__()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock during a ``with`` block."""
        lock = self.acquire()
        try:
            yield
        finally:
            self.release(lock)

    def before_fork(self) -> None:
        self._is_forking = self._lock.acquire(timeout=_FORK_TIMEOUT)
        if self._is_forking:
            for store in tuple(self.open):
                store.close_now()

    def after_fork_in_parent(self) -> None:
        if self._is_forking:
            self._is_forking = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self.is_damaged = self.is_damaged or not self._is_forking
        self._is_forking = False
        self._lock = threading.Lock()
        # If damaged: closing these would hang or harm the parent's.
        _kept.update(self.open)
        self.open.clear()


_kept: set[Closable] = set()
guard = Guard()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=guard.before_fork,
        after_in_parent=guard.after_fork_in_parent,
        after_in_child=guard.after_fork_in_child,
    )
