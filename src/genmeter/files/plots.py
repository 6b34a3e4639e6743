"""The plots of ``visualize_metrics`` and ``plot_metric``: AfterImage's seven, and some by model.

Drawn with matplotlib (the extra ``plots``) on figures that pyplot does not know: the caller's
backend, style and open figures stay as they are, and a figure that nobody keeps is gone. For
anything that runs longer than a report, Grafana is the place to look.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError, MissingExtraError
from genmeter.files.atomic import AtomicFiles
from genmeter.files.plotting.data import Frames
from genmeter.files.plotting.table import PLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

    from matplotlib.figure import Figure

    from genmeter.history.series import Samples
    from genmeter.history.snapshot import Snapshot

__all__ = ["draw_all", "draw_metric", "save"]

_DPI = 120


def draw_all(snapshot: Snapshot, figsize: tuple[float, float]) -> dict[str, Figure]:
    """Draw every plot that there is something for.

    The first seven are AfterImage's, over every ``track_generation``, conversations included, and
    the samples that ``record_metric`` was given under the same names; the others look at calls of
    models only. A plot by model is there where two models or more are; it tells the eight largest
    apart and pools the rest.

    Args:
        snapshot: What the history keeps.
        figsize: Width and height in inches.

    Returns:
        Figures by the plot's name: ``success_error_rate``, ``generation_time``,
        ``total_token_count``, ``prompt_token_count``, ``completion_token_count``,
        ``evaluation_scores``, ``evaluation_time``, ``generation_time_by_model``,
        ``outcomes_by_model``, ``tokens_by_model``, ``tokens_over_time_by_model`` and
        ``errors_by_type``.

    Raises:
        ConfigError: ``figsize`` is no size.
        MissingExtraError: matplotlib is not installed.
    """
    drawing = _drawing()
    _check_size(figsize)
    frames = Frames(snapshot)
    figures = {plot.name: drawing.figure_of(plot, frames, figsize) for plot in PLOTS}
    return {name: figure for name, figure in figures.items() if figure is not None}


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
        ConfigError: ``figsize`` is no size.
        MissingExtraError: matplotlib is not installed.
    """
    drawing = _drawing()
    _check_size(figsize)
    figure: Figure = drawing.metric_figure(name, samples, rolling_window, figsize)
    return figure


def save(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write figures as PNG files, all or none: each beside its place, renamed when all are there.

    Args:
        figures: By the file's name, without its suffix.
        folder: Where to; made where it is missing.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with AtomicFiles() as files:
        for name, figure in figures.items():
            # A style of the caller's, such as a tight box or a transparent ground, is not ours.
            figure.savefig(
                files.stage(folder / f"{name}.png"),
                format="png",
                dpi=_DPI,
                facecolor="white",
                edgecolor="white",
                transparent=False,
                bbox_inches=figure.bbox_inches,
            )


def _check_size(figsize: Any) -> None:
    try:
        width, height = map(float, figsize[:2])
    except (TypeError, ValueError):
        width = height = math.nan
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ConfigError(f"figsize is {figsize!r}; give width and height in inches, more than 0")


def _drawing() -> ModuleType:
    """Import what draws, which imports matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401 - alone, so that no other failure looks like its lack
    except ImportError:
        raise MissingExtraError("matplotlib", extra="plots", purpose="Drawing a plot") from None
    from genmeter.files.plotting import drawing

    return drawing
