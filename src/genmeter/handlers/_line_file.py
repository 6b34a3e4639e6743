"""A file that whole lines are appended to, by several threads and processes at once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LineFile"]

_logger = logging.getLogger("genmeter")

_LOOKS = 5
_BETWEEN_LOOKS = 0.01  # seconds

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "set max_bytes below the limit of a file's size",
    errno.ENOTDIR: "give a folder as log_dir",
    errno.EEXIST: "give a folder as log_dir",
    errno.EISDIR: "remove the folder of that name",
}
_OTHER_REMEDY = "make it writable, or give another log_dir"


class LineFile:
    """Appends lines to a file that it opens at the first of them, and once.

    Each :meth:`append` is one write at the file's end, so that lines of several threads and
    processes never mix, and a process that is killed leaves at most its last line unfinished. Who
    opens the file next ends that line; where it was another process's that just wrote, an empty line
    may stay, which readers skip. Where the file was removed meanwhile, a new one begins.

    Args:
        path: The file; its folder is made where it is missing.
        max_bytes: Size from which on the file is put aside, as ``NAME.1.SUFFIX``; None means that
            it grows. A file that one append alone fills is larger.
        keep: How many files that were put aside are kept, the last of them as ``NAME.1.SUFFIX``.
    """

    def __init__(self, path: Path, *, max_bytes: int | None, keep: int) -> None:
        with contextlib.suppress(OSError):  # the job may change its folder before the first line
            path = path.absolute()
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        # By process: a fork may come while another thread holds the parent's.
        self._locks: dict[int, threading.RLock] = {}
        self._fd: int | None = None
        self._pid = 0
        # Whether the file ends in the middle of a line, which the next append must not go on with.
        self._is_torn = False
        self._has_warned = False

    def append(self, data: bytes) -> None:
        """Write lines; all of them, or none where that is possible.

        Args:
            data: Whole lines, each with its end.

        Raises:
            OSError: They could not be written; a later call tries again from the start.
        """
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.RLock()):
            try:
                if self._pid != pid:
                    self._close()  # the parent's
                    self._pid = pid
                if self._fd is not None and not os.fstat(self._fd).st_nlink:
                    self._close()  # the file was removed: a line would go nowhere
                fd = self._open() if self._fd is None else self._fd
                if self._max_bytes is not None and _is_over(fd, len(data), self._max_bytes):
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
        """Close the file; the next line opens it again."""
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            self._close()

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Readable too, to see whether who wrote there before was killed in the middle of a line.
        self._fd = fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._is_torn = _is_torn(fd)
        return fd

    def _close(self) -> None:
        # Forgotten first: a child that a fork makes now must not close another file's number.
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
        """Put the file aside and open a new one, unless another process just does or did so."""
        import fcntl  # which Windows does not have

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return fd
        except OSError:
            pass  # a file system without locks
        try:
            if _is_same_file(self.path, fd):
                self._put_aside()
        except OSError as error:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            if not self._has_warned:
                self._has_warned = True
                _logger.warning("%s cannot be put aside and goes on growing: %s", self.path, error)
            return fd
        self._close()  # and with it the lock
        return self._open()

    def _put_aside(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._aside(number).replace(self._aside(number + 1))
        self.path.replace(self._aside(1))

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}")


def _is_torn(fd: int) -> bool:
    """Tell whether a file ends in the middle of a line.

    While another process writes, its line seems unfinished for a moment, hence several looks.
    """
    for _ in range(_LOOKS):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return False
        if os.pread(fd, 1, status.st_size - 1) == b"\n":
            return False
        time.sleep(_BETWEEN_LOOKS)
    return True


def _is_over(fd: int, more: int, most: int) -> bool:
    size = os.fstat(fd).st_size
    return size > 0 and size + more > most


def _is_same_file(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _cut(fd: int, count: int) -> bool:
    """Take back the last bytes that were written; tells whether that was possible."""
    try:
        end = os.lseek(fd, 0, os.SEEK_CUR)
        if os.fstat(fd).st_size != end:  # another process has written since
            return False
        os.ftruncate(fd, end - count)
    except OSError:
        return False
    return True
