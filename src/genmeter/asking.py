"""What a monitor is asked: windows, token reports, frames, exports and plots."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.config.checks import count, start_of
from genmeter.errors import ExportError
from genmeter.events.values import safe_text
from genmeter.files import export, plots
from genmeter.history import frames
from genmeter.history.token_report import report_of, summarise

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from genmeter.history.snapshot import Snapshot
    from genmeter.history.token_report import TokenUsageReport
    from genmeter.pipeline.drain import Pipeline
    from genmeter.session import Session

__all__ = ["Asking"]

_logger = logging.getLogger("genmeter")


class Asking:
    """The methods that ask; each sees all that was told before, by any thread.

    Args:
        pipeline: Whose drain a question waits for.
        session: The monitor's own.
        log_dir: Folder for files that are asked for without a place of their own.
    """

    def __init__(self, pipeline: Pipeline, session: Session, log_dir: Path) -> None:
        self._pipeline = pipeline
        self._session = session
        self.log_dir = log_dir
        self._has_warned_of_gap = False

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
        found = self._pipeline.run(lambda: self._session.history.samples(name, since))
        if found is None:
            return {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
        if found.kept_since is not None and not self._has_warned_of_gap:
            self._has_warned_of_gap = True
            _logger.warning(
                "a window reaches past what the history keeps; raise history.capacity "
                "(GENMETER_HISTORY_CAPACITY) above %d to have all of it",
                self._session.history.ring_capacity,
            )
        return summarise(found.value)

    def get_total_token_usage(self, window: timedelta | None = None) -> TokenUsageReport:
        """Sum the tokens by model.

        Args:
            window: How far to look back; None means since the monitor was made, which is exact
                however long that is. A window of 0 holds nothing.

        Returns:
            The report; its ``complete`` is False where the window reaches past the history.

        Raises:
            ConfigError: ``window`` is not a timedelta.
        """
        since = start_of(window)
        return report_of(self._pipeline.run(lambda: self._session.history.token_totals(since)))

    def to_frame(self, kind: str = "generations", window: timedelta | None = None) -> pd.DataFrame:
        """Give what the history keeps as a table, the oldest row first.

        Args:
            kind: ``generations``, ``conversations``, ``evaluations``, ``metrics`` (of
                :meth:`record_metric`) or ``samples`` (all under their old names, as exports have
                them); for the columns see :func:`genmeter.history.frames.to_frame`.
            window: How far to look back; None means as far as the history reaches.

        Returns:
            The frame; its ``attrs`` say from when on the history reaches where earlier rows are
            gone.

        Raises:
            ConfigError: ``kind`` is none of these, or ``window`` is not a timedelta.
        """
        return frames.to_frame(self._snapshot(window), kind)

    def save_metrics(self) -> Path:
        """Write all that the history keeps into ``log_dir``, as JSON.

        Returns:
            The file's path, ``metrics_YYYYmmdd_HHMMSS.json``.

        Raises:
            ExportError: It cannot be written.
        """
        path = self.log_dir / f"metrics_{datetime.now().astimezone():%Y%m%d_%H%M%S}.json"
        self.export_metrics(path)
        return path

    def export_metrics(
        self,
        output_path: str | Path,
        format: str = "json",  # noqa: A002 - the old class's name
        window: timedelta | None = None,
    ) -> None:
        """Write what the history keeps to a file, under the old metrics' names.

        The file is written beside its place and renamed, so that an export that fails leaves the
        one before as it was.

        Args:
            output_path: Where to; its folder is made where it is missing.
            format: ``json``; ``csv`` (a file ``STEM_METRIC.csv`` for each metric, beside the
                path); ``excel`` (a sheet for each metric); or ``parquet`` (one long table).
            window: How far to look back; None means as far as the history reaches.

        Raises:
            ExportError: The format is none of these, or the file cannot be written.
            ConfigError: ``output_path`` is no path, or ``window`` is not a timedelta.
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
        """Draw the old monitor's plots, and some by model, as PNG files; never raises.

        Args:
            save_dir: Folder for the files; None means ``plots`` in ``log_dir``.
            figsize: Width and height in inches.
            return_figures: Whether to return the figures.

        Returns:
            With ``return_figures`` the matplotlib figures by name, else None; an empty dict, and
            a warning, where there is nothing to draw or matplotlib is missing.
        """
        try:
            figures = plots.draw_all(self._snapshot(None), figsize)
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
            ConfigError: ``window`` is not a timedelta, ``rolling_window`` no whole number, or
                ``figsize`` no size.
            MissingExtraError: matplotlib is not installed.
        """
        since = start_of(window)
        count()("rolling_window", rolling_window)
        name = safe_text(metric_name) or ""
        found = self._pipeline.run(lambda: self._session.history.samples(name, since))
        if found is None:
            raise ExportError(f"metric_name is {metric_name!r}, which was never recorded")
        if not len(found.value):
            raise ExportError(
                f"metric_name is {metric_name!r}, of which nothing lies within {window}; "
                "give a longer window"
            )
        return plots.draw_metric(name, found, rolling_window=rolling_window, figsize=figsize)

    def _snapshot(self, window: timedelta | None) -> Snapshot:
        since = start_of(window)
        return self._pipeline.run(lambda: self._session.history.snapshot(since))
