"""What the monitors of one process share, from the first of them to the end of the process.

Telemetry is per process, monitors are many: AfterImage makes one for every generator that was
given none. They share the inbox, the label limits, the meter provider and the endpoint, counted
by reference; the first one's settings hold, and a later one that asks for others gets a warning.
"""

from __future__ import annotations

import atexit
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
from multiprocessing import util as mp_util
from typing import TYPE_CHECKING

from opentelemetry import metrics as otel_metrics

from genmeter.clock import seconds_left
from genmeter.config.monitor import EndpointConfig, LabelLimits
from genmeter.errors import ConfigError
from genmeter.events.model import CallDefaults
from genmeter.exporters.provider import Exporters, job_of
from genmeter.handlers.dispatch import Relay
from genmeter.history.store import History
from genmeter.history.token_report import Retired, TokenUsageReport, report_of
from genmeter.metrics.observers import Telemetry
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.self_metrics import SelfMetrics
from genmeter.pipeline.worker import Worker
from genmeter.session import Session, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from opentelemetry.metrics import MeterProvider
    from prometheus_client import Metric

    from genmeter.config.monitor import MonitorConfig
    from genmeter.exporters.prometheus import PrometheusBridge
    from genmeter.handlers.dispatch import Tap
    from genmeter.pipeline.deferred_log import DeferredLog

__all__ = ["ExitHook", "Runtime", "current", "differences", "install", "limit_differences", "note"]


class ExitHook:
    """Calls a function once the process ends; after a fork, in the child as well.

    Args:
        function: What to call; once more where a signal handler's SystemExit interrupts it.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._is_set = False

    def set(self) -> None:
        """Arrange for it; a second call does nothing."""
        if self._is_set:
            return
        self._is_set = True
        atexit.register(self._call)
        mp_util.register_after_fork(self, ExitHook._set_in_child)
        if multiprocessing.parent_process() is not None:
            self._set_in_child()

    def _set_in_child(self) -> None:
        # atexit does not run in children that multiprocessing forked; its own finalizers do.
        mp_util.Finalize(None, self._call, exitpriority=0)

    def _call(self) -> None:
        try:
            self._function()
        except SystemExit:
            # A signal handler's: the process ends already, and what was under way goes on.
            self._function()
            raise


# Read when a provider is made; the rest of a configuration is each monitor's own.
_SHARED = ("prices", "score_scales", "custom_metrics", "limits", "endpoint")


def differences(first: MonitorConfig, other: MonitorConfig) -> list[str]:
    """Name what ``other`` asks for and ``first`` does not give; a default is no wish.

    Args:
        first: The settings that hold.
        other: Those of a later monitor on the same meter provider.
    """
    found: list[str] = []
    for name in _SHARED:
        ours, theirs = getattr(first, name), getattr(other, name)
        if isinstance(ours, EndpointConfig | LabelLimits):
            found += _by_field(name, ours, theirs)
        elif theirs and theirs != ours:
            found.append(name)
    return found


def limit_differences(first: LabelLimits, other: LabelLimits) -> list[str]:
    """Name the limits that differ between meter providers, which share all but ``combinations``.

    Args:
        first: The limits of the process.
        other: Those of the first monitor on another meter provider.
    """
    shared = dataclasses.replace(first, combinations=other.combinations)
    return _by_field("limits", shared, other)


def note(deferred_log: DeferredLog, found: list[str]) -> None:
    """Have what was found logged, if anything was."""
    if found:
        deferred_log.add(
            logging.WARNING,
            "the first monitor of a process sets what all of them share; "
            "a later one asked in vain for %s",
            ", ".join(found),
        )


def _by_field(
    name: str, ours: EndpointConfig | LabelLimits, theirs: EndpointConfig | LabelLimits
) -> list[str]:
    default = type(ours)()
    found: list[str] = []
    for each in dataclasses.fields(ours):
        asked = getattr(theirs, each.name)
        if asked not in (getattr(ours, each.name), getattr(default, each.name)):
            shown = "another" if each.name == "password" else repr(asked)
            found.append(f"{name}.{each.name}={shown}")
    return found


_LEAST_TO_LOG = 0.2
_FORK_PATIENCE = 5.0  # seconds that a fork waits for a drain that is in the application's provider
_EXIT_ATTEMPTS = 3
_MOST_CLOSED = 8  # closed monitors whose histories are kept, for the windows of token_usage()


class Runtime:
    """The shared part of a process; see the module's text."""

    def __init__(self) -> None:
        self.self_metrics = SelfMetrics()
        self.pipeline: Pipeline | None = None
        # Nobody who holds it waits for the drain or logs.
        self._lock = threading.RLock()
        self._limits = LabelLimits()
        self._own: Telemetry | None = None
        self._exporters: Exporters | None = None
        self._foreign: weakref.WeakKeyDictionary[MeterProvider, Telemetry] = (
            weakref.WeakKeyDictionary()
        )
        self._global: Telemetry | None = None
        # Those whose last push is under way; what an exception cuts short is made up for at exit.
        self._closing: list[Exporters] = []
        self._sessions: dict[int, weakref.ref[Session]] = {}
        self._states: list[SessionState] = []
        # Sessions whose monitor is gone, in the order of their going.
        self._unreachable: deque[Session] = deque()
        self._reaper: Worker[None] = Worker(self._reap, name="genmeter-reaper")
        self._retired = Retired()
        self._is_child = False
        self._must_rebuild = False
        _runtimes.add(self)

    # --- monitors come and go ------------------------------------------------------------------

    def attach(self, config: MonitorConfig, *, timeout: float, taps: Sequence[Tap] = ()) -> Session:
        """Make the session of a new monitor.

        Args:
            config: The monitor's settings.
            timeout: Seconds that its shutdown may take.
            taps: What its events go to beside its handlers.

        Raises:
            ConfigError: A setting or a GENMETER_* variable that cannot be used.
            EndpointError: The endpoint was asked for in code and its address cannot be used.
        """
        pipeline = self._make_pipeline(config)
        if self._must_rebuild:
            pipeline.run(self._rebuild)
        with self._lock:
            known = self._known(config.meter_provider)
            # What metrics are counted by, so that alerts see the same in the history.
            shared = config if known is None else known.config
            history = History(
                config.history.capacity,
                config.history.metadata_bytes,
                prices=shared.prices,
                scales=shared.score_scales,
            )
            defaults = CallDefaults(config.default_model, config.provider, config.operation)
            state = SessionState(defaults, history, expected_samples=config.expected_samples)
            telemetry = self._telemetry(config)
            telemetry.add(state)
            session = Session(
                state,
                Relay(self.self_metrics, pipeline.deferred_log, taps=taps),
                timeout=timeout,
                on_unreachable=self._unreachable.append,
            )
            self._states.append(state)
            self._sessions[id(state)] = weakref.ref(session)
        _exit_hook.set()
        pipeline.run(partial(self._take_in, telemetry, config))
        pipeline.deferred_log.flush()
        return session

    def _take_in(self, telemetry: Telemetry, config: MonitorConfig) -> None:
        """Expose what a new monitor's settings name, and make room for its history."""
        telemetry.preregister(config)
        closed = [state for state in self._states if state.is_closed]
        for state in closed[:-_MOST_CLOSED]:
            self._retire(state)

    def release(self, session: Session, timeout: float) -> bool:
        """Close a monitor's session; the last one closes the exporters.

        Args:
            session: The monitor's session.
            timeout: Seconds for the drain, the last pushes and the handlers together.

        Returns:
            Whether ``token_usage_callback`` has ended in time.
        """
        deadline = time.monotonic() + timeout
        self._begin_release(session, deadline)
        has_ended = session.finish_close(deadline)
        self.require_pipeline().deferred_log.finish(_time_to_log(deadline))
        return has_ended

    def _begin_release(self, session: Session, deadline: float) -> None:
        """Close a session; its handlers go on in the time that the last pushes take."""
        if session.state.is_closed:
            return
        pipeline = self.require_pipeline()
        try:
            pipeline.run(lambda: None, seconds_left(deadline))
        except TimeoutError:
            pipeline.deferred_log.add(
                logging.WARNING, "shutdown timed out with %d events pending", len(pipeline.inbox)
            )
        session.begin_close(deadline)
        for exporters in self._close(session.state):
            self._finish(exporters, deadline)

    def _close(self, state: SessionState) -> list[Exporters]:
        """Close a session; returns the exporters that nobody uses any more."""
        with self._lock:
            unused: list[Exporters] = []
            if self._own is not None and self._own.is_last_open(state):
                # A forked child that recorded nothing leaves everything to its parent.
                if self._exporters is not None and not self._must_rebuild:
                    unused.append(self._exporters)
                self._closing += unused
                self._own = self._exporters = None
            state.is_closed = True
            self._sessions.pop(id(state), None)
            return unused

    def _finish(self, exporters: Exporters, deadline: float) -> None:
        try:
            exporters.finish(seconds_left(deadline))
        except Exception as error:
            self.require_pipeline().deferred_log.add(
                logging.ERROR, "the last push or scrape failed", error=error
            )
        with contextlib.suppress(ValueError):  # another thread was faster
            self._closing.remove(exporters)

    def exit(self) -> None:
        """Close everything, within the longest of the time-outs; at the end of the process.

        What a signal handler raises meanwhile, as one for SIGTERM does, is raised at the end.
        """
        timeout = max((session.timeout for session in self._open_sessions()), default=0.0)
        deadline = time.monotonic() + timeout
        raised: BaseException | None = None
        for _ in range(_EXIT_ATTEMPTS):
            try:
                self._close_all(deadline)
                break
            except KeyboardInterrupt:  # somebody is tired of waiting
                raise
            except BaseException as error:
                raised = error
        if raised is not None:
            raise raised

    def close(self) -> None:
        """End the threads of a runtime that was closed by :meth:`exit`, and is used no more."""
        self._reaper.close()
        if self.pipeline is not None:
            self.pipeline.stop(1.0)

    def _close_all(self, deadline: float) -> None:
        sessions = self._open_sessions()
        for session in sessions:
            self._begin_release(session, deadline)
        for exporters in tuple(self._closing):
            self._finish(exporters, deadline)
        # Last, so that no handler takes the time of a push or of another monitor.
        for session in sessions:
            session.finish_close(deadline)
        if self.pipeline is not None:
            self.pipeline.deferred_log.finish(_time_to_log(deadline))

    def _open_sessions(self) -> list[Session]:
        found = [reference() for reference in list(self._sessions.values())]
        alive = [session for session in found if session is not None]
        return [*alive, *(each for each in list(self._unreachable) if each not in alive)]

    # --- reading -------------------------------------------------------------------------------

    def url(self) -> str | None:
        """Return where the endpoint of our own serves; None while it does not."""
        return self._exporters.url if self._exporters is not None else None

    def render(self, openmetrics: bool, names: Collection[str] = ()) -> bytes:
        """Write the page of our own provider.

        Args:
            openmetrics: OpenMetrics 1.0 rather than Prometheus text.
            names: The samples to pick; all of them where there are none.

        Raises:
            ConfigError: There is no provider of our own that is scraped.
        """
        return self._bridge().render(openmetrics, names)

    def collect_families(self) -> list[Metric]:
        """Collect the page as metric families of prometheus_client; none where there is no page.

        Raises:
            TimeoutError: The collection took too long.
        """
        try:
            bridge = self._bridge()
        except ConfigError:  # a program's own page goes on without ours
            return []
        return bridge.collect_families()

    def token_usage(self, since: float | None) -> TokenUsageReport:
        """Sum the tokens over all monitors that this process ever had.

        Args:
            since: Unix time in seconds; None means since the start of the process.
        """
        pipeline = self.pipeline
        if pipeline is None:
            return TokenUsageReport(by_model=[])

        def read() -> TokenUsageReport:
            totals = [state.history.token_totals(since) for state in self._states]
            gone = self._retired.since(since)
            return TokenUsageReport.merge([*(report_of(each) for each in totals), gone])

        return pipeline.run(read)

    def require_pipeline(self) -> Pipeline:
        """Return the inbox and drain, once a monitor was attached."""
        if self.pipeline is None:
            raise AssertionError("attach makes the pipeline first")
        return self.pipeline

    def _bridge(self) -> PrometheusBridge:
        if self._must_rebuild and self.pipeline is not None:
            self.pipeline.run(self._rebuild)
        if self._exporters is None:
            is_foreign = self._own is None and len(self._foreign) > 0
            raise ConfigError(
                "there is no page: the meter provider is the application's"
                if is_foreign
                else "there is no page: every monitor is shut down"
            )
        if self._exporters.bridge is None:
            raise ConfigError("there is no page: OTEL_METRICS_EXPORTER leaves prometheus out")
        return self._exporters.bridge

    # --- the provider --------------------------------------------------------------------------

    def _make_pipeline(self, config: MonitorConfig) -> Pipeline:
        with self._lock:
            if self.pipeline is None:
                limits = dataclasses.asdict(config.limits)
                limits.pop("combinations")
                self._limits = config.limits
                self.pipeline = Pipeline(
                    limits,
                    self_metrics=self.self_metrics,
                    on_start=self._start,
                    on_turn=self._tidy,
                )
            return self.pipeline

    def _telemetries(self) -> list[Telemetry]:
        own = [] if self._own is None else [self._own]
        return [*own, *self._foreign.values()]

    def _telemetry(self, config: MonitorConfig) -> Telemetry:
        pipeline, given = self.require_pipeline(), config.meter_provider
        found = self._known(given)
        if found is not None:
            note(pipeline.deferred_log, differences(found.config, config))
            return found
        note(pipeline.deferred_log, limit_differences(self._limits, config.limits))
        if given == "builtin":
            self._exporters = self._make_exporters(config)
            self._own = Telemetry(
                config,
                pipeline,
                self._exporters.provider,
                job=self._exporters.job,
                exporters=self._exporters.push_names,
            )
            pipeline.request_restart()
            return self._own
        provider = otel_metrics.get_meter_provider() if isinstance(given, str) else given
        telemetry = Telemetry(config, pipeline, provider, job=job_of(provider))
        self._foreign[provider] = telemetry
        if given == "global":
            self._global = telemetry
        return telemetry

    def _known(self, given: MeterProvider | str) -> Telemetry | None:
        if given == "builtin":
            return self._own
        if isinstance(given, str):
            # What stands for the global provider until it is set becomes that one.
            return self._global or self._foreign.get(otel_metrics.get_meter_provider())
        return self._foreign.get(given)

    def _make_exporters(self, config: MonitorConfig) -> Exporters:
        pipeline = self.require_pipeline()
        exporters = Exporters(
            config,
            pipeline,
            is_main=not self._is_child and multiprocessing.parent_process() is None,
            on_export_failure=self.self_metrics.count_export_failure,
            log=pipeline.deferred_log.add,
        )
        exporters.bind_if_asked()
        return exporters

    def _start(self) -> None:
        """Start what waited for the first event; the pipeline's owner calls this."""
        if self._must_rebuild:
            self._rebuild()
        if self._exporters is not None:
            self._exporters.start()

    # --- monitors that are gone ----------------------------------------------------------------

    def _tidy(self) -> None:
        """Wake the reaper where a monitor is gone; once a second or so."""
        if self._unreachable and self._reaper.is_idle and self._next_unreachable() is not None:
            self._reaper.put(None)

    def _next_unreachable(self) -> Session | None:
        """Return a session to close; not the last open one, since the provider goes on.

        That one stays until there is another monitor, or until the exit.
        """
        own = self._own
        for session in list(self._unreachable):
            if own is None or not own.is_last_open(session.state):
                return session
        return None

    def _reap(self, _requests: Sequence[None]) -> None:
        pipeline = self.require_pipeline()
        while (session := self._next_unreachable()) is not None:
            self.release(session, session.timeout)
            pipeline.run(partial(self._retire, session.state))
            # Not before: whoever sums or closes everything finds it here.
            with contextlib.suppress(ValueError):  # begun anew, in a forked child
                self._unreachable.remove(session)

    def _retire(self, state: SessionState) -> None:
        """Keep of a closed session's history only the totals."""
        if state not in self._states:
            return
        self._retired.add(state.history.token_totals(), state.history.last_time)
        self._states.remove(state)
        for telemetry in self._telemetries():
            telemetry.retire(state)

    # --- fork and the end of children ----------------------------------------------------------

    def before_fork(self) -> None:
        """Let no child inherit a lock or an import half done that one of our threads has begun."""
        for exporters in (self._exporters, *self._closing):
            if exporters is not None:
                exporters.before_fork()
        pipeline = self.pipeline
        if (
            pipeline is not None
            and len(self._foreign)
            and pipeline.acquire_for_fork(_FORK_PATIENCE)
        ):
            _fork.held.append(pipeline)

    def after_fork_in_parent(self) -> None:
        """Release what :meth:`before_fork` acquired on this thread."""
        if self.pipeline in _fork.held:
            _fork.held.remove(self.pipeline)
            self.pipeline.release_after_fork()

    def after_fork_in_child(self) -> None:
        """Begin anew: nothing waits, nothing is kept, nothing runs; takes no lock."""
        _fork.held.clear()
        self._lock = threading.RLock()
        self._is_child = True
        self._must_rebuild = True
        self._unreachable.clear()
        self._retired = Retired()
        self.self_metrics.reset()
        for exporters in self._closing:  # one that lingers still listens
            exporters.after_fork_in_child()
        self._closing.clear()
        sessions = self._open_sessions()
        self._states = [session.state for session in sessions]
        self._sessions = {id(each.state): weakref.ref(each) for each in sessions}
        for session in sessions:
            session.reset_after_fork()
        if self.pipeline is not None:
            self.pipeline.reset_after_fork()
        if self._exporters is not None:
            self._exporters.after_fork_in_child()
        for telemetry in self._telemetries():
            telemetry.reset_after_fork()
            self._connect(telemetry)

    def _rebuild(self) -> None:
        """Start in a forked child what only the first use of it needs; the owner calls this."""
        if not self._must_rebuild:
            return
        self._must_rebuild = False
        if self._foreign:
            self.require_pipeline().deferred_log.add(
                logging.WARNING,
                "this process was forked, and its MeterProvider is the application's: it counts "
                "what the parent had counted once more; make a new provider in the child",
            )
        if self._exporters is not None and self._own is not None:
            if self._exporters.rebuild():
                self._own.connect(self._exporters.provider)
                self._connect(self._own)
            self._own.preregister(self._own.config)
        for session in self._open_sessions():
            if session.on_rebuild is not None:
                session.on_rebuild()

    def _connect(self, telemetry: Telemetry) -> None:
        for session in self._open_sessions():
            if session.state.metrics is telemetry.recorder:
                session.connect()


def _time_to_log(deadline: float) -> float:
    # Something even after the deadline: who waited in vain wants to read for what.
    return min(1.0, max(_LEAST_TO_LOG, deadline - time.monotonic()))


def _exit_all() -> None:
    for runtime in list(_runtimes):
        runtime.exit()


class _Fork(threading.local):
    """The pipelines whose locks this thread holds while it forks."""

    def __init__(self) -> None:
        self.held: list[Pipeline] = []


_fork = _Fork()
_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
_exit_hook = ExitHook(_exit_all)
_current = Runtime()


def current() -> Runtime:
    """Return the runtime of this process."""
    return _current


def install(runtime: Runtime) -> Runtime:
    """Put another runtime in place, for tests; returns the one that was."""
    global _current
    previous, _current = _current, runtime
    return previous


def _each(method: Callable[[Runtime], None]) -> Callable[[], None]:
    def call() -> None:
        for runtime in list(_runtimes):
            method(runtime)

    return call


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_each(Runtime.before_fork),
        after_in_parent=_each(Runtime.after_fork_in_parent),
        after_in_child=_each(Runtime.after_fork_in_child),
    )
