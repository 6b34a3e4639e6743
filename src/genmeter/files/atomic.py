"""Writes files under temporary names, then renames them together.

A reader never sees an incomplete file, and a failed write leaves the old files unchanged, also those
of a set that were renamed already.
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
        self._older: list[Path] = []

    def stage(self, target: Path) -> Path:
        """Return the temporary path for ``target``, in the same folder, which is created if missing.

        Raises:
            OSError: The folder cannot be created.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target)
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
                    self._rename()
                    self._remove_stale()
        finally:
            for temporary in (*(each for each, _ in self._staged), *self._older):
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def _rename(self) -> None:
        """Rename the files; if one cannot be, have the older files of those before it again."""
        done: list[tuple[Path, Path | None]] = []
        try:
            for number, (temporary, target) in enumerate(self._staged, 1):
                # After the last one nothing can fail.
                older = self._link(target) if number < len(self._staged) else None
                is_new = not os.path.lexists(target)
                temporary.replace(target)
                if older is not None or is_new:
                    done.append((target, older))
        except BaseException:
            for target, older in reversed(done):
                with contextlib.suppress(OSError):
                    if older is None:
                        target.unlink()
                    else:
                        older.replace(target)
            raise

    def _link(self, target: Path) -> Path | None:
        """Return another name of a file; None without one, or on a file system without links."""
        older = _beside(target)
        try:
            os.link(target, older, follow_symlinks=False)
        except (OSError, NotImplementedError):
            return None
        self._older.append(older)
        return older

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


def _beside(target: Path) -> Path:
    return target.with_name(f".genmeter-{os.getpid()}-{secrets.token_hex(4)}.tmp")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=AtomicFiles.after_fork_in_child)
