"""Files that are written beside their place and renamed into it, all or none.

A reader never sees half a file, and where the writing fails the old file stays as it was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

__all__ = ["Beside"]

_logger = logging.getLogger("genmeter")


class _Turn:
    """Whose files are being renamed, so that two sets of one place do not mix."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.lock = threading.RLock()


_turn = _Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn.renew)


class Beside:
    """Temporary files of one export, renamed when the ``with`` block ends without an error."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []
        self._stale: list[Path] = []

    def place(self, target: Path) -> Path:
        """Give the path to write at for what is to be ``target``, in the same folder.

        Raises:
            OSError: The folder is missing and cannot be made.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        name = f".genmeter-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        beside = target.with_name(name)
        self._files.append((beside, target))
        return beside

    def remove(self, stale: Iterable[Path]) -> None:
        """Remove files that the new ones supersede, once these are in their places."""
        self._stale += stale

    def __enter__(self) -> Self:
        """Give the set itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Rename the files, or remove them after an error.

        Raises:
            OSError: A file cannot be renamed.
        """
        try:
            if kind is None:
                with _turn.lock:
                    for beside, target in self._files:
                        beside.replace(target)
                    self._remove_stale()
        finally:
            for beside, _ in self._files:
                with contextlib.suppress(OSError):
                    beside.unlink()

    def _remove_stale(self) -> None:
        for path in self._stale:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("%s is of an older export and cannot be removed: %s", path, error)
