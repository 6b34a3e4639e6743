"""The style of plots: figures, colours, fonts, shapes, axes and texts.

A figure neither depends on the caller's rcParams nor changes them: ``rc_context`` would change them
for every thread, and would end before a returned figure is drawn. So every property that matplotlib
would read from them is set on the figure.
"""

from __future__ import annotations

import io
import math
from datetime import UTC
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from dateutil.tz import tzlocal  # type: ignore[import-untyped]
from matplotlib import dates, font_manager, ticker
from matplotlib.collections import Collection
from matplotlib.figure import Figure, SubplotParams
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import BarContainer

    Floats = npt.NDArray[np.float64]
    Times = npt.NDArray[np.datetime64]

__all__ = ["THEME", "Picture", "colour_name", "printable", "printable_all"]

_INK, _MUTED, _GRID = "#222222", "#5f6368", "#e4e4e4"
# Okabe and Ito's palette, safe for readers with a colour vision deficiency:
# https://jfly.uni-koeln.de/color/ (2008).
_COLOURS = {"main": "#0072B2", "second": "#56B4E9", "pale": "#b3d4e8", "neutral": "#b8b8b8"}
_COLOURS |= {"good": "#009E73", "bad": "#D55E00"}
"""Colours with the same meaning in every plot."""
# Paul Tol's "muted", without the colours of success and failure:
# https://sronpersonalpages.nl/~pault/ (2021).
_PALETTE = (
    *("#332288", "#44AA99", "#CC6677", "#88CCEE"),
    *("#999933", "#882255", "#DDCC77", "#AA4499"),
)
"""Colours of groups, such as models."""
_PALETTE_NAMES = tuple(f"group-{number}" for number in range(len(_PALETTE)))
THEME = {
    _INK: "ink",
    _MUTED: "muted",
    _GRID: "grid",
    "#ffffff": "ground",
    **{colour.lower(): name for name, colour in _COLOURS.items()},
    **{colour.lower(): name for name, colour in zip(_PALETTE_NAMES, _PALETTE, strict=True)},
}
"""The name of each colour, in lower case, for a page that has others in the dark."""
_FULL_WIDTH, _MIN_SCALE = 12.0, 0.6  # width in inches for text of full size, and its smallest scale
_SIZE, _HEADING_SIZE = 10.5, 14.0  # points
_PAD_DAYS = 30 / 86_400  # the space around a single moment
_MAX_STRETCHES = 500  # of a line, two points each; more are not visible
_FEW, _MANY = 30, 1_000  # points up to which a line has markers, and from which dots are paler
_RIGHT = 0.75  # part of the width beyond which a text is left of its line
_MAX_NAME = 32  # characters
_EXACT_BELOW = 100_000
_SANS = "DejaVu Sans"  # part of matplotlib
# Common fonts for the scripts that it lacks; only installed ones are used.
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei"),
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Arial Unicode MS"),
)


_AS_TEXT: dict[str, Any] = {"usetex": False, "useMathText": False}


class _Figure(Figure):
    """A figure that notebooks display, although it has no backend."""

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        self.savefig(target, format="png", dpi=100)
        return target.getvalue()


class _CountFormatter(ticker.EngFormatter):
    """Formats ``1.2k``, ``3M``, ``4B``; "G" is unusual for tokens."""

    ENG_PREFIXES = {0: "", 3: "k", 6: "M", 9: "B", 12: "T"}  # noqa: RUF012 - as in matplotlib


class _SecondsFormatter(ticker.EngFormatter):
    """Formats ``35 ms`` and ``1250 s``."""

    ENG_PREFIXES = {-3: "m", 0: ""}  # noqa: RUF012 - as in matplotlib


def _number(value: float, _position: float = 0) -> str:
    # Ticks are sums of steps; rounding removes their floating-point errors.
    return f"{round(float(value), 9) + 0.0:,.12g}"


def _share(value: float, _position: float = 0) -> str:
    return f"{100 * value:.3g}%"


class Picture:
    """One figure and its drawing methods; the index of every series is UTC time.

    Args:
        size: Width and height in inches.
        scale: Size of the text, 1 for a full one; by default it grows with the figure.

    Attributes:
        figure: The figure; :meth:`panels` adds its axes.
    """

    def __init__(self, size: tuple[float, float], scale: float | None = None) -> None:
        self.figure: Figure = _Figure(
            size,
            dpi=100,
            facecolor="white",
            edgecolor="white",
            subplotpars=SubplotParams(0.1, 0.1, 0.9, 0.9, 0.2, 0.2),
            layout=ConstrainedLayoutEngine(h_pad=0.04, w_pad=0.04, hspace=0.02, wspace=0.02),
        )
        self._scale = scale or max(_MIN_SCALE, min(1.0, size[0] / _FULL_WIDTH))
        self._muted: dict[str, Any] = {"color": _MUTED, "fontsize": _SIZE * self._scale}
        self._beside: dict[str, Any] = {"color": _INK, "fontsize": 0.95 * _SIZE * self._scale}
        self._heading: Text | None = None

    def panels(self, rows: int = 1) -> list[Axes]:
        """Add axes, one below the other."""
        size = _SIZE * self._scale
        panels = [self.figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
        for axes in panels:
            axes.set(facecolor="white", axisbelow=True, xmargin=0.02, ymargin=0.02)
            for side, spine in axes.spines.items():
                spine.set(visible=side == "bottom", color=_MUTED, linewidth=0.8)
            axes.minorticks_off()
            ticks: dict[str, Any] = {"direction": "out", "length": 3.5, "width": 0.8}
            ticks |= {"color": _MUTED, "pad": 4 * self._scale, "grid_alpha": 1.0}
            ticks |= {"labelcolor": _MUTED, "labelsize": size, "labelrotation": 0}
            ticks |= {"top": False, "right": False, "bottom": True, "left": False}
            ticks |= {"labeltop": False, "labelright": False}
            ticks |= {"labelbottom": True, "labelleft": True, "labelfontfamily": _SANS}
            axes.tick_params(which="both", **ticks)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_offset_text().set(**self._muted)
            _grid(axes.yaxis, axes.xaxis)
        return panels

    # --- shapes --------------------------------------------------------------------------------

    def line(self, axes: Axes, series: pd.Series[float], colour: str | int) -> Line2D:
        """Draw a line in a colour, by name or index in the palette; a long one is thinned."""
        colour = _COLOURS[colour] if isinstance(colour, str) else _PALETTE[colour]
        chosen = series.iloc[_extremes(series.to_numpy())]
        marker: dict[str, Any] = {"marker": "o" if len(series) <= _FEW else "", "markersize": 5}
        (line,) = axes.plot(_days(chosen.index), chosen, color=colour, linewidth=2.0, **marker)
        line.set(linestyle="-", markeredgewidth=0, solid_joinstyle="round")
        return line

    def dots(self, axes: Axes, series: pd.Series[float]) -> Collection:
        """Draw a dot for each sample."""
        look: dict[str, Any] = {"marker": "o", "linewidths": 0, "rasterized": True}
        look["alpha"] = 0.35 if len(series) < _MANY else 0.12
        return axes.scatter(_days(series.index), series, s=14, color=_COLOURS["main"], **look)

    def band(self, axes: Axes, low: pd.Series[float], high: pd.Series[float]) -> None:
        """Fill the space between two series of the same times."""
        some = slice(None, None, 1 + len(low) // (2 * _MAX_STRETCHES))
        look: dict[str, Any] = {"color": _COLOURS["pale"], "alpha": 0.55, "linewidth": 0}
        axes.fill_between(_days(low.index[some]), low.iloc[some], high.iloc[some], **look)

    def histogram(
        self, axes: Axes, values: Floats, edges: Floats, weights: Floats | None = None
    ) -> None:
        """Draw a histogram with room for two lines of text at its top."""
        look: dict[str, Any] = {"color": _COLOURS["main"], "edgecolor": "white", "linewidth": 0.4}
        counts, _, _ = axes.hist(values, edges.tolist(), weights=weights, **look)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.16 * float(np.max(counts))))

    def mark(self, axes: Axes, x: float, text: str, line: float) -> None:
        """Draw a vertical line with a text beside it, in this line of text from the top."""
        axes.axvline(x, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), marker="")
        is_right = (axes.transScale + axes.transLimits).transform((x, 0))[0] > _RIGHT
        place: dict[str, Any] = {"ha": "right" if is_right else "left"}
        place |= {"xytext": (-5 if is_right else 5, 0), "textcoords": "offset points"}
        place |= {"xycoords": axes.get_xaxis_transform()}
        axes.annotate(text, (x, 0.99 - 0.06 * line), va="top", **place, **self._beside)

    def bars(
        self,
        axes: Axes,
        table: pd.DataFrame,
        colours: Sequence[str],
        texts: Sequence[str],
        *,
        has_legend: bool = True,
    ) -> None:
        """Draw a horizontal bar for each row, its columns stacked, with a text at its end."""
        drawn: dict[str, BarContainer] = {}
        rows, end = np.arange(len(table)), np.zeros(len(table))
        for (name, column), colour in zip(table.items(), colours, strict=True):
            if column.any():
                look: dict[str, Any] = {"color": _COLOURS[colour], "linewidth": 0}
                drawn[str(name)] = axes.barh(rows, column, _thickness(len(rows)), end, **look)
                end = end + column.to_numpy()
        *_, last = drawn.values()
        axes.bar_label(last, texts, padding=5, **self._beside)
        axes.set_xlim(0, end.max())
        if table.shape[1] > 1 and has_legend:
            self.legend(None, list(drawn.values()), list(drawn))

    def boxes(self, axes: Axes, quantiles: Floats, texts: Sequence[str]) -> None:
        """Draw rows of five quantiles as line, box and median, with a text at the end."""
        rows, size = np.arange(len(quantiles)), _thickness(len(quantiles))
        low, left, middle, right, high = quantiles.T
        edge = _COLOURS["main"]
        lines = axes.barh(rows, high - low, 0, low, color=edge, edgecolor=edge, linewidth=1.2)
        look: dict[str, Any] = {"color": _COLOURS["pale"], "edgecolor": edge, "linewidth": 1.0}
        axes.barh(rows, right - left, size, left, **look)
        axes.vlines(middle, rows - size / 2, rows + size / 2, color=_INK, linewidth=2.0)
        axes.bar_label(lines, texts, padding=8, **self._beside)

    def stacks(
        self,
        axes: Axes,
        times: Sequence[Any],
        weights: Sequence[Any],
        edges: Times,
        names: Sequence[str] = (),
    ) -> list[Any]:
        """Draw a stack of weights for each time slice, and return the bars of each sequence.

        The colours are those of these names, by default those of groups.
        """
        colours = [_COLOURS[name] for name in names] or [*_PALETTE, _COLOURS["neutral"]]
        colours = colours[: len(times)]
        look: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.3, "rwidth": 1.0}
        days, slices = [_days(each) for each in times], _days(edges).tolist()
        bars: Any = axes.hist(days, slices, weights=weights, stacked=True, color=colours, **look)[2]
        return list(bars) if len(times) > 1 else [bars]

    # --- texts ---------------------------------------------------------------------------------

    def head(self, title: str, note: str) -> None:
        """Write the title and a note below it."""
        axes = self.figure.axes[0]
        self._heading = axes.set_title(title, loc="left", pad=24 * self._scale, y=1.0)
        self._heading.set(color=_INK, fontsize=_HEADING_SIZE * self._scale)
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(note, (0, 1), (0, 8 * self._scale), va="bottom", **place, **self._muted)

    def legend(self, axes: Axes | None, handles: Sequence[Any], names: Sequence[str]) -> None:
        """Add a legend: right of the axes or, without axes, below all of them."""
        look: dict[str, Any] = {"frameon": False, "markerscale": 1.0, "numpoints": 1}
        look |= {"labelcolor": _INK, "fontsize": _SIZE * self._scale, "labelspacing": 0.5}
        look |= {"handlelength": 1.4, "handleheight": 0.9, "handletextpad": 0.6}
        look |= {"borderpad": 0.2, "borderaxespad": 0.4, "columnspacing": 1.6}
        # Labels that begin with an underscore are dropped, so the names are set afterwards.
        labels = [str(number) for number in range(len(handles))]
        if axes is None:
            look |= {"loc": "outside lower right", "ncols": len(names)}
            legend = self.figure.legend(handles, labels, **look)
        else:
            look |= {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
            legend = axes.legend(handles, labels, **look)
        for text, name in zip(legend.get_texts(), printable_all(names), strict=True):
            text.set_text(name)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)

    @staticmethod
    def count(value: float) -> str:
        """Format a count: a small one exactly, a large one with three digits and a unit."""
        if value < _EXACT_BELOW:
            return f"{value:,.0f}"
        return _CountFormatter(sep="", **_AS_TEXT)(float(f"{value:.3g}"))

    @staticmethod
    def seconds(value: float) -> str:
        """Format a duration with three digits."""
        return _SecondsFormatter("s", **_AS_TEXT)(float(f"{value:.3g}"))

    # --- axes ----------------------------------------------------------------------------------

    def time_axis(self, times: Times) -> None:
        """Set the same x axis of local time on all panels, with labels below the last."""
        zone, days = tzlocal(), _days(times)
        first, last = float(days.min()), float(days.max())
        pad = max(_PAD_DAYS if first == last else 0.0, 0.01 * (last - first))
        *others, lowest = self.figure.axes
        for axes in self.figure.axes:
            axes.set_xlim(first - pad, last + pad)
            locator = dates.AutoDateLocator(tz=zone, minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
            formatter = dates.ConciseDateFormatter(locator, tz=zone, usetex=False)  # type: ignore[no-untyped-call]
            # By default seconds lack their minute.
            formatter.formats[5] = formatter.zero_formats[5] = "%H:%M:%S.%f"
            formatter.offset_formats[5] = "%Y-%b-%d"
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(formatter)
        newest = times.max().astype("M8[us]").item().replace(tzinfo=UTC)
        offset = newest.astimezone(zone).strftime("%z")
        self._label(lowest.xaxis, f"local time (UTC{offset[:3]}:{offset[3:5]})")
        for axes in others:
            axes.tick_params(axis="x", labelbottom=False)
            axes.xaxis.get_offset_text().set_visible(False)

    def number_axis(
        self, axis: Axis, name: str, form: Literal["number", "count", "share"] = "number"
    ) -> None:
        """Set an axis of plain numbers, of counts with a unit, or of percentages."""
        self._label(axis, name)
        integer = form == "count"
        axis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=integer))
        if form == "count":
            axis.set_major_formatter(_CountFormatter(sep="", **_AS_TEXT))
        else:
            axis.set_major_formatter(_number if form == "number" else _share)

    def log_axis(
        self, axes: Axes, which: Literal["x", "y"], name: str, low: float, high: float
    ) -> None:
        """Set a logarithmic axis between limits above 0."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
        self._label(axis, f"{name}, logarithmic")
        has_steps = high < 100 * low
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if has_steps else (1,)))
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(_number)

    def name_axis(self, axes: Axes, names: Sequence[str]) -> None:
        """Set names on the y axis, the first on top."""
        axes.set_yticks(range(len(names)), printable_all(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        _grid(axes.xaxis, axes.yaxis)

    def _label(self, axis: Axis, text: str) -> None:
        axis.set_label_text(text, **self._muted)
        axis.labelpad = 6 * self._scale

    # --- the end -------------------------------------------------------------------------------

    def finish(self) -> Figure:
        """Set the properties that parts would read from rcParams, and return the figure."""
        for artist in self.figure.findobj():
            artist.set(path_effects=[], sketch_params=None, snap=None)
            if isinstance(artist, Text):
                # Names with dollars and underscores are not formulas.
                artist.set(usetex=False, parse_math=False, antialiased=True)
                weight = "bold" if artist is self._heading else "normal"
                plain: dict[str, Any] = {"style": "normal", "variant": "normal"}
                plain |= {"stretch": "normal", "size": artist.get_fontsize()}
                artist.set_fontproperties(
                    FontProperties(family=list(_families()), weight=weight, **plain)
                )
            elif isinstance(artist, Line2D):
                artist.set(antialiased=True, solid_capstyle="projecting", dash_capstyle="butt")
            elif isinstance(artist, Patch | Collection):
                artist.set(antialiased=True, capstyle="butt", joinstyle="miter")
        for axes in self.figure.axes:
            for tick in axes.xaxis.get_major_ticks():
                tick.label1.set(ha="center", va="top")
            for tick in axes.yaxis.get_major_ticks():
                tick.label1.set(ha="right", va="center_baseline")
        return self.figure


def _grid(visible: Axis, hidden: Axis) -> None:
    hidden.grid(visible=False, which="both")
    visible.grid(visible=False, which="minor")
    visible.grid(visible=True, which="major", color=_GRID, linewidth=0.8, linestyle="-")


def _thickness(bars: int) -> float:
    """Return a bar's part of its row; few bars are thinner, because they would be huge."""
    return min(0.6, 0.15 + 0.09 * bars)


def _days(times: Any) -> Floats:
    """Convert times to the numbers of matplotlib's date axes."""
    return np.asarray(dates.date2num(np.asarray(times)), dtype=np.float64)  # type: ignore[no-untyped-call]


def _extremes(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the indexes of a line's ends, and of the extremes of each of 500 stretches."""
    width = math.ceil(len(values) / _MAX_STRETCHES)
    stretches = np.pad(values, (0, -len(values) % width), mode="edge").reshape(-1, width)
    starts = width * np.arange(len(stretches))
    lowest, highest = starts + stretches.argmin(axis=1), starts + stretches.argmax(axis=1)
    return np.unique(np.r_[0, lowest, highest, len(values) - 1])


def colour_name(index: int) -> str:
    """Return the name of a group's colour, by its index."""
    return _PALETTE_NAMES[index] if index < len(_PALETTE) else "neutral"


def printable(name: str) -> str:
    """Return a name on one short line, in characters that the fonts have.

    A long name loses its middle, since names of models differ at their ends. A character without a
    glyph becomes its number, so that names stay distinct.
    """
    text = "".join(map(_drawable, name)) or "(empty)"
    head = _MAX_NAME // 2
    return text if len(text) <= _MAX_NAME else f"{text[:head]}…{text[head + 1 - _MAX_NAME :]}"


def printable_all(names: Sequence[str]) -> list[str]:
    """Return names as :func:`printable` does, numbered if they would look the same."""
    texts = [printable(name) for name in names]
    return [
        f"{text} ({texts[:place].count(text) + 1})" if texts.count(text) > 1 else text
        for place, text in enumerate(texts)
    ]


def _drawable(char: str) -> str:
    if char.isprintable() and ord(char) in _characters():
        return char
    return " " if char.isspace() else f"\\u{ord(char):x}"


@cache
def _families() -> tuple[str, ...]:
    """Return the fonts to draw with, in the order of preference."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return (_SANS, *(name for name in _FALLBACKS if name in installed))


@cache
def _characters() -> frozenset[int]:
    paths = (font_manager.findfont(FontProperties(family=[each])) for each in _families())
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))
