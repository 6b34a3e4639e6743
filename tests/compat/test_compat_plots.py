"""Plots of AfterImage's class and of ours: names, files and errors."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from _compat import Subject

PLOTS = {
    "success_error_rate",
    "generation_time",
    "total_token_count",
    "prompt_token_count",
    "completion_token_count",
    "evaluation_scores",
    "evaluation_time",
}
PNG = b"\x89PNG\r\n\x1a\n"


def record(subject: Subject) -> Any:
    """Return a monitor with data for every plot."""
    monitor = subject.monitor()
    for number in range(1, 4):
        monitor.track_generation(
            float(number),
            number != 2,
            error="late" if number == 2 else None,
            model_name="atlas",
            prompt_token_count=10 * number,
            completion_token_count=number,
            total_token_count=11 * number,
        )
        monitor.track_evaluation(0.1 * number, True, "judge", {"coherence": 0.2 * number})
    subject.settle(monitor)
    return monitor


def test_the_seven_plots_are_returned_and_written(subject: Subject, tmp_path: Path) -> None:
    """With `return_figures` each of AfterImage's seven plots is a figure and a PNG file."""
    figures = record(subject).visualize_metrics(tmp_path / "plots", return_figures=True)
    assert set(figures) >= PLOTS
    if subject.is_afterimage:
        assert set(figures) == PLOTS
    assert all(isinstance(figure, Figure) for figure in figures.values())
    for name in PLOTS:
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(PNG)
        assert figures[name].get_axes()


def test_figures_are_returned_only_on_request(subject: Subject) -> None:
    """By default the files are in `plots` of the log folder, and nothing is returned."""
    assert record(subject).visualize_metrics() is None
    names = {path.stem for path in (subject.log_dir / "plots").glob("*.png")}
    assert names >= PLOTS


def test_folder_and_figure_size_may_be_positional(subject: Subject, tmp_path: Path) -> None:
    """`save_dir` and `figsize` (inches) may be positional, and `save_dir` may be text."""
    figures = record(subject).visualize_metrics(str(tmp_path / "a" / "b"), (6, 3), True)
    assert (tmp_path / "a" / "b" / "generation_time.png").is_file()
    for name in PLOTS:
        assert tuple(figures[name].get_size_inches()) == (6, 3)


def test_only_recorded_metrics_are_plotted(subject: Subject, tmp_path: Path) -> None:
    """A plot without data is omitted."""
    monitor = subject.monitor()
    monitor.track_evaluation(0.1, True, "judge", {"coherence": 0.5})
    subject.settle(monitor)
    figures = monitor.visualize_metrics(tmp_path / "plots", return_figures=True)
    assert set(figures) & PLOTS == {"evaluation_scores", "evaluation_time"}


def test_without_events_there_is_a_warning_and_no_plot(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is an empty dict; AfterImage's class warns, ours logs the reason."""
    monitor = subject.monitor()
    warns = (
        pytest.warns(UserWarning, match="No metrics data")
        if subject.is_afterimage
        else nullcontext()
    )
    with warns, caplog.at_level(logging.WARNING):
        assert monitor.visualize_metrics() == {}
    logged = any("nothing to plot" in record.getMessage() for record in caplog.records)
    assert logged == subject.differs(
        afterimage=False, ours=True, why="the standard logging reports it, not a warning"
    )


def test_plots_do_not_change_matplotlibs_state(subject: Subject, tmp_path: Path) -> None:
    """Ours does not change the style and pyplot's figures; AfterImage's class changes both."""
    from matplotlib import pyplot as plt

    monitor = record(subject)
    style, opened = dict(mpl.rcParams), plt.get_fignums()
    monitor.visualize_metrics(tmp_path / "plots")
    unchanged = (dict(mpl.rcParams), plt.get_fignums()) == (style, opened)
    assert unchanged == subject.differs(
        afterimage=False, ours=True, why="style and figures belong to the user"
    )


def test_a_folder_that_cannot_be_created_does_not_raise(subject: Subject, tmp_path: Path) -> None:
    """Ours does not raise, since AfterImage calls it at the end of a job; AfterImage's does."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monitor = record(subject)
    with subject.breaks(OSError, match="file"):
        monitor.visualize_metrics(tmp_path / "file" / "plots")


def test_one_metric_can_be_plotted(subject: Subject) -> None:
    """`plot_metric` returns a figure of the samples with their rolling mean."""
    figure = record(subject).plot_metric("generation_time", timedelta(hours=1), 2, (5, 4))
    assert isinstance(figure, Figure)
    assert tuple(figure.get_size_inches()) == (5, 4)
    (axes,) = figure.get_axes()
    assert axes.get_ylabel()
    (line,) = axes.get_lines()
    assert list(line.get_ydata()) == [1.0, 1.5, 2.5]


def test_an_unknown_metric_is_an_error(subject: Subject) -> None:
    """A metric that was never recorded is a `ValueError` with its name."""
    with pytest.raises(ValueError, match="no_such_metric"):
        record(subject).plot_metric("no_such_metric")


def test_an_empty_window_is_an_error(subject: Subject) -> None:
    """A metric without samples in the window is a `ValueError` with its name."""
    monitor = subject.monitor()
    then = datetime.now() - timedelta(hours=2)  # noqa: DTZ005 - AfterImage's class takes naive times
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    with pytest.raises(ValueError, match="m"):
        monitor.plot_metric("m")
    assert monitor.plot_metric("m", window=timedelta(hours=3)).get_axes()
