"""Journals, ours and those that AfterImage's monitor wrote, read line by line."""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, BinaryIO

from genmeter.errors import ConfigError
from genmeter.report.ledger import Ledger
from genmeter.report.progress import reading
from genmeter.report.rows import MetricRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta
    from pathlib import Path

__all__ = ["journal_files", "read_journal"]

_NAME = "metrics.jsonl"
_ROTATED = re.compile(r"metrics\.(\d{1,9})\.jsonl")
_CHUNK = 2**20  # characters that are parsed between two looks at the progress
_OVERLAP = 2**16  # longer than any line that counts
_EARLIEST = 0.0  # Unix time
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # the last that every time zone can show
_UNUSABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_decode = json.JSONDecoder().raw_decode


def journal_files(folder: Path) -> list[Path]:
    """Name the files of a folder's journal, those that were rotated away first, oldest first.

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


def read_journal(paths: Sequence[Path], window: timedelta | None = None) -> Ledger:
    """Sum a journal, in one pass and with no more than a chunk of it in memory.

    Args:
        paths: Its files, oldest first.
        window: How long before the newest event to begin; None reads all.

    Raises:
        ConfigError: A file cannot be read, or none of the lines is a journal's.
    """
    ledger = Ledger("journal")
    with ExitStack() as stack:
        try:
            files = _open(paths, stack)
            cutoff = None
            if window is not None:
                newest = _newest([file for file, _ in files])
                cutoff = None if newest is None else newest - window.total_seconds()
            _Journal(ledger, cutoff).read(files)
        except OSError as error:
            raise ConfigError(
                f"source={str(paths[-1])!r} cannot be read: {error.strerror or error}; mend the file or its path"
            ) from error
    return ledger


def _open(paths: Sequence[Path], stack: ExitStack) -> list[tuple[BinaryIO, str]]:
    # The newest first: a file that is rotated meanwhile is then found twice and never missed.
    files: dict[tuple[int, int], tuple[BinaryIO, str]] = {}
    for path in reversed(paths):
        file = stack.enter_context(path.open("rb"))
        status = os.fstat(file.fileno())
        files.setdefault((status.st_dev, status.st_ino), (file, path.name))
    return list(reversed(files.values()))


_Line = tuple[str, Any, dict[str, Any], float, bool]
"""Name, value, metadata, Unix time, and whether AfterImage's monitor wrote it."""


class _Lines:
    """Parses lines; those of an event share their time, so the last one is kept."""

    def __init__(self, matters: Callable[[str, dict[str, Any]], bool]) -> None:
        self._matters = matters
        self._stamp = ""
        self._when = 0.0
        self._is_old = False

    def parse(self, text: str) -> _Line | None:
        """Give a line that may count; None for one that does not.

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
            # AfterImage tells local time without its offset; ours has one.
            self._is_old = time.tzinfo is None
            self._when = time.timestamp()
            if not _EARLIEST < self._when < _LATEST:
                raise ValueError("a time that no event has")
            self._stamp = stamp
        return name, value, row, self._when, self._is_old


class _Journal:
    """Reads files into a ledger."""

    def __init__(self, ledger: Ledger, cutoff: float | None) -> None:
        self._ledger = ledger
        self._rows = MetricRows(ledger, cutoff)
        self._parse = _Lines(self._rows.matters).parse
        self._first_skipped = ""
        self._has_journal_lines = False

    def read(self, files: Sequence[tuple[BinaryIO, str]]) -> None:
        with reading(sum(os.fstat(file.fileno()).st_size for file, _ in files)) as advance:
            for file, name in files:
                self._read_file(file, name, advance)
        self._rows.finish()
        skipped = self._ledger.skipped
        if skipped and not self._has_journal_lines:
            raise ConfigError(
                f"source={files[-1][0].name!r} is no journal: none of its {skipped:,} lines is a "
                "metric; give a metrics.jsonl, an export or the address of an endpoint"
            )
        if skipped:
            self._ledger.notes.append(
                f"{skipped:,} {'line' if skipped == 1 else 'lines'} could not be used and "
                f"{'is' if skipped == 1 else 'are'} not in the report; the first is "
                f"{self._first_skipped}."
            )

    def _read_file(self, file: BinaryIO, name: str, advance: Callable[[int], None]) -> None:
        number, before = 0, 0
        # An editor may have put a byte order mark at the beginning.
        with TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="\n") as text:
            while lines := text.readlines(_CHUNK):
                self._read_lines(lines, number, name)
                number += len(lines)
                advance(file.tell() - before)
                before = file.tell()

    def _read_lines(self, lines: list[str], number: int, name: str) -> None:
        parse, add = self._parse, self._rows.add
        for index, text in enumerate(lines, 1):
            try:
                line = parse(text)
                is_usable = line is None or add(*line)
                self._has_journal_lines = True
            except _UNUSABLE:
                is_usable = not text.strip()
            if not is_usable:
                self._ledger.skipped += 1
                self._first_skipped = self._first_skipped or f"line {number + index:,} of {name}"


def _is_of_event(line: _Line) -> bool:
    _, _, row, _, is_old = line
    return is_old or row.get("phase") is not None


def _newest(files: Sequence[BinaryIO]) -> float | None:
    """Find the time of the newest event, from the end: a journal is in the order of its events."""
    for file in reversed(files):
        parse = _Lines(MetricRows(Ledger("journal")).matters).parse
        for block in _blocks_from_the_end(file):
            newest = -math.inf
            for text in block.split("\n"):
                try:
                    line = parse(text)
                except _UNUSABLE:
                    continue
                if line is not None and _is_of_event(line):
                    newest = max(newest, line[3])
            if newest > -math.inf:
                return newest
    return None


def _blocks_from_the_end(file: BinaryIO) -> Iterator[str]:
    end = os.fstat(file.fileno()).st_size
    while end > 0:
        start = max(0, end - _CHUNK)
        file.seek(start)
        block = file.read(end - start + _OVERLAP)
        file.seek(0)
        yield block.decode("utf-8", "replace")
        end = start
