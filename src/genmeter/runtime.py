"""What the monitors of one process share, from the first of them to the end of the process.

Telemetry is per process, monitors are many: AfterImage makes one for every generator that was
given none. They share the inbox, the label limits, the meter provider and the endpoint, counted
by reference; the first one's settings hold, and a later one that asks for others is told so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as otel_metrics

from genmeter.config import LabelLimits
from genmeter.errors import ConfigError
from genmeter.events import CallDefaults
from genmeter.exit_hook import ExitHook
from genmeter.outputs.provider import OwnProvider
from genmeter.outputs.retired import Retired
from genmeter.outputs.tokens import TokenUsageReport, report_of
from genmeter.pipeline import Pipeline
from genmeter.recorders.history import History
from genmeter.recorders.relay import Relay
from genmeter.sharing import differences, limit_differences, note
from genmeter.sink import Sink
from genmeter.tallies import Tallies
from genmeter.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.metrics import MeterProvider

    from genmeter.config import MonitorConfig
    from genmeter.recorders.relay import Tap
    from genmeter.recorders.token_sums import TokenTotals

__all__ = ["Runtime", "current", "install"]

_LEAST_TO_LOG = 0.2
_FORK_PATIENCE = 5.0  # seconds that a fork waits for a drain under way


class Runtime:
    """The shared part of a process; see the module's text."""

    def __init__(self) -> None:
        self.tallies = Tallies()
        self.pipeline: Pipeline | None = None
        # Nobody who holds it waits for the drain or logs.
        self._lock = threading.RLock()
        self._limits = LabelLimits()
        self._own: Telemetry | None = None
        self._foreign: weakref.WeakKeyDictionary[MeterProvider, Telemetry] = (
            weakref.WeakKeyDictionary()
        )
        self._global: Telemetry | None = None
        # Those whose last push is under way; what an exception cuts short is made up for at exit.
        self._closing: list[Telemetry] = []
        self._sinks: list[Sink] = []
        self._orphans: deque[Sink] = deque()
        self._retired = Retired()
        self._is_child = False
        self._must_rebuild = False
        self._inherited: list[Telemetry] = []
        self._held: list[Any] = []
        self._exit_hook = ExitHook(self.exit)

    # --- monitors come and go ------------------------------------------------------------------

    def attach(self, config: MonitorConfig, *, timeout: float, taps: Sequence[Tap] = ()) -> Sink:
        """Make the sink of a new monitor.

        Args:
            config: The monitor's settings.
            timeout: Seconds that its shutdown may take.
            taps: What its events go to beside its handlers.

        Raises:
            ConfigError: A setting or an environment variable that cannot be used.
            EndpointError: The endpoint was asked for in code and its address cannot be used.
        """
        with self._lock:
            if self.pipeline is None:
                limits = dataclasses.asdict(config.limits)
                limits.pop("combinations")
                self._limits = config.limits
                self.pipeline = Pipeline(limits, tallies=self.tallies, on_start=self._start)
            pipeline = self.pipeline
        if self._must_rebuild:
            pipeline.run(self._rebuild)
        with self._lock:
            known = self._known(config.meter_provider)
            # What metrics are counted by, so that alerts see the same in the history.
            shared = config if known is None else known.config
            sink = Sink(
                CallDefaults(config.default_model, config.provider, config.operation),
                History(
                    config.history.capacity,
                    config.history.metadata_bytes,
                    prices=shared.prices,
                    scales=shared.score_scales,
                ),
                Relay(self.tallies, pipeline.notices, taps=taps),
                expected_samples=config.expected_samples,
                timeout=timeout,
            )
            telemetry = self._telemetry(config)
            telemetry.add(sink)
            pipeline.register(sink.relay)
            self._sinks.append(sink)
            self._exit_hook.set()
        telemetry.announce(config)
        # Not before: where the last monitor was forgotten, its provider goes on with this one.
        self._bury_orphans()
        pipeline.notices.tell()
        return sink

    def release(self, sink: Sink, timeout: float) -> None:
        """Close a monitor's sink; the last one closes what is our own.

        Args:
            sink: The monitor's sink.
            timeout: Seconds for the drain, the last pushes and the handlers together.
        """
        if sink.is_closed:
            return
        deadline = time.monotonic() + timeout
        self._release_at(sink, deadline)
        self._end_handlers(sink, deadline)
        self.require_pipeline().notices.finish(_time_to_log(deadline))

    def _release_at(self, sink: Sink, deadline: float) -> None:
        """Close a sink; its handlers go on in the time that the last pushes take."""
        if sink.is_closed:
            return
        pipeline = self.require_pipeline()
        try:
            pipeline.run(lambda: None, max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            pipeline.notices.add(
                logging.WARNING, "shutdown did not wait longer for %d events", len(pipeline.inbox)
            )
        if sink.before_close is not None:
            sink.before_close(max(0.0, deadline - time.monotonic()))
        sink.relay.begin_close()
        for telemetry in self._close(sink):
            self._finish(telemetry, deadline)
        pipeline.forget(sink.relay)

    def _end_handlers(self, sink: Sink, deadline: float) -> None:
        if sink.on_close is not None:
            sink.on_close(max(0.0, deadline - time.monotonic()))
        sink.relay.finish_close(deadline)

    def _close(self, sink: Sink) -> list[Telemetry]:
        """Close a sink; gives what nobody uses any more."""
        with self._lock:
            unused = [self._own] if self._own and self._own.open_sinks == [sink] else []
            if unused:
                self._closing += unused
                self._own = None
            sink.is_closed = True
            return unused

    def _finish(self, telemetry: Telemetry, deadline: float) -> None:
        try:
            telemetry.close(max(0.0, deadline - time.monotonic()))
        except Exception as error:
            self.require_pipeline().notices.add(
                logging.ERROR, "the last push or scrape failed", error=error
            )
        with contextlib.suppress(ValueError):  # another thread was faster
            self._closing.remove(telemetry)

    def abandon(self, sink: Sink) -> None:
        """Note that a sink's monitor is gone.

        The garbage collector calls this, on any thread and under any lock, so nothing more
        happens here; the next monitor, report or exit sees to it.
        """
        self._orphans.append(sink)

    def exit(self) -> None:
        """Close everything, within the longest of the time-outs; at the end of the process."""
        timeout = max((sink.timeout for sink in self._sinks), default=0.0)
        deadline = time.monotonic() + timeout
        for sink in tuple(self._sinks):
            self._release_at(sink, deadline)
        for telemetry in tuple(self._closing):
            self._finish(telemetry, deadline)
        # Last, so that no handler takes the time of a push or of another monitor.
        for sink in tuple(self._sinks):
            self._end_handlers(sink, deadline)
        if self.pipeline is not None:
            self.pipeline.notices.finish(_time_to_log(deadline))

    def url(self) -> str | None:
        """Where the endpoint of our own serves; None while it does not."""
        own = self._own
        return own.own.url if own is not None and own.own is not None else None

    def render(self, openmetrics: bool) -> bytes:
        """Write the page of our own provider.

        Args:
            openmetrics: OpenMetrics 1.0 rather than Prometheus text.

        Raises:
            ConfigError: There is no provider of our own that is scraped.
        """
        own = self._own
        reader = own.own.reader if own is not None and own.own is not None else None
        if reader is None:
            raise ConfigError(
                "there is no page: every monitor is shut down, the meter provider is the "
                "application's, or OTEL_METRICS_EXPORTER leaves prometheus out"
            )
        return reader.render(openmetrics)

    def token_usage(self, since: float | None) -> TokenUsageReport:
        """Sum the tokens over all monitors that this process ever had.

        Args:
            since: Unix time in seconds; None means since the start of the process.
        """
        self._bury_orphans()
        with self._lock:
            pipeline = self.pipeline
            sinks = list(self._sinks)
            gone = self._retired.since(since)
        if pipeline is None:
            return TokenUsageReport(by_model=[])
        totals = pipeline.run(lambda: [sink.history.token_totals(since) for sink in sinks])
        return TokenUsageReport.merge([*(report_of(each) for each in totals), gone])

    def _telemetries(self) -> list[Telemetry]:
        own = [] if self._own is None else [self._own]
        return [*own, *self._foreign.values()]

    def _telemetry(self, config: MonitorConfig) -> Telemetry:
        pipeline, given = self.require_pipeline(), config.meter_provider
        found = self._known(given)
        if found is not None:
            note(pipeline.notices, differences(found.config, config))
            return found
        note(pipeline.notices, limit_differences(self._limits, config.limits))
        if given == "own":
            self._own = self._new_own(config)
            pipeline.begin_again()
            return self._own
        provider = otel_metrics.get_meter_provider() if isinstance(given, str) else given
        telemetry = Telemetry(config, pipeline, provider)
        self._foreign[provider] = telemetry
        if given == "global":
            self._global = telemetry
        return telemetry

    def _known(self, given: MeterProvider | str) -> Telemetry | None:
        if given == "own":
            return self._own
        if isinstance(given, str):
            # What stands for the global provider until it is set becomes that one.
            return self._global or self._foreign.get(otel_metrics.get_meter_provider())
        return self._foreign.get(given)

    def require_pipeline(self) -> Pipeline:
        """Give the inbox and drain, once a monitor was attached."""
        if self.pipeline is None:
            raise AssertionError("attach makes the pipeline first")
        return self.pipeline

    def _new_own(self, config: MonitorConfig, parent: OwnProvider | None = None) -> Telemetry:
        is_main = not self._is_child and multiprocessing.parent_process() is None
        pipeline = self.require_pipeline()
        own = OwnProvider(
            config,
            with_endpoint=is_main,
            on_export_failure=self.tallies.count_export_failure,
            log=pipeline.notices.add,
            parent=parent,
        )
        own.bind_if_asked()
        return Telemetry(config, pipeline, own.meter_provider, own)

    def _bury_orphans(self) -> None:
        """Retire the histories of monitors that are gone.

        The last open one stays: the provider goes on, with the next monitor or until the exit.
        """
        for _ in range(len(self._orphans)):
            try:
                sink = self._orphans.popleft()
            except IndexError:  # another thread was faster
                return
            own = self._own
            if own is not None and own.open_sinks == [sink]:
                self._orphans.append(sink)
                continue
            self.release(sink, sink.timeout)
            totals, last = self.require_pipeline().run(partial(_totals, sink.history))
            with self._lock:
                self._retired.add(totals, last)
                self._sinks.remove(sink)
                for telemetry in self._telemetries():
                    telemetry.retire(sink)

    def _start(self) -> None:
        """Start what waited for the first event; the pipeline calls this under its lock."""
        if self._must_rebuild:
            self._rebuild()
        own = self._own
        if own is not None and own.own is not None:
            own.own.start()

    # --- fork and the end of children ----------------------------------------------------------

    def before_fork(self) -> None:
        """Bring what is under way to an end and hold the locks, so that no child inherits half."""
        pipeline = self.pipeline
        if pipeline is None:
            return
        for telemetry in (*self._telemetries(), *self._closing):
            for lock, patience in telemetry.own.fork_locks() if telemetry.own is not None else []:
                # Noted first: an exception of a signal handler must not leave it taken for ever.
                self._held.append(lock)
                if not lock.acquire(timeout=patience):
                    self._held.pop()
        pipeline.hold(_FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Let the locks go."""
        if self.pipeline is not None:
            self.pipeline.let_go()
        while self._held:
            with contextlib.suppress(RuntimeError):
                self._held.pop().release()

    def after_fork_in_child(self) -> None:
        """Begin anew: nothing waits, nothing is kept, nothing runs."""
        self._held.clear()
        self._lock = threading.RLock()
        self._is_child = True
        self._must_rebuild = True
        self._orphans.clear()
        self._retired = Retired()
        self.tallies.reset()
        # Kept, since the end of an exporter that a thread of the parent used could hang here.
        self._inherited += [*self._closing, *self._telemetries()]
        self._closing.clear()
        for telemetry in self._inherited:
            telemetry.leave_to_parent()
        if self.pipeline is not None:
            self.pipeline.reset_after_fork()
        for sink in self._sinks:
            sink.reset()

    def _rebuild(self) -> None:
        """Give a forked child a provider of its own; a foreign one is the application's.

        The drain's lock is held.
        """
        if not self._must_rebuild:
            return
        self._must_rebuild = False
        pipeline = self.require_pipeline()
        for telemetry in self._foreign.values():
            pipeline.register(telemetry.recorder)
            for sink in telemetry.sinks:
                sink.instruments = telemetry.recorder
            pipeline.notices.add(
                logging.WARNING,
                "this process was forked, and its MeterProvider is the application's: it counts "
                "what the parent had counted once more; make a new provider in the child",
            )
        for sink in self._sinks:
            if not sink.is_closed:
                pipeline.register(sink.relay)
            if sink.on_rebirth is not None and not sink.is_closed:
                sink.on_rebirth()
        old, self._own = self._own, None
        if old is not None:
            self._own = self._new_own(old.config, old.own)
            for sink in old.sinks:
                self._own.add(sink)
            self._own.announce(old.config)


def _time_to_log(deadline: float) -> float:
    # Something even after the deadline: who waited in vain wants to read for what.
    return min(1.0, max(_LEAST_TO_LOG, deadline - time.monotonic()))


def _totals(history: History) -> tuple[TokenTotals, float | None]:
    return history.token_totals(), history.last_time


_current = Runtime()


def current() -> Runtime:
    """Give the runtime of this process."""
    return _current


def install(runtime: Runtime) -> Runtime:
    """Put another runtime in place, for tests; gives the one that was."""
    global _current
    previous, _current = _current, runtime
    return previous


if hasattr(os, "register_at_fork"):
    # The hooks cannot be taken back, so they look up whichever runtime is current by then.
    os.register_at_fork(
        before=lambda: current().before_fork(),
        after_in_parent=lambda: current().after_fork_in_parent(),
        after_in_child=lambda: current().after_fork_in_child(),
    )
