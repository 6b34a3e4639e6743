"""Appends whole lines to a file that several threads and processes share."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["LineFile"]

_logger = logging.getLogger("genmeter")

_END_CHECKS = 5
_CHECK_INTERVAL = 0.01  # seconds

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "set max_bytes below the limit of a file's size",
    errno.ENOTDIR: "set log_dir to a folder",
    errno.EEXIST: "set log_dir to a folder",
    errno.EISDIR: "remove the folder of that name",
}
_OTHER_REMEDY = "make it writable or set another log_dir"


class LineFile:
    """Appends lines to a file, which the first line opens.

    Each :meth:`append` is one write at the file's end, so lines of several threads and processes
    never mix, and a killed process leaves at most its last line unfinished. The next writer that
    opens the file ends that line. If another process is just writing it, that may leave an empty
    line, which readers skip. If the file was removed, a new one is created.

    Args:
        path: The file; a missing folder is created.
        max_bytes: Size at which the file is rotated to ``NAME.1.SUFFIX``; None means no limit. A
            single append may exceed it.
        keep: Number of rotated files to keep; ``NAME.1.SUFFIX`` is the newest.
    """

    def __init__(self, path: Path, *, max_bytes: int | None, keep: int) -> None:
        with contextlib.suppress(OSError):  # the job may change its folder before the first line
            path = path.absolute()
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        # By process, because another thread may hold the parent's lock at a fork.
        self._locks: dict[int, threading.RLock] = {}
        self._fd: int | None = None
        self._pid = 0
        # Whether the file ends with an unfinished line, which the next append has to end.
        self._is_torn = False
        self._has_warned = False

    def __reduce__(self) -> tuple[Callable[[], LineFile], tuple[()]]:
        """Pickle the settings: each process opens the file itself."""
        make = functools.partial(LineFile, self.path, max_bytes=self._max_bytes, keep=self._keep)
        return make, ()

    def append(self, data: bytes) -> None:
        """Write whole lines: all of them or, if possible, none.

        Raises:
            OSError: The lines cannot be written; a later call tries to open the file again.
        """
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.RLock()):
            try:
                if self._pid != pid:
                    self._close()  # the parent's
                    self._pid = pid
                if self._fd is not None and not os.fstat(self._fd).st_nlink:
                    self._close()  # the file was removed
                fd = self._open() if self._fd is None else self._fd
                if self._max_bytes is not None and _exceeds(fd, len(data), self._max_bytes):
                    fd = self._rotate(fd)
                self._write(fd, data)
            except OSError as error:
                remedy = _REMEDIES.get(error.errno or 0, _OTHER_REMEDY)
                raise OSError(
                    error.errno,
                    f"{self.path} cannot be written: {error.strerror}; {remedy}, until then its "
                    "lines are dropped",
                ) from error

    def close(self) -> None:
        """Close the file; the next line reopens it."""
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            self._close()

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Readable too, to check whether the last line is unfinished.
        self._fd = fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._is_torn = _is_torn(fd)
        return fd

    def _close(self) -> None:
        # Cleared first, so that a child forked here cannot close a reused descriptor.
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _write(self, fd: int, data: bytes) -> None:
        rest = b"\n" + data if self._is_torn else data
        written = 0
        try:
            while rest:
                count = os.write(fd, rest)
                written += count
                rest = rest[count:]
        except BaseException:
            if written:
                self._is_torn = not _cut(fd, written) or self._is_torn
            raise
        self._is_torn = False

    def _rotate(self, fd: int) -> int:
        """Rename the file and open a new one, unless another process rotates or has rotated it."""
        import fcntl  # not on Windows

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return fd
        except OSError:
            pass  # a file system without locks
        try:
            if _is_same_file(self.path, fd):
                for number in range(self._keep - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        self._rotated(number).replace(self._rotated(number + 1))
                self.path.replace(self._rotated(1))
        except OSError as error:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            if not self._has_warned:
                self._has_warned = True
                _logger.warning("cannot rotate %s, so it keeps growing: %s", self.path, error)
            return fd
        self._close()  # releases the lock too
        return self._open()

    def _rotated(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}")


def _is_torn(fd: int) -> bool:
    """Return whether a file ends with an unfinished line.

    Checks repeatedly, because another process may be writing that line.
    """
    for _ in range(_END_CHECKS):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        if os.pread(fd, 1, status.st_size - 1) == b"\n":
            return False
        time.sleep(_CHECK_INTERVAL)
    return True


def _exceeds(fd: int, new_bytes: int, max_bytes: int) -> bool:
    size = os.fstat(fd).st_size
    return size > 0 and size + new_bytes > max_bytes


def _is_same_file(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _cut(fd: int, count: int) -> bool:
    """Remove the last bytes that were written; return whether that was possible."""
    try:
        end = os.lseek(fd, 0, os.SEEK_CUR)
        if os.fstat(fd).st_size != end:  # another process has written since
            return False
        os.ftruncate(fd, end - count)
    except OSError:
        return False
    return True
