"""Bytes per generation kept, with each subject in its own process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from _subjects import AFTERIMAGE, OURS, AfterImage, Ours, events
from _table import Aim, Row, at_most, figure_of, print_aims, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _subjects import Event, Subject

KEPT = 100_000
TRACED = 20_000  # tracemalloc slows AfterImage's worker down
CHUNK = 1_000
LIST = "a list of dicts"
RESIDENT = f"Bytes for each generation kept: growth of the process (RSS) by {KEPT:,}"
ALLOCATED = f"The same: allocated for {TRACED:,} (tracemalloc), with reserved memory"


class ListOfDicts:
    """What a job would keep without a monitor."""

    def __init__(self) -> None:
        self._kept: list[dict[str, object]] = []

    def record(self, generations: Sequence[Event]) -> None:
        """Append a dict for each generation."""
        for event in generations:
            self._kept.append(
                {
                    "timestamp": datetime.now(UTC),
                    "duration": event.duration,
                    "success": True,
                    "prompt_token_count": event.prompt,
                    "completion_token_count": event.completion,
                    "total_token_count": event.prompt + event.completion,
                    "model_name": event.model,
                    "finish_reason": "stop",
                    "metadata": {"operation": event.step},
                }
            )

    def settle(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    OURS: lambda count: Ours(capacity=count),
    # Handlers do not change the memory, and files would take most of the time.
    AFTERIMAGE: lambda _count: AfterImage(with_files=False),
    LIST: lambda _count: ListOfDicts(),
}


def run() -> list[Row]:
    """Measure each subject twice, since the RSS would include tracemalloc's memory."""
    runs = [
        (group, name, count, way)
        for group, count, way in ((RESIDENT, KEPT, "rss"), (ALLOCATED, TRACED, "traced"))
        for name in SUBJECTS
    ]
    # Two at a time: unlike times, bytes do not depend on the load.
    with ThreadPoolExecutor(2) as pool:
        grown = pool.map(lambda each: _in_a_process(*each[1:]), runs)
        return [
            Row(each[0], each[1], figure, "B") for each, figure in zip(runs, grown, strict=True)
        ]


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    ours = figure_of(rows, RESIDENT, OURS)
    return [at_most("at most 100 bytes per event kept", ours, 100, "B")]


def _in_a_process(name: str, count: int, way: str) -> float:
    command = [sys.executable, str(Path(__file__)), name, str(count), way]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(answer)


def _grown(name: str, count: int, way: str) -> float:
    """Fill a subject in this process; return the bytes per generation."""
    generations = events(CHUNK)
    # Another one is filled a little before, for imports, caches and label sets.
    warm = SUBJECTS[name](count)
    warm.record(generations)
    warm.settle()
    if way == "traced":
        tracemalloc.start()
    gc.collect()
    before = _now(way)
    subject = SUBJECTS[name](count)
    for _ in range(count // CHUNK):
        subject.record(generations)
        subject.settle()
    gc.collect()
    grown = _now(way) - before
    subject.close()
    warm.close()
    return grown / count


def _now(way: str) -> float:
    if way == "traced":
        return tracemalloc.get_traced_memory()[0]
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(_grown(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
    else:
        measured = run()
        print_table(measured)
        print_aims(aims(measured))
