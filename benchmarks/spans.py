"""What reading GenAI spans adds to the SDK's own cost of a span, for the caller; and what it keeps."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from _measure import seconds, side_by_side
from _table import Row, at_most, figure_of, print_aims, print_table
from opentelemetry.sdk.trace import TracerProvider

from genmeter import EndpointConfig, GenAISpanProcessor, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _table import Aim

BURST = 200
ROUNDS = 40
KEPT = 30_000
BARE = "the SDK's span alone"
READ = "with GenAISpanProcessor"
BLOCK = "with it, in a block"
CALLS = f"The caller's time for the span of a call, bursts of {BURST}: minimum of {ROUNDS} rounds"
OTHERS = "The same of a span that is no call"
MEMORY = f"Bytes of the table of recent calls and open spans after {KEPT:,} calls (tracemalloc)"
START = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "server.address": "api.openai.com",
    "server.port": 443,
}
END = {
    "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.usage.input_tokens": 512,
    "gen_ai.usage.output_tokens": 64,
    "gen_ai.usage.cache_read.input_tokens": 256,
}
OTHER = {"http.request.method": "POST", "server.address": "api.openai.com", "server.port": 443}


def run() -> list[Row]:
    """Measure spans with and without the processor, and what it keeps."""
    with _monitor() as monitor:
        bare = TracerProvider(shutdown_on_exit=False)
        read = TracerProvider(shutdown_on_exit=False)
        processor = GenAISpanProcessor(monitor)
        read.add_span_processor(processor)
        ways = {
            BARE: partial(_of_a_span, bare, monitor, _calls),
            READ: partial(_of_a_span, read, monitor, _calls),
            BLOCK: partial(_of_a_span, read, monitor, _calls_in_blocks),
        }
        spreads = side_by_side(ways, ROUNDS)
        rows = [Row(CALLS, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
        ways = {
            BARE: partial(_of_a_span, bare, monitor, _others),
            READ: partial(_of_a_span, read, monitor, _others),
        }
        spreads = side_by_side(ways, ROUNDS)
        rows += [Row(OTHERS, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
        processor.shutdown()
    return [*rows, Row(MEMORY, READ, _kept(), "B")]


@contextmanager
def _monitor() -> Iterator[GenerationMonitor]:
    """Return a monitor whose thread drains, as in a job."""
    with fresh_runtime():
        config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
        with GenerationMonitor(metrics_interval=None, config=config) as monitor:
            yield monitor


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    ratio = next(row.ratio or 0.0 for row in rows if (row.group, row.subject) == (CALLS, READ))
    return [
        at_most("the span of a call costs its caller at most twice the SDK's own", ratio, 2.0),
        at_most("recent calls take at most 32 MiB", figure_of(rows, MEMORY, READ), 2.0**25, "B"),
    ]


def _of_a_span(
    provider: TracerProvider,
    monitor: GenerationMonitor,
    make: Callable[[TracerProvider, GenerationMonitor], None],
) -> float:
    monitor.flush()
    return seconds(lambda: make(provider, monitor)) / BURST


def _calls(provider: TracerProvider, _monitor: GenerationMonitor) -> None:
    tracer = provider.get_tracer("opentelemetry.instrumentation.genai.openai")
    for number in range(BURST):
        span = tracer.start_span("chat gpt-4o-mini", attributes=START)
        span.set_attributes({**END, "gen_ai.response.id": f"chatcmpl-{number}"})
        span.end()


def _calls_in_blocks(provider: TracerProvider, monitor: GenerationMonitor) -> None:
    tracer = provider.get_tracer("opentelemetry.instrumentation.genai.openai")
    for _ in range(BURST):
        with monitor.generation(model="gpt-4o-mini"):
            span = tracer.start_span("chat gpt-4o-mini", attributes=START)
            span.set_attributes(END)
            span.end()


def _others(provider: TracerProvider, _monitor: GenerationMonitor) -> None:
    tracer = provider.get_tracer("opentelemetry.instrumentation.httpx")
    for _ in range(BURST):
        tracer.start_span("POST", attributes=OTHER).end()


def _kept() -> float:
    """Return the bytes that the observer keeps after many calls: bounded, whatever their number."""
    with _monitor() as monitor:
        provider = TracerProvider(shutdown_on_exit=False)
        processor = GenAISpanProcessor(monitor)
        provider.add_span_processor(processor)
        for _ in range(3):
            _calls(provider, monitor)
        monitor.flush(timeout=60)
        observer = monitor.observer
        tracer = provider.get_tracer("opentelemetry.instrumentation.genai.openai")
        for number in range(KEPT):
            span = tracer.start_span("chat gpt-4o-mini", attributes=START)
            span.set_attributes({**END, "gen_ai.response.id": f"chatcmpl-{number}"})
            span.end()
        monitor.flush(timeout=60)
        gc.collect()
        tracemalloc.start()
        try:
            observer.reset_after_fork()  # only what is freed is counted: nothing else changes
            for number in range(KEPT):
                span = tracer.start_span("chat gpt-4o-mini", attributes=START)
                span.set_attributes({**END, "gen_ai.response.id": f"chatcmpl-{number}"})
                span.end()
            monitor.flush(timeout=60)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            observer.reset_after_fork()
            gc.collect()
            return float(before - tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
            processor.shutdown()


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
