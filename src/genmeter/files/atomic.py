"""Writes files under temporary names, then renames them together.

A reader never sees an incomplete file, and a failed write leaves the old file unchanged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["AtomicFiles"]

_logger = logging.getLogger("genmeter")


class AtomicFiles:
    """A set of files written in a ``with`` block and renamed if it ends without an error."""

    # Held while renaming, so that two sets written to the same place do not mix.
    _renaming = threading.RLock()

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []
        self._stale: list[Path] = []

    def stage(self, target: Path) -> Path:
        """Return the temporary path for ``target``, in the same folder, which is created if missing.

        Raises:
            OSError: The folder cannot be created.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".genmeter-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        self._staged.append((temporary, target))
        return temporary

    def remove(self, *stale: Path) -> None:
        """Remove superseded files after the new ones have been renamed."""
        self._stale += stale

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Rename the files, or delete them after an error.

        Raises:
            OSError: A file cannot be renamed.
        """
        try:
            if kind is None:
                with self._renaming:
                    for temporary, target in self._staged:
                        temporary.replace(target)
                    self._remove_stale()
        finally:
            for temporary, _ in self._staged:
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def _remove_stale(self) -> None:
        for path in self._stale:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("cannot remove %s of an earlier export: %s", path, error)

    @classmethod
    def after_fork_in_child(cls) -> None:
        """Replace the lock, because another thread of the parent may have held it."""
        cls._renaming = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=AtomicFiles.after_fork_in_child)
