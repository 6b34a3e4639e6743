"""What every dashboard has around its panels: variables, annotations, links and the grid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from genmeter.render.grafana.model import INSTANCE, selector_of
from genmeter.render.grafana.panels import DATA_SOURCE, TRACES, to_panel
from genmeter.schema import indicators as ind
from genmeter.schema import metrics as cat
from genmeter.schema.query import JOB, Selector

if TYPE_CHECKING:
    from genmeter.config.alerts import AlertSettings
    from genmeter.render.grafana.model import Dashboard
    from genmeter.schema.metrics import Label

__all__ = ["to_json"]

_TAG = "genmeter"
_REFRESH = "30s"
_WIDTH = 24
_IDS_PER_ROW = 100
_ALL = ".+"
_ALL_OR_NONE = ".*"


def to_json(dashboard: Dashboard, settings: AlertSettings) -> str:
    """Write a dashboard as Grafana reads it, the same text for the same settings.

    Args:
        dashboard: What it is.
        settings: The alerts whose thresholds are drawn, and the matchers of every query.
    """
    has_traces = any(panel.links_to_traces for panel in dashboard.panels)
    document = models.Dashboard(
        uid=dashboard.name,
        title=dashboard.title,
        description=dashboard.description,
        tags=[_TAG],
        editable=False,
        graph_tooltip=models.DashboardCursorSync.CROSSHAIR,
        time=models.DashboardDashboardTime(from_val=dashboard.span, to="now"),
        timepicker=models.TimePickerConfig(),
        refresh=_REFRESH,
        panels=list(_panels(dashboard, settings)),
        templating=models.DashboardDashboardTemplating(
            list_val=_variables(settings.selector, has_traces=has_traces)
        ),
        annotations=models.AnnotationContainer(list_val=_annotations(settings)),
        links=[_link()],
    )
    filled = json.loads(JSONEncoder().encode(document))
    return json.dumps(_drop_placement(filled), indent=2, ensure_ascii=False) + "\n"


def _drop_placement(part: Any) -> Any:
    """Leave out where links and annotations are: the SDK puts all of them into a closed menu."""
    if isinstance(part, dict):
        return {key: _drop_placement(value) for key, value in part.items() if key != "placement"}
    return [_drop_placement(each) for each in part] if isinstance(part, list) else part


def _panels(dashboard: Dashboard, settings: AlertSettings) -> list[models.Panel | models.RowPanel]:
    selector = selector_of(settings.selector)
    found: list[models.Panel | models.RowPanel] = []
    line = 0
    for number, row in enumerate(dashboard.rows, start=1):
        first = number * _IDS_PER_ROW
        place = models.GridPos(x=0, y=line, w=_WIDTH, h=1)
        found.append(models.RowPanel(title=row.title, id_val=first, grid_pos=place, panels=[]))
        line += 1
        for index, (panel, (x, y)) in enumerate(
            zip(row.panels, row.places(), strict=True), start=1
        ):
            place = models.GridPos(x=x, y=line + y, w=panel.width, h=panel.height)
            found.append(to_panel(panel, first + index, place, settings, selector))
        line += row.height
    return found


def _variables(common: str, *, has_traces: bool) -> list[models.VariableModel]:
    def chosen(*names: str) -> str:
        return ",".join([f'{name}=~"${name}"' for name in names] + ([common] if common else []))

    info = cat.BUILD_INFO.prometheus
    # Of models that only fail there are no tokens, of those that only evaluate no generations.
    names = f"{cat.GENERATIONS.prometheus}|{cat.TOTAL_TOKENS.prometheus}"
    of_job = f'__name__=~"{names}",{chosen(JOB, INSTANCE)}'
    by_model = f'{of_job},{cat.MODEL.prometheus}=~"$model"'
    found = [
        _data_source("datasource", "Data source", "prometheus"),
        _values(JOB, "Job", f"{info}{{{common}}}", JOB),
        _values(INSTANCE, "Instance", f"{info}{{{chosen(JOB)}}}", INSTANCE),
        _values("model", "Model", f"{{{of_job}}}", cat.MODEL),
        # A call has no step where its caller gave none: all steps are these calls too.
        _values("step", "Step", f"{{{by_model}}}", cat.STEP, _ALL_OR_NONE),
    ]
    return found + ([_data_source(TRACES, "Traces", "tempo")] if has_traces else [])


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
    query = f"label_values({series.removesuffix('{}')}, {key})"
    return models.VariableModel(
        type_val=models.VariableType.QUERY,
        name=name,
        label=label,
        datasource=DATA_SOURCE,
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
    matchers = f'{JOB}=~"${JOB}"' + (f",{settings.selector}" if settings.selector else "")
    names = "|".join(dict.fromkeys(rule.name for rule in settings.rules()))
    (counter,) = ind.EVENTS.query.parts
    events = counter.series(Selector(common=selector_of(settings.selector).common))
    return [
        _annotation(
            "Alerts",
            "red",
            f'ALERTS{{alertstate="firing",alertname=~"{names}",{matchers}}}',
            "{{alertname}}",
            f"{{{{severity}}}}, {{{{{JOB}}}}} {{{{{cat.MODEL.prometheus}}}}}",
        ),
        _annotation(
            "Restarts",
            "light-blue",
            f"sum by ({JOB}, {INSTANCE}) (resets({events}[5m])) > 0",
            "Restart",
            f"{{{{{JOB}}}}} {{{{{INSTANCE}}}}}",
        ),
    ]


def _annotation(name: str, colour: str, expr: str, title: str, text: str) -> models.AnnotationQuery:
    return models.AnnotationQuery(
        name=name,
        datasource=DATA_SOURCE,
        enable=True,
        icon_color=colour,
        expr=expr,
        title_format=title,
        text_format=text,
        step="60s",
    )


def _link() -> models.DashboardLink:
    return models.DashboardLink(
        title="genmeter",
        type_val=models.DashboardLinkType.DASHBOARDS,
        icon="external link",
        tags=[_TAG],
        include_vars=True,
        keep_time=True,
    )
