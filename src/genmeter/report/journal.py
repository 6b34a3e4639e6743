"""Journals, ours and those that AfterImage's monitor wrote, read line by line."""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from genmeter.errors import ConfigError
from genmeter.report._metric_rows import MetricRows
from genmeter.report.usage_table import UsageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

__all__ = ["journal_files", "read_journal"]

_NAME = "metrics.jsonl"
_ROTATED = re.compile(r"metrics\.(\d{1,9})\.jsonl")
_PROGRESS_LINES = 4_096  # between two calls of the progress
_EARLIEST = 0.0  # Unix time
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # the last that every time zone can show
_UNUSABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_decode = json.JSONDecoder().raw_decode


def journal_files(folder: Path) -> list[Path]:
    """List the files of a folder's journal, those that were rotated away first, oldest first.

    Args:
        folder: An existing folder.

    Returns:
        Paths; none where the folder has no journal.
    """
    rotated = {
        int(found[1]): path for path in folder.iterdir() if (found := _ROTATED.fullmatch(path.name))
    }
    files = [rotated[number] for number in sorted(rotated, reverse=True)]
    return [*files, *([current] if (current := folder / _NAME).exists() else [])]


def read_journal(
    paths: Sequence[Path],
    window: timedelta | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> UsageTable:
    """Sum a journal without keeping it in memory.

    Args:
        paths: Its files, oldest first.
        window: How long before the newest event to begin; None reads all.
        progress: Is called now and then with the bytes that are read, and those in all.

    Raises:
        ConfigError: A file cannot be read, or none of the lines is a journal's.
    """
    table = UsageTable("journal", window)
    with ExitStack() as stack:
        try:
            files = _open(paths, stack)
            cutoff = -math.inf if window is None else _newest(files) - window.total_seconds()
            _Reader(table, cutoff, progress).read(files)
        except OSError as error:
            raise ConfigError(
                f"source={str(paths[-1])!r} cannot be read: {error.strerror or error}; mend the "
                "file or its path"
            ) from error
    return table


def _open(paths: Sequence[Path], stack: ExitStack) -> list[TextIO]:
    # The newest first: a file that is rotated meanwhile is then found twice and never missed.
    files: dict[tuple[int, int], TextIO] = {}
    for path in reversed(paths):
        # An editor may have put a byte order mark at the beginning.
        text = path.open(encoding="utf-8-sig", errors="replace", newline="\n")
        status = os.fstat(stack.enter_context(text).fileno())
        files.setdefault((status.st_dev, status.st_ino), text)
    return list(reversed(files.values()))


_Line = tuple[str, Any, dict[str, Any], float, bool]
"""Name, value, metadata, Unix time, and whether AfterImage's monitor wrote it."""


class _Parser:
    """Parses lines; those of an event share their time, so the last one is kept."""

    def __init__(self, matters: Callable[[str, dict[str, Any]], bool]) -> None:
        self._matters = matters
        self._stamp = ""
        self._when = 0.0
        self._is_afterimage = False

    def parse(self, text: str) -> _Line | None:
        """Return a line that may count; None for one that does not.

        Raises:
            ValueError: It is no line of a journal. So do the other errors of `_UNUSABLE`.
        """
        row, end = _decode(text)
        if end < len(text) - 1 and text[end:].strip():
            raise ValueError("more than one value")
        name, value = row["metric"], row["value"]
        if not self._matters(name, row):
            return None
        stamp = row["timestamp"]
        if stamp != self._stamp:
            time = datetime.fromisoformat(stamp)
            # AfterImage writes local time without its offset; ours has one.
            self._is_afterimage = time.tzinfo is None
            self._when = time.timestamp()
            if not _EARLIEST < self._when < _LATEST:
                raise ValueError("a time that no event has")
            self._stamp = stamp
        return name, value, row, self._when, self._is_afterimage


class _Reader:
    """Reads files into a table."""

    def __init__(
        self, table: UsageTable, cutoff: float, progress: Callable[[int, int], object] | None
    ) -> None:
        self._table = table
        self._rows = MetricRows(table, cutoff)
        self._progress = progress or (lambda _done, _size: None)
        self._first_skipped = ""
        self._has_journal_lines = False

    def read(self, files: Sequence[TextIO]) -> None:
        sizes = [os.fstat(file.fileno()).st_size for file in files]
        for number, file in enumerate(files):
            self._read_file(file, sum(sizes[:number]), sum(sizes))
        self._rows.finish()
        skipped = self._table.skipped
        if skipped and not self._has_journal_lines:
            raise ConfigError(
                f"source={str(files[-1].name)!r} is no journal: none of its {skipped:,} lines is a "
                "metric; give a metrics.jsonl, an export or the address of an endpoint"
            )
        if skipped:
            self._table.notes.append(
                f"{skipped:,} {'line' if skipped == 1 else 'lines'} could not be used and "
                f"{'is' if skipped == 1 else 'are'} not in the report; the first is "
                f"{self._first_skipped}."
            )

    def _read_file(self, file: TextIO, before: int, size: int) -> None:
        parse, add = _Parser(self._rows.matters).parse, self._rows.add
        for number, text in enumerate(file, 1):
            try:
                line = parse(text)
                is_usable = line is None or add(*line)
                self._has_journal_lines = True
            except _UNUSABLE:
                is_usable = not text.strip()
            if not is_usable:
                self._table.skipped += 1
                name = Path(file.name).name
                self._first_skipped = self._first_skipped or f"line {number:,} of {name}"
            if number % _PROGRESS_LINES == 0:
                self._progress(before + file.buffer.tell(), size)
        self._progress(before + file.buffer.tell(), size)


def _newest(files: Sequence[TextIO]) -> float:
    """Find the time of the newest event, which is in the last file that has any."""
    for file in reversed(files):
        parse = _Parser(MetricRows(UsageTable("journal")).matters).parse
        newest = -math.inf
        for text in file:
            try:
                line = parse(text)
            except _UNUSABLE:
                continue
            if line is not None:
                _, _, row, when, is_afterimage = line
                if is_afterimage or row.get("phase") is not None:
                    newest = max(newest, when)
        file.seek(0)
        if newest > -math.inf:
            return newest
    return -math.inf
