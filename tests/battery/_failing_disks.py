"""Disks that fail: full at any byte, read-only, broken, or without a file descriptor left.

Opening, renaming and making folders fail by an audit hook, so that each of them can be the one that
fails. Writing fails by the limit of a file's size, which holds for code in C too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ERRORS", "Faults", "contents", "full_at"]

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE, errno.EACCES, errno.EDQUOT)
# Not the removal of a temporary file: nothing can be done about that one.
_EVENTS = {"open", "os.rename", "os.mkdir", "os.truncate", "sqlite3.connect"}


class Faults:
    """Fails operations on the files of a folder; a process has one, since a hook stays.

    Attributes:
        seen: The number of operations since `failing` began.
        failed: The number of those that failed.
    """

    def __init__(self) -> None:
        self.seen = self.failed = 0
        self._folder: str | None = None
        self._number = 0
        self._error = 0
        self._is_lasting = False
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def failing(self, folder: Path, number: int, error: int, *, is_lasting: bool) -> Iterator[None]:
        """Have operations fail within the block.

        Args:
            folder: Only below this folder.
            number: The operation that fails, from 0 on.
            error: The number of the error.
            is_lasting: Whether all operations after it fail too.
        """
        self.seen = self.failed = 0
        self._number, self._error, self._is_lasting = number, error, is_lasting
        self._folder = str(folder)
        try:
            yield
        finally:
            self._folder = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        folder = self._folder
        if folder is None or event not in _EVENTS or not arguments:
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(folder):
            return
        if event == "open" and not _writes(arguments):
            return
        if event == "os.mkdir" and os.path.isdir(path):  # noqa: PTH112 - without another event
            return
        number = self.seen
        self.seen += 1
        if number == self._number or (self._is_lasting and number > self._number):
            self.failed += 1
            raise OSError(self._error, os.strerror(self._error), os.fspath(path))


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextlib.contextmanager
def full_at(size: int) -> Iterator[None]:
    """Have no file grow beyond a size in bytes within the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a folder, at any depth."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
