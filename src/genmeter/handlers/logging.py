"""Forwards the job's log messages to the ``logging`` module and to OpenTelemetry logs.

A message of ``log_info``, ``log_warning`` or ``log_error`` becomes a record of the logger
``genmeter.job``, with the time of the call and the data as attributes. It is handled in the trace
context of the call, so that handlers and filters read the right span.

If the application has set a global OpenTelemetry ``LoggerProvider``, and neither that logger nor its
ancestors have a handler of OpenTelemetry's, the message also goes to the provider, regardless of
``logging`` levels. OpenTelemetry never gets it twice.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import SeverityNumber

from genmeter.events.jsonable import to_jsonable
from genmeter.events.model import Log
from genmeter.events.values import UNREADABLE
from genmeter.handlers._otel_logs import OtelLogs, attached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry._logs import Logger as OtelLogger

    from genmeter.events.model import Event

__all__ = ["LOGGER_NAME", "JobLog"]

LOGGER_NAME = "genmeter.job"
"""The logger whose level, handlers and filters apply to the job's messages."""

_LEVELS = {
    "info": (logging.INFO, SeverityNumber.INFO, "INFO"),
    "warning": (logging.WARNING, SeverityNumber.WARN, "WARN"),
    "error": (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
}
# The names that Logger.findCaller() uses for an unknown caller.
_NO_FILE = "(unknown file)"
_NO_FUNCTION = "(unknown function)"
_RESERVED = frozenset(dir(logging.makeLogRecord({}))) | {"", "asctime", "message", "taskName"}
_OTEL_HANDLERS = ("opentelemetry.sdk._logs", "opentelemetry.instrumentation.logging")


class JobLog:
    """Forwards the job's log messages to ``logging`` and OpenTelemetry; never raises."""

    name = "job_log"
    wants: tuple[type, ...] = (Log,)

    def __init__(self) -> None:
        self._logger = logging.getLogger(LOGGER_NAME)
        self._otel = OtelLogs()

    def take(self, events: Sequence[Event]) -> None:
        """Log the messages among the events; other events are ignored."""
        direct = None if _has_otel_handler(self._logger) else self._otel.logger()
        for event in events:
            if isinstance(event, Log):
                try:
                    self._take(event, direct)
                except UNREADABLE:  # e.g. from the application's own Logger class
                    _print_error(None)

    def _take(self, event: Log, direct: OtelLogger | None) -> None:
        level, severity, text = _LEVELS.get(event.level, _LEVELS["info"])
        is_enabled = self._logger.isEnabledFor(level)
        if not is_enabled and direct is None:
            return
        data = _attributes(event.data)
        if is_enabled:
            self._log(level, event, data)
        if direct is not None:
            self._otel.emit(
                direct,
                timestamp=event.time,
                severity=severity,
                severity_text=text,
                body=event.message,
                attributes=data,
                span=event.span,
            )

    def _log(self, level: int, event: Log, data: Mapping[str, Any]) -> None:
        record = None
        with attached(event.span):
            try:
                record = self._logger.makeRecord(
                    LOGGER_NAME, level, _NO_FILE, 0, event.message, (), None, _NO_FUNCTION
                )
                record.relativeCreated -= (record.created - event.time) * 1000
                record.created = event.time
                record.msecs = float(int((event.time - int(event.time)) * 1000))
                record.__dict__.update(data)
                self._logger.handle(record)
            except UNREADABLE:
                _print_error(record)


def _attributes(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's data as attributes; a name that every record has gets a ``_``."""
    plain: dict[str, Any] = to_jsonable(data)
    clashing = _RESERVED & plain.keys()
    if not clashing:
        return plain
    named = {}
    for key, value in plain.items():
        name = key
        while name in _RESERVED or (name != key and (name in plain or name in named)):
            name += "_"
        named[name] = value
    return named


def _has_otel_handler(logger: logging.Logger) -> bool:
    """Return whether a logger's records reach a handler of OpenTelemetry's.

    Compares names, so that nothing has to be imported. A handler behind another one, e.g. a queue's,
    is not found.
    """
    with contextlib.suppress(*UNREADABLE):  # from the application's own classes
        node: logging.Logger | None = logger
        while node is not None:
            for handler in node.handlers:
                if any(map(_is_otel_handler, type(handler).__mro__)):
                    return True
            node = node.parent if node.propagate else None
    return False


def _is_otel_handler(kind: type) -> bool:
    return kind.__name__ == "LoggingHandler" and str(kind.__module__).startswith(_OTEL_HANDLERS)


def _print_error(record: logging.LogRecord | None) -> None:
    """Print the current exception in the way that ``logging`` does."""
    with contextlib.suppress(*UNREADABLE):
        logging.Handler().handleError(record or logging.makeLogRecord({"name": LOGGER_NAME}))
