"""Names and values of recorded metrics in AfterImage's class and in ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _compat import Subject

ONE = {"mean": 1.0, "min": 1.0, "max": 1.0, "count": 1}
NEVER = {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
METRICS = [
    "generation_time",
    "success_rate",
    "error_rate",
    "model_usage:atlas",
    "finish_reason:stop",
    "prompt_token_count",
    "completion_token_count",
    "total_token_count",
    "conversation_length",
    "evaluation_time",
    "evaluation_score_coherence",
    "evaluation_error_rate",
]


def one(value: float) -> dict[str, float]:
    """Return the result of `get_metrics` for one sample."""
    return {"mean": value, "min": value, "max": value, "count": 1}


def test_a_call_records_afterimages_metrics(subject: Subject) -> None:
    """Each known keyword of a call is recorded as the metric of its name."""
    monitor = subject.monitor()
    monitor.track_generation(
        1.5,
        True,
        model_name="atlas",
        prompt_token_count=10,
        completion_token_count=5,
        total_token_count=16,
        finish_reason="stop",
        conversation_length=3,
        error=None,
    )
    subject.settle(monitor)
    assert monitor.get_metrics("generation_time") == one(1.5)
    assert monitor.get_metrics("success_rate") == ONE
    assert monitor.get_metrics("error_rate") == one(0.0)
    assert monitor.get_metrics("model_usage:atlas") == ONE
    assert monitor.get_metrics("finish_reason:stop") == ONE
    assert monitor.get_metrics("prompt_token_count") == one(10)
    assert monitor.get_metrics("completion_token_count") == one(5)
    assert monitor.get_metrics("total_token_count") == one(16)
    assert monitor.get_metrics("conversation_length") == one(3)


def test_an_evaluation_records_afterimages_metrics(subject: Subject) -> None:
    """Scores, duration, outcome and tokens are recorded under AfterImage's metric names."""
    monitor = subject.monitor()
    monitor.track_evaluation(
        0.5,
        True,
        "judge",
        {"coherence": 0.75, "grounding": {"score": 0.5, "feedback": "a bit thin"}},
        model_name="judge-mini",
        prompt_token_count=20,
        completion_token_count=4,
        total_token_count=24,
        error=None,
    )
    subject.settle(monitor)
    assert monitor.get_metrics("evaluation_time") == one(0.5)
    assert monitor.get_metrics("evaluation_score_coherence") == one(0.75)
    assert monitor.get_metrics("evaluation_score_grounding") == one(0.5)
    assert monitor.get_metrics("evaluation_error_rate") == one(0)
    assert monitor.get_metrics("prompt_token_count") == one(20)
    assert monitor.get_metrics("completion_token_count") == one(4)
    assert monitor.get_metrics("total_token_count") == one(24)
    assert monitor.get_metrics("generation_time") == NEVER
    assert monitor.get_metrics("success_rate") == NEVER


def test_scores_may_be_empty(subject: Subject) -> None:
    """An evaluation without scores records its duration."""
    monitor = subject.monitor()
    monitor.track_evaluation(0.5, True, "judge", {})
    subject.settle(monitor)
    assert monitor.get_metrics("evaluation_time") == one(0.5)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_zero_before_the_first_call(subject: Subject, name: str) -> None:
    """A metric that was never recorded has a count of 0 and zeros."""
    assert subject.monitor().get_metrics(name) == NEVER


@pytest.mark.parametrize(
    "metric", ["prompt_token_count", "completion_token_count", "total_token_count"]
)
def test_a_count_of_none_records_nothing(subject: Subject, metric: str) -> None:
    """A provider that reports no usage returns None, which is not recorded."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **{metric: None})
    subject.settle(monitor)
    assert monitor.get_metrics(metric) == NEVER


@pytest.mark.parametrize(
    ("keyword", "kind"), [("model_name", "model_usage"), ("finish_reason",) * 2]
)
def test_none_is_not_a_name(subject: Subject, keyword: str, kind: str) -> None:
    """None is not recorded; AfterImage's class records it under the name `None`."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **{keyword: None})
    subject.settle(monitor)
    assert monitor.get_metrics(f"{kind}:None")["count"] == subject.differs(
        afterimage=1, ours=0, why="None is not a name"
    )


@pytest.mark.parametrize("error", ["too slow", TimeoutError("too slow")])
def test_an_error_may_be_a_text_or_an_exception(subject: Subject, error: object) -> None:
    """Both are recorded as a failed call."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, False, error=error)
    monitor.track_evaluation(1.0, False, "judge", {}, error=error)
    subject.settle(monitor)
    assert monitor.get_metrics("success_rate") == one(0.0)
    assert monitor.get_metrics("error_rate") == ONE
    assert monitor.get_metrics("evaluation_error_rate") == ONE


@pytest.mark.parametrize("error", [None, ""])
def test_a_falsy_error_is_none(subject: Subject, error: object) -> None:
    """A call with `error=None` or an empty text is a success."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, error=error)
    subject.settle(monitor)
    assert monitor.get_metrics("error_rate") == one(0.0)


def test_a_successful_call_with_an_error_is_a_success(subject: Subject) -> None:
    """In ours `success` alone is the outcome; AfterImage's class counts a success and an error."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, error="a warning of the provider")
    subject.settle(monitor)
    assert monitor.get_metrics("success_rate") == ONE
    assert monitor.get_metrics("error_rate")["mean"] == subject.differs(
        afterimage=1.0, ours=0.0, why="a failure is a call that did not succeed"
    )


def test_other_keywords_are_not_recorded_as_metrics(subject: Subject) -> None:
    """Keywords for the log are not recorded as metrics."""
    monitor = subject.monitor()
    monitor.track_generation(
        1.0, True, model_name="atlas", turns=4, metadata={"operation": "answer"}, seed=7
    )
    subject.settle(monitor)
    for name in ("turns", "metadata", "seed", "operation"):
        assert monitor.get_metrics(name) == NEVER


def test_turns_are_the_length_of_a_conversation(subject: Subject) -> None:
    """If a call has neither model nor tokens, `turns` is its length; AfterImage's ignores it."""
    monitor = subject.monitor()
    monitor.track_generation(9.0, True, turns=4)
    subject.settle(monitor)
    assert monitor.get_metrics("conversation_length") == subject.differs(
        afterimage=NEVER, ours=one(4), why="an agent's trace reports its length as turns only"
    )


def test_finish_reasons_are_found_in_any_case(subject: Subject) -> None:
    """A finish reason is found as recorded, in ours in any case."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, finish_reason="STOP")
    monitor.track_generation(1.0, True, finish_reason="STOP")
    subject.settle(monitor)
    assert monitor.get_metrics("finish_reason:STOP")["count"] == 2
    assert monitor.get_metrics("finish_reason:stop")["count"] == subject.differs(
        afterimage=0, ours=2, why="providers differ in case only"
    )


def test_an_enum_finish_reason_is_recorded_by_its_value(subject: Subject) -> None:
    """An Enum is recorded by its value; AfterImage's class records the name of the Enum."""

    class Finish(Enum):
        STOP = "STOP"

    monitor = subject.monitor()
    monitor.track_generation(1.0, True, finish_reason=Finish.STOP)
    subject.settle(monitor)
    name = subject.differs(
        afterimage="finish_reason:Finish.STOP",
        ours="finish_reason:stop",
        why="an Enum is recorded by its value",
    )
    assert monitor.get_metrics(name) == ONE


def test_record_metric_accepts_any_name(subject: Subject) -> None:
    """`record_metric` accepts any name, and its values are summarised."""
    monitor = subject.monitor()
    for value in (2.0, 4.0, 9):
        monitor.record_metric("model_creation_time", value, {"model": "atlas"})
    monitor.record_metric("temperature", 0.7)
    subject.settle(monitor)
    assert monitor.get_metrics("model_creation_time") == {
        "mean": 5.0,
        "min": 2.0,
        "max": 9.0,
        "count": 3,
    }
    assert monitor.get_metrics("temperature") == one(0.7)


def test_values_may_be_added_to_afterimages_metrics(subject: Subject) -> None:
    """A job may record `error_rate` itself, as AfterImage's structured generator does."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, error=None)
    monitor.record_metric("error_rate", 1.0)
    subject.settle(monitor)
    assert monitor.get_metrics("error_rate") == {"mean": 0.5, "min": 0.0, "max": 1.0, "count": 2}


def test_record_metric_accepts_a_timestamp(subject: Subject) -> None:
    """A `timestamp` in the metadata replaces the time of the call."""
    monitor = subject.monitor()
    then = datetime.now() - timedelta(minutes=10)  # noqa: DTZ005 - AfterImage's class takes naive times
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    assert monitor.get_metrics("m") == {}
    assert monitor.get_metrics("m", timedelta(minutes=11)) == ONE


def test_a_timestamp_may_have_a_time_zone(subject: Subject) -> None:
    """Ours accepts a timestamp with a time zone; AfterImage's class raises at every later read."""
    monitor = subject.monitor()
    monitor.record_metric("m", 1.0, {"timestamp": datetime.now(UTC)})
    subject.settle(monitor)
    with subject.breaks(TypeError, match="offset-naive and offset-aware"):
        assert monitor.get_metrics("m") == ONE


def test_changes_after_the_call_are_not_recorded(subject: Subject) -> None:
    """The caller may change its dict after the call."""
    monitor = subject.monitor()
    metadata: dict[str, Any] = {"model": "atlas"}
    monitor.record_metric("m", 1.0, metadata)
    metadata["model"] = "other"
    metadata.pop("timestamp", None)
    subject.settle(monitor)
    assert monitor.get_metrics("m") == ONE
    assert metadata == {"model": "other"}
