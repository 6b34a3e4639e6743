"""The table of alerts: its names, thresholds and windows, and what each row needs."""

from __future__ import annotations

import inspect
import re

import pytest

from genmeter import GenerationMonitor
from genmeter.schema import live_signals as live
from genmeter.schema.alerts import ALERT_RULES, AlertRule
from genmeter.schema.live_signals import LIVE_SIGNALS

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
RULES = {rule.id: rule for rule in ALERT_RULES}

# Id, alert, condition, threshold, windows, least, severity; the burns and budgets are below.
TABLE = """
low_success_rate            GenerationSuccessRateLow below   0.8  5m      1  warning
high_generation_time        GenerationSlow           above    30  5m      1  warning
high_error_rate             GenerationErrorRateHigh  above   0.2  5m      1  critical
high_token_usage:prompt     PromptTokensHigh         above  4096  5m      1  info
high_token_usage:completion CompletionTokensHigh     above  4096  5m      1  info
high_token_usage:total      TotalTokensHigh          above  8192  5m      1  info
long_conversations          ConversationsLong        above     2  5m      1  info
generation_stalled          GenerationStalled        stalled   0  15m     1  warning
rate_limited                RateLimited              above   0.1  10m    10  warning
samples_rejected            SamplesRejected          above   0.5  30m    20  warning
generation_truncated        GenerationTruncated      above   0.1  15m    10  warning
evaluation_score_drop       EvaluationScoreDrop      fall    0.1  1h,24h 20  warning
evaluation_failures         EvaluationFailures       above   0.2  15m     5  warning
model_unpriced              ModelUnpriced            above     0  1h      1  warning
target_down                 MonitorTargetDown        target_down   0 1h   1  warning
target_absent               MonitorTargetDown        target_absent 0 5m   1  warning
monitor_rejects_events      MonitorRejectsEvents     above     0  10m     1  warning
monitor_handler_failing     MonitorHandlerFailing    above     0  10m     1  warning
monitor_label_overflow      MonitorLabelOverflow     above     0  10m     1  warning
monitor_export_failing      MonitorExportFailing     above     0  10m     1  warning
"""
UNITS = {"m": MINUTE, "h": HOUR}


def windows(text: str) -> tuple[float, ...]:
    """Read the table's windows."""
    return tuple(float(each[:-1]) * UNITS[each[-1]] for each in text.split(","))


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_each_row_is_as_documented(line: str) -> None:
    """Name, condition, threshold, windows, least number and severity of every alert."""
    id_, name, how, threshold, spans, least, severity = line.split()
    rule = RULES[id_]
    assert (rule.name, rule.how, rule.severity) == (name, how, severity)
    assert (rule.threshold, rule.windows) == (float(threshold), windows(spans))
    assert (rule.min_samples, rule.base) == (int(least), None)


def test_the_error_budget_burns_over_pairs_of_windows() -> None:
    """Factors and windows are the Site Reliability Workbook's, and a pair of a day."""
    burns = [rule for rule in ALERT_RULES if rule.name == "GenerationErrorBudgetBurn"]
    assert [(rule.threshold, rule.windows, rule.severity) for rule in burns] == [
        (14.4, (HOUR, 5 * MINUTE), "critical"),
        (6.0, (6 * HOUR, 30 * MINUTE), "critical"),
        (3.0, (DAY, 2 * HOUR), "warning"),
        (1.0, (3 * DAY, 6 * HOUR), "warning"),
    ]
    assert all(rule.base == "error_budget" and rule.signal is live.FAILURE_SHARE for rule in burns)


@pytest.mark.parametrize("base", ["cost_budget", "token_budget"])
def test_a_budget_warns_at_four_fifths_and_is_critical_when_spent(base: str) -> None:
    """Both rows are over the last 24 hours."""
    rows = [rule for rule in ALERT_RULES if rule.base == base]
    assert [(rule.threshold, rule.severity, rule.windows) for rule in rows] == [
        (0.8, "warning", (DAY,)),
        (1.0, "critical", (DAY,)),
    ]


def test_no_other_row_is_in_the_table() -> None:
    """Every alert is in one of the lists above."""
    listed = {line.split()[0] for line in TABLE.strip().splitlines()}
    burns = {f"error_budget_burn:{label}" for label in ("1h", "6h", "1d", "3d")}
    budgets = {
        f"{base}_burn:{severity}"
        for base in ("cost_budget", "token_budget")
        for severity in ("warning", "critical")
    }
    assert RULES.keys() == listed | burns | budgets
    assert len(RULES) == len(ALERT_RULES)


def test_the_first_seven_are_the_old_monitors_in_its_order() -> None:
    """Who reads the list of alerts by position finds what was there before."""
    assert [rule.id for rule in ALERT_RULES[:7]] == [
        *("low_success_rate", "high_generation_time", "high_error_rate"),
        *(f"high_token_usage:{kind}" for kind in ("prompt", "completion", "total")),
        "long_conversations",
    ]


def test_every_threshold_of_the_constructor_sets_one_row() -> None:
    """An argument that begins with `alert_` and is a threshold belongs to exactly one alert."""
    arguments = [
        name
        for name in inspect.signature(GenerationMonitor).parameters
        if name.startswith("alert_") and name != "alert_handlers"
    ]
    assert sorted(rule.argument for rule in ALERT_RULES if rule.argument) == sorted(arguments)


def test_rows_of_one_name_are_told_apart_by_their_labels() -> None:
    """Alertmanager takes alerts of the same labels for the same alert."""
    told = [(rule.name, rule.severity, rule.labels) for rule in ALERT_RULES]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.id)
def test_each_row_can_be_judged(rule: AlertRule) -> None:
    """It has a signal of the list with its labels, and as many windows as its condition takes."""
    if rule.how in ("stalled", "target_down", "target_absent"):
        assert rule.signal is None
    else:
        assert rule.signal in LIVE_SIGNALS
        assert rule.signal is not None
        terms = [term for term in (rule.signal.of, rule.signal.per) if term is not None]
        assert all(set(rule.by) <= set(term.instrument.labels) for term in terms)
        # A least number is of a denominator.
        assert rule.min_samples == 1 or rule.signal.per is not None
    assert len(rule.windows) == 2 if rule.how == "fall" else rule.windows
    assert all(window > 0 for window in rule.windows)
    assert rule.is_judged_in_process == (rule.how not in ("target_down", "target_absent"))


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.id)
def test_each_row_has_its_words(rule: AlertRule) -> None:
    """A name for Alertmanager, a subject to begin a message with, and one sentence of advice."""
    assert re.fullmatch(r"[A-Z][A-Za-z]+", rule.name)
    assert re.fullmatch(r"[a-z_]+(:[a-z0-9]+)?", rule.id)
    assert rule.subject[0].islower()
    assert rule.advice[0].isupper()
    assert rule.advice.endswith(".")


def test_only_what_is_critical_is_an_error_in_process() -> None:
    """Handlers of the old monitor know two levels."""
    for rule in ALERT_RULES:
        assert rule.level == ("error" if rule.severity == "critical" else "warning")
