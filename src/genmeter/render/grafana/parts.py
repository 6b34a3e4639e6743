"""Panels that several dashboards have, and the words and colours that they share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from genmeter.render.grafana.model import INSTANCE, LE, RANGE, Panel, Query, SeriesRef, quantile
from genmeter.schema.metrics import (
    ERROR_TYPE,
    EVALUATOR,
    EXPORTER,
    FINISH_REASON,
    HANDLER,
    HANDLER_REASON,
    LEVEL,
    METRIC,
    MODEL,
    OTEL_SDK,
    OUTCOME,
    OVERFLOWED,
    SAMPLE_REASON,
    SCORE_NAME,
    STEP,
    VERSION,
    Label,
)
from genmeter.schema.query import JOB

if TYPE_CHECKING:
    from genmeter.schema.indicators import Indicator

__all__ = [
    "BAD",
    "GOOD",
    "HEADS",
    "UNSURE",
    "heat_map",
    "legend_of",
    "over_time",
    "quantiles",
    "rate_panel",
    "ratio_panel",
    "share_or_zero",
    "tile",
    "total",
]

GOOD, BAD, UNSURE = "green", "red", "orange"
_PACES = {"second": "{0}", "minute": "60 * {0}", "hour": "3600 * {0}"}
_QUANTILES = ((0.5, "light-blue"), (0.95, "blue"), (0.99, "dark-purple"))

HEADS = {
    JOB: "Job",
    INSTANCE: "Instance",
    MODEL.prometheus: "Model",
    STEP.prometheus: "Step",
    EVALUATOR.prometheus: "Evaluator",
    SCORE_NAME.prometheus: "Score",
    ERROR_TYPE.prometheus: "Error",
    OUTCOME.prometheus: "Outcome",
    SAMPLE_REASON.prometheus: "Reason",
    FINISH_REASON.prometheus: "Finish reason",
    LEVEL.prometheus: "Level",
    METRIC.prometheus: "Metric",
    HANDLER.prometheus: "Handler",
    HANDLER_REASON.prometheus: "Reason",
    OVERFLOWED.prometheus: "Label",
    EXPORTER.prometheus: "Exporter",
    VERSION.prometheus: "Release",
    OTEL_SDK.prometheus: "OpenTelemetry SDK",
}
"""What the column of a label is called in a table."""


def legend_of(*labels: Label | str) -> str:
    """Write a legend of labels' values alone."""
    names = (label if isinstance(label, str) else label.prometheus for label in labels)
    return " ".join(f"{{{{{name}}}}}" for name in names)


def total(indicator: Indicator, *by: Label | str, legend: str, **style: Any) -> Query:
    """Give the query of what a sum comes to over the range, where it comes to anything."""
    return Query(
        series=(SeriesRef(indicator, RANGE),), formula="{0} > 0", by=by, legend=legend, **style
    )


def tile(query: Query, **style: Any) -> Panel:
    """Give a panel with one value."""
    return Panel(kind="stat", queries=(query,), **{"width": 3, "height": 4, **style})


def over_time(indicator: Indicator, *by: Label | str, **style: Any) -> Panel:
    """Give a panel of a indicator over time, a series for each value of the labels."""
    query = Query(
        series=(SeriesRef(indicator),), by=by, legend=legend_of(*by) if by else indicator.title
    )
    return Panel(kind="timeseries", queries=(query,), **style)


def rate_panel(
    indicator: Indicator, *by: Label | str, per: Literal["second", "minute", "hour"], **style: Any
) -> Panel:
    """Give a panel of what a sum grows by in a span of time, stacked by the labels' values."""
    query = Query(
        series=(SeriesRef(indicator, function="rate"),),
        formula=_PACES[per],
        by=by,
        legend=legend_of(*by) if by else indicator.title,
    )
    style = {"title": f"{indicator.title} per {per}", "style": "stack", **style}
    return Panel(kind="timeseries", queries=(query,), **style)


def share_or_zero(indicator: Indicator, *by: Label | str, legend: str = "") -> Query:
    """Give the query of a share whose counter is born with the first of its kind: 0 before."""
    whole = replace(indicator, query=indicator.query.parts[-1])
    return Query(
        series=(SeriesRef(indicator), SeriesRef(whole)),
        formula="{0} or 0 * ({1} > 0)",
        by=by,
        legend=legend or (legend_of(*by) if by else indicator.title),
    )


def ratio_panel(
    indicator: Indicator, *by: Label | str, starts_at_zero: bool = True, **style: Any
) -> Panel:
    """Give a panel of a share over time, in percent.

    Args:
        indicator: The share.
        by: The labels that tell its series apart.
        starts_at_zero: Whether its counter is there from the first event on, as 0.
        style: As in `Panel`.
    """
    style = {"unit": "percentunit", **style}
    if starts_at_zero:
        return over_time(indicator, *by, **style)
    title = {"title": indicator.title, **style}
    return Panel(kind="timeseries", queries=(share_or_zero(indicator, *by),), **title)


def heat_map(indicator: Indicator, **style: Any) -> Panel:
    """Give a heat map of a histogram's buckets."""
    query = Query(
        series=(SeriesRef(indicator),),
        keep=(LE,),
        legend=f"{{{{{LE}}}}}",
        has_exemplars=style.pop("has_exemplars", False),
    )
    return Panel(kind="heatmap", queries=(query,), **{"width": 12, **style})


def quantiles(indicator: Indicator, *, has_exemplars: bool = True, **style: Any) -> Panel:
    """Give a panel of the median, the 95th and the 99th percentile over time."""
    queries = tuple(
        # The exemplars of one query are those of all: they are the buckets'.
        quantile(indicator, share, colour=colour, has_exemplars=has_exemplars and share == 0.99)  # noqa: PLR2004
        for share, colour in _QUANTILES
    )
    return Panel(kind="timeseries", queries=queries, **{"width": 12, **style})
