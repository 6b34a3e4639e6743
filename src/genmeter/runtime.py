"""The state that all monitors of a process share, from the first monitor to the exit.

There is one telemetry per process but many monitors: AfterImage creates one for every generator
without its own. They share the inbox, the label limits, the meter provider and the endpoint, which
are reference-counted. The first monitor's settings apply; a later one with others logs a warning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
import weakref
from collections import deque
from functools import partial
from multiprocessing import util as mp_util
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics as otel_metrics

from genmeter.budget.budget import Budgets
from genmeter.budget.guard import JobGuard
from genmeter.clock import seconds_left
from genmeter.config.differences import differences, limit_differences
from genmeter.config.monitor import LabelLimits
from genmeter.errors import ConfigError
from genmeter.events.model import CallDefaults
from genmeter.exporters.provider import Exporters
from genmeter.exporters.resource import is_spawned, job_of
from genmeter.handlers.dispatch import HandlerDispatcher
from genmeter.history.store import History
from genmeter.history.token_report import Retired, TokenUsageReport, UsageTotals
from genmeter.job.folders import remove_at_exit
from genmeter.job.job import Job, JobError
from genmeter.job.meeting import is_started
from genmeter.metrics.observers import Telemetry
from genmeter.observed import gate
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.exit_hook import ExitHook
from genmeter.pipeline.self_metrics import SelfMetrics
from genmeter.pipeline.worker import Worker
from genmeter.session import Session, SessionState
from genmeter.termination import Termination

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from opentelemetry.metrics import MeterProvider
    from prometheus_client import Metric

    from genmeter.budget.budget import Budget
    from genmeter.config.monitor import MonitorConfig
    from genmeter.exporters.prometheus import PrometheusBridge
    from genmeter.handlers.dispatch import Subscriber
    from genmeter.pipeline.deferred_log import DeferredLog

__all__ = ["Runtime", "current", "install"]


def _warn_ignored(deferred_log: DeferredLog, settings: list[str]) -> None:
    """Log the settings that are ignored, if there are any."""
    if settings:
        deferred_log.add(
            logging.WARNING,
            "ignoring %s: already set by this process's first monitor",
            ", ".join(settings),
        )


_MIN_LOG_SECONDS = 0.2
_FORK_TIMEOUT = 5.0  # seconds that a fork waits for a drain inside the application's provider
_JOB_TIMEOUT = 10.0  # seconds that the job's budgets and a fork wait for the drain
_EXIT_ATTEMPTS = 3
_HASTENED_PAUSE = 0.5  # seconds between the pushes of a process that is about to end
_TIDY_PAUSE = 0.05  # seconds between two looks for other processes and for a late signal
_MAX_CLOSED = 8  # closed monitors whose histories are kept, for the windows of token_usage()


class Runtime:
    """The shared state of a process; see the module's docstring."""

    def __init__(self) -> None:
        self.self_metrics = SelfMetrics()
        self.pipeline: Pipeline | None = None
        self.job = Job(
            usage=lambda: self.token_usage(None),
            totals=self._usage_totals,
            log=self._log,
            run=self._run_in_order,
        )
        self._reported: set[str] = set()  # why the tokens of the job were not known
        self._job_budgets = Budgets()
        self._job_guard: JobGuard | None = None
        # While holding it, never wait for the drain and never log.
        self._lock = threading.RLock()
        self._limits = LabelLimits()
        self._builtin: Telemetry | None = None
        self._exporters: Exporters | None = None
        self._external: weakref.WeakKeyDictionary[MeterProvider, Telemetry] = (
            weakref.WeakKeyDictionary()
        )
        self._global: Telemetry | None = None
        # Exporters in their last push; one that an exception interrupts is finished at exit.
        self._closing: list[Exporters] = []
        self._sessions: dict[int, weakref.ref[Session]] = {}
        self._states: list[SessionState] = []
        # Sessions whose monitor was garbage collected, oldest first.
        self._unreachable: deque[Session] = deque()
        self._reaper: Worker[None] = Worker(self._reap, name="genmeter-reaper")
        self._retired = Retired()
        self._release_deadline = 0.0
        self._hastened_at = self._tidied_at = 0.0
        self._hastened = -1  # events at that time
        self._is_child = False
        self._must_rebuild = False
        _runtimes.add(self)

    # --- opening and closing sessions ----------------------------------------------------------

    def attach(
        self, config: MonitorConfig, *, timeout: float, subscribers: Sequence[Subscriber] = ()
    ) -> Session:
        """Create the session of a new monitor.

        Args:
            config: The monitor's settings.
            timeout: Seconds that its shutdown may take.
            subscribers: Further subscribers of its events, beside its handlers.

        Raises:
            ConfigError: A setting or a GENMETER_* variable is invalid.
            EndpointError: ``config`` enables the endpoint and its address cannot be bound.
        """
        pipeline = self._make_pipeline(config)
        if self._must_rebuild:
            pipeline.run(self._rebuild)
        with self._lock:
            known = self._known(config.meter_provider)
            # The settings that the metrics use, so that alerts on the history see the same values.
            shared = config if known is None else known.config
            history = History(
                config.history.capacity,
                config.history.metadata_bytes,
                scales=shared.score_scales,
            )
            defaults = CallDefaults(
                config.default_model,
                config.provider,
                config.operation,
                price=None if shared.prices is None else shared.prices.usd,
            )
            state = SessionState(defaults, history, expected_samples=config.expected_samples)
            telemetry = self._telemetry(config)
            telemetry.add(state)
            session = Session(
                state,
                HandlerDispatcher(
                    self.self_metrics, pipeline.deferred_log, subscribers=subscribers
                ),
                timeout=timeout,
                job_budgets=self._job_budgets,
                on_unreachable=self._unreachable.append,
            )
            self._states.append(state)
            self._sessions[id(state)] = weakref.ref(session)
        _exit_hook.set()
        if config.handle_sigterm and config.drain == "thread":
            _termination.install()
        pipeline.run(partial(self._on_attached, telemetry, config))
        self.job.start_with_children()
        pipeline.deferred_log.flush()
        return session

    def _on_attached(self, telemetry: Telemetry, config: MonitorConfig) -> None:
        """Pre-register the labels of a new monitor, and drop the oldest closed histories."""
        telemetry.preregister(config)
        closed = [state for state in self._states if state.is_closed]
        for state in closed[:-_MAX_CLOSED]:
            self._retire(state)

    def release(self, session: Session, timeout: float) -> bool:
        """Close a monitor's session; the last one closes the exporters.

        Args:
            session: The monitor's session.
            timeout: Seconds for the drain, the last pushes and the handlers together.

        Returns:
            Whether ``token_usage_callback`` ended in time.
        """
        deadline = time.monotonic() + timeout
        self._begin_release(session, deadline)
        has_ended = session.finish_close(deadline)
        self.require_pipeline().deferred_log.finish(_time_to_log(deadline))
        return has_ended

    def settle_observed(self, timeout: float) -> None:
        """Record the calls that are held back, since something else may observe them too.

        Args:
            timeout: Seconds to wait at most; calls that are held back then stay so.
        """
        deadline = time.monotonic() + timeout
        for session in self._open_sessions():
            with contextlib.suppress(TimeoutError):
                self.require_pipeline().run(session.settle, seconds_left(deadline))

    def _begin_release(self, session: Session, deadline: float) -> None:
        """Close a session; its handlers keep working during the last pushes."""
        if session.state.is_closed:
            return
        pipeline = self.require_pipeline()
        try:
            pipeline.run(session.end_observing, seconds_left(deadline))
        except TimeoutError:
            pipeline.deferred_log.add(
                logging.WARNING, "shutdown timed out with %d events pending", len(pipeline.inbox)
            )
        session.begin_close(deadline)
        self._release_deadline = max(self._release_deadline, deadline)
        for exporters in self._close(session.state):
            self._finish(exporters, deadline)

    def _close(self, state: SessionState) -> list[Exporters]:
        """Mark a session closed; returns the exporters that are no longer in use."""
        with self._lock:
            unused: list[Exporters] = []
            if self._builtin is not None and self._builtin.is_last_open(state):
                # A forked child that recorded nothing leaves the last push to its parent.
                if self._exporters is not None and not self._must_rebuild:
                    unused.append(self._exporters)
                self._closing += unused
                self._builtin = self._exporters = None
            state.is_closed = True
            session = self._sessions.pop(id(state), lambda: None)()
            if session is not None and session.observer is not None and self.pipeline is not None:
                self.pipeline.remove_turn_end(session.observer.expire)
            return unused

    def _finish(self, exporters: Exporters, deadline: float) -> None:
        try:
            exporters.finish(seconds_left(deadline))
        except Exception as error:
            self.require_pipeline().deferred_log.add(
                logging.ERROR, "the last push or scrape failed at shutdown", error=error
            )
        with contextlib.suppress(ValueError):  # another thread already did
            self._closing.remove(exporters)

    @property
    def timeout(self) -> float:
        """The longest ``shutdown_timeout`` of the open monitors, in seconds."""
        return max((session.timeout for session in self._open_sessions()), default=0.0)

    def exit(self, *, lingers: bool = True) -> None:
        """Close everything within the longest ``shutdown_timeout``; called when the process exits.

        An exception that a signal handler raises meanwhile is raised again at the end.

        Args:
            lingers: Whether the endpoint lingers for a last scrape, if that is configured.
        """
        deadline = time.monotonic() + self.timeout
        if self._closing:  # interrupted by a signal, whose handler calls this
            deadline = max(deadline, self._release_deadline)
        if not lingers:
            for exporters in (self._exporters, *self._closing):
                if exporters is not None:
                    exporters.skip_linger()
        raised: BaseException | None = None
        for _ in range(_EXIT_ATTEMPTS):
            try:
                self._close_all(deadline)
                break
            except KeyboardInterrupt:  # a user is tired of waiting
                raise
            except BaseException as error:
                raised = error
        if raised is not None:
            raise raised

    def settle(self) -> None:
        """Wait until all that was recorded so far is handled and pushed.

        It takes no longer than the longest ``shutdown_timeout``, and the monitors stay open.

        Raises:
            TimeoutError: The drain was busy for too long.
        """
        pipeline, timeout = self.pipeline, self.timeout
        if pipeline is None:
            return
        deadline = time.monotonic() + timeout
        self.settle_observed(timeout)
        pipeline.run(lambda: None, seconds_left(deadline))
        for session in self._open_sessions():
            session.dispatcher.flush(deadline)
        with contextlib.suppress(TimeoutError):
            self.job.flush(deadline)
        exporters = self._exporters
        if exporters is not None and not self._must_rebuild:
            exporters.push(deadline)

    def hasten(self) -> None:
        """Push soon if events were recorded since the last time; never waits."""
        pipeline, exporters = self.pipeline, self._exporters
        if pipeline is None or exporters is None or self._must_rebuild:
            return
        now, events = time.monotonic(), self.self_metrics.recorded + len(pipeline.inbox)
        if events != self._hastened and now >= self._hastened_at + _HASTENED_PAUSE:
            self._hastened, self._hastened_at = events, now
            self.job.publish_soon()
            exporters.push_soon()

    def close(self) -> None:
        """Stop the threads of a runtime after :meth:`exit`."""
        if self._job_guard is not None:
            gate.remove_guard(self._job_guard)
            self._job_guard.close()
        self._reaper.close()
        if self.pipeline is not None:
            self.pipeline.stop(1.0)

    def _close_all(self, deadline: float) -> None:
        sessions = self._open_sessions()
        for session in sessions:
            self._begin_release(session, deadline)
        for exporters in tuple(self._closing):
            self._finish(exporters, deadline)
        # Last, so that a slow handler takes no time from a push or from another monitor.
        for session in sessions:
            session.finish_close(deadline)
        self.job.leave(deadline)
        if self.pipeline is not None:
            self.pipeline.deferred_log.finish(_time_to_log(deadline))

    def _open_sessions(self) -> list[Session]:
        found = [reference() for reference in list(self._sessions.values())]
        alive = [session for session in found if session is not None]
        return [*alive, *(each for each in list(self._unreachable) if each not in alive)]

    def add_budget(self, budget: Budget, session: Session) -> None:
        """Have a budget count from now on; one of the job counts the events of all monitors."""

        def add() -> None:
            if not budget.is_of_job:
                session.add_budget(budget)
                return
            self._job_budgets.add(budget)
            for each in (session, *self._open_sessions()):
                each.connect()

        self.require_pipeline().run(add)

    def guard(self, make_budget: Callable[[], Budget]) -> None:
        """Have a budget of the job refuse calls; the first one of the process is kept.

        Args:
            make_budget: Returns the budget, if it is needed.
        """
        if self._job_guard is None:
            self._job_guard = JobGuard(make_budget(), self._count_refusal)
            gate.add_guard(self._job_guard)

    def _count_refusal(self, reason: str) -> None:
        """Count a refused call; the first one is what the process has to lose, as an event is."""
        is_first = not self.job.refusals
        self.job.add_refusal(reason)
        if is_first and _termination.is_wanted:
            self.require_pipeline().start()  # its thread also sees to a late signal
            _termination.arm()

    # --- reading -------------------------------------------------------------------------------

    def url(self) -> str | None:
        """Return the URL of the scrape endpoint; None while it is not listening."""
        return self._exporters.url if self._exporters is not None else None

    def render(self, openmetrics: bool, names: Collection[str] = ()) -> bytes:
        """Render the page of the built-in provider.

        Args:
            openmetrics: OpenMetrics 1.0 instead of Prometheus text.
            names: The samples to include; empty means all.

        Raises:
            ConfigError: There is no page; the message says why.
        """
        return self._bridge().render(openmetrics, names)

    def collect_families(self) -> list[Metric]:
        """Collect the metric families for prometheus_client; empty if there is no page.

        Raises:
            TimeoutError: The collection took too long.
        """
        try:
            bridge = self._bridge()
        except ConfigError:  # the application's own page must still render
            return []
        return bridge.collect_families()

    def token_usage(self, since: float | None) -> TokenUsageReport:
        """Sum the tokens over all monitors of this process, closed ones too.

        Args:
            since: Unix time in seconds; None means since the start of the process.
        """
        pipeline = self.pipeline
        if pipeline is None:
            return TokenUsageReport(by_model=[])

        def read() -> TokenUsageReport:
            reports = [state.history.token_usage(since) for state in self._states]
            return TokenUsageReport.merge([*reports, self._retired.since(since)])

        return pipeline.run(read)

    def _usage_totals(self) -> UsageTotals:
        """Sum the usage of this process so far; called by the pipeline's owner."""
        found = [state.history.totals() for state in self._states]
        retired = self._retired.totals()
        if len(found) == 1 and not retired.calls:
            return found[0]
        return UsageTotals.sum([retired, *found])

    def _run_in_order(self, function: Callable[[], Any], timeout: float = _JOB_TIMEOUT) -> Any:
        """Have the pipeline's owner call a function behind all events recorded so far.

        Raises:
            TimeoutError: The owner was busy for too long.
        """
        return function() if self.pipeline is None else self.pipeline.run(function, timeout)

    def job_token_usage(self) -> TokenUsageReport:
        """Sum the tokens over all processes of the job.

        The report is that of this process and not complete if the others cannot be reached, which
        is logged once for each reason, and again after it was possible.
        """
        try:
            self.job.join()
            if self.job.failure is None:
                found = self.job.token_usage()
                self._reported.clear()
                return found
            reason = self.job.failure
        except JobError as error:
            reason = str(error)
        if reason not in self._reported:
            self._reported.add(reason)
            message = "the tokens of the job are those of this process: %s"
            self._log(logging.WARNING, message, reason)
        return dataclasses.replace(self.token_usage(None), complete=False)

    def push(self, timeout: float) -> bool:
        """Push the metrics now; return whether all exporters did so in time.

        Raises:
            ConfigError: There is nothing to push with.
        """
        if self._must_rebuild and self.pipeline is not None:
            self.pipeline.run(self._rebuild)
        exporters = self._exporters
        if exporters is None or not exporters.push_names:
            raise ConfigError(
                "push() needs an exporter that pushes; set OTEL_METRICS_EXPORTER=prometheus,otlp, "
                "and push before the last monitor is shut down"
            )
        return exporters.push(time.monotonic() + timeout)

    def _log(self, level: int, message: str, *arguments: object) -> None:
        if self.pipeline is not None:
            self.pipeline.deferred_log.add(level, message, *arguments)

    def require_pipeline(self) -> Pipeline:
        """Return the pipeline; a monitor must have been attached."""
        if self.pipeline is None:
            raise AssertionError("attach() creates the pipeline")
        return self.pipeline

    def _bridge(self) -> PrometheusBridge:
        if self._must_rebuild and self.pipeline is not None:
            self.pipeline.run(self._rebuild)
        if self._exporters is None:
            is_external = self._builtin is None and len(self._external) > 0
            raise ConfigError(
                "no page: the meter provider is the application's"
                if is_external
                else "no page: every monitor has shut down"
            )
        if self._exporters.bridge is None:
            raise ConfigError("no page: OTEL_METRICS_EXPORTER does not name prometheus")
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
        builtin = [] if self._builtin is None else [self._builtin]
        return [*builtin, *self._external.values()]

    def _telemetry(self, config: MonitorConfig) -> Telemetry:
        pipeline, given = self.require_pipeline(), config.meter_provider
        found = self._known(given)
        if found is not None:
            _warn_ignored(pipeline.deferred_log, differences(found.config, config))
            return found
        _warn_ignored(pipeline.deferred_log, limit_differences(self._limits, config.limits))
        if given == "builtin":
            self._exporters = self._make_exporters(config)
            self._builtin = Telemetry(
                config,
                pipeline,
                self._exporters.provider,
                job=self._exporters.job,
                exporters=self._exporters.push_names,
            )
            pipeline.request_restart()
            return self._builtin
        self.job.configure(config.job, None, resume=config.resume)
        provider = otel_metrics.get_meter_provider() if isinstance(given, str) else given
        telemetry = Telemetry(config, pipeline, provider, job=job_of(provider))
        self._external[provider] = telemetry
        if given == "global":
            self._global = telemetry
        return telemetry

    def _known(self, given: MeterProvider | str) -> Telemetry | None:
        if given == "builtin":
            return self._builtin
        if isinstance(given, str):
            # The proxy returned before the global provider is set delegates to it afterwards.
            return self._global or self._external.get(otel_metrics.get_meter_provider())
        return self._external.get(given)

    def _make_exporters(self, config: MonitorConfig) -> Exporters:
        pipeline = self.require_pipeline()
        exporters = Exporters(
            config,
            pipeline,
            job=self.job,
            is_main=not (self._is_child or is_spawned()),
            on_export_failure=self.self_metrics.count_export_failure,
            log=pipeline.deferred_log.add,
        )
        exporters.bind_if_asked()
        return exporters

    def _start(self) -> None:
        """Start the exporters at the first event; called by the pipeline's owner."""
        if self.pipeline is not None and self.pipeline.is_running:
            _termination.arm()
        if self._must_rebuild:
            self._rebuild()
        self.job.note_used()
        if self._exporters is not None:
            self._exporters.start()

    # --- collected monitors --------------------------------------------------------------------

    def _tidy(self) -> None:
        """Look for other processes, and wake the reaper if a monitor was collected.

        Called about once a second, and with each read.
        """
        now = time.monotonic()
        if (
            now - self._tidied_at >= _TIDY_PAUSE
        ):  # a poll asks the kernel: not for each of many reads
            self._tidied_at = now
            if self.pipeline is not None and self.pipeline.is_running:
                _termination.poll()
            if self.job.may_have_others:
                self.job.start(at_once=False)
        if self._unreachable and self._reaper.is_idle and self._next_unreachable() is not None:
            self._reaper.put(None)

    def _next_unreachable(self) -> Session | None:
        """Return a session to close, but never the last open one: that would end the provider.

        The last one stays until there is another monitor, or until the exit.
        """
        builtin = self._builtin
        for session in list(self._unreachable):
            if builtin is None or not builtin.is_last_open(session.state):
                return session
        return None

    def _reap(self, _requests: Sequence[None]) -> None:
        pipeline = self.require_pipeline()
        while (session := self._next_unreachable()) is not None:
            self.release(session, session.timeout)
            pipeline.run(partial(self._retire, session.state))
            # Only now: until it is retired, sums and exit() must find it here.
            with contextlib.suppress(ValueError):  # already cleared, in a forked child
                self._unreachable.remove(session)

    def _retire(self, state: SessionState) -> None:
        """Keep only the totals of a closed session's history."""
        if state not in self._states:
            return
        self._retired.add(state.history.token_usage(), state.history.last_time)
        self._states.remove(state)
        for telemetry in self._telemetries():
            telemetry.retire(state)

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Make sure that no child inherits a held lock or a half-done import of our threads."""
        for exporters in (self._exporters, *self._closing):
            if exporters is not None:
                exporters.before_fork()
        pipeline = self.pipeline
        if pipeline is not None and len(self._external) and pipeline.lock.acquire(_FORK_TIMEOUT):
            _fork.held.append(pipeline)
        self.job.before_fork()

    def after_fork_in_parent(self) -> None:
        """Release what :meth:`before_fork` acquired on this thread."""
        if self.pipeline in _fork.held:
            _fork.held.remove(self.pipeline)
            self.pipeline.lock.release()

    def after_fork_in_child(self) -> None:
        """Reset to an empty inbox and history and no threads; takes no lock."""
        _fork.held.clear()
        self._lock = threading.RLock()
        has_used = (
            any(state.has_events for state in self._states)
            or bool(self._retired.since(None).by_model)
            or (self.pipeline is not None and len(self.pipeline.inbox) > 0)
        )
        self.job.after_fork_in_child(parent_has_used=has_used)
        self._reported = set()
        self._is_child = True
        self._must_rebuild = True
        self._unreachable.clear()
        self._retired = Retired()
        self.self_metrics.reset()
        for exporters in self._closing:  # a lingering one still listens
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
        """Restart exporters and threads in a forked child at its first use; called by the owner."""
        if not self._must_rebuild:
            return
        self._must_rebuild = False
        if self._external:
            self.require_pipeline().deferred_log.add(
                logging.WARNING,
                "forked child: the application's MeterProvider still holds the parent's totals and "
                "reports them a second time; create a new provider in the child",
            )
        if self._exporters is not None and self._builtin is not None:
            if self._exporters.rebuild():
                self._builtin.connect(self._exporters.provider)
                self._connect(self._builtin)
            self._builtin.preregister(self._builtin.config)
        for session in self._open_sessions():
            if session.on_rebuild is not None:
                session.on_rebuild()

    def _connect(self, telemetry: Telemetry) -> None:
        for session in self._open_sessions():
            if session.state.metrics is telemetry.recorder:
                session.connect()


def _time_to_log(deadline: float) -> float:
    # Some time even after the deadline, so that the reason of a timeout is logged.
    return min(1.0, max(_MIN_LOG_SECONDS, deadline - time.monotonic()))


def _exit_all() -> None:
    for runtime in list(_runtimes):
        runtime.exit()


def _end_all() -> None:
    for runtime in list(_runtimes):
        runtime.exit(lingers=False)


def _settle_all() -> None:
    for runtime in list(_runtimes):
        runtime.settle()


def _hasten_all() -> None:
    for runtime in list(_runtimes):
        runtime.job.note_ending()
        runtime.hasten()


class _Fork(threading.local):
    """The pipelines whose locks this thread holds while it forks."""

    def __init__(self) -> None:
        self.held: list[Pipeline] = []


_fork = _Fork()
_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
_exit_hook = ExitHook(_exit_all)
if not is_started():
    # After multiprocessing has joined its children. A forked child does not run it.
    mp_util.Finalize(None, remove_at_exit, exitpriority=-1_000)
_termination = Termination(
    end=_end_all,
    settle=_settle_all,
    limit=lambda: max((each.timeout for each in list(_runtimes)), default=0.0),
)
_termination.on_ending.append(_hasten_all)
_current = Runtime()


def current() -> Runtime:
    """Return the runtime of this process."""
    return _current


def install(runtime: Runtime) -> Runtime:
    """Replace the runtime, for tests; returns the previous one."""
    global _current
    previous, _current = _current, runtime
    return previous


def _each(method: Callable[[Runtime], None]) -> Callable[[], None]:
    def call() -> None:
        for runtime in list(_runtimes):
            method(runtime)

    return call


if hasattr(os, "register_at_fork"):
    # Registered first, so that it is the last before the fork and the first after it.
    os.register_at_fork(
        before=_termination.before_fork,
        after_in_parent=_termination.after_fork_in_parent,
        after_in_child=_termination.after_fork_in_child,
    )
    os.register_at_fork(
        before=_each(Runtime.before_fork),
        after_in_parent=_each(Runtime.after_fork_in_parent),
        after_in_child=_each(Runtime.after_fork_in_child),
    )
