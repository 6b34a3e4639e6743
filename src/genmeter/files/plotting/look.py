"""What all plots have in common: the figure, its colours, its axes, its words.

A figure looks the same whatever the caller's rcParams say. They are neither changed nor put aside
for a while: ``rc_context`` changes them for every thread, and is over when a figure that was
returned is drawn. So whatever a figure would read from them is set on it.
"""

from __future__ import annotations

import io
import math
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from dateutil.tz import tzlocal  # type: ignore[import-untyped]
from matplotlib import dates, ticker
from matplotlib.collections import Collection
from matplotlib.figure import Figure, SubplotParams
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from genmeter.files.plotting.text import SANS, compact, families, plain, shown_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from genmeter.files.plotting.data import Times

__all__ = [
    "BAD",
    "BAND",
    "COLOURS",
    "INK",
    "MAIN",
    "NEUTRAL",
    "SIGNAL_COLOURS",
    "Picture",
    "days",
]

INK, MUTED, GRID = "#222222", "#5f6368", "#e4e4e4"
# Okabe and Ito's palette, which readers who see fewer colours can tell apart:
# https://jfly.uni-koeln.de/color/ (2008).
MAIN, BAND, SECOND = "#0072B2", "#b3d4e8", "#56B4E9"
GOOD, BAD, NEUTRAL = "#009E73", "#D55E00", "#b8b8b8"
# Paul Tol's "muted", which shares no colour with success and failure:
# https://sronpersonalpages.nl/~pault/ (2021).
COLOURS = (
    *("#332288", "#44AA99", "#CC6677", "#88CCEE"),
    *("#999933", "#882255", "#DDCC77", "#AA4499"),
)
SIGNAL_COLOURS = {
    "success_rate": GOOD,
    "error_rate": BAD,
    "successful_calls": GOOD,
    "failed_calls": BAD,
    "input_tokens": SECOND,
    "output_tokens": MAIN,
    "unitemised_tokens": NEUTRAL,
}
"""Colours that mean the same in every plot, by the signal's id."""
_FULL_WIDTH = 12.0  # inches at which text has its full size
_LEAST_SCALE = 0.6
_SIZE, _HEADING_SIZE = 10.5, 14.0  # points
_PAD_DAYS = 30 / 86_400  # what is shown before and after a lone moment
# Zones and axes fail where years end; a caller's time stamp beyond these is no time of a job.
_EARLIEST, _LATEST = np.datetime64("1900", "us"), np.datetime64("2200", "us")
# For ticks of years, months, days, hours, minutes and seconds: how each is told, how it is where the
# next larger unit begins, and what is told once beside the axis.
_TICKS = ["%Y", "%b", "%b %d", "%H:%M", "%H:%M", "%H:%M:%S.%f"]
_TICKS_AT_ZERO = ["", "%Y", "%b", "%b %d", "%H:%M", "%H:%M:%S.%f"]
_OFFSETS = ["", "", "%Y", "%Y-%m-%d", "%Y-%m-%d", "%Y-%m-%d"]
_DECADES_WITH_STEPS = 2.0
_LEAST_SPAN, _MOST_SPAN = 1e-9, 1e15  # of an axis whose numbers need no exponent


class _Figure(Figure):
    """A figure that notebooks show though it knows no window and no backend."""

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        self.savefig(target, format="png", dpi=100)
        return target.getvalue()


class Picture:
    """A figure, and how it is written on.

    Args:
        figsize: Width and height in inches.
        rows: Axes below one another.

    Attributes:
        figure: The figure.
        panels: Its axes, from the top.
        crowding: How much more of a small figure's width its words take.
    """

    def __init__(self, figsize: tuple[float, float], rows: int = 1) -> None:
        layout = ConstrainedLayoutEngine(h_pad=0.04, w_pad=0.04, hspace=0.02, wspace=0.02)
        self.figure: Figure = _Figure(
            figsize,
            dpi=100,
            facecolor="white",
            edgecolor="white",
            subplotpars=SubplotParams(0.1, 0.1, 0.9, 0.9, 0.2, 0.2),
            layout=layout,
        )
        # Words that fit a small figure would be lost on a large one.
        self._scale = max(_LEAST_SCALE, min(1.0, figsize[0] / _FULL_WIDTH))
        self.crowding = max(1.0, self._scale * _FULL_WIDTH / figsize[0])
        self._headings: list[Text] = []
        self.panels = [self.figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
        for axes in self.panels:
            self._neutralise(axes)

    # --- words ---------------------------------------------------------------------------------

    def head(self, title: str, note: str) -> None:
        """Write what is shown, and under it how and of how many."""
        axes, scale = self.panels[0], self._scale
        heading = axes.set_title(title, loc="left", pad=24 * scale, y=1.0)
        heading.set(color=INK, fontsize=_HEADING_SIZE * scale)
        self._headings.append(heading)
        axes.annotate(
            note,
            (0, 1),
            xytext=(0, 8 * scale),
            xycoords="axes fraction",
            textcoords="offset points",
            color=MUTED,
            fontsize=_SIZE * scale,
            ha="left",
            va="bottom",
        )

    def label(self, axis: Axis, text: str) -> None:
        """Name an axis."""
        axis.set_label_text(text, color=MUTED, fontsize=_SIZE * self._scale)
        axis.labelpad = 6 * self._scale

    def write(self, axes: Axes, text: str, x: float, y: float, **look: Any) -> None:
        """Write beside something that is drawn, 5 points right of it unless ``xytext`` says else."""
        look = {"color": INK, "ha": "left", "va": "center", "xytext": (5, 0)} | look
        axes.annotate(
            text, (x, y), textcoords="offset points", fontsize=_SIZE * self._scale * 0.95, **look
        )

    def legend(self, axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> None:
        """Name what is drawn, to the right of it."""
        legend = axes.legend(
            handles,
            # A label that begins with an underscore would be left out, so names come after.
            [str(number) for number in range(len(handles))],
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            fontsize=_SIZE * self._scale,
            labelcolor=INK,
            borderpad=0.2,
            labelspacing=0.5,
            handlelength=1.4,
            handleheight=0.9,
            handletextpad=0.6,
            borderaxespad=0.4,
            markerscale=1.0,
            numpoints=1,
        )
        for text, name in zip(legend.get_texts(), shown_all(names), strict=True):
            text.set_text(name)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)

    # --- axes ----------------------------------------------------------------------------------

    def time_axis(self, axes: Axes, times: Times) -> None:
        """Make the x axis one of local time, around the times."""
        zone = tzlocal()
        moments = days(times)
        first, last = float(moments.min()), float(moments.max())
        pad = max(_PAD_DAYS if first == last else 0.0, 0.01 * (last - first))
        axes.set_xlim(first - pad, last + pad)
        locator = dates.AutoDateLocator(tz=zone, minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
        formatter = dates.ConciseDateFormatter(  # type: ignore[no-untyped-call]
            locator,
            tz=zone,
            formats=_TICKS,
            zero_formats=_TICKS_AT_ZERO,
            offset_formats=_OFFSETS,
            usetex=False,
        )
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(formatter)
        newest = _tellable(times).max().item().replace(tzinfo=UTC)
        offset = newest.astimezone(zone).strftime("%z")
        self.label(axes.xaxis, f"local time (UTC{offset[:3]}:{offset[3:5]})")

    def join_time(self) -> None:
        """Tell the time under the lowest axes only."""
        for axes in self.panels[:-1]:
            axes.set_xlabel("")
            axes.tick_params(axis="x", labelbottom=False)
            axes.xaxis.get_offset_text().set_visible(False)

    def value_axis(
        self, axis: Axis, name: str, shown: Callable[[float], str] | None = None
    ) -> None:
        """Make an axis one of numbers.

        Args:
            axis: The axis.
            name: Of what.
            shown: Gives a number's text; None means as many decimals as the ticks need.
        """
        self.label(axis, name)
        is_whole = shown is compact
        axis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=is_whole))
        as_needed = _counts(axis) if is_whole else shown or _Decimals(axis)
        axis.set_major_formatter(lambda value, _: as_needed(value))

    def log_axis(self, axes: Axes, direction: Literal["x", "y"], name: str) -> None:
        """Make an axis one of numbers over decades; its limits, more than 0, must be set."""
        axis = axes.xaxis if direction == "x" else axes.yaxis
        low, high = axis.get_view_interval()
        axes.set(**{f"{direction}scale": "log", f"{direction}lim": (low, high)})
        self.label(axis, f"{name}, logarithmic")
        has_steps = np.log10(high / low) < _DECADES_WITH_STEPS
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if has_steps else (1,)))
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(lambda value, _: plain(value))

    def name_axis(self, axes: Axes, names: Sequence[str]) -> None:
        """Make the y axis one of names, the first on top."""
        axes.set_yticks(range(len(names)), shown_all(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        self.grid(axes, x=True, y=False)

    def grid(self, axes: Axes, *, x: bool, y: bool) -> None:
        """Draw the grid in one direction, both or none."""
        for axis, visible in ((axes.xaxis, x), (axes.yaxis, y)):
            axis.grid(visible=False, which="both")
            if visible:
                axis.grid(visible=True, which="major", color=GRID, linewidth=0.8, linestyle="-")

    # --- the end -------------------------------------------------------------------------------

    def settled(self) -> Figure:
        """Set on every part what it would else read from the caller's rcParams; give the figure."""
        for artist in self.figure.findobj():
            artist.set_path_effects([])
            artist.set_sketch_params(None)
            artist.set_snap(None)
            if isinstance(artist, Text):
                self._settle_text(artist)
            elif isinstance(artist, Line2D):
                artist.set(antialiased=True, solid_capstyle="projecting", dash_capstyle="butt")
            elif isinstance(artist, Patch | Collection):
                artist.set(antialiased=True, capstyle="butt", joinstyle="miter")
        for axes in self.panels:
            for tick in axes.xaxis.get_major_ticks():
                tick.label1.set(ha="center", va="top")
            for tick in axes.yaxis.get_major_ticks():
                tick.label1.set(ha="right", va="center_baseline")
        return self.figure

    def _settle_text(self, text: Text) -> None:
        is_heading = text in self._headings
        font = FontProperties(
            family=list(families()),
            style="normal",
            variant="normal",
            weight="bold" if is_heading else "normal",
            stretch="normal",
            size=text.get_fontsize(),
        )
        # Names are no formulas, whatever dollars and underscores they have.
        text.set(fontproperties=font, usetex=False, parse_math=False, antialiased=True)

    def _neutralise(self, axes: Axes) -> None:
        axes.set(facecolor="white", axisbelow=True)
        axes.set_prop_cycle(color=[MAIN])
        axes.margins(0.02)
        for side, spine in axes.spines.items():
            spine.set(visible=side == "bottom", color=MUTED, linewidth=0.8)
        axes.minorticks_off()
        axes.tick_params(
            axis="both",
            which="both",
            direction="out",
            pad=4 * self._scale,
            length=3.5,
            width=0.8,
            color=MUTED,
            labelcolor=MUTED,
            labelsize=_SIZE * self._scale,
            labelrotation=0,
            labelfontfamily=SANS,
            top=False,
            right=False,
            bottom=True,
            left=False,
            labeltop=False,
            labelright=False,
            labelbottom=True,
            labelleft=True,
            grid_alpha=1.0,
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_offset_text().set(color=MUTED, fontsize=_SIZE * self._scale)
        self.grid(axes, x=False, y=True)


def _counts(axis: Axis) -> Callable[[float], str]:
    """Give an axis's counts one unit."""
    return lambda value: compact(value, beside=max(map(abs, axis.get_view_interval())))


class _Decimals:
    """Gives a tick's number as many decimals as tell it from the next tick's."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis

    def __call__(self, value: float) -> str:
        low, high = self._axis.get_view_interval()
        span = abs(high - low)
        if not _LEAST_SPAN < span < _MOST_SPAN:
            return f"{value:.6g}"
        decimals = max(0, math.ceil(-math.log10(span / 4)))
        text = f"{value:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text


def days(times: Times) -> npt.NDArray[np.float64]:
    """Turn times into the numbers that matplotlib's axes have for them."""
    moments = dates.date2num(_tellable(times))  # type: ignore[no-untyped-call]
    return np.asarray(moments, dtype=np.float64)


def _tellable(times: Times) -> Times:
    tellable: Times = np.clip(times.astype("M8[us]"), _EARLIEST, _LATEST)
    return tellable
