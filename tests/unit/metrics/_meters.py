"""Helpers for tests of the meter."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from genmeter.metrics.meter import BuiltinMeterProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics.export import Metric, MetricsData

__all__ = [
    "RESOURCE",
    "LockedOwner",
    "ThreadOwner",
    "Warnings",
    "context_of",
    "metrics",
    "points",
    "provider",
    "span",
]

RESOURCE = Resource({"service.name": "test"})


class Warnings:
    """Records the warnings of a provider."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str, *arguments: object) -> None:
        """Record a warning as it would be logged."""
        self.lines.append(message % arguments)


class LockedOwner:
    """An owner without a thread: any thread that holds its lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def post(self, function: Callable[[], object]) -> None:
        """Call a function under the lock."""
        with self._lock:
            function()

    def run(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """Call a function under the lock."""
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError("the owner is busy")
        try:
            return function()
        finally:
            self._lock.release()

    def reset_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        self._lock = threading.RLock()


class ThreadOwner:
    """An owner with a thread, like the pipeline."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def post(self, function: Callable[[], object]) -> None:
        """Queue a function."""
        self._tasks.put(function)

    def run(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """Queue a function and wait for its result."""
        if threading.current_thread() is self._thread:
            return function()
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tasks.put(lambda: answer.put(function()))
        try:
            return answer.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("the owner is busy") from None

    def close(self) -> None:
        """End the thread."""
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()


def provider(**settings: Any) -> BuiltinMeterProvider:
    """Create a provider that logs no warnings."""
    settings.setdefault("warn", Warnings().warn)
    return BuiltinMeterProvider(
        settings.pop("owner", None) or LockedOwner(), resource=RESOURCE, **settings
    )


def span(number: int, *, sampled: bool = True) -> SpanContext:
    """Create a span's context."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(number, number, is_remote=False, trace_flags=flags)


def context_of(context: SpanContext) -> Context:
    """Create a context in which a span is current."""
    return trace.set_span_in_context(NonRecordingSpan(context))


def metrics(data: MetricsData) -> dict[str, Metric]:
    """Return the metrics by name."""
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def points(data: MetricsData, name: str) -> dict[tuple[Any, ...], Any]:
    """Return the points of a metric by the values of their attributes."""
    found = metrics(data).get(name)
    return (
        {tuple(each.attributes.values()): each for each in found.data.data_points} if found else {}
    )
