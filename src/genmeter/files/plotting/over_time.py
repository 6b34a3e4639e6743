"""Plots whose x axis is time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.files.plotting.arithmetic import (
    extremes,
    for_axis,
    limits,
    rolling,
    rolling_window,
    share_reach,
    spread,
)
from genmeter.files.plotting.look import (
    BAD,
    BAND,
    COLOURS,
    MAIN,
    NEUTRAL,
    SIGNAL_COLOURS,
    Picture,
    days,
)
from genmeter.files.plotting.text import UNITS, compact, percent, percent_tick, shown, span

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from genmeter.files.plotting.data import Frames, Groups, Series
    from genmeter.files.plotting.table import Plot
    from genmeter.history.samples import Samples
    from genmeter.schema.signals import Signal

    Size = tuple[float, float]
    Floats = npt.NDArray[np.float64]

__all__ = [
    "draw_rolling",
    "draw_samples",
    "draw_scores",
    "draw_shares_over_time",
    "draw_sums_over_time",
]

_FEW = 30  # samples up to which each mean gets a dot
_MANY = 1_000  # samples from which on dots are paler
_BAND = (0.1, 0.9)
_BAND_FROM = 100  # samples; of fewer, each is shown
_MOST_SCORES = len(COLOURS)


def draw_samples(
    name: str, signal: Signal | None, samples: Samples, window: int, size: Size
) -> Picture:
    """Draw every sample of one metric, and their rolling mean.

    Args:
        name: The metric's.
        signal: What it stands for; None where that is unknown.
        samples: At least one, in any order.
        window: Samples that a mean spans.
        size: Width and height in inches.
    """
    picture = Picture(size)
    (axes,) = picture.panels
    order = np.argsort(samples.time, kind="stable")
    time = np.round(samples.time[order] * 1e6).astype(np.int64).astype("M8[us]")
    value = samples.value[order].astype(np.float64)
    moments, mean = days(time), rolling(value, window, least=1).mean().to_numpy()
    unit = signal.unit if signal else None
    dotted, is_log = for_axis(value) if unit == "s" else (value, False)
    dots = _dots(axes, moments, dotted)
    line = _line(axes, moments, mean, extremes(mean), colour=BAD)
    label = UNITS[unit] if unit else shown(name)
    if is_log:
        axes.set_ylim(float(dotted.min()) / 1.3, float(dotted.max()) * 1.3)
        picture.log_axis(axes, "y", label)
    else:
        _limit(axes, value, is_from_zero=unit not in {None, "{score}"})
        picture.value_axis(axes.yaxis, label, percent_tick if unit == "1" else None)
    picture.time_axis(axes, time)
    picture.legend(axes, [dots, line], ["samples", f"mean of {window}"])
    has_title = signal is not None and not signal.column.endswith("*")
    count = f"{len(value):,} {'sample' if len(value) == 1 else 'samples'}"
    picture.head(
        signal.title if signal and has_title else shown(name),
        f"each sample, and the rolling mean of {window}; {count}",
    )
    return picture


def draw_rolling(plot: Plot, frames: Frames, size: Size) -> Picture | None:
    """Draw a rolling mean, and the middle 80 % around it."""
    (signal,) = plot.signals
    series = frames.series(signal).get(signal.title)
    if series is None:
        return None
    picture = Picture(size)
    (axes,) = picture.panels
    window = rolling_window(len(series.value))
    if len(series.value) < _BAND_FROM:
        _dots(axes, days(series.time), series.value)
        tops, words = series.value, f"each call, and the rolling mean of {window}"
    else:
        tops = _band(axes, series)
        words = f"rolling mean of {window:,}, and the middle 80% around it"
    line = _mean_line(axes, series, MAIN)
    _limit(axes, np.append(tops, _heights(line)), is_from_zero=True)
    picture.value_axis(axes.yaxis, f"{UNITS[signal.unit]} per call", compact)
    picture.time_axis(axes, series.time)
    picture.head(plot.heading, f"{words}; {series.of}")
    return picture


def draw_shares_over_time(plot: Plot, frames: Frames, size: Size) -> Picture | None:
    """Draw a rolling mean for each signal, each on axes of its own, equally wide.

    On common axes a success rate near 100 % and an error rate near 0 would be two flat lines.
    """
    found = [(signal, frames.series(signal).get(signal.title)) for signal in plot.signals]
    rates = [(signal, series) for signal, series in found if series is not None]
    if not rates:
        return None
    picture = Picture(size, rows=len(rates))
    lines = [
        _mean_line(axes, series, SIGNAL_COLOURS[signal.id])
        for axes, (signal, series) in zip(picture.panels, rates, strict=True)
    ]
    is_high = [bool(_heights(line).mean() > 1 / 2) for line in lines]
    deviations = [
        1 - _heights(line).min() if high else _heights(line).max()
        for line, high in zip(lines, is_high, strict=True)
    ]
    reach = share_reach(float(max(deviations)))
    every = np.concatenate([series.time for _, series in rates])
    for axes, line, high, (signal, series) in zip(
        picture.panels, lines, is_high, rates, strict=True
    ):
        low = 1 - reach if high else 0.0
        axes.set_ylim(low - 0.03 * reach, low + 1.03 * reach)
        picture.value_axis(axes.yaxis, "share", percent_tick)
        picture.time_axis(axes, every)
        picture.legend(
            axes, [line], [f"{signal.title}, {percent(float(series.value.mean()))} in all"]
        )
    picture.join_time()
    words = f"rolling mean of {rolling_window(len(rates[0][1].value)):,}"
    picture.head(plot.heading, f"{words}; {rates[0][1].of}")
    return picture


def draw_scores(plot: Plot, frames: Frames, size: Size) -> Picture | None:
    """Draw a rolling mean for each of a signal's columns."""
    series = frames.series(plot.signals[0])
    if not series:
        return None
    by_count = sorted(series, key=lambda name: (-len(series[name].value), name))
    chosen = sorted(by_count[:_MOST_SCORES])
    colours = dict(zip(chosen, COLOURS, strict=False))
    # Scores from 1 to 5 would press those from 0 to 1 to the floor of a common axis.
    panels = [
        names
        for is_share in (True, False)
        if (names := [name for name in chosen if _is_share(series[name].value) == is_share])
    ]
    picture = Picture(size, rows=len(panels))
    every = np.concatenate([series[name].time for name in chosen])
    for axes, names in zip(picture.panels, panels, strict=True):
        lines = {name: _mean_line(axes, series[name], colours[name]) for name in names}
        heights = {name: _heights(line) for name, line in lines.items()}
        _limit(axes, np.concatenate([*heights.values()]))
        if _is_share(series[names[0]].value):
            axes.set_ylim(-0.02, 1.02)
        picture.value_axis(axes.yaxis, "score")
        picture.time_axis(axes, every)
        # In the order in which the lines end, so that the eye need not cross over.
        names.sort(key=lambda name: -heights[name][-1])
        picture.legend(axes, [lines[name] for name in names], names)
    picture.join_time()
    count = sum(len(series[name].value) for name in chosen)
    window = rolling_window(len(series[by_count[0]].value))
    words = f"rolling means of {window:,}; {count:,} {'score' if count == 1 else 'scores'}"
    if len(chosen) < len(series):
        words += f"; {len(series) - len(chosen)} rarer names are not shown"
    picture.head(plot.heading, words)
    return picture


def draw_sums_over_time(plot: Plot, groups: Groups, size: Size) -> Picture:
    """Draw the groups' sums as a stack for each slice of time."""
    picture = Picture(size)
    (axes,) = picture.panels
    slices = groups.slices()
    start, width = days(slices.start), slices.width / 86_400
    floor = np.zeros(len(start))
    bars = []
    for number, column in enumerate(slices.sums.T):
        colour = COLOURS[number] if number < len(COLOURS) else NEUTRAL
        bar = axes.bar(
            start,
            column,
            width,
            floor,
            align="edge",
            color=colour,
            linewidth=0.3,
            edgecolor="white",
        )
        bars.append(bar)
        floor = floor + column
    _limit(axes, floor, is_from_zero=True)
    unit = UNITS[plot.signals[0].unit]
    picture.value_axis(axes.yaxis, f"{unit} per {span(slices.width)}", compact)
    picture.time_axis(axes, np.append(slices.start, slices.start[-1:] + slices.step))
    picture.legend(axes, bars[::-1], groups.labels[::-1])
    picture.head(plot.heading, f"{compact(float(floor.sum()))} {unit}; {groups.of}")
    return picture


def _mean_line(axes: Axes, series: Series, colour: str) -> Any:
    mean = rolling(series.value, rolling_window(len(series.value))).mean().to_numpy()
    chosen = spread(np.flatnonzero(~np.isnan(mean)))
    return _line(axes, days(series.time), mean, chosen, colour=colour)


def _dots(axes: Axes, moments: Floats, value: Floats) -> Any:
    return axes.scatter(
        moments,
        value,
        s=14,
        color=MAIN,
        alpha=0.35 if len(value) < _MANY else 0.12,
        linewidths=0,
        marker="o",
        rasterized=True,
    )


def _band(axes: Axes, series: Series) -> Floats:
    """Draw where the middle 80 % lie, and give the upper edge."""
    window = rolling(series.value, rolling_window(len(series.value)))
    low, high = (window.quantile(share).to_numpy() for share in _BAND)
    chosen = spread(np.flatnonzero(~np.isnan(low)))
    moments = days(series.time[chosen])
    axes.fill_between(moments, low[chosen], high[chosen], color=BAND, alpha=0.55, linewidth=0)
    upper: Floats = high[chosen]
    return upper


def _line(axes: Axes, moments: Floats, value: Floats, chosen: Any, *, colour: str) -> Any:
    (line,) = axes.plot(
        moments[chosen],
        value[chosen],
        color=colour,
        linewidth=2.0,
        linestyle="-",
        marker="o" if len(value) <= _FEW else "",
        markersize=5,
        markeredgewidth=0,
        solid_capstyle="round",
        solid_joinstyle="round",
    )
    return line


def _heights(line: Any) -> Floats:
    return np.asarray(line.get_ydata(), dtype=np.float64)


def _is_share(value: Floats) -> bool:
    return bool(value.min() >= 0 and value.max() <= 1)


def _limit(axes: Axes, value: Floats, *, is_from_zero: bool = False) -> None:
    low, high = float(value.min()), float(value.max())
    bottom, top = limits(min(0.0, low) if is_from_zero else low, high)
    axes.set_ylim(0.0 if is_from_zero and low >= 0 else bottom, top)
