"""Duration of a token report and of ``get_metrics`` over 100,000 generations."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from _measure import seconds, side_by_side
from _subjects import AFTERIMAGE, OURS, AfterImage, Ours, events
from _table import Aim, Row, at_most, figure_of, print_aims, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 100_000
ROUNDS = 12
MODELS = (2, 50)
WINDOW = timedelta(hours=1)
SINCE_START = f"A token report over {KEPT:,} generations of {{}} models, since the start"
IN_WINDOW = f"A token report over {KEPT:,} generations of {{}} models, the last hour"
METRICS = f'get_metrics("generation_time") over {KEPT:,} generations of {{}} models'
READS: dict[str, Callable[[Any], object]] = {
    SINCE_START: lambda monitor: monitor.get_total_token_usage(),
    IN_WINDOW: lambda monitor: monitor.get_total_token_usage(WINDOW),
    METRICS: lambda monitor: monitor.get_metrics("generation_time", WINDOW),
}


def run() -> list[Row]:
    """Fill both monitors, and read them."""
    rows = []
    for models in MODELS:
        subjects: dict[str, Ours | AfterImage] = {
            # Readers make no difference to a report.
            OURS: Ours(no_readers=True),
            AFTERIMAGE: AfterImage(with_files=False),
        }
        generations = events(KEPT, models)
        for subject in subjects.values():
            for start in range(0, KEPT, 1_000):
                subject.record(generations[start : start + 1_000])
                subject.settle()
        for group, read in READS.items():
            ways = {
                name: partial(seconds, partial(read, each.monitor))
                for name, each in subjects.items()
            }
            rows += [
                Row(group.format(models), name, each.min, ratio=each.ratio)
                for name, each in side_by_side(ways, ROUNDS).items()
            ]
        for subject in subjects.values():
            subject.close()
    return rows


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    return [
        at_most(
            f"a report over {KEPT:,} events, {models} models, {span}: at most 2 ms",
            figure_of(rows, group.format(models), OURS),
            2e-3,
            "s",
        )
        for models in MODELS
        for span, group in (("since the start", SINCE_START), ("a window", IN_WINDOW))
    ]


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
