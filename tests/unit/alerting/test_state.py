"""States of alerts, and the alerts that are sent."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.alerting.evaluate import Finding
from genmeter.alerting.state import Alert, AlertStates
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.schema.alerts import ALERT_RULES, AlertRule

if TYPE_CHECKING:
    from genmeter.schema.query import Group

START = 1_000_000.0
SETTINGS = AlertSettings(cost_budget=10.0, token_budget=1e6)
RULES = {rule.id: rule for rule in SETTINGS.rules()}
SLOW, ERRORS = RULES["high_generation_time"], RULES["high_error_rate"]

each_rule = pytest.mark.parametrize(
    "rule", [each for each in RULES.values() if each.condition.is_local], ids=lambda rule: rule.id
)


def finding_of(rule: AlertRule, *group: str | None, value: float = 50.0) -> Finding:
    """Return a finding of a rule for a group."""
    return Finding(rule, group, value, value, 2, 1.0, 99.0)


class States(AlertStates):
    """The states of one job, by seconds since the start."""

    def at(self, after: float, *found: Finding, has_receivers: bool = True) -> list[Alert]:
        """Update the states and return the alerts to send."""
        return self.update(found, START + after, job="j", has_receivers=has_receivers)

    def sent(
        self, after: float, *found: Finding, has_receivers: bool = True
    ) -> list[tuple[str, str]]:
        """Update the states and return name and status of the alerts to send."""
        return [
            (alert.name, alert.status)
            for alert in self.at(after, *found, has_receivers=has_receivers)
        ]


def states(repeat: float | None = None) -> States:
    """Return the states of the test's settings."""
    return States(SETTINGS, repeat)


def pending(rule: AlertRule, seconds: float) -> AlertRule:
    """Return a rule that waits for some seconds."""
    return dataclasses.replace(rule, for_=seconds)


FIRING, RESOLVED = (SLOW.id, "firing"), (SLOW.id, "resolved")


# --- sending ----------------------------------------------------------------------------------


def test_firing_alert_is_sent_once() -> None:
    """An alert is sent when it starts to fire, not at every later evaluation."""
    made, slow = states(), finding_of(SLOW, "m")
    assert [made.sent(60 * turn, slow) for turn in range(100)] == [[FIRING], *[[]] * 99]


def test_resolved_alert_is_sent_once() -> None:
    """An alert without a condition or data is resolved; if it fires again it is sent again."""
    made, slow = states(), finding_of(SLOW, "m")
    assert made.sent(0, slow) == [FIRING]
    assert made.sent(1) == [RESOLVED]
    assert made.sent(2) == []
    assert made.sent(3, slow) == [FIRING]


def test_alert_fires_after_its_condition_was_active_long_enough() -> None:
    """Before that it is pending; an inactive condition restarts the wait."""
    made, slow = states(), finding_of(pending(SLOW, 120.0), "m")
    assert made.sent(0, slow) == made.sent(119, slow) == []
    assert made.sent(119.5) == []  # a pending alert that ends is not sent
    assert made.sent(120, slow) == made.sent(239, slow) == []
    (alert,) = made.at(240, slow)
    assert alert.starts_at is not None
    assert alert.starts_at.timestamp() == START + 240


def test_firing_alert_is_repeated_after_the_interval() -> None:
    """The interval starts with the last time that the alert was sent."""
    made, slow = states(repeat=100.0), finding_of(SLOW, "m")
    sent = {after: bool(made.at(after, slow)) for after in (0, 99, 110, 209, 210)}
    assert sent == {0: True, 99: False, 110: True, 209: False, 210: True}


def test_clock_that_is_set_back_delays_no_alert() -> None:
    """Waits and repeats start at the new time."""
    late = finding_of(pending(SLOW, 120.0), "m")
    made = states(repeat=100.0)
    assert made.sent(7_200, late) == made.sent(0, late) == []
    assert made.sent(120, late) == [FIRING]
    assert made.sent(-7_200, late) == []
    assert made.sent(-7_100, late) == [FIRING]


@pytest.mark.parametrize("after", [[finding_of(SLOW, "m")], []], ids=["repeated", "resolved"])
def test_start_moves_with_a_clock_that_is_set_back(after: list[Finding]) -> None:
    """Alertmanager rejects alerts that end before they start."""
    made = states(repeat=1.0)
    assert made.sent(7_200, finding_of(SLOW, "m")) == [FIRING]
    (alert,) = [*made.at(0, *after), *made.at(10, *after)]
    assert alert.starts_at is not None
    assert alert.starts_at <= alert.timestamp


def test_repeated_alert_keeps_its_start() -> None:
    """Its timestamp changes, its start does not; nor does that of a resolved alert."""
    made, slow = states(repeat=10.0), finding_of(SLOW, "m")
    times = [made.at(after, *found)[0] for after, found in ((0, [slow]), (20, [slow]), (30, []))]
    assert [alert.timestamp.timestamp() - START for alert in times] == [0, 20, 30]
    assert {alert.starts_at.timestamp() - START for alert in times if alert.starts_at} == {0}


def test_alerts_are_sent_by_group() -> None:
    """A firing group or rule neither mutes, repeats nor resolves another."""
    made = states()
    first, second, other = finding_of(SLOW, "m"), finding_of(SLOW, "n"), finding_of(ERRORS)
    assert made.sent(0, first) == [FIRING]
    (alert,) = made.at(1, first, second)
    assert alert.data["group"] == {"gen_ai_request_model": "n"}
    assert made.sent(2, first, second, other) == [(ERRORS.id, "firing")]
    (alert,) = made.at(3, second, other)
    assert (alert.status, alert.data["group"]) == ("resolved", {"gen_ai_request_model": "m"})


def test_alert_without_receivers_is_sent_later() -> None:
    """An alert counts as sent, and is resolved, only if there was a receiver."""
    made, slow = states(), finding_of(SLOW, "m")
    assert made.sent(0, slow, has_receivers=False) == []
    assert made.sent(1, slow) == [FIRING]
    assert made.sent(2, slow, has_receivers=False) == []
    assert made.sent(3) == []
    assert made.sent(4, slow) == [FIRING]
    assert made.sent(5, has_receivers=False) == made.sent(6) == []


def test_forgotten_alerts_are_sent_again() -> None:
    """After a reset nothing is resolved, and firing alerts are sent again."""
    made, slow = states(), finding_of(SLOW, "m")
    made.at(0, slow)
    made.forget()
    assert made.sent(1) == []
    assert made.sent(2, slow) == [FIRING]


# --- firing ------------------------------------------------------------------------------------


def test_firing_alerts_are_counted_by_name() -> None:
    """Firing groups and rows of a name are counted; pending ones are not."""
    made = states()
    burns = [RULES["cost_budget_burn:warning"], RULES["cost_budget_burn:critical"]]
    rules = [SLOW, ERRORS, *burns]
    assert set(made.counts(rules).values()) == {0}
    made.at(
        0,
        finding_of(SLOW, "m"),
        finding_of(SLOW, "n"),
        finding_of(pending(ERRORS, 1)),
        *map(finding_of, burns),
    )
    assert made.counts(rules) == {SLOW.name: 2, ERRORS.name: 0, "CostBudgetBurn": 2}


def test_firing_returns_all_firing_alerts_with_their_newest_values() -> None:
    """Pending alerts are not included."""
    made = states()
    made.at(0, finding_of(SLOW, "m"), finding_of(pending(ERRORS, 60)))
    made.at(30, finding_of(SLOW, "m", value=70.0), finding_of(pending(ERRORS, 60)))
    (alert,) = made.firing(START + 30, "j")
    assert alert.data["value"] == 70.0
    assert alert.starts_at is not None
    assert alert.starts_at.timestamp() == START
    assert alert.timestamp.timestamp() == START + 30


# --- contents ----------------------------------------------------------------------------


def test_alert_accepts_afterimages_five_arguments() -> None:
    """``Alert`` takes name, message, level, timestamp and data; all others are optional."""
    fields = [each.name for each in dataclasses.fields(Alert)]
    assert fields[:5] == ["name", "message", "level", "timestamp", "data"]
    when = datetime.now().astimezone()
    alert = Alert("a", "m", "warning", when, {"mean": 1.0})
    assert (alert.timestamp, alert.data["mean"]) == (when, 1.0)
    assert (alert.status, alert.labels, alert.annotations, alert.starts_at) == (
        "firing",
        {},
        {},
        None,
    )


@each_rule
def test_alert_has_the_labels_of_its_prometheus_rule(rule: AlertRule) -> None:
    """Routes and silences fit both: name, severity, job, group and extra labels."""
    group: Group = tuple(f"value {number}" for number, _ in enumerate(rule.by))
    (alert,) = States(SETTINGS).at(0, finding_of(dataclasses.replace(rule, for_=0), *group))
    assert alert.name == rule.id
    assert alert.labels == {
        "alertname": rule.name,
        "severity": rule.severity,
        "job": "j",
        **{label.prometheus: text for label, text in zip(rule.by, group, strict=True) if text},
        **dict(rule.labels),
    }
    assert alert.annotations == rule.annotations(SETTINGS.runbook_url, alert.labels, 50.0)


def test_rows_have_alerts_with_distinct_labels() -> None:
    """Alertmanager distinguishes alerts by their labels only."""
    labels = [(row.name, row.severity, row.labels) for row in ALERT_RULES]
    assert len(set(labels)) == len(labels)


def test_absent_labels_are_omitted() -> None:
    """A group whose label is absent has no empty label, as in Prometheus."""
    (alert,) = states().at(0, finding_of(RULES["evaluation_failures"], None))
    assert "genmeter_evaluator" not in alert.labels
    assert alert.data["group"] == {}


def test_data_has_value_threshold_and_group() -> None:
    """AfterImage's four numbers and the threshold, plus value and group."""
    (alert,) = states().at(0, Finding(SLOW, ("m",), 31.0, 31.0, 2, 30.0, 32.0))
    assert alert.data == {
        "mean": 31.0,
        "min": 30.0,
        "max": 32.0,
        "count": 2,
        "threshold": 30.0,
        "value": 31.0,
        "group": {"gen_ai_request_model": "m"},
    }


def test_data_of_a_stall_is_in_seconds() -> None:
    """Value and threshold are in seconds."""
    (alert,) = states().at(0, finding_of(RULES["generation_stalled"], value=901.0))
    assert (alert.data["value"], alert.data["threshold"]) == (901.0, 900.0)


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        (
            Finding(SLOW, ("m",), 31.0, 31.0, 1, 31.0, 31.0),
            (
                "Mean generation time: 31.0 s in the last 5 minutes, above the threshold of 30 s. "
                "Look at the durations by model and step. (1 sample of m)"
            ),
        ),
        (
            Finding(ERRORS, (), 0.9997, 0.9997, 3_000, 0.0, 1.0),
            (
                "Error rate: 99.97% in the last 5 minutes, above the threshold of 20%. "
                "Look at the calls by error type and model. (3000 samples)"
            ),
        ),
        (
            Finding(RULES["cost_budget_burn:warning"], (), 8.5, 8.5, 1, 8.5, 8.5),
            (
                "Cost: 8.50 USD in the last 24 hours, above the threshold of 8 USD. "
                "Look at cost by model and step."
            ),
        ),
    ],
    ids=["a group", "the job", "a sum"],
)
def test_message_has_value_window_threshold_advice_and_samples(
    finding: Finding, message: str
) -> None:
    """Complete messages, firing and resolved."""
    made = states()
    (alert,) = made.at(0, finding)
    assert alert.message == message
    (alert,) = made.at(1)
    assert alert.message == f"resolved: {message}"


@each_rule
def test_resolved_alert_is_recognizable(rule: AlertRule) -> None:
    """Level and message differ, and the labels are those of the firing alert."""
    made = States(SETTINGS)
    found = finding_of(dataclasses.replace(rule, for_=0), *["x"] * len(rule.by))
    (fired,), (over,) = made.at(0, found), made.at(1)
    assert (fired.status, fired.level) == (
        "firing",
        "error" if rule.severity == "critical" else "warning",
    )
    assert (over.status, over.level) == ("resolved", "info")
    assert over.message.startswith("resolved: ")
    assert (over.name, over.labels, over.annotations) == (
        fired.name,
        fired.labels,
        fired.annotations,
    )


def test_severity_setting_changes_label_and_level() -> None:
    """An overridden severity is in the label and the level."""
    settings = AlertSettings(alerts={"high_error_rate": AlertOverride(severity="info")})
    (rule,) = [each for each in settings.rules() if each.id == "high_error_rate"]
    (alert,) = States(settings).at(0, finding_of(rule))
    assert (alert.level, alert.labels["severity"]) == ("warning", "info")


def test_timestamps_have_a_utc_offset() -> None:
    """Timestamps are in local time with its offset."""
    (alert,) = states().at(0, finding_of(ERRORS))
    times: list[Any] = [alert.timestamp, alert.starts_at]
    assert {each.timestamp() for each in times} == {START}
    assert all(each.utcoffset() is not None for each in times)
    assert alert.timestamp.utcoffset() == alert.timestamp.astimezone().utcoffset()
