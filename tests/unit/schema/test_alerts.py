"""The table of alerts: names, thresholds, windows and consistent rows."""

from __future__ import annotations

import inspect
import re

import pytest

from genmeter import GenerationMonitor
from genmeter.schema import indicators as ind
from genmeter.schema.alerts import ALERT_RULES, AlertRule
from genmeter.schema.conditions import Drop
from genmeter.schema.indicators import INDICATORS
from genmeter.schema.query import Ratio

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
RULES = {rule.id: rule for rule in ALERT_RULES}

# Id, alert, condition, threshold, windows, min_samples, severity; burns and budgets are below.
TABLE = """
low_success_rate            GenerationSuccessRateLow Below   0.8  5m      1  warning
high_generation_time        GenerationSlow           Above    30  5m      1  warning
high_error_rate             GenerationErrorRateHigh  Above   0.2  5m      1  critical
high_token_usage:prompt     PromptTokensHigh         Above  4096  5m      1  info
high_token_usage:completion CompletionTokensHigh     Above  4096  5m      1  info
high_token_usage:total      TotalTokensHigh          Above  8192  5m      1  info
long_conversations          ConversationsLong        Above     2  5m      1  info
generation_stalled          GenerationStalled        Stale   0  15m     1  warning
job_process_died            JobProcessDied           ProcessDied 0 10m  1  warning
rate_limited                RateLimited              Above   0.1  10m    10  warning
samples_rejected            SamplesRejected          Above   0.5  30m    20  warning
generation_truncated        GenerationTruncated      Above   0.1  15m    10  warning
evaluation_score_drop       EvaluationScoreDrop      Drop    0.1  1h,24h 20  warning
evaluation_failures         EvaluationFailures       Above   0.2  15m     5  warning
model_unpriced              ModelUnpriced            Above     0  1h      1  warning
usage_unread                UsageUnread              Above   0.1  1h     10  warning
target_down                 MonitorTargetDown        TargetDown 0 1h   1  warning
target_absent               MonitorTargetDown        TargetAbsent 0 5m   1  warning
target_lost                 MonitorTargetDown        TargetLost 0 15m    1  warning
push_stopped                MonitorPushStopped       PushStopped 0 1h    1  warning
collector_down              MonitorCollectorDown     CollectorDown 0 24h 1  warning
monitor_rejects_events      MonitorRejectsEvents     Above     0  10m     1  warning
monitor_handler_failing     MonitorHandlerFailing    Above     0  10m     1  warning
monitor_label_overflow      MonitorLabelOverflow     LabelOverflow 0 10m    1  warning
monitor_export_failing      MonitorExportFailing     Above     0  10m     1  warning
"""
UNITS = {"m": MINUTE, "h": HOUR}


def windows(text: str) -> tuple[float, ...]:
    """Read the table's windows."""
    return tuple(float(each[:-1]) * UNITS[each[-1]] for each in text.split(","))


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_rows_have_their_documented_values(line: str) -> None:
    """Name, condition, threshold, windows, min_samples and severity of every alert are stable."""
    id_, name, kind, threshold, spans, min_samples, severity = line.split()
    rule = RULES[id_]
    assert (rule.name, type(rule.condition).__name__, rule.severity) == (name, kind, severity)
    assert (rule.condition.threshold, rule.condition.windows) == (float(threshold), windows(spans))
    assert (rule.condition.min_samples, rule.condition.base) == (int(min_samples), None)


def test_error_budget_burns_have_pairs_of_windows() -> None:
    """Factors and windows are those of the Site Reliability Workbook, plus a pair of a day."""
    burns = [rule for rule in ALERT_RULES if rule.name == "GenerationErrorBudgetBurn"]
    assert [
        (rule.condition.threshold, rule.condition.windows, rule.severity) for rule in burns
    ] == [
        (14.4, (HOUR, 5 * MINUTE), "critical"),
        (6.0, (6 * HOUR, 30 * MINUTE), "critical"),
        (3.0, (DAY, 2 * HOUR), "warning"),
        (1.0, (3 * DAY, 6 * HOUR), "warning"),
    ]
    assert all(
        rule.condition.base == "error_budget" and rule.condition.indicator is ind.FAILURE_SHARE
        for rule in burns
    )


@pytest.mark.parametrize("base", ["cost_budget", "token_budget"])
def test_budgets_warn_at_80_percent_and_are_critical_at_100(base: str) -> None:
    """Both rows are over the last 24 hours."""
    rows = [rule for rule in ALERT_RULES if rule.condition.base == base]
    assert [(rule.condition.threshold, rule.severity, rule.condition.windows) for rule in rows] == [
        (0.8, "warning", (DAY,)),
        (1.0, "critical", (DAY,)),
    ]


def test_the_table_has_no_other_row() -> None:
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


def test_the_first_seven_rows_are_those_of_afterimage() -> None:
    """Code that reads the list of alerts by position still works."""
    assert [rule.id for rule in ALERT_RULES[:7]] == [
        *("low_success_rate", "high_generation_time", "high_error_rate"),
        *(f"high_token_usage:{kind}" for kind in ("prompt", "completion", "total")),
        "long_conversations",
    ]


def test_every_threshold_argument_belongs_to_one_row() -> None:
    """Each ``alert_*`` threshold of the constructor sets exactly one alert."""
    arguments = [
        name
        for name in inspect.signature(GenerationMonitor).parameters
        if name.startswith("alert_") and name != "alert_handlers"
    ]
    assert sorted(rule.argument for rule in ALERT_RULES if rule.argument) == sorted(arguments)


def test_rows_of_the_same_name_differ_in_labels() -> None:
    """Alertmanager treats alerts with equal labels as one alert."""
    labels = [(rule.name, rule.severity, rule.labels) for rule in ALERT_RULES]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.id)
def test_rows_can_be_evaluated(rule: AlertRule) -> None:
    """The indicator has the row's labels, and the condition enough windows."""
    condition = rule.condition
    if condition.indicator is not None:
        assert condition.indicator in INDICATORS
        query = condition.indicator.query
        assert all(set(rule.by) <= set(part.instrument.labels) for part in query.parts)
        assert condition.min_samples == 1 or isinstance(query, Ratio)
    assert len(condition.windows) == 2 if isinstance(condition, Drop) else condition.windows
    assert all(window > 0 for window in condition.windows)


def test_only_alerts_on_targets_need_prometheus() -> None:
    """A process evaluates every other alert itself."""
    assert {rule.name for rule in ALERT_RULES if not rule.condition.is_local} == {
        "MonitorTargetDown",
        "MonitorPushStopped",
        "MonitorCollectorDown",
    }


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.id)
def test_rows_have_valid_names_and_texts(rule: AlertRule) -> None:
    """Name, id, subject and advice have their form."""
    assert re.fullmatch(r"[A-Z][A-Za-z]+", rule.name)
    assert re.fullmatch(r"[a-z_]+(:[a-z0-9]+)?", rule.id)
    assert rule.condition.subject[:1] == rule.condition.subject[:1].lower()
    assert rule.condition.finding("1", 0).endswith(".")
    assert rule.advice[0].isupper()
    assert rule.advice.endswith(".")


def test_critical_alerts_have_the_level_error() -> None:
    """AfterImage has two levels; all other severities are warnings."""
    for rule in ALERT_RULES:
        assert rule.level == ("error" if rule.severity == "critical" else "warning")
