"""From a row of the table to its figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.files.plotting.amounts import (
    draw_distribution,
    draw_quantiles,
    draw_shares,
    draw_sums,
)
from genmeter.files.plotting.over_time import (
    draw_rolling,
    draw_samples,
    draw_scores,
    draw_shares_over_time,
    draw_sums_over_time,
)
from genmeter.files.plotting.table import Form
from genmeter.schema.signals import SIGNALS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genmeter.files.plotting.data import Frames
    from genmeter.files.plotting.table import Plot
    from genmeter.history.samples import Samples

    Size = tuple[float, float]

__all__ = ["figure_of", "metric_figure"]

_OVER_TIME = {
    Form.ROLLING: draw_rolling,
    Form.SHARES_OVER_TIME: draw_shares_over_time,
    Form.SCORES: draw_scores,
}
_BY_GROUP = {
    Form.QUANTILES: draw_quantiles,
    Form.SUMS: draw_sums,
    Form.SHARES: draw_shares,
    Form.SUMS_OVER_TIME: draw_sums_over_time,
}


def figure_of(plot: Plot, frames: Frames, size: Size) -> Figure | None:
    """Draw a row of the table.

    Args:
        plot: The row.
        frames: The history.
        size: Width and height in inches.

    Returns:
        The figure; None where there is nothing to show.
    """
    picture = None
    if plot.form in _OVER_TIME:
        picture = _OVER_TIME[plot.form](plot, frames, size)
    elif plot.by is not None:
        groups = frames.groups(plot.signals, plot.by)
        if groups is not None and len(groups.labels) >= plot.least_groups:
            picture = _BY_GROUP[plot.form](plot, groups, size)
    else:
        for series in frames.series(plot.signals[0]).values():
            picture = draw_distribution(plot, series, size)
    return None if picture is None else picture.settled()


def metric_figure(name: str, samples: Samples, window: int, size: Size) -> Figure:
    """Draw one metric over time.

    Args:
        name: The metric's old name, or what ``record_metric`` was given.
        samples: At least one, in any order.
        window: Samples that the rolling mean spans.
        size: Width and height in inches.
    """
    signal = next((each for each in SIGNALS if each.stands_for(name)), None)
    return draw_samples(name, signal, samples, window, size).settled()
