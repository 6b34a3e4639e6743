"""Throughput of the journal, and its cost for the job."""

from __future__ import annotations

import builtins
import os
import tempfile
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from _measure import seconds, side_by_side
from _subjects import AFTERIMAGE, DIRECT, OURS, AfterImage, DirectSdk, Ours, events
from _table import Aim, Row, at_most, figure_of, ours_to, print_aims, print_table

from genmeter.events.afterimage import first_data, values_of
from genmeter.handlers import _lines
from genmeter.handlers._lines import JournalLines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from _subjects import Event, Subject

    Writer = Ours | AfterImage

STREAM = 5_000
STREAM_ROUNDS = 5
BURST = 100
BURST_ROUNDS = 40
OPENED = 1_000
PATIENCE = 120.0  # seconds, for the last line of a stream
WITHOUT = f"{OURS}, without files"
FILES = {"metrics.jsonl": {OURS: 8, AFTERIMAGE: 7}, "afterimage.log": {OURS: 1, AFTERIMAGE: 1}}
"""Lines per generation by file; genmeter also writes ``error_rate`` for successful ones."""
JOURNAL_LINES = FILES["metrics.jsonl"][OURS]
JOURNAL = f"Into the journal, {STREAM:,} generations without a pause: the time for one"
EVENTS = "The same: generations per second"
LINES = "The same: lines per second"
BOTH = "Into the journal and the log, the same"
CPU = f"CPU in all for a generation with a journal and a log, bursts of {BURST}"
FILES_CPU = "The same: added by journal and log"
MIN = f"The caller's time for a call with a journal and a log, bursts of {BURST}: minimum"
MEDIAN = "The same: median"
ENCODING = f"CPU to encode and write the journal's {JOURNAL_LINES} lines of a generation"
WRITER, NO_WRITER = "with run, seq, process and host", "without"
OPENS = f"How often the journal is opened for {OPENED:,} generations"
BYTES = "Bytes for each line of the journal"


def run() -> list[Row]:
    """Measure the journal, then both files, then the calls, then the fields of the writer."""
    return [*_streams(), *_bursts(), *_encoding(), *_opens()]


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    return [
        at_most("the journal is opened once (1)", figure_of(rows, OPENS, OURS), 1),
        at_most(
            "whole CPU with journal and log at most 0.8 of direct SDK records",
            ours_to(rows, CPU, DIRECT),
            0.8,
        ),
        at_most(
            "CPU of journal and log alone at most 0.43 of direct SDK records",
            ours_to(rows, FILES_CPU, DIRECT),
            0.43,
        ),
    ]


class _Tail:
    """Counts the lines of growing files.

    Args:
        folder: The folder of the files.
        lines: Lines per generation, by file.
    """

    def __init__(self, folder: Path, lines: dict[str, int]) -> None:
        self._ends = {folder / name: [count, 0, 0] for name, count in lines.items()}
        self._expected = 0

    def wait(self, generations: int) -> None:
        """Wait until all lines of more generations are in the files.

        Raises:
            RuntimeError: Lines are missing after a long time, or there are too many.
        """
        self._expected += generations
        deadline = time.monotonic() + PATIENCE
        for path, end in self._ends.items():
            each, offset, found = end
            while found < each * self._expected:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{path} has {found} lines of {each * self._expected}")
                time.sleep(0.001)
                if not path.exists():  # nothing has been written yet
                    continue
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read()
                offset += len(data)
                found += data.count(b"\n")
            if found > each * self._expected:
                raise RuntimeError(f"{path} has {found} lines instead of {each * self._expected}")
            end[1:] = offset, found


def _streams() -> list[Row]:
    rows = []
    generations = events(STREAM)
    for group, names in ((JOURNAL, ["metrics.jsonl"]), (BOTH, [*FILES])):
        subjects: dict[str, Writer] = {OURS: Ours(with_files=True), AFTERIMAGE: AfterImage()}
        ways: dict[str, Callable[[], float]] = {}
        for name, subject in subjects.items():
            if group == JOURNAL:
                subject.monitor.log_handlers = []
            tail = _Tail(subject.folder, {file: FILES[file][name] for file in names})
            ways[name] = partial(_of_an_event, subject, generations, tail)
        spreads = side_by_side(ways, STREAM_ROUNDS)
        rows += [Row(group, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
        if group == JOURNAL:
            for title, lines in ((EVENTS, dict.fromkeys(subjects, 1)), (LINES, FILES[names[0]])):
                rows += [
                    Row(title, name, lines[name] / each.min, "/s") for name, each in spreads.items()
                ]
            rows += [Row(BYTES, name, _of_a_line(each), "B") for name, each in subjects.items()]
        _close(subjects)
    return rows


def _bursts() -> list[Row]:
    subjects: dict[str, Writer] = {
        OURS: Ours(with_files=True),
        WITHOUT: Ours(),
        AFTERIMAGE: AfterImage(),
    }
    direct = DirectSdk()
    all_subjects: dict[str, Subject] = {**subjects, DIRECT: direct}
    generations = events(BURST)
    cpu = side_by_side(
        {name: partial(_cpu_of_an_event, each, generations) for name, each in all_subjects.items()},
        BURST_ROUNDS,
    )
    calls = side_by_side(
        {name: partial(_of_a_call, each, generations) for name, each in subjects.items()},
        BURST_ROUNDS,
    )
    _close(subjects)
    direct.close()
    return [
        *(Row(CPU, name, each.min, ratio=each.ratio) for name, each in cpu.items()),
        Row(FILES_CPU, OURS, cpu[OURS].min - cpu[WITHOUT].min),
        *(Row(FILES_CPU, name, cpu[name].min) for name in (WITHOUT, DIRECT)),
        *(Row(MIN, name, each.min, ratio=each.ratio) for name, each in calls.items()),
        *(Row(MEDIAN, name, each.median, ratio=each.ratio) for name, each in calls.items()),
    ]


class _NoWriter(JournalLines):
    """Encodes the lines as they were before they named their writer."""

    def _add_lines(self, lines: list[str], event: Any) -> None:
        labels = self._labels_of(event)
        end = _lines._end(event)
        tail = labels + end
        first = _lines._members(first_data(event))
        for name, value, own in values_of(event):
            head = self._heads.get(name) or self._new_head(name)
            if first or own:
                lines.append(f"{head}{value!r}{labels}{_lines._members(own or {})}{first}{end}")
                first = ""
            else:
                lines.append(f"{head}{value!r}{tail}")


def _encoding() -> list[Row]:
    found: list[Any] = []
    with (
        mock.patch.object(JournalLines, "encode", lambda _, batch: found.extend(batch) or b""),
        closing(Ours(with_files=True)) as subject,
    ):
        subject.record(events(BURST))
        subject.settle()
    ways = {
        name: partial(_cpu_of_encoding, lines, found)
        for name, lines in ((WRITER, JournalLines()), (NO_WRITER, _NoWriter()))
    }
    spreads = side_by_side(ways, BURST_ROUNDS)
    return [Row(ENCODING, name, each.min, ratio=each.ratio) for name, each in spreads.items()]


def _cpu_of_encoding(lines: JournalLines, generations: list[Any]) -> float:
    with tempfile.TemporaryFile(buffering=0) as file:
        start = time.thread_time()
        for _ in range(10):
            file.write(lines.encode(generations))
        return (time.thread_time() - start) / 10 / len(generations)


def _opens() -> list[Row]:
    generations = events(OPENED)
    rows = []
    for name, make in ((OURS, partial(Ours, with_files=True)), (AFTERIMAGE, AfterImage)):
        opened: list[str] = []
        with (
            mock.patch.object(builtins, "open", _counted(builtins.open, opened)),
            mock.patch.object(os, "open", _counted(os.open, opened)),
            closing(make()) as subject,
        ):
            subject.record(generations)
            subject.settle()
        rows.append(Row(OPENS, name, len(opened), "count"))
    return rows


def _counted(function: Callable[..., Any], opened: list[str]) -> Callable[..., Any]:
    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("metrics.jsonl"):
            opened.append(str(path))
        return function(path, *args, **kwargs)

    return call


def _of_an_event(subject: Writer, generations: list[Event], tail: _Tail) -> float:
    start = time.perf_counter()
    subject.record(generations)
    if isinstance(subject, Ours):
        subject.settle()
        time_taken = time.perf_counter() - start
        tail.wait(len(generations))  # only a check: the lines are in the file
    else:
        tail.wait(len(generations))
        time_taken = time.perf_counter() - start
    return time_taken / len(generations)


def _cpu_of_an_event(subject: Subject, generations: list[Event]) -> float:
    start = time.process_time()
    subject.record(generations)
    subject.settle()
    return (time.process_time() - start) / len(generations)


def _of_a_call(subject: Writer, generations: list[Event]) -> float:
    subject.settle()
    return seconds(lambda: subject.record(generations)) / len(generations)


def _of_a_line(subject: Writer) -> float:
    path = subject.folder / "metrics.jsonl"
    return path.stat().st_size / path.read_bytes().count(b"\n")


def _close(subjects: dict[str, Writer]) -> None:
    for subject in subjects.values():
        subject.close()


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
