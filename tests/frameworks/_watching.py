"""Watches real instrumentations: a tracer provider of the test's own, whose spans feed a monitor."""

from __future__ import annotations

import importlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from _prices import priced
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider

from genmeter import GenAILogProcessor, GenAISpanProcessor, GenerationMonitor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["Watched", "import_emitters", "watch"]

_GENAI = "opentelemetry.instrumentation.genai"
_OPENLLMETRY = "opentelemetry.instrumentation"
_OPENINFERENCE = "openinference.instrumentation"
_INSTRUMENTORS = {
    "genai-openai": (f"{_GENAI}.openai", "OpenAIInstrumentor"),
    "genai-anthropic": (f"{_GENAI}.anthropic", "AnthropicInstrumentor"),
    "genai-langchain": (f"{_GENAI}.langchain", "LangChainInstrumentor"),
    "genai-google": ("opentelemetry.instrumentation.google_genai", "GoogleGenAiSdkInstrumentor"),
    "openllmetry-openai": (f"{_OPENLLMETRY}.openai", "OpenAIInstrumentor"),
    "openllmetry-anthropic": (f"{_OPENLLMETRY}.anthropic", "AnthropicInstrumentor"),
    "openllmetry-google": (
        f"{_OPENLLMETRY}.google_generativeai",
        "GoogleGenerativeAiInstrumentor",
    ),
    "openllmetry-langchain": (f"{_OPENLLMETRY}.langchain", "LangchainInstrumentor"),
    "openinference-openai": (f"{_OPENINFERENCE}.openai", "OpenAIInstrumentor"),
    "openinference-anthropic": (f"{_OPENINFERENCE}.anthropic", "AnthropicInstrumentor"),
    "openinference-google": (f"{_OPENINFERENCE}.google_genai", "GoogleGenAIInstrumentor"),
    "openinference-langchain": (f"{_OPENINFERENCE}.langchain", "LangChainInstrumentor"),
    "openinference-litellm": (f"{_OPENINFERENCE}.litellm", "LiteLLMInstrumentor"),
    "httpx": ("opentelemetry.instrumentation.httpx", "HTTPXClientInstrumentor"),
}
_LITELLM_LISTS = (
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_success_callback",
    "_async_failure_callback",
    "_async_input_callback",
)


def import_emitters(emitters: Iterable[str]) -> None:
    """Import the instrumentations' packages without effect; skips the test if one is not installed."""
    for emitter in emitters:
        name = _INSTRUMENTORS[emitter][0] if emitter in _INSTRUMENTORS else emitter.split("-")[0]
        pytest.importorskip({"pydantic": "pydantic_ai"}.get(name, name))


@dataclass
class Watched:
    """What watches.

    Attributes:
        monitor: Has the calls after :meth:`settle`.
        processor: Feeds it.
        provider: Whose spans the processor gets.
        logger_provider: Whose log events the monitor gets.
    """

    monitor: GenerationMonitor
    processor: GenAISpanProcessor
    provider: TracerProvider
    logger_provider: LoggerProvider

    def settle(self) -> None:
        """Wait until every call is in the monitor's history."""
        assert self.processor.force_flush()
        assert self.logger_provider.force_flush()
        self.monitor.flush()


@contextmanager
def watch(*emitters: str, sampler: Sampler | None = None) -> Iterator[Watched]:
    """Instrument, and uninstrument at the end; the calls are settled then.

    Args:
        emitters: Names of the instrumentations, see above; ``anthropic-native`` is the client's own
            (pass ``watched.provider`` to it), ``logfire-openai``, ``logfire-anthropic``,
            ``pydantic-ai`` and ``litellm-callback`` have no instrumentor.
        sampler: Of the tracer provider; None: all spans.
    """
    monitor = GenerationMonitor(config=priced(), metrics_interval=None)
    processor = GenAISpanProcessor(monitor)
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(processor)
    logger_provider = LoggerProvider()
    logger_provider.add_log_record_processor(GenAILogProcessor(monitor))
    watched = Watched(monitor, processor, provider, logger_provider)
    try:
        with ExitStack() as stack:
            for emitter in emitters:
                _instrument(emitter, watched, stack)
            yield watched
            watched.settle()  # what is observed while it is instrumented
        watched.settle()
    finally:
        provider.shutdown()
        logger_provider.shutdown()
        monitor.shutdown()


def _instrument(emitter: str, watched: Watched, stack: ExitStack) -> None:
    if emitter in _INSTRUMENTORS:
        module, name = _INSTRUMENTORS[emitter]
        instrumentor = getattr(importlib.import_module(module), name)()
        instrumentor.instrument(
            tracer_provider=watched.provider, logger_provider=watched.logger_provider
        )
        stack.callback(instrumentor.uninstrument)
    elif emitter.startswith("logfire-"):
        _logfire(emitter.removeprefix("logfire-"), watched, stack)
    elif emitter == "pydantic-ai":
        from pydantic_ai import Agent
        from pydantic_ai.models.instrumented import InstrumentationSettings

        Agent.instrument_all(InstrumentationSettings(tracer_provider=watched.provider))
        stack.callback(Agent.instrument_all, False)
    elif emitter == "litellm-callback":
        import litellm
        from litellm.integrations.opentelemetry import OpenTelemetry

        patch = stack.enter_context(pytest.MonkeyPatch.context())
        callback = OpenTelemetry(tracer_provider=watched.provider)
        for name in _LITELLM_LISTS:  # it adds the callback to each, one of a class
            patch.setattr(litellm, name, [])
        patch.setattr(litellm, "callbacks", [callback])
    else:
        assert emitter == "anthropic-native"


def _logfire(client: str, watched: Watched, stack: ExitStack) -> None:
    import logfire

    own: Any = logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        additional_span_processors=[watched.processor],
    )
    stack.enter_context(getattr(own, f"instrument_{client}")())
