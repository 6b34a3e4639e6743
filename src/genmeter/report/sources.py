"""What a source is: a journal, an export or an endpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.errors import ConfigError
from genmeter.report.endpoint import read_endpoint
from genmeter.report.exported import read_exported
from genmeter.report.journal import journal_files, read_journal

if TYPE_CHECKING:
    from datetime import timedelta

    from genmeter.report.ledger import Ledger

__all__ = ["read_source"]

_ADDRESS = re.compile(r"(?:[^/@]*@)?(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}(?:/\S*)?")
_HAS_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_JOURNAL_LINE = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"metric"')
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_JOURNAL_SUFFIX = ".jsonl"


def read_source(source: str, window: timedelta | None = None) -> Ledger:
    """Read a source of any kind.

    Args:
        source: The path of a journal, its folder or an export, or the address of an endpoint.
        window: How long before the newest event to begin; None takes all.

    Raises:
        ConfigError: The source cannot be used, or has no window.
        ExportError: An export cannot be read.
        MissingExtraError: The export's format needs a package that is not installed.
    """
    if not source:
        raise ConfigError("source='' is empty; give a journal, an export or an address")
    path = Path(source)
    if _HAS_SCHEME.match(source) or (_ADDRESS.fullmatch(source) and not os.path.lexists(path)):
        if window is not None:
            raise ConfigError(
                "window: an endpoint tells what happened since the job began, and not when; leave "
                "--window out, or give the job's journal"
            )
        return read_endpoint(source)
    try:
        files = _journal_at(path)
    except OSError as error:
        raise ConfigError(
            f"source={source!r} cannot be read: {error.strerror or error}; mend the file or its path"
        ) from error
    return read_exported(path, window) if files is None else read_journal(files, window)


def _journal_at(path: Path) -> list[Path] | None:
    """Name the files of a journal; None where it is an export.

    Raises:
        ConfigError: It is neither.
        OSError: It cannot be read.
    """
    if path.is_dir():
        return _files_of(path)
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(64)
        if beginning.startswith(_COMPRESSED):
            raise ConfigError(
                f"source={str(path)!r} is compressed; unpack it and give what it holds"
            )
        is_journal = path.suffix == _JOURNAL_SUFFIX or _JOURNAL_LINE.match(beginning)
        return [path] if is_journal else None
    if path.suffix.lower() == ".csv":  # an export in CSV, whose reader's error says what to do
        return None
    raise ConfigError(
        f"source={str(path)!r} is no file; give a journal (metrics.jsonl or its folder), an "
        "export, or the address of an endpoint such as http://127.0.0.1:9464/metrics"
    )


def _files_of(folder: Path) -> list[Path]:
    files = journal_files(folder)
    if files:
        return files
    below = sorted(folder.glob("*/metrics.jsonl"))
    hint = f"give one of its {len(below)} folders that have one" if below else "give another folder"
    raise ConfigError(
        f"source={str(folder)!r} is a folder without a metrics.jsonl; {hint}"
        + (f", such as {str(below[-1].parent)!r}" if below else ", or the path of an export")
    )
