"""The arithmetic of plots: rolling means, thinning, bins, and how wide an axis is."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from pandas.core.window.rolling import Rolling

    Floats = npt.NDArray[np.float64]
    Positions = npt.NDArray[np.intp]

__all__ = [
    "LEAST_POSITIVE",
    "edges_of",
    "extremes",
    "for_axis",
    "limits",
    "rolling",
    "rolling_window",
    "share_reach",
    "spread",
]

LEAST_POSITIVE = 1e-3
"""What a logarithmic axis shows of 0; seconds."""
_LEAST_WINDOW = 10  # what the old monitor's rolling means spanned
_WINDOWS = 50  # of which many samples are about as long
_MOST_POINTS = 1_000  # of a line; more cannot be told apart on a screen
_DECADES_FOR_LOG = 1.5
_MOST_DECADES = 15.0  # more is nothing that took place
_LEAST_BINS, _MOST_BINS = 10, 60


def rolling_window(samples: int) -> int:
    """Choose how many samples a rolling mean spans.

    10, as the old monitor's did; of many samples about a fiftieth, as a round number.
    """
    factors = itertools.cycle((2.0, 2.5, 2.0))
    window = _LEAST_WINDOW
    while window < samples / _WINDOWS:
        window = round(window * next(factors))
    return window


def rolling(value: Floats, window: int, *, least: int | None = None) -> Rolling[Any]:
    """Roll over samples.

    Args:
        value: The samples, in order.
        window: How many are taken together.
        least: From how many on there is a result; None means a tenth of all, so that what many
            samples begin with is no noise, and few samples show all that there is.
    """
    import pandas as pd

    if least is None:
        least = max(1, min(window, len(value) // 10))
    return pd.Series(value).rolling(window, min_periods=min(least, window))


def spread(positions: Positions) -> Positions:
    """Choose some of many positions, evenly, the first and the last among them."""
    if len(positions) <= _MOST_POINTS:
        return positions
    return positions[np.linspace(0, len(positions) - 1, _MOST_POINTS).round().astype(np.intp)]


def extremes(value: Floats) -> Positions:
    """Choose positions that draw the same jagged line as all of many.

    Of each of 500 stretches the lowest and the highest are chosen, and of all the first and last.
    """
    length = len(value)
    if length <= _MOST_POINTS:
        return np.arange(length)
    starts = np.linspace(0, length, _MOST_POINTS // 2 + 1).round().astype(np.intp)
    chosen = {0, length - 1}
    for start, end in itertools.pairwise(starts):
        stretch = value[start:end]
        chosen.update((int(start + stretch.argmin()), int(start + stretch.argmax())))
    return np.array(sorted(chosen))


def for_axis(value: Floats) -> tuple[Floats, bool]:
    """Decide whether an axis is to be logarithmic, and give the values for it.

    It is where no value is negative and they span from one and a half to fifteen decades; what is
    less than a thousandth is then shown as that.
    """
    low, high = float(value.min()), float(value.max())
    if low < 0 or high <= 0:
        return value, False
    decades = math.log10(max(high, LEAST_POSITIVE) / max(low, LEAST_POSITIVE))
    if not _DECADES_FOR_LOG <= decades <= _MOST_DECADES:
        return value, False
    return np.maximum(value, LEAST_POSITIVE), True


def edges_of(value: Floats, *, is_log: bool) -> Floats:
    """Give the edges of a histogram's bins, by the rule of Rice: twice the cube root of the count.

    Args:
        value: At least one.
        is_log: Whether the bins are to look equally wide on a logarithmic axis.
    """
    low, high = float(value.min()), float(value.max())
    bins = min(_MOST_BINS, max(_LEAST_BINS, math.ceil(2 * len(value) ** (1 / 3))))
    if is_log:
        edges = np.geomspace(low, high, bins + 1)
        edges[0], edges[-1] = low, high  # a rounding error must not leave out the extremes
        return edges
    if low == high:
        bins, (low, high) = _LEAST_BINS + 1, limits(low, high)
    return np.linspace(low, high, bins + 1)


def share_reach(deviation: float) -> float:
    """Choose how far an axis of shares goes from its end: at least 0.1, at most all the way.

    Args:
        deviation: How far the shares go.
    """
    reaches = (0.1, 0.2, 0.5)
    return next((reach for reach in reaches if deviation <= 0.95 * reach), 1.0)


def limits(low: float, high: float) -> tuple[float, float]:
    """Give an axis some room around values, also where they are all the same."""
    room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room
