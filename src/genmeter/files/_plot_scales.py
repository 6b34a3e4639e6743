"""The scales of plots: logarithmic or not, limits, and the width of time slices."""

from __future__ import annotations

import math

__all__ = [
    "DAY",
    "MIN_SECONDS",
    "duration_name",
    "limits",
    "limits_from_zero",
    "slice_seconds",
    "spans_decades",
]

DAY, _MAX_SLICES = 86_400, 60
_SLICES = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, DAY),
)
MIN_SECONDS = 1e-3
"""The place of 0 on a logarithmic axis."""
_DECADES_FOR_LOG = (1.5, 15.0)  # more are not real durations


def spans_decades(low: float, high: float) -> bool:
    """Return whether values between these need a logarithmic axis."""
    if low < 0 or high <= 0:
        return False
    decades = math.log10(max(high, MIN_SECONDS) / max(low, MIN_SECONDS))
    return _DECADES_FOR_LOG[0] <= decades <= _DECADES_FOR_LOG[1]


def limits(low: float, high: float) -> tuple[float, float]:
    """Return limits with some room around values, even if they are all equal."""
    room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def limits_from_zero(low: float, high: float) -> tuple[float, float]:
    """Return limits that include 0, with some room at the other end."""
    bottom, top = limits(min(0.0, low), high)
    return (bottom if low < 0 else 0.0), top


def slice_seconds(span: float, most: int = _MAX_SLICES) -> int:
    """Return the width of the slices that a time of some seconds is divided into."""
    days = math.ceil(span / most / DAY)
    return next((width for width in _SLICES if span <= width * most), days * DAY)


def duration_name(seconds: int) -> str:
    """Return the name of a duration, to follow "per"."""
    units = ((DAY, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    length, name = next(unit for unit in units if seconds % unit[0] == 0)
    return name if seconds == length else f"{seconds // length} {name}s"
