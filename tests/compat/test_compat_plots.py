"""The plots of AfterImage's class and of ours: which there are, where they go, what is refused."""

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


def tell(subject: Subject) -> Any:
    """Make a monitor, and tell it something of everything that is plotted."""
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
    """With `return_figures` there are the old seven, each as a figure and as a PNG file."""
    figures = tell(subject).visualize_metrics(tmp_path / "plots", return_figures=True)
    assert set(figures) >= PLOTS
    if subject.is_old:
        assert set(figures) == PLOTS
    assert all(isinstance(figure, Figure) for figure in figures.values())
    for name in PLOTS:
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(PNG)
        assert figures[name].get_axes()


def test_without_return_figures_there_are_files_only(subject: Subject) -> None:
    """The files go to `plots` in the log folder, and nothing is returned."""
    assert tell(subject).visualize_metrics() is None
    names = {path.stem for path in (subject.log_dir / "plots").glob("*.png")}
    assert names >= PLOTS


def test_the_folder_may_be_text_and_the_size_be_given(subject: Subject, tmp_path: Path) -> None:
    """`save_dir` and `figsize` are taken by position, `figsize` in inches."""
    figures = tell(subject).visualize_metrics(str(tmp_path / "a" / "b"), (6, 3), True)
    assert (tmp_path / "a" / "b" / "generation_time.png").is_file()
    for name in PLOTS:
        assert tuple(figures[name].get_size_inches()) == (6, 3)


def test_only_recorded_metrics_are_plotted(subject: Subject, tmp_path: Path) -> None:
    """A plot of which there is no sample is not there."""
    monitor = subject.monitor()
    monitor.track_evaluation(0.1, True, "judge", {"coherence": 0.5})
    subject.settle(monitor)
    figures = monitor.visualize_metrics(tmp_path / "plots", return_figures=True)
    assert set(figures) & PLOTS == {"evaluation_scores", "evaluation_time"}


def test_without_events_there_is_a_warning_and_no_plot(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty dict, and one line that says why: a warning of the old class, a log line of ours."""
    monitor = subject.monitor()
    warns = pytest.warns(UserWarning, match="No metrics data") if subject.is_old else nullcontext()
    with warns, caplog.at_level(logging.WARNING):
        assert monitor.visualize_metrics() == {}
    told_by_log = any("nothing to plot" in record.getMessage() for record in caplog.records)
    assert told_by_log == subject.differs(
        old=False, new=True, why="the standard logging reports it, not a warning"
    )


def test_matplotlib_stays_as_it_was(subject: Subject, tmp_path: Path) -> None:
    """Ours leaves the style and pyplot's figures alone; the old class changes both."""
    from matplotlib import pyplot as plt

    monitor = tell(subject)
    style, opened = dict(mpl.rcParams), plt.get_fignums()
    monitor.visualize_metrics(tmp_path / "plots")
    is_as_it_was = (dict(mpl.rcParams), plt.get_fignums()) == (style, opened)
    assert is_as_it_was == subject.differs(
        old=False, new=True, why="style and figures belong to the user"
    )


def test_a_folder_that_cannot_be_made(subject: Subject, tmp_path: Path) -> None:
    """Ours never raises, since AfterImage calls it at the end of a job; the old class does."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monitor = tell(subject)
    with subject.breaks(OSError, match="file"):
        monitor.visualize_metrics(tmp_path / "file" / "plots")


def test_one_metric_can_be_plotted(subject: Subject) -> None:
    """`plot_metric` gives a figure of the samples and of their rolling mean."""
    figure = tell(subject).plot_metric("generation_time", timedelta(hours=1), 2, (5, 4))
    assert isinstance(figure, Figure)
    assert tuple(figure.get_size_inches()) == (5, 4)
    (axes,) = figure.get_axes()
    assert axes.get_ylabel()
    (line,) = axes.get_lines()
    assert list(line.get_ydata()) == [1.0, 1.5, 2.5]


def test_an_unknown_metric_is_an_error(subject: Subject) -> None:
    """A name that was never recorded is a `ValueError` that names it."""
    with pytest.raises(ValueError, match="no_such_metric"):
        tell(subject).plot_metric("no_such_metric")


def test_an_empty_window_is_an_error(subject: Subject) -> None:
    """A metric of which nothing lies in the window is a `ValueError` that names it."""
    monitor = subject.monitor()
    then = datetime.now() - timedelta(hours=2)  # noqa: DTZ005 - naive is what the old class takes
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    with pytest.raises(ValueError, match="m"):
        monitor.plot_metric("m")
    assert monitor.plot_metric("m", window=timedelta(hours=3)).get_axes()
