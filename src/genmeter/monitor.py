"""``GenerationMonitor``: a job records its calls here, and reads totals, windows and exports."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
import weakref
from datetime import datetime, timedelta
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from genmeter import clients, runtime
from genmeter.alerting.alertmanager import alertmanager_handlers
from genmeter.alerting.notify import Alerting, check_alert_handlers
from genmeter.budget.budget import Budget
from genmeter.config.checks import (
    CALLABLE,
    FINITE,
    HANDLERS,
    PATH,
    SECONDS,
    count,
    instance_of,
    number,
    optional,
    start_of,
)
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ExportError
from genmeter.events.values import UNREADABLE, safe_repr, safe_text
from genmeter.exporters.apps import make_asgi_app, make_wsgi_app, settled_at_exit
from genmeter.exporters.prometheus import FamilyCollector
from genmeter.files import export, plots
from genmeter.handlers.base import FileLogHandler, FileMetricHandler, check_handlers
from genmeter.handlers.logging import JobLog
from genmeter.handlers.otel_events import EvaluationEvents
from genmeter.history import frames
from genmeter.history.token_report import summarise
from genmeter.pickling import Origin
from genmeter.pipeline.handler_worker import HandlerWorker
from genmeter.recording import Recording
from genmeter.tables.html import html_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from wsgiref.types import WSGIApplication

    import pandas as pd
    from matplotlib.figure import Figure
    from prometheus_client.registry import Collector

    from genmeter.alerting.state import Alert
    from genmeter.config.alerts import AlertSettings
    from genmeter.exporters.apps import ASGIApplication
    from genmeter.handlers.base import LogHandler, MetricHandler
    from genmeter.handlers.dispatch import Subscriber
    from genmeter.history.snapshot import Snapshot
    from genmeter.history.token_report import TokenUsageReport

__all__ = [
    "GenerationMonitor",
    "job_token_usage",
    "newest_monitor",
    "open_monitors",
    "process_token_usage",
]

_logger = logging.getLogger("genmeter")
_C = TypeVar("_C")
_MAX_ROLLED = 2**31 - 1
_INTERVAL = number(1e-3, TIMEOUT_MAX, what="seconds")
_open: dict[int, weakref.ref[GenerationMonitor]] = {}  # of this process, the oldest first
_opened = itertools.count(1)
_newest = 0  # the number of the newest monitor
_folders = itertools.count(1)  # of the monitors of this process


class GenerationMonitor(Recording):
    """Records what a generation job does, for Prometheus, OTLP and the job itself.

    A drop-in replacement for AfterImage's class of the same name: same methods, arguments and
    results. Every read sees all events recorded before it, from any thread.

    ``track_*``, ``record_*`` and ``log_*`` never raise, wait for a lock or do I/O: they append
    to an inbox and return. An invalid value is dropped, counted in
    ``genmeter_monitor_events_total`` and logged once; the rest of its event is kept.

    Args:
        log_dir: Folder for the journal ``metrics.jsonl``, the log ``afterimage.log``, plots and
            exports. None means ``GENMETER_LOG_DIR``. With neither, no journal and no log is
            written, and exports and plots go to a folder of this monitor in
            ``.afterimage-monitoring/``, created when first needed.
        metric_handlers: Objects with ``handle_metric``, each called on its own thread. None means
            the journal if there is a ``log_dir``; an empty list means none.
        log_handlers: Objects with ``handle_log``; None means the log if there is a ``log_dir``.
        alert_handlers: Functions called with an :class:`Alert` when it starts to fire, and again
            with ``status="resolved"`` when it is over.
        metrics_interval: Seconds between evaluations of the alert rules; one more follows at
            shutdown. None, 0 or less means that only :meth:`check_alerts` evaluates them.
        shutdown_timeout: Seconds that :meth:`shutdown` and the end of the process may take, not
            counting the time that the endpoint lingers for a last scrape.
        alert_min_success_rate: Threshold of the alert ``low_success_rate``; None means 0.8.
        alert_max_generation_time_seconds: Of ``high_generation_time``, seconds; None means 30.
        alert_max_error_rate: Of ``high_error_rate``; None means 0.2.
        alert_max_prompt_token_mean: Of ``high_token_usage:prompt``; None means 4096.
        alert_max_completion_token_mean: Of ``high_token_usage:completion``; None means 4096.
        alert_max_total_token_mean: Of ``high_token_usage:total``; None means 8192.
        alert_max_conversation_length_mean: Of ``long_conversations``; None means 2.
        token_usage_callback: Called with the report of :meth:`get_total_token_usage` every
            ``token_usage_callback_interval_seconds``, on its own thread.
        token_usage_callback_interval_seconds: Seconds, more than 0.
        config: Settings beyond AfterImage's constructor arguments; None reads the ``GENMETER_*``
            variables.

    Raises:
        ConfigError: An argument or a variable is invalid.
        EndpointError: ``config`` enables the endpoint and its address cannot be bound.
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
        shutdown_timeout = SECONDS("shutdown_timeout", shutdown_timeout)
        optional(CALLABLE)("token_usage_callback", token_usage_callback)
        if token_usage_callback is not None:
            token_usage_callback_interval_seconds = _INTERVAL(
                "token_usage_callback_interval_seconds", token_usage_callback_interval_seconds
            )
        is_from_env = config is None
        config = MonitorConfig.from_env() if config is None else config
        instance_of(MonitorConfig)("config", config)
        metrics_interval = optional(FINITE)("metrics_interval", metrics_interval)
        thresholds = {
            "alert_min_success_rate": alert_min_success_rate,
            "alert_max_generation_time_seconds": alert_max_generation_time_seconds,
            "alert_max_error_rate": alert_max_error_rate,
            "alert_max_prompt_token_mean": alert_max_prompt_token_mean,
            "alert_max_completion_token_mean": alert_max_completion_token_mean,
            "alert_max_total_token_mean": alert_max_total_token_mean,
            "alert_max_conversation_length_mean": alert_max_conversation_length_mean,
        }
        thresholds = {name: optional(FINITE)(name, value) for name, value in thresholds.items()}
        # AfterImage's class takes an empty text for None.
        given = None if type(log_dir) is str and not log_dir else log_dir
        chosen = optional(PATH)("log_dir", given) or config.log_dir
        folder = Path(chosen) if chosen else _default_folder()
        if chosen:
            # As AfterImage does; if it cannot be created, the journal's first write reports it.
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
        metric_list, log_list = _handlers(
            folder if chosen else None, config, metric_handlers, log_handlers
        )
        alert_list = HANDLERS("alert_handlers", alert_handlers)
        check_alert_handlers(alert_list)
        self._alertmanagers = alertmanager_handlers(config)
        alert_list += self._alertmanagers
        self._origin = Origin(
            self,
            {
                **thresholds,
                "log_dir": str(folder.absolute()) if chosen else None,
                "metrics_interval": metrics_interval,
                "token_usage_callback": token_usage_callback,
                "token_usage_callback_interval_seconds": token_usage_callback_interval_seconds,
                "config": config,
            },
        )

        self._runtime = runtime.current()
        subscribers: list[Subscriber] = [JobLog()]
        if config.evaluation_events:
            subscribers.append(EvaluationEvents())
        session = self._runtime.attach(config, timeout=shutdown_timeout, subscribers=subscribers)
        state = session.state
        state.shares_expected = is_from_env
        session.dispatcher.metric_handlers, session.dispatcher.log_handlers = metric_list, log_list
        pipeline = self._runtime.require_pipeline()
        if (metric_handlers is not None and metric_list) or (log_handlers is not None and log_list):
            pipeline.run(session.dispatcher.start)
        super().__init__(pipeline, session, inline=config.drain == "inline")
        self.log_dir = folder
        self._has_warned_of_gap = False
        self.metrics_interval = metrics_interval
        self._is_shut = False
        job = self._runtime.job
        self._alerting = session.alerting = Alerting(
            pipeline,
            state,
            handlers=alert_list,
            settings=config.alerts.with_thresholds(thresholds),
            interval=metrics_interval or 0,
            repeat=config.alert_repeat_seconds,
            last_death=lambda: job.last_death,
        )
        self._alerting.start()
        # The state outlives the monitor, so it must not keep the monitor alive.
        firing = weakref.WeakMethod(self._alerting.firing)
        state.firing = lambda: None if (method := firing()) is None else method()
        if token_usage_callback is not None:
            callback = token_usage_callback
            session.token_usage = HandlerWorker(
                label="token_usage_callback",
                shown="token_usage_callback",
                self_metrics=self._runtime.self_metrics,
                deferred_log=pipeline.deferred_log,
                tick=lambda: callback(self.get_total_token_usage()),
                interval=token_usage_callback_interval_seconds,
            )
            session.token_usage.start()
        session.on_rebuild = self._restart
        self._guard_job(config.budget_tokens, config.budget_usd)
        _note_open(self)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Pickle a reference, with the settings for a process that has no such monitor yet."""
        return self._origin.reduce(
            shutdown_timeout=self.shutdown_timeout,
            metric_handlers=self.metric_handlers,
            log_handlers=self.log_handlers,
            # The worker makes those of the configuration itself.
            alert_handlers=[
                each for each in self.alert_handlers if each not in self._alertmanagers
            ],
        )

    def __copy__(self) -> Self:
        """Return self."""
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        """Return self."""
        return self

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut else "open"
        return f"<GenerationMonitor, {state}, {self._session.history.size} rows kept>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: tokens by model, the endpoint, and what is going on."""
        active = len(self._session.state.active_calls())
        url = self.endpoint_url
        firing = self._session.state.firing() or {}
        notes = [
            "shut down" if self._is_shut else f"{active:,} active calls",
            "no endpoint" if url is None else f"endpoint {url}",
            *(f"firing: {name} ({number:,})" for name, number in sorted(firing.items()) if number),
        ]
        shown = html_table([], title="GenerationMonitor", notes=[", ".join(notes)])
        return shown + self.get_total_token_usage()._repr_html_()

    # --- budgets ---------------------------------------------------------------------------------

    def budget(
        self,
        tokens: int | None = None,
        usd: float | None = None,
        *,
        scope: Literal["monitor", "job"] = "monitor",
        step: str | None = None,
        tags: Mapping[str, Any] | None = None,
        max_unread: int | None = 10,
        unpriced_usd_per_million: float | None = None,
    ) -> Budget:
        """Return a budget of what this monitor records from now on, or of the whole job.

        ``while budget.has_room():`` ends with the call that reaches a limit; with
        ``budget.reserve(...)`` no call of concurrent ones exceeds it. Keep the budget: one that is
        garbage collected counts no more.

        Args:
            tokens: Limit of the total tokens of calls and evaluations.
            usd: Limit of their cost, in USD: at least one limit is required.
            scope: ``"monitor"``, or ``"job"``: count what all processes of the job have recorded since
                it began, by any monitor, in earlier runs too if it is resumed. Each process makes the
                budget anew, with the same limit. What others recorded in about the last second is not
                seen yet, but what they reserve is.
            step: Count only what has this step; not with ``scope="job"``.
            tags: Count only what has all these entries in its ``metadata``; not with
                ``scope="job"``.
            max_unread: Number of calls in a row whose usage is unknown after which the budget raises
                ``UsageUnreadError``; at least 1. None counts such calls as 0, and the budget may
                never end.
            unpriced_usd_per_million: USD per million tokens to assume for usage without a price, for
                which a limit of USD raises ``UnpricedModelError`` otherwise; not with
                ``scope="job"``.

        Raises:
            ConfigError: An argument is invalid, or no limit is set.
        """
        budget = Budget(
            self._pipeline,
            self._runtime.job,
            scope=scope,
            tokens=tokens,
            usd=usd,
            step=step,
            tags=tags,
            max_unread=max_unread,
            unpriced_usd_per_million=unpriced_usd_per_million,
        )
        self._runtime.add_budget(budget, self._session)
        return budget

    def _guard_job(self, tokens: int | None, usd: float | None) -> None:
        """Have the job's calls refused once the budget of the settings, if there is one, is spent."""
        if tokens is not None or usd is not None:
            self._runtime.guard(lambda: self.budget(tokens, usd, scope="job"))

    # --- clients ---------------------------------------------------------------------------------

    def watch(
        self,
        client: _C,
        *,
        step: str | None = None,
        provider: str | None = None,
        include_usage: bool = False,
    ) -> _C:
        """Record every call of a client object: ``client = monitor.watch(OpenAI())``.

        The client and the copies that it makes (``with_options()``) work as before. Streams are read
        as they pass. A call in ``with monitor.generation()`` is that block's. Watching a client again
        changes the options; another monitor takes it over. Neither keeps the other alive.

        Args:
            client: A client of the packages ``openai``, ``anthropic`` or ``google.genai``, plain or
                asynchronous, of any subclass, or one with the same base, such as ``groq``'s.
            step: The step of the pipeline that its calls belong to.
            provider: Who serves the models; None means by the client's class and address.
            include_usage: Whether to ask for the usage of OpenAI's chat streams, without which they
                have none, where the caller sets no ``stream_options``. The stream then has one more
                chunk, with no ``choices``.

        Returns:
            The client itself.

        Raises:
            ConfigError: It is no such client.
        """
        return clients.watch(
            self, client, step=step, provider=provider, include_usage=include_usage
        )

    def unwatch(self, client: object) -> None:
        """Record the calls of a client, and of the copies that it made, no longer.

        Does nothing if this monitor does not watch it.

        Args:
            client: A client that was passed to :meth:`watch`, or a copy that it made.

        Raises:
            ConfigError: It is no client that can be watched.
        """
        clients.unwatch(self, client)

    # --- reading ---------------------------------------------------------------------------------

    def get_metrics(
        self, metric_name: str, window: timedelta | None = timedelta(minutes=5)
    ) -> dict[str, float]:
        """Summarise the observations of a metric in a window.

        Args:
            metric_name: One of AfterImage's names, such as ``generation_time`` or
                ``model_usage:MODEL``, or a name given to :meth:`record_metric`.
            window: How far to look back; None means as far as the history reaches.

        Returns:
            ``mean``, ``min``, ``max`` and ``count``: zeros for a name that was never recorded,
            an empty dict if the window has no observation.

        Raises:
            ConfigError: ``window`` is not a timedelta.
        """
        since = start_of(window)
        name = safe_text(metric_name) or ""
        found = self._pipeline.run(lambda: self._session.history.samples(name, since))
        if found is None:
            return {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
        if found.kept_since is not None and not self._has_warned_of_gap:
            self._has_warned_of_gap = True
            _logger.warning(
                "a window starts before the oldest event of the history; raise history.capacity "
                "(GENMETER_HISTORY_CAPACITY) above %d to keep more",
                self._session.history.ring_capacity,
            )
        return summarise(found.value)

    def get_total_token_usage(self, window: timedelta | None = None) -> TokenUsageReport:
        """Sum the tokens by model.

        Args:
            window: How far to look back; None means since the monitor was created, which is
                always exact. A window of 0 contains nothing.

        Returns:
            The report; ``complete`` is False if the window starts before the history does.

        Raises:
            ConfigError: ``window`` is not a timedelta.
        """
        since = start_of(window)
        return self._pipeline.run(lambda: self._session.history.token_usage(since))

    def to_frame(self, kind: str = "generations", window: timedelta | None = None) -> pd.DataFrame:
        """Return the history as a table, the oldest row first.

        Args:
            kind: ``generations``, ``conversations``, ``evaluations``, ``metrics`` (recorded by
                :meth:`record_metric`) or ``samples`` (all of them under AfterImage's names, as
                exports have them); for the columns see :func:`genmeter.history.frames.to_frame`.
            window: How far to look back; None means as far as the history reaches.

        Returns:
            The frame; if older rows were dropped, its ``attrs`` say from when on it is complete.

        Raises:
            ConfigError: ``kind`` is none of these, or ``window`` is not a timedelta.
        """
        return frames.to_frame(self._snapshot(window), kind)

    def save_metrics(self) -> Path:
        """Export the whole history into ``log_dir`` as JSON.

        Returns:
            The file's path, ``metrics_YYYYmmdd_HHMMSS.json``.

        Raises:
            ExportError: The file cannot be written.
        """
        path = self.log_dir / f"metrics_{datetime.now().astimezone():%Y%m%d_%H%M%S}.json"
        self.export_metrics(path)
        return path

    def export_metrics(
        self,
        output_path: str | Path,
        format: str = "json",  # noqa: A002 - AfterImage's name
        window: timedelta | None = None,
    ) -> None:
        """Export the history to a file, under AfterImage's metric names.

        A new file is written beside the target and renamed, so that a failed export leaves an
        earlier one unchanged.

        Args:
            output_path: The file; a missing folder is created.
            format: ``json``; ``csv`` (a file ``STEM_METRIC.csv`` for each metric, beside the
                path); ``excel`` (a sheet for each metric); or ``parquet`` (one long table).
            window: How far to look back; None means as far as the history reaches.

        Raises:
            ExportError: The format is unknown, or the file cannot be written.
            ConfigError: ``output_path`` is not a path, or ``window`` is not a timedelta.
            MissingExtraError: The format needs a package that is not installed.
        """
        snapshot = self._snapshot(window)
        export.export(snapshot, output_path, format, window=window)

    def visualize_metrics(
        self,
        save_dir: str | Path | None = None,
        figsize: tuple[float, float] = (12, 6),
        return_figures: bool = False,
    ) -> dict[str, Figure] | None:
        """Draw AfterImage's plots, and some by model, as PNG files; never raises.

        Args:
            save_dir: Folder for the files; None means ``plots`` in ``log_dir``.
            figsize: Width and height in inches.
            return_figures: Whether to return the figures.

        Returns:
            With ``return_figures`` the matplotlib figures by name, else None. If there is nothing
            to draw or matplotlib is missing: an empty dict, and a warning is logged.
        """
        try:
            figures = plots.draw_all(self._snapshot(None), figsize)
            if not figures:
                _logger.warning("nothing to plot yet")
                return {}
            plots.save(figures, Path(save_dir) if save_dir else self.log_dir / "plots")
            return figures if return_figures else None
        except UNREADABLE as error:
            _logger.warning("plots were not drawn: %s", safe_text(error))
            return {}

    def plot_metric(
        self,
        metric_name: str,
        window: timedelta = timedelta(hours=1),
        rolling_window: int = 10,
        figsize: tuple[float, float] = (12, 8),
    ) -> Figure:
        """Draw one metric over time.

        Args:
            metric_name: As in :meth:`get_metrics`.
            window: How far to look back.
            rolling_window: Number of observations in the rolling mean.
            figsize: Width and height in inches.

        Returns:
            A matplotlib figure.

        Raises:
            ExportError: The metric was never recorded, or not in the window (a ``ValueError``).
            ConfigError: ``window`` is not a timedelta, ``rolling_window`` not a whole number below
                2**31, or ``figsize`` not a size.
            MissingExtraError: matplotlib is not installed.
        """
        since = start_of(window)
        rolling_window = count(0, _MAX_ROLLED)("rolling_window", rolling_window)
        name = safe_text(metric_name) or ""
        found = self._pipeline.run(lambda: self._session.history.samples(name, since))
        shown = safe_repr(metric_name)
        if found is None:
            raise ExportError(f"metric_name {shown} was never recorded")
        if not len(found.value):
            raise ExportError(
                f"metric_name {shown} was not recorded within {window}; use a longer window"
            )
        return plots.draw_metric(name, found, rolling_window=rolling_window, figsize=figsize)

    # --- handlers --------------------------------------------------------------------------------

    @property
    def metric_handlers(self) -> list[MetricHandler]:
        """Handlers of every metric; the list may be changed or replaced at any time."""
        return self._session.dispatcher.metric_handlers

    @metric_handlers.setter
    def metric_handlers(self, handlers: list[MetricHandler]) -> None:
        self._session.dispatcher.metric_handlers = _list_of("metric_handlers", handlers)
        self._pipeline.run(self._session.dispatcher.start)

    @property
    def log_handlers(self) -> list[LogHandler]:
        """Handlers of every log message; the list may be changed or replaced at any time."""
        return self._session.dispatcher.log_handlers

    @log_handlers.setter
    def log_handlers(self, handlers: list[LogHandler]) -> None:
        self._session.dispatcher.log_handlers = _list_of("log_handlers", handlers)
        self._pipeline.run(self._session.dispatcher.start)

    @property
    def alert_handlers(self) -> list[Callable[[Alert], object]]:
        """Functions called with every alert; the list may be changed or replaced at any time."""
        handlers: list[Callable[[Alert], object]] = self._alerting.handlers
        return handlers

    @alert_handlers.setter
    def alert_handlers(self, handlers: list[Callable[[Alert], object]]) -> None:
        self._alerting.handlers = _list_of("alert_handlers", handlers)

    @property
    def alert_settings(self) -> AlertSettings:
        """The alert settings in force: those of the config, with the thresholds of the constructor."""
        return self._alerting.settings

    @property
    def endpoint_url(self) -> str | None:
        """URL of the scrape endpoint; None while it is not listening."""
        return self._runtime.url()

    def wsgi_app(
        self, *, username: str | None = None, password: str | None = None
    ) -> WSGIApplication:
        """Return a WSGI app that serves ``/metrics``, to mount in your own server.

        Use it with ``EndpointConfig(enabled=False)``, so that no second endpoint listens.

        Args:
            username: User name for basic auth; requires ``password``.
            password: Password for basic auth.

        Raises:
            ConfigError: Only one of them is given, or one is invalid.
        """
        return make_wsgi_app(self._runtime.render, username=username, password=password)

    def asgi_app(
        self, *, username: str | None = None, password: str | None = None
    ) -> ASGIApplication:
        """Return an ASGI app that serves ``/metrics``; it never blocks the event loop.

        Args:
            username: User name for basic auth; requires ``password``.
            password: Password for basic auth.

        Raises:
            ConfigError: Only one of them is given, or one is invalid.
        """
        return make_asgi_app(self._runtime.render, username=username, password=password)

    def lifespan(self, _app: object = None) -> AbstractAsyncContextManager[None]:
        """Return a lifespan for Starlette and FastAPI: at its end all is handled and pushed.

        ``FastAPI(lifespan=monitor.lifespan)``, or ``async with monitor.lifespan(app):`` around the
        ``yield`` of the app's own. It takes ``shutdown_timeout`` seconds at most, off the event loop,
        never raises, and leaves the monitor open.
        """
        return settled_at_exit(self._runtime.settle)

    def prometheus_collector(self) -> Collector:
        """Return the metrics of the process as a collector for a prometheus_client registry.

        For a program that serves a page already: ``REGISTRY.register(monitor.prometheus_collector())``
        with ``EndpointConfig(enabled=False)``. Register it once: all monitors of a process share one
        set of metrics, so a second collector would repeat them. It returns no metrics after every
        monitor has shut down, or if the meter provider is the application's.
        """
        return FamilyCollector(self._runtime.collect_families)

    def check_alerts(self) -> None:
        """Evaluate the alert rules once, now.

        Returns when the alert handlers have handled all alerts that are due, or after
        ``shutdown_timeout`` seconds.
        """
        self._alerting.check(self.shutdown_timeout)

    # --- the end ---------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the history, the metrics and the handlers have all events recorded so far.

        In a job of several processes, the others see them too.

        Args:
            timeout: Seconds to wait at most; None means ``shutdown_timeout``.

        Raises:
            ConfigError: ``timeout`` is not a number of seconds.
            TimeoutError: It took longer; the message names the handlers that did not finish.
        """
        if timeout is not None:
            timeout = SECONDS("timeout", timeout)
        seconds = self.shutdown_timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        self._pipeline.run(lambda: None, seconds)
        self._runtime.job.flush(deadline)
        late = self._session.dispatcher.flush(deadline)
        if late:
            raise TimeoutError(f"handlers still busy after {seconds} s: {', '.join(late)}")

    def push(self, timeout: float | None = None) -> bool:
        """Push the metrics of the job now, with all events recorded so far.

        Args:
            timeout: Seconds to wait at most; None means ``shutdown_timeout``.

        Returns:
            Whether every exporter pushed in time; the reason for a failure is logged.

        Raises:
            ConfigError: ``timeout`` is not a number of seconds, or no exporter pushes.
        """
        if timeout is not None:
            timeout = SECONDS("timeout", timeout)
        return self._runtime.push(self.shutdown_timeout if timeout is None else timeout)

    @property
    def is_shut(self) -> bool:
        """Whether :meth:`shutdown` was called."""
        return self._is_shut

    def shutdown(self) -> None:
        """Stop accepting events, drain the queue and flush the exporters.

        The last open monitor of the process pushes once more, waits for a last scrape if
        ``EndpointConfig.linger`` is set, and closes the endpoint. Reads keep working. Never
        raises; a second call does nothing.
        """
        if self._is_shut:
            return
        self._is_shut = True
        self._origin.note_shutdown()
        _open.pop(id(self._session.state), None)
        self._refuse_events()
        try:
            if not self._runtime.release(self._session, self.shutdown_timeout):
                self._pipeline.deferred_log.add(
                    logging.WARNING,
                    "token_usage_callback did not return before the shutdown timed out",
                )
        except Exception:
            _logger.exception("shutdown failed")

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Shut down; in a worker that was passed the monitor, flush only: more tasks may come."""
        if not self._origin.is_passed:
            self.shutdown()
        elif not self._is_shut:
            self._finish_task()

    # --- inside ----------------------------------------------------------------------------------

    @property
    def shutdown_timeout(self) -> float:
        """Seconds that :meth:`shutdown` and the end of the process may take."""
        return self._session.timeout

    @shutdown_timeout.setter
    def shutdown_timeout(self, seconds: float) -> None:
        self._session.timeout = SECONDS("shutdown_timeout", seconds)

    def _snapshot(self, window: timedelta | None) -> Snapshot:
        since = start_of(window)
        return self._pipeline.run(lambda: self._session.history.snapshot(since))

    def _finish_task(self) -> None:
        try:
            self._runtime.settle_observed(self.shutdown_timeout)
            self.flush()
        except Exception as error:
            _logger.warning("the end of the task did not wait for all of its events: %s", error)
        self._runtime.hasten()

    def _restart(self) -> None:
        """Start this monitor's threads, in a forked child."""
        self._alerting.start()
        if self._session.token_usage is not None:
            self._session.token_usage.start()


def _note_open(monitor: GenerationMonitor) -> None:
    global _newest  # noqa: PLW0603 - a count of the process
    _open[id(monitor._session.state)] = weakref.ref(monitor)  # noqa: SLF001 - of this module
    _newest = next(_opened)


def open_monitors(*, of_any_runtime: bool = False) -> list[GenerationMonitor]:
    """Return the monitors of this process that are not shut down, the oldest first.

    Args:
        of_any_runtime: Whether those count that do not belong to the runtime in use, as in tests.
    """
    found = []
    for key, reference in list(_open.items()):
        monitor = reference()
        if monitor is None:
            _open.pop(key, None)
        elif of_any_runtime or monitor._runtime is runtime.current():  # noqa: SLF001 - of this module
            found.append(monitor)
    return found


def newest_monitor() -> int:
    """Return a number that changes with each new monitor of this process."""
    return _newest


def _default_folder() -> Path:
    name = f"{time.strftime('%Y-%m-%d-%H-%M-%S')}-{os.getpid()}-{next(_folders)}"
    return Path(".afterimage-monitoring") / name


def _list_of(name: str, handlers: Any) -> list[Any]:
    """Return the list itself, which its owner may change later, or one of another sequence."""
    found: list[Any] = handlers if type(handlers) is list else HANDLERS(name, handlers)
    return found


def _handlers(
    folder: Path | None, config: MonitorConfig, metric_handlers: Any, log_handlers: Any
) -> tuple[list[MetricHandler], list[LogHandler]]:
    """Return the metric and log handlers; by default those that write files in ``folder``."""
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


def process_token_usage(window: timedelta | None = None) -> TokenUsageReport:
    """Sum the tokens by model over all monitors of this process, closed ones too.

    Args:
        window: How far to look back; None means since the start of the process.

    Returns:
        The report; ``complete`` is False if the window starts before a history does.

    Raises:
        ConfigError: ``window`` is not a timedelta.
    """
    return runtime.current().token_usage(start_of(window))


def job_token_usage() -> TokenUsageReport:
    """Sum the tokens by model over all processes of this job, those that have ended too.

    What other processes have recorded in about the last second may be missing. Without other
    processes it is the report of :func:`process_token_usage`.

    Returns:
        The report, since the start of the job; ``complete`` is False if the other processes cannot
        be reached.
    """
    return runtime.current().job_token_usage()
