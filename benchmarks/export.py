"""Duration, memory and size of exports, and the duration of reading them."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from _measure import seconds, side_by_side
from _subjects import AFTERIMAGE, OURS, AfterImage, Ours, events
from _table import Aim, Row, at_most, figure_of, print_aims, print_table

from genmeter import read_export

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _subjects import Event

    Exporter = Ours | AfterImage

KEPT = 100_000
KEPT_FOR_EXCEL = 5_000  # more takes minutes
MEASURED = 10_000
ROUNDS = 2
CHUNK = 1_000
SUFFIXES = {"json": "json", "csv": "csv", "parquet": "parquet", "excel": "xlsx"}
READABLE = ("json", "parquet")
MEASURED_AS = tuple(SUFFIXES)
TIME = "Exporting {:,} generations as {}"
SIZE = "The same: bytes in the files"
READ = "Reading them back with read_export"
MEMORY = f"Memory that exporting {MEASURED:,} generations as {{}} adds at its peak (RSS)"


def run() -> list[Row]:
    """Measure times and sizes, then the memory, with each export in its own process."""
    with tempfile.TemporaryDirectory(prefix="genmeter-bench-") as folder:
        subjects = _filled(KEPT)
        rows = _times(subjects, ("json", "csv", "parquet"), KEPT, Path(folder))
        _close(subjects)
        bare = _filled(KEPT_FOR_EXCEL, is_bare=True)
        rows += _times(bare, ("excel",), KEPT_FOR_EXCEL, Path(folder))
        _close(bare)
        rows.append(_excel_alone(Path(folder)))
    return rows + _memory()


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    return [
        at_most(
            f"an export of {KEPT:,} generations takes seconds (at most 10): {format_}",
            figure_of(rows, TIME.format(KEPT, format_), OURS),
            10,
            "s",
        )
        for format_ in SUFFIXES
    ]


class _Export(NamedTuple):
    """One subject's export in one format."""

    subject: Exporter
    format: str
    path: Path

    def write(self) -> None:
        """Write it."""
        self.subject.monitor.export_metrics(self.path, format=self.format)

    def size(self) -> int:
        """Return the size of its files in bytes."""
        return sum(file.stat().st_size for file in self.path.parent.iterdir())


def _export(subject: Exporter, name: str, format_: str, folder: Path) -> _Export:
    place = folder / name.partition("'")[0] / format_
    place.mkdir(parents=True, exist_ok=True)
    return _Export(subject, format_, place / f"metrics.{SUFFIXES[format_]}")


def _filled(count: int, *, is_bare: bool = False) -> dict[str, Exporter]:
    # Readers make no difference to an export.
    subjects: dict[str, Exporter] = {
        OURS: Ours(no_readers=True, capacity=count),
        AFTERIMAGE: AfterImage(with_files=False),
    }
    for subject in subjects.values():
        _fill(subject, count, is_bare=is_bare)
    return subjects


def _fill(subject: Exporter, count: int, *, is_bare: bool) -> None:
    # AfterImage's CSV fails on a slash in a model's name.
    generations = [event._replace(model=Path(event.model).name) for event in events(count)]
    for start in range(0, count, CHUNK):
        part = generations[start : start + CHUNK]
        if is_bare:
            _record_bare(subject, part)
        else:
            subject.record(part)
        subject.settle()


def _record_bare(subject: Exporter, generations: Sequence[Event]) -> None:
    """Record without model and finish reason: AfterImage's Excel fails on their metrics' colon."""
    for event in generations:
        subject.monitor.track_generation(
            event.duration,
            True,
            prompt_token_count=event.prompt,
            completion_token_count=event.completion,
            total_token_count=event.prompt + event.completion,
            metadata={"operation": event.step},
        )


def _times(
    subjects: dict[str, Exporter], formats: Sequence[str], count: int, folder: Path
) -> list[Row]:
    rows = []
    for format_ in formats:
        exports = {
            name: _export(subject, name, format_, folder) for name, subject in subjects.items()
        }
        spreads = side_by_side(
            {name: partial(seconds, export.write) for name, export in exports.items()}, ROUNDS
        )
        rows += [
            Row(TIME.format(count, format_), name, each.min, ratio=each.ratio)
            for name, each in spreads.items()
        ]
        rows += [Row(SIZE, name, export.size(), "B") for name, export in exports.items()]
        if format_ in READABLE:
            rows.append(Row(READ, OURS, seconds(partial(read_export, exports[OURS].path))))
    return rows


def _excel_alone(folder: Path) -> Row:
    subject = Ours(no_readers=True, capacity=KEPT)
    _fill(subject, KEPT, is_bare=False)
    taken = seconds(_export(subject, OURS, "excel", folder).write)
    subject.close()
    return Row(TIME.format(KEPT, "excel"), OURS, taken)


def _memory() -> list[Row]:
    runs = [(format_, name) for format_ in MEASURED_AS for name in (OURS, AFTERIMAGE)]
    # Two at a time: unlike times, bytes do not depend on the load.
    with ThreadPoolExecutor(2) as pool:
        grown = pool.map(lambda each: _in_a_process(*each), runs)
        return [
            Row(MEMORY.format(format_), name, figure, "B")
            for (format_, name), figure in zip(runs, grown, strict=True)
        ]


def _in_a_process(format_: str, name: str) -> float:
    command = [sys.executable, str(Path(__file__)), format_, name, str(MEASURED)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(answer)


def _added(format_: str, name: str, measured: int) -> int:
    """Export in this process; return the increase of its memory at the peak."""
    is_bare = format_ == "excel"
    with tempfile.TemporaryDirectory(prefix="genmeter-bench-") as folder:
        # One more export before, for the imports.
        for count in (min(CHUNK, measured), measured):
            subject: Exporter = (
                Ours(no_readers=True) if name == OURS else AfterImage(with_files=False)
            )
            _fill(subject, count, is_bare=is_bare)
            export = _export(subject, name, format_, Path(folder))
            gc.collect()
            # Reset the peak.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            before = _status("VmRSS")
            export.write()
            added = _status("VmHWM") - before
            subject.close()
    return added


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def _close(subjects: dict[str, Exporter]) -> None:
    for subject in subjects.values():
        subject.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(_added(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    else:
        measured = run()
        print_table(measured)
        print_aims(aims(measured))
