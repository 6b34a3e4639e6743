"""Arguments that AfterImage's class and ours pass to metric and log handlers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _compat import FailingMetrics, Logs, Metrics

from _waiting import eventually

if TYPE_CHECKING:
    from _compat import Subject

ORDER = [
    "generation_time",
    "success_rate",
    "error_rate",
    "model_usage:atlas",
    "finish_reason:stop",
    "prompt_token_count",
    "completion_token_count",
    "total_token_count",
    "conversation_length",
]


def record(monitor: Any) -> None:
    """Record a call with every keyword that is recorded as a metric."""
    monitor.track_generation(
        1.5,
        True,
        error=None,
        model_name="atlas",
        finish_reason="stop",
        prompt_token_count=10,
        completion_token_count=5,
        total_token_count=15,
        conversation_length=2,
    )


def test_a_call_reaches_the_metric_handler_in_afterimages_order(subject: Subject) -> None:
    """The handler gets every metric of a call with its value, in AfterImage's order."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[metrics])
    record(monitor)
    subject.settle(monitor)
    assert metrics.names() == ORDER
    assert [value for _, value, _ in metrics.rows] == [1.5, 1.0, 0.0, 1.0, 1.0, 10, 5, 15, 2]


def test_token_metrics_name_their_model(subject: Subject) -> None:
    """The metadata of token metrics have `model_name`, in ours those of every metric of a call."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[metrics])
    record(monitor)
    subject.settle(monitor)
    for name in ("prompt_token_count", "completion_token_count", "total_token_count"):
        assert metrics.one(name)[1]["model_name"] == "atlas"
    assert ("model_name" in metrics.one("generation_time")[1]) == subject.differs(
        afterimage=False, ours=True, why="a journal can be summed by model row by row"
    )


def test_all_metrics_of_a_call_share_a_timestamp(subject: Subject) -> None:
    """The timestamp is ISO 8601 and local; AfterImage's has no offset."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[metrics])
    before = datetime.now().astimezone()
    record(monitor)
    subject.settle(monitor)
    (stamp,) = {metadata["timestamp"] for _, _, metadata in metrics.rows}
    assert isinstance(stamp, str)
    time = datetime.fromisoformat(stamp)
    assert (time.tzinfo is not None) == subject.differs(
        afterimage=False, ours=True, why="a timestamp has its offset"
    )
    assert before - timedelta(seconds=1) <= time.astimezone() <= datetime.now().astimezone()


def test_an_evaluation_reaches_the_metric_handler(subject: Subject) -> None:
    """Scores have the evaluator and their feedback, the duration has the outcome."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[metrics])
    monitor.track_evaluation(
        0.5,
        True,
        "judge",
        {"coherence": 0.75, "grounding": {"score": 0.5, "feedback": "a bit thin"}},
        error=None,
        model_name="judge-mini",
        total_token_count=24,
    )
    subject.settle(monitor)
    assert metrics.names() == [
        "evaluation_time",
        "evaluation_score_coherence",
        "evaluation_score_grounding",
        "evaluation_error_rate",
        "total_token_count",
    ]
    _, metadata = metrics.one("evaluation_time")
    assert (metadata["evaluator_type"], metadata["success"]) == ("judge", True)
    value, metadata = metrics.one("evaluation_score_grounding")
    assert (value, metadata["evaluator_type"]) == (0.5, "judge")
    assert metadata["feedback"] == "a bit thin"
    assert metrics.one("evaluation_score_coherence")[1].get("feedback") is None
    assert metrics.one("evaluation_error_rate")[1]["evaluator_type"] == "judge"
    assert metrics.one("total_token_count")[1]["model_name"] == "judge-mini"


def test_record_metric_passes_its_metadata_to_the_handler(subject: Subject) -> None:
    """The handler gets the metadata of `record_metric` and the time."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[metrics])
    monitor.record_metric("model_creation_time", 2.5, {"model": "atlas", "shards": 4})
    subject.settle(monitor)
    value, metadata = metrics.one("model_creation_time")
    stamp = metadata.pop("timestamp")
    assert value == 2.5
    assert metadata == {"model": "atlas", "shards": 4}
    assert datetime.fromisoformat(stamp)


def test_a_callers_timestamp_reaches_the_handler(subject: Subject) -> None:
    """The handler gets a `timestamp` in the metadata unchanged."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[metrics])
    then = datetime.now() - timedelta(minutes=10)  # noqa: DTZ005 - AfterImage's class takes naive times
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    stamp = datetime.fromisoformat(metrics.one("m")[1]["timestamp"])
    assert abs(stamp.astimezone() - then.astimezone()) < timedelta(milliseconds=1)


def test_metric_handlers_are_called_with_keyword_arguments(subject: Subject) -> None:
    """A handler may declare the protocol's arguments in another order."""
    got = []

    class Swapped:
        """A handler with keyword-only arguments."""

        def handle_metric(
            self, *, value: float, metadata: dict[str, Any], metric_name: str
        ) -> None:
            """Keep name and value."""
            got.append((metric_name, value))

    monitor = subject.monitor(metric_handlers=[Swapped()])
    monitor.record_metric("m", 2.0)
    subject.settle(monitor)
    assert eventually(lambda: got) == [("m", 2.0)]


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_a_message_reaches_the_log_handler(subject: Subject, level: str) -> None:
    """The record has `level`, `message` and the caller's data as keys."""
    logs = Logs()
    monitor = subject.monitor(log_handlers=[logs])
    getattr(monitor, f"log_{level}")("model created", model="atlas", tries=3)
    subject.settle(monitor)
    assert logs.one("model created") == {
        "message": "model created",
        "level": level,
        "model": "atlas",
        "tries": 3,
    }


def test_an_exception_is_logged_as_text_and_class(subject: Subject) -> None:
    """`log_error` logs an exception as `error` and `error_type`, by position or by name."""
    logs = Logs()
    monitor = subject.monitor(log_handlers=[logs])
    monitor.log_error("first", TimeoutError("too slow"), step="answer")
    monitor.log_error("second", error=ValueError("no JSON"))
    monitor.log_error("third")
    subject.settle(monitor)
    first, second, third = (logs.one(name) for name in ("first", "second", "third"))
    assert (first["error"], first["error_type"]) == ("too slow", "TimeoutError")
    assert first["step"] == "answer"
    assert (second["error"], second["error_type"]) == ("no JSON", "ValueError")
    assert third == {"message": "third", "level": "error"}


def test_each_call_is_logged(subject: Subject) -> None:
    """The log handler gets the keywords of a call unchanged, with outcome and duration."""
    logs = Logs()
    monitor = subject.monitor(log_handlers=[logs])
    monitor.track_generation(
        1.5, True, model_name="atlas", turns=4, metadata={"operation": "answer"}, seed=7
    )
    subject.settle(monitor)
    record = logs.one("Generation metrics")
    data = dict(record["data"])
    stamp = data.pop("timestamp")
    assert record["level"] == "info"
    assert datetime.fromisoformat(stamp)
    assert data == {
        "duration": 1.5,
        "success": True,
        "model_name": "atlas",
        "turns": 4,
        "metadata": {"operation": "answer"},
        "seed": 7,
    }


def test_each_evaluation_is_logged(subject: Subject) -> None:
    """The log handler gets an evaluation's scores with their feedback."""
    logs = Logs()
    monitor = subject.monitor(log_handlers=[logs])
    scores = {"coherence": 0.75, "grounding": {"score": 0.5, "feedback": "a bit thin"}}
    monitor.track_evaluation(0.5, True, "judge", scores, sample=12)
    subject.settle(monitor)
    record = logs.one("Evaluation metrics")
    data = dict(record["data"])
    data.pop("timestamp")
    assert record["level"] == "info"
    assert data == {
        "duration": 0.5,
        "success": True,
        "evaluator_type": "judge",
        "scores": scores,
        "sample": 12,
    }


def test_an_object_reaches_the_handlers_as_its_text_at_the_call(subject: Subject) -> None:
    """Ours passes an object of another class as its text at the call; AfterImage's the object."""

    class Changing:
        """An object whose text changes."""

        def __init__(self) -> None:
            self.text = "as it was"

        def __str__(self) -> str:
            return self.text

    changing = Changing()
    logs, metrics = Logs(), Metrics()
    monitor = subject.monitor(log_handlers=[logs], metric_handlers=[metrics])
    monitor.log_info("here", changing=changing)
    monitor.record_metric("m", 1.0, {"changing": changing})
    changing.text = "changed"
    subject.settle(monitor)
    expected = subject.differs(
        afterimage=changing,
        ours="as it was",
        why="an object's text is read during the call, so that the object may change afterwards",
    )
    assert logs.one("here")["changing"] == expected
    assert metrics.one("m")[1]["changing"] == expected


def test_data_reaches_the_handlers_as_it_was_at_the_call(subject: Subject) -> None:
    """Ours passes a list as it was at the call; AfterImage's has items that were added later."""
    logs, metrics = Logs(), Metrics()
    monitor = subject.monitor(log_handlers=[logs], metric_handlers=[metrics])
    steps = ["a"]
    monitor.log_info("here", steps=steps)
    monitor.record_metric("m", 1.0, {"steps": steps})
    steps.append("b")
    subject.settle(monitor)
    expected = subject.differs(
        afterimage=["a", "b"],
        ours=["a"],
        why="the data of a call is copied during the call, so that it may change afterwards",
    )
    assert logs.one("here")["steps"] == expected
    assert metrics.one("m")[1]["steps"] == expected


def test_handlers_may_be_replaced(subject: Subject) -> None:
    """Lists assigned after construction are used."""
    metrics, logs = Metrics(), Logs()
    monitor = subject.monitor(metric_handlers=[Metrics()], log_handlers=[Logs()])
    monitor.metric_handlers = [metrics]
    monitor.log_handlers = [logs]
    monitor.record_metric("m", 1.0)
    monitor.log_info("here")
    subject.settle(monitor)
    assert metrics.names() == ["m"]
    assert logs.one("here")["level"] == "info"


def test_a_handler_may_be_added(subject: Subject) -> None:
    """A handler appended to the list gets later metrics."""
    first, second = Metrics(), Metrics()
    monitor = subject.monitor(metric_handlers=[first])
    monitor.record_metric("a", 1.0)
    subject.settle(monitor)
    monitor.metric_handlers.append(second)
    monitor.record_metric("b", 1.0)
    subject.settle(monitor)
    assert first.names() == ["a", "b"]
    assert second.names() == ["b"]


def test_a_failing_handler_does_not_affect_other_handlers(subject: Subject) -> None:
    """Handlers after one that raises get every metric, and so does the history."""
    metrics = Metrics()
    monitor = subject.monitor(metric_handlers=[FailingMetrics(), metrics])
    monitor.record_metric("a", 1.0)
    monitor.record_metric("b", 2.0)
    subject.settle(monitor)
    assert metrics.names() == ["a", "b"]
    assert monitor.get_metrics("b")["count"] == 1
