"""The reference and the runbook as Markdown, from the tables.

The reference has every metric, indicator and alert. The runbook's prose is a template; its names,
conditions and queries come from the tables.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING

from genmeter.render.grafana.files import DASHBOARDS
from genmeter.render.grafana.model import LE
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.indicators import INDICATORS
from genmeter.schema.metrics import INSTRUMENTS, Kind
from genmeter.schema.prom_names import label_name
from genmeter.schema.query import ALL_SERIES, JOB, Selector, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.config.alerts import AlertSettings
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.indicators import Indicator
    from genmeter.schema.metrics import Instrument

__all__ = ["render_reference", "render_runbook"]


# --- the reference -------------------------------------------------------------------------------

_HEAD = """\
# Metrics, indicators and alerts

Made by `genmeter render reference` from the tables in `genmeter/schema/`: metrics, indicators and
alerts; change those. Names under `gen_ai_` are those of the OpenTelemetry GenAI semantic
conventions, which other instrumentations may use too: every query here has a matcher on
`{phase}`, which is genmeter's own.

A label is absent or has a value; it is never empty. Each label is bounded: past its limit further
values are `other`.
"""
_INDICATORS_HEAD = (
    "What alerts compare with their thresholds and dashboards show, by job over five minutes."
)
_ALERTS_HEAD = """\
What each means and what to do is in [runbook.md](runbook.md); how to set them in
[alerts.md](alerts.md).
"""


def render_reference() -> str:
    """Write the reference."""
    parts = [
        _HEAD.format(phase=cat.PHASE.prometheus),
        "## Metrics",
        *(_metric(row) for row in INSTRUMENTS),
        "## Labels",
        _labels(),
        "## Indicators",
        _INDICATORS_HEAD,
        *(_signal(indicator) for indicator in INDICATORS),
        "## Alerts",
        _ALERTS_HEAD,
        _alerts(),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _metric(row: Instrument) -> str:
    labels = ", ".join(f"`{label.prometheus}`" for label in row.labels) or "none"
    kind = row.kind.exposed_as.replace("updown", "up-down counter")
    facts = [("OpenTelemetry", f"`{row.name}`, {kind}"), ("unit", f"`{row.unit}`")]
    facts.append(("labels", labels))
    if row.bounds:
        facts.append(("buckets", " ".join(f"{bound:.12g}" for bound in row.bounds)))
    if row.stands_for:
        facts.append(("AfterImage's", ", ".join(f"`{name}`" for name in row.stands_for)))
    indicators = [
        indicator
        for indicator in INDICATORS
        if row in [part.instrument for part in indicator.query.parts]
    ]
    shown = dict.fromkeys(place for indicator in indicators for place in _places(indicator))
    facts += [
        ("indicators", ", ".join(f"[{each.id}](#{each.id})" for each in indicators)),
        ("alerts", _alert_links(indicators)),
        ("panels", "; ".join(shown)),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts if value)
    return (
        f"### `{row.prometheus}`\n\n{row.help}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"```promql\n{_example(row)}\n```"
    )


def _alert_links(indicators: Sequence[Indicator]) -> str:
    names = dict.fromkeys(
        rule.name for rule in ALERT_RULES if rule.condition.indicator in indicators
    )
    return ", ".join(f"[{name}](runbook.md#{name.lower()})" for name in names)


def _places(indicator: Indicator) -> list[str]:
    found = [
        f"{dashboard.title.rpartition(' / ')[2]}: {panel.heading}"
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        if any(ref.indicator is indicator for query in panel.queries for ref in query.series)
    ]
    return list(dict.fromkeys(found))


def _example(row: Instrument) -> str:
    own = [label for label in (cat.MODEL, cat.EVALUATOR, cat.SCORE_NAME) if label in row.labels]
    by = ", ".join([JOB, *(label.prometheus for label in own)])
    matchers = f'{{{cat.PHASE.prometheus}!=""}}' if cat.PHASE in row.labels else ""
    series = row.prometheus
    if row.kind is Kind.HISTOGRAM:
        buckets = f"rate({series}_bucket{matchers}[5m])"
        return f"histogram_quantile(0.95, sum by (le, {by}) ({buckets}))"
    if row.kind.exposed_as == "counter":
        return f"sum by ({by}) (increase({series}{matchers}[1h]))"
    aggregation = "sum" if row.kind.exposed_as == "updown" else "max"
    return f"{aggregation} by ({by}) ({series}{matchers})"


def _labels() -> str:
    known: dict[str, list[str]] = {}
    for row in INSTRUMENTS:
        for label in row.labels:
            words = known.setdefault(label.key, [])
            if label.help not in words:
                words.append(label.help)
    rows = [
        f"| `{label_name(key)}` | `{key}` | {'; or '.join(words)} |" for key, words in known.items()
    ]
    return "\n".join(["| Prometheus | OpenTelemetry | values |", "|---|---|---|", *rows])


def _signal(indicator: Indicator) -> str:
    facts = [
        ("unit", f"`{indicator.unit}`"),
        ("alerts", _alert_links([indicator])),
        ("panels", "; ".join(_places(indicator))),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts if value)
    return (
        f"### `{indicator.id}`\n\n{indicator.title}: {indicator.description}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"```promql\n{_query(indicator)}\n```"
    )


def _query(indicator: Indicator) -> str:
    by = [LE, JOB] if "_bucket" in [part.part for part in indicator.query.parts] else [JOB]
    return indicator.query.promql(by, "5m", ALL_SERIES)


def _alerts() -> str:
    lines = ["| alert | id in process | severity | fires where | by |", "|---|---|---|---|---|"]
    for rule in ALERT_RULES:
        by = ", ".join(["job", *(label.prometheus for label in rule.by)])
        lines.append(
            f"| [{rule.name}](runbook.md#{rule.name.lower()}) | {_id(rule)} | {rule.severity} | "
            f"{rule.condition.describe(rule.for_)} | {by} |"
        )
    return "\n".join(lines)


def _id(rule: AlertRule) -> str:
    return f"`{rule.id}`" if rule.condition.is_local else "Prometheus only"


# --- the runbook ---------------------------------------------------------------------------------

_NAME = re.compile(r"\{\{([A-Z_]+)\}\}")
_HEADING = re.compile(r"^## (\w+)$", re.MULTILINE)


def render_runbook(settings: AlertSettings) -> str:
    """Write the runbook as Markdown.

    Args:
        settings: What the alerts' conditions and queries come from.
    """
    # Without a budget and a job that must be there, their alerts would have no query to show.
    settings = replace(
        settings,
        cost_budget=settings.cost_budget or 100.0,
        token_budget=settings.token_budget or 100e6,
        jobs=settings.jobs or ("nightly",),
    )
    text = files("genmeter.render").joinpath("runbook.md").read_text(encoding="utf-8")
    parts = _HEADING.split(_NAME.sub(_named, text))
    rules = settings.rules()
    sections = [parts[0].rstrip()]
    for name, words in zip(parts[1::2], parts[2::2], strict=True):
        found = [rule for rule in rules if rule.name == name]
        if not found:
            continue
        sections.append(f"## {name}")
        sections += [
            words.strip(),
            _facts(found),
            *_queries(found, settings),
            _silence(name, found),
        ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _named(match: re.Match[str]) -> str:
    row = getattr(cat, match[1])
    name: str = row.prometheus
    return name


def _facts(rules: Sequence[AlertRule]) -> str:
    lines = [
        "| severity | id in process | grouped by | min samples | for |",
        "|---|---|---|---|---|",
    ]
    for rule in rules:
        by = ", ".join(["job", *(label.prometheus for label in rule.by)])
        wait = duration(rule.for_) if rule.for_ else "none"
        lines.append(
            f"| {rule.severity} | {_id(rule)} | {by} | {rule.condition.min_samples} | {wait} |"
        )
    return "\n".join(lines)


def _queries(rules: Sequence[AlertRule], settings: AlertSettings) -> list[str]:
    return [f"```promql\n{rule.promql(Selector(common=settings.selector))}\n```" for rule in rules]


def _silence(name: str, rules: Sequence[AlertRule]) -> str:
    matchers = [f"alertname={name}", "job=JOB"]
    matchers += [f"{label.prometheus}={label.short.upper()}" for label in rules[0].by]
    return f"**Silence.** `amtool silence add --comment=WHY --duration=2h {' '.join(matchers)}`"
