"""Subjects measured side by side: one after another in every round, so that load hits all."""

from __future__ import annotations

import gc
import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Spread", "seconds", "side_by_side"]


class Spread(NamedTuple):
    """What so many rounds gave.

    Attributes:
        least: The least figure.
        median: The median.
        ratio: The median over the rounds of how many times the first way's figure it was.
    """

    least: float
    median: float
    ratio: float


def side_by_side(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Spread]:
    """Take each way once a round, in turn forwards and backwards.

    Args:
        ways: By name what measures itself and gives its figure.
        rounds: How often; one more round warms up.
    """
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    gc.collect()
    gc.freeze()  # what one subject keeps must not make the collector slow in another's turn
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
    """Time one call by the wall clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
