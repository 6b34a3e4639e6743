"""Results of evaluations as the event ``gen_ai.evaluation.result``.

The event is that of OpenTelemetry's semantic conventions for generative AI, in development
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-events.md). It
goes to the ``LoggerProvider`` that the application made the global one, one event for each score:

=================================  ==========================================================
attribute                          value
=================================  ==========================================================
``gen_ai.evaluation.name``         name of the score
``gen_ai.evaluation.score.value``  the score
``gen_ai.evaluation.explanation``  its feedback, where given
``gen_ai.response.id``             ``response_id`` of ``track_evaluation`` or of its metadata
``error.type``                     class of the error, where the evaluation failed
``genmeter.evaluator``             type of the evaluator
``genmeter.step``                  step of the pipeline, where known
=================================  ==========================================================

An evaluation that failed without a score is one event, whose required name is the evaluator's
type; one that succeeded without a score has no result to tell. The conventions want the event
within the span of the operation that was evaluated: it gets the span that was current when the
evaluation was told.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import SeverityNumber

from genmeter.events.model import Evaluation
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.handlers._otel_logs import OtelLogs
from genmeter.schema.metrics import ERROR_TYPE, EVALUATOR, SCORE_NAME, STEP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from genmeter.events.model import Event

__all__ = ["EVENT_NAME", "EvaluationEvents"]

_logger = logging.getLogger("genmeter")

EVENT_NAME = "gen_ai.evaluation.result"
"""The event's name, as the conventions have it."""

_VALUE = "gen_ai.evaluation.score.value"
_EXPLANATION = "gen_ai.evaluation.explanation"
_RESPONSE_ID = "gen_ai.response.id"
_MAX_ID = 256


class EvaluationEvents:
    """Emits an event for each score of an evaluation; never raises.

    A feedback can hold what a model wrote, so this is for those who ask for it.
    """

    name = "evaluation_events"
    wants: tuple[type, ...] = (Evaluation,)

    def __init__(self) -> None:
        self._otel = OtelLogs()
        self._has_warned = False

    def take(self, events: Sequence[Event]) -> None:
        """Emit the results of the evaluations among some events.

        Args:
            events: Clean events in their order; any but ``Evaluation`` are passed over.
        """
        logger = self._otel.logger()
        if logger is None:
            self._warn()
            return
        for event in events:
            if not isinstance(event, Evaluation):
                continue
            for attributes in _results(event):
                self._otel.emit(
                    logger,
                    timestamp=event.time,
                    severity=SeverityNumber.INFO,
                    attributes=attributes,
                    span=event.span,
                    event_name=EVENT_NAME,
                )

    def _warn(self) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        with contextlib.suppress(*UNREADABLE):
            _logger.warning(
                "evaluation_events is on, and no OpenTelemetry LoggerProvider is set up to take "
                "them; set one with opentelemetry._logs.set_logger_provider() or turn "
                "evaluation_events off"
            )


def _results(event: Evaluation) -> Iterator[dict[str, Any]]:
    """Return the attributes of each result; a value of None is dropped."""
    common = {
        ERROR_TYPE.key: event.error_type,
        _RESPONSE_ID: _response_id(event),
        EVALUATOR.key: event.evaluator,
        STEP.key: event.call.step,
    }
    for score in event.scores:
        yield {
            SCORE_NAME.key: score.name,
            _VALUE: score.value,
            _EXPLANATION: score.feedback,
            **common,
        }
    if not event.scores and not event.success:
        yield {SCORE_NAME.key: event.evaluator, **common}


def _response_id(event: Evaluation) -> str | None:
    try:
        given = event.raw_kwargs.get("response_id")
        if given is None:
            metadata = event.raw_kwargs.get("metadata")
            given = metadata.get("response_id") if type(metadata) is dict else None
    except UNREADABLE:  # a key that cannot be compared
        return None
    return None if given is None else safe_text(given, _MAX_ID) or None
