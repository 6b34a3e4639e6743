"""What a monitor is told: from the caller's arguments to an event in the inbox, and no further."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from genmeter import clock
from genmeter.call import GenerationHandle
from genmeter.events.capture import (
    are_atoms,
    capture_bool,
    capture_keywords,
    capture_label,
    capture_mapping,
    capture_number,
    capture_scores,
    capture_time,
    class_name,
    copy_mapping,
    lookup,
)
from genmeter.events.model import Raw, Reason
from genmeter.events.values import Rejected, safe_text
from genmeter.handlers.dispatch import is_handing_out_logs
from genmeter.pipeline.drain import WAKE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from genmeter.pipeline.drain import Pipeline
    from genmeter.session import Session

__all__ = ["Telling"]

_GENERATION = Raw.GENERATION


class Telling:
    """The methods that tell; they never raise, wait for a lock or do I/O.

    Args:
        pipeline: Whose inbox the events go to.
        session: The monitor's own, which the drain hands them to.
        inline: Whether each event is drained in the call that tells it.
    """

    def __init__(self, pipeline: Pipeline, session: Session, *, inline: bool) -> None:
        self._pipeline = pipeline
        self._session = session
        self._inline = inline
        self._inbox = pipeline.inbox
        self._append = pipeline.inbox.append

    def track_generation(self, duration: float, success: bool, **kwargs: Any) -> None:
        """Tell of a call of a model that ended, or of a conversation that spans such calls.

        What has neither model nor tokens, but ``conversation_length``, ``turns`` or the operation
        ``conversation_generation``, is a conversation.

        Args:
            duration: Seconds that it took.
            success: Whether it succeeded; what is not a success is a failure.
            **kwargs: Any of these, each may be None: ``prompt_token_count``,
                ``completion_token_count``, ``total_token_count`` (the two parts together where
                it is left out), ``cache_read_token_count`` and ``cache_write_token_count`` (parts
                of the prompt), ``reasoning_token_count`` (part of the completion),
                ``model_name``, ``finish_reason``, ``error`` (an exception or a text),
                ``error_type``, ``conversation_length``, ``turns``, ``retries`` (a number, or a
                list of what caused each), ``provider``, ``operation``, ``step``, ``modality``,
                and ``metadata`` (a dict; its ``operation`` is the step, its ``error_type`` the
                class of the error). Further keywords are data for the log.
        """
        try:
            metadata = kwargs.pop("metadata", None)
            if metadata is not None:
                metadata = capture_mapping(metadata)
            error_class = None
            if not are_atoms(kwargs.values()):
                error_class = capture_keywords(kwargs)
            if type(duration) is not float:
                duration = capture_number(duration)
            if type(success) is not bool:
                success = capture_bool(success)
            context = get_current()
            self._append(
                (
                    _GENERATION,
                    self._session,
                    clock.now(),
                    duration,
                    success,
                    kwargs,
                    metadata,
                    error_class,
                    _sampled(context) if context else None,
                )
            )
            if len(self._inbox) >= WAKE or self._inline or not self._pipeline.is_running:
                self._pipeline.after_append(inline=self._inline)
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "track_generation", error)

    def track_evaluation(
        self,
        duration: float,
        success: bool,
        evaluator_type: str,
        scores: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        """Tell of an evaluation that ended.

        Args:
            duration: Seconds that it took.
            success: Whether it succeeded.
            evaluator_type: What evaluated.
            scores: By name (a str, or an Enum of them) a number, or a dict with ``score`` and
                ``feedback``; may be empty.
            **kwargs: As :meth:`track_generation` takes them; tokens count for the evaluation.
        """
        try:
            metadata = kwargs.pop("metadata", None)
            error_class = capture_keywords(kwargs)
            context = get_current()
            self._record(
                Raw.EVALUATION,
                capture_number(duration),
                capture_bool(success),
                capture_label(evaluator_type),
                capture_scores(scores),
                kwargs,
                None if metadata is None else capture_mapping(metadata),
                error_class,
                _sampled(context) if context else None,
            )
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "track_evaluation", error)

    def record_metric(
        self, metric_name: str, value: float, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Tell a value of a metric of the job's own.

        Args:
            metric_name: Any name; one of ``MonitorConfig.custom_metrics`` feeds its instrument,
                any other the three ``genmeter_custom_*`` metrics.
            value: A number.
            metadata: Data; a ``timestamp`` (datetime) in it replaces the time of the call.
        """
        try:
            when = None
            if metadata is not None:
                own = copy_mapping(metadata)  # before a datetime in it becomes text
                when = self._timestamp(own)
                metadata = capture_mapping(own)
            self._record(
                Raw.METRIC, capture_label(metric_name), capture_number(value), metadata, when=when
            )
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "record_metric", error)

    def record_sample(self, accepted: bool, reason: str | None = None) -> None:
        """Tell that the job made a sample, which is what it is for.

        Args:
            accepted: Whether it is kept.
            reason: Why it was rejected: a short word, since it becomes a label.
        """
        try:
            self._record(Raw.SAMPLE, capture_bool(accepted), capture_label(reason))
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "record_sample", error)

    def log_info(self, message: str, **data: Any) -> None:
        """Log a message of level ``info``: to the log handlers and to ``logging``.

        What one of those logs while it takes a message would come back to it without end, so that
        is left out, and counted as ``echo``.

        Args:
            message: What happened.
            **data: Further data.
        """
        self._log("info", message, data)

    def log_warning(self, message: str, **data: Any) -> None:
        """Log a message of level ``warning``.

        Args:
            message: What happened.
            **data: Further data.
        """
        self._log("warning", message, data)

    def log_error(self, message: str, error: BaseException | None = None, **data: Any) -> None:
        """Log a message of level ``error``.

        Args:
            message: What happened.
            error: The exception, if there is one; it becomes ``error`` and ``error_type``.
            **data: Further data.
        """
        if error is not None:
            data = {
                "error": safe_text(error),
                "error_type": class_name(type(error)),
                **data,
            }
        self._log("error", message, data)

    def generation(
        self,
        model: str | None = None,
        step: str | None = None,
        *,
        provider: str | None = None,
        operation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> GenerationHandle:
        """Time a call of a model: ``with monitor.generation(model=..., step=...) as g``.

        Also ``async with``, and a decorator of a function that returns the model's response.

        Args:
            model: The model that is asked.
            step: The step of the pipeline.
            provider: Who serves the model, such as ``openai``.
            operation: The kind of call, such as ``chat``.
            metadata: Data for exports.
        """
        return GenerationHandle(
            self,
            model=model,
            step=step,
            provider=provider,
            operation=operation,
            metadata=metadata,
        )

    def _log(self, level: str, message: str, data: dict[str, Any]) -> None:
        try:
            if is_handing_out_logs():
                self._pipeline.reject(Reason.ECHO, "log", message)
                return
            span = get_current_span().get_span_context()
            self._record(
                Raw.LOG,
                level,
                message if type(message) is str else safe_text(message) or "",
                capture_mapping(data),
                span if span.is_valid else None,
            )
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "log", error)

    def _record(self, kind: Raw, *payload: Any, when: float | None = None) -> None:
        self._append((kind, self._session, clock.now() if when is None else when, *payload))
        if len(self._inbox) >= WAKE or self._inline or not self._pipeline.is_running:
            self._pipeline.after_append(inline=self._inline)

    def _open_call(self, handle: GenerationHandle) -> None:
        state = self._session.state
        state.open_calls[weakref.ref(handle)] = None
        state.begun_calls.append(handle.labels)

    def _close_call(self, handle: GenerationHandle) -> None:
        self._session.state.open_calls.pop(weakref.ref(handle), None)

    def _timestamp(self, metadata: Any) -> float | None:
        stamp = lookup(metadata, "timestamp") if type(metadata) is dict else None
        if stamp is None:
            return None
        try:
            return capture_time(stamp)
        except Rejected as rejected:
            self._pipeline.reject(rejected.reason, "timestamp", stamp)
            return None

    def _refuse(self, event: tuple[Any, ...]) -> None:
        self._pipeline.reject(Reason.AFTER_SHUTDOWN, "event", str(event[0]))


def _sampled(context: Context) -> SpanContext | None:
    # The ids are kept, not the context, which holds on to 6 KB; and only where an exemplar can come
    # of it.
    span = get_current_span(context).get_span_context()
    return span if span.trace_flags.sampled else None
