"""Calls that tracing does not sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import OFFICIAL, OPENINFERENCE, Tracing, rows
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import genmeter
from genmeter import ConfigError, GenAILogProcessor, GenAISpanProcessor
from genmeter.spans.sampling import may_drop, name_of, unseen, unwrap_sampler, wrap_sampler
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT = "gen_ai.client.inference.operation.details"
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
}


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, DEFAULT_OFF, TraceIdRatioBased(0.0)])
def test_wrapped_sampler_records_calls_without_exporting_them(
    monitor: IsolatedMonitor, sampler: Any
) -> None:
    """Tracers that were made before are changed too; other spans stay dropped."""
    tracing = Tracing(GenAISpanProcessor(monitor), sampler=sampler)
    exporter = InMemorySpanExporter()
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.provider.get_tracer(OFFICIAL)
    assert wrap_sampler(tracing.provider)
    assert wrap_sampler(tracing.provider)
    tracing.end(tracing.start(0.0, scope="job"), 1.0)
    outer = tracing.begin(0.0)
    tracing.call(0.1, 0.9, scope=OPENINFERENCE, parent=outer)
    tracing.finish(outer, 1.0)
    assert len(rows(monitor)) == 1
    assert exporter.get_finished_spans() == ()
    unwrap_sampler(tracing.provider)
    tracing.call(2.0, 3.0)
    assert len(rows(monitor)) == 1
    assert tracing.provider.sampler is sampler


def test_sampled_spans_are_exported_as_before(monitor: IsolatedMonitor) -> None:
    """The wrapper changes nothing of what the sampler keeps."""
    tracing = Tracing(GenAISpanProcessor(monitor), sampler=ALWAYS_ON)
    exporter = InMemorySpanExporter()
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    wrap_sampler(tracing.provider)
    tracing.call()
    assert len(exporter.get_finished_spans()) == len(rows(monitor)) == 1


@pytest.mark.parametrize(
    ("sampler", "drops"),
    [
        (ALWAYS_ON, False),
        (TraceIdRatioBased(1.0), False),
        (DEFAULT_ON, True),
        (ALWAYS_OFF, True),
        (TraceIdRatioBased(0.5), True),
        (object(), True),
    ],
)
def test_may_drop(sampler: Any, drops: bool) -> None:
    """A parent-based sampler drops the children of what another process did not sample."""
    assert may_drop(sampler) is drops


def test_what_cannot_be_seen_is_named() -> None:
    """By the sampler's name, with the remedy."""
    provider = TracerProvider(sampler=TraceIdRatioBased(0.25), shutdown_on_exit=False)
    assert unseen(TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)) is None
    text = unseen(provider) or ""
    assert "TraceIdRatioBased{0.25}" in text
    assert "wrap_sampler" in text
    wrap_sampler(provider)
    assert "only at the end" in (unseen(provider) or "")
    assert "opentelemetry-sdk" in (unseen(trace.NoOpTracerProvider()) or "")
    assert wrap_sampler(trace.NoOpTracerProvider()) is False


class Hostile:
    """An object whose attributes raise."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_hostile_providers_and_samplers() -> None:
    """Never an exception."""
    assert "cannot be read" in (unseen(Hostile()) or "")
    assert wrap_sampler(Hostile()) is False
    unwrap_sampler(Hostile())
    assert name_of(Hostile()) == "Hostile"


# --- said at the start -----------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was said before."""
    monkeypatch.setattr("genmeter.spans.notice._said", set())


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("sampler", [ALWAYS_OFF, DEFAULT_OFF, TraceIdRatioBased(0.25)])
def test_processor_that_is_added_says_what_the_sampler_hides(
    caplog: pytest.LogCaptureFixture, sampler: Any
) -> None:
    """At once, since there may never be a span; once for each sampler."""
    with isolated_monitor() as monitor:
        for processor in (GenAISpanProcessor(monitor), GenAISpanProcessor()):
            provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
            provider.add_span_processor(span_processor=processor)
            processor.shutdown()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"the sampler {sampler.get_description()} drops are not seen as spans" in caplog.text
    assert "wrap_sampler(provider)" in caplog.text


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize(
    "sampler", [ALWAYS_ON, DEFAULT_ON, TraceIdRatioBased(1.0), StaticSampler(Decision.RECORD_ONLY)]
)
def test_processor_of_a_provider_whose_spans_are_all_recorded_says_nothing(
    caplog: pytest.LogCaptureFixture, monitor: IsolatedMonitor, sampler: Any
) -> None:
    """Also if none of them is sampled."""
    tracing = Tracing(GenAISpanProcessor(monitor), sampler=sampler)
    tracing.call()
    assert len(rows(monitor)) == 1
    assert caplog.text == ""


@pytest.mark.usefixtures("said")
def test_wrapped_sampler_says_what_remains(caplog: pytest.LogCaptureFixture) -> None:
    """The instrumentations that mark their calls late."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    wrap_sampler(provider)
    provider.add_span_processor(GenAISpanProcessor())
    assert "drops are seen, except those of instrumentations" in caplog.text


class Wrapper(SpanProcessor):
    """A processor of somebody else around ours, as logfire has."""

    def __init__(self, inner: GenAISpanProcessor) -> None:
        self.on_start = inner.on_start  # type: ignore[method-assign]
        self.on_end = inner.on_end  # type: ignore[method-assign]


@pytest.mark.usefixtures("said")
def test_processor_in_a_wrapper_says_it_at_the_first_call(
    caplog: pytest.LogCaptureFixture, monitor: IsolatedMonitor
) -> None:
    """If there is one."""
    provider = TracerProvider(sampler=TraceIdRatioBased(0.9999999), shutdown_on_exit=False)
    provider.add_span_processor(Wrapper(GenAISpanProcessor(monitor)))
    assert caplog.text == ""
    for _ in range(3):
        provider.get_tracer("x").start_span("chat", attributes=CALL).end()
    monitor.flush()
    assert caplog.text.count("TraceIdRatioBased{0.9999999} drops are not seen") == 1


@pytest.mark.usefixtures("said")
def test_hostile_sampler_says_something_or_nothing(
    caplog: pytest.LogCaptureFixture, monitor: IsolatedMonitor
) -> None:
    """The processor is added whatever the provider's sampler is."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.sampler = Hostile()  # type: ignore[assignment]
    provider.add_span_processor(GenAISpanProcessor(monitor))
    assert "Hostile" in caplog.text


# --- log events ------------------------------------------------------------------------------------


class Logs:
    """A logger provider that feeds a monitor."""

    def __init__(self, processor: GenAILogProcessor) -> None:
        self.processor = processor
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(processor)

    def emit(
        self,
        *,
        flags: int = 0,
        key: tuple[int, int] = (7, 9),
        at: float = 1.0,
        event: str = EVENT,
        scope: str = OFFICIAL,
        **more: Any,
    ) -> None:
        """Emit a log event."""
        context = Context()
        if key[1]:
            span = SpanContext(*key, is_remote=False, trace_flags=TraceFlags(flags))
            context = trace.set_span_in_context(NonRecordingSpan(span), context)
        attributes = CALL | {name.replace("__", "."): value for name, value in more.items()}
        stamp = 1_790_000_000 * 10**9 + int(at * 1e9)
        self.provider.get_logger(scope).emit(
            LogRecord(timestamp=stamp, context=context, event_name=event, attributes=attributes)
        )


@pytest.fixture
def logs(monitor: IsolatedMonitor) -> Iterator[Logs]:
    """Return logs that feed the monitor."""
    processor = GenAILogProcessor(monitor)
    yield Logs(processor)
    processor.shutdown()


@pytest.mark.parametrize("flags", [0, 2])
def test_event_of_an_unsampled_span_is_a_call(
    logs: Logs, monitor: IsolatedMonitor, flags: int
) -> None:
    """Without a duration, which is unknown and never 0."""
    logs.emit(flags=flags)
    (row,) = rows(monitor)
    assert (row["input_tokens"], row["duration_seconds"]) == (10, None)
    assert row["time"].timestamp() == pytest.approx(1_790_000_001.0)
    assert monitor.value("genmeter_monitor_events_total", genmeter_result="rejected") == 0


def test_event_without_a_span_is_a_call(logs: Logs, monitor: IsolatedMonitor) -> None:
    """Tracing is off altogether: each event is a call of its own."""
    logs.emit(key=(0, 0))
    logs.emit(key=(0, 0), at=2.0)
    assert len(rows(monitor)) == 2


@pytest.mark.parametrize("flags", [1, 3])
def test_event_of_a_sampled_span_is_ignored(
    logs: Logs, monitor: IsolatedMonitor, flags: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Its span reports the call; the log says so if nobody reads spans."""
    logs.emit(flags=flags)
    assert rows(monitor) == []
    assert monitor.value("genmeter_monitor_repetitions_total", genmeter_reason="log_event") == 1
    monitor.shutdown()
    assert "GenAISpanProcessor" in caplog.text


@pytest.mark.parametrize("is_before", [True, False])
def test_event_and_recorded_span_are_one_call(
    logs: Logs, monitor: IsolatedMonitor, is_before: bool
) -> None:
    """A span that is recorded, but not sampled, and its event: whichever comes first."""
    tracing = Tracing(GenAISpanProcessor(monitor), sampler=ALWAYS_OFF)
    wrap_sampler(tracing.provider)
    span = tracing.begin(0.0)
    context = span.get_span_context()
    assert context is not None
    key = (context.trace_id, context.span_id)
    if is_before:
        logs.emit(key=key)
    tracing.finish(span, 1.0)
    if not is_before:
        logs.emit(key=key)
    (row,) = rows(monitor)
    assert row["duration_seconds"] == pytest.approx(1.0)


def test_event_before_a_span_that_began_unseen(logs: Logs, monitor: IsolatedMonitor) -> None:
    """The span's end finds the event by its ids."""
    tracing = Tracing(sampler=ALWAYS_ON)
    span = tracing.begin(0.0)
    context = span.get_span_context()
    assert context is not None
    logs.emit(key=(context.trace_id, context.span_id))
    processor = GenAISpanProcessor(monitor)
    processor.on_end(span._readable_span())
    assert len(rows(monitor)) == 1
    processor.shutdown()


def test_event_of_a_failure(logs: Logs, monitor: IsolatedMonitor) -> None:
    """It has failed if it has an error."""
    logs.emit(error__type="openai.RateLimitError")
    (row,) = rows(monitor)
    assert (row["success"], row["error_type"]) == (False, "RateLimitError")


def test_event_in_a_block_is_its_call(logs: Logs, monitor: IsolatedMonitor) -> None:
    """With the step of the block."""
    with genmeter.step("judge"), monitor.generation(model="mine"):
        logs.emit()
    (row,) = rows(monitor)
    assert (row["model"], row["step"], row["input_tokens"]) == ("mine", "judge", 10)


def test_other_events_are_ignored(logs: Logs, monitor: IsolatedMonitor) -> None:
    """Other names, and other operations."""
    logs.emit(event="gen_ai.choice")
    logs.emit(gen_ai__operation__name="execute_tool")
    assert rows(monitor) == []


def test_log_processor_after_its_shutdown(logs: Logs, monitor: IsolatedMonitor) -> None:
    """It ignores events; the monitor stays open."""
    assert logs.processor.force_flush()
    logs.processor.shutdown()
    logs.emit()
    monitor.track_generation(0.5, True)
    assert len(rows(monitor)) == 1


def test_hostile_record_never_raises(logs: Logs, monitor: IsolatedMonitor) -> None:
    """It is counted as an internal error."""
    hostile: Any = Hostile()
    logs.processor.on_emit(hostile)
    assert monitor.value("genmeter_monitor_events_total", genmeter_reason="internal") == 1


def test_wrong_monitor() -> None:
    """An error at construction."""
    wrong: Any = "monitor"
    with pytest.raises(ConfigError, match="monitor must be"):
        GenAILogProcessor(wrong)
