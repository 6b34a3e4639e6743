"""Plots within a page: SVG without scripts and links, in the colours of the page's style.

They are in the style of the plots of a history. A heading, a note and a legend are the page's, whose
text wraps. Text within a plot is drawn as shapes, so that no name can be markup.
"""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genmeter.errors import MissingExtraError
from genmeter.files._plot_scales import (
    MIN_SECONDS,
    duration_name,
    limits,
    limits_from_zero,
    slice_seconds,
    spans_decades,
)
from genmeter.tables.markup import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from genmeter.files._plot_style import Picture

    Floats = npt.NDArray[np.float64]

__all__ = ["COLOUR_PREFIX", "Drawing", "PagePlots"]

COLOUR_PREFIX = "--plot-"
"""The beginning of the custom properties of CSS that have the colours; their names end with those of
the style, such as ``ink``."""

_WIDTH, _HEIGHT, _SCALE = 4.3, 2.5, 0.76  # inches; a plot fills a phone's width
_ROW_HEIGHT, _AXIS_HEIGHT = 0.34, 0.62
_MAX_GROUPS = 8  # of colours
_MAX_ROWS = 12  # of bars and boxes
_MAX_SLICES = 40
_EARLIEST, _LATEST = 0.0, 7_258_118_400.0  # Unix time: 1970 and 2200; axes fail at the last years

_UNWANTED = re.compile(
    r'<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>| xmlns(?::\w+)?="[^"]*"', re.DOTALL
)
_SIZE = re.compile(r' (?:width|height)="[^"]*pt"')
_ID = re.compile(r'(?P<before>\bid="|url\(#|href="#)(?P<id>[^")]+)')
_HEX = re.compile(r"#[0-9a-f]{6}\b")


class Drawing(NamedTuple):
    """A plot.

    Attributes:
        svg: An ``svg`` element.
        note: What it shows, for a caption.
        legend: Names, each with the custom property of its colour; may be empty.
    """

    svg: str
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()


class PagePlots:
    """Draws the plots of one page, whose ids are unique in it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self) -> None:
        try:
            import matplotlib.figure  # noqa: F401 - by itself, so that other errors are not hidden
        except ImportError:
            raise MissingExtraError(
                "matplotlib", extra="plots", purpose="Writing a page with plots"
            ) from None
        self._number = 0

    def over_time(
        self,
        label: str,
        unit: str,
        parts: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        colours: Sequence[str] = (),
    ) -> Drawing:
        """Draw a stack of amounts for each time slice.

        Args:
            label: What it shows, for readers who cannot see it.
            unit: Name of the amounts.
            parts: Unix times and amounts by name; the eight largest are drawn, and the rest as one.
            colours: The style's names of their colours, if they have a meaning.
        """
        from genmeter.files._plot_style import colour_name

        stacked = _largest(parts)
        names = list(stacked)
        picture = self._picture(_HEIGHT)
        (axes,) = picture.panels()
        times = [
            (np.clip(np.asarray(each), _EARLIEST, _LATEST) * 1e6).astype(np.int64).astype("M8[us]")
            for each, _ in stacked.values()
        ]
        weights = [np.asarray(amounts, np.float64) for _, amounts in stacked.values()]
        seconds = np.concatenate(times).astype("M8[s]").astype(np.int64)
        width = slice_seconds(int(seconds.max() - seconds.min()), _MAX_SLICES)
        slices = seconds // width
        edges = (width * np.arange(slices.min(), slices.max() + 2)).astype("M8[s]")
        picture.stacks(axes, times, weights, edges, colours)
        _, place = np.unique(slices, return_inverse=True)
        axes.set_ylim(0, 1.05 * float(np.bincount(place, np.concatenate(weights)).max()) or 1.0)
        picture.number_axis(axes.yaxis, f"{unit} per {duration_name(width)}", "count")
        picture.time_axis(edges)
        shown = colours or [colour_name(place) for place in range(len(names))]
        legend = names if len(names) > 1 else []
        return self._finish(picture, label, "", legend, shown)

    def bars(
        self,
        label: str,
        unit: str,
        names: Sequence[str],
        parts: Mapping[str, Sequence[float]],
        colours: Sequence[str],
        texts: Sequence[str],
        *,
        is_count: bool = True,
    ) -> Drawing:
        """Draw a bar for each name, its parts stacked, with a text at its end.

        Args:
            label: As of `over_time`.
            unit: Name of the amounts.
            names: The first twelve are drawn.
            parts: The amount of each name, by part.
            colours: The style's names of the parts' colours.
            texts: A text for each name.
            is_count: Whether the amounts are counts, with short units such as ``M``.
        """
        import pandas as pd

        shown = slice(_MAX_ROWS)
        table = pd.DataFrame({name: np.asarray(part)[shown] for name, part in parts.items()})
        picture = self._picture(_rows_height(len(table)))
        (axes,) = picture.panels()
        picture.bars(axes, table.rename(columns=str), colours, texts[shown], has_legend=False)
        picture.number_axis(axes.xaxis, unit, "count" if is_count else "number")
        picture.name_axis(axes, names[shown])
        legend = list(parts) if len(parts) > 1 else []
        return self._finish(picture, label, _rest(len(names)), legend, colours)

    def boxes(
        self,
        label: str,
        unit: str,
        names: Sequence[str],
        quantiles: Sequence[Sequence[float]],
        texts: Sequence[str],
    ) -> Drawing:
        """Draw the median, the middle half and the middle 90 % of each name.

        Args:
            label: As of `over_time`.
            unit: Name of the values.
            names: The first twelve are drawn.
            quantiles: The quantiles 0.05, 0.25, 0.5, 0.75 and 0.95 of each.
            texts: A text for each name.
        """
        shown = slice(_MAX_ROWS)
        boxes = np.asarray(quantiles, np.float64)[shown]
        low, high = float(boxes.min()), float(boxes.max())
        is_log = unit == "seconds" and spans_decades(low, high)
        picture = self._picture(_rows_height(len(boxes)))
        (axes,) = picture.panels()
        picture.boxes(axes, boxes.clip(MIN_SECONDS) if is_log else boxes, texts[shown])
        if is_log:
            low, high = max(low, MIN_SECONDS) / 1.3, max(high, MIN_SECONDS) * 1.1
            picture.log_axis(axes, "x", unit, low, high)
        else:
            axes.set_xlim(limits_from_zero(low, high))
            picture.number_axis(axes.xaxis, unit)
        picture.name_axis(axes, names[shown])
        note = "median (in figures), middle half (box), middle 90 % (line)"
        return self._finish(picture, label, f"{note}{_rest(len(names), '; ')}", [], [])

    def histogram(
        self,
        label: str,
        unit: str,
        values: Sequence[float],
        buckets: Mapping[float, int],
        marks: Mapping[str, float],
    ) -> Drawing | None:
        """Draw how values are distributed; None if nothing is between finite bounds.

        Args:
            label: As of `over_time`.
            unit: Name of the values.
            values: Each value; at least 0.
            buckets: A cumulative histogram of further values, by upper bound.
            marks: Values to mark, by name.
        """
        known = np.asarray(values, np.float64)
        edges, counts, beyond = _counts(known, buckets)
        if not counts.any():
            return None
        is_log = edges[0] > 0 and spans_decades(float(edges[0]), float(edges[-1]))
        picture = self._picture(_HEIGHT)
        (axes,) = picture.panels()
        picture.histogram(axes, (edges[:-1] + edges[1:]) / 2, edges, counts)
        axes.set_ylim(0, 1.4 * float(counts.max()))  # the lines of text are large here
        if is_log:
            picture.log_axis(axes, "x", unit, float(edges[0]), float(edges[-1]))
        else:
            picture.number_axis(axes.xaxis, unit)
        picture.number_axis(axes.yaxis, "count", "count")
        for line, (name, at) in enumerate(marks.items()):
            shown = min(max(at, float(edges[0])), float(edges[-1]))
            picture.mark(axes, shown, f"{name} {picture.seconds(at)}", 1.4 * line)
        note = f"{beyond:,} beyond the last bucket are not shown" if beyond else ""
        return self._finish(picture, label, note, [], [])

    @staticmethod
    def seconds(value: float) -> str:
        """Format a duration with three digits."""
        from genmeter.files._plot_style import Picture

        return Picture.seconds(value)

    @staticmethod
    def count(value: float) -> str:
        """Format a count: a small one exactly, a large one with three digits and a unit."""
        from genmeter.files._plot_style import Picture

        return Picture.count(value)

    def _picture(self, height: float) -> Picture:
        from genmeter.files._plot_style import Picture

        return Picture((_WIDTH, height), _SCALE)

    def _finish(
        self,
        picture: Picture,
        label: str,
        note: str,
        names: Sequence[str],
        colours: Sequence[str],
    ) -> Drawing:
        self._number += 1
        target = io.StringIO()
        picture.finish().savefig(target, format="svg", transparent=True)
        svg = _inline(target.getvalue(), label, f"plot{self._number}")
        legend = [
            (name, f"{COLOUR_PREFIX}{colour}") for name, colour in zip(names, colours, strict=False)
        ]
        return Drawing(svg, note, tuple(legend))


def _largest(
    parts: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Return the parts, the smaller of many as one."""
    if len(parts) <= _MAX_GROUPS + 1:
        return dict(parts)
    order = sorted(parts, key=lambda name: (-math.fsum(parts[name][1]), name))
    kept = {name: parts[name] for name in order[:_MAX_GROUPS]}
    times: list[float] = []
    amounts: list[float] = []
    for name in order[_MAX_GROUPS:]:
        times.extend(parts[name][0])
        amounts.extend(parts[name][1])
    return {**kept, f"{len(parts) - _MAX_GROUPS} others": (times, amounts)}


def _counts(values: Floats, buckets: Mapping[float, int]) -> tuple[Floats, Floats, int]:
    """Return edges, counts between them, and the number of values beyond the last."""
    if not buckets:
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        bins = min(40, max(11, math.ceil(2 * float(np.cbrt(values.size)))))  # Rice's rule
        if spans_decades(low, high):
            values = values.clip(MIN_SECONDS)
            edges = np.geomspace(max(low, MIN_SECONDS), high, bins + 1)
        else:
            edges = np.linspace(*((low, high) if low < high else limits(low, high)), bins + 1)
        return edges, np.histogram(values, edges)[0].astype(np.float64), 0
    bounds = [bound for bound in sorted(buckets) if 0 < bound < math.inf]
    cumulative = np.array([buckets[bound] for bound in bounds], np.int64)
    cumulative += np.searchsorted(np.sort(values), bounds, side="right")
    total = len(values) + buckets.get(math.inf, 0)
    beyond = max(0, total - int(cumulative[-1])) if bounds else total
    counts = np.diff(cumulative, prepend=0).clip(0).astype(np.float64)
    edges = np.array([0.0, *bounds])
    used = np.flatnonzero(counts)
    if used.size:
        edges, counts = edges[used[0] : used[-1] + 2], counts[used[0] : used[-1] + 1]
        if edges[0] == 0 and spans_decades(float(edges[1]), float(edges[-1])):
            edges[0] = edges[1] / 2  # 0 has no place on a logarithmic axis
    return edges, counts, beyond


def _rows_height(rows: int) -> float:
    return _AXIS_HEIGHT + _ROW_HEIGHT * max(rows, 2)


def _rest(count: int, before: str = "") -> str:
    more = count - _MAX_ROWS
    return f"{before}{more:,} smaller ones are not shown" if more > 0 else ""


def _inline(svg: str, label: str, prefix: str) -> str:
    """Return the element of an SVG file for a page: no links, own ids, colours by name."""
    from genmeter.files._plot_style import THEME

    text = _UNWANTED.sub("", svg[svg.index("<svg") :]).replace("xlink:href", "href")
    start, end = text.split(">", 1)
    numbers: dict[str, int] = {}

    def own(found: re.Match[str]) -> str:
        number = numbers.setdefault(found["id"], len(numbers))
        return f"{found['before']}{prefix}-{number}"

    def themed(found: re.Match[str]) -> str:
        name = THEME.get(found[0])
        return found[0] if name is None else f"var({COLOUR_PREFIX}{name})"

    body = _HEX.sub(themed, _ID.sub(own, end))
    named = f'role="img" aria-label="{escaped(label)}"'
    return f"{_SIZE.sub('', start)} {named}>{body.strip()}"
