"""Makes GenAI spans with the SDK, at times of the test's choice, as instrumentations do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Status, StatusCode

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

    from genmeter import GenAISpanProcessor, GenerationMonitor
    from genmeter.testing import IsolatedMonitor

__all__ = ["LANGCHAIN", "OFFICIAL", "OPENINFERENCE", "Clock", "Tracing", "repetitions", "rows"]

OFFICIAL = "opentelemetry.instrumentation.genai.openai"
LANGCHAIN = "openinference.instrumentation.langchain"
OPENINFERENCE = "openinference.instrumentation.openai"
_EPOCH = 1_790_000_000  # Unix time at which the tests' clock is 0


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


class Tracing:
    """A tracer provider with processors, whose spans begin and end when the test says.

    Args:
        processors: The span processors.
        sampler: Its sampler.
    """

    def __init__(self, *processors: GenAISpanProcessor, sampler: Sampler = ALWAYS_ON) -> None:
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.processors = processors
        for each in processors:
            self.provider.add_span_processor(each)

    def start(
        self,
        at: float = 0.0,
        *,
        scope: str = OFFICIAL,
        parent: Span | None = None,
        name: str = "chat m",
        **attributes: Any,
    ) -> Span:
        """Start a span; attributes are spelled with ``__`` for a dot."""
        context = Context() if parent is None else trace.set_span_in_context(parent, Context())
        span = self.provider.get_tracer(scope).start_span(
            name, context=context, attributes=_dotted(attributes), start_time=_ns(at)
        )
        assert isinstance(span, Span) or not span.is_recording()
        return span  # type: ignore[return-value]

    def end(self, span: Span, at: float, *, error: str | None = None, **attributes: Any) -> None:
        """End a span, with an error if it failed."""
        span.set_attributes(_dotted(attributes))
        if error is not None:
            span.add_event("exception", {"exception.type": error}, _ns(at))
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(_ns(at))

    def call(
        self,
        start: float = 0.0,
        end: float = 1.0,
        *,
        scope: str = OFFICIAL,
        parent: Span | None = None,
        tokens: tuple[int, int] | None = (10, 5),
        error: str | None = None,
        **attributes: Any,
    ) -> Span:
        """Make the span of a call, by the conventions."""
        span = self.begin(start, scope=scope, parent=parent)
        self.finish(span, end, tokens=tokens, error=error, **attributes)
        return span

    def begin(
        self, at: float = 0.0, *, scope: str = OFFICIAL, parent: Span | None = None, **more: Any
    ) -> Span:
        """Start the span of a call that is marked at its start."""
        marks = {
            "gen_ai__operation__name": "chat",
            "gen_ai__provider__name": "openai",
            "gen_ai__request__model": "m",
        }
        return self.start(at, scope=scope, parent=parent, **(marks | more))

    def finish(
        self,
        span: Span,
        at: float = 1.0,
        *,
        tokens: tuple[int, int] | None = (10, 5),
        error: str | None = None,
        **attributes: Any,
    ) -> None:
        """End the span of a call."""
        if tokens is not None and error is None:
            attributes["gen_ai__usage__input_tokens"] = tokens[0]
            attributes["gen_ai__usage__output_tokens"] = tokens[1]
        self.end(span, at, error=error, **attributes)

    def flush(self) -> None:
        """Settle what the processors hold back."""
        for each in self.processors:
            assert each.force_flush()


def rows(monitor: GenerationMonitor) -> list[dict[str, Any]]:
    """Return the calls of a monitor, with None for what is unknown."""
    frame = monitor.to_frame("generations").astype(object)
    return frame.where(frame.notna(), None).to_dict("records")  # type: ignore[no-any-return]


def repetitions(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return the dropped repetitions by reason."""
    return {
        each.labels["genmeter_reason"]: each.value
        for each in monitor.series("genmeter_monitor_repetitions_total")
    }


def _dotted(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items()}


def _ns(at: float) -> int:
    return _EPOCH * 10**9 + round(at * 1e9)
