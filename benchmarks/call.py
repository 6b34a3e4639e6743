"""Duration of one typical ``track_generation`` for the caller."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from _measure import seconds, side_by_side
from _subjects import (
    AFTERIMAGE,
    DIRECT,
    OURS,
    PROMETHEUS,
    AfterImage,
    DirectSdk,
    Ours,
    PrometheusClient,
    events,
)
from _table import Aim, Row, at_most, figure_of, ours_to, print_aims, print_table

if TYPE_CHECKING:
    from _subjects import Event, Subject

BURST = 100
ROUNDS = 60
STREAM = 20_000
STREAM_ROUNDS = 1
STOPPED = f"{AFTERIMAGE}, its workers stopped"
MIN = f"The caller's time for a call, bursts of {BURST}: minimum of {ROUNDS} bursts"
MEDIAN = "The same: median"
WITHOUT_PAUSE = f"The same, {STREAM:,} calls without a pause, back-pressure included"


def run() -> list[Row]:
    """Measure bursts, drained in between, and a stream without a pause."""
    subjects: dict[str, Subject] = {
        OURS: Ours(),
        AFTERIMAGE: AfterImage(),
        STOPPED: AfterImage(with_workers=False),
        DIRECT: DirectSdk(),
        PROMETHEUS: PrometheusClient(),
    }
    burst, stream = events(BURST), events(STREAM)
    spreads = side_by_side(
        {name: partial(_of_a_call, each, burst) for name, each in subjects.items()}, ROUNDS
    )
    rows = [Row(MIN, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
    rows += [Row(MEDIAN, name, each.median, ratio=each.ratio) for name, each in spreads.items()]
    spreads = side_by_side(
        {name: partial(_of_a_call, subjects[name], stream) for name in (OURS, DIRECT, PROMETHEUS)},
        STREAM_ROUNDS,
    )
    rows += [Row(WITHOUT_PAUSE, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
    for subject in subjects.values():
        with closing(subject):
            pass
    return rows


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    return [
        at_most("a call takes at most 1.5 µs", figure_of(rows, MIN, OURS), 1.5e-6, "s"),
        at_most(
            "... and at most 1/20 (0.05) of direct SDK records",
            ours_to(rows, MIN, DIRECT),
            1 / 20,
        ),
    ]


def _of_a_call(subject: Subject, generations: list[Event]) -> float:
    subject.settle()
    return seconds(lambda: subject.record(generations)) / len(generations)


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
