"""From a row of the table to Grafana's JSON of a panel.

The only importers of grafana-foundation-sdk are this module and its neighbours
:mod:`genmeter.render.grafana.fields` and :mod:`genmeter.render.grafana.frame`. Its models are
used, whose enumerations and fields a type checker knows; they check nothing when they are built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from grafana_foundation_sdk.models import (
    bargauge,
    common,
    gauge,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import dashboard as models

from genmeter.render.grafana.fields import field_config
from genmeter.render.grafana.model import label_names
from genmeter.render.grafana.parts import HEADS
from genmeter.schema.metrics import MODEL

if TYPE_CHECKING:
    from genmeter.config.alerts import AlertSettings
    from genmeter.render.grafana.model import Panel, Query
    from genmeter.schema.query import Selector

__all__ = ["DATA_SOURCE", "TRACES", "target", "to_panel"]

DATA_SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
TRACES = "traces"
"""The variable of the data source that has the traces."""
_EXPLORE = "/explore?schemaVersion=1&panes="
_TRACE_QUERY = (
    '{{"genmeter":{{"datasource":"${{{traces}}}","queries":[{{"refId":"A","datasource":'
    '{{"type":"tempo","uid":"${{{traces}}}"}},"queryType":"traceql","query":'
    '"{{ span.{model} =~ \\"${{model:pipe}}\\" }}"}}],'
    '"range":{{"from":"${{__from}}","to":"${{__to}}"}}}}}}'
)
_VARIABLES = (f"${{{TRACES}}}", "${model:pipe}", "${__from}", "${__to}")


def to_panel(
    panel: Panel,
    id_: int,
    place: models.GridPos,
    settings: AlertSettings,
    selector: Selector,
) -> models.Panel:
    """Make a panel.

    Args:
        panel: What it is.
        id_: Its id in the dashboard.
        place: Where it is.
        settings: The alerts whose thresholds are drawn.
        selector: Which series its queries ref.
    """
    return models.Panel(
        type_val=panel.kind,
        id_val=id_,
        title=panel.heading,
        description=panel.text,
        datasource=DATA_SOURCE,
        grid_pos=place,
        interval=panel.min_interval,
        targets=_targets(panel, settings, selector),
        links=[_traces_link()] if panel.links_to_traces else None,
        transformations=_joined(panel) if panel.kind == "table" else None,
        options=_options(panel),
        field_config=field_config(panel, settings),
    )


def target(expr: str, ref: str, **more: Any) -> prometheus.Dataquery:
    """Make a query of the dashboard's data source."""
    return prometheus.Dataquery(datasource=DATA_SOURCE, expr=expr, ref_id=ref, **more)


def _targets(panel: Panel, settings: AlertSettings, selector: Selector) -> list[Any]:
    # As it is written, not as it is computed: 1 - 0.99 is not quite 0.01.
    budget = float(f"{1 - settings.objective:.12g}")
    return [
        target(
            query.promql(selector, budget),
            chr(ord("A") + number),
            **_form(panel, query),
        )
        for number, query in enumerate(panel.queries)
    ]


def _form(panel: Panel, query: Query) -> dict[str, Any]:
    formats = {
        "table": prometheus.PromQueryFormat.TABLE,
        "heatmap": prometheus.PromQueryFormat.HEATMAP,
    }
    form: dict[str, Any] = {
        "format_val": formats.get(panel.kind, prometheus.PromQueryFormat.TIME_SERIES),
        "instant": panel.is_now,
        "range_val": not panel.is_now,
    }
    if panel.kind != "table":
        form["legend_format"] = query.legend
    if query.has_exemplars:
        form["exemplar"] = True
    return form


def _options(panel: Panel) -> object:
    match panel.kind:
        case "stat":
            return stat.Options(
                # A line behind a tile of this size runs through its figure.
                graph_mode=common.BigValueGraphMode.NONE,
                color_mode=common.BigValueColorMode.VALUE,
                justify_mode=common.BigValueJustifyMode.AUTO,
                text_mode=common.BigValueTextMode.VALUE,
                orientation=common.VizOrientation.AUTO,
                reduce_options=_last(),
            )
        case "gauge":
            return gauge.Options(
                orientation=common.VizOrientation.AUTO,
                show_threshold_markers=False,
                reduce_options=_last(),
            )
        case "bargauge":
            return bargauge.Options(
                display_mode=common.BarGaugeDisplayMode.BASIC,
                value_mode=common.BarGaugeValueMode.TEXT,
                name_placement=common.BarGaugeNamePlacement.LEFT,
                orientation=common.VizOrientation.HORIZONTAL,
                min_viz_height=16,
                max_viz_height=32,
                legend=_legend(is_shown=False),
                reduce_options=_last(),
            )
        case "timeseries":
            return timeseries.Options(
                legend=_legend(is_shown=len(panel.queries) > 1 or bool(panel.queries[0].by)),
                tooltip=common.VizTooltipOptions(
                    mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING
                ),
            )
        case "heatmap":
            return _heat(panel)
        case "table":
            first = panel.queries[0].legend
            return table.Options(
                cell_height=common.TableCellHeight.SM,
                sort_by=[common.TableSortByFieldState(display_name=first, desc=True)],
            )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields="")


def _legend(*, is_shown: bool) -> common.VizLegendOptions:
    return common.VizLegendOptions(
        display_mode=common.LegendDisplayMode.LIST,
        placement=common.LegendPlacement.BOTTOM,
        show_legend=is_shown,
        calcs=[],
    )


def _heat(panel: Panel) -> heatmap.Options:
    return heatmap.Options(
        calculate=False,
        cell_gap=1,
        color=heatmap.HeatmapColorOptions(
            mode=heatmap.HeatmapColorMode.SCHEME,
            scheme="Blues",
            fill="blue",
            scale=heatmap.HeatmapColorScale.EXPONENTIAL,
            exponent=0.5,
            steps=64,
        ),
        filter_values=heatmap.FilterValueRange(le=1e-9),
        cell_values=heatmap.CellValues(unit="short", decimals=0),
        y_axis=heatmap.YAxisConfig(
            unit=panel.unit, axis_placement=common.AxisPlacement.LEFT, reverse=False
        ),
        legend=heatmap.HeatmapLegend(show=True),
        tooltip=heatmap.HeatmapTooltip(
            mode=common.TooltipDisplayMode.SINGLE, y_histogram=False, show_color_scale=True
        ),
        exemplars=heatmap.ExemplarConfig(color="rgba(255,120,0,0.8)"),
    )


def _joined(panel: Panel) -> list[models.DataTransformerConfig]:
    """Join the answers of a table's queries into one table, with words at its head."""
    by = label_names(panel.queries[0].by)
    values = ["Value"] if len(panel.queries) == 1 else _value_names(panel)
    names = dict(zip(values, (query.legend for query in panel.queries), strict=True))
    heads = {name: HEADS[name] for name in by}
    order = {name: number for number, name in enumerate([*by, *values])}
    return [
        models.DataTransformerConfig(id_val="merge", options={}),
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": order,
                "renameByName": {**heads, **names},
            },
        ),
    ]


def _value_names(panel: Panel) -> list[str]:
    return [f"Value #{chr(ord('A') + number)}" for number in range(len(panel.queries))]


def _traces_link() -> models.DashboardLink:
    pane = _TRACE_QUERY.format(traces=TRACES, model=MODEL.key)
    url = _EXPLORE + quote(pane, safe="")
    for variable in _VARIABLES:
        url = url.replace(quote(variable, safe=""), variable)
    return models.DashboardLink(
        title="Traces of these calls",
        type_val=models.DashboardLinkType.LINK,
        url=url,
        target_blank=True,
        keep_time=False,
    )
