"""Writes the output files of commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.errors import ExportError
from genmeter.files.atomic import AtomicFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["write_files"]


def write_files(files: Mapping[Path, str], option: str, value: str) -> None:
    """Write texts as UTF-8, all of them or none. Symbolic links are followed.

    Args:
        files: The texts by path; missing folders are created.
        option: The option that names the path, for an error.
        value: The option's value.

    Raises:
        ExportError: A file cannot be written.
    """
    try:
        with AtomicFiles() as staging:
            for path, text in files.items():
                target = Path(os.path.realpath(path))
                if target.exists() and not target.is_file():
                    raise ExportError(f"{option} must be a regular file, got {str(path)!r}")
                staging.stage(target).write_text(
                    text, encoding="utf-8", errors="replace", newline=""
                )
    except OSError as error:
        raise ExportError(
            f"{option} {value!r} cannot be written: {error.strerror or error}; choose another path"
        ) from error
