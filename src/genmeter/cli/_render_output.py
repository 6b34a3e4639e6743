"""Where a rendered text goes: standard output, a file, or a comparison with one."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.errors import ConfigError, ExportError
from genmeter.files.atomic import AtomicFiles

if TYPE_CHECKING:
    import argparse

__all__ = ["add_output_arguments", "put"]

_DIFFERS = 1


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--out`` and ``--check``.

    Args:
        parser: The parser of one kind of file.
    """
    parser.add_argument(
        "--out", metavar="FILE", help="write to this file rather than to standard output"
    )
    parser.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="FILE",
        help="write nothing: show how FILE (default: that of --out) differs, and exit 1 if it does",
    )


def put(text: str, args: argparse.Namespace) -> int:
    """Write a text, or compare it.

    Args:
        text: What was rendered.
        args: As :func:`add_output_arguments` declares them.

    Returns:
        The exit code: 1 where a file that is checked differs.

    Raises:
        ConfigError: ``--check`` has no file, or one that cannot be read.
        ExportError: The file cannot be written.
    """
    if args.check is not None:
        return _compare(text, args.check or args.out)
    if args.out is None:
        _print(text)
    else:
        _write(args.out, text)
    return 0


def _compare(text: str, name: str | None) -> int:
    if name is None:
        raise ConfigError("--check has no file to compare with; give --check FILE, or --out FILE")
    try:
        # Bytes, so that other ends of lines are a difference.
        found = Path(name).read_bytes().decode()
    except FileNotFoundError:
        found = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--check: {name!r} cannot be read: {error}; give another file"
        ) from error
    if found == text:
        return 0
    old, new = (each.splitlines(keepends=True) for each in (found, text))
    diff = difflib.unified_diff(old, new, name, f"{name} (as it would be rendered)")
    ends = "\n\\ No newline at end of file\n"
    _print("".join(line if line.endswith("\n") else line + ends for line in diff))
    return _DIFFERS


def _print(text: str) -> None:
    # Not the terminal's encoding: what is redirected to a file is to be what --out writes.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


def _write(name: str, text: str) -> None:
    # A link stays one: what it points to is written.
    path = Path(os.path.realpath(name))
    try:
        if path.exists() and not path.is_file():
            raise ExportError(f"--out {name!r} is no regular file; give another path, or none")
        with AtomicFiles() as files:
            files.stage(path).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ExportError(
            f"--out {name!r} cannot be written: {error.strerror or error}; give another path"
        ) from error
