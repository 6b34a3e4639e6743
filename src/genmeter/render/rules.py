"""Prometheus's rules: the alerts as PromQL, in a rule file or a Kubernetes resource."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from genmeter.config.alert_texts import templates
from genmeter.errors import ConfigError
from genmeter.render.records import is_recorded, ratio_name, records, total_name
from genmeter.render.yaml_text import to_yaml
from genmeter.schema import live_signals as live
from genmeter.schema import metrics as cat
from genmeter.schema.query import JOB, Selector, duration, quoted

if TYPE_CHECKING:
    from genmeter.config.alerts import AlertSettings
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Instrument

__all__ = ["FORMATS", "Format", "expression", "render_rules"]

Format = Literal["prometheus", "kubernetes"]
FORMATS: tuple[Format, ...] = ("prometheus", "kubernetes")

_MOST_DIGITS = 1e15
_SIGNS = {"above": ">", "below": "<"}
_OWN = "(gen_ai_client|genmeter)_.+"
_ESCAPED = r"[abfnrtv\\{}]|[0-7]{{3}}|x[0-9a-fA-F]{{2}}|u[0-9a-fA-F]{{4}}|U[0-9a-fA-F]{{8}}"
_DOUBLE, _SINGLE = (
    rf"{mark}(?:\\(?:{_ESCAPED.format(mark)})|[^{mark}\\\n])*{mark}" for mark in ('"', "'")
)
_STRING = f"(?:{_DOUBLE}|{_SINGLE}|`[^`]*`)"
# A series has one name, and that of each query is given.
_MATCHER = rf"\s*(?!\W?__name__\b)(?:[a-zA-Z_]\w*|{_STRING})\s*(?:=~|!~|!=|=)\s*{_STRING}\s*"
_MATCHERS = re.compile(f"{_MATCHER}(?:,{_MATCHER})*", re.ASCII)
_HEADER = """\
# Rules for jobs that genmeter watches. Made by `genmeter render rules`: change them by its options
# or its settings' file, not here.
#
# Counters are summed from their birth where Prometheus runs with
#   --enable-feature=created-timestamp-zero-ingestion
# and scrapes OpenMetrics. Without it what a series counted before its first scrape is missed: name
# the job's models in GENMETER_MODELS, so that their series start at 0 when the job does.
#
# Ratios over more than six hours are added up from sums over five minutes, so the rules are to be
# evaluated more often than that; any usual `evaluation_interval` is. They fill up from the day on
# that the rules are loaded.
"""


def render_rules(settings: AlertSettings, format: Format = "prometheus") -> str:  # noqa: A002
    """Write the rules as a file, the same text for the same settings.

    Args:
        settings: What the rules come from.
        format: ``prometheus`` for a rule file, ``kubernetes`` for a PrometheusRule of the
            Prometheus Operator.

    Raises:
        ConfigError: The selector is none, or a text of the settings is no Unicode.
        MissingExtraError: PyYAML is not installed.
    """
    _check(settings)
    document: dict[str, Any] = {"groups": _groups(settings)}
    if format == "kubernetes":
        document = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "genmeter", "labels": {"app.kubernetes.io/name": "genmeter"}},
            "spec": document,
        }
    return _HEADER + to_yaml(document)


def expression(rule: AlertRule, settings: AlertSettings) -> str:
    """Write when an alert fires, in PromQL.

    Alerts over several windows, or over more than six hours, are made of series that the rules
    record.

    Args:
        rule: One of ``settings.rules()``.
        settings: Where it is from.
    """
    selector = Selector(common=settings.selector)
    match rule.how:
        case "stalled":
            return _stalled(rule, selector)
        case "target_down":
            return _target_down(rule, selector)
        case "target_absent":
            return _target_absent(settings)
    expr = _recorded(rule) if is_recorded(rule) else _direct(rule, selector)
    if rule.signal is live.OVERFLOWED_LABELS:
        # Label sets past an instrument's cap, which the SDK counts together; these series have no
        # label but this one.
        series = _series("", selector, f'__name__=~"{_OWN}"', 'otel_metric_overflow="true"')
        expr += f"\nor\ncount by ({JOB}) ({series}) > 0"
    return expr


def _direct(rule: AlertRule, selector: Selector) -> str:
    assert rule.signal is not None  # noqa: S101 - these rows have one
    by = [JOB, *(label.prometheus for label in rule.by)]
    window = duration(rule.windows[0])
    expr = rule.signal.promql(by, window, selector, min_samples=rule.min_samples)
    gap = "\n" if "\n" in expr else " "
    return f"{expr}{gap}{_SIGNS[rule.how]} {_number(rule.threshold)}"


def _recorded(rule: AlertRule) -> str:
    signal = rule.signal
    assert signal is not None  # noqa: S101 - is_recorded() has asked
    assert signal.of is not None  # noqa: S101 - no rule is of a signal without a query
    threshold = _number(rule.threshold)
    if signal.per is None:
        names = [total_name(signal.of, rule.by, window) for window in rule.windows]
    else:
        names = [ratio_name(signal, rule.by, window) for window in rule.windows]
    if rule.how == "fall":
        conditions = [f"{names[1]} - {names[0]} > {threshold}"]
    else:
        conditions = [f"{name} {_SIGNS[rule.how]} {threshold}" for name in names]
    if signal.per is not None and rule.min_samples > 1:
        conditions.append(
            f"{total_name(signal.per, rule.by, rule.windows[0])} >= {rule.min_samples}"
        )
    return "\nand\n".join(conditions)


def _stalled(rule: AlertRule, selector: Selector) -> str:
    last = _series(cat.LAST_GENERATION, selector)
    finished = _series(cat.JOB_FINISHED, selector)
    # Of the processes that have finished none counts: neither as the last to have ended a call,
    # while another hangs, nor as one that is idle, while another has only begun.
    return (
        f"time() - max by ({JOB}) (\n"
        f"  {last}\n"
        "  and on (job, instance)\n"
        f"  {finished} == 0\n"
        f") > {_number(rule.windows[0])}"
    )


def _target_down(rule: AlertRule, selector: Selector) -> str:
    up = _series("up", selector)
    finished = _series(cat.JOB_FINISHED, selector)
    return (
        f"sum by ({JOB}) ({up}) == 0\n"
        f"and on ({JOB})\n"
        f"(last_over_time({finished}[{duration(rule.windows[0])}]) == 0 "
        f"and on ({JOB}, instance) {up} == 0)"
    )


def _target_absent(settings: AlertSettings) -> str:
    selector = Selector(common=settings.selector)
    absent = [f"absent({_series('up', selector, f'job={quoted(job)}')})" for job in settings.jobs]
    if not settings.selector:
        return "\nor\n".join(absent)
    # What the selector matches would else be labels of the alert.
    return "\nor\n".join(f"group by ({JOB}) ({each})" for each in absent)


def _series(metric: str | Instrument, selector: Selector, *matched: str) -> str:
    name = metric if isinstance(metric, str) else metric.prometheus
    matchers = [*matched, *selector.matchers(())]
    return f"{name}{{{','.join(matchers)}}}" if matchers else name


def _number(value: float) -> str:
    # Digit for digit what the process compares with.
    return f"{value:.0f}" if value.is_integer() and abs(value) < _MOST_DIGITS else repr(value)


def _groups(settings: AlertSettings) -> list[dict[str, Any]]:
    rules, selector = settings.rules(), Selector(common=settings.selector)
    own = [rule for rule in rules if not is_recorded(rule)]
    recorded = [rule for rule in rules if is_recorded(rule)]
    alerts = [_alert(rule, settings) for rule in own]
    found = [
        {
            # In one group, so that each is evaluated after what it needs.
            "name": "genmeter-long-windows",
            "rules": [
                *({"record": each.name, "expr": each.expr} for each in records(rules, selector)),
                *(_alert(rule, settings) for rule in recorded),
            ],
        },
        {"name": "genmeter", "rules": alerts},
    ]
    return [group for group in found if group["rules"]]


def _alert(rule: AlertRule, settings: AlertSettings) -> dict[str, Any]:
    pending = {"for": duration(rule.for_)} if rule.for_ else {}
    return {
        "alert": rule.name,
        "expr": expression(rule, settings),
        **pending,
        "labels": {"severity": rule.severity, **dict(rule.labels)},
        "annotations": templates(rule, settings),
    }


def _check(settings: AlertSettings) -> None:
    for name, text in (
        ("selector", settings.selector),
        ("runbook_url", settings.runbook_url),
        *(("jobs", job) for job in settings.jobs),
    ):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{name} is {text!r}, which is no Unicode; give another") from error
    selector = settings.selector
    if selector and not _MATCHERS.fullmatch(selector):
        raise ConfigError(
            f"selector is {selector!r}; give matchers with commas between, with neither braces nor "
            'a metric\'s name, such as cluster="a",env=~"prod|staging"; within quotes a backslash '
            "is two"
        )
