"""Pushing: what collects and exports at an interval.

The SDK has such a thread too. Ours exists for what the SDK's cannot do: end within a limit that the
caller sets even if the endpoint is dead, end from a signal handler or at the interpreter's exit,
outlive an export that raises or hangs, and leave a forked child alone, where the SDK's would start
again and push the parent's totals a second time.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExportResult

from genmeter.clock import seconds_left
from genmeter.exporters.settings import redact
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

__all__ = ["Push"]

_logger = logging.getLogger("genmeter")
_LEAST_TIMEOUT = 0.001  # seconds; 0 would mean that a collection is late already
_MOST_GRACE = 1.0  # seconds that the last push waits for the one under way
_GRACE_SHARE = 0.25  # and the share of its time
_MOST_ASIDE = 6  # threads that hang in an exporter before no further push is tried
# What the instrumentations of HTTP and gRPC ask for: an export makes no spans of its own.
_NO_INSTRUMENTATION = {"suppress_instrumentation": True}
# Kept in a forked child: the end of an exporter that a thread of the parent used could hang.
_inherited: list[object] = []


class Push:
    """Exports at an interval what it collects, and once more at the end.

    Each push has a thread of its own, so an exporter that hangs costs that one push: it is shut
    down aside, and the next push has a new exporter. With delta temporality an interval whose
    export fails is lost, as in the SDK; with cumulative temporality, the default, the next export
    that succeeds makes up for it.

    Args:
        make_exporter: Makes an exporter, which imports all that it needs to export.
        collect: Called with seconds; returns what to export, or None where there is nothing.
        name: The exporter's name as in ``OTEL_METRICS_EXPORTER``.
        interval: Seconds from the end of one push to the start of the next, more than 0.
        timeout: Seconds that one push may take, more than 0.
        on_failure: Called with the name at every push that fails, on any thread.
        exporter: The first exporter; None to have it made with the first push.
        secrets: Texts that no log line may contain.

    Attributes:
        name: As given.
    """

    def __init__(
        self,
        make_exporter: Callable[[], MetricExporter],
        collect: Callable[[float], MetricsData | None],
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
        self._worker: Worker[None] = Worker(
            name=f"genmeter-push-{name}",
            tick=self._push_at_interval,
            interval=interval,
            on_end=self._push_last,
        )
        self._begin(exporter)

    def _begin(self, exporter: MetricExporter | None) -> None:
        self._exporter = exporter
        self._failure: str | None = None
        self._current: _Attempt | None = None
        self._last: _Attempt | None = None
        self._aside: set[object] = set()
        self._has_pushed = False
        self._is_finishing = False
        self._is_abandoned = False
        self._is_sent = False
        self._deadline = 0.0
        # Held by whoever makes the last push; released only where that was interrupted.
        self._claim = threading.Lock()
        self._claimed_by: int | None = None
        self._ended = _Latch()

    def start(self) -> None:
        """Start to push; where that was done before, or is impossible now, do nothing."""
        if not self._is_finishing:
            self._worker.start()

    def before_fork(self, timeout: float) -> None:
        """Wait until the first push has imported what it needs.

        A child would wait for ever for an import that it inherits half done.

        Args:
            timeout: Seconds to wait at most; an endpoint that is dead holds a push up for longer.
        """
        deadline = time.monotonic() + timeout
        for attempt in (self._current, self._last):
            if not self._has_pushed and attempt is not None:
                attempt.ended.wait(deadline - time.monotonic())

    def after_fork_in_child(self) -> None:
        """Forget, in a forked child, what the parent was doing; nothing of it is pushed here."""
        for attempt in (self._current, self._last):
            if attempt is not None:  # it goes on where threads are greenlets
                attempt.is_abandoned = True
        _inherited.extend([self._exporter, self._current, self._last])
        self._worker.reset()
        self._begin(None)

    def finish(self, timeout: float) -> bool:
        """Collect and export once more, then shut the exporter down.

        It may be called several times, from any thread, from a signal handler and at the
        interpreter's exit. Where an exception of a signal handler ends a call, the last push goes
        on, and a later call waits for it. A push under way gets a moment to end; one that waits for
        its next try is interrupted. It takes longer than the limit in one case only: no thread of
        this push runs and none can be started any more, as at the exit of Python 3.12 and newer;
        the exporter's own time-out holds then.

        Args:
            timeout: Seconds for all of it, whatever the endpoint does.

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

    def _run_last(self) -> None:
        """Have the last push made, unless that is under way."""
        if self._claim.locked():
            return
        try:
            # Thread.start() takes locks that the code under a signal handler may hold.
            _thread.start_new_thread(self._push_last, ())
        except RuntimeError:
            if not self._worker.is_running:  # else it does so, being closed
                self._push_last()

    # --- on threads of our own -----------------------------------------------------------------

    def _push_at_interval(self) -> None:
        if self._is_finishing:
            return
        if len(self._aside) >= _MOST_ASIDE:
            self._note(f"{len(self._aside)} threads hang in earlier exports")
            return
        attempt = _Attempt(self, time.monotonic() + self._timeout, self._collect)
        self._current = attempt
        if self._is_finishing:  # meanwhile: the last push waits for this one, or runs beside it
            attempt.end()
            return
        if not self._run_aside(attempt.run):
            attempt.run()
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
            # Deltas that were interrupted are in no later collection.
            if lost is None or self._push_now(lambda _: lost):
                self._is_sent = self._push_now(self._collect)
            exporter, self._exporter = self._exporter, None
            if exporter is not None:
                self._shut_down(exporter, self._deadline - time.monotonic())
            is_interrupted = False
        finally:
            self._claimed_by = None
            if is_interrupted:  # by a signal handler, where the main thread had to push
                self._claim.release()
            else:
                self._ended.set()

    def _push_now(self, collect: Callable[[float], MetricsData | None]) -> bool:
        if self._is_abandoned:
            return False
        left = max(_LEAST_TIMEOUT, self._deadline - time.monotonic())
        self._last = _Attempt(self, time.monotonic() + min(self._timeout, left), collect)
        self._last.run()
        return self._last.is_sent

    def _end_current(self) -> MetricsData | None:
        """Give the push under way a moment, and then interrupt it; return the deltas that it had."""
        current = self._current
        if current is None or current.is_done or current.is_abandoned:
            return None
        left = seconds_left(self._deadline)
        if current.ended.wait(min(_MOST_GRACE, left * _GRACE_SHARE)):
            return None
        data = current.data  # which the attempt drops at its end
        self._abandon(current, "it was interrupted for the last push")
        return data if _has_deltas(data) else None

    def _abandon(self, attempt: _Attempt, why: str) -> None:
        attempt.is_abandoned = True
        exporter = attempt.exporter
        if self._exporter is exporter:
            self._exporter = None
        if exporter is not None:
            # This ends the retries of most exporters, and may hang itself.
            self._run_aside(partial(self._shut_down, exporter, 0.0))
        self._note(why)

    def _abandon_last(self, timeout: float) -> None:
        if self._is_abandoned:
            return
        self._is_abandoned = True
        exporter, self._exporter = self._exporter, None
        if self._last is not None:
            self._last.is_abandoned = True
        if exporter is not None:
            self._run_aside(partial(self._shut_down, exporter, 0.0))
        self._ended.set()
        if not self._is_sent:
            with contextlib.suppress(Exception):
                _logger.warning(
                    "the last push of the exporter %r did not end within %.3g s; metrics may be "
                    "lost",
                    self.name,
                    timeout,
                )

    def _run_aside(self, function: Callable[[], object]) -> bool:
        """Run a function on a thread; returns whether one could be had."""
        token = object()

        def run() -> None:
            try:
                function()
            finally:
                aside.discard(token)

        aside = self._aside
        aside.add(token)
        try:
            _thread.start_new_thread(run, ())
        except RuntimeError:  # the process is at its limit or at its end
            aside.discard(token)
            return False
        return True

    def exporter_for(self, attempt: _Attempt) -> MetricExporter:
        """Return the exporter, a new one where the last one was given up.

        Args:
            attempt: The push that needs it.
        """
        exporter = self._exporter
        if exporter is None:
            exporter = self._make_exporter()
            if not attempt.is_abandoned:
                self._exporter = exporter
        return exporter

    def _shut_down(self, exporter: MetricExporter, timeout: float) -> None:
        try:
            exporter.shutdown(timeout_millis=max(0.0, timeout) * 1e3)
        except BaseException as error:
            self._log(logging.DEBUG, "an exporter of metrics did not shut down: %s", error=error)
            if _is_from_signal(error):
                raise

    def note(self, attempt: _Attempt, failure: str | None) -> None:
        """Take in how a push went, unless it was given up before.

        Args:
            attempt: The push.
            failure: None for well, else what went wrong.
        """
        self._has_pushed = True
        if not attempt.is_abandoned:
            self._note(failure)

    def _note(self, failure: str | None) -> None:
        before, self._failure = self._failure, failure
        if failure is None and before is not None:
            self._log(logging.INFO, "the exporter %r pushes metrics again", self.name)
        elif failure is not None and before is None:
            self._log(
                logging.WARNING,
                "the exporter %r cannot push metrics: %s; the job goes on, and further failures "
                "are counted but not logged until a push succeeds",
                self.name,
                redact(failure, self._secrets),
            )
        if failure is not None:
            with contextlib.suppress(Exception):
                self._on_failure(self.name)

    def _log(
        self, level: int, text: str, *arguments: object, error: BaseException | None = None
    ) -> None:
        if error is not None:
            arguments = (*arguments, redact(repr(error), self._secrets))
        with contextlib.suppress(Exception):  # a logging handler of the job's may raise
            _logger.log(level, text, *arguments)


class _Attempt:
    """One push.

    Args:
        push: Whose.
        deadline: Until when it should have ended, as ``time.monotonic()`` counts.
        collect: Returns what to export.

    Attributes:
        data: What was collected, once it was.
        exporter: The exporter in use, once there is one.
        is_done: Whether it ended.
        is_sent: Whether the export succeeded.
        is_abandoned: Whether nobody waits for it any more.
        ended: Set at its end.
        released: Set at its end, or where whoever waits for it should go on.
    """

    def __init__(
        self, push: Push, deadline: float, collect: Callable[[float], MetricsData | None]
    ) -> None:
        self._push = push
        self._deadline = deadline
        self._collect = collect
        self.data: MetricsData | None = None
        self.exporter: MetricExporter | None = None
        self.is_done = False
        self.is_sent = False
        self.is_abandoned = False
        self.ended = _Latch()
        self.released = _Latch()

    def run(self) -> None:
        """Collect and export; what the exporter raises is noted and goes no further."""
        failure: str | None = None
        try:
            failure = self._export()
        except BaseException as error:
            if _is_from_signal(error):
                raise
            failure = f"it raised {error!r}"
        self.is_sent = failure is None and not self.is_abandoned
        self._push.note(self, failure)
        self.end()

    def end(self) -> None:
        """Let go whoever waits for it."""
        self.is_done = True
        self.data = None
        self.ended.set()
        self.released.set()

    def _export(self) -> str | None:
        try:
            data = self.data = self._collect(self._left())
        except Exception as error:
            return f"the collection failed: {error!r}"
        # Looked at after the collection: in a child that was forked meanwhile, where threads are
        # greenlets, the data is the parent's.
        if data is None or self.is_abandoned:
            return None
        self.exporter = self._push.exporter_for(self)
        if self.is_abandoned:
            return None
        token = otel_context.attach(otel_context.Context(_NO_INSTRUMENTATION))
        try:
            result = self.exporter.export(data, timeout_millis=self._left() * 1e3)
        finally:
            otel_context.detach(token)
        return None if result is MetricExportResult.SUCCESS else "the export failed"

    def _left(self) -> float:
        return max(_LEAST_TIMEOUT, self._deadline - time.monotonic())


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
            with contextlib.suppress(Empty):
                self._tokens.get(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
                # For whoever else waits.
                self._tokens.put(None)
        return self.is_set


def _has_deltas(data: MetricsData | None) -> bool:
    return data is not None and any(
        getattr(metric.data, "aggregation_temporality", None) == AggregationTemporality.DELTA
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _is_from_signal(error: BaseException) -> bool:
    """Return whether a signal handler may have raised it, which the exporter must not swallow."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and not isinstance(error, Exception)
