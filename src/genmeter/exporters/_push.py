"""Collect and export at an interval.

The SDK has such a thread too. This one can do what the SDK's cannot: end within the caller's limit
even if the endpoint is dead, end from a signal handler or at the interpreter's exit, and survive an
export that raises or hangs. It also stays off in a forked child, where the SDK's would start again
and push the parent's totals a second time.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExportResult, MetricsData

from genmeter.clock import seconds_left
from genmeter.exporters.settings import redact
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.metrics.export import MetricExporter

    Collect = Callable[[float], MetricsData | None]

__all__ = ["Push"]

_logger = logging.getLogger("genmeter")
_MIN_TIMEOUT = 0.001  # seconds; a collection with a time-out of 0 is late from the start
_POLL = 0.005
_MAX_GRACE = 1.0  # seconds that the last push waits for the one under way
_GRACE_SHARE = 0.25  # and the share of its time
_MAX_DETACHED = 6  # threads that hang in an exporter before pushes stop
# The instrumentations of HTTP and gRPC read this, so that an export creates no spans.
_NO_INSTRUMENTATION = {"suppress_instrumentation": True}
# Kept in a forked child: destroying an exporter that a thread of the parent used could hang.
_inherited: list[object] = []


class Push:
    """Exports collections at an interval, and once more at the end.

    Each export runs on a separate thread, so an exporter that hangs costs one push: it is shut down
    on another thread, and the next push creates a new exporter. With delta temporality the interval
    of a failed export is lost, as in the SDK; with cumulative temporality, the default, the next
    successful export makes up for it.

    Args:
        make_exporter: Creates an exporter, and imports everything that it needs to export.
        collect: Called with seconds; returns the data to export, or None without any.
        name: The exporter's name.
        interval: Seconds from the end of one push to the start of the next.
        timeout: Seconds that one push may take.
        on_failure: Called with the name at every failed push, on any thread.
        exporter: The first exporter; None creates it with the first push.
        secrets: Texts that no log line may contain.
    """

    def __init__(
        self,
        make_exporter: Callable[[], MetricExporter],
        collect: Collect,
        *,
        name: str,
        interval: float,
        timeout: float,
        on_failure: Callable[[str], None],
        exporter: MetricExporter | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self._make_exporter = make_exporter
        self._collect = collect
        self._timeout = timeout
        self._on_failure = on_failure
        self._secrets = secrets
        self._is_started = False  # by `start`; only then it pushes at an interval
        self._is_asked = False
        self._worker: Worker[None] = Worker(
            name=f"genmeter-push-{name}",
            tick=self._push_at_interval,
            interval=interval,
            on_end=self._push_last,
        )
        self._begin(exporter)

    def _begin(self, exporter: MetricExporter | None) -> None:
        self._exporter = exporter
        self._is_failing = False
        self._current: _Attempt | None = None
        self._last: _Attempt | None = None
        self._detached: set[object] = set()  # threads
        self._has_pushed = False
        self._is_finishing = False
        self._is_abandoned = False
        self._is_sent = False
        self._deadline = 0.0
        # Held during the last push, and released only if that was interrupted.
        self._claim = threading.Lock()
        self._claimed_by: int | None = None
        self._ended = _Latch()

    def start(self) -> None:
        """Start to push; does nothing after the first call, or after `finish`."""
        self._is_started = True
        if not self._is_finishing:
            self._worker.start()

    def push_soon(self) -> None:
        """Push as soon as no other push is under way, on the thread; never waits."""
        if not self._is_finishing:
            self._is_asked = True
            self._worker.start()
            self._worker.tick_now()

    def push(self, deadline: float) -> bool:
        """Push what is recorded by now, and wait for it; later pushes keep their interval.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            Whether it succeeded in time.
        """
        called = time.monotonic()
        while not self._is_finishing and time.monotonic() < deadline:
            attempt = self._current
            if attempt is None or attempt.begun < called:
                self.push_soon()  # a push that had begun may lack the newest events
            elif attempt.is_done:
                return attempt.is_sent
            time.sleep(_POLL)
        return False

    def before_fork(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until the first push has imported what it needs.

        A child would wait forever for an import that it inherits half done.
        """
        deadline = time.monotonic() + timeout
        for attempt in (self._current, self._last):
            if not self._has_pushed and attempt is not None:
                attempt.ended.wait(deadline - time.monotonic())

    def after_fork_in_child(self) -> None:
        """Drop the parent's state in a forked child, so that none of its data is pushed again."""
        for attempt in (self._current, self._last):
            if attempt is not None:  # it goes on if threads are greenlets
                attempt.is_abandoned = True
        _inherited.extend([self._exporter, self._current, self._last])
        self._worker.reset()
        self._is_started = self._is_asked = False
        self._begin(None)

    def finish(self, timeout: float) -> bool:
        """Collect and export once more, then shut the exporter down.

        It may be called several times, from any thread, from a signal handler and at the
        interpreter's exit. If an exception of a signal handler ends a call, the last push goes on,
        and a later call waits for it. A push under way gets a moment to end, and one that waits for
        a retry is interrupted. It can exceed the limit in one case only: no thread of this push
        runs and none can be started, as at the exit of Python 3.12 and newer. The exporter's
        time-out applies then.

        Args:
            timeout: Seconds for everything, whatever the endpoint does.

        Returns:
            Whether the last export succeeded.
        """
        timeout = min(max(0.0, timeout), threading.TIMEOUT_MAX)
        deadline = time.monotonic() + timeout
        self._deadline = max(self._deadline, deadline)
        self._is_finishing = True
        if self._claimed_by == threading.get_ident():
            return self._is_sent  # a signal handler interrupted the last push on its own thread
        if self._current is not None:
            self._current.released.set()
        if not self._ended.is_set:
            self._worker.close()
            self._run_last()
        if not self._ended.wait(deadline - time.monotonic()) and deadline >= self._deadline:
            self._abandon_last(timeout)
        return self._is_sent

    def drop(self, timeout: float) -> None:
        """Shut the exporter down without a last push.

        Args:
            timeout: Seconds for it.
        """
        self._is_abandoned = True
        self.finish(timeout)

    def _run_last(self) -> None:
        """Start the last push, unless it is under way."""
        if self._claim.locked():
            return
        try:
            # Thread.start() takes locks that the interrupted code may hold.
            _thread.start_new_thread(self._push_last, ())
        except RuntimeError:
            if not self._worker.is_running:  # otherwise the closed worker pushes
                self._push_last()

    # --- on the threads of the push ------------------------------------------------------------

    def _push_at_interval(self) -> None:
        is_due, self._is_asked = self._is_started or self._is_asked, False
        if self._is_finishing or not is_due:
            return
        if len(self._detached) >= _MAX_DETACHED:
            self._report(f"{len(self._detached)} threads hang in earlier exports")
            return
        attempt = _Attempt(time.monotonic() + self._timeout, self._collect)
        self._current = attempt
        if self._is_finishing:  # since then: the last push waits for this one, or runs beside it
            attempt.end()
            return
        if not self._run_detached(partial(self._run, attempt)):
            self._run(attempt)
        attempt.released.wait(self._timeout)
        if not attempt.is_done and not self._is_finishing:
            self._abandon(attempt, f"it did not end within {self._timeout:.3g} s")

    def _push_last(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        is_interrupted = True
        self._claimed_by = threading.get_ident()
        try:
            lost = self._end_current()
            # Interrupted deltas are in no later collection.
            if lost is None or self._push_now(lambda _: lost):
                self._is_sent = self._push_now(self._collect)
            exporter, self._exporter = self._exporter, None
            if exporter is not None:
                self._shut_down(exporter, self._deadline - time.monotonic())
            is_interrupted = False
        finally:
            self._claimed_by = None
            if is_interrupted:  # by a signal handler, if the main thread had to push
                self._claim.release()
            else:
                self._ended.set()

    def _push_now(self, collect: Collect) -> bool:
        if self._is_abandoned:
            return False
        left = max(_MIN_TIMEOUT, self._deadline - time.monotonic())
        self._last = _Attempt(time.monotonic() + min(self._timeout, left), collect)
        self._run(self._last)
        return self._last.is_sent

    def _end_current(self) -> MetricsData | None:
        """Wait a moment for the push under way, then interrupt it and return its deltas."""
        current = self._current
        if current is None or current.is_done or current.is_abandoned:
            return None
        if current.ended.wait(min(_MAX_GRACE, seconds_left(self._deadline) * _GRACE_SHARE)):
            return None
        data = current.data  # which the attempt drops at its end
        self._abandon(current, "it was interrupted for the last push")
        return data if _has_deltas(data) else None

    def _abandon(self, attempt: _Attempt, reason: str) -> None:
        attempt.is_abandoned = True
        exporter = attempt.exporter
        if self._exporter is exporter:
            self._exporter = None
        self._shut_down_detached(exporter)
        self._report(reason)

    def _abandon_last(self, timeout: float) -> None:
        if self._is_abandoned:
            return
        self._is_abandoned = True
        exporter, self._exporter = self._exporter, None
        if self._last is not None:
            self._last.is_abandoned = True
        self._shut_down_detached(exporter)
        self._ended.set()
        if not self._is_sent:
            self._log(
                logging.WARNING,
                "the last push of the exporter %r did not end within %.3g s; metrics may be lost",
                self.name,
                timeout,
            )

    def _run_detached(self, function: Callable[[], object]) -> bool:
        """Run a function on another thread; return whether one could be started."""
        token = object()
        detached = self._detached

        def run() -> None:
            try:
                function()
            finally:
                detached.discard(token)

        detached.add(token)
        try:
            _thread.start_new_thread(run, ())
        except RuntimeError:  # the process is at its limit or at its end
            detached.discard(token)
            return False
        return True

    def _shut_down_detached(self, exporter: MetricExporter | None) -> None:
        if exporter is not None:
            # This ends the retries of most exporters, and may hang too.
            self._run_detached(partial(self._shut_down, exporter, 0.0))

    def _shut_down(self, exporter: MetricExporter, timeout: float) -> None:
        try:
            exporter.shutdown(timeout_millis=max(0.0, timeout) * 1e3)
        except BaseException as error:
            reason = redact(repr(error), self._secrets)
            self._log(logging.DEBUG, "shutting down a metric exporter failed: %s", reason)
            if _is_from_signal(error):
                raise

    # --- one attempt ---------------------------------------------------------------------------

    def _run(self, attempt: _Attempt) -> None:
        """Collect and export; the exporter's exceptions are reported and not raised."""
        try:
            failure = self._export(attempt)
        except BaseException as error:
            if _is_from_signal(error):
                raise
            failure = f"it raised {error!r}"
        attempt.is_sent = failure is None and not attempt.is_abandoned
        self._has_pushed = True
        if not attempt.is_abandoned:
            self._report(failure)
        attempt.end()

    def _export(self, attempt: _Attempt) -> str | None:
        """Return None for success, else the failure."""
        try:
            data = attempt.data = attempt.collect(attempt.time_left())
        except Exception as error:
            return f"the collection failed: {error!r}"
        # Checked after the collection: in a child that was forked since, if threads are greenlets,
        # the data is the parent's.
        if data is None or attempt.is_abandoned:
            return None
        exporter = self._exporter
        if exporter is None:
            exporter = self._make_exporter()
            if not attempt.is_abandoned:
                self._exporter = exporter
        attempt.exporter = exporter
        if attempt.is_abandoned:
            return None
        token = otel_context.attach(otel_context.Context(_NO_INSTRUMENTATION))
        try:
            result = exporter.export(data, timeout_millis=attempt.time_left() * 1e3)
        finally:
            otel_context.detach(token)
        return None if result is MetricExportResult.SUCCESS else "the export failed"

    def _report(self, failure: str | None) -> None:
        """Count a failure; log the first of several, and the end of them."""
        was_failing, self._is_failing = self._is_failing, failure is not None
        if failure is None:
            if was_failing:
                self._log(logging.INFO, "the exporter %r pushes metrics again", self.name)
            return
        if not was_failing:
            self._log(
                logging.WARNING,
                "the exporter %r cannot push metrics: %s; the job goes on, and further failures "
                "are counted but not logged until a push succeeds",
                self.name,
                redact(failure, self._secrets),
            )
        with contextlib.suppress(Exception):
            self._on_failure(self.name)

    def _log(self, level: int, text: str, *arguments: object) -> None:
        with contextlib.suppress(Exception):  # a logging handler of the job may raise
            _logger.log(level, text, *arguments)


class _Latch:
    """An event that a signal handler may set and wait for, whatever it interrupted.

    A handler that interrupts its own thread inside the lock of a `threading.Event` would wait
    forever; `SimpleQueue` is reentrant.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self.is_set = True
        self._tokens.put(None)

    def wait(self, timeout: float) -> bool:
        if not self.is_set:
            with contextlib.suppress(Empty):
                self._tokens.get(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
                self._tokens.put(None)  # for other waiters
        return self.is_set


@dataclass(slots=True, eq=False)
class _Attempt:
    """One push; ``deadline`` is on the clock of ``time.monotonic()``."""

    deadline: float
    collect: Collect
    data: MetricsData | None = None
    exporter: MetricExporter | None = None
    begun: float = field(default_factory=time.monotonic)
    is_done: bool = False
    is_sent: bool = False
    is_abandoned: bool = False  # its result is ignored
    ended: _Latch = field(default_factory=_Latch)
    released: _Latch = field(default_factory=_Latch)  # at the end, or to stop waiting

    def end(self) -> None:
        self.is_done = True
        self.data = None
        self.ended.set()
        self.released.set()

    def time_left(self) -> float:
        return max(_MIN_TIMEOUT, self.deadline - time.monotonic())


def _has_deltas(data: MetricsData | None) -> bool:
    return data is not None and any(
        getattr(metric.data, "aggregation_temporality", None) == AggregationTemporality.DELTA
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _is_from_signal(error: BaseException) -> bool:
    """Return whether a signal handler may have raised an error, which must not be suppressed."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and not isinstance(error, Exception)
