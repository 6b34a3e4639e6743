"""Emits records to the application's OpenTelemetry logs, if it has set them up.

The logs API changed twice within the supported releases: before 1.35 a record takes the ids of its
span, since 1.35 a context, and since 1.38 a logger takes the record's fields.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import Logger, LogRecord, get_logger_provider
from opentelemetry.context import attach, detach
from opentelemetry.trace import get_current_span

from genmeter._version import __version__
from genmeter.events.jsonable import jsonable_text
from genmeter.events.values import UNREADABLE
from genmeter.metrics.binding import context_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry._logs import SeverityNumber
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

__all__ = ["OtelLogs", "attached"]

_logger = logging.getLogger("genmeter")

_SCOPE = "genmeter"
_API = "opentelemetry._logs"
_EVENT_NAME = "event.name"
_EMIT_TAKES_FIELDS = "event_name" in inspect.signature(Logger.emit).parameters
_RECORD_TAKES_CONTEXT = "context" in inspect.signature(LogRecord).parameters


@contextmanager
def attached(span: SpanContext | None) -> Iterator[None]:
    """Make a span current; None means no span.

    None is needed because a thread that was started within a span may have inherited it.
    """
    token = attach(context_of(span))
    try:
        yield
    finally:
        detach(token)


class OtelLogs:
    """Writes to the application's global ``LoggerProvider``; never raises."""

    def __init__(self) -> None:
        self._has_failed = False

    def logger(self) -> Logger | None:
        """Return the logger to emit to; None if the application has not set up logs."""
        try:
            provider = get_logger_provider()
            # The API's own providers, the proxy and the no-op, discard records.
            if type(provider).__module__.startswith(_API):
                return None
            return provider.get_logger(_SCOPE, __version__)
        except UNREADABLE as error:
            self._report(error)
            return None

    def emit(
        self,
        logger: Logger,
        *,
        timestamp: float,
        severity: SeverityNumber,
        severity_text: str | None = None,
        body: str | None = None,
        attributes: Mapping[str, Any],
        span: SpanContext | None,
        event_name: str | None = None,
    ) -> None:
        """Emit a record; never raises.

        Args:
            logger: The result of :meth:`logger`.
            timestamp: Unix time in seconds.
            severity: The severity's number.
            severity_text: The severity's name.
            body: The message.
            attributes: Plain JSON values; None is dropped.
            span: The span that the record belongs to.
            event_name: The event's name; becomes the attribute ``event.name`` in releases whose
                records lack the field.
        """
        try:
            fields: dict[str, Any] = {
                "timestamp": int(timestamp * 1e9),
                "observed_timestamp": time.time_ns(),
                "severity_number": severity,
                "severity_text": severity_text,
                "body": body,
                "attributes": {key: each for key, each in attributes.items() if each is not None},
            }
            with attached(span):
                _emit(logger, fields, context_of(span), event_name)
        except UNREADABLE as error:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        # Only its class, since the text of an exporter's error may contain secret headers.
        with contextlib.suppress(*UNREADABLE):
            _logger.warning(
                "the application's OpenTelemetry logs rejected a record (%s); check the processors "
                "of its LoggerProvider; further failures are not logged",
                type(error).__name__,
            )


def _emit(logger: Logger, fields: dict[str, Any], context: Context, event_name: str | None) -> None:
    if _EMIT_TAKES_FIELDS:
        logger.emit(**fields, context=context, event_name=event_name)
        return
    # The SDK's class, because exporters of these releases read the resource from the record.
    record: Any = importlib.import_module("opentelemetry.sdk._logs").LogRecord
    fields["resource"] = getattr(logger, "resource", None)
    if _RECORD_TAKES_CONTEXT:
        logger.emit(record(**fields, context=context, event_name=event_name))
        return
    span = get_current_span(context).get_span_context()
    # Attributes of these releases cannot be a list or a dict.
    attributes = {
        key: jsonable_text(each) if isinstance(each, list | dict) else each
        for key, each in fields["attributes"].items()
    }
    if event_name is not None:
        attributes[_EVENT_NAME] = event_name
    fields.update(
        attributes=attributes,
        trace_id=span.trace_id,
        span_id=span.span_id,
        trace_flags=span.trace_flags,
    )
    logger.emit(record(**fields))
