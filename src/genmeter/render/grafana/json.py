"""Renders the tables of panels as Grafana's JSON, with the typed models of grafana-foundation-sdk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from grafana_foundation_sdk.cog.encoder import JSONEncoder
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

from genmeter.render.grafana.model import (
    BAD,
    GOOD,
    UNSURE,
    grouped,
    head_of,
    label_names,
    legend_of,
    matchers_of,
    selector_of,
)
from genmeter.schema import indicators as ind
from genmeter.schema import metrics as cat
from genmeter.schema.metrics import LEVEL, MODEL, OUTCOME, STEP
from genmeter.schema.query import INSTANCE, JOB

if TYPE_CHECKING:
    from genmeter.config.alerts import AlertSettings
    from genmeter.render.grafana.model import Dashboard, Panel
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import Selector

__all__ = ["to_json"]


# --- a dashboard ---------------------------------------------------------------------------------

_TAG = "genmeter"
_REFRESH = "30s"
_WIDTH = 24
_IDS_PER_ROW = 100
_ALL = ".+"
_ALL_OR_NONE = ".*"


def to_json(dashboard: Dashboard, settings: AlertSettings) -> str:
    """Return a dashboard as JSON.

    Args:
        dashboard: The dashboard.
        settings: The alerts whose thresholds are drawn, and the matchers of every query.
    """
    has_traces = any(panel.links_to_traces for panel in dashboard.panels)
    title = f"{dashboard.title} ({settings.suffix})" if settings.suffix else dashboard.title
    document = models.Dashboard(
        uid=uid_of(dashboard.name, settings),
        title=title,
        description=dashboard.description,
        tags=[uid_of(_TAG, settings)],
        editable=False,
        graph_tooltip=models.DashboardCursorSync.CROSSHAIR,
        time=models.DashboardDashboardTime(from_val=dashboard.span, to="now"),
        timepicker=models.TimePickerConfig(),
        refresh=_REFRESH,
        panels=list(_panels(dashboard, settings)),
        templating=models.DashboardDashboardTemplating(
            list_val=_variables(settings.series, has_traces=has_traces)
        ),
        annotations=models.AnnotationContainer(list_val=_annotations(settings)),
        links=[_link(settings)],
    )
    filled = json.loads(JSONEncoder().encode(document))
    return json.dumps(_drop_placement(filled), indent=2, ensure_ascii=False) + "\n"


def uid_of(name: str, settings: AlertSettings) -> str:
    """Return a name that differs from those of other renderings."""
    return f"{name}-{settings.suffix}" if settings.suffix else name


def _drop_placement(part: Any) -> Any:
    """Drop the placement of links and annotations: the SDK puts all of them into a closed menu."""
    if isinstance(part, dict):
        return {key: _drop_placement(value) for key, value in part.items() if key != "placement"}
    return [_drop_placement(each) for each in part] if isinstance(part, list) else part


def _panels(dashboard: Dashboard, settings: AlertSettings) -> list[models.Panel | models.RowPanel]:
    selector = selector_of(settings.series)
    found: list[models.Panel | models.RowPanel] = []
    line = 0
    for number, row in enumerate(dashboard.rows, start=1):
        id_ = number * _IDS_PER_ROW
        position = models.GridPos(x=0, y=line, w=_WIDTH, h=1)
        found.append(models.RowPanel(title=row.title, id_val=id_, grid_pos=position, panels=[]))
        line += 1
        for panel, (x, y) in zip(row.panels, row.places(), strict=True):
            id_ += 1
            position = models.GridPos(x=x, y=line + y, w=panel.width, h=panel.height)
            found.append(_to_panel(panel, id_, position, settings, selector))
        line += row.height
    return found


def _variables(series: Selector, *, has_traces: bool) -> list[models.VariableModel]:
    def of(metric: str, *names: str) -> str:
        matchers = [each for each in (matchers_of(*names), series.common) if each]
        return f"{metric}{{{','.join(matchers)}}}" if matchers else metric

    info, groups = cat.BUILD_INFO.prometheus, series.group_by
    # Models that only fail have no tokens; models that only evaluate have no generations.
    names = f"{cat.GENERATIONS.prometheus}|{cat.TOTAL_TOKENS.prometheus}"
    chosen = matchers_of(*groups, JOB, INSTANCE)
    matchers = [f'__name__=~"{names}"', chosen, *([series.common] if series.common else [])]
    of_job = ",".join(matchers)
    by_model = f'{of_job},{cat.MODEL.prometheus}=~"$model"'
    found = [
        _data_source("datasource", "Data source", "prometheus"),
        # Series may lack a label of their target, or calls a step; "All" must include them.
        *(
            _values(name, head_of(name), of(info, *groups[:number]), name, _ALL_OR_NONE)
            for number, name in enumerate(groups)
        ),
        _values(JOB, "Job", of(info, *groups), JOB, _ALL_OR_NONE),
        _values(INSTANCE, "Instance", of(info, *groups, JOB), INSTANCE, _ALL_OR_NONE),
        _values("model", "Model", f"{{{of_job}}}", cat.MODEL),
        _values("step", "Step", f"{{{by_model}}}", cat.STEP, _ALL_OR_NONE),
    ]
    return found + ([_data_source(_TRACES, "Traces", "tempo")] if has_traces else [])


def _data_source(name: str, label: str, plugin: str) -> models.VariableModel:
    return models.VariableModel(
        type_val=models.VariableType.DATASOURCE,
        name=name,
        label=label,
        query=plugin,
        refresh=models.VariableRefresh.ON_DASHBOARD_LOAD,
        options=[],
    )


def _values(
    name: str, label: str, series: str, of: Label | str, everything: str = _ALL
) -> models.VariableModel:
    key = of if isinstance(of, str) else of.prometheus
    query = f"label_values({series}, {key})"
    return models.VariableModel(
        type_val=models.VariableType.QUERY,
        name=name,
        label=label,
        datasource=_DATA_SOURCE,
        query={
            "qryType": 1,
            "query": query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        definition=query,
        multi=True,
        include_all=True,
        all_value=everything,
        current=models.VariableOption(selected=True, text="All", value="$__all"),
        refresh=models.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=models.VariableSort.ALPHABETICAL_ASC,
        options=[],
    )


def _annotations(settings: AlertSettings) -> list[models.AnnotationQuery]:
    series = settings.series
    matchers = matchers_of(*series.group_by, JOB) + (f",{series.common}" if series.common else "")
    names = "|".join(dict.fromkeys(rule.name for rule in settings.rules()))
    (counter,) = ind.EVENTS.query.parts
    events = counter.series(selector_of(series))
    firing = f'ALERTS{{alertstate="firing",alertname=~"{names}",{matchers}}}'
    job = legend_of(JOB, *series.group_by)
    restarts = f"sum by ({series.process}) (resets({events}[5m])) > 0"
    return [
        models.AnnotationQuery(
            name=name,
            datasource=_DATA_SOURCE,
            enable=True,
            icon_color=colour,
            expr=expr,
            title_format=title,
            text_format=text,
            step="60s",
        )
        for name, colour, expr, title, text in (
            (
                *("Alerts", "red", firing, "{{alertname}}"),
                f"{legend_of('severity')}, {job} {legend_of(cat.MODEL)}",
            ),
            ("Restarts", "light-blue", restarts, "Restart", f"{job} {legend_of(INSTANCE)}"),
        )
    ]


def _link(settings: AlertSettings) -> models.DashboardLink:
    return models.DashboardLink(
        title="genmeter",
        type_val=models.DashboardLinkType.DASHBOARDS,
        icon="external link",
        tags=[uid_of(_TAG, settings)],
        include_vars=True,
        keep_time=True,
    )


# --- a panel -------------------------------------------------------------------------------------

_DATA_SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
_TRACES = "traces"
"""The variable of the data source of traces."""
_EXPLORE = "/explore?schemaVersion=1&panes="
_TRACE_QUERY = (
    '{{"genmeter":{{"datasource":"${{{traces}}}","queries":[{{"refId":"A","datasource":'
    '{{"type":"tempo","uid":"${{{traces}}}"}},"queryType":"traceql","query":'
    '"{{ span.{model} =~ \\"${{model:pipe}}\\" }}"}}],'
    '"range":{{"from":"${{__from}}","to":"${{__to}}"}}}}}}'
)
_FORMATS: dict[str, prometheus.PromQueryFormat] = {
    "table": prometheus.PromQueryFormat.TABLE,
    "heatmap": prometheus.PromQueryFormat.HEATMAP,
}
_VARIABLES = (f"${{{_TRACES}}}", "${model:pipe}", "${__from}", "${__to}")


def _to_panel(
    panel: Panel, id_: int, position: models.GridPos, settings: AlertSettings, selector: Selector
) -> models.Panel:
    return models.Panel(
        type_val=panel.kind,
        id_val=id_,
        title=panel.heading,
        description=panel.text(selector),
        datasource=_DATA_SOURCE,
        grid_pos=position,
        interval=panel.min_step(selector),
        targets=_targets(panel, settings, selector),
        links=[_traces_link()] if panel.links_to_traces else None,
        transformations=_joined(panel, settings) if panel.kind == "table" else None,
        options=_options(panel),
        field_config=_field_config(panel, settings),
    )


def _targets(panel: Panel, settings: AlertSettings, selector: Selector) -> list[Any]:
    # Rounded, since 1 - 0.99 is not quite 0.01 in binary.
    budget = float(f"{1 - settings.objective:.12g}")
    return [
        prometheus.Dataquery(
            datasource=_DATA_SOURCE,
            expr=query.promql(selector, budget),
            ref_id=chr(ord("A") + number),
            format_val=_FORMATS.get(panel.kind, prometheus.PromQueryFormat.TIME_SERIES),
            instant=panel.is_now,
            range_val=not panel.is_now,
            legend_format=(query.legend_by(selector) if panel.kind != "table" else None),
            # Recorded series have none.
            exemplar=True if query.has_exemplars and not query.is_recorded(selector) else None,
        )
        for number, query in enumerate(panel.queries)
    ]


def _options(panel: Panel) -> object:
    match panel.kind:
        case "stat":
            return stat.Options(
                # A graph would overlap the number in a tile of this size.
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
                # By itself the text of a few bars gets so large that names are cut.
                text=common.VizTextDisplayOptions(title_size=14, value_size=20),
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
        cell_values=heatmap.CellValues(unit="short", decimals=1),
        y_axis=heatmap.YAxisConfig(
            unit=panel.unit, axis_placement=common.AxisPlacement.LEFT, reverse=False
        ),
        legend=heatmap.HeatmapLegend(show=True),
        tooltip=heatmap.HeatmapTooltip(
            mode=common.TooltipDisplayMode.SINGLE, y_histogram=False, show_color_scale=True
        ),
        exemplars=heatmap.ExemplarConfig(color="rgba(255,120,0,0.8)"),
    )


def _joined(panel: Panel, settings: AlertSettings) -> list[models.DataTransformerConfig]:
    """Join the results of a table's queries into one table, with readable headers."""
    by = grouped(label_names(panel.queries[0].by), settings.group_by)
    numbers = range(len(panel.queries))
    values = [f"Value #{chr(ord('A') + each)}" for each in numbers] if numbers[1:] else ["Value"]
    names = dict(zip(values, (query.legend for query in panel.queries), strict=True))
    heads = {name: head_of(name) for name in by}
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


def _traces_link() -> models.DashboardLink:
    pane = _TRACE_QUERY.format(traces=_TRACES, model=MODEL.key)
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


# --- the values of a panel -----------------------------------------------------------------------

# In a table with rows: calls without a step, models without a price.
_NO_NAME = "none"
_NO_NUMBER = "-"
_SEVERITIES = {"critical": BAD, "warning": UNSURE, "info": "blue"}
_PLAIN = "blue"
_JUST_ABOVE_ZERO = 1e-9
_MEANINGS = {
    OUTCOME.prometheus: {
        "success": GOOD,
        "failure": BAD,
        "cancelled": UNSURE,
        "accepted": GOOD,
        "rejected": BAD,
    },
    LEVEL.prometheus: {"error": BAD, "warning": UNSURE, "info": _PLAIN},
}
"""The colours of good and bad values, by label."""
_LINKED = {MODEL.prometheus: "model", STEP.prometheus: "step", JOB: "job"}


def _field_config(panel: Panel, settings: AlertSettings) -> models.FieldConfigSource:
    rules = [rule for rule in settings.rules() if rule.id in panel.alerts]
    return models.FieldConfigSource(
        defaults=models.FieldConfig(
            unit=panel.unit,
            decimals=panel.decimals,
            min_val=panel.axis_min if panel.kind not in ("table", "heatmap") else None,
            max_val=panel.axis_max,
            color=_colour(panel, rules),
            thresholds=_thresholds(panel, rules, settings),
            no_value=panel.no_value,
            mappings=[_nothing(panel)] if panel.kind in ("stat", "gauge") else None,
            custom=_custom(panel, rules, settings),
        ),
        overrides=_overrides(panel, settings),
    )


def _colour(panel: Panel, rules: list[AlertRule]) -> models.FieldColor:
    modes = models.FieldColorModeId
    if panel.is_fault:
        return models.FieldColor(mode=modes.SHADES, fixed_color=BAD)
    if panel.kind in ("timeseries", "heatmap", "bargauge"):
        # By order: the palette by name would give similar colours to several models.
        return models.FieldColor(mode=modes.PALETTE_CLASSIC)
    if rules or panel.in_budgets or panel.kind == "table":
        return models.FieldColor(mode=modes.THRESHOLDS)
    return models.FieldColor(mode=modes.FIXED, fixed_color=_PLAIN)


def _nothing(panel: Panel) -> models.SpecialValueMap:
    """Show missing values in a neutral colour, not in the first step's."""
    return models.SpecialValueMap(
        options=models.DashboardSpecialValueMapOptions(
            match=models.SpecialValueMatch.NULL_AND_NAN,
            result=models.ValueMappingResult(text=panel.no_value, color="text", index=0),
        )
    )


def _thresholds(
    panel: Panel, rules: list[AlertRule], settings: AlertSettings
) -> models.ThresholdsConfig:
    steps: list[tuple[float | None, str]] = [(None, GOOD if rules else "text")]
    if panel.kind == "gauge" and panel.in_budgets:
        steps = [(None, BAD), (0.0, UNSURE), (0.25, GOOD)]
    for rule in rules:
        colour, value = _SEVERITIES[rule.severity], _drawn_at(panel, rule, settings)
        if panel.kind == "timeseries":
            if value:
                steps.append((value, colour))
        elif rule.condition.is_lower_bound:
            steps[0] = (None, colour)
            steps.append((value, GOOD))
        else:
            steps.append((value or _JUST_ABOVE_ZERO, colour))
    steps.sort(key=lambda step: (step[0] is not None, step[0]))
    return models.ThresholdsConfig(
        mode=models.ThresholdsMode.ABSOLUTE,
        steps=[models.Threshold(value=value, color=colour) for value, colour in steps],
    )


def _drawn_at(panel: Panel, rule: AlertRule, settings: AlertSettings) -> float:
    value = rule.condition.limit
    if panel.in_budgets:
        value /= 1 - settings.objective
    # Rounded, since the division is not exact in binary.
    return float(f"{-value if panel.is_change else value:.12g}")


def _custom(panel: Panel, rules: list[AlertRule], settings: AlertSettings) -> object | None:
    match panel.kind:
        case "timeseries":
            return _drawing(
                panel, [at for rule in rules if (at := _drawn_at(panel, rule, settings))]
            )
        case "heatmap":
            return heatmap.FieldConfig(
                scale_distribution=common.ScaleDistributionConfig(
                    type_val=common.ScaleDistribution.LINEAR
                ),
                hide_from=common.HideSeriesConfig(),
            )
        case "table":
            return table.FieldConfig(
                align=common.FieldTextAlignment.AUTO, min_width=90, inspect=False
            )
        case _:
            return None


def _drawing(panel: Panel, lines: list[float]) -> timeseries.FieldConfig:
    styles = common.GraphDrawStyle
    is_stack = panel.style in ("stack", "bars")
    fills = {"line": 6, "stack": 40, "bars": 80}
    line_styles = common.GraphThresholdsStyleMode
    return timeseries.FieldConfig(
        draw_style=styles.BARS if panel.style == "bars" else styles.LINE,
        line_width=0 if panel.style == "bars" else 1.5,
        line_interpolation=common.LineInterpolation.LINEAR,
        fill_opacity=fills[panel.style],
        gradient_mode=common.GraphGradientMode.NONE,
        # A single point is not visible as a line.
        show_points=common.VisibilityMode.AUTO,
        point_size=3,
        span_nulls=False,
        stacking=common.StackingConfig(
            mode=common.StackingMode.NORMAL if is_stack else common.StackingMode.NONE, group="A"
        ),
        axis_placement=common.AxisPlacement.AUTO,
        # So that the nearest threshold is visible.
        axis_soft_min=min((at for at in lines if at < 0), default=None),
        axis_soft_max=min((abs(at) for at in lines), default=None),
        scale_distribution=(
            common.ScaleDistributionConfig(type_val=common.ScaleDistribution.LOG, log=2)
            if panel.is_logarithmic
            else common.ScaleDistributionConfig(type_val=common.ScaleDistribution.LINEAR)
        ),
        thresholds_style=common.GraphThresholdsStyleConfig(
            mode=line_styles.DASHED if lines else line_styles.OFF
        ),
    )


# --- overrides: one colour, one column ---------------------------------------------------------


def _overrides(
    panel: Panel, settings: AlertSettings
) -> list[models.DashboardFieldConfigSourceOverrides]:
    if panel.kind == "table":
        return _columns(panel, settings)
    fixed = {query.legend: query.colour for query in panel.queries if query.colour is not None}
    for label in label_names(panel.queries[0].by):
        fixed |= _MEANINGS.get(label, {})
    return [
        _override(name, {"color": {"mode": "fixed", "fixedColor": colour}})
        for name, colour in fixed.items()
    ]


def _columns(
    panel: Panel, settings: AlertSettings
) -> list[models.DashboardFieldConfigSourceOverrides]:
    found = []
    linked = {**_LINKED, **{name: name for name in settings.group_by}}
    for label in grouped(label_names(panel.queries[0].by), settings.group_by):
        properties: dict[str, Any] = {"noValue": _NO_NAME}
        if label in linked:
            url = _overview(linked[label], settings)
            properties["links"] = [{"title": f"Show this {linked[label]} only", "url": url}]
        found.append(_override(head_of(label), properties))
    for query in panel.queries:
        properties = {"noValue": _NO_NUMBER, "unit": query.unit, "decimals": query.decimals}
        found.append(_override(query.legend, properties))
    return found


def _overview(variable: str, settings: AlertSettings) -> str:
    chosen = f"var-{variable}=${{__value.raw:percentencode}}"
    kept = ("datasource", *settings.group_by, JOB, INSTANCE, "model", "step")
    choices = [chosen if name == variable else f"${{{name}:queryparam}}" for name in kept]
    uid = uid_of("genmeter-overview", settings)
    return f"/d/{uid}?${{__url_time_range}}&{'&'.join(choices)}"


def _override(name: str, properties: dict[str, Any]) -> models.DashboardFieldConfigSourceOverrides:
    return models.DashboardFieldConfigSourceOverrides(
        matcher=models.MatcherConfig(id_val="byName", options=name),
        properties=[
            models.DynamicConfigValue(id_val=key, value=value)
            for key, value in properties.items()
            if value is not None
        ],
    )
