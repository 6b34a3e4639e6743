"""The connection of a process to an SQLite file: its transactions, and their errors.

SQLite's own state must not be carried over a fork: a child's locks would be those of its parent, and
the file would be damaged. So all connections of a process are closed before a fork, and none is opened
until it is over.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Literal

from genmeter.job._guard import guard
from genmeter.job.amounts import StoreError

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Lock

__all__ = ["Block", "Connection"]

_TIMEOUT = 5.0  # seconds to wait for the writes of other processes
_PAUSE = 0.01


class Connection:
    """A file, as one process uses it.

    Every block holds the lock of this process, and waits for the writes of others, at most five
    seconds each.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the connection; it opens again at the next use."""
        with contextlib.suppress(StoreError), guard.locked():
            self.close_now()

    def close_now(self) -> None:
        """Close the connection; for the holder of the lock."""
        guard.open.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def open_now(self) -> sqlite3.Connection:
        """Return the connection, after opening it if needed; for the holder of the lock."""
        found = self._connection
        if found is None:
            found = self._connection = self._open_patiently()
            guard.open.add(self)
        return found

    def failed(self, error: Exception) -> StoreError:
        """Close the connection after an error of SQLite; return the error of the store."""
        self.close_now()
        found = StoreError(f"the store of the job at {str(self._path)!r}: {error}")
        found.is_busy = isinstance(error, sqlite3.OperationalError) and _is_locked(error)
        return found

    def _use(self) -> Block:
        """Use the connection for single statements."""
        return Block(self)

    def _write(self) -> Block:
        """Hold the lock of all writers, and commit at the end."""
        return Block(self, "BEGIN IMMEDIATE", "COMMIT")

    def _read(self) -> Block:
        """Read a state that no writer changes meanwhile."""
        return Block(self, "BEGIN", "ROLLBACK")

    def _open_patiently(self) -> sqlite3.Connection:
        """Open a connection, also while another process opens or closes the last other one."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                return self._open()
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection


class Block:
    """A ``with`` block that has the connection; a class, since a generator costs more than SQLite.

    Args:
        connection: The file.
        begin: The statement before the block; none if it is empty.
        end: The one behind it. If the block raises, that is ``ROLLBACK``.

    Raises:
        StoreError: Any statement of SQLite failed, or other threads use the file for too long.
    """

    __slots__ = ("_begin", "_db", "_end", "_file", "_held")

    def __init__(self, connection: Connection, begin: str = "", end: str = "") -> None:
        self._file = connection
        self._begin = begin
        self._end = end
        self._held: Lock | None = None
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> sqlite3.Connection:
        """Take the lock of this process, and begin."""
        self._held = guard.acquire()
        try:
            self._db = connection = self._file.open_now()
            if self._begin:
                connection.execute(self._begin)
        except BaseException as error:
            self._leave(error)
            raise
        return connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> Literal[False]:
        """End, and free the lock."""
        if error is None and self._begin and self._db is not None:
            try:
                self._db.execute(self._end)
            except BaseException as failure:
                self._leave(failure)
                raise
        self._leave(error)
        return False

    def _leave(self, error: BaseException | None) -> None:
        """Roll back after an error, and free the lock; raise the error of the store for SQLite's."""
        try:
            if error is not None and self._begin and self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OverflowError | UnicodeError):
                raise self._file.failed(error) from error
        finally:
            held, self._held = self._held, None
            if held is not None:
                guard.release(held)


def _is_locked(error: sqlite3.OperationalError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
