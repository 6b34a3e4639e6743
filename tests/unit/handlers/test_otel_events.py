"""Results of evaluations as OpenTelemetry events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES, StrKey
from _log_records import Exported, elsewhere, set_up_logs, spanned
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

from genmeter.events.model import Call, Evaluation, Log, Score
from genmeter.handlers.otel_events import EvaluationEvents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import SpanContext

TOLD = 1_700_000_000.25


def evaluation(
    *scores: Score,
    error_type: str | None = None,
    step: str | None = None,
    passed: dict[str, Any] | None = None,
    span: SpanContext | None = None,
) -> Evaluation:
    """Return an evaluation by ``judge``; with a class of error it failed."""
    return Evaluation(
        time=TOLD,
        call=Call("chat", "_OTHER", "model", step, "unknown"),
        duration=1.0,
        success=error_type is None,
        evaluator="judge",
        error_type=error_type,
        scores=scores,
        input_tokens=None,
        output_tokens=None,
        total_tokens=None,
        cache_read_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        raw_kwargs=passed or {},
        span=span,
    )


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """Set up OpenTelemetry logs, as an application does."""
    with set_up_logs(monkeypatch) as exported:
        yield exported


def attributes(exported: Exported) -> list[dict[str, Any]]:
    """Return the attributes of each record, without the event's name."""
    found = [dict(record.attributes) for record in exported.records]
    for each in found:
        each.pop("event.name", None)
    return found


def test_each_score_is_an_event(exported: Exported) -> None:
    """The event has the conventions' name, value and explanation."""
    EvaluationEvents().take(
        [evaluation(Score("coherence", 0.5, "clear", "pass"), Score("safety", 1.0), step="judging")]
    )
    assert attributes(exported) == [
        {
            "gen_ai.evaluation.name": "coherence",
            "gen_ai.evaluation.score.value": 0.5,
            "gen_ai.evaluation.score.label": "pass",
            "gen_ai.evaluation.explanation": "clear",
            "genmeter.evaluator": "judge",
            "genmeter.step": "judging",
        },
        {
            "gen_ai.evaluation.name": "safety",
            "gen_ai.evaluation.score.value": 1.0,
            "genmeter.evaluator": "judge",
            "genmeter.step": "judging",
        },
    ]


def test_event_has_its_name(exported: Exported) -> None:
    """The name is a field of the record, or an attribute in releases without the field."""
    EvaluationEvents().take([evaluation(Score("coherence", 0.5))])
    (record,) = exported.records
    has_field = hasattr(LogRecord(), "event_name")
    assert getattr(record, "event_name", None) == (
        "gen_ai.evaluation.result" if has_field else None
    )
    assert record.attributes.get("event.name") == (
        None if has_field else "gen_ai.evaluation.result"
    )
    assert record.severity_number is SeverityNumber.INFO
    assert record.timestamp == int(TOLD * 1e9)
    assert exported.scopes == {"genmeter"}


def test_event_belongs_to_the_span_of_the_call(exported: Exported) -> None:
    """It has the ids of the evaluation's span, also on a thread with another span."""
    span = spanned()
    events = [evaluation(Score("a", 1.0), span=span), evaluation(Score("b", 1.0))]
    elsewhere(lambda: EvaluationEvents().take(events))
    assert [(each.trace_id, each.span_id) for each in exported.records] == [
        (span.trace_id, span.span_id),
        (0, 0),
    ]


def test_failure_has_its_class_in_every_event(exported: Exported) -> None:
    """Every score of a failed evaluation has the error's class."""
    EvaluationEvents().take(
        [evaluation(Score("a", 1.0), Score("b", 2.0), error_type="TimeoutError")]
    )
    assert [each["error.type"] for each in attributes(exported)] == ["TimeoutError"] * 2


def test_failure_without_scores_is_one_event(exported: Exported) -> None:
    """Its name is the evaluator's, and it has no value."""
    EvaluationEvents().take([evaluation(error_type="TimeoutError")])
    assert attributes(exported) == [
        {
            "gen_ai.evaluation.name": "judge",
            "error.type": "TimeoutError",
            "genmeter.evaluator": "judge",
        }
    ]


def test_success_without_scores_is_not_an_event(exported: Exported) -> None:
    """An evaluation without a score has no result."""
    EvaluationEvents().take([evaluation()])
    assert exported.records == []


@pytest.mark.parametrize("passed", [{"response_id": "r-1"}, {"metadata": {"response_id": "r-1"}}])
def test_event_has_the_response_id(exported: Exported, passed: dict[str, Any]) -> None:
    """The id, as a keyword or in the metadata, links the event to the call."""
    EvaluationEvents().take([evaluation(Score("a", 1.0), passed=passed)])
    assert attributes(exported)[0]["gen_ai.response.id"] == "r-1"


@pytest.mark.parametrize("case", VALUES)
def test_hostile_keywords_lose_no_event(exported: Exported, case: str) -> None:
    """With any value as the response's id, the events are valid for OTLP."""
    value = VALUES[case]
    EvaluationEvents().take(
        [
            evaluation(Score("a", 1.0), passed={"response_id": value}),
            evaluation(Score("b", 1.0), passed={"metadata": value}),
            evaluation(Score("c", 1.0), passed={StrKey("response_id"): value}),
        ]
    )
    assert [each["gen_ai.evaluation.name"] for each in attributes(exported)] == ["a", "b", "c"]
    assert encode_logs(exported.batch).SerializeToString()


def test_other_events_are_ignored(exported: Exported) -> None:
    """Only evaluations have results, and the subscriber wants no other events."""
    EvaluationEvents().take([Log(TOLD, "info", "done", {}, None)])
    assert exported.records == []
    assert EvaluationEvents.wants == (Evaluation,)


def test_missing_provider_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names the remedy."""
    subscriber = EvaluationEvents()
    subscriber.take([evaluation(Score("a", 1.0))])
    subscriber.take([evaluation(Score("a", 1.0))])
    (record,) = caplog.records
    assert "set_logger_provider()" in record.getMessage()
