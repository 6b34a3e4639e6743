"""Observed calls at a full inbox: bounded as events are, counted, and without their spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import Tracing
from _held import held

import genmeter.pipeline.drain
from genmeter import EndpointConfig, GenAISpanProcessor, GenerationMonitor, MonitorConfig
from genmeter.events.model import Raw
from genmeter.observed.model import ObservedCall, SpanNode
from genmeter.observed.observer import Observer
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.runtime import Runtime


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Runtime, GenerationMonitor]]:
    """Return a monitor whose inbox holds few events."""
    for name, most in (("WAKE", 1), ("HIGH_WATER", 4), ("CAPACITY", 8)):
        monkeypatch.setattr(genmeter.pipeline.drain, name, most)
    with fresh_runtime() as runtime:
        monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(enabled=False)))
        yield runtime, monitor
        monitor.shutdown()


def call(number: int = 0) -> ObservedCall:
    """Return an observed call."""
    keywords: dict[str, Any] = {"model_name": "m", "prompt_token_count": 1 + number}
    return ObservedCall("other", 1_000.0 + 10 * number, 1.0, True, keywords)


def test_observed_calls_past_the_capacity_are_dropped_and_counted(
    small: tuple[Runtime, GenerationMonitor],
) -> None:
    """As calls that the job tracks are."""
    runtime, monitor = small
    pipeline = runtime.require_pipeline()
    with held(pipeline):
        for number in range(20):
            monitor.observer.observe(call(number))
            assert len(pipeline.inbox) <= 8
    kept = len(monitor.to_frame("generations"))
    assert 8 <= kept < 20
    assert runtime.self_metrics.rejected["inbox_full"] == 20 - kept


def test_reports_and_ends_of_spans_are_bounded_too(
    small: tuple[Runtime, GenerationMonitor],
) -> None:
    """Whatever an observer posts."""
    runtime, monitor = small
    pipeline, tracing = runtime.require_pipeline(), Tracing(GenAISpanProcessor(monitor))
    with held(pipeline):
        for number in range(20):
            monitor.track_generation(1.0, True, model_name="m", total_token_count=number + 1)
            outer = tracing.start(number, scope="late", name="chain")
            tracing.call(number + 0.1, number + 0.2, parent=outer)
            tracing.end(outer, number + 0.5)
            assert len(pipeline.inbox) <= 8
    assert runtime.self_metrics.rejected["inbox_full"] > 0
    tracing.flush()
    tracing.processors[0].shutdown()


def test_what_ends_a_reservation_is_kept(small: tuple[Runtime, GenerationMonitor]) -> None:
    """A full inbox drops events beside it, never it."""
    runtime, monitor = small
    pipeline = runtime.require_pipeline()
    ended: list[int] = []
    with held(pipeline):
        for number in range(20):
            pipeline.post(lambda number=number: ended.append(number))  # type: ignore[misc]
            monitor.observer.observe(call(number))
    monitor.flush()
    assert ended == list(range(20))


def test_a_crowded_inbox_keeps_no_spans(small: tuple[Runtime, GenerationMonitor]) -> None:
    """They are read at once, so that their prompts are not kept."""
    runtime, monitor = small
    pipeline, tracing = runtime.require_pipeline(), Tracing(GenAISpanProcessor(monitor))
    with held(pipeline):
        for number in range(7):
            tracing.call(number, number + 0.5, gen_ai__response__id=f"r{number}")
        pending = [raw[1] for raw in pipeline.inbox if raw[0] is Raw.OBSERVED]
    spans = [
        cell
        for function in pending
        for cell in function.__closure__ or ()
        if "read" in function.__code__.co_freevars
    ]
    assert len(pending) == 7
    assert 0 < len(spans) / 2 <= 4
    tracing.flush()
    assert len(monitor.to_frame("generations")) == 7
    tracing.processors[0].shutdown()


class LossySink:
    """Loses what is posted while it is asked to."""

    def __init__(self) -> None:
        self.recorded: list[ObservedCall] = []
        self.dropped: list[str] = []
        self.is_lossy = self.is_crowded = False

    def record(self, call: ObservedCall) -> None:
        """Keep a call."""
        self.recorded.append(call)

    def post(self, function: Callable[[], object]) -> None:
        """Call it, or lose it."""
        if not self.is_lossy:
            function()

    def run(self, function: Callable[[], object], timeout: float) -> None:
        """Call it."""
        del timeout
        function()

    def drop(self, reason: str) -> None:
        """Keep the reason."""
        self.dropped.append(reason)


@pytest.mark.parametrize("is_lossy", [False, True])
def test_calls_below_a_span_of_a_block_count_once_without_a_message(is_lossy: bool) -> None:
    """What asks the pipeline to drop them may be dropped itself."""
    sink = LossySink()
    observer = Observer(sink)
    outer = SpanNode((1, 1), "a", None, is_call=True)
    before, after = (SpanNode((1, number), "b", outer, is_call=True) for number in (2, 3))
    for node in (outer, before, after):
        observer.open_spans.add(node)
    observer.observe(call()._replace(node=before))
    sink.is_lossy = is_lossy
    observer.absorb(outer)
    sink.is_lossy = False
    observer.observe(call(1)._replace(node=after))
    observer.settle(1.0)
    assert (sink.recorded, sink.dropped) == ([], ["block", "block"])
    assert len(observer.open_spans) == 1
