"""The results of evaluations as events of the conventions."""

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
    told: dict[str, Any] | None = None,
    span: SpanContext | None = None,
) -> Evaluation:
    """Make an evaluation by ``judge``, which failed where it has a class of error."""
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
        raw_kwargs=told or {},
        span=span,
    )


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """Set up OpenTelemetry logs, as an application does."""
    with set_up_logs(monkeypatch) as exported:
        yield exported


def attributes(exported: Exported) -> list[dict[str, Any]]:
    """Give the attributes of each record, without the name of the event."""
    found = [dict(record.attributes) for record in exported.records]
    for each in found:
        each.pop("event.name", None)
    return found


def test_each_score_is_an_event_of_the_conventions(exported: Exported) -> None:
    """A score's event has the name, the value and the explanation that the conventions ask for."""
    EvaluationEvents().take(
        [evaluation(Score("coherence", 0.5, "clear"), Score("safety", 1.0), step="judging")]
    )
    assert attributes(exported) == [
        {
            "gen_ai.evaluation.name": "coherence",
            "gen_ai.evaluation.score.value": 0.5,
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


def test_an_event_says_its_name_where_the_release_has_it(exported: Exported) -> None:
    """The event's name is a field where records have it, and an attribute where they do not."""
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


def test_an_event_belongs_to_the_span_of_the_call(exported: Exported) -> None:
    """Delivered on a thread with another span, an event has the ids of the evaluation's own."""
    span = spanned()
    events = [evaluation(Score("a", 1.0), span=span), evaluation(Score("b", 1.0))]
    elsewhere(lambda: EvaluationEvents().take(events))
    assert [(each.trace_id, each.span_id) for each in exported.records] == [
        (span.trace_id, span.span_id),
        (0, 0),
    ]


def test_a_failure_names_its_class_in_every_event(exported: Exported) -> None:
    """An evaluation that failed after it gave scores says so with each of them."""
    EvaluationEvents().take(
        [evaluation(Score("a", 1.0), Score("b", 2.0), error_type="TimeoutError")]
    )
    assert [each["error.type"] for each in attributes(exported)] == ["TimeoutError"] * 2


def test_a_failure_without_scores_is_one_event(exported: Exported) -> None:
    """An evaluation that failed without a score is told by its evaluator's name, with no value."""
    EvaluationEvents().take([evaluation(error_type="TimeoutError")])
    assert attributes(exported) == [
        {
            "gen_ai.evaluation.name": "judge",
            "error.type": "TimeoutError",
            "genmeter.evaluator": "judge",
        }
    ]


def test_a_success_without_scores_is_no_event(exported: Exported) -> None:
    """An evaluation that gave no score has no result to tell."""
    EvaluationEvents().take([evaluation()])
    assert exported.records == []


@pytest.mark.parametrize("told", [{"response_id": "r-1"}, {"metadata": {"response_id": "r-1"}}])
def test_the_response_that_was_evaluated_is_named(exported: Exported, told: dict[str, Any]) -> None:
    """A response's id, as a keyword or in the metadata, ties the event to the call."""
    EvaluationEvents().take([evaluation(Score("a", 1.0), told=told)])
    assert attributes(exported)[0]["gen_ai.response.id"] == "r-1"


@pytest.mark.parametrize("case", VALUES)
def test_hostile_keywords_cost_no_event(exported: Exported, case: str) -> None:
    """Whatever stands where a response's id is looked for, the events go out and OTLP takes them."""
    value = VALUES[case]
    EvaluationEvents().take(
        [
            evaluation(Score("a", 1.0), told={"response_id": value}),
            evaluation(Score("b", 1.0), told={"metadata": value}),
            evaluation(Score("c", 1.0), told={StrKey("response_id"): value}),
        ]
    )
    assert [each["gen_ai.evaluation.name"] for each in attributes(exported)] == ["a", "b", "c"]
    assert encode_logs(exported.batch).SerializeToString()


def test_other_events_are_passed_over(exported: Exported) -> None:
    """Only evaluations have results, and the subscriber asks for no other event."""
    EvaluationEvents().take([Log(TOLD, "info", "told", {}, None)])
    assert exported.records == []
    assert EvaluationEvents.wants == (Evaluation,)


def test_without_a_provider_one_warning_says_what_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Events that can go nowhere cost one warning, which names the remedy."""
    subscriber = EvaluationEvents()
    subscriber.take([evaluation(Score("a", 1.0))])
    subscriber.take([evaluation(Score("a", 1.0))])
    (record,) = caplog.records
    assert "set_logger_provider()" in record.getMessage()
