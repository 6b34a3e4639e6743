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

FOUR = 4  # calls that a rule looks at here


class Rule(NamedTuple):
    """An alert, its threshold, and keywords of calls that pass it and that just do not."""

    name: str
    level: str
    argument: str
    default: float
    passes: dict[str, Any]
    holds: dict[str, Any]
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


def tell(monitor: Any, calls: dict[str, Any]) -> None:
    """Tell four good calls with these keywords."""
    for _ in range(FOUR):
        monitor.track_generation(**{"duration": 1.0, "success": True, **calls})


def check(subject: Subject, monitor: Any) -> None:
    """Have the rules evaluated, over all that was told, and wait for what is sent."""
    subject.settle(monitor)
    monitor.check_alerts()
    subject.settle(monitor)


def assert_four(subject: Subject, alert: Any, mean: float) -> None:
    """Hold that an alert tells of four calls with this mean."""
    assert isinstance(alert, subject.module.Alert)
    assert alert.data["mean"] == pytest.approx(mean)
    assert alert.data["count"] == FOUR
    assert alert.data["min"] <= alert.data["mean"] <= alert.data["max"]
    assert isinstance(alert.timestamp, datetime)
    assert (alert.timestamp.tzinfo is not None) == subject.differs(
        old=False, new=True, why="a time stamp carries its offset"
    )
    assert isinstance(alert.message, str)
    assert alert.message


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_mean_past_its_default_sends_the_alert(subject: Subject, rule: Rule) -> None:
    """The alert has its old name and level, and the window's summary as its data."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    tell(monitor, rule.passes)
    check(subject, monitor)
    assert alerts.names() == [rule.name]
    assert alerts.alerts[0].level == rule.level
    assert_four(subject, alerts.alerts[0], rule.mean)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_mean_at_its_default_sends_nothing(subject: Subject, rule: Rule) -> None:
    """A mean that equals the threshold has not passed it."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    tell(monitor, rule.holds)
    check(subject, monitor)
    assert alerts.names() == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_threshold_can_be_set(subject: Subject, rule: Rule) -> None:
    """The argument moves the threshold, and 0 is a threshold, not the default."""
    quiet, loud = Alerts(), Alerts()
    high = subject.monitor(alert_handlers=[quiet], **{rule.argument: rule.default * 2})
    zero = subject.monitor(alert_handlers=[loud], **{rule.argument: 0})
    for monitor in (high, zero):
        tell(monitor, rule.passes)
        check(subject, monitor)
    assert quiet.names() == []
    assert rule.name in loud.names()


@pytest.mark.parametrize(
    ("failures", "names"), [(0, []), (1, ["low_success_rate", "high_error_rate"])]
)
def test_failures_send_two_alerts(subject: Subject, failures: int, names: list[str]) -> None:
    """A quarter of failed calls is too low a success rate and too high an error rate."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    for number in range(FOUR):
        is_bad = number < failures
        monitor.track_generation(1.0, not is_bad, error="late" if is_bad else None)
    check(subject, monitor)
    assert alerts.names() == names
    for alert, mean, level in zip(alerts.alerts, (0.75, 0.25), ("warning", "error"), strict=False):
        assert_four(subject, alert, mean)
        assert alert.level == level


def test_the_two_shares_have_thresholds(subject: Subject) -> None:
    """Both shares can be made as lax, or as strict, as the caller wants."""
    lax, strict = Alerts(), Alerts()
    first = subject.monitor(
        alert_handlers=[lax], alert_min_success_rate=0.5, alert_max_error_rate=0.5
    )
    second = subject.monitor(
        alert_handlers=[strict], alert_min_success_rate=0.95, alert_max_error_rate=0.05
    )
    for monitor in (first, second):
        for number in range(10):
            monitor.track_generation(1.0, number > 0, error="late" if number == 0 else None)
        check(subject, monitor)
    assert lax.names() == []
    assert strict.names() == ["low_success_rate", "high_error_rate"]


def test_one_failed_call_is_enough(subject: Subject) -> None:
    """There is no least number of calls, as in AfterImage."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    monitor.track_generation(1.0, False)
    check(subject, monitor)
    assert "low_success_rate" in alerts.names()


def test_handlers_may_be_replaced(subject: Subject) -> None:
    """A list that is put in place after construction is the one that is used."""
    before, after = Alerts(), Alerts()
    monitor = subject.monitor(alert_handlers=[before])
    monitor.alert_handlers = [after]
    tell(monitor, {"duration": 31.0})
    check(subject, monitor)
    assert before.names() == []
    assert after.names() == ["high_generation_time"]


def test_every_handler_gets_each_alert(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises keeps the alert from no other, and the failure is told."""

    def fails(alert: Any) -> None:
        raise RuntimeError("boom")

    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[fails, alerts])
    tell(monitor, {"duration": 31.0})
    warns = pytest.warns(UserWarning, match="boom") if subject.is_old else nullcontext()
    with warns, caplog.at_level(logging.WARNING):
        check(subject, monitor)
        assert eventually(alerts.came.is_set)
        if not subject.is_old:  # log lines of ours come a moment later, from another thread
            assert eventually(lambda: any("boom" in each.getMessage() for each in caplog.records))
    assert alerts.names() == ["high_generation_time"]
    told_by_log = any("boom" in record.getMessage() for record in caplog.records)
    assert told_by_log == subject.differs(
        old=False, new=True, why="the standard logging reports it, not a warning"
    )


def test_rules_are_evaluated_at_every_interval(subject: Subject) -> None:
    """With an interval the alerts come on their own."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts], metrics_interval=1)
    tell(monitor, {"duration": 31.0})
    assert alerts.came.wait(30)
    assert alerts.names()[0] == "high_generation_time"


def test_an_alert_message_has_value_and_threshold(subject: Subject) -> None:
    """The message holds the mean; ours also the threshold and where to look."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    tell(monitor, {"duration": 31.0})
    check(subject, monitor)
    message = alerts.alerts[0].message
    assert "generation time" in message
    assert "31" in message
    assert ("30" in message) == subject.differs(
        old=False, new=True, why="a message states the value and the threshold"
    )


def test_a_failed_conversation_is_not_a_failed_call(subject: Subject) -> None:
    """The rates are of calls of models; a conversation spans calls that are told on their own."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    for number in range(FOUR):
        monitor.track_generation(1.0, number > 0, metadata={"operation": "conversation_generation"})
    check(subject, monitor)
    assert alerts.names() == subject.differs(
        old=["low_success_rate"], new=[], why="a conversation is counted by its calls"
    )


def test_recorded_metrics_do_not_count_as_calls(subject: Subject) -> None:
    """A value that `record_metric` adds to an old name is in its window, and fires no alert of ours."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    tell(monitor, {})
    monitor.record_metric("error_rate", 1.0)
    check(subject, monitor)
    assert monitor.get_metrics("error_rate")["mean"] > 0
    assert alerts.names() == subject.differs(
        old=["high_error_rate"], new=[], why="alerts look at calls, as Prometheus's do"
    )


def test_a_slow_model_is_found_among_quick_ones(subject: Subject) -> None:
    """Durations and tokens are judged by model: the mean of all models hides a slow one."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    tell(monitor, {"duration": 1.0, "model_name": "quick"})
    monitor.track_generation(31.0, True, model_name="slow")
    check(subject, monitor)
    groups = [alert.data.get("group") for alert in alerts.alerts]
    assert groups == subject.differs(
        old=[], new=[{"gen_ai_request_model": "slow"}], why="one model must not hide another"
    )


def test_a_resolved_alert_is_sent_once_more(subject: Subject) -> None:
    """Ours sends an alert that is over once more, with a level that handlers of old pass over."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts], alert_max_error_rate=1.0)
    monitor.track_generation(1.0, False)
    check(subject, monitor)
    tell(monitor, {})
    check(subject, monitor)
    levels = [(alert.name, alert.level) for alert in alerts.alerts]
    assert levels == subject.differs(
        old=[("low_success_rate", "warning")],
        new=[("low_success_rate", "warning"), ("low_success_rate", "info")],
        why="a handler learns that the alert is over",
    )
