"""The plots that AfterImage's monitor drew, from the history's samples.

Drawn with matplotlib (the extra ``plots``) on figures that pyplot does not know: the caller's
backend, style and open figures stay as they are. For anything that runs longer than a report,
Grafana is the place to look.
"""

from __future__ import annotations

import contextlib
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genmeter.recorders.history import Samples

__all__ = ["draw_all", "draw_metric", "save"]

_logger = logging.getLogger("genmeter")
_ROLLING = 10
_SCORE = "evaluation_score_"
# Okabe and Ito's palette, which readers who see fewer colours can tell apart:
# https://jfly.uni-koeln.de/color/ (2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GOOD, _BAD = _COLOURS[2], _COLOURS[1]


class _Plot(NamedTuple):
    """One plot: its file's name, what it shows and how."""

    name: str
    title: str
    axis: str
    metrics: tuple[str, ...]
    is_distribution: bool = False


_PLOTS = (
    _Plot(
        "success_error_rate",
        "Success and error share",
        "share of calls",
        ("success_rate", "error_rate"),
    ),
    _Plot("generation_time", "Generation time", "seconds", ("generation_time",), True),
    _Plot("total_token_count", "Tokens a call, in all", "tokens", ("total_token_count",)),
    _Plot("prompt_token_count", "Tokens a call, prompt", "tokens", ("prompt_token_count",)),
    _Plot(
        "completion_token_count",
        "Tokens a call, completion",
        "tokens",
        ("completion_token_count",),
    ),
    _Plot("evaluation_scores", "Evaluation scores", "score", (_SCORE,)),
    _Plot("evaluation_time", "Evaluation time", "seconds", ("evaluation_time",), True),
)
_LABELS = {"success_rate": "success", "error_rate": "error"}
_LABEL_COLOURS = {"success_rate": _GOOD, "error_rate": _BAD}


def draw_all(samples: Mapping[str, Samples], figsize: tuple[float, float]) -> dict[str, Figure]:
    """Draw every plot that there are samples for.

    Args:
        samples: By the metric's old name.
        figsize: Width and height in inches.

    Returns:
        Figures by the plot's name: ``success_error_rate``, ``generation_time``,
        ``total_token_count``, ``prompt_token_count``, ``completion_token_count``,
        ``evaluation_scores`` and ``evaluation_time``.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = {}
    for plot in _PLOTS:
        chosen = {
            name: found
            for name, found in samples.items()
            if len(found.value)
            and (name in plot.metrics or (plot.metrics == (_SCORE,) and name.startswith(_SCORE)))
        }
        if chosen:
            figures[plot.name] = _draw(plot, chosen, figsize)
    return figures


def draw_metric(
    name: str, samples: Samples, *, rolling_window: int, figsize: tuple[float, float]
) -> Figure:
    """Draw one metric over time: every sample, and their rolling mean.

    Args:
        name: The metric's old name.
        samples: Its samples, at least one.
        rolling_window: Samples that a mean spans.
        figsize: Width and height in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(figsize)
    frame = _in_order(samples)
    axes.scatter(frame.index, frame, s=12, alpha=0.25, color=_COLOURS[0], label="samples")
    mean = frame.rolling(rolling_window, min_periods=1).mean()
    axes.plot(mean.index, mean, color=_COLOURS[1], label=f"mean of {rolling_window}")
    _finish(axes, name, name.replace("_", " "))
    return figure


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write figures as PNG files, each beside its place first and renamed then.

    Args:
        figures: By the file's name, without its suffix.
        folder: Where to; made where it is missing.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        target = folder / f"{name}.png"
        beside = folder / f".{name}.{os.getpid()}.png"
        try:
            figure.savefig(beside, dpi=120)
            beside.replace(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()


def _figure(figsize: tuple[float, float]) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="plots", purpose="Drawing a plot") from None
    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.add_subplot()


def _in_order(samples: Samples) -> pd.Series[Any]:
    import pandas as pd  # half of the time that importing genmeter would take

    order = np.argsort(samples.time, kind="stable")
    local = datetime.now().astimezone().tzinfo or UTC
    times = pd.to_datetime(samples.time[order], unit="s", utc=True).tz_convert(local)
    return pd.Series(np.asarray(samples.value[order], dtype=float), index=times)


def _draw(plot: _Plot, samples: Mapping[str, Samples], figsize: tuple[float, float]) -> Figure:
    figure, axes = _figure(figsize)
    for number, (name, found) in enumerate(sorted(samples.items())):
        colour = _LABEL_COLOURS.get(name, _COLOURS[number % len(_COLOURS)])
        if plot.is_distribution:
            axes.hist(found.value, bins="auto", color=colour, edgecolor="white", linewidth=0.4)
            continue
        mean = _in_order(found).rolling(_ROLLING, min_periods=1).mean()
        label = _LABELS.get(name, name.removeprefix(_SCORE).replace("_", " "))
        axes.plot(mean.index, mean, color=colour, linewidth=1.6, label=label)
    if plot.is_distribution:
        axes.set_title(plot.title, loc="left", fontweight="bold")
        axes.set_xlabel(plot.axis)
        axes.set_ylabel("calls")
        axes.spines[["top", "right"]].set_visible(False)
        return figure
    if plot.axis == "share of calls":
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    _finish(axes, f"{plot.title} (rolling mean of {_ROLLING})", plot.axis)
    if len(samples) == 1:
        legend = axes.get_legend()
        if legend is not None:
            legend.remove()
    return figure


def _finish(axes: Axes, title: str, axis: str) -> None:
    from matplotlib.dates import ConciseDateFormatter

    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_ylabel(axis)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    locator = axes.xaxis.get_major_locator()
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
