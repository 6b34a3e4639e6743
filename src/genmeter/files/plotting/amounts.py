"""Plots of distributions and of amounts by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.files.plotting.arithmetic import LEAST_POSITIVE, edges_of, for_axis, limits
from genmeter.files.plotting.look import BAND, INK, MAIN, SIGNAL_COLOURS, Picture
from genmeter.files.plotting.text import UNITS, compact, percent, seconds

if TYPE_CHECKING:
    import numpy.typing as npt

    from genmeter.files.plotting.data import Groups, Series
    from genmeter.files.plotting.table import Plot

    Size = tuple[float, float]
    Floats = npt.NDArray[np.float64]

__all__ = ["draw_distribution", "draw_quantiles", "draw_shares", "draw_sums"]

_BOX = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROOM = 0.22  # of the width, for the words beside the longest whisker
_LATE = 0.75  # of the width


def draw_distribution(plot: Plot, series: Series, size: Size) -> Picture:
    """Draw a histogram, with the median and the 95th percentile."""
    picture = Picture(size)
    (axes,) = picture.panels
    value, is_log = for_axis(series.value)
    edges = edges_of(value, is_log=is_log)
    counts, _, _ = axes.hist(value, edges.tolist(), color=MAIN, edgecolor="white", linewidth=0.4)
    axes.set_ylim(0, 1.16 * float(np.max(counts)))
    axes.set_xlim(edges[0], edges[-1])
    _unit_axis(picture, plot, is_log=is_log)
    picture.value_axis(axes.yaxis, "count", compact)
    for word, share, height in (("median", 0.5, 0.99), ("95th percentile", 0.95, 0.93)):
        at = float(np.quantile(series.value, share))
        place = max(at, LEAST_POSITIVE) if is_log else at
        axes.axvline(place, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), marker="")
        # Words at the right end would push the axes together.
        is_late = (axes.transScale + axes.transLimits).transform((place, 0))[0] > _LATE
        picture.write(
            axes,
            f"{word} {seconds(at)}",
            place,
            height,
            xycoords=axes.get_xaxis_transform(),
            va="top",
            **({"ha": "right", "xytext": (-5, 0)} if is_late else {}),
        )
    picture.head(plot.heading, series.of)
    return picture


def draw_quantiles(plot: Plot, groups: Groups, size: Size) -> Picture:
    """Draw a box of quantiles for each group."""
    picture = Picture(size)
    (axes,) = picture.panels
    value, is_log = for_axis(groups.value[:, 0])
    rows = range(len(groups.labels))
    half = _thickness(len(rows)) / 2
    boxes = np.array([np.quantile(value[groups.code == row], _BOX) for row in rows])
    low, high = float(boxes.min()), float(boxes.max())
    room = _ROOM * picture.crowding
    if is_log:
        axes.set_xlim(low / 1.3, high * (high / low) ** room)
    else:
        left, right = limits(min(0.0, low), high)
        axes.set_xlim(left if low < 0 else 0, right + room * (right - left))
    for row, count, (p5, p25, p50, p75, p95) in zip(rows, groups.counts(), boxes, strict=True):
        axes.hlines(row, p5, p95, color=MAIN, linewidth=1.2, zorder=1)
        axes.barh(row, p75 - p25, 2 * half, p25, color=BAND, edgecolor=MAIN, linewidth=1.0)
        axes.vlines(p50, row - half, row + half, color=INK, linewidth=2.0)
        picture.write(axes, f"{seconds(p50)}  (n = {count:,})", p95, row, xytext=(8, 0))
    _unit_axis(picture, plot, is_log=is_log)
    picture.name_axis(axes, groups.labels)
    words = "median (in figures), middle half (box) and middle 90% (line)"
    picture.head(plot.heading, f"{words}; {groups.of}")
    return picture


def draw_sums(plot: Plot, groups: Groups, size: Size) -> Picture:
    """Draw a bar for each group, the signals stacked."""
    picture = Picture(size)
    (axes,) = picture.panels
    sums = groups.sums()
    totals = sums.sum(axis=1)
    _stack(picture, plot, sums)
    axes.set_xlim(0, (1 + 0.15 * picture.crowding) * float(totals.max()))
    unit = UNITS[plot.signals[0].unit]
    for row, total in enumerate(totals):
        words = f"{compact(float(total))} ({percent(total / totals.sum())})"
        picture.write(axes, words, float(total), row)
    picture.value_axis(axes.xaxis, unit, compact)
    picture.name_axis(axes, groups.labels)
    note = f"{compact(float(totals.sum()))} {unit}; {groups.of}"
    picture.head(plot.heading, groups.of if unit == "calls" else note)
    return picture


def draw_shares(plot: Plot, groups: Groups, size: Size) -> Picture:
    """Draw a bar for each group, the signals stacked to 100 %; the last signal is told in words."""
    picture = Picture(size)
    (axes,) = picture.panels
    sums = groups.sums()
    totals = sums.sum(axis=1)
    _stack(picture, plot, sums / totals[:, None])
    axes.set_xlim(0, 1 + 0.3 * picture.crowding)
    last = plot.signals[-1].title.lower()
    for row, (total, part) in enumerate(zip(totals, sums[:, -1], strict=True)):
        words = f"{part:,.0f} of {total:,.0f} {last} ({percent(part / total)})"
        picture.write(axes, words if part else f"none of {total:,.0f} {last}", 1.0, row)
    picture.value_axis(axes.xaxis, "share of calls", lambda share: f"{share:.0%}")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    picture.name_axis(axes, groups.labels)
    picture.head(plot.heading, groups.of)
    return picture


def _stack(picture: Picture, plot: Plot, table: Floats) -> None:
    """Draw a bar for each row of the table, its columns side by side, and name what is there."""
    (axes,) = picture.panels
    floor = np.zeros(len(table))
    bars: dict[str, Any] = {}
    for signal, column in zip(plot.signals, table.T, strict=True):
        if column.any():
            colour = SIGNAL_COLOURS[signal.id]
            rows = np.arange(len(table))
            bars[signal.title] = axes.barh(
                rows, column, _thickness(len(table)), floor, color=colour, linewidth=0
            )
            floor = floor + column
    if len(plot.signals) > 1:
        picture.legend(axes, list(bars.values()), list(bars))


def _thickness(bars: int) -> float:
    """Choose how much of its place a bar takes: a few thick ones would be a flag."""
    return min(0.6, 0.15 + 0.09 * bars)


def _unit_axis(picture: Picture, plot: Plot, *, is_log: bool) -> None:
    (axes,) = picture.panels
    unit = UNITS[plot.signals[0].unit]
    if is_log:
        picture.log_axis(axes, "x", unit)
    else:
        picture.value_axis(axes.xaxis, unit)
