"""``GenerationMonitor``: what a job tells, and what it asks."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
import weakref
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, Self, TypeVar

from genmeter import runtime
from genmeter.alerting.alerting import Alerting
from genmeter.alerting.alertmanager import alertmanager_handlers
from genmeter.alerting.notify import check_alert_handlers
from genmeter.asking import Asking
from genmeter.config.checks import (
    CALLABLE,
    FINITE,
    HANDLERS,
    PATH,
    SECONDS,
    instance_of,
    number,
    optional,
    start_of,
)
from genmeter.config.monitor import MonitorConfig
from genmeter.exporters.apps import make_asgi_app, make_wsgi_app
from genmeter.exporters.prometheus import FamilyCollector
from genmeter.handlers.base import FileLogHandler, FileMetricHandler, check_handlers
from genmeter.handlers.logging import JobLog
from genmeter.handlers.otel_events import EvaluationEvents
from genmeter.pipeline.worker import Worker
from genmeter.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from types import TracebackType
    from wsgiref.types import WSGIApplication

    from prometheus_client.registry import Collector

    from genmeter.alerting.state import Alert
    from genmeter.config.alerts import AlertSettings
    from genmeter.exporters.apps import ASGIApplication
    from genmeter.handlers.base import LogHandler, MetricHandler
    from genmeter.handlers.dispatch import Tap
    from genmeter.history.token_report import TokenUsageReport
    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.self_metrics import SelfMetrics
    from genmeter.pipeline.worker import Loss

__all__ = ["GenerationMonitor", "process_token_usage"]

_logger = logging.getLogger("genmeter")
_T = TypeVar("_T")
_INTERVAL = number(1e-3, TIMEOUT_MAX, what="seconds")
_folders = itertools.count(1)  # of the monitors of this process


class GenerationMonitor(Telling, Asking):
    """Counts what a generation job does, for Prometheus, OTLP and the job itself.

    Takes the place of AfterImage's class of the same name: same names, same arguments, same
    results. What a call tells is seen by every later read, from any thread.

    ``track_*``, ``record_*`` and ``log_*`` never raise, wait for a lock or do I/O: they append
    to an inbox and return. A value that cannot be used is left out, counted in
    ``genmeter_monitor_events_total`` and warned about once.

    Args:
        log_dir: Folder for the journal ``metrics.jsonl``, the log ``afterimage.log``, plots and
            exports; None means ``GENMETER_LOG_DIR``, else no journal and no log, and
            ``.afterimage-monitoring/`` with a folder for each monitor, made only when a call
            asks for a file in it.
        metric_handlers: Objects with ``handle_metric``, each called on a thread of its own; None
            means the journal where there is a ``log_dir``, an empty list none.
        log_handlers: Objects with ``handle_log``; None means the log where there is a
            ``log_dir``.
        alert_handlers: Functions that are called with an :class:`Alert` when it starts to fire,
            and with its ``status`` ``resolved`` when it is over.
        metrics_interval: Seconds between evaluations of the alert rules, with a last one at the
            end; None, 0 or less for none but those of :meth:`check_alerts`.
        shutdown_timeout: Seconds that :meth:`shutdown`, and the end of the process, may take
            (lingering for a last scrape is beside it).
        alert_min_success_rate: Threshold of the alert ``low_success_rate``; None means 0.8.
        alert_max_generation_time_seconds: Of ``high_generation_time``, seconds; None means 30.
        alert_max_error_rate: Of ``high_error_rate``; None means 0.2.
        alert_max_prompt_token_mean: Of ``high_token_usage:prompt``; None means 4096.
        alert_max_completion_token_mean: Of ``high_token_usage:completion``; None means 4096.
        alert_max_total_token_mean: Of ``high_token_usage:total``; None means 8192.
        alert_max_conversation_length_mean: Of ``long_conversations``; None means 2.
        token_usage_callback: Called with the report of :meth:`get_total_token_usage` every
            ``token_usage_callback_interval_seconds``, on a thread of its own.
        token_usage_callback_interval_seconds: Seconds, more than 0.
        config: All that is new; None reads the ``GENMETER_*`` variables.

    Raises:
        ConfigError: An argument or a variable that cannot be used.
        EndpointError: The endpoint was asked for in code and its address cannot be used.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        metric_handlers: Sequence[MetricHandler] | None = None,
        log_handlers: Sequence[LogHandler] | None = None,
        alert_handlers: Sequence[Callable[[Alert], object]] | None = None,
        metrics_interval: float | None = 60,
        shutdown_timeout: float = 5,
        *,
        alert_min_success_rate: float | None = None,
        alert_max_generation_time_seconds: float | None = None,
        alert_max_error_rate: float | None = None,
        alert_max_prompt_token_mean: float | None = None,
        alert_max_completion_token_mean: float | None = None,
        alert_max_total_token_mean: float | None = None,
        alert_max_conversation_length_mean: float | None = None,
        token_usage_callback: Callable[[TokenUsageReport], object] | None = None,
        token_usage_callback_interval_seconds: float = 60.0,
        config: MonitorConfig | None = None,
    ) -> None:
        SECONDS("shutdown_timeout", shutdown_timeout)
        optional(CALLABLE)("token_usage_callback", token_usage_callback)
        if token_usage_callback is not None:
            _INTERVAL(
                "token_usage_callback_interval_seconds", token_usage_callback_interval_seconds
            )
        is_from_env = config is None
        config = MonitorConfig.from_env() if config is None else config
        instance_of(MonitorConfig)("config", config)
        optional(FINITE)("metrics_interval", metrics_interval)
        thresholds = {
            "alert_min_success_rate": alert_min_success_rate,
            "alert_max_generation_time_seconds": alert_max_generation_time_seconds,
            "alert_max_error_rate": alert_max_error_rate,
            "alert_max_prompt_token_mean": alert_max_prompt_token_mean,
            "alert_max_completion_token_mean": alert_max_completion_token_mean,
            "alert_max_total_token_mean": alert_max_total_token_mean,
            "alert_max_conversation_length_mean": alert_max_conversation_length_mean,
        }
        for name, value in thresholds.items():
            optional(FINITE)(name, value)
        chosen = optional(PATH)("log_dir", log_dir or None) or config.log_dir
        folder = Path(chosen) if chosen else _default_folder()
        if chosen:
            # As AfterImage does; where it cannot be made, the journal's first line tells.
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
        metric_list, log_list = _handlers(
            folder if chosen else None, config, metric_handlers, log_handlers
        )
        alert_list = HANDLERS("alert_handlers", alert_handlers)
        check_alert_handlers(alert_list)
        alert_list += alertmanager_handlers(config)

        self._runtime = runtime.current()
        taps: list[Tap] = [JobLog(), *([EvaluationEvents()] if config.evaluation_events else [])]
        session = self._runtime.attach(config, timeout=shutdown_timeout, taps=taps)
        state = session.state
        state.shares_expected = is_from_env
        session.relay.metric_handlers, session.relay.log_handlers = metric_list, log_list
        pipeline = self._runtime.require_pipeline()
        if metric_handlers or log_handlers:
            pipeline.run(session.relay.begin)
        Telling.__init__(self, pipeline, session, inline=config.drain == "inline")
        Asking.__init__(self, pipeline, session, folder)
        self.metrics_interval = metrics_interval
        self._is_shut = False
        self._alerting = session.alerting = Alerting(
            pipeline,
            state,
            handlers=alert_list,
            settings=config.alerts.with_thresholds(thresholds),
            interval=metrics_interval or 0,
            repeat=config.alert_repeat_seconds,
        )
        self._alerting.start()
        state.firing = _weakly(self._alerting.firing)
        if token_usage_callback is not None:
            callback, self_metrics = token_usage_callback, self._runtime.self_metrics
            session.token_usage = Worker(
                name="genmeter-token-usage",
                on_loss=_CallbackFailures(self_metrics, pipeline.deferred_log),
                tick=lambda: callback(self.get_total_token_usage()),
                interval=token_usage_callback_interval_seconds,
            )
            session.token_usage.start()
        session.on_rebuild = self._begin_again

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut else "open"
        return f"<GenerationMonitor, {state}, {self._session.history.size} rows kept>"

    # --- handlers ------------------------------------------------------------------------------

    @property
    def metric_handlers(self) -> list[MetricHandler]:
        """What is told every metric; the list may be changed or replaced at any time."""
        return self._session.relay.metric_handlers

    @metric_handlers.setter
    def metric_handlers(self, handlers: list[MetricHandler]) -> None:
        self._session.relay.metric_handlers = handlers
        self._pipeline.run(self._session.relay.begin)

    @property
    def log_handlers(self) -> list[LogHandler]:
        """What is told every log message; the list may be changed or replaced at any time."""
        return self._session.relay.log_handlers

    @log_handlers.setter
    def log_handlers(self, handlers: list[LogHandler]) -> None:
        self._session.relay.log_handlers = handlers
        self._pipeline.run(self._session.relay.begin)

    @property
    def alert_handlers(self) -> list[Callable[[Alert], object]]:
        """What is called with every alert; the list may be changed or replaced at any time."""
        handlers: list[Callable[[Alert], object]] = self._alerting.handlers
        return handlers

    @alert_handlers.setter
    def alert_handlers(self, handlers: list[Callable[[Alert], object]]) -> None:
        self._alerting.handlers = handlers

    @property
    def alert_settings(self) -> AlertSettings:
        """The settings of the alerts that are in force: the config's, and the thresholds given."""
        return self._alerting.settings

    @property
    def endpoint_url(self) -> str | None:
        """Where the metrics are served; None while they are not."""
        return self._runtime.url()

    def wsgi_app(
        self, *, username: str | None = None, password: str | None = None
    ) -> WSGIApplication:
        """Make a WSGI app that serves ``/metrics``, for a server of the caller's.

        Use it with ``EndpointConfig(enabled=False)``, so that no second endpoint listens.

        Args:
            username: The user that a scrape must name; with ``password`` or not at all.
            password: The password that a scrape must give.

        Raises:
            ConfigError: One of them is given alone, or cannot be used.
        """
        return make_wsgi_app(self._runtime.render, username=username, password=password)

    def asgi_app(
        self, *, username: str | None = None, password: str | None = None
    ) -> ASGIApplication:
        """Make an ASGI app that serves ``/metrics``; it never blocks the event loop.

        Args:
            username: The user that a scrape must name; with ``password`` or not at all.
            password: The password that a scrape must give.

        Raises:
            ConfigError: One of them is given alone, or cannot be used.
        """
        return make_asgi_app(self._runtime.render, username=username, password=password)

    def prometheus_collector(self) -> Collector:
        """Return the metrics of the process as a collector, for a registry of prometheus_client's.

        For a program that exposes a page already: ``REGISTRY.register(monitor.prometheus_collector())``
        with ``EndpointConfig(enabled=False)``. Register it once: all monitors of a process share
        one set of metrics, and a second collector would repeat them. It has nothing to show once every monitor is shut
        down, and where the meter provider is the application's.
        """
        return FamilyCollector(self._runtime)

    def check_alerts(self) -> None:
        """Evaluate the alert rules once, now.

        Returns when the alert handlers have taken what there is to send, or after
        ``shutdown_timeout`` seconds.
        """
        self._alerting.check(self.shutdown_timeout)

    # --- the end -------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Bring all that was told so far to the history, the instruments and the handlers.

        Args:
            timeout: Seconds to wait at most; None means ``shutdown_timeout``.

        Raises:
            ConfigError: ``timeout`` is not a number of seconds.
            TimeoutError: It took longer; the message names the handlers that did not finish.
        """
        if timeout is not None:
            SECONDS("timeout", timeout)
        seconds = self.shutdown_timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        self._pipeline.run(lambda: None, seconds)
        late = self._session.relay.deliver(deadline)
        if late:
            raise TimeoutError(f"after {seconds} s these have not finished: {', '.join(late)}")

    def shutdown(self) -> None:
        """Stop accepting events, drain the queue and flush the exporters.

        The last monitor of the process that is shut down pushes once more, lingers for a last
        scrape where ``EndpointConfig.linger`` says so, and closes the endpoint. Reads go on
        working. Never raises; a second call does nothing.
        """
        if self._is_shut:
            return
        self._is_shut = True
        self._append = self._refuse
        try:
            if not self._runtime.release(self._session, self.shutdown_timeout):
                self._pipeline.deferred_log.add(
                    logging.WARNING,
                    "token_usage_callback was still busy when the time for shutdown was over",
                )
        except Exception:
            _logger.exception("shutdown failed; the job goes on")

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down."""
        self.shutdown()

    # --- inside ---------------------------------------------------------------------------------

    @property
    def shutdown_timeout(self) -> float:
        """Seconds that :meth:`shutdown`, and the end of the process, may take."""
        return self._session.timeout

    @shutdown_timeout.setter
    def shutdown_timeout(self, seconds: float) -> None:
        self._session.timeout = seconds

    def _begin_again(self) -> None:
        """Start this monitor's threads, in a forked child."""
        self._alerting.start()
        if self._session.token_usage is not None:
            self._session.token_usage.start()


class _CallbackFailures:
    """Counts the failures of a ``token_usage_callback``; the first one is logged."""

    def __init__(self, self_metrics: SelfMetrics, deferred_log: DeferredLog) -> None:
        self._self_metrics = self_metrics
        self._deferred_log = deferred_log
        self._has_warned = False

    def __call__(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        self._self_metrics.count_handler_error("token_usage_callback", loss.value, count)
        if not self._has_warned:
            self._has_warned = True
            self._deferred_log.add(
                logging.ERROR,
                "token_usage_callback failed; further failures are only counted",
                error=error,
            )


def _default_folder() -> Path:
    name = f"{time.strftime('%Y-%m-%d-%H-%M-%S')}-{os.getpid()}-{next(_folders)}"
    return Path(".afterimage-monitoring") / name


def _handlers(
    folder: Path | None, config: MonitorConfig, metric_handlers: Any, log_handlers: Any
) -> tuple[list[MetricHandler], list[LogHandler]]:
    """Give the handlers of metrics and logs; files in ``folder`` where none are given."""
    size, keep = config.journal.max_bytes, config.journal.keep
    if metric_handlers is None and folder is not None:
        metric_handlers = [FileMetricHandler(folder, max_bytes=size, keep=keep)]
    if log_handlers is None and folder is not None:
        log_handlers = [FileLogHandler(folder, max_bytes=size, keep=keep)]
    metrics = HANDLERS("metric_handlers", metric_handlers)
    logs = HANDLERS("log_handlers", log_handlers)
    check_handlers("metric_handlers", metrics, "handle_metric")
    check_handlers("log_handlers", logs, "handle_log")
    return metrics, logs


def _weakly(method: Callable[..., _T]) -> Callable[..., _T | None]:
    # A session outlives its monitor, so it must not hold on to it.
    weak = weakref.WeakMethod(method)

    def call(*args: Any) -> _T | None:
        found = weak()
        return None if found is None else found(*args)

    return call


def process_token_usage(window: timedelta | None = None) -> TokenUsageReport:
    """Sum the tokens by model over all monitors that this process ever had.

    Args:
        window: How far to look back; None means since the start of the process.

    Returns:
        The report; its ``complete`` is False where the window reaches past a history.

    Raises:
        ConfigError: ``window`` is not a timedelta.
    """
    return runtime.current().token_usage(start_of(window))
