"""Writes the output files of commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.errors import ExportError
from genmeter.files.atomic import AtomicFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["write_files", "write_output"]


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


def write_output(text: str | bytes) -> None:
    """Write to standard output.

    Raises:
        BrokenPipeError: Its reader is gone.
        ExportError: It cannot be written, for example because the disk is full.
    """
    try:
        if isinstance(text, str):
            sys.stdout.write(text)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is in the buffer would fail again at exit, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ExportError(
            f"standard output cannot be written: {error.strerror or error}; use another file"
        ) from error
