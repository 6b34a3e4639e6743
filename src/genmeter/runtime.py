"""What the monitors of one process share, from the first of them to the end of the process.

Telemetry is per process, monitors are many: AfterImage makes one for every generator that was
given none. They share the inbox, the label limits, the meter provider and the endpoint, counted
by reference; the first one's settings hold, and a later one that asks for others is told so.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import multiprocessing
import os
import threading
import time
import weakref
from collections import deque
from multiprocessing import util as mp_util
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as otel_metrics

from genmeter.config import EndpointConfig, LabelLimits, MonitorConfig
from genmeter.errors import ConfigError
from genmeter.events import CallDefaults
from genmeter.outputs.provider import OwnProvider
from genmeter.outputs.tokens import TokenUsageReport, report_of
from genmeter.pipeline import Pipeline, Sink
from genmeter.recorders.history import History
from genmeter.tallies import Tallies
from genmeter.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["Runtime", "current", "install"]

_logger = logging.getLogger("genmeter")
_FORK_PATIENCE = 5.0  # seconds that a fork waits for a drain or a scrape under way
# Read when a provider is made; the rest of a configuration is each monitor's own.
_SHARED = ("prices", "score_scales", "custom_metrics", "limits", "endpoint")


class Runtime:
    """The shared part of a process; see the module's text."""

    def __init__(self) -> None:
        self.tallies = Tallies()
        self.pipeline: Pipeline | None = None
        self._lock = threading.RLock()
        self._own: Telemetry | None = None
        self._foreign: weakref.WeakKeyDictionary[MeterProvider, Telemetry] = (
            weakref.WeakKeyDictionary()
        )
        self._sinks: list[Sink] = []
        self._orphans: deque[Sink] = deque()
        self._retired = TokenUsageReport(by_model=[])
        self._retired_until = 0.0
        self._is_child = False
        self._inherited: list[Telemetry] = []
        self._held: list[Any] = []
        self._has_exit_hook = False

    # --- monitors come and go ------------------------------------------------------------------

    def attach(self, config: MonitorConfig, *, timeout: float) -> Sink:
        """Make the sink of a new monitor.

        Args:
            config: The monitor's settings.
            timeout: Seconds that its shutdown may take.

        Raises:
            ConfigError: A setting or an environment variable that cannot be used.
            EndpointError: The endpoint was asked for in code and its address cannot be used.
        """
        with self._lock:
            self._bury_orphans()
            if self.pipeline is None:
                limits = dataclasses.asdict(config.limits)
                limits.pop("combinations")
                self.pipeline = Pipeline(limits, tallies=self.tallies, on_start=self._start)
            telemetry = self._telemetry(config)
            sink = Sink(
                CallDefaults(config.default_model, config.provider, config.operation),
                History(config.history.capacity),
                expected_samples=config.expected_samples,
                timeout=timeout,
            )
            telemetry.add(sink)
            self._sinks.append(sink)
            telemetry.announce(config)
            if not self._has_exit_hook:
                self._has_exit_hook = True
                atexit.register(self.exit)
                mp_util.register_after_fork(self, Runtime._hook_into_child_exit)
                if multiprocessing.parent_process() is not None:
                    self._hook_into_child_exit()
            return sink

    def release(self, sink: Sink, timeout: float) -> None:
        """Close a monitor's sink; the last one closes what is our own.

        Args:
            sink: The monitor's sink.
            timeout: Seconds for the drain and the last pushes together.
        """
        deadline = time.monotonic() + timeout
        pipeline = self.pipeline
        if sink.is_closed or pipeline is None:
            return
        try:
            pipeline.run(lambda: None, timeout)
        except TimeoutError:
            _logger.warning("shutdown did not wait longer for %d events", len(pipeline.inbox))
        sink.is_closed = True
        with self._lock:
            telemetry = next((each for each in self._telemetries() if sink in each.sinks), None)
            if telemetry is None or telemetry.open_sinks:
                return
            if telemetry is self._own:
                self._own = None
        telemetry.close(max(0.0, deadline - time.monotonic()))

    def abandon(self, sink: Sink) -> None:
        """Note that a sink's monitor is gone.

        The garbage collector calls this, on any thread and under any lock, so nothing more
        happens here; the next monitor, report or exit sees to it.
        """
        self._orphans.append(sink)

    def exit(self) -> None:
        """Close everything; at the end of the process."""
        while True:
            sinks = [sink for sink in self._sinks if not sink.is_closed]
            if not sinks:
                return
            for sink in sinks:
                self.release(sink, sink.timeout)

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
        with self._lock:
            self._bury_orphans()
            pipeline = self.pipeline
            if pipeline is None:
                return TokenUsageReport(by_model=[])
            sinks = list(self._sinks)
            totals = pipeline.run(lambda: [sink.history.token_totals(since) for sink in sinks])
            reports = [report_of(each) for each in totals]
            if since is None:
                reports.append(self._retired)
            elif since <= self._retired_until:
                reports.append(TokenUsageReport(by_model=[], complete=False))
            return TokenUsageReport.merge(reports)

    def _telemetries(self) -> list[Telemetry]:
        own = [] if self._own is None else [self._own]
        return [*own, *self._foreign.values()]

    def _telemetry(self, config: MonitorConfig) -> Telemetry:
        given = config.meter_provider
        if given == "own":
            if self._own is None:
                self._own = self._new_own(config)
            else:
                _warn_of_difference(self._own.config, config)
            return self._own
        provider = otel_metrics.get_meter_provider() if isinstance(given, str) else given
        telemetry = self._foreign.get(provider)
        if telemetry is None:
            telemetry = Telemetry(config, self.require_pipeline(), provider)
            self._foreign[provider] = telemetry
        else:
            _warn_of_difference(telemetry.config, config)
        return telemetry

    def require_pipeline(self) -> Pipeline:
        """Give the inbox and drain, once a monitor was attached."""
        if self.pipeline is None:
            raise AssertionError("attach makes the pipeline first")
        return self.pipeline

    def _new_own(self, config: MonitorConfig) -> Telemetry:
        is_main = not self._is_child and multiprocessing.parent_process() is None
        own = OwnProvider(
            config,
            with_endpoint=is_main,
            on_export_failure=self.tallies.count_export_failure,
        )
        own.bind_if_asked()
        return Telemetry(config, self.require_pipeline(), own.meter_provider, own)

    def _bury_orphans(self) -> None:
        while self._orphans:
            sink = self._orphans.popleft()
            if sink not in self._sinks:
                continue
            self.release(sink, sink.timeout)
            totals = self.require_pipeline().run(sink.history.token_totals)
            self._retired = TokenUsageReport.merge([self._retired, report_of(totals)])
            self._retired_until = max(self._retired_until, sink.history.last_time or 0.0)
            self._sinks.remove(sink)
            for telemetry in self._telemetries():
                if sink in telemetry.sinks:
                    telemetry.sinks.remove(sink)

    def _start(self) -> None:
        """Start what waited for the first event; the pipeline calls this."""
        if self._is_child:
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
        for telemetry in self._telemetries():
            reader = telemetry.own.reader if telemetry.own is not None else None
            if reader is not None and reader.collection_lock.acquire(timeout=_FORK_PATIENCE):
                self._held.append(reader.collection_lock)
        pipeline.hold(_FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Let the locks go."""
        if self.pipeline is not None:
            self.pipeline.let_go()
        while self._held:
            self._held.pop().release()

    def after_fork_in_child(self) -> None:
        """Begin anew: nothing waits, nothing is kept, nothing runs."""
        self._held.clear()
        self._lock = threading.RLock()
        self._is_child = True
        self._orphans.clear()
        self._retired = TokenUsageReport(by_model=[])
        self._retired_until = 0.0
        self.tallies.reset()
        if self._own is not None:
            if self._own.own is not None:
                self._own.own.leave_to_parent()
            # Kept, since the end of an exporter that a thread of the parent used could hang here.
            self._inherited.append(self._own)
        if self.pipeline is not None:
            self.pipeline.reset_after_fork()
        for sink in self._sinks:
            sink.reset()

    def _rebuild(self) -> None:
        """Give a forked child a provider of its own; a foreign one is the application's."""
        if self._own is not None and self._own in self._inherited:
            old, self._own = self._own, None
            self._own = self._new_own(old.config)
            for sink in old.sinks:
                self._own.add(sink)
            self._own.announce(old.config)
        for sink in self._sinks:
            if sink.on_rebirth is not None:
                sink.on_rebirth()
        for telemetry in self._foreign.values():
            self.require_pipeline().register(telemetry.recorder)
            for sink in telemetry.sinks:
                sink.instruments = telemetry.recorder
            _logger.warning(
                "this process was forked, and its MeterProvider is the application's: it counts "
                "what the parent had counted once more; make a new provider in the child"
            )

    def _hook_into_child_exit(self) -> None:
        # atexit does not run in children that multiprocessing forked; its own finalizers do.
        mp_util.Finalize(None, self.exit, exitpriority=0)


def _warn_of_difference(first: MonitorConfig, other: MonitorConfig) -> None:
    differences = []
    for name in _SHARED:
        ours, theirs = getattr(first, name), getattr(other, name)
        if isinstance(ours, EndpointConfig | LabelLimits):
            default = type(ours)()
            for each in dataclasses.fields(ours):
                asked = getattr(theirs, each.name)
                if asked not in (getattr(ours, each.name), getattr(default, each.name)):
                    shown = "another" if each.name == "password" else repr(asked)
                    differences.append(f"{name}.{each.name}={shown}")
        elif theirs and theirs != ours:
            differences.append(name)
    if differences:
        _logger.warning(
            "the first monitor of a process sets what all of them share; "
            "not used of a later one: %s",
            ", ".join(differences),
        )


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
