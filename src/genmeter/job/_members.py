"""Locks that say which processes of a job live, and which one leads.

The kernel frees a lock when its process ends, however that happens, so no process id is ever
trusted. All are locks on single bytes of one file: POSIX record locks, which a forked child does
not inherit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Members"]

_GATE, _LEAD, _TURN, _FIRST = 0, 1, 2, 16  # bytes
_STEP = 2**23  # more than any process id; containers that share the folder may have equal ids
_TRIES = 64
_PAUSE = 0.005


class Members:
    """The lock file of a job, of one process.

    A process may open it once: closing any handle would free the locks of all.

    Args:
        path: The file; it is created if it is missing.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self.own: int | None = None
        self._leads = False

    def close(self) -> None:
        """Close the file, which frees the locks of this process."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.own = None
        self._leads = False

    @property
    def is_current(self) -> bool:
        """Whether the path still is this file."""
        try:
            found, mine = self._path.stat(), os.fstat(self._fd)
        except (OSError, ValueError):
            return False
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    @contextlib.contextmanager
    def gate(self, deadline: float) -> Iterator[None]:
        """Hold the lock of those that join and leave.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Raises:
            TimeoutError: It was not free in time.
        """
        while not self._lock(fcntl.LOCK_EX, _GATE):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the lock of {str(self._path)!r} was not free in time")
            time.sleep(_PAUSE)
        try:
            yield
        finally:
            self._free(_GATE)

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Hold the lock of those that push a last state; without it if it is not free in time.

        Args:
            deadline: On the clock of ``time.monotonic()``.
        """
        has_turn = False
        while not has_turn and time.monotonic() < deadline:
            has_turn = self._lock(fcntl.LOCK_EX, _TURN)
            if not has_turn:
                time.sleep(_PAUSE)
        try:
            yield
        finally:
            if has_turn:
                self._free(_TURN)

    def enter(self) -> int:
        """Take a byte of this process, and return its number.

        Raises:
            OSError: None is free.
        """
        for attempt in range(_TRIES):
            byte = _FIRST + os.getpid() + attempt * _STEP
            if self._lock(fcntl.LOCK_EX, byte):
                self.own = byte
                return byte
        raise OSError(f"no lock of {str(self._path)!r} is free")

    def leave(self) -> None:
        """Free the byte of this process."""
        if self.own is not None:
            self._free(self.own)
            self.own = None

    def is_alive(self, byte: int) -> bool:
        """Return whether the process of a byte lives."""
        if byte == self.own:
            return True
        if not self._lock(fcntl.LOCK_SH, byte):
            return True
        self._free(byte)
        return False

    def is_empty(self) -> bool:
        """Return whether no process lives; only before `enter` and after `leave`."""
        if not self._lock(fcntl.LOCK_SH, _FIRST, 0):
            return False
        self._free(_FIRST, 0)
        return True

    def lead(self) -> bool:
        """Try to lead; return whether this process leads."""
        self._leads = self._leads or self._lock(fcntl.LOCK_EX, _LEAD)
        return self._leads

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self._leads

    def stop_leading(self) -> None:
        """Let another process lead."""
        if self._leads:
            self._leads = False
            self._free(_LEAD)

    def has_leader(self) -> bool:
        """Return whether any process leads."""
        if self._leads:
            return True
        if not self._lock(fcntl.LOCK_SH, _LEAD):
            return True
        self._free(_LEAD)
        return False

    def touch(self) -> None:
        """Set the time of the file, so that nothing that cleans the temporary directory takes it."""
        os.utime(self._fd)

    def _lock(self, kind: int, byte: int, length: int = 1) -> bool:
        try:
            fcntl.lockf(self._fd, kind | fcntl.LOCK_NB, length, byte)
        except (OSError, ValueError):  # ValueError: closed meanwhile
            return False
        return True

    def _free(self, byte: int, length: int = 1) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            fcntl.lockf(self._fd, fcntl.LOCK_UN, length, byte)
