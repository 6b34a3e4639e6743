"""The reference of metrics, signals and alerts as Markdown, from the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.render.grafana.files import DASHBOARDS
from genmeter.render.grafana.model import LE
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.live_signals import LIVE_SIGNALS
from genmeter.schema.metrics import INSTRUMENTS, Kind
from genmeter.schema.panel_signals import PANEL_SIGNALS
from genmeter.schema.prom_names import label_name
from genmeter.schema.query import JOB, Selector, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Instrument
    from genmeter.schema.signals import Signal

__all__ = ["render_reference"]

_HEAD = """\
# Metrics, signals and alerts

Made by `genmeter render reference` from the tables in `catalogue.py`, `live_signals.py`,
`panel_signals.py` and `alert_rules.py`; change those. Names under `gen_ai_` are those of the OpenTelemetry GenAI semantic
conventions, which other instrumentations may use too: every query here has a matcher on
`{phase}`, which is genmeter's own.

A label is absent or has a value; it is never empty. Each label is bounded: past its limit further
values are `other`.
"""
_SIGNALS_HEAD = "What alerts judge and dashboards show, by job over five minutes."
_SIGNALS = (*LIVE_SIGNALS, *PANEL_SIGNALS)
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
        "## Signals",
        _SIGNALS_HEAD,
        *(_signal(signal) for signal in _SIGNALS),
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
    signals = [signal for signal in _SIGNALS if row in _instruments(signal)]
    shown = dict.fromkeys(place for signal in signals for place in _places(signal))
    facts += [
        ("signals", ", ".join(f"[{each.id}](#{each.id})" for each in signals)),
        ("alerts", _alert_links(signals)),
        ("panels", "; ".join(shown)),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts if value)
    return (
        f"### `{row.prometheus}`\n\n{row.help}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"```promql\n{_example(row)}\n```"
    )


def _alert_links(signals: Sequence[Signal]) -> str:
    names = dict.fromkeys(rule.name for rule in ALERT_RULES if rule.signal in signals)
    return ", ".join(f"[{name}](runbook.md#{name.lower()})" for name in names)


def _places(signal: Signal) -> list[str]:
    found = [
        f"{dashboard.title.rpartition(' / ')[2]}: {panel.heading}"
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        if any(ref.signal is signal for query in panel.queries for ref in query.series)
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


def _signal(signal: Signal) -> str:
    facts = [
        ("unit", f"`{signal.unit}`"),
        ("alerts", _alert_links([signal])),
        ("panels", "; ".join(_places(signal))),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts if value)
    return (
        f"### `{signal.id}`\n\n{signal.title}: {signal.description}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"```promql\n{_query(signal)}\n```"
    )


def _query(signal: Signal) -> str:
    parts = [term.part for term in (signal.of, signal.per) if term is not None]
    by = [LE, JOB] if "_bucket" in parts else [JOB]
    return signal.promql(by, "5m", Selector())


def _alerts() -> str:
    lines = ["| alert | id in process | severity | fires where | by |", "|---|---|---|---|---|"]
    for rule in ALERT_RULES:
        by = ", ".join(["job", *(label.prometheus for label in rule.by)])
        lines.append(
            f"| [{rule.name}](runbook.md#{rule.name.lower()}) | {_id(rule)} | {rule.severity} | "
            f"{_condition(rule)} | {by} |"
        )
    return "\n".join(lines)


def _id(rule: AlertRule) -> str:
    return f"`{rule.id}`" if rule.is_judged_in_process else "Prometheus only"


def _condition(rule: AlertRule) -> str:
    windows = " and ".join(duration(window) for window in rule.windows)
    threshold = f"{rule.threshold:g}"
    if rule.base is not None:
        threshold += f" times the {rule.base.replace('_', ' ')}"
    match rule.how:
        case "above" | "below":
            least = f", of at least {rule.min_samples}" if rule.min_samples > 1 else ""
            return f"{rule.subject} {rule.how} {threshold} over {windows}{least}"
        case "fall":
            first, second = (duration(window) for window in rule.windows)
            return f"{rule.subject} over {first} against {second} above {threshold}"
        case "stalled":
            return f"no call has ended for {windows}, and the job is not finished"
        case "target_down":
            return f"no target has answered for {duration(rule.for_)}"
        case _:
            return f"a job that was named has had no target for {duration(rule.for_)}"


def _instruments(signal: Signal) -> Iterable[Instrument]:
    return [term.instrument for term in (signal.of, signal.per) if term is not None]
