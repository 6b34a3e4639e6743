"""The plots of ``visualize_metrics`` and ``plot_metric``."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEVEN = {
    "success_error_rate",
    "generation_time",
    "total_token_count",
    "prompt_token_count",
    "completion_token_count",
    "evaluation_scores",
    "evaluation_time",
}


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Give a monitor that was told of every kind of thing that is plotted."""
    with isolated_monitor() as monitor:
        for number in range(30):
            monitor.track_generation(
                1.0 + number / 10,
                number % 5 != 0,
                model_name="atlas",
                prompt_token_count=100 + number,
                completion_token_count=10,
            )
            monitor.track_evaluation(0.5, True, "judge", {"coherence": 0.8, "grounding": 0.5})
        yield monitor


def test_the_seven_plots_are_written_and_returned(monitor: IsolatedMonitor, tmp_path: Path) -> None:
    """Each of the old monitor's seven plots is a PNG file and a figure of its name."""
    figures = monitor.visualize_metrics(tmp_path / "plots", return_figures=True)
    assert figures is not None
    assert set(figures) == SEVEN
    files = sorted((tmp_path / "plots").iterdir())
    assert {file.stem for file in files} == SEVEN
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_plots_show_what_was_told(monitor: IsolatedMonitor, tmp_path: Path) -> None:
    """Lines hold the samples' rolling means, and their legends name the series."""
    figures = monitor.visualize_metrics(tmp_path, figsize=(5, 3), return_figures=True)
    assert figures is not None
    (axes,) = figures["success_error_rate"].axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["error", "success"]
    by_label = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert by_label["success"][-1] == pytest.approx(0.8)
    assert by_label["error"][-1] == pytest.approx(0.2)
    (scores,) = figures["evaluation_scores"].axes
    assert [line.get_label() for line in scores.lines] == ["coherence", "grounding"]
    assert tuple(figures["generation_time"].get_size_inches()) == (5, 3)


def test_the_default_folder_is_in_the_log_dir(tmp_path: Path) -> None:
    """Without a folder the files go to ``plots`` in the log_dir, and nothing is returned."""
    with isolated_monitor(log_dir=tmp_path / "logs") as monitor:
        monitor.track_generation(1.0, True)
        assert not (tmp_path / "logs").exists()
        assert monitor.visualize_metrics() is None
        assert {file.stem for file in (tmp_path / "logs" / "plots").iterdir()} == {
            "success_error_rate",
            "generation_time",
        }


def test_nothing_to_plot_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With no data there is a warning, an empty dict and no folder."""
    with isolated_monitor() as monitor:
        assert monitor.visualize_metrics(tmp_path / "plots") == {}
    assert "nothing to plot" in caplog.text
    assert not (tmp_path / "plots").exists()


def test_a_folder_that_is_a_file_is_a_warning(
    monitor: IsolatedMonitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """AfterImage plots at the end of each job, so that a bad folder must not raise there."""
    (tmp_path / "taken").write_text("mine")
    with caplog.at_level(logging.WARNING):
        assert monitor.visualize_metrics(tmp_path / "taken", return_figures=True) == {}
    assert "plots were not drawn" in caplog.text
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file(
    monitor: IsolatedMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is replaced whole or not at all."""
    old = tmp_path / "generation_time.png"
    old.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    assert monitor.visualize_metrics(tmp_path) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["generation_time.png"]
    assert old.read_bytes() == b"old"


def test_matplotlib_state_is_left_alone(monitor: IsolatedMonitor, tmp_path: Path) -> None:
    """The caller's backend, style and open figures stay as they were."""
    before = mpl.get_backend(), dict(mpl.rcParams), plt.get_fignums()
    monitor.visualize_metrics(tmp_path)
    monitor.plot_metric("generation_time")
    assert (mpl.get_backend(), dict(mpl.rcParams), plt.get_fignums()) == before


def test_one_metric_shows_samples_and_mean(monitor: IsolatedMonitor) -> None:
    """``plot_metric`` draws every sample and the rolling mean of the window that it is given."""
    (axes,) = monitor.plot_metric("generation_time", rolling_window=5, figsize=(4, 3)).axes
    assert len(axes.collections[0].get_offsets()) == 30
    assert axes.lines[0].get_ydata()[-1] == pytest.approx((3.9 + 3.8 + 3.7 + 3.6 + 3.5) / 5)
    assert axes.get_title(loc="left") == "generation_time"


def test_a_metric_that_cannot_be_plotted_is_named(monitor: IsolatedMonitor) -> None:
    """An unknown metric, an empty window and a bad window each say what to do."""
    with pytest.raises(ExportError, match="'nope', which was never recorded"):
        monitor.plot_metric("nope")
    with pytest.raises(ExportError, match="nothing lies within -1 day"):
        monitor.plot_metric("generation_time", window=-timedelta(days=1))
    with pytest.raises(ConfigError, match=r"window is 5; give a datetime\.timedelta"):
        monitor.plot_metric("generation_time", window=5)  # type: ignore[arg-type]


def test_without_matplotlib_the_remedy_is_told(
    monitor: IsolatedMonitor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the extra, plots are a warning with the pip command, and one plot is an error."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert monitor.visualize_metrics(tmp_path) == {}
    assert 'pip install "genmeter[plots]"' in caplog.text
    with pytest.raises(MissingExtraError, match="matplotlib"):
        monitor.plot_metric("generation_time")


def test_importing_genmeter_does_not_import_matplotlib() -> None:
    """The package starts without what only plots need."""
    code = "import sys, genmeter; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_genmeter_leaves_pandas_alone() -> None:
    """A job that draws nothing does not wait for pandas, half of a second, at its start."""
    code = "import sys, genmeter; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
