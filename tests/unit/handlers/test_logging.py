"""The job's log messages in ``logging`` and in OpenTelemetry logs."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES, StrKey
from _log_records import Exported, current_span, elsewhere, set_up_logs, spanned
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.trace import INVALID_SPAN_CONTEXT, get_current_span

from genmeter.events.model import Log, Sample
from genmeter.handlers import _otel_logs as otel_logs
from genmeter.handlers._otel_logs import OtelLogs, attached
from genmeter.handlers.logging import LOGGER_NAME, JobLog
from genmeter.metrics.binding import NO_SPAN, context_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import SpanContext

TOLD = 1_700_000_000.25


def log(
    message: str = "done",
    level: str = "info",
    data: dict[str, Any] | None = None,
    span: SpanContext | None = None,
) -> Log:
    """Return a message of the job."""
    return Log(TOLD, level, message, {} if data is None else data, span)


class Kept(logging.Handler):
    """Keeps records, and the span in which each was handled."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.spans: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record."""
        self.records.append(record)
        self.spans.append(current_span())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return the job's logger without other handlers, enabled for every level."""
    logger = logging.getLogger(LOGGER_NAME)
    before = logger.level, logger.handlers[:], logger.propagate, logger.disabled
    logger.handlers, logger.propagate = [], False
    logger.setLevel(logging.DEBUG)
    try:
        yield logger
    finally:
        logger.level, logger.handlers, logger.propagate, logger.disabled = before
        logger.setLevel(before[0])


@pytest.fixture
def kept(logger: logging.Logger) -> Kept:
    """Return a handler of the job's logger that keeps its records."""
    handler = Kept()
    logger.addHandler(handler)
    return handler


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """Set up OpenTelemetry logs, as an application does."""
    with set_up_logs(monkeypatch) as exported:
        yield exported


@pytest.mark.parametrize(
    ("level", "number"),
    [
        ("info", logging.INFO),
        ("warning", logging.WARNING),
        ("error", logging.ERROR),
    ],
)
def test_message_keeps_its_level(kept: Kept, level: str, number: int) -> None:
    """A message is logged at its own level."""
    JobLog().take([log(level=level)])
    assert [record.levelno for record in kept.records] == [number]


def test_record_has_the_time_of_the_call(kept: Kept) -> None:
    """However late it is delivered, its times are those of the call."""
    JobLog().take([log()])
    (record,) = kept.records
    assert (record.created, record.msecs) == (TOLD, 250.0)
    other = logging.LogRecord("", 0, "", 0, "", (), None)
    start = other.created - other.relativeCreated / 1000
    assert record.relativeCreated == pytest.approx((TOLD - start) * 1000, abs=1)


def test_record_has_no_source_location(kept: Kept) -> None:
    """A record does not claim to come from a line of genmeter."""
    JobLog().take([log()])
    (record,) = kept.records
    assert (record.name, record.pathname, record.lineno, record.funcName) == (
        "genmeter.job",
        "(unknown file)",
        0,
        "(unknown function)",
    )


def test_data_become_attributes_of_the_record(kept: Kept) -> None:
    """A formatter finds the data under the caller's names."""
    JobLog().take(
        [log(data={"batch": 3, "error": "no", "error_type": "E", "parts": [1, {"a": 2}]})]
    )
    (record,) = kept.records
    text = logging.Formatter("%(message)s %(batch)d %(error_type)s %(parts)s").format(record)
    assert text == "done 3 E [1, {'a': 2}]"


def test_percent_sign_is_not_a_placeholder(kept: Kept) -> None:
    """A message is not a format string."""
    JobLog().take([log("100% of %s done")])
    assert kept.records[0].getMessage() == "100% of %s done"


@pytest.mark.parametrize(
    "name", ["name", "msg", "args", "message", "asctime", "taskName", "getMessage", "__dict__", ""]
)
def test_reserved_name_gets_an_underscore(kept: Kept, name: str) -> None:
    """Data never overwrite a record's attributes."""
    JobLog().take([log(data={name: "mine"})])
    (record,) = kept.records
    assert (record.name, record.getMessage()) == ("genmeter.job", "done")
    assert record.__dict__[f"{name}_"] == "mine"


def test_renamed_data_stay_distinct(kept: Kept) -> None:
    """A renamed key never overwrites other data."""
    JobLog().take([log(data={"name": 1, "name_": 2, "name__": 3, "msg_": 4, "msg": 5})])
    found = vars(kept.records[0])
    assert [found[key] for key in ("name___", "name_", "name__", "msg_", "msg__")] == [
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize("case", VALUES)
def test_hostile_data_arrive_as_plain_data(kept: Kept, exported: Exported, case: str) -> None:
    """Any value becomes data that a JSON formatter and OTLP can write."""
    value = VALUES[case]
    JobLog().take([log(data={"given": value, "args": value, StrKey("odd"): value}), log("next")])
    assert [record.getMessage() for record in kept.records] == ["done", "next"]
    (first, _) = kept.records
    assert json.dumps({key: vars(first)[key] for key in ("given", "args_", "odd")})
    assert [record.body for record in exported.records] == ["done", "next"]
    assert encode_logs(exported.batch).SerializeToString()


def test_disabled_logger_gets_nothing(kept: Kept, logger: logging.Logger) -> None:
    """A message below the logger's level, or of a disabled logger, is not handled."""
    subscriber = JobLog()
    logger.setLevel(logging.WARNING)
    subscriber.take([log("below"), log("above", "error")])
    logger.disabled = True
    subscriber.take([log("off", "error")])
    assert [record.msg for record in kept.records] == ["above"]


def test_logger_filters_apply(kept: Kept, logger: logging.Logger) -> None:
    """The application's filters apply to the job's records."""
    logger.addFilter(lambda record: record.msg != "not this")
    try:
        JobLog().take([log("not this"), log("this")])
    finally:
        logger.filters.clear()
    assert [record.msg for record in kept.records] == ["this"]


def test_other_events_are_ignored(kept: Kept) -> None:
    """Only messages are logged, and the subscriber wants no other events."""
    JobLog().take([Sample(TOLD, True, None), log()])
    assert len(kept.records) == 1
    assert JobLog.wants == (Log,)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_error_of_a_handler_is_printed(
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    exported: Exported,
    error: type[BaseException],
) -> None:
    """The error is printed as logging prints it, and delivery continues."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise error("broken")

    logger.addHandler(Broken())
    subscriber = JobLog()
    subscriber.take([log("one"), log("two")])
    assert capsys.readouterr().err.count("--- Logging error ---") == 2
    monkeypatch.setattr(logging, "raiseExceptions", False)
    subscriber.take([log("three")])
    assert capsys.readouterr().err == ""
    assert [record.body for record in exported.records] == ["one", "two", "three"]


def test_error_of_a_handler_without_stderr_is_ignored(
    logger: logging.Logger, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next message is still logged."""

    class Closed:
        def write(self, text: str) -> None:
            raise RuntimeError("closed")

    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(logger, "makeRecord", None)
    subscriber = JobLog()
    subscriber.take([log("lost")])
    monkeypatch.undo()
    subscriber.take([log("kept")])
    assert [record.msg for record in kept.records] == ["kept"]


def test_handlers_see_the_span_of_the_call(kept: Kept) -> None:
    """The caller's span is current on the delivering thread, which has another one."""
    span = spanned()
    elsewhere(lambda: JobLog().take([log(span=span), log()]))
    assert [each.trace_id for each in kept.spans] == [span.trace_id, 0]
    assert [each.span_id for each in kept.spans] == [span.span_id, 0]


def test_message_goes_to_logging_alone_without_opentelemetry_logs(kept: Kept) -> None:
    """Nothing is logged about the missing provider."""
    JobLog().take([log()])
    assert [record.msg for record in kept.records] == ["done"]


def test_opentelemetry_record_has_the_trace_of_the_call(kept: Kept, exported: Exported) -> None:
    """A provider gets the message with its time, severity, data and trace, from any thread."""
    span = spanned()
    data = {"batch": 3, "nothing": None, "name": "n"}
    elsewhere(lambda: JobLog().take([log("slow", "warning", data, span), log()]))
    first, second = exported.records
    assert (first.body, first.severity_number, first.severity_text) == (
        "slow",
        SeverityNumber.WARN,
        "WARN",
    )
    assert (first.trace_id, first.span_id) == (span.trace_id, span.span_id)
    assert first.trace_flags == span.trace_flags
    assert (second.trace_id, second.span_id) == (0, 0)
    assert first.timestamp == int(TOLD * 1e9)
    assert first.observed_timestamp > first.timestamp
    assert dict(first.attributes) == {"batch": 3, "name_": "n"}
    assert exported.scopes == {"genmeter"}
    assert exported.batch[0].log_record.body == kept.records[0].msg


def test_severity_matches_the_level(kept: Kept, exported: Exported) -> None:
    """Each level has the severity of OpenTelemetry's own handler."""
    JobLog().take([log(level=level) for level in ("info", "warning", "error")])
    assert [(each.severity_number, each.severity_text) for each in exported.records] == [
        (SeverityNumber.INFO, "INFO"),
        (SeverityNumber.WARN, "WARN"),
        (SeverityNumber.ERROR, "ERROR"),
    ]


def test_logging_levels_do_not_apply_to_opentelemetry_logs(
    logger: logging.Logger, kept: Kept, exported: Exported
) -> None:
    """The default level of logging does not drop a record for the provider."""
    logger.setLevel(logging.WARNING)
    JobLog().take([log()])
    assert kept.records == []
    assert [record.body for record in exported.records] == ["done"]


@pytest.mark.filterwarnings("ignore:.*LoggingHandler:DeprecationWarning")
@pytest.mark.parametrize("place", [LOGGER_NAME, "genmeter", ""])
def test_opentelemetry_handler_causes_no_duplicates(
    logger: logging.Logger, exported: Exported, place: str
) -> None:
    """With OpenTelemetry's handler on the logger or above it, a message is exported once."""
    logger.propagate = True
    handler = sdk_logs.LoggingHandler(logger_provider=exported.provider)
    logging.getLogger(place).addHandler(handler)
    span = spanned()
    try:
        elsewhere(lambda: JobLog().take([log(data={"batch": 3}, span=span)]))
    finally:
        logging.getLogger(place).removeHandler(handler)
    (record,) = exported.records
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    assert record.timestamp == int(TOLD * 1e9)
    assert record.attributes["batch"] == 3
    assert exported.scopes == {"genmeter.job"}


@pytest.mark.filterwarnings("ignore:.*LoggingHandler:DeprecationWarning")
def test_unreachable_opentelemetry_handler_is_ignored(
    logger: logging.Logger, exported: Exported
) -> None:
    """A handler that the job's records never reach does not keep them from the provider."""
    handler = sdk_logs.LoggingHandler(logger_provider=exported.provider)
    logging.getLogger().addHandler(handler)
    try:
        JobLog().take([log()])
    finally:
        logging.getLogger().removeHandler(handler)
    assert exported.scopes == {"genmeter"}
    assert len(exported.records) == 1


def test_instrumentation_handler_is_recognised_by_name(
    logger: logging.Logger, exported: Exported
) -> None:
    """The instrumentation's handler and its subclasses count as OpenTelemetry's."""
    module = "opentelemetry.instrumentation.logging.handler"
    base: Any = type("LoggingHandler", (logging.NullHandler,), {"__module__": module})
    logger.addHandler(type("Own", (base,), {})())
    JobLog().take([log()])
    assert exported.records == []


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return genmeter's own log messages."""
    return [record for record in caplog.records if record.name == "genmeter"]


def test_raising_provider_is_reported_once(
    kept: Kept,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning is logged, and logging gets every message."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(exported.provider, "get_logger", fail)
    subscriber = JobLog()
    subscriber.take([log()])
    subscriber.take([log()])
    assert len(kept.records) == 2
    (record,) = warnings_of(caplog)
    assert record.getMessage() == (
        "the application's OpenTelemetry logs rejected a record (RuntimeError); check the "
        "processors of its LoggerProvider; further failures are not logged"
    )


def test_raising_processor_is_reported_once(
    kept: Kept,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning is logged, and no other message is lost."""
    given = exported.provider.get_logger("genmeter")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(type(given), "emit", fail)
    JobLog().take([log(), log()])
    assert len(kept.records) == 2
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("takes_context", [False, True])
def test_releases_before_1_38_get_an_sdk_record(
    monkeypatch: pytest.MonkeyPatch, takes_context: bool
) -> None:
    """The record has the shape of its release."""
    monkeypatch.setattr(otel_logs, "_EMIT_TAKES_FIELDS", False)
    monkeypatch.setattr(otel_logs, "_RECORD_TAKES_CONTEXT", takes_context)
    monkeypatch.setattr(sdk_logs, "LogRecord", lambda **fields: fields, raising=False)
    made: list[dict[str, Any]] = []
    span = spanned()
    OtelLogs().emit(
        SimpleNamespace(emit=made.append, resource="resource"),
        timestamp=TOLD,
        severity=SeverityNumber.INFO,
        attributes={"nested": {"a": [1]}, "flat": 1},
        span=span,
        event_name="event",
    )
    (record,) = made
    assert (record["timestamp"], record["resource"]) == (int(TOLD * 1e9), "resource")
    nested = {"nested": {"a": [1]}, "flat": 1}
    flat = {"nested": '{"a":[1]}', "flat": 1, "event.name": "event"}
    ids = {"trace_id": span.trace_id, "span_id": span.span_id, "trace_flags": span.trace_flags}
    given = record.get("context", context_of(span))
    assert get_current_span(given).get_span_context() == span
    field = {"context": given, "event_name": "event"}
    wanted = {"attributes": nested, **field} if takes_context else {"attributes": flat, **ids}
    assert record.items() >= wanted.items()
    assert len(record) == 6 + len(wanted)


def test_header_in_an_error_is_not_logged(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of an exporter's error, which may quote headers, is not logged."""

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("Invalid header value b'Bearer hunter2'")

    monkeypatch.setattr(type(exported.provider.get_logger("genmeter")), "emit", fail)
    JobLog().take([log(), log()])
    (record,) = warnings_of(caplog)
    assert "ValueError" in record.getMessage()
    assert "hunter2" not in logging.Formatter().format(record)


def test_span_is_current_from_its_ids(kept: Kept, exported: Exported) -> None:
    """An event with only a span's ids is logged within that span, from any thread."""
    span = spanned()

    def emit() -> None:
        for given in (span, None):
            with attached(given):
                kept.emit(logging.makeLogRecord({}))
            otel = OtelLogs()
            logger = otel.logger()
            assert logger is not None
            otel.emit(
                logger,
                timestamp=TOLD,
                severity=SeverityNumber.INFO,
                attributes={},
                span=given,
            )

    elsewhere(emit)
    assert [each.span_id for each in kept.spans] == [span.span_id, 0]
    ids = [(each.trace_id, each.span_id, each.trace_flags) for each in exported.records]
    assert ids[0] == (span.trace_id, span.span_id, span.trace_flags)
    assert ids[1][:2] == (0, 0)


def test_context_from_ids_contains_only_the_span() -> None:
    """Missing and invalid ids are no span."""
    span = spanned()
    made = context_of(span)
    assert get_current_span(made).get_span_context() is span
    assert len(made) == 1
    assert context_of(None) is NO_SPAN
    assert not get_current_span(NO_SPAN).get_span_context().is_valid
    assert not get_current_span(context_of(INVALID_SPAN_CONTEXT)).get_span_context().is_valid


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)])
def test_any_error_of_a_provider_or_logger_is_caught(
    logger: logging.Logger,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    """Whatever the application's class raises, the next message is delivered."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(exported.provider, "get_logger", fail)
        JobLog().take([log("no provider")])
    with monkeypatch.context() as patch:
        patch.setattr(logger, "isEnabledFor", fail)
        JobLog().take([log("no level")])
    assert type(error).__name__ in capsys.readouterr().err
    odd: Any = type("LoggingHandler", (logging.NullHandler,), {"__module__": None})
    logger.addHandler(odd())
    JobLog().take([log("kept")])
    assert exported.records[-1].body == "kept"


def test_invalid_time_loses_only_its_record(
    exported: Exported, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning is logged, and other records are emitted."""
    JobLog().take([log("lost")._replace(time=float("inf")), log("kept")])
    assert [record.body for record in exported.records] == ["kept"]
    assert len(warnings_of(caplog)) == 1
