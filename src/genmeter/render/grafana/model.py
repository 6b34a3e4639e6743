"""The model of a dashboard: rows of panels over indicators, and helpers to create panels.

:mod:`genmeter.render.grafana.json` renders it as Grafana's JSON; the reference reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from genmeter.schema import metrics as cat
from genmeter.schema.query import INSTANCE, JOB, LE, DistributionQuery, Selector
from genmeter.schema.sums import DISTRIBUTION_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.schema.indicators import Indicator
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import Function

__all__ = [
    "BAD",
    "GOOD",
    "INTERVAL",
    "RANGE",
    "UNSURE",
    "Dashboard",
    "Kind",
    "Panel",
    "Query",
    "Row",
    "SeriesRef",
    "grouped",
    "head_of",
    "heat_map",
    "label_names",
    "legend_of",
    "lines",
    "matchers_of",
    "over_time",
    "quantile",
    "quantiles",
    "query",
    "rate_panel",
    "ratio_panel",
    "selector_of",
    "share_or_zero",
    "tile",
    "total",
]

Kind = Literal["stat", "gauge", "timeseries", "heatmap", "bargauge", "table"]
INTERVAL = "$__rate_interval"
RANGE = "$__range"
_GRID = 24
_RECORDED = (
    "Distributions of times are those of all instances: rules record them every two minutes, over five; "
    "there are none without these rules."
)


@dataclass(frozen=True, slots=True)
class SeriesRef:
    """A reference to an indicator in a query.

    Args:
        indicator: The indicator.
        window: The window: a duration or a variable of Grafana's.
        function: ``rate`` for a sum per second.
    """

    indicator: Indicator
    window: str = INTERVAL
    function: Function = "increase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of a panel.

    Args:
        series: The indicators that it uses.
        formula: PromQL; ``{0}`` is the first indicator, ``{budget}`` the error budget, ``{process}``
            the labels of a process.
        by: The labels that distinguish its series.
        keep: Labels that the formula consumes, such as a bucket's bound.
        legend: The legend of its series, with labels in double braces; the header of its column in
            a table.
        colour: The colour of its series; None takes the next one of the palette.
        unit: Grafana's unit; None takes the panel's.
        decimals: Decimal places; None leaves it to Grafana.
        has_exemplars: Whether to show exemplars.
    """

    series: tuple[SeriesRef, ...]
    formula: str = "{0}"
    by: tuple[Label | str, ...] = ()
    keep: tuple[str, ...] = ()
    legend: str = ""
    colour: str | None = None
    unit: str | None = None
    decimals: int | None = None
    has_exemplars: bool = False

    def promql(self, selector: Selector, budget: float) -> str:
        """Return it in PromQL.

        Args:
            selector: The series to read.
            budget: The share of calls that may fail, ``{budget}`` in a formula.
        """
        labels = grouped([*self.keep, *label_names(self.by)], selector.group_by)
        parts = [
            ref.indicator.query.promql(labels, ref.window, selector, ref.function)
            for ref in self.series
        ]
        if self.formula == "{0}":
            return parts[0]
        parts = [f"({part})" if "\n" in part else part for part in parts]
        return self.formula.format(*parts, budget=f"{budget:.12g}", process=selector.process)

    def is_recorded(self, selector: Selector) -> bool:
        """Return whether it reads a distribution that a rule records."""
        queries = (ref.indicator.query for ref in self.series)
        return any(
            isinstance(each, DistributionQuery) and each.is_recorded(selector) for each in queries
        )

    def legend_by(self, selector: Selector) -> str:
        """Return its legend, for series with the labels of the selector."""
        if selector.histograms == "native" and self.legend == legend_of(LE):
            return self.series[0].indicator.title  # one series has all buckets
        return self.legend.replace(legend_of(JOB), legend_of(JOB, *selector.group_by))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Args:
        kind: Grafana's panel type.
        queries: The queries.
        title: Its title; the first indicator's by default.
        description: Its description; the first indicator's by default.
        unit: Grafana's unit of its values.
        width: Columns, of 24.
        height: Rows of the grid.
        alerts: Ids of the alerts on its indicator; their thresholds are drawn.
        in_budgets: Whether it shows multiples of the error budget.
        is_fault: Whether its series are faults, which are drawn in shades of red.
        is_change: Whether it shows a rise where its alert is on a drop.
        style: How series over time are drawn.
        axis_min: Lower end of the axis, or of a gauge.
        axis_max: Upper end of the axis, or of a gauge.
        decimals: Decimal places; None leaves it to Grafana.
        is_now: Whether it shows one value for the range, rather than the last one of a line.
        min_interval: The shortest step between two points; ``$__rate_interval`` is longer.
        is_logarithmic: Whether the axis is logarithmic.
        links_to_traces: Whether it has a link to the traces of its calls.
        no_value: What it shows without series.
    """

    kind: Kind
    queries: tuple[Query, ...]
    title: str = ""
    description: str = ""
    unit: str = "short"
    width: int = 8
    height: int = 8
    alerts: tuple[str, ...] = ()
    in_budgets: bool = False
    is_fault: bool = False
    is_change: bool = False
    style: Literal["line", "stack", "bars"] = "line"
    axis_min: float | None = 0
    axis_max: float | None = None
    decimals: int | None = None
    is_now: bool = False
    min_interval: str = "1m"
    is_logarithmic: bool = False
    links_to_traces: bool = False
    no_value: str = "No traffic"

    @property
    def heading(self) -> str:
        """Its title."""
        return self.title or self.queries[0].series[0].indicator.title

    def text(self, selector: Selector) -> str:
        """Return its description, for the series of the selector."""
        text = self.description or self.queries[0].series[0].indicator.description
        return f"{text} {_RECORDED}" if self.is_recorded(selector) else text

    def min_step(self, selector: Selector) -> str:
        """Return the shortest step between two points, for the series of the selector."""
        is_shorter = self.min_interval == "1m" and self.is_recorded(selector)
        return DISTRIBUTION_INTERVAL if is_shorter else self.min_interval

    def is_recorded(self, selector: Selector) -> bool:
        """Return whether it shows distributions that rules record."""
        return any(query.is_recorded(selector) for query in self.queries)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of panels, from left to right; panels that do not fit go below."""

    title: str
    panels: tuple[Panel, ...]

    def places(self) -> list[tuple[int, int]]:
        """Return column and line of each panel, without the line of the title."""
        found, x, y, height = [], 0, 0, 0
        for panel in self.panels:
            if x + panel.width > _GRID:
                x, y, height = 0, y + height, 0
            found.append((x, y))
            x, height = x + panel.width, max(height, panel.height)
        return found

    @property
    def height(self) -> int:
        """The number of lines of its panels."""
        return max(
            y + panel.height for (_, y), panel in zip(self.places(), self.panels, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard.

    Args:
        name: Its file's name without the suffix, and its uid.
        title: Its title.
        description: Its description.
        rows: Its rows.
        span: The start of its default time range.
    """

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    span: str = "now-1h"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All its panels."""
        return tuple(panel for row in self.rows for panel in row.panels)


def label_names(labels: Sequence[Label | str]) -> list[str]:
    """Return the labels' names in Prometheus."""
    return [label if isinstance(label, str) else label.prometheus for label in labels]


def grouped(labels: Sequence[str], group_by: Sequence[str]) -> list[str]:
    """Return labels, with those that distinguish jobs besides the job wherever that is."""
    return [each for name in labels for each in ((name, *group_by) if name == JOB else (name,))]


def selector_of(series: Selector) -> Selector:
    """Return the selector of every panel: that of the settings, and the dashboard's variables."""
    chosen = matchers_of(*series.group_by, JOB, INSTANCE)
    return replace(
        series,
        common=f"{chosen},{series.common}" if series.common else chosen,
        recorded=matchers_of(*series.group_by, JOB),
        by_label={cat.MODEL: '=~"$model"', cat.STEP: '=~"$step"'},
    )


def matchers_of(*names: str) -> str:
    """Return the matchers of variables that have the name of their label."""
    return ",".join(f'{name}=~"${name}"' for name in names)


def query(
    indicator: Indicator, window: str = INTERVAL, *, function: Function = "increase", **style: Any
) -> Query:
    """Return the query of one indicator, with arguments of `SeriesRef` and `Query`."""
    return Query(series=(SeriesRef(indicator, window, function),), **style)


def quantile(
    of: Indicator,
    share: float,
    by: tuple[Label | str, ...] = (),
    *,
    window: str = INTERVAL,
    legend: str = "",
    **style: Any,
) -> Query:
    """Return the query of a quantile such as 0.95 of a histogram's buckets."""
    # Without events the quantile is NaN, which the comparison drops.
    return Query(
        series=(SeriesRef(of, window),),
        formula=f"histogram_quantile({share:g}, {{0}}) >= 0",
        by=by,
        keep=(LE,),
        legend=legend or f"p{share * 100:g}",
        **style,
    )


# --- panels --------------------------------------------------------------------------------------

GOOD, BAD, UNSURE = "green", "red", "orange"
_RATES = {"second": "{0}", "minute": "60 * {0}", "hour": "3600 * {0}"}
_QUANTILES = ((0.5, "light-blue"), (0.95, "blue"), (0.99, "dark-purple"))

HEADS = {
    JOB: "Job",
    INSTANCE: "Instance",
    cat.MODEL.prometheus: "Model",
    cat.RESPONSE_MODEL.prometheus: "Answered by",
    cat.STEP.prometheus: "Step",
    cat.EVALUATOR.prometheus: "Evaluator",
    cat.SCORE_NAME.prometheus: "Score",
    cat.ERROR_TYPE.prometheus: "Error",
    cat.OUTCOME.prometheus: "Outcome",
    cat.SAMPLE_REASON.prometheus: "Reason",
    cat.FINISH_REASON.prometheus: "Finish reason",
    cat.LEVEL.prometheus: "Level",
    cat.METRIC.prometheus: "Metric",
    cat.HANDLER.prometheus: "Handler",
    cat.HANDLER_REASON.prometheus: "Reason",
    cat.OVERFLOWED.prometheus: "Label",
    cat.EXPORTER.prometheus: "Exporter",
    cat.VERSION.prometheus: "Release",
    cat.OTEL_SDK.prometheus: "OpenTelemetry SDK",
}
"""The headers of labels' columns in tables."""


def head_of(name: str) -> str:
    """Return the header of a label's column in a table."""
    return HEADS.get(name) or name.replace("_", " ").capitalize()


def legend_of(*labels: Label | str) -> str:
    """Return a legend of the values of labels."""
    return " ".join(f"{{{{{name}}}}}" for name in label_names(labels))


def total(indicator: Indicator, *by: Label | str, legend: str, **style: Any) -> Query:
    """Return the query of a sum over the range, without zeros."""
    return Query(
        series=(SeriesRef(indicator, RANGE),), formula="{0} > 0", by=by, legend=legend, **style
    )


def lines(*queries: Query, **style: Any) -> Panel:
    """Return a panel of queries over time."""
    return Panel(kind="timeseries", queries=queries, **style)


def tile(query: Query, **style: Any) -> Panel:
    """Return a panel with one value."""
    return Panel(kind="stat", queries=(query,), **{"width": 3, "height": 4, **style})


def over_time(indicator: Indicator, *by: Label | str, **style: Any) -> Panel:
    """Return a panel of an indicator over time, by labels."""
    query = Query(
        series=(SeriesRef(indicator),), by=by, legend=legend_of(*by) if by else indicator.title
    )
    return lines(query, **style)


def rate_panel(
    indicator: Indicator, *by: Label | str, per: Literal["second", "minute", "hour"], **style: Any
) -> Panel:
    """Return a panel of the rate of a sum, stacked by labels."""
    query = Query(
        series=(SeriesRef(indicator, function="rate"),),
        formula=_RATES[per],
        by=by,
        legend=legend_of(*by) if by else indicator.title,
    )
    style = {"title": f"{indicator.title} per {per}", "style": "stack", **style}
    return lines(query, **style)


def share_or_zero(indicator: Indicator, *by: Label | str, legend: str = "") -> Query:
    """Return the query of a share that is 0 until the series of its counter starts."""
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
    """Return a panel of a share over time, in percent.

    Args:
        indicator: The share.
        by: The labels that distinguish its series.
        starts_at_zero: Whether the series of its counter starts at 0 with the first event.
        style: Arguments of `Panel`.
    """
    style = {"unit": "percentunit", **style}
    if starts_at_zero:
        return over_time(indicator, *by, **style)
    title = {"title": indicator.title, **style}
    return lines(share_or_zero(indicator, *by), **title)


def heat_map(indicator: Indicator, **style: Any) -> Panel:
    """Return a heat map of a histogram's buckets, in events a minute."""
    query = Query(
        series=(SeriesRef(indicator, function="rate"),),
        formula=_RATES["minute"],
        keep=(LE,),
        legend=f"{{{{{LE}}}}}",
        has_exemplars=style.pop("has_exemplars", False),
    )
    return Panel(kind="heatmap", queries=(query,), **{"width": 12, **style})


def quantiles(indicator: Indicator, *, has_exemplars: bool = True, **style: Any) -> Panel:
    """Return a panel of the median, the 95th and the 99th percentile over time."""
    queries = [
        # The exemplars belong to the buckets, so one query shows those of all.
        quantile(indicator, share, colour=colour, has_exemplars=has_exemplars and share == 0.99)  # noqa: PLR2004
        for share, colour in _QUANTILES
    ]
    return lines(*queries, **{"width": 12, **style})
