"""How the values of a panel look: units, colours, thresholds, and links from a table's cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.models import common, heatmap, table, timeseries
from grafana_foundation_sdk.models import dashboard as models

from genmeter.render.grafana.model import label_names
from genmeter.render.grafana.parts import BAD, GOOD, HEADS, UNSURE
from genmeter.schema.metrics import LEVEL, MODEL, OUTCOME, STEP
from genmeter.schema.query import JOB

if TYPE_CHECKING:
    from genmeter.config.alerts import AlertSettings
    from genmeter.render.grafana.model import Panel
    from genmeter.schema.alerts import AlertRule

__all__ = ["field_config"]

NO_VALUE = "No traffic"
# In a table that has rows: a call without a step, a model without a price.
_NO_NAME = "none"
_NO_NUMBER = "-"
_SEVERITIES = {"critical": BAD, "warning": UNSURE, "info": "blue"}
_PLAIN = "blue"
_JUST_ABOVE_ZERO = 1e-9
_MEANINGS = {
    OUTCOME.prometheus: {
        "success": GOOD,
        "failure": BAD,
        "accepted": GOOD,
        "rejected": BAD,
    },
    LEVEL.prometheus: {"error": BAD, "warning": UNSURE, "info": _PLAIN},
}
"""The colours of values that mean good or bad, by their label."""
_LINKED = {MODEL.prometheus: "model", STEP.prometheus: "step", JOB: "job"}
_KEPT = ("datasource", "job", "instance", "model", "step")


def field_config(panel: Panel, settings: AlertSettings) -> models.FieldConfigSource:
    """Say how a panel's values look.

    Args:
        panel: What it is.
        settings: The alerts whose thresholds are drawn.
    """
    rules = [rule for rule in settings.rules() if rule.id in panel.alerts]
    return models.FieldConfigSource(
        defaults=models.FieldConfig(
            unit=panel.unit,
            decimals=panel.decimals,
            min_val=panel.axis_min if panel.kind not in ("table", "heatmap") else None,
            max_val=panel.axis_max,
            color=_colour(panel, rules),
            thresholds=_thresholds(panel, rules, settings),
            no_value=NO_VALUE,
            mappings=[_nothing()] if panel.kind in ("stat", "gauge") else None,
            custom=_custom(panel, rules, settings),
        ),
        overrides=_overrides(panel),
    )


def _colour(panel: Panel, rules: list[AlertRule]) -> models.FieldColor:
    modes = models.FieldColorModeId
    if panel.is_fault:
        return models.FieldColor(mode=modes.SHADES, fixed_color=BAD)
    if panel.kind in ("timeseries", "heatmap", "bargauge"):
        # In order: the palette by name gives several of five models colours that look the same.
        return models.FieldColor(mode=modes.PALETTE_CLASSIC)
    if rules or panel.in_budgets or panel.kind == "table":
        return models.FieldColor(mode=modes.THRESHOLDS)
    return models.FieldColor(mode=modes.FIXED, fixed_color=_PLAIN)


def _nothing() -> models.SpecialValueMap:
    """Show what has no value in a colour that means nothing, rather than in the first step's."""
    return models.SpecialValueMap(
        options=models.DashboardSpecialValueMapOptions(
            match=models.SpecialValueMatch.NULL_AND_NAN,
            result=models.ValueMappingResult(text=NO_VALUE, color="text", index=0),
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
    # As it is written, not as it is computed.
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
        # A point that stands alone would not be seen as a line.
        show_points=common.VisibilityMode.AUTO,
        point_size=3,
        span_nulls=False,
        stacking=common.StackingConfig(
            mode=common.StackingMode.NORMAL if is_stack else common.StackingMode.NONE, group="A"
        ),
        axis_placement=common.AxisPlacement.AUTO,
        # So that the nearest line is in sight.
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


def _overrides(panel: Panel) -> list[models.DashboardFieldConfigSourceOverrides]:
    if panel.kind == "table":
        return _columns(panel)
    fixed = {query.legend: query.colour for query in panel.queries if query.colour is not None}
    for label in label_names(panel.queries[0].by):
        fixed |= _MEANINGS.get(label, {})
    return [
        _override(name, {"color": {"mode": "fixed", "fixedColor": colour}})
        for name, colour in fixed.items()
    ]


def _columns(panel: Panel) -> list[models.DashboardFieldConfigSourceOverrides]:
    found = []
    for label in label_names(panel.queries[0].by):
        properties: dict[str, Any] = {"noValue": _NO_NAME}
        if label in _LINKED:
            link = {"title": f"This {_LINKED[label]} alone", "url": _overview(_LINKED[label])}
            properties["links"] = [link]
        found.append(_override(HEADS[label], properties))
    for query in panel.queries:
        properties = {"noValue": _NO_NUMBER}
        if query.unit is not None:
            properties["unit"] = query.unit
        if query.decimals is not None:
            properties["decimals"] = query.decimals
        found.append(_override(query.legend, properties))
    return found


def _overview(variable: str) -> str:
    kept = [
        "${__value.raw:percentencode}" if name == variable else f"${{{name}:queryparam}}"
        for name in _KEPT
    ]
    chosen = [
        f"var-{name}={text}" if name == variable else text
        for name, text in zip(_KEPT, kept, strict=True)
    ]
    return "/d/genmeter-overview?${__url_time_range}&" + "&".join(chosen)


def _override(name: str, properties: dict[str, Any]) -> models.DashboardFieldConfigSourceOverrides:
    return models.DashboardFieldConfigSourceOverrides(
        matcher=models.MatcherConfig(id_val="byName", options=name),
        properties=[
            models.DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()
        ],
    )
