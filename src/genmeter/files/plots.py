"""The plots of ``visualize_metrics`` and ``plot_metric``: AfterImage's seven, and others by model.

They are drawn with matplotlib (the extra ``plots``) but without pyplot, so that the caller's
backend, style and open figures do not change, and an unused figure is freed. They are for reports;
a running job is shown by Prometheus and Grafana.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from genmeter.errors import ConfigError, MissingExtraError
from genmeter.events.values import UNREADABLE, safe_repr
from genmeter.files._plot_scales import (
    MIN_SECONDS,
    duration_name,
    limits,
    limits_from_zero,
    slice_seconds,
    spans_decades,
)
from genmeter.files.atomic import AtomicFiles
from genmeter.history.frames import to_frame
from genmeter.history.samples import row_labels, sample_table
from genmeter.schema import plot_series as ps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt
    import pandas as pd
    from matplotlib.figure import Figure
    from pandas.core.window.rolling import Rolling

    from genmeter.files._plot_style import Picture
    from genmeter.history.samples import Samples
    from genmeter.history.snapshot import Snapshot

    Floats = npt.NDArray[np.float64]
    Times = npt.NDArray[np.datetime64]

__all__ = ["PLOTS", "UNITS", "Plot", "draw_all", "draw_metric", "save"]

UNITS = {"s": "seconds", "1": "share", "{score}": "score"}
UNITS |= {"{token}": "tokens", "{call}": "calls", "{turn}": "turns"}
"""Names of units on an axis."""

_DPI = 120
_MAX_GROUPS = 8  # the largest ones; the rest is one more group
_NOUNS = ("recorded value", "call", "conversation", "evaluation")  # by the number of the phase
# Zones and axes fail at the last years; a timestamp beyond these is not the time of a call.
_EARLIEST, _LATEST = np.datetime64("1900", "us"), np.datetime64("2200", "us")
_WINDOWS: tuple[int, ...] = tuple(step * 10**power for power in range(1, 7) for step in (1, 2, 5))
_MIN_BAND_SAMPLES = 100  # with fewer samples, each is shown
_BOX = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


# --- the public functions -----------------------------------------------------------------------


def draw_all(snapshot: Snapshot, figsize: tuple[float, float]) -> dict[str, Figure]:
    """Draw every plot that has data.

    The first seven are AfterImage's, over every ``track_generation``, conversations included, and
    the samples of ``record_metric`` with the same names. The others show only calls of models. A
    plot by model needs two models; it shows the eight largest, and the rest as one group.

    Args:
        snapshot: The history's rows.
        figsize: Width and height in inches.

    Returns:
        The figures by the names in :data:`PLOTS`.

    Raises:
        ConfigError: ``figsize`` is not a size.
        MissingExtraError: matplotlib is not installed.
    """
    data = _History(snapshot)
    figures = {}
    for plot in PLOTS:
        picture = _new_picture(figsize)
        shown = data if plot.by is None else data.groups(plot)
        if shown is not None:
            plot.draw(picture, plot, shown)
        if picture.figure.axes:
            figures[plot.name] = picture.finish()
    return figures


def draw_metric(
    name: str, samples: Samples, *, rolling_window: int, figsize: tuple[float, float]
) -> Figure:
    """Draw one metric over time: every sample, and their rolling mean.

    Args:
        name: AfterImage's name of the metric, or a name of ``record_metric``.
        samples: One or more samples of it, in any order.
        rolling_window: Number of samples in a rolling mean.
        figsize: Width and height in inches.

    Raises:
        ConfigError: ``figsize`` is not a size.
        MissingExtraError: matplotlib is not installed.
    """
    import pandas as pd

    picture = _new_picture(figsize)
    from genmeter.files._plot_style import printable

    (axes,) = picture.panels()
    time = _bounded(np.round(samples.time * 1e6).astype(np.int64).astype("M8[us]"))
    value = pd.Series(samples.value.astype(np.float64), index=time).sort_index(kind="stable")
    mean = value.rolling(rolling_window, min_periods=min(1, rolling_window)).mean()
    series = next((each for each in ps.PLOT_SERIES if each.stands_for(name)), None)
    unit = series.unit if series else None
    label = UNITS[unit] if unit else printable(name)
    is_log = unit == "s" and _spans_decades(value)
    if is_log:
        value = value.clip(lower=MIN_SECONDS)
    dots = picture.dots(axes, value)
    line = picture.line(axes, mean, "bad")
    if is_log:
        picture.log_axis(axes, "y", label, value.min() / 1.3, value.max() * 1.3)
    else:
        bounds = limits if unit in {None, "{score}"} else limits_from_zero
        axes.set_ylim(bounds(value.min(), value.max()))
        picture.number_axis(axes.yaxis, label, "share" if unit == "1" else "number")
    picture.time_axis(value.index.to_numpy())
    picture.legend(axes, [dots, line], ["samples", f"mean of {rolling_window}"])
    note = f"each sample, and the rolling mean of {rolling_window}"
    title = printable(name) if series is None or series.column.endswith("*") else series.title
    picture.head(title, f"{note}; {_number_of(len(value), 'sample')}")
    return picture.finish()


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write figures as PNG files, all or none.

    Args:
        figures: The figures by file name, without suffix.
        folder: The folder; created if missing.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with AtomicFiles() as files:
        for name, figure in figures.items():
            # The caller's style may have a tight box or a transparent background.
            figure.savefig(
                files.stage(folder / f"{name}.png"),
                format="png",
                dpi=_DPI,
                facecolor="white",
                edgecolor="white",
                transparent=False,
                bbox_inches=figure.bbox_inches,
            )


def _new_picture(figsize: Any) -> Picture:
    try:
        import matplotlib.figure  # noqa: F401 - by itself, so that other errors are not hidden
    except ImportError:
        raise MissingExtraError("matplotlib", extra="plots", purpose="Drawing a plot") from None
    from genmeter.files._plot_style import Picture

    try:
        width, height = map(float, figsize[:2])
    except UNREADABLE:
        width = height = math.nan
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ConfigError(
            f"figsize must be width and height in inches, each above 0; got {safe_repr(figsize)}"
        )
    return Picture((width, height))


# --- the data -----------------------------------------------------------------------------------


class _Groups(NamedTuple):
    """Rows by group.

    Attributes:
        rows: Columns ``time`` (UTC), ``group`` (index of the label), and one for each series.
        labels: The groups' names, the largest first, the rest (``12 others``) last.
        note: The number of rows, for the heading.
    """

    rows: pd.DataFrame
    labels: list[str]
    note: str


class _History:
    """The data of a snapshot for plots."""

    def __init__(self, snapshot: Snapshot) -> None:
        import pandas as pd

        # Metadata is not plotted, and parsing it is most of a frame's cost.
        self._snapshot = snapshot._replace(call_data={}, value_data={})
        table = sample_table(self._snapshot)
        time = _bounded(table.rows.time.astype("M8[us]"))
        phase = row_labels(self._snapshot).phase[table.rows.call]
        rows = pd.DataFrame({"value": table.rows.value, "phase": phase}, index=time)
        self._samples = {name: rows.iloc[part] for name, part in table.slices()}

    def samples(self, series: ps.PlotSeries) -> dict[str, pd.DataFrame]:
        """Return the samples of the AfterImage metrics in a series, oldest first.

        Returns:
            Frames by name, or by the rest of the name after the series's stem; the index is UTC
            time, the columns are ``value`` and ``phase``, an index into :data:`_NOUNS`.
        """
        stem = series.recorded_as if series.recorded_as and series.column.endswith("*") else ""
        return {
            name[len(stem) :]: rows.sort_index(kind="stable")
            for name, rows in self._samples.items()
            if series.stands_for(name)
        }

    @cached_property
    def calls(self) -> pd.DataFrame:
        """The frame of calls, for plots by group."""
        return to_frame(self._snapshot, "generations")

    def groups(self, plot: Plot) -> _Groups | None:
        """Return the calls by group; None if there are too few groups.

        Calls without a known series are dropped, and for sums also calls that add nothing.
        """
        import pandas as pd

        calls = self.calls
        rows = pd.DataFrame({each.title: _values(calls, each) for each in plot.series})
        is_summed = plot.series[0].aggregation == "sum"
        known = (rows.fillna(0) != 0 if is_summed else rows.notna()).any(axis=1)
        weight = rows.sum(axis=1) if is_summed else known.astype(float)
        # "_OTHER" is OpenTelemetry's name for an unknown error.
        name = calls[plot.by].astype(object).where(calls[plot.by].notna(), "unknown")
        name = name.where(name != "_OTHER", "unknown")[known]
        sizes = weight[known].groupby(name).sum().sort_index()
        sizes = sizes.sort_values(ascending=False, kind="stable")
        if len(sizes) < plot.min_groups:
            return None
        # Merging a single group would not save space.
        shown = _MAX_GROUPS if len(sizes) > _MAX_GROUPS + 1 else len(sizes)
        labels = [str(label) for label in sizes.index[:shown]]
        if shown < len(sizes):
            labels.append(f"{len(sizes) - shown} others")
        group = pd.Series(np.minimum(np.arange(len(sizes)), shown), index=sizes.index)
        time = calls["time"].dt.tz_convert(None)
        rows = rows[known].assign(time=_bounded(time[known].to_numpy()), group=name.map(group))
        part = "" if known.all() else f"{len(rows):,} of "
        return _Groups(rows, labels, f"{part}{_number_of(len(calls), 'call')}")


def _values(calls: pd.DataFrame, series: ps.PlotSeries) -> Floats:
    value: Floats = calls[series.column].to_numpy(np.float64, na_value=np.nan)
    if series.is_complement:
        value = 1 - value
    if series.less:
        # A recorded total may be smaller than its parts.
        parts = calls[list(series.less)].fillna(0).sum(axis=1).to_numpy(np.float64)
        value = np.maximum(value - parts, 0)
    return value


def _bounded(times: Times) -> Times:
    bounded: Times = np.clip(times.astype("M8[us]"), _EARLIEST, _LATEST)
    return bounded


def _window(samples: int) -> int:
    """Return the number of samples in a rolling mean: 10, or a fiftieth as a round number."""
    return next((window for window in _WINDOWS if window >= samples / 50), _WINDOWS[-1])


def _rolling(value: pd.Series[float]) -> Rolling[pd.Series[float]]:
    """Return rolling windows; for many samples without the first ones, which are noise."""
    window = _window(len(value))
    return value.rolling(window, min_periods=max(1, min(window, len(value) // 10)))


def _mean(value: pd.Series[float]) -> pd.Series[float]:
    return _rolling(value).mean().dropna()


def _spans_decades(value: pd.Series[float]) -> bool:
    """Return whether values need a logarithmic axis."""
    return spans_decades(value.min(), value.max())


# --- the forms ----------------------------------------------------------------------------------


def _draw_rates(picture: Picture, plot: Plot, data: _History) -> None:
    """Draw a rolling mean of each share, on separate axes of equal length.

    On shared axes a success rate near 100 % and an error rate near 0 would be two flat lines.
    """
    rates = [
        (series.title, rows, _mean(rows["value"]), colour)
        for series, colour in zip(plot.series, plot.colours, strict=True)
        for rows in data.samples(series).values()
    ]
    if not rates:
        return
    reached = max(min(1 - mean.min(), mean.max()) for _, _, mean, _ in rates)
    length = next((length for length in (0.1, 0.2, 0.5) if reached <= 0.95 * length), 1.0)
    for axes, rate in zip(picture.panels(len(rates)), rates, strict=True):
        title, rows, mean, colour = rate
        line = picture.line(axes, mean, colour)
        low = 1 - length if mean.mean() > 1 / 2 else 0.0
        axes.set_ylim(low - 0.03 * length, low + 1.03 * length)
        picture.number_axis(axes.yaxis, "share", "share")
        picture.legend(axes, [line], [f"{title}, {_percent(rows['value'].mean())} in all"])
    picture.time_axis(np.concatenate([rows.index.to_numpy() for _, rows, _, _ in rates]))
    first = rates[0][1]
    picture.head(plot.heading, f"rolling mean of {_window(len(first)):,}; {_counted(first)}")


def _draw_rolling(picture: Picture, plot: Plot, data: _History) -> None:
    """Draw a rolling mean with the middle 80 % around it, or with each of few samples."""
    for rows in data.samples(plot.series[0]).values():
        (axes,) = picture.panels()
        value, rolling, mean = rows["value"], _rolling(rows["value"]), _mean(rows["value"])
        words = f"rolling mean of {_window(len(rows)):,}"
        if len(rows) < _MIN_BAND_SAMPLES:
            picture.dots(axes, value)
            top, words = value, f"each call, and the {words}"
        else:
            top = rolling.quantile(0.9).dropna()
            picture.band(axes, rolling.quantile(0.1).dropna(), top)
            words += ", and the middle 80% around it"
        picture.line(axes, mean, "main")
        axes.set_ylim(limits_from_zero(mean.min(), max(top.max(), mean.max())))
        picture.number_axis(axes.yaxis, f"{plot.unit} per call", "count")
        picture.time_axis(rows.index.to_numpy())
        picture.head(plot.heading, f"{words}; {_counted(rows)}")


def _draw_distribution(picture: Picture, plot: Plot, data: _History) -> None:
    """Draw a histogram, with the median and the 95th percentile."""
    for rows in data.samples(plot.series[0]).values():
        (axes,) = picture.panels()
        value = rows["value"]
        is_log = _spans_decades(value)
        shown = value.clip(lower=MIN_SECONDS) if is_log else value
        low, high = shown.min(), shown.max()
        if low == high:
            low, high = limits(low, high)
        # Rice's rule: twice the cube root of the count; an odd number centres a single value.
        bins = min(60, max(11, math.ceil(2 * np.cbrt(len(rows)))))
        edges = (np.geomspace if is_log else np.linspace)(low, high, bins + 1)
        picture.histogram(axes, shown.to_numpy(), edges)
        if is_log:
            picture.log_axis(axes, "x", plot.unit, low, high)
        else:
            picture.number_axis(axes.xaxis, plot.unit)
        picture.number_axis(axes.yaxis, "count", "count")
        for line, (words, share) in enumerate((("median", 0.5), ("95th percentile", 0.95))):
            at = float(value.quantile(share))
            picture.mark(axes, max(at, low), f"{words} {picture.seconds(at)}", line)
        picture.head(plot.heading, _counted(rows))


def _draw_scores(picture: Picture, plot: Plot, data: _History) -> None:
    """Draw a rolling mean for each score."""
    found = data.samples(plot.series[0])
    by_count = sorted(found, key=lambda name: (-len(found[name]), name))
    chosen = {name: found[name]["value"] for name in sorted(by_count[:_MAX_GROUPS])}
    means = {name: _mean(value) for name, value in chosen.items()}
    # Scores from 1 to 5 would flatten those from 0 to 1 on a shared axis.
    shares = [name for name, value in chosen.items() if value.between(0, 1).all()]
    scales = [names for names in (shares, [*chosen.keys() - shares]) if names]
    if not scales:
        return
    for axes, names in zip(picture.panels(len(scales)), scales, strict=True):
        # In the order of the lines' ends.
        names.sort(key=lambda name: (-means[name].iloc[-1], name))
        lines = [picture.line(axes, means[name], [*chosen].index(name)) for name in names]
        ends = [end for name in names for end in (means[name].min(), means[name].max())]
        axes.set_ylim((-0.02, 1.02) if names is shares else limits(min(ends), max(ends)))
        picture.number_axis(axes.yaxis, "score")
        picture.legend(axes, lines, names)
    picture.time_axis(np.concatenate([value.index.to_numpy() for value in chosen.values()]))
    count = _number_of(sum(map(len, chosen.values())), "score")
    note = f"rolling means of {_window(len(found[by_count[0]])):,}; {count}"
    if len(chosen) < len(found):
        note += f"; {len(found) - len(chosen)} rarer names are not shown"
    picture.head(plot.heading, note)


def _draw_quantiles(picture: Picture, plot: Plot, groups: _Groups) -> None:
    """Draw a box of quantiles for each group."""
    (axes,) = picture.panels()
    value = groups.rows[plot.series[0].title]
    is_log = _spans_decades(value)
    shown = value.clip(lower=MIN_SECONDS) if is_log else value
    parts = [part for _, part in shown.groupby(groups.rows["group"])]
    boxes = np.array([part.quantile(_BOX) for part in parts])
    rows = zip(boxes, parts, strict=True)
    texts = [f"{picture.seconds(box[2])}  (n = {len(part):,})" for box, part in rows]
    picture.boxes(axes, boxes, texts)
    low, high = boxes.min(), boxes.max()
    if is_log:
        picture.log_axis(axes, "x", plot.unit, low / 1.3, high * 1.1)
    else:
        axes.set_xlim(limits_from_zero(low, high))
        picture.number_axis(axes.xaxis, plot.unit)
    picture.name_axis(axes, groups.labels)
    note = "median (in figures), middle half (box), middle 90% (line)"
    picture.head(plot.heading, f"{note}; {groups.note}")


def _draw_sums(picture: Picture, plot: Plot, groups: _Groups) -> None:
    """Draw a bar for each group, the series stacked."""
    (axes,) = picture.panels()
    sums = groups.rows.drop(columns="time").groupby("group").sum()
    totals = sums.sum(axis=1)
    texts = [f"{picture.count(total)} ({_percent(total / totals.sum())})" for total in totals]
    picture.bars(axes, sums, plot.colours, texts)
    picture.number_axis(axes.xaxis, plot.unit, "count")
    picture.name_axis(axes, groups.labels)
    total = "" if plot.unit == "calls" else f"{picture.count(totals.sum())} {plot.unit}; "
    picture.head(plot.heading, f"{total}{groups.note}")


def _draw_shares(picture: Picture, plot: Plot, groups: _Groups) -> None:
    """Draw a bar for each group, the series stacked to 100 %, labelled with the last series."""
    (axes,) = picture.panels()
    sums = groups.rows.drop(columns="time").groupby("group").sum()
    totals, last = sums.sum(axis=1), plot.series[-1].title
    texts = [
        f"{part:,.0f} of {total:,.0f} {last.lower()} ({_percent(part / total)})"
        if part
        else f"none of {total:,.0f} {last.lower()}"
        for total, part in zip(totals, sums[last], strict=True)
    ]
    picture.bars(axes, sums.div(totals, axis=0), plot.colours, texts)
    picture.number_axis(axes.xaxis, "share of calls", "share")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    picture.name_axis(axes, groups.labels)
    picture.head(plot.heading, groups.note)


def _draw_slices(picture: Picture, plot: Plot, groups: _Groups) -> None:
    """Draw the groups' sums as a stack for each time slice."""
    (axes,) = picture.panels()
    rows = groups.rows.rename(columns={plot.series[0].title: "value"})
    seconds = rows["time"].to_numpy().astype("M8[s]").astype(np.int64)
    span = int(seconds.max() - seconds.min())
    width = slice_seconds(span)
    slices = seconds // width
    edges = (width * np.arange(slices.min(), slices.max() + 2)).astype("M8[s]")
    parts = [part for _, part in rows.groupby("group")]
    times, values = zip(*((part["time"], part["value"]) for part in parts), strict=True)
    bars = picture.stacks(axes, times, values, edges)
    axes.set_ylim(0, 1.05 * rows["value"].groupby(slices).sum().max())
    picture.number_axis(axes.yaxis, f"{plot.unit} per {duration_name(width)}", "count")
    picture.time_axis(edges)
    picture.legend(axes, bars[::-1], groups.labels[::-1])
    picture.head(plot.heading, f"{picture.count(rows['value'].sum())} {plot.unit}; {groups.note}")


# --- texts --------------------------------------------------------------------------------------


def _number_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _counted(rows: pd.DataFrame) -> str:
    """Return the numbers of rows by phase: ``12 calls and 1 conversation``."""
    counts = np.bincount(rows["phase"], minlength=len(_NOUNS))
    order = (*range(1, len(_NOUNS)), 0)
    return " and ".join(_number_of(counts[n], _NOUNS[n]) for n in order if counts[n])


def _percent(share: float) -> str:
    """Format a share; only 0 is ``0%``, and only 1 is ``100%``."""
    if share in (0, 1):
        return f"{share:.0%}"
    text = f"{share:.1%}"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(text, text)


# --- the table ----------------------------------------------------------------------------------


class Plot(NamedTuple):
    """One plot.

    Args:
        name: Its key, and the name of its file.
        series: The series that it shows.
        draw: Draws the history's samples, or its calls by group.
        colours: Names of the series' colours, if ``draw`` uses them.
        title: Its heading; None means the first series's title.
        by: The column of calls to group by, if any.
        min_groups: The fewest groups to draw; one group would repeat another plot.
    """

    name: str
    series: tuple[ps.PlotSeries, ...]
    draw: Callable[[Picture, Plot, Any], None]
    colours: tuple[str, ...] = ()
    title: str | None = None
    by: Literal["model", "error_type"] | None = None
    min_groups: int = 2

    @property
    def heading(self) -> str:
        """Its heading."""
        return self.title or self.series[0].title

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return UNITS[self.series[0].unit]


PLOTS = (
    Plot(
        "success_error_rate",
        (ps.SUCCESS_RATE, ps.ERROR_RATE),
        _draw_rates,
        ("good", "bad"),
        title="Success and error rate",
    ),
    Plot("generation_time", (ps.GENERATION_TIME,), _draw_distribution),
    Plot("total_token_count", (ps.TOTAL_TOKEN_COUNT,), _draw_rolling),
    Plot("prompt_token_count", (ps.PROMPT_TOKEN_COUNT,), _draw_rolling),
    Plot("completion_token_count", (ps.COMPLETION_TOKEN_COUNT,), _draw_rolling),
    Plot("evaluation_scores", (ps.EVALUATION_SCORE,), _draw_scores),
    Plot("evaluation_time", (ps.EVALUATION_TIME,), _draw_distribution),
    Plot(
        "generation_time_by_model",
        (ps.CALL_TIME,),
        _draw_quantiles,
        title="Time per call by model",
        by="model",
    ),
    Plot(
        "outcomes_by_model",
        (ps.SUCCESSFUL_CALLS, ps.FAILED_CALLS),
        _draw_shares,
        ("good", "bad"),
        title="Outcomes of calls by model",
        by="model",
    ),
    Plot(
        "tokens_by_model",
        (ps.INPUT_TOKENS, ps.OUTPUT_TOKENS, ps.UNITEMISED_TOKENS),
        _draw_sums,
        ("second", "main", "neutral"),
        title="Tokens by model",
        by="model",
    ),
    Plot(
        "tokens_over_time_by_model",
        (ps.TOTAL_TOKENS,),
        _draw_slices,
        title="Tokens over time by model",
        by="model",
    ),
    Plot(
        "errors_by_type",
        (ps.FAILED_CALLS,),
        _draw_sums,
        ("bad",),
        title="Failed calls by type of error",
        by="error_type",
        min_groups=1,
    ),
)
"""All plots, in the order in which they are drawn: AfterImage's seven, then ours."""
