"""Alerts: which fire, which are news, and how they reach the job's handlers."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from genmeter.catalogue import INSTRUMENTS
from genmeter.outputs.alerts.book import Alert, AlertBook
from genmeter.outputs.alerts.rules import RULES, WINDOW, AlertRule

if TYPE_CHECKING:
    from collections.abc import Mapping

START = 1_000_000.0

rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


class Means:
    """Summaries of metrics, as the history would give them."""

    def __init__(self, **means: float) -> None:
        self.means: dict[str, float] = means

    def __call__(self, metric: str) -> Mapping[str, float]:
        """Give the summary of a metric; empty where it has no mean."""
        if metric not in self.means:
            return {}
        mean = self.means[metric]
        return {"mean": mean, "min": mean, "max": mean, "count": 2}


def names(alerts: list[Alert]) -> list[str]:
    """Give the names of alerts."""
    return [alert.name for alert in alerts]


def beyond(rule: AlertRule) -> float:
    """Give a mean that is only just on the side where the rule fires."""
    return rule.default * (0.999 if rule.fires == "below" else 1.001)


# --- what fires ------------------------------------------------------------------------------------


def test_the_alerts_are_the_old_ones() -> None:
    """Names, thresholds, sides and levels are those of AfterImage's monitor."""
    table = {rule.name: (rule.metric, rule.fires, rule.default, rule.level) for rule in RULES}
    assert table == {
        "low_success_rate": ("success_rate", "below", 0.8, "warning"),
        "high_generation_time": ("generation_time", "above", 30, "warning"),
        "high_error_rate": ("error_rate", "above", 0.2, "error"),
        "high_token_usage:prompt": ("prompt_token_count", "above", 4096, "warning"),
        "high_token_usage:completion": ("completion_token_count", "above", 4096, "warning"),
        "high_token_usage:total": ("total_token_count", "above", 8192, "warning"),
        "long_conversations": ("conversation_length", "above", 2, "warning"),
    }
    assert WINDOW == 300


@rules
def test_an_alert_fires_beyond_its_threshold(rule: AlertRule) -> None:
    """A mean that is just past the default threshold fires this alert and no other."""
    (alert,) = AlertBook({}).evaluate(Means(**{rule.metric: beyond(rule)}), START)
    assert (alert.name, alert.level) == (rule.name, rule.level)


@rules
def test_an_alert_does_not_fire_at_its_threshold(rule: AlertRule) -> None:
    """A mean that equals the threshold is still good."""
    assert AlertBook({}).evaluate(Means(**{rule.metric: rule.default}), START) == []


@rules
def test_an_argument_moves_the_threshold(rule: AlertRule) -> None:
    """The rule's own argument of the monitor, 0 too, takes the default's place; None is the default."""
    means = Means(**{rule.metric: beyond(rule)})
    tolerant = 0 if rule.fires == "below" else rule.default * 2
    assert AlertBook({rule.argument: tolerant}).evaluate(means, START) == []
    assert names(AlertBook({rule.argument: None}).evaluate(means, START)) == [rule.name]
    strict = rule.default * 2 if rule.fires == "below" else 0
    good = Means(**{rule.metric: rule.default})
    assert names(AlertBook({rule.argument: strict}).evaluate(good, START)) == [rule.name]


def test_nothing_fires_without_a_sample() -> None:
    """Defect 6: a metric that was never recorded, or not in the window, has no mean that is low."""
    zeros = {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
    assert AlertBook({}).evaluate(lambda _: {}, START) == []
    assert AlertBook({}).evaluate(lambda _: zeros, START) == []


@rules
def test_an_alert_says_what_is_the_matter(rule: AlertRule) -> None:
    """The message has the mean, the threshold and a metric to look at, and data has the numbers."""
    summary = {"mean": beyond(rule), "min": 0.0, "max": 1e4, "count": 1}
    (alert,) = AlertBook({}).evaluate(
        lambda metric: summary if metric == rule.metric else {}, START
    )
    assert alert.data == {**summary, "threshold": rule.default}
    factor = 100 if rule.unit == "%" else 1
    assert f"is {beyond(rule) * factor:g} {rule.unit} over the last 5 minutes" in alert.message
    assert f"(1 sample), {rule.fires} the threshold" in alert.message
    assert f"threshold of {rule.default * factor:g} {rule.unit};" in alert.message
    assert rule.look_at in INSTRUMENTS
    assert set(rule.by) <= set(rule.look_at.labels)
    assert alert.message.partition("look at ")[2].startswith(rule.look_at.prometheus)


def test_a_message_as_a_person_reads_it() -> None:
    """A whole message: the mean, over what, the threshold, and where to look."""
    (alert,) = AlertBook({"alert_max_error_rate": 0.001}).evaluate(Means(error_rate=1 / 3), START)
    assert alert.message == (
        "error rate is 33.3333 % over the last 5 minutes (2 samples), above the threshold of "
        "0.1 %; look at gen_ai_client_inference_duration_seconds by error_type and "
        "gen_ai_request_model"
    )


def test_an_alert_is_made_as_the_old_one_was() -> None:
    """``Alert`` takes name, message, level, timestamp and data, in this order."""
    fields = [each.name for each in dataclasses.fields(Alert)]
    assert fields == ["name", "message", "level", "timestamp", "data"]
    when = datetime.now().astimezone()
    alert = Alert("a", "m", "warning", when, {"mean": 1.0})
    assert (alert.timestamp, alert.data["mean"]) == (when, 1.0)


def test_an_alert_knows_its_time_zone() -> None:
    """The time stamp is the evaluation's, in local time with its offset."""
    (alert,) = AlertBook({}).evaluate(Means(success_rate=0.0), START)
    assert alert.timestamp.timestamp() == START
    assert alert.timestamp.utcoffset() == alert.timestamp.astimezone().utcoffset() is not None


# --- what is news ----------------------------------------------------------------------------------


def test_an_alert_that_stays_true_is_sent_once() -> None:
    """Defect 7: an alert is sent when it starts to fire, and not at every later evaluation."""
    book, means = AlertBook({}), Means(success_rate=0.0)
    sent = [names(book.evaluate(means, START + 60 * turn)) for turn in range(100)]
    assert sent == [["low_success_rate"], *[[]] * 99]


@pytest.mark.parametrize("quiet", [{"success_rate": 1.0}, {}], ids=["good again", "no data"])
def test_an_alert_that_was_resolved_is_sent_again(quiet: dict[str, float]) -> None:
    """Once its condition did not hold, or had no data, an alert that starts again is news."""
    book, bad = AlertBook({}), Means(success_rate=0.0)
    assert names(book.evaluate(bad, START)) == ["low_success_rate"]
    assert book.evaluate(Means(**quiet), START + 1) == []
    assert names(book.evaluate(bad, START + 2)) == ["low_success_rate"]


def test_an_alert_that_stays_true_is_repeated_where_asked() -> None:
    """With a repeat interval it is sent again once that is over, counted from the last sending."""
    book, means = AlertBook({}, repeat=100.0), Means(success_rate=0.0)
    sent = {after: bool(book.evaluate(means, START + after)) for after in (0, 99, 110, 209, 210)}
    assert sent == {0: True, 99: False, 110: True, 209: False, 210: True}


def test_alerts_are_news_one_by_one() -> None:
    """That one alert fires neither silences nor repeats another."""
    book = AlertBook({})
    assert names(book.evaluate(Means(success_rate=0.0), START)) == ["low_success_rate"]
    both = Means(success_rate=0.0, error_rate=1.0)
    assert names(book.evaluate(both, START)) == ["high_error_rate"]
    assert book.evaluate(Means(error_rate=1.0), START) == []
    assert names(book.evaluate(both, START)) == ["low_success_rate"]


def test_what_is_forgotten_is_news() -> None:
    """A book that forgot sends what fires once more."""
    book, means = AlertBook({}), Means(success_rate=0.0)
    book.evaluate(means, START)
    book.forget()
    assert names(book.evaluate(means, START)) == ["low_success_rate"]
