"""``GenAILogProcessor``: the calls of spans that are not sampled, from the conventions' log events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LogRecordProcessor

from genmeter import clock
from genmeter.events.values import UNREADABLE
from genmeter.observed.identity import current
from genmeter.observed.model import SpanNode
from genmeter.observed.steps import current_step
from genmeter.spans import names
from genmeter.spans._destination import Destination
from genmeter.spans.reading import operation_of, outside, read_event

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadWriteLogRecord

    from genmeter.monitor import GenerationMonitor

__all__ = ["GenAILogProcessor"]

_SAMPLED = 1
_NANO = 1e9


class GenAILogProcessor(LogRecordProcessor):
    """Turns the log events of GenAI instrumentations into calls, where spans are not sampled.

    ``logger_provider.add_log_record_processor(GenAILogProcessor(monitor))``. Instrumentations emit these
    events, ``gen_ai.client.inference.operation.details``, only with
    ``OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT=true``. An event has no duration. That of a sampled span is ignored,
    since :class:`GenAISpanProcessor` gets the span; so add both.

    Args:
        monitor: As in :class:`GenAISpanProcessor`, with which it shares the calls seen.

    Raises:
        ConfigError: ``monitor`` is not a monitor.
    """

    def __init__(self, monitor: GenerationMonitor | None = None) -> None:
        self._destination = Destination(monitor, "log event")

    def __repr__(self) -> str:
        return f"<GenAILogProcessor, {'shut down' if self._destination.is_shut else 'open'}>"

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Record the call that an event reports, if it is one; never raises."""
        if self._destination.is_shut:
            return
        try:
            self._take(log_record)
        except UNREADABLE as error:
            self._destination.reject(error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Record the waiting calls; returns whether it was done within ``timeout_millis``."""
        return self._destination.flush(timeout_millis)

    def shutdown(self) -> None:
        """Record the waiting calls, and ignore further events; the monitor stays open. Never raises."""
        self._destination.shut_down()

    def _take(self, log_record: ReadWriteLogRecord) -> None:
        record = log_record.log_record
        if record.event_name != names.DETAILS_EVENT:
            return
        attributes: Any = record.attributes or {}
        if operation_of(attributes) is None:
            return
        observer = self._destination.observer
        key = (record.trace_id or 0, record.span_id or 0)
        is_sampled = bool(int(record.trace_flags or 0) & _SAMPLED)
        if is_sampled or (key[1] and observer.open_spans.get(key) is not None):
            if not observer.has_spans:
                self._destination.monitor.misuse(
                    "log_event_of_span",
                    "a log event of a sampled call was ignored, since its span reports the call, but "
                    "no GenAISpanProcessor has seen a span; add one to the tracer provider",
                )
            observer.drop("log_event")
            return
        scope = log_record.instrumentation_scope
        source = scope.name if scope is not None and type(scope.name) is str else ""
        node = SpanNode(key, source, None) if key[1] else None
        stamp = record.timestamp or record.observed_timestamp
        ended = stamp / _NANO if stamp else clock.now()
        call = read_event(attributes, source, ended, node=node, step=current_step())
        if call is None:
            return
        block = self._destination.block()
        call = call._replace(identity=current() or outside(source))
        observer.observe_in(block if block is not None and block.is_open else None, call)
