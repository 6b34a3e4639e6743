"""The alerts of AfterImage's class and of ours: names, levels, data and thresholds."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from _compat import Alerts

from _waiting import eventually

if TYPE_CHECKING:
    from _compat import Subject

CALLS = 4  # recorded by each test


class Rule(NamedTuple):
    """An alert with keywords of calls above its threshold and equal to it."""

    name: str
    level: str
    argument: str
    default: float
    above: dict[str, Any]
    equal: dict[str, Any]
    mean: float


RULES = [
    Rule(
        "high_generation_time",
        "warning",
        "alert_max_generation_time_seconds",
        30,
        {"duration": 30.5},
        {"duration": 30.0},
        30.5,
    ),
    Rule(
        "high_token_usage:prompt",
        "warning",
        "alert_max_prompt_token_mean",
        4096,
        {"prompt_token_count": 4097},
        {"prompt_token_count": 4096},
        4097,
    ),
    Rule(
        "high_token_usage:completion",
        "warning",
        "alert_max_completion_token_mean",
        4096,
        {"completion_token_count": 4097},
        {"completion_token_count": 4096},
        4097,
    ),
    Rule(
        "high_token_usage:total",
        "warning",
        "alert_max_total_token_mean",
        8192,
        {"total_token_count": 8193},
        {"total_token_count": 8192},
        8193,
    ),
    Rule(
        "long_conversations",
        "warning",
        "alert_max_conversation_length_mean",
        2,
        {"conversation_length": 3},
        {"conversation_length": 2},
        3,
    ),
]


def record(monitor: Any, calls: dict[str, Any]) -> None:
    """Record four successful calls with these keywords."""
    for _ in range(CALLS):
        monitor.track_generation(**{"duration": 1.0, "success": True, **calls})


def check(subject: Subject, monitor: Any) -> None:
    """Evaluate the rules over all recorded calls, and wait until the alerts are sent."""
    subject.settle(monitor)
    monitor.check_alerts()
    subject.settle(monitor)


def assert_alert(subject: Subject, alert: Any, mean: float) -> None:
    """Assert that an alert summarises four calls with this mean."""
    assert isinstance(alert, subject.module.Alert)
    assert alert.data["mean"] == pytest.approx(mean)
    assert alert.data["count"] == CALLS
    assert alert.data["min"] <= alert.data["mean"] <= alert.data["max"]
    assert isinstance(alert.timestamp, datetime)
    assert (alert.timestamp.tzinfo is not None) == subject.differs(
        afterimage=False, ours=True, why="a timestamp has its offset"
    )
    assert isinstance(alert.message, str)
    assert alert.message


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_mean_above_the_threshold_sends_the_alert(subject: Subject, rule: Rule) -> None:
    """The alert has AfterImage's name and level, and the window's summary as its data."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    record(monitor, rule.above)
    check(subject, monitor)
    assert alerts.names() == [rule.name]
    assert alerts.alerts[0].level == rule.level
    assert_alert(subject, alerts.alerts[0], rule.mean)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_mean_equal_to_the_threshold_sends_nothing(subject: Subject, rule: Rule) -> None:
    """A mean equal to the threshold is not above it."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    record(monitor, rule.equal)
    check(subject, monitor)
    assert alerts.names() == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_threshold_can_be_set(subject: Subject, rule: Rule) -> None:
    """The argument sets the threshold, and 0 is a threshold, not the default."""
    quiet, loud = Alerts(), Alerts()
    high = subject.monitor(alert_handlers=[quiet], **{rule.argument: rule.default * 2})
    zero = subject.monitor(alert_handlers=[loud], **{rule.argument: 0})
    for monitor in (high, zero):
        record(monitor, rule.above)
        check(subject, monitor)
    assert quiet.names() == []
    assert rule.name in loud.names()


@pytest.mark.parametrize(
    ("failures", "names"), [(0, []), (1, ["low_success_rate", "high_error_rate"])]
)
def test_failures_send_two_alerts(subject: Subject, failures: int, names: list[str]) -> None:
    """With a quarter of the calls failed both rates are beyond their thresholds."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    for number in range(CALLS):
        failed = number < failures
        monitor.track_generation(1.0, not failed, error="late" if failed else None)
    check(subject, monitor)
    assert alerts.names() == names
    for alert, mean, level in zip(alerts.alerts, (0.75, 0.25), ("warning", "error"), strict=False):
        assert_alert(subject, alert, mean)
        assert alert.level == level


def test_rate_thresholds_can_be_set(subject: Subject) -> None:
    """The thresholds of both rates can be lower or higher than the defaults."""
    lax, strict = Alerts(), Alerts()
    first = subject.monitor(
        alert_handlers=[lax], alert_min_success_rate=0.5, alert_max_error_rate=0.5
    )
    second = subject.monitor(
        alert_handlers=[strict], alert_min_success_rate=0.95, alert_max_error_rate=0.05
    )
    for monitor in (first, second):
        for number in range(10):
            error = "late" if number == 0 else None
            monitor.track_generation(1.0, number > 0, error=error, total_token_count=20)
        check(subject, monitor)
    assert lax.names() == []
    assert strict.names() == ["low_success_rate", "high_error_rate"]


def test_one_failed_call_sends_the_alert(subject: Subject) -> None:
    """There is no minimum number of calls, as in AfterImage."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    monitor.track_generation(1.0, False)
    check(subject, monitor)
    assert "low_success_rate" in alerts.names()


def test_alert_handlers_may_be_replaced(subject: Subject) -> None:
    """A list assigned after construction is used."""
    before, after = Alerts(), Alerts()
    monitor = subject.monitor(alert_handlers=[before])
    monitor.alert_handlers = [after]
    record(monitor, {"duration": 31.0})
    check(subject, monitor)
    assert before.names() == []
    assert after.names() == ["high_generation_time"]


def test_every_handler_gets_each_alert(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises does not affect the others, and the failure is reported."""

    def fails(alert: Any) -> None:
        raise RuntimeError("boom")

    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[fails, alerts])
    record(monitor, {"duration": 31.0})
    warns = pytest.warns(UserWarning, match="boom") if subject.is_afterimage else nullcontext()
    with warns, caplog.at_level(logging.WARNING):
        check(subject, monitor)
        assert eventually(alerts.received.is_set)
        if not subject.is_afterimage:  # log lines of ours come a moment later, from another thread
            assert eventually(lambda: any("boom" in each.getMessage() for each in caplog.records))
    assert alerts.names() == ["high_generation_time"]
    logged = any("boom" in record.getMessage() for record in caplog.records)
    assert logged == subject.differs(
        afterimage=False, ours=True, why="the standard logging reports it, not a warning"
    )


def test_rules_are_evaluated_at_every_interval(subject: Subject) -> None:
    """With an interval alerts are sent without `check_alerts()`."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts], metrics_interval=1)
    record(monitor, {"duration": 31.0})
    assert alerts.received.wait(30)
    assert alerts.names()[0] == "high_generation_time"


def test_an_alert_message_has_value_and_threshold(subject: Subject) -> None:
    """The message has the mean, and in ours the threshold."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    record(monitor, {"duration": 31.0})
    check(subject, monitor)
    message = alerts.alerts[0].message
    assert "generation time" in message
    assert "31" in message
    assert ("30" in message) == subject.differs(
        afterimage=False, ours=True, why="a message states the value and the threshold"
    )


def test_a_failed_conversation_is_not_a_failed_call(subject: Subject) -> None:
    """The rates count model calls; a conversation spans calls that are recorded separately."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    for number in range(CALLS):
        monitor.track_generation(1.0, number > 0, metadata={"operation": "conversation_generation"})
    check(subject, monitor)
    assert alerts.names() == subject.differs(
        afterimage=["low_success_rate"], ours=[], why="a conversation is counted by its calls"
    )


def test_recorded_metrics_do_not_count_as_calls(subject: Subject) -> None:
    """A value recorded under AfterImage's metric name is in its window, but fires no alert of ours."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    record(monitor, {})
    monitor.record_metric("error_rate", 1.0)
    check(subject, monitor)
    assert monitor.get_metrics("error_rate")["mean"] > 0
    assert alerts.names() == subject.differs(
        afterimage=["high_error_rate"], ours=[], why="alerts look at calls, as Prometheus's do"
    )


def test_durations_are_evaluated_per_model(subject: Subject) -> None:
    """Durations and tokens are evaluated per model: the mean of all models hides a slow one."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    record(monitor, {"duration": 1.0, "model_name": "quick"})
    monitor.track_generation(31.0, True, model_name="slow")
    check(subject, monitor)
    groups = [alert.data.get("group") for alert in alerts.alerts]
    assert groups == subject.differs(
        afterimage=[],
        ours=[{"gen_ai_request_model": "slow"}],
        why="one model must not hide another",
    )


def test_a_resolved_alert_is_sent_once_more(subject: Subject) -> None:
    """Ours sends a resolved alert once more, at a level that existing handlers ignore."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts], alert_max_error_rate=1.0)
    monitor.track_generation(1.0, False)
    check(subject, monitor)
    record(monitor, {})
    check(subject, monitor)
    levels = [(alert.name, alert.level) for alert in alerts.alerts]
    assert levels == subject.differs(
        afterimage=[("low_success_rate", "warning")],
        ours=[("low_success_rate", "warning"), ("low_success_rate", "info")],
        why="a handler learns that the alert is over",
    )
