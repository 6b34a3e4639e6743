"""CPU time of a generation in all threads."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from _measure import side_by_side
from _subjects import (
    AFTERIMAGE,
    AFTERIMAGE_NO_FILES,
    DIRECT,
    OURS,
    PROMETHEUS,
    AfterImage,
    DirectSdk,
    Ours,
    PrometheusClient,
    events,
)
from _table import Aim, Row, at_most, ours_to, print_aims, print_table

if TYPE_CHECKING:
    from _subjects import Event, Subject

BURSTS = (50, 200)
ROUNDS = 40
STREAM = 20_000
STREAM_ROUNDS = 1
ONE_READER = "CPU in all for a generation, bursts of {}, one reader"
TWO_READERS = "CPU in all for a generation, bursts of 200, two readers"
WITHOUT_PAUSE = f"CPU in all for a generation, {STREAM:,} without a pause, one reader"


def run() -> list[Row]:
    """Measure bursts and a stream with one reader, and bursts with two."""
    subjects: dict[str, Subject] = {
        OURS: Ours(),
        DIRECT: DirectSdk(),
        PROMETHEUS: PrometheusClient(),
        AFTERIMAGE_NO_FILES: AfterImage(with_files=False),
        AFTERIMAGE: AfterImage(),
    }
    rows = []
    for burst in BURSTS:
        rows += _rows(ONE_READER.format(burst), subjects, events(burst), ROUNDS)
    without_files = {name: each for name, each in subjects.items() if name != AFTERIMAGE}
    rows += _rows(WITHOUT_PAUSE, without_files, events(STREAM), STREAM_ROUNDS)
    for subject in subjects.values():
        subject.close()
    two_readers: dict[str, Subject] = {
        OURS: Ours(two_readers=True),
        DIRECT: DirectSdk(two_readers=True),
    }
    rows += _rows(TWO_READERS, two_readers, events(200), ROUNDS)
    for subject in two_readers.values():
        subject.close()
    return rows


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    judged = [("one reader", ONE_READER.format(200)), ("two readers", TWO_READERS)]
    return [
        *(
            at_most(
                f"whole CPU at most 0.33 of direct SDK records, {readers}",
                ours_to(rows, group, DIRECT),
                0.33,
            )
            for readers, group in judged
        ),
        at_most(
            "... and at most that of prometheus_client with the same instruments",
            ours_to(rows, ONE_READER.format(200), PROMETHEUS),
            1.0,
        ),
    ]


def _rows(
    group: str, subjects: dict[str, Subject], generations: list[Event], rounds: int
) -> list[Row]:
    ways = {name: partial(_of_a_generation, each, generations) for name, each in subjects.items()}
    return [
        Row(group, name, each.min, ratio=each.ratio)
        for name, each in side_by_side(ways, rounds).items()
    ]


def _of_a_generation(subject: Subject, generations: list[Event]) -> float:
    start = time.process_time()
    subject.record(generations)
    subject.settle()
    return (time.process_time() - start) / len(generations)


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
