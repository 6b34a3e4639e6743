"""Pushing: one exporter, its reader, and the thread that collects and exports at an interval.

The SDK has such a thread too. Ours exists for what the SDK's cannot do: end within a limit that the
caller sets even if the endpoint is dead, end from a signal handler or at the interpreter's exit,
outlive an export that raises, and leave a forked child alone, where the SDK's would start again and
push the parent's totals a second time.
"""

from __future__ import annotations

import _thread
import logging
import math
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)

from genmeter.outputs.readers import cardinality_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.metrics.export import MetricReader, MetricsData

__all__ = ["Push"]

_logger = logging.getLogger("genmeter")
_LEAST_TIMEOUT = 0.001  # seconds; the SDK takes 0 for a collection that is late already


class Push:
    """One exporter, its reader and the thread that pushes.

    With delta temporality an interval whose export fails is lost, as in the SDK; with cumulative
    temporality, the default, the next export that succeeds makes up for it.

    Args:
        exporter: Where the metrics go.
        name: The exporter's name as in ``OTEL_METRICS_EXPORTER``.
        interval: Seconds from the end of one push to the start of the next, more than 0.
        timeout: Seconds that a collection may take, more than 0.
        cardinality_limit: Label sets that one instrument may have, where the SDK can be told.
        on_failure: Told the name at every collection or export that fails, mostly on the thread
            that pushes.

    Attributes:
        name: As given.
        reader: For ``MeterProvider(metric_readers=[...])``. The SDK has no thread for it.
        has_pushed: Whether a push was made, or tried.
        first_push: Held during the first push, in which an exporter imports what it needs. Who
            forks takes it, since a child waits for ever for an import that it inherits half done.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        *,
        name: str,
        interval: float,
        timeout: float,
        cardinality_limit: int,
        on_failure: Callable[[str], None],
    ) -> None:
        self.name = name
        self._exporter = _WatchedExporter(exporter, self._note)
        self.reader: MetricReader = _Reader(
            self._exporter,
            export_interval_millis=math.inf,
            export_timeout_millis=timeout * 1e3,
            **cardinality_arguments(PeriodicExportingMetricReader, cardinality_limit),
        )
        self._interval = interval
        self._timeout = timeout
        self._on_failure = on_failure
        self._failure: str | None = None
        self._deadline = math.inf
        self.has_pushed = False
        self.first_push = threading.Lock()
        self._is_started = False
        self._is_abandoned = False
        self._is_sent = False
        # Acquired once, by whoever does the pushing, and never released.
        self._claim = threading.Lock()
        self._finishing = _Latch()
        self._ended = _Latch()

    def start(self) -> None:
        """Start the thread; where that was done before, or is impossible now, do nothing."""
        if self._is_started or self._finishing.is_set:
            return
        thread = threading.Thread(target=self._run, name=f"genmeter-push-{self.name}", daemon=True)
        # No more threads: the process is at its limit or at its end. `finish` still exports.
        with suppress(RuntimeError):
            thread.start()
            self._is_started = True

    def finish(self, timeout: float) -> bool:
        """Collect and export once more, then shut the exporter down; never raises.

        It may be called several times, from any thread, from a signal handler and at the
        interpreter's exit. It takes longer than the limit in one case only: the thread was never
        started and cannot be started any more, as at the exit of Python 3.12 and newer; the
        exporter's own time-out holds then.

        Args:
            timeout: Seconds for all of it, whatever the endpoint does.

        Returns:
            Whether the last export succeeded.
        """
        timeout = min(max(0.0, timeout), threading.TIMEOUT_MAX)
        deadline = time.monotonic() + timeout
        self._deadline = min(self._deadline, deadline)
        self._finishing.set()
        if not self._claim.locked():
            self._run_late()
        if not self._is_abandoned and not self._ended.wait(deadline - time.monotonic()):
            self._abandon(timeout)
        return self._is_sent

    def _run_late(self) -> None:
        try:
            # Thread.start() takes locks that the code under a signal handler may hold.
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            while not self._finishing.wait(self._interval):
                self._push(self._timeout)
            self._push_last()
        finally:
            self._ended.set()

    def _push_last(self) -> None:
        if not self._is_abandoned:
            left = max(_LEAST_TIMEOUT, self._deadline - time.monotonic())
            self._push(min(self._timeout, left))
            self._is_sent = self._failure is None
        self.reader.shutdown(timeout_millis=max(0.0, self._deadline - time.monotonic()) * 1e3)

    def _push(self, timeout: float) -> None:
        if self.has_pushed:
            self._collect(timeout)
            return
        with self.first_push:
            self._collect(timeout)
        self.has_pushed = True

    def _collect(self, timeout: float) -> None:
        try:
            self.reader.collect(timeout_millis=timeout * 1e3)
        except Exception as error:
            self._note(f"the collection failed: {error!r}")

    def _log_change(self, before: str | None, failure: str | None) -> None:
        if failure is None and before is not None:
            _logger.info("the exporter %r pushes metrics again", self.name)
        elif failure is not None and before is None:
            _logger.warning(
                "the exporter %r cannot push metrics: %s; the job goes on, and further failures "
                "are counted but not logged until a push succeeds",
                self.name,
                failure,
            )

    def _note(self, failure: str | None) -> None:
        """Take in how a push went: None for well, else what went wrong."""
        before, self._failure = self._failure, failure
        with suppress(Exception):  # a logging handler of the job's that raises must not end us
            self._log_change(before, failure)
        if failure is None:
            return
        with suppress(Exception):
            self._on_failure(self.name)

    def _abandon(self, timeout: float) -> None:
        self._is_abandoned = True
        if not self._is_sent:
            _logger.warning(
                "the last push of the exporter %r did not end within %.3g s; what it held may be "
                "lost",
                self.name,
                timeout,
            )
        # Shutting down ends an exporter's retries, but may block too, so it gets a thread. At the
        # interpreter's exit there may be none to have, and the thread that hangs ends with it.
        with suppress(RuntimeError):
            _thread.start_new_thread(self._exporter.shutdown, (0,))


class _WatchedExporter(MetricExporter):
    """An exporter that tells how each export went, never raises and is shut down once at most."""

    def __init__(self, exporter: MetricExporter, note: Callable[[str | None], None]) -> None:
        super().__init__(
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )
        self._exporter = exporter
        self._note = note
        self._closing = threading.Lock()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        try:
            result = self._exporter.export(metrics_data, timeout_millis=timeout_millis, **kwargs)
        except Exception as error:
            self._note(f"the export raised {error!r}")
            return MetricExportResult.FAILURE
        succeeded = result is MetricExportResult.SUCCESS
        self._note(None if succeeded else "the export failed")
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        if not self._closing.acquire(blocking=False):
            return
        # The SDK's reader names the argument `timeout`; it gives milliseconds.
        timeout_millis = kwargs.get("timeout", timeout_millis)
        try:
            self._exporter.shutdown(timeout_millis=max(0.0, timeout_millis))
        except Exception as error:
            _logger.debug("an exporter of metrics did not shut down: %r", error)


class _Reader(PeriodicExportingMetricReader):
    """The SDK's reader, which may be shut down by the push and by its MeterProvider."""

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        if not self._shutdown:
            super().shutdown(timeout_millis=timeout_millis, **kwargs)


class _Latch:
    """A flag to wait for, which a signal handler may set and await whatever it interrupted.

    `threading.Event` has a lock inside, and a handler that came while its own thread held that
    would wait for ever; `SimpleQueue` is made for this.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self.is_set = True
        self._tokens.put(None)

    def wait(self, timeout: float) -> bool:
        if not self.is_set:
            with suppress(Empty):
                self._tokens.get(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
                # For whoever else waits.
                self._tokens.put(None)
        return self.is_set
