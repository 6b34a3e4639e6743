"""What telling makes: metric names, their values and samples, on AfterImage's class and on ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _compat import Subject

ONE = {"mean": 1.0, "min": 1.0, "max": 1.0, "count": 1}
NEVER = {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
OLD_NAMES = [
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
    """What `get_metrics` gives for one sample."""
    return {"mean": value, "min": value, "max": value, "count": 1}


def test_a_call_records_afterimages_metrics(subject: Subject) -> None:
    """Each known keyword of a call becomes the metric of its name, with its value."""
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
    """Scores, bare or with feedback, duration, outcome and tokens become the metrics of old."""
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
    """An evaluation without scores is told by its duration."""
    monitor = subject.monitor()
    monitor.track_evaluation(0.5, True, "judge", {})
    subject.settle(monitor)
    assert monitor.get_metrics("evaluation_time") == one(0.5)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_before_the_first_call_every_metric_is_zeros(subject: Subject, name: str) -> None:
    """A name that was never recorded gives zeros and a count of 0."""
    assert subject.monitor().get_metrics(name) == NEVER


@pytest.mark.parametrize(
    "metric", ["prompt_token_count", "completion_token_count", "total_token_count"]
)
def test_a_count_of_none_records_nothing(subject: Subject, metric: str) -> None:
    """Providers that tell no usage give None, which counts as nothing."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **{metric: None})
    subject.settle(monitor)
    assert monitor.get_metrics(metric) == NEVER


@pytest.mark.parametrize(
    ("keyword", "kind"), [("model_name", "model_usage"), ("finish_reason",) * 2]
)
def test_a_name_of_none(subject: Subject, keyword: str, kind: str) -> None:
    """None is not a name; the old class counts it under the name `None`."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **{keyword: None})
    subject.settle(monitor)
    assert monitor.get_metrics(f"{kind}:None")["count"] == subject.differs(
        old=1, new=0, why="None is not a name"
    )


@pytest.mark.parametrize("error", ["too slow", TimeoutError("too slow")])
def test_an_error_may_be_a_text_or_an_exception(subject: Subject, error: object) -> None:
    """Both count as a failed call."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, False, error=error)
    monitor.track_evaluation(1.0, False, "judge", {}, error=error)
    subject.settle(monitor)
    assert monitor.get_metrics("success_rate") == one(0.0)
    assert monitor.get_metrics("error_rate") == ONE
    assert monitor.get_metrics("evaluation_error_rate") == ONE


@pytest.mark.parametrize("error", [None, ""])
def test_a_falsy_error_is_none(subject: Subject, error: object) -> None:
    """A call that says `error=None` or an empty text is a good one."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, error=error)
    subject.settle(monitor)
    assert monitor.get_metrics("error_rate") == one(0.0)


def test_a_success_with_an_error_beside_it(subject: Subject) -> None:
    """Ours takes `success` for the outcome, whatever `error` says; the old one counts both."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, error="a warning of the provider's")
    subject.settle(monitor)
    assert monitor.get_metrics("success_rate") == ONE
    assert monitor.get_metrics("error_rate")["mean"] == subject.differs(
        old=1.0, new=0.0, defect=5, why="a failure is a call that did not succeed"
    )


def test_turns_metadata_and_further_keywords_make_no_metric(subject: Subject) -> None:
    """What is for the log does not become a metric of its own."""
    monitor = subject.monitor()
    monitor.track_generation(
        1.0, True, model_name="atlas", turns=4, metadata={"operation": "answer"}, seed=7
    )
    subject.settle(monitor)
    for name in ("turns", "metadata", "seed", "operation"):
        assert monitor.get_metrics(name) == NEVER


def test_the_length_of_a_conversation_from_turns(subject: Subject) -> None:
    """Where a call names neither model nor tokens, `turns` is its length; the old one ignores it."""
    monitor = subject.monitor()
    monitor.track_generation(9.0, True, turns=4)
    subject.settle(monitor)
    assert monitor.get_metrics("conversation_length") == subject.differs(
        old=NEVER, new=one(4), why="an agent's trace reports its length as turns only"
    )


def test_a_finish_reason_in_capitals(subject: Subject) -> None:
    """Asked for as it was told it is found, and ours finds it in any case."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, finish_reason="STOP")
    monitor.track_generation(1.0, True, finish_reason="STOP")
    subject.settle(monitor)
    assert monitor.get_metrics("finish_reason:STOP")["count"] == 2
    assert monitor.get_metrics("finish_reason:stop")["count"] == subject.differs(
        old=0, new=2, why="providers differ in case only"
    )


def test_a_finish_reason_that_is_an_enum(subject: Subject) -> None:
    """An Enum stands for its value; the old class has its class in the name."""

    class Finish(Enum):
        STOP = "STOP"

    monitor = subject.monitor()
    monitor.track_generation(1.0, True, finish_reason=Finish.STOP)
    subject.settle(monitor)
    name = subject.differs(
        old="finish_reason:Finish.STOP",
        new="finish_reason:stop",
        defect=10,
        why="an Enum is recorded by its value",
    )
    assert monitor.get_metrics(name) == ONE


def test_a_metric_that_the_caller_defines(subject: Subject) -> None:
    """`record_metric` keeps any name, and sums up its values."""
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
    """A job that records `error_rate` itself, as AfterImage's structured one does, is counted."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, error=None)
    monitor.record_metric("error_rate", 1.0)
    subject.settle(monitor)
    assert monitor.get_metrics("error_rate") == {"mean": 0.5, "min": 0.0, "max": 1.0, "count": 2}


def test_a_metric_may_bring_its_time(subject: Subject) -> None:
    """A `timestamp` in the metadata replaces the time of the call."""
    monitor = subject.monitor()
    then = datetime.now() - timedelta(minutes=10)  # noqa: DTZ005 - naive is what the old class takes
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    assert monitor.get_metrics("m") == {}
    assert monitor.get_metrics("m", timedelta(minutes=11)) == ONE


def test_a_time_with_its_zone(subject: Subject) -> None:
    """Ours takes a time stamp with a zone; a read of the old class raises on it from then on."""
    monitor = subject.monitor()
    monitor.record_metric("m", 1.0, {"timestamp": datetime.now(UTC)})
    subject.settle(monitor)
    with subject.breaks(TypeError, match="offset-naive and offset-aware"):
        assert monitor.get_metrics("m") == ONE


def test_changes_after_the_call_are_not_recorded(subject: Subject) -> None:
    """What was told stays as it was told, where the caller goes on using its dict."""
    monitor = subject.monitor()
    metadata: dict[str, Any] = {"model": "atlas"}
    monitor.record_metric("m", 1.0, metadata)
    metadata["model"] = "other"
    metadata.pop("timestamp", None)
    subject.settle(monitor)
    assert monitor.get_metrics("m") == ONE
    assert metadata == {"model": "other"}
