"""What a job calls to record: the methods of ``GenerationMonitor`` that append and return."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from genmeter import clock
from genmeter.call.handle import GenerationHandle
from genmeter.events.answers import CallDetails
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
from genmeter.observed import blocks, gate
from genmeter.observed.model import ObservedCall
from genmeter.observed.observer import Observer, process_observer
from genmeter.observed.reported import claim
from genmeter.observed.steps import inside, step_or_current
from genmeter.pipeline.drain import WAKE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from genmeter.pipeline.drain import Pipeline
    from genmeter.session import Session

__all__ = ["Recording"]

_GENERATION = Raw.GENERATION
_NO_DETAILS = CallDetails()
_CONVERSATION = "conversation_generation"


class Recording:
    """Records what a job does; none of its methods raises, waits for a lock or does I/O.

    Args:
        pipeline: Drains what is appended here.
        session: The parts of the monitor that records.
        inline: Whether each event is drained at once, on the caller's thread.

    Attributes:
        observer: Records what something else observes of this monitor's calls.
    """

    def __init__(self, pipeline: Pipeline, session: Session, *, inline: bool) -> None:
        self._pipeline = pipeline
        self._session = session
        self._inline = inline
        self._inbox = pipeline.inbox
        self._append = pipeline.inbox.append
        self._observed_sink = _ObservedSink(pipeline, session, inline=inline)
        # Now rather than when it is needed, since two threads might make it at once.
        self.observer = session.observer = Observer(self._observed_sink)
        pipeline.add_turn_end(self.observer.expire)

    def track_generation(self, duration: float, success: bool, **kwargs: Any) -> None:
        """Record a model call that ended, or a conversation made of such calls.

        An event with neither model nor tokens, but with ``conversation_length``, ``turns`` or the
        operation ``conversation_generation``, is a conversation.

        Args:
            duration: Seconds that it took.
            success: Whether it succeeded; otherwise it counts as a failure.
            **kwargs: Any of these, each may be None: ``prompt_token_count``,
                ``completion_token_count``, ``total_token_count`` (by default the sum of the two),
                ``cache_read_token_count`` and ``cache_write_token_count`` (parts of the prompt),
                ``reasoning_token_count`` (part of the completion), ``model_name``,
                ``finish_reason``, ``error`` (an exception or a text), ``error_type``,
                ``conversation_length``, ``turns``, ``retries`` (a number, or a list with the cause
                of each), ``provider``, ``operation``, ``step``, ``modality``, and ``metadata`` (a
                dict; its ``operation`` is the step, its ``error_type`` the class of the error).
                For the price: ``response_model`` (that answered), ``service_tier`` (such as
                ``flex``), ``batch`` (True for the price of batches), ``cost`` (USD that the
                provider reported, which stands over the prices), and the counts
                ``cache_write_1h_token_count``, ``input_audio_token_count``,
                ``output_audio_token_count``, ``cache_read_audio_token_count`` (parts of those above;
                the same with ``image`` and ``video``) and ``search_count``. Other keywords are kept as
                data of the event; one that looks like a misspelt name is counted, and logged once.
        """
        try:
            metadata = kwargs.pop("metadata", None)
            if metadata is not None:
                metadata = capture_mapping(metadata)
            if inside() is not None:
                _put_step(kwargs, metadata)
            error_class = None
            if not are_atoms(kwargs.values()):
                error_class = capture_keywords(kwargs)
            if type(duration) is not float:
                duration = capture_number(duration)
            if type(success) is not bool:
                success = capture_bool(success)
            if blocks.markers and self._report(
                "genmeter.track_generation", duration, success, kwargs, metadata, error_class, None
            ):
                return
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
                    None,
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
        """Record an evaluation that ended.

        Args:
            duration: Seconds that it took.
            success: Whether it succeeded.
            evaluator_type: The kind of evaluator.
            scores: A number for each name (a str or an Enum member), or a dict with ``score``, and
                ``feedback`` and ``label`` (such as ``pass``; 128 characters) if any; may be empty.
            **kwargs: As in :meth:`track_generation`; tokens count as used by the evaluation.
        """
        try:
            metadata = kwargs.pop("metadata", None)
            if metadata is not None:
                metadata = capture_mapping(metadata)
            if inside() is not None:
                _put_step(kwargs, metadata)
            error_class = capture_keywords(kwargs)
            if blocks.markers:
                self._claim(kwargs, is_call=False, success=success)
            context = get_current()
            self._record(
                Raw.EVALUATION,
                capture_number(duration),
                capture_bool(success),
                capture_label(evaluator_type),
                capture_scores(scores),
                kwargs,
                metadata,
                error_class,
                _sampled(context) if context else None,
            )
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "track_evaluation", error)

    def record_metric(
        self, metric_name: str, value: float, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Record a value of a metric that the job defines.

        Args:
            metric_name: Any name. One of ``MonitorConfig.custom_metrics`` is recorded by its own
                instrument, any other by the three ``genmeter_custom_*`` metrics.
            value: A number.
            metadata: Data kept with the value; a ``timestamp`` (datetime) in it replaces the time
                of this call.
        """
        try:
            when = None
            if metadata is not None:
                copy = copy_mapping(metadata)  # before a datetime in it becomes text
                when = self._timestamp(copy)
                metadata = capture_mapping(copy)
            self._record(
                Raw.METRIC, capture_label(metric_name), capture_number(value), metadata, when=when
            )
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "record_metric", error)

    def record_sample(self, accepted: bool, reason: str | None = None) -> None:
        """Record an item of the data set that the job produced.

        Args:
            accepted: Whether the job keeps it.
            reason: Why it was rejected: a short word, since it becomes a label.
        """
        try:
            self._record(Raw.SAMPLE, capture_bool(accepted), capture_label(reason))
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "record_sample", error)

    def log_info(self, message: str, **data: Any) -> None:
        """Log a message of level ``info``: to the log handlers and to ``logging``.

        A message that a handler logs while it handles one would return to it without end, so it is
        dropped and counted as ``echo``.

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
            error: The exception, if any; it is logged as ``error`` and ``error_type``.
            **data: Further data.
        """
        if error is not None:
            data = {"error": safe_text(error), "error_type": class_name(type(error)), **data}
        self._log("error", message, data)

    def generation(
        self,
        model: str | None = None,
        step: str | None = None,
        *,
        provider: str | None = None,
        operation: str | None = None,
        service_tier: str | None = None,
        batch: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> GenerationHandle:
        """Time and record a model call: ``with monitor.generation(model=..., step=...) as call``.

        Also usable with ``async with``, and as a decorator of a function that returns the model's
        response or a stream of it, or that is a generator of its chunks.

        Args:
            model: The model that is called.
            step: The step of the pipeline; None means that of ``genmeter.step``, if any.
            provider: Who serves the model, such as ``openai``.
            operation: The kind of call, such as ``chat``.
            service_tier: The tier it is billed by, such as ``flex`` or ``priority``; a response
                that names its tier overrides it.
            batch: Whether it is billed at batch prices.
            metadata: Data for exports.
        """
        return GenerationHandle(
            self,
            model=model,
            step=step,
            provider=provider,
            operation=operation,
            service_tier=service_tier,
            batch=batch,
            metadata=metadata,
        )

    # --- inside ----------------------------------------------------------------------------------

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

    def record_call(
        self, duration: float, success: bool, keywords: dict[str, Any], details: CallDetails | None
    ) -> None:
        """Record a call of a handle: :meth:`track_generation` with ``details``; never raises."""
        try:
            metadata = keywords.pop("metadata", None)
            error_class = None
            if not are_atoms(keywords.values()):
                error_class = capture_keywords(keywords)
            if metadata is not None:
                metadata = capture_mapping(metadata)
            if blocks.markers and self._report(
                "genmeter.generation", duration, success, keywords, metadata, error_class, details
            ):
                return
            context = get_current()
            self._record(
                _GENERATION,
                duration,
                success,
                keywords,
                metadata,
                error_class,
                _sampled(context) if context else None,
                details,
            )
            if gate.is_guarded():  # so that the next call knows what this one used
                self._pipeline.wake()
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "generation", error)

    def _report(
        self,
        source: str,
        duration: Any,
        success: Any,
        keywords: dict[str, Any],
        metadata: Any,
        error_class: str | None,
        details: CallDetails | None,
    ) -> bool:
        """Record a call where others observe calls too; returns False if nobody does."""
        if _is_conversation(keywords, metadata):
            return False
        observer, observed = self._claim(keywords, is_call=True, success=success)
        if type(duration) is int:
            duration = float(duration)
        if observer is None or type(duration) is not float:
            return False
        if metadata is not None:
            keywords["metadata"] = metadata
        context = get_current()
        call = ObservedCall(
            source,
            clock.now(),
            duration,
            success,
            keywords,
            details or _NO_DETAILS,
            error_class,
            span=_sampled(context) if context else None,
        )
        observer.report(call, self._observed_sink, observed)
        return True

    def _claim(
        self, keywords: Mapping[str, Any], *, is_call: bool, success: Any
    ) -> tuple[Observer | None, list[ObservedCall]]:
        """Return the observer, and what was observed of a report; see :func:`.claim`."""
        observer: Observer | None = self.observer
        if not self.observer.is_fed:
            observer = process_observer()
        observed, others = claim(keywords, is_call=is_call, success=success is True)
        if observer is not None:
            if others:
                observer.add_unreported(others)
            if not is_call:
                observer.drop_reported(observed)
        return observer, observed

    def reject(self, what: str, value: object) -> None:
        """Count what could not be recorded, and log the first of its kind; never raises or waits."""
        self._pipeline.reject(Reason.INTERNAL, what, value)

    def misuse(self, key: str, message: str) -> None:
        """Log a warning once for each key; never raises or waits."""
        self._pipeline.notice(None, key, message)

    def open_call(self, handle: GenerationHandle) -> None:
        """Count a call as active; called by its handle."""
        state = self._session.state
        state.open_calls[weakref.ref(handle)] = None
        state.begun_calls.append(handle.labels)

    def close_call(self, handle: GenerationHandle) -> None:
        """Stop counting it as active; called by its handle."""
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

    def _refuse_events(self) -> None:
        """Count what is recorded from now on as rejected."""
        self._append = self._observed_sink.refuse = self._refuse

    def _refuse(self, event: tuple[Any, ...]) -> None:
        self._pipeline.reject(Reason.AFTER_SHUTDOWN, "event", str(event[0]))
        session = self._session
        if event[0] is _GENERATION and (len(session.budgets) or len(session.job_budgets)):
            # Or a loop to a budget would never end.
            self._inbox.append((Raw.CALL, session.refuse_event))


class _ObservedSink:
    """Where an observer records: a monitor's session, which it does not keep alive.

    Args:
        pipeline: Drains what is appended here.
        session: The parts of the monitor.
        inline: Whether each event is drained at once.

    Attributes:
        refuse: Set after the monitor's shutdown: called with each event.
    """

    def __init__(self, pipeline: Pipeline, session: Session, *, inline: bool) -> None:
        self._pipeline = pipeline
        self._session = session
        self._inline = inline
        self.refuse: Callable[[tuple[Any, ...]], object] | None = None

    def post(self, function: Callable[[], object]) -> None:
        try:
            if self.refuse is not None:
                self.refuse((_GENERATION,))
                return
            self._pipeline.post(function, inline=self._inline, may_drop=True)
            if gate.is_guarded():
                self._pipeline.wake()
        except Exception as error:
            self._pipeline.reject(Reason.INTERNAL, "observed call", error)

    @property
    def is_crowded(self) -> bool:
        return self._pipeline.is_crowded

    def run(self, function: Callable[[], object], timeout: float) -> None:
        self._pipeline.run(function, timeout)

    def record(self, call: ObservedCall) -> None:
        keywords = dict(call.keywords)
        metadata = keywords.pop("metadata", None)
        self._pipeline.record(
            (
                *(_GENERATION, self._session, call.ended, call.duration, call.success, keywords),
                *(metadata, call.error_class, call.span, call.details),
            )
        )

    def drop(self, reason: str) -> None:
        self._pipeline.self_metrics.count_repetition(reason)


def _is_conversation(keywords: dict[str, Any], metadata: Any) -> bool:
    """Return whether a ``track_generation`` may be of a whole conversation."""
    if "conversation_length" in keywords or "turns" in keywords:
        return True
    operation = lookup(metadata, "operation") if type(metadata) is dict else None
    return _CONVERSATION in (keywords.get("operation"), keywords.get("step"), operation)


def _put_step(keywords: dict[str, Any], metadata: Any) -> None:
    step = step_or_current(lookup(keywords, "step"), metadata)
    if step is not None:
        keywords["step"] = step


def _sampled(context: Context) -> SpanContext | None:
    # Keep only the ids, since a context is 6 KB, and only of a sampled span, since no other can
    # become an exemplar.
    span = get_current_span(context).get_span_context()
    return span if span.trace_flags.sampled else None
