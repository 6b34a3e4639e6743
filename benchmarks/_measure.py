"""Measures subjects side by side, in turn in every round, so that load affects all."""

from __future__ import annotations

import gc
import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Spread", "seconds", "side_by_side"]


class Spread(NamedTuple):
    """The result of several rounds.

    Attributes:
        min: The minimum.
        median: The median.
        ratio: The median ratio to the first figure of each round.
    """

    min: float
    median: float
    ratio: float


def side_by_side(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Spread]:
    """Measure each function once a round, in alternating order.

    Args:
        ways: Functions that return a figure, by name.
        rounds: Number of rounds, after one to warm up.
    """
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    gc.collect()
    gc.freeze()  # objects of one subject must not slow the collector down for another
    try:
        for turn in range(rounds):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                figures[name].append(ways[name]())
    finally:
        gc.unfreeze()
    first = figures[next(iter(ways))]
    return {
        name: Spread(
            min(each), median(each), median(a / b for a, b in zip(each, first, strict=True))
        )
        for name, each in figures.items()
    }


def seconds(call: Callable[[], object]) -> float:
    """Return the wall-clock time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
