"""Emits results of evaluations as the event ``gen_ai.evaluation.result``.

The event is defined by OpenTelemetry's semantic conventions for generative AI, in development
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-events.md). It
is emitted to the application's global ``LoggerProvider``, once for each score:

=================================  ==========================================================
attribute                          value
=================================  ==========================================================
``gen_ai.evaluation.name``         name of the score
``gen_ai.evaluation.score.value``  the score
``gen_ai.evaluation.score.label``  its label, if any, such as ``pass``
``gen_ai.evaluation.explanation``  its feedback, if any
``gen_ai.response.id``             ``response_id`` of ``track_evaluation`` or of its metadata
``error.type``                     class of the error, if the evaluation failed
``genmeter.evaluator``             type of the evaluator
``genmeter.step``                  step of the pipeline, if known
=================================  ==========================================================

A failed evaluation without a score is one event, with the evaluator's type as its required name; a
successful one without a score has no result. By the conventions the event belongs to the span of
the operation that was evaluated: it gets the span that was current at ``track_evaluation``.
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
"""The event's name in the conventions."""

_VALUE = "gen_ai.evaluation.score.value"
_LABEL = "gen_ai.evaluation.score.label"
_EXPLANATION = "gen_ai.evaluation.explanation"
_RESPONSE_ID = "gen_ai.response.id"
_MAX_ID = 256


class EvaluationEvents:
    """Emits an event for each score of an evaluation; never raises.

    Off by default, because feedback can contain a model's output.
    """

    name = "evaluation_events"
    wants: tuple[type, ...] = (Evaluation,)

    def __init__(self) -> None:
        self._otel = OtelLogs()
        self._has_warned = False

    def take(self, events: Sequence[Event]) -> None:
        """Emit the results of the evaluations among the events; other events are ignored."""
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
                "evaluation_events is on, but no OpenTelemetry LoggerProvider is set; set one with "
                "opentelemetry._logs.set_logger_provider() or turn evaluation_events off"
            )


def _results(event: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each result; None values are dropped later."""
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
            _LABEL: score.label,
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
    except UNREADABLE:  # a key that raises when compared
        return None
    return None if given is None else safe_text(given, _MAX_ID) or None
