"""The subjects of the benchmarks, which record the same generations."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

from _events import Event, events
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Histogram

from genmeter import EndpointConfig, GenerationMonitor, HistoryConfig, MonitorConfig
from genmeter.exporters.provider import CollectingReader
from genmeter.schema import metrics as cat
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.sdk.metrics.export import MetricReader

    from genmeter.schema.metrics import Instrument

__all__ = [
    "AFTERIMAGE",
    "AFTERIMAGE_NO_FILES",
    "DIRECT",
    "OURS",
    "PROMETHEUS",
    "AfterImage",
    "DirectSdk",
    "Event",
    "Ours",
    "PrometheusClient",
    "Subject",
    "events",
]

OURS = "genmeter"
AFTERIMAGE = "AfterImage's monitor"
AFTERIMAGE_NO_FILES = "AfterImage's monitor, handlers that do nothing"
DIRECT = "OpenTelemetry SDK, the same records at once"
PROMETHEUS = "prometheus_client, the same instruments"

_HISTOGRAMS = (cat.INFERENCE_DURATION, cat.INPUT_TOKENS_PER_CALL, cat.OUTPUT_TOKENS_PER_CALL)
_COUNTERS = (
    *(cat.GENERATIONS, cat.INPUT_TOKENS, cat.OUTPUT_TOKENS, cat.TOTAL_TOKENS),
    cat.FINISH_REASONS,
)


class Subject(Protocol):
    """Something that records generations."""

    def record(self, generations: Sequence[Event]) -> None:
        """Record generations, as the caller."""

    def settle(self) -> None:
        """Wait until reads and scrapes include everything recorded."""

    def close(self) -> None:
        """Stop its threads and remove its files."""


class Ours:
    """genmeter's monitor as in a job, with the built-in provider and its thread.

    Args:
        two_readers: Whether an OTLP exporter reads it too.
        no_readers: Whether nothing reads it; for benchmarks of the history alone.
        capacity: Capacity of its history.
        with_files: Whether it has a ``log_dir``, with a journal and a log.

    Attributes:
        folder: The ``log_dir``; empty without files.
    """

    def __init__(
        self,
        *,
        two_readers: bool = False,
        no_readers: bool = False,
        capacity: int = 100_000,
        with_files: bool = False,
    ) -> None:
        self._closing = ExitStack()
        made = tempfile.TemporaryDirectory(prefix="genmeter-bench-")
        self.folder = Path(self._closing.enter_context(made))
        self._closing.enter_context(fresh_runtime())
        exporters = "none" if no_readers else "prometheus,otlp" if two_readers else "prometheus"
        environment = {
            "OTEL_METRICS_EXPORTER": exporters,
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",  # no server listens there
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        config = MonitorConfig(
            endpoint=EndpointConfig(enabled=False),
            provider="openai",
            history=HistoryConfig(capacity=capacity),
        )
        log_dir = self.folder if with_files else None
        with mock.patch.dict(os.environ, environment):
            monitor = GenerationMonitor(log_dir, config=config, shutdown_timeout=1)
        self.monitor = self._closing.enter_context(monitor)

    def record(self, generations: Sequence[Event]) -> None:
        """Call ``track_generation`` like AfterImage's generators."""
        _track(self.monitor, generations)

    def settle(self) -> None:
        """Drain."""
        self.monitor.flush(timeout=60)

    def close(self) -> None:
        """Shut the monitor down."""
        self._closing.close()


class AfterImage:
    """AfterImage's monitor, with its queues and workers.

    Args:
        with_files: Whether its default handlers write files.
        with_workers: Whether its threads run; without them the queue is only emptied.

    Attributes:
        folder: Its ``log_dir``.
    """

    def __init__(self, *, with_files: bool = True, with_workers: bool = True) -> None:
        from afterimage.monitoring import GenerationMonitor as AfterImageMonitor

        self._made = tempfile.TemporaryDirectory(prefix="genmeter-bench-")
        self.folder = Path(self._made.name)
        handlers: dict[str, Any] = {}
        if not with_files:
            handlers = {"metric_handlers": [_Nothing()], "log_handlers": [_Nothing()]}
        self.monitor = AfterImageMonitor(self.folder, metrics_interval=0, **handlers)
        self._with_workers = with_workers
        if not with_workers:
            self.monitor.shutdown()

    def record(self, generations: Sequence[Event]) -> None:
        """Call ``track_generation`` like AfterImage's generators."""
        _track(self.monitor, generations)

    def settle(self) -> None:
        """Wait for its workers."""
        queues = self.monitor.metric_queue, self.monitor.log_queue
        if not self._with_workers:
            for each in queues:
                each.queue.clear()
        while not all(each.empty() for each in queues):
            time.sleep(0.001)
        time.sleep(0.001)  # the last one may still be in progress

    def close(self) -> None:
        """Shut it down, and remove its files."""
        self.monitor.shutdown()
        self._made.cleanup()


class DirectSdk:
    """The same eight records, one by one by the caller.

    Args:
        two_readers: Whether a second reader collects too.
        reader: What reads instead.
    """

    def __init__(self, *, two_readers: bool = False, reader: MetricReader | None = None) -> None:
        self._provider = _provider([reader] if reader else _readers(two_readers))
        meter = self._provider.get_meter("benchmark")
        self._histograms = [
            meter.create_histogram(
                row.name, row.unit, row.help, explicit_bucket_boundaries_advisory=row.bounds
            )
            for row in _HISTOGRAMS
        ]
        self._counters = [meter.create_counter(row.name, row.unit, row.help) for row in _COUNTERS]

    def record(self, generations: Sequence[Event]) -> None:
        """Record each generation eight times."""
        duration, input_size, output_size = self._histograms
        outcomes, input_tokens, output_tokens, total, reasons = self._counters
        for event in generations:
            base = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": event.model,
                "genmeter.phase": "generation",
                "genmeter.step": event.step,
            }
            tokens = {**base, "gen_ai.token.modality": "unknown"}
            duration.record(event.duration, base)
            input_size.record(event.prompt, base)
            output_size.record(event.completion, base)
            outcomes.add(1, {**base, "genmeter.outcome": "success"})
            input_tokens.add(event.prompt, tokens)
            output_tokens.add(event.completion, tokens)
            total.add(event.prompt + event.completion, base)
            reasons.add(1, {**base, "genmeter.finish_reason": "stop"})

    def settle(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Shut the provider down."""
        self._provider.shutdown()


class PrometheusClient:
    """The same instruments of prometheus_client, without OpenTelemetry.

    Attributes:
        registry: What a page is generated from.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._histograms = [
            Histogram(row.prometheus, row.help, _names(row), registry=registry, buckets=row.bounds)
            for row in _HISTOGRAMS
        ]
        self._counters = [
            Counter(row.prometheus, row.help, _names(row), registry=registry) for row in _COUNTERS
        ]

    def record(self, generations: Sequence[Event]) -> None:
        """Record each generation eight times."""
        duration, input_size, output_size = self._histograms
        outcomes, input_tokens, output_tokens, total, reasons = self._counters
        for event in generations:
            base = "chat", "openai", event.model, event.step, "generation"
            duration.labels(*base).observe(event.duration)
            input_size.labels(*base).observe(event.prompt)
            output_size.labels(*base).observe(event.completion)
            outcomes.labels(*base, "success").inc()
            input_tokens.labels(*base, "unknown").inc(event.prompt)
            output_tokens.labels(*base, "unknown").inc(event.completion)
            total.labels(*base).inc(event.prompt + event.completion)
            reasons.labels(*base, "stop").inc()

    def settle(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Nothing:
    """Handlers that do nothing."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Do nothing."""

    def handle_log(self, message: dict[str, Any]) -> None:
        """Do nothing."""


def _track(monitor: Any, generations: Iterable[Event]) -> None:
    for event in generations:
        monitor.track_generation(
            event.duration,
            True,
            prompt_token_count=event.prompt,
            completion_token_count=event.completion,
            total_token_count=event.prompt + event.completion,
            model_name=event.model,
            finish_reason="stop",
            metadata={"operation": event.step},
        )


def _readers(two: bool) -> list[MetricReader]:
    return [CollectingReader(), InMemoryMetricReader()] if two else [CollectingReader()]


def _provider(readers: list[MetricReader]) -> MeterProvider:
    return MeterProvider(metric_readers=readers, resource=Resource({}), shutdown_on_exit=False)


def _names(row: Instrument) -> list[str]:
    # prometheus_client has no optional labels.
    # As in these calls: a success whose response names no model.
    absent = (cat.ERROR_TYPE, cat.RESPONSE_MODEL)
    return [label.key.replace(".", "_") for label in row.labels if label not in absent]
