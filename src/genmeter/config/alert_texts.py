"""What an alert says: the same words as Prometheus templates and filled in by the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.schema.query import JOB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.config.alerts import AlertSettings
    from genmeter.schema.alerts import AlertRule

__all__ = ["filled", "templates"]

# As Go's printf has them, which Prometheus's templates use, and Python's %.
_FORMATS = {"": "%.3f", "USD": "%.2f", "s": "%.1f", "turns": "%.2f"}
_OTHER_FORMAT = "%.0f"  # tokens, and whatever is counted
_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def templates(rule: AlertRule, settings: AlertSettings) -> dict[str, str]:
    """Write an alert's annotations as templates that Prometheus fills in.

    Args:
        rule: One of ``settings.rules()``.
        settings: Where it is from.
    """
    job = f"{{{{ $labels.{JOB} }}}}"
    groups = [
        f"{{{{ with $labels.{label.prometheus} }}}}, {_word(label.key)} {{{{ . }}}}{{{{ end }}}}"
        for label in rule.by
    ]
    if rule.unit == "%":
        value = "{{ $value | humanizePercentage }}"
    else:
        value = _with_unit(f'{{{{ $value | printf "{_format(rule)}" }}}}', rule)
    return {
        "summary": _summary(rule, job + "".join(groups), value),
        "description": _description(rule, value),
        # Braces of an address are no template.
        "runbook_url": _runbook(rule, settings).replace("{{", '{{ "{{" }}'),
    }


def filled(
    rule: AlertRule, settings: AlertSettings, labels: Mapping[str, str], value: float
) -> dict[str, str]:
    """Write an alert's annotations for a value.

    Args:
        rule: One of ``settings.rules()``.
        settings: Where it is from.
        labels: The alert's, by Prometheus's names: the job's and its group's.
        value: In the signal's unit, of the first window; of ``fall`` by how much it fell; of
            ``stalled`` the seconds since the last call ended.
    """
    groups = [
        f", {_word(label.key)} {labels[label.prometheus]}"
        for label in rule.by
        if labels.get(label.prometheus)
    ]
    # Go's humanizePercentage has four digits too.
    is_share = rule.unit == "%"
    text = f"{value * 100:.4g}%" if is_share else _with_unit(_format(rule) % value, rule)
    return {
        "summary": _summary(rule, labels.get(JOB, "") + "".join(groups), text),
        "description": _description(rule, text),
        "runbook_url": _runbook(rule, settings),
    }


def _summary(rule: AlertRule, whose: str, value: str) -> str:
    match rule.how:
        case "stalled":
            return f"{whose}: no call has ended for {value}"
        case "target_down":
            return f"{whose}: no target answers"
        case "target_absent":
            return f"{whose}: Prometheus has no target"
        case _:
            return f"{whose}: {rule.subject} {value}"


def _description(rule: AlertRule, value: str) -> str:
    return f"{_finding(rule, value)} {rule.advice}"


def _finding(rule: AlertRule, value: str) -> str:
    spans = [_span(window) for window in rule.windows]
    subject = rule.subject[:1].upper() + rule.subject[1:]
    match rule.how:
        case "stalled":
            return (
                f"{subject}: {value}, more than {_spell(rule.windows[0])}; the job is up and has "
                "not said that it is finished."
            )
        case "target_down":
            since = f", for {_spell(rule.for_)} already" if rule.for_ else ""
            return (
                f"Every target of the job fails to answer{since}; one did within the last "
                f"{spans[0]}, and did not say that it is finished."
            )
        case "target_absent":
            since = f" for {_spell(rule.for_)}" if rule.for_ else ""
            return f"Prometheus has had no target of the job{since}."
        case "fall":
            return (
                f"{subject}: {value} in the last {spans[0]}, compared to the last {spans[1]}; the "
                f"threshold is {_threshold(rule)}."
            )
        case _:
            passed = f", {rule.how} the threshold of {_threshold(rule)}" if rule.threshold else ""
            others = "".join(f", and in the last {span} too" for span in spans[1:])
            return f"{subject}: {value} in the last {spans[0]}{passed}{others}."


def _threshold(rule: AlertRule) -> str:
    if rule.unit == "%":
        return f"{rule.threshold * 100:.12g}%"
    return _with_unit(f"{rule.threshold:.12g}", rule)


def _runbook(rule: AlertRule, settings: AlertSettings) -> str:
    return f"{settings.runbook_url}#{rule.name.lower()}"


def _format(rule: AlertRule) -> str:
    return _FORMATS.get(rule.unit, _OTHER_FORMAT)


def _with_unit(number: str, rule: AlertRule) -> str:
    # Of a number of things the subject says what is counted.
    is_count = rule.signal is not None and rule.signal.per is None and rule.unit != "USD"
    return f"{number} {rule.unit}" if rule.unit and not is_count else number


def _word(key: str) -> str:
    return key.rpartition(".")[2]


def _span(seconds: float) -> str:
    """Write a duration for a person, to stand after "the last": ``5 minutes``, ``24 hours``."""
    for unit, size in _UNITS:
        count = seconds / size
        if count.is_integer() and (count > 1 or (count == 1 and unit != "day")):
            return f"{count:.0f} {unit}s" if count > 1 else unit
    return "second" if seconds == 1 else f"{seconds:.12g} seconds"


def _spell(seconds: float) -> str:
    """Write a duration for a person, with its number: ``5 minutes``, ``1 hour``."""
    span = _span(seconds)
    return span if span[0].isdigit() else f"1 {span}"
