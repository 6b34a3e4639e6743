"""Reads journals of genmeter and AfterImage line by line."""

from __future__ import annotations

import contextlib
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
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta

    from genmeter.config.prices import PriceTable
    from genmeter.report.details import Details

__all__ = ["Journal", "Seen", "folders_below", "journal_files"]

_NAME = "metrics.jsonl"
_ROTATED = re.compile(r"metrics\.(\d{1,9})\.jsonl")
_PROGRESS_LINES = 4_096  # between two calls of the progress
_EARLIEST = 0.0  # Unix time
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # the latest that exists in every time zone
_UNUSABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_decode = json.JSONDecoder().raw_decode

Seen = dict[tuple[int, int], list[str]]
"""The files that were read, by device and number, with each path that they were given by."""


def journal_files(folder: Path) -> list[Path]:
    """List the files of a folder's journal, rotated ones included, oldest first."""
    rotated = {
        int(found[1]): path for path in folder.iterdir() if (found := _ROTATED.fullmatch(path.name))
    }
    files = [rotated[number] for number in sorted(rotated, reverse=True)]
    return [*files, *([current] if (current := folder / _NAME).exists() else [])]


def folders_below(folder: Path) -> list[Path]:
    """List the folders with a journal in a folder, at any depth, itself included.

    Links to folders are followed, and each folder counts once.

    Raises:
        OSError: A folder cannot be read.
    """
    found, seen, left = [], set(), [folder]
    while left:
        parent = left.pop()
        status = parent.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(parent) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries)
        if any(name == _NAME or _ROTATED.fullmatch(name) for name, is_dir in names if not is_dir):
            found.append(parent)
        left += [parent / name for name, is_dir in reversed(names) if is_dir]
    return found


class Journal:
    """A journal.

    Args:
        path: Its folder, which stands for all its files, or one file.

    Attributes:
        path: As passed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest(self) -> float:
        """Return the Unix time of the newest event; minus infinity without any.

        Raises:
            ConfigError: A file cannot be read.
        """
        with ExitStack() as stack:
            return _newest(self._open({}, stack))

    def size(self) -> int:
        """Return the bytes of its files, as far as they can be read."""
        with contextlib.suppress(OSError):
            return sum(path.stat().st_size for path in self._paths())
        return 0

    def read(
        self,
        seen: Seen,
        window: timedelta | None = None,
        cutoff: float = -math.inf,
        progress: Callable[[int, int], object] | None = None,
        prices: PriceTable | None = None,
        details: Details | None = None,
    ) -> UsageTable:
        """Sum the journal without keeping it in memory, but for the details.

        Args:
            seen: The files that were read already, which are skipped; this journal's are added.
            window: The window of the report.
            cutoff: Unix time where it begins; older events are ignored.
            progress: Called now and then with the bytes read and the bytes in total.
            prices: Prices that replace the recorded costs.
            details: What to add each call, error and score to, if anything.

        Raises:
            ConfigError: A file cannot be read, or has no line of a journal.
        """
        table = UsageTable("journal", window)
        if details is not None:
            details.kinds.add("journal")
        with ExitStack() as stack:
            files = self._open(seen, stack)
            try:
                _sum(files, table, MetricRows(table, cutoff, prices, details=details), progress)
            except OSError as error:
                raise _unreadable(self.path, error) from error
        is_rotated = any(_ROTATED.fullmatch(Path(file.name).name) for file in files)
        if is_rotated and any(key.process is None for key in table.rows):
            table.note_partial(
                f"Perhaps incomplete: {str(self.path)!r} was rotated by a version that does not number "
                "events, so deleted files would go unnoticed."
            )
        return table

    def left_out(self, seen: Seen) -> list[Path]:
        """Return the files of the same journal, beside a single file, that were not read."""
        name = self.path.name
        if self.path.is_dir() or not (name == _NAME or _ROTATED.fullmatch(name)):
            return []
        others = []
        with contextlib.suppress(OSError):
            for path in journal_files(self.path.parent):
                status = path.stat()
                if (status.st_dev, status.st_ino) not in seen:
                    others.append(path)
        return others

    def _paths(self) -> list[Path]:
        return journal_files(self.path) if self.path.is_dir() else [self.path]

    def _open(self, seen: Seen, stack: ExitStack) -> list[TextIO]:
        try:
            # Newest first: a file that is rotated meanwhile is opened twice rather than missed.
            files: dict[tuple[int, int], TextIO] = {}
            for path in reversed(self._paths()):
                # An editor may have added a byte order mark.
                text = path.open(encoding="utf-8-sig", errors="replace", newline="\n")
                status = os.fstat(stack.enter_context(text).fileno())
                file = (status.st_dev, status.st_ino)
                if file in seen and file not in files:
                    seen[file].append(str(path))
                elif file not in files:
                    seen[file] = [str(path)]
                    files[file] = text
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return list(reversed(files.values()))


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"source={str(path)!r} cannot be read: {error.strerror or error}; check the file and its path"
    )


def _sum(
    files: Sequence[TextIO],
    table: UsageTable,
    rows: MetricRows,
    progress: Callable[[int, int], object] | None,
) -> None:
    sizes = [os.fstat(file.fileno()).st_size for file in files]
    first_skipped, is_journal = "", False
    for at, file in enumerate(files):
        for number, line in _lines(file, rows.matters):
            is_journal = is_journal or line is not None
            if not (line is not None and (line == () or rows.add(*line))):
                table.skipped += 1
                first_skipped = first_skipped or f"line {number:,} of {file.name}"
            if progress is not None and number % _PROGRESS_LINES == 0:
                progress(sum(sizes[:at]) + file.buffer.tell(), sum(sizes))
    rows.finish()
    if table.skipped and not is_journal:
        raise ConfigError(
            f"source={str(files[-1].name)!r} is not a journal: none of its lines "
            "is a metric; use a metrics.jsonl, an export or the address of an endpoint"
        )
    if table.skipped:
        table.note_skipped("line", f"; the first is {first_skipped}")


_Line = tuple[str, Any, dict[str, Any], float, bool]
"""Name, value, metadata, Unix time, and whether AfterImage wrote it."""


def _lines(
    file: TextIO, matters: Callable[[str, dict[str, Any]], bool]
) -> Iterator[tuple[int, _Line | tuple[()] | None]]:
    """Parse the lines of a file, except blank ones.

    Yields:
        Number and content of each line: empty if it does not matter, None if it is invalid.
    """
    stamp, when, is_afterimage = "", 0.0, False
    for number, text in enumerate(file, 1):
        try:
            row, end = _decode(text)
            if end < len(text) - 1 and text[end:].strip():
                raise ValueError("more than one value")
            line: _Line | tuple[()] = ()
            name, value = row["metric"], row["value"]
            if matters(name, row):
                if row["timestamp"] != stamp:  # the lines of an event share their time
                    when, is_afterimage = _time(row["timestamp"])
                    stamp = row["timestamp"]
                line = (name, value, row, when, is_afterimage)
        except _UNUSABLE:
            if text.strip():
                yield number, None
        else:
            yield number, line


def _time(stamp: str) -> tuple[float, bool]:
    time = datetime.fromisoformat(stamp)
    when = time.timestamp()
    if not _EARLIEST < when < _LATEST:
        raise ValueError("out of range")
    # AfterImage writes local time without an offset.
    return when, time.tzinfo is None


def _newest(files: Sequence[TextIO]) -> float:
    """Return the time of the newest event, which is in the last file with events."""
    matters = MetricRows(UsageTable("journal")).matters
    for file in reversed(files):
        newest = -math.inf
        for _, line in _lines(file, matters):
            if line:
                _, _, row, when, is_afterimage = line
                if is_afterimage or row.get("phase") is not None:
                    newest = max(newest, when)
        file.seek(0)
        if newest > -math.inf:
            return newest
    return -math.inf
