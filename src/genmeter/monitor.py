"""``GenerationMonitor``: what a job tells, and what it asks."""

from __future__ import annotations

import logging
import weakref
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genmeter import runtime
from genmeter.arguments import (
    check_callable,
    check_number,
    check_seconds,
    check_thresholds,
    handler_list,
    log_folder,
    start_of,
)
from genmeter.config import MonitorConfig
from genmeter.errors import ConfigError, ExportError
from genmeter.labels import safe_text
from genmeter.outputs import plots
from genmeter.outputs.apps import make_asgi_app, make_wsgi_app
from genmeter.outputs.tokens import report_of
from genmeter.periodic import Periodic
from genmeter.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from wsgiref.types import WSGIApplication

    from matplotlib.figure import Figure

    from genmeter.outputs.apps import ASGIApplication
    from genmeter.outputs.tokens import TokenUsageReport
    from genmeter.recorders.history import Samples

__all__ = ["GenerationMonitor", "process_token_usage"]

_logger = logging.getLogger("genmeter")


class GenerationMonitor(Telling):
    """Counts what a generation job does, for Prometheus, OTLP and the job itself.

    Takes the place of AfterImage's class of the same name: same names, same arguments, same
    results. What a call tells is seen by every later read, from any thread. Not there yet:
    alerts, handlers and exports (``check_alerts``, ``save_metrics``, ``export_metrics``), so the
    arguments for these are checked and kept, and change nothing.

    ``track_*``, ``record_*`` and ``log_*`` never raise, wait for a lock or do I/O: they append
    to an inbox and return. A value that cannot be used is left out, counted in
    ``genmeter_monitor_events_total`` and warned about once.

    Args:
        log_dir: Folder for files; None means ``.afterimage-monitoring/`` with a folder for each
            monitor, made only when a file is asked for.
        metric_handlers: Kept as an attribute; this release does not call them.
        log_handlers: Kept as an attribute; this release does not call them.
        alert_handlers: Kept as an attribute; this release does not call them.
        metrics_interval: Seconds between evaluations of the alert rules, which this release
            does not have; 0 or less for none.
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
        metric_handlers: Sequence[Any] | None = None,
        log_handlers: Sequence[Any] | None = None,
        alert_handlers: Sequence[Any] | None = None,
        metrics_interval: float = 60,
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
        check_seconds("shutdown_timeout", shutdown_timeout, least=0)
        if token_usage_callback is not None:
            check_callable("token_usage_callback", token_usage_callback)
            check_seconds(
                "token_usage_callback_interval_seconds",
                token_usage_callback_interval_seconds,
                least=1e-3,
            )
        is_from_env = config is None
        config = MonitorConfig.from_env() if config is None else config
        if not isinstance(config, MonitorConfig):
            raise ConfigError(f"config is {config!r}; give a MonitorConfig")
        self.log_dir = log_folder(log_dir)
        self.metric_handlers = handler_list("metric_handlers", metric_handlers)
        self.log_handlers = handler_list("log_handlers", log_handlers)
        self.alert_handlers = handler_list("alert_handlers", alert_handlers)
        check_number("metrics_interval", metrics_interval)
        self.metrics_interval = metrics_interval
        self.shutdown_timeout = shutdown_timeout
        check_thresholds(
            alert_min_success_rate=alert_min_success_rate,
            alert_max_generation_time_seconds=alert_max_generation_time_seconds,
            alert_max_error_rate=alert_max_error_rate,
            alert_max_prompt_token_mean=alert_max_prompt_token_mean,
            alert_max_completion_token_mean=alert_max_completion_token_mean,
            alert_max_total_token_mean=alert_max_total_token_mean,
            alert_max_conversation_length_mean=alert_max_conversation_length_mean,
        )
        for name in ("metric_handlers", "log_handlers", "alert_handlers"):
            if getattr(self, name):
                _logger.warning("%s is kept, but this release does not call handlers yet", name)

        self._runtime = runtime.current()
        sink = self._runtime.attach(config, timeout=shutdown_timeout)
        sink.shares_expected = is_from_env
        super().__init__(self._runtime.require_pipeline(), sink, inline=config.drain == "inline")
        self._is_shut = False
        self._has_warned_of_gap = False
        self._token_usage_callback = token_usage_callback
        self._token_usage_interval = token_usage_callback_interval_seconds
        self._token_usage_thread: Periodic | None = None
        if token_usage_callback is not None:
            self._start_token_usage_thread()
            self._sink.on_rebirth = self._start_token_usage_thread
        # The garbage collector may come at any time, so its call only leaves a note.
        weakref.finalize(self, self._runtime.abandon, self._sink).atexit = False

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut else "open"
        return f"<GenerationMonitor, {state}, {self._sink.history.size} rows kept>"

    # --- asking --------------------------------------------------------------------------------

    def get_metrics(
        self, metric_name: str, window: timedelta | None = timedelta(minutes=5)
    ) -> dict[str, float]:
        """Sum up a metric over the last while.

        Args:
            metric_name: One of the old names, such as ``generation_time`` or
                ``model_usage:MODEL``, or what :meth:`record_metric` was given.
            window: How far to look back; None means as far as the history reaches.

        Returns:
            ``mean``, ``min``, ``max`` and ``count``: zeros for a name that was never recorded,
            an empty dict where nothing lies in the window.

        Raises:
            ConfigError: ``window`` is not a timedelta.
        """
        since = start_of(window)
        name = safe_text(metric_name) or ""
        found = self._pipeline.run(lambda: self._sink.history.samples(name, since))
        if found is None:
            return {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
        if found.kept_since is not None and not self._has_warned_of_gap:
            self._has_warned_of_gap = True
            _logger.warning(
                "a window reaches past what the history keeps; raise history.capacity "
                "(GENMETER_HISTORY_CAPACITY) above %d to have all of it",
                self._sink.history.capacity // 2,
            )
        values = found.value
        if not len(values):
            return {}
        return {
            "mean": float(values.mean()),
            "min": values.min().item(),
            "max": values.max().item(),
            "count": len(values),
        }

    def get_total_token_usage(self, window: timedelta | None = None) -> TokenUsageReport:
        """Sum the tokens by model.

        Args:
            window: How far to look back; None, and as in AfterImage a window of 0, means since
                the monitor was made, which is exact however long that is.

        Returns:
            The report; its ``complete`` is False where the window reaches past the history.

        Raises:
            ConfigError: ``window`` is not a timedelta.
        """
        since = start_of(window) if window else None
        return report_of(self._pipeline.run(lambda: self._sink.history.token_totals(since)))

    def visualize_metrics(
        self,
        save_dir: str | Path | None = None,
        figsize: tuple[float, float] = (12, 6),
        return_figures: bool = False,
    ) -> dict[str, Figure] | None:
        """Draw the old monitor's plots as PNG files; never raises.

        Args:
            save_dir: Folder for the files; None means ``plots`` in ``log_dir``.
            figsize: Width and height in inches.
            return_figures: Whether to return the figures.

        Returns:
            With ``return_figures`` the matplotlib figures by name, else None; an empty dict, and
            a warning, where there is nothing to draw or matplotlib is missing.
        """
        try:
            figures = plots.draw_all(self._pipeline.run(self._all_samples), figsize)
            if not figures:
                _logger.warning("there is nothing to plot yet")
                return {}
            plots.save(figures, Path(save_dir) if save_dir else self.log_dir / "plots")
        except Exception as error:
            _logger.warning("the plots were not drawn: %s", error)
            return {}
        return figures if return_figures else None

    def plot_metric(
        self,
        metric_name: str,
        window: timedelta = timedelta(hours=1),
        rolling_window: int = 10,
        figsize: tuple[float, float] = (12, 8),
    ) -> Figure:
        """Draw one metric over time.

        Args:
            metric_name: As :meth:`get_metrics` takes it.
            window: How far to look back.
            rolling_window: Samples that a rolling mean spans.
            figsize: Width and height in inches.

        Returns:
            A matplotlib figure.

        Raises:
            ExportError: The metric was never recorded, or not in the window (a ``ValueError``).
            ConfigError: ``window`` is not a timedelta.
            MissingExtraError: matplotlib is not installed.
        """
        since = start_of(window)
        found = self._pipeline.run(lambda: self._sink.history.samples(metric_name, since))
        if found is None:
            raise ExportError(f"metric_name is {metric_name!r}, which was never recorded")
        if not len(found.value):
            raise ExportError(
                f"metric_name is {metric_name!r}, of which nothing lies within {window}; "
                "give a longer window"
            )
        return plots.draw_metric(metric_name, found, rolling_window=rolling_window, figsize=figsize)

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

    # --- the end -------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Bring all that was told so far to the history and the instruments.

        Args:
            timeout: Seconds to wait at most; None means ``shutdown_timeout``.

        Raises:
            ConfigError: ``timeout`` is not a number of seconds.
            TimeoutError: It took longer.
        """
        if timeout is not None:
            check_seconds("timeout", timeout, least=0)
        self._pipeline.run(lambda: None, self.shutdown_timeout if timeout is None else timeout)

    def shutdown(self) -> None:
        """Take no more, keep what was told, and tell the way out.

        The last monitor of the process that is shut down pushes once more, lingers for a last
        scrape where ``EndpointConfig.linger`` says so, and closes the endpoint. Reads go on
        working. Never raises; a second call does nothing.
        """
        if self._is_shut:
            return
        self._is_shut = True
        self._append = self._refuse
        try:
            if self._token_usage_thread is not None:
                self._token_usage_thread.stop(self.shutdown_timeout)
            self._runtime.release(self._sink, self.shutdown_timeout)
        except Exception:
            _logger.exception("shutdown failed; the job is not harmed")

    def __enter__(self) -> Self:
        """Give the monitor itself."""
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

    def _all_samples(self) -> dict[str, Samples]:
        history = self._sink.history
        found = {name: history.samples(name) for name in history.sampled_names()}
        return {name: samples for name, samples in found.items() if samples is not None}

    def _start_token_usage_thread(self) -> None:
        self._token_usage_thread = Periodic(
            self._call_back,
            self._token_usage_interval,
            name="genmeter-token-usage",
            on_error=lambda: self._runtime.tallies.count_handler_error("token_usage_callback"),
        )

    def _call_back(self) -> None:
        if self._token_usage_callback is not None:
            self._token_usage_callback(self.get_total_token_usage())


def process_token_usage(window: timedelta | None = None) -> TokenUsageReport:
    """Sum the tokens by model over all monitors that this process ever had.

    Args:
        window: How far to look back; None means since the start of the process.

    Returns:
        The report; its ``complete`` is False where the window reaches past a history.

    Raises:
        ConfigError: ``window`` is not a timedelta.
    """
    return runtime.current().token_usage(start_of(window) if window else None)
