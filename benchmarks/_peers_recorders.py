"""The subjects of `peers.py` that a job calls itself.

The packages of a subject are imported when it is made: each runs in an environment that has only its own.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _events import Event

__all__ = [
    "AfterImageMonitor",
    "Append",
    "Genmeter",
    "LiteLlm",
    "Multiprocess",
    "Nothing",
    "Peer",
    "Prometheus",
    "Sdk",
    "Upstream",
    "UtilGenAi",
    "sdk_providers",
]

_HOUR = timedelta(hours=1)


class Peer:
    """A subject; by itself it records nothing, so that the loop's own time is known.

    Attributes:
        subject: A subject of the other benchmarks that does the work, if there is one.
    """

    subject: Any = None

    def prepare(self, generations: Sequence[Event]) -> None:
        """Make what a call needs before it is measured."""

    def record(self, generations: Sequence[Event]) -> None:
        """Record generations, as the caller."""
        if self.subject is not None:
            self.subject.record(generations)

    async def record_one(self, event: Event) -> None:
        """Record a generation, as a task of asyncio."""
        self.record((event,))

    def settle(self) -> None:
        """Wait until everything recorded can be read."""
        if self.subject is not None:
            self.subject.settle()

    def page(self) -> str | None:
        """Return its page of metrics; None if it has none of its own."""
        return None

    def report(self) -> object:
        """Return the tokens by model; None if it has no such report."""
        return None

    def count(self) -> int:
        """Return how many calls it recorded, as the histograms of durations on its page have it."""
        from prometheus_client.parser import text_string_to_metric_families

        counts = [
            sum(each.value for each in family.samples if each.name.endswith("_count"))
            for family in text_string_to_metric_families(self.page() or "")
            if family.type == "histogram"
            and ("duration" in family.name or "latency" in family.name)
        ]
        return int(max(counts, default=0))

    def close(self) -> None:
        """Stop its threads and remove its files."""
        if self.subject is not None:
            self.subject.close()


class Nothing(Peer):
    """The loop of the benchmark alone."""


class Append(Peer):
    """What no monitor with a queue can be faster than: the arguments as a tuple, in a deque."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Any, ...]] = deque()

    def _call(
        self,
        duration: float,
        success: bool,
        *,
        prompt_token_count: int,
        completion_token_count: int,
        total_token_count: int,
        model_name: str,
        finish_reason: str,
        metadata: dict[str, Any],
    ) -> None:
        tokens = prompt_token_count, completion_token_count, total_token_count
        self._queue.append(
            (time.time(), duration, success, tokens, model_name, finish_reason, metadata)
        )

    def record(self, generations: Sequence[Event]) -> None:
        """Make the same call as of a monitor."""
        for event in generations:
            self._call(
                event.duration,
                True,
                prompt_token_count=event.prompt,
                completion_token_count=event.completion,
                total_token_count=event.prompt + event.completion,
                model_name=event.model,
                finish_reason="stop",
                metadata={"operation": event.step},
            )

    def settle(self) -> None:
        """Empty the deque, as a drain would."""
        self._queue.clear()


class Genmeter(Peer):
    """genmeter's monitor as in a job: its history, its metrics, and a reader for Prometheus."""

    def __init__(self) -> None:
        from _subjects import Ours

        self.subject = Ours()
        self._app = self.subject.monitor.wsgi_app()

    def page(self) -> str:
        """Request the page, as a server would."""
        return page_of(self._app)

    def report(self) -> object:
        """Return the token report since the start."""
        return self.subject.monitor.get_total_token_usage()


class AfterImageMonitor(Peer):
    """AfterImage's monitor with its default handlers, which write files."""

    def __init__(self) -> None:
        from _subjects import AfterImage

        self.subject = AfterImage()

    def report(self) -> object:
        """Return the token report since the start."""
        return self.subject.monitor.get_total_token_usage()

    def count(self) -> int:
        """Return the number of durations that it keeps."""
        return len(self.subject.monitor._metrics["generation_time"])


class Sdk(Peer):
    """Eight records of the OpenTelemetry SDK by the caller; a reader, but no page."""

    def __init__(self) -> None:
        from _subjects import DirectSdk
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        self._reader = InMemoryMetricReader()
        self.subject = DirectSdk(reader=self._reader)

    def count(self) -> int:
        """Return the most calls that any histogram has counted."""
        data: Any = self._reader.get_metrics_data()
        return max(
            sum(getattr(point, "count", 0) for point in metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )


class Upstream(Peer):
    """The same records, read by the upstream exporter of Prometheus's format."""

    def __init__(self) -> None:
        from _subjects import DirectSdk
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CollectorRegistry

        self._registry = CollectorRegistry()
        self.subject = DirectSdk(reader=PrometheusMetricReader(registry=self._registry))

    def page(self) -> str:
        """Collect, and write Prometheus's text format."""
        return text_of(self._registry)


class Prometheus(Peer):
    """The same eight instruments of prometheus_client."""

    def __init__(self) -> None:
        from _subjects import PrometheusClient

        self.subject = PrometheusClient()

    def page(self) -> str:
        """Write Prometheus's text format."""
        return text_of(self.subject.registry)


class Multiprocess(Prometheus):
    """The same with the values in files that the processes of a job share; this job has one."""

    def page(self) -> str:
        """Merge the files of the processes, and write Prometheus's text format."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return text_of(registry)


class LiteLlm(Peer):
    """LiteLLM's Prometheus logger, given what LiteLLM passes to it after a call.

    Only the logger is measured, without what LiteLLM does to make its arguments. It has the packages of LiteLLM's
    proxy, where it belongs: without them it tries to import them in each call, which takes 7 ms.
    """

    def __init__(self) -> None:
        from litellm.integrations.prometheus import PrometheusLogger

        self._logger = PrometheusLogger()
        self._loops = threading.local()
        self._arguments: dict[Event, tuple[dict[str, Any], Any, datetime, datetime]] = {}

    def prepare(self, generations: Sequence[Event]) -> None:
        """Make the arguments of each call, after those of a real one."""
        kwargs, response = _logged_by_litellm()
        start = datetime.now(UTC).replace(tzinfo=None)
        for event in generations:
            if event not in self._arguments:
                end = start + timedelta(seconds=event.duration)
                own = {
                    **kwargs,
                    "model": event.model,
                    "standard_logging_object": {
                        **copy.deepcopy(kwargs["standard_logging_object"]),
                        "model": event.model,
                        "model_group": event.model,
                        "prompt_tokens": event.prompt,
                        "completion_tokens": event.completion,
                        "total_tokens": event.prompt + event.completion,
                    },
                    "start_time": start,
                    "end_time": end,
                    "api_call_start_time": start,
                }
                self._arguments[event] = own, response, start, end

    def record(self, generations: Sequence[Event]) -> None:
        """Await the logger's coroutines in a loop of this thread; the loop's turn is included."""
        loop = getattr(self._loops, "loop", None)
        if loop is None:
            loop = self._loops.loop = asyncio.new_event_loop()
        loop.run_until_complete(self._record(generations))

    async def _record(self, generations: Sequence[Event]) -> None:
        for event in generations:
            await self.record_one(event)

    async def record_one(self, event: Event) -> None:
        """Await the logger's coroutine."""
        await self._logger.async_log_success_event(*self._arguments[event])

    def page(self) -> str:
        """Write Prometheus's text format."""
        from prometheus_client import REGISTRY

        return text_of(REGISTRY)


class UtilGenAi(Peer):
    """The handler of opentelemetry-util-genai, with its span and its metrics."""

    def __init__(self) -> None:
        from opentelemetry.util.genai.handler import TelemetryHandler

        self._registry, tracers, meters = sdk_providers()
        self._handler = TelemetryHandler(tracer_provider=tracers, meter_provider=meters)

    def record(self, generations: Sequence[Event]) -> None:
        """Open and close an inference for each."""
        for event in generations:
            with self._handler.inference("openai", request_model=event.model) as call:
                call.input_tokens = event.prompt
                call.output_tokens = event.completion
                call.finish_reasons = ["stop"]

    def page(self) -> str:
        """Write Prometheus's text format with the upstream exporter."""
        return text_of(self._registry)


def sdk_providers() -> tuple[Any, Any, Any]:
    """Return a registry, and providers of spans, which are exported nowhere, and of its metrics."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    meters = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    return registry, TracerProvider(shutdown_on_exit=False), meters


def text_of(registry: Any) -> str:
    """Return the page of a registry in Prometheus's text format."""
    from prometheus_client import generate_latest

    return str(generate_latest(registry).decode())


def page_of(app: Callable[..., Any]) -> str:
    """Request ``/metrics`` of a WSGI app."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": ""}
    return b"".join(app(environ, lambda *_: None)).decode()


def _logged_by_litellm() -> tuple[dict[str, Any], Any]:
    """Make a call with LiteLLM that needs no network, and return what its loggers get."""
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    seen: list[tuple[dict[str, Any], Any]] = []

    class Seen(CustomLogger):  # type: ignore[misc]
        async def async_log_success_event(
            self,
            kwargs: Any,
            response_obj: Any,
            start_time: Any,  # noqa: ARG002 - LiteLLM passes them by name
            end_time: Any,  # noqa: ARG002
        ) -> None:
            seen.append((dict(kwargs), response_obj))

    async def call() -> None:
        litellm.callbacks = [Seen()]
        messages = [{"role": "user", "content": "hi"}]
        await litellm.acompletion("openai/gpt-4o-mini", messages, mock_response="word " * 100)
        for _ in range(500):
            if seen:
                break
            await asyncio.sleep(0.02)

    asyncio.run(call())
    litellm.callbacks = []
    return seen[0]
