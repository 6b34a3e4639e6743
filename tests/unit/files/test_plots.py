"""The plots of ``visualize_metrics`` and ``plot_metric``."""

from __future__ import annotations

import gc
import logging
import math
import subprocess
import sys
import time
import weakref
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import dates, style
from matplotlib import pyplot as plt

from genmeter import clock
from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.files import plots
from genmeter.history.samples import Samples
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

START = 1_773_045_000.0  # 2026-03-09 08:30 UTC
SEVEN = {
    "success_error_rate",
    "generation_time",
    "total_token_count",
    "prompt_token_count",
    "completion_token_count",
    "evaluation_scores",
    "evaluation_time",
}
BY_MODEL = {
    "generation_time_by_model",
    "outcomes_by_model",
    "tokens_by_model",
    "tokens_over_time_by_model",
}


def figures_of(monitor: IsolatedMonitor, size: tuple[float, float] = (12, 6)) -> dict[str, Figure]:
    """Draw all plots of a monitor."""
    return plots.draw_all(monitor._session.history.snapshot(), size)


def texts(axes: Axes) -> list[str]:
    """Return the texts in axes, without legend and ticks."""
    return [text.get_text() for text in axes.texts]


def legend(axes: Axes) -> list[str]:
    """Return the names in the legend."""
    found = axes.get_legend() or axes.figure.legends[0]
    return [text.get_text() for text in found.get_texts()]


def names(axes: Axes) -> list[str]:
    """Return the names on the y axis, from the top."""
    return [text.get_text() for text in axes.get_yticklabels()]


def widths(axes: Axes) -> list[list[float]]:
    """Return the lengths of horizontal bars, a list for each colour."""
    return [[bar.get_width() for bar in bars] for bars in axes.containers]


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with one model and data for every plot that is not by model."""
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


def test_seven_plots_are_written_and_returned(monitor: IsolatedMonitor, tmp_path: Path) -> None:
    """Each of AfterImage's seven plots is a PNG file and a figure of its name."""
    figures = monitor.visualize_metrics(tmp_path / "plots", return_figures=True)
    assert figures is not None
    assert set(figures) >= SEVEN
    files = sorted((tmp_path / "plots").iterdir())
    assert {file.stem for file in files} == set(figures)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_rates_are_rolling_means(monitor: IsolatedMonitor) -> None:
    """Success and error rate are means of ten, in their own colours, with the overall mean."""
    success, error = figures_of(monitor)["success_error_rate"].axes
    outcomes = np.array([number % 5 != 0 for number in range(30)], dtype=float)
    windows = [outcomes[max(0, end - 10) : end] for end in range(3, 31)]
    means = np.array([window.mean() for window in windows])
    assert success.lines[0].get_ydata() == pytest.approx(means)
    assert error.lines[0].get_ydata() == pytest.approx(1 - means)
    assert legend(success) == ["Success rate, 80.0% in all"]
    assert legend(error) == ["Error rate, 20.0% in all"]
    assert (success.lines[0].get_color(), error.lines[0].get_color()) == ("#009E73", "#D55E00")
    assert "30 calls" in texts(success)[0]


def test_tokens_of_few_calls_are_shown_one_by_one(monitor: IsolatedMonitor) -> None:
    """Up to a hundred samples are dots beside their mean; the axis includes zero."""
    (axes,) = figures_of(monitor)["prompt_token_count"].axes
    dots = np.asarray(axes.collections[0].get_offsets())
    assert dots[:, 1].tolist() == list(range(100, 130))
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(np.mean(range(120, 130)))
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylabel() == "tokens per call"


def test_tokens_of_many_calls_have_a_band(monitor: IsolatedMonitor) -> None:
    """The mean of many calls is shown with the band of the middle 80 %."""
    for number in range(1_000):
        monitor.track_generation(1.0, True, model_name="atlas", completion_token_count=number % 100)
    (axes,) = figures_of(monitor)["completion_token_count"].axes
    top = axes.collections[0].get_datalim(axes.transData).ymax
    assert 85 < top < 95
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(np.mean([*range(50, 100)]), abs=1)
    assert "rolling mean of 50, and the middle 80% around it; 1,030 calls" in texts(axes)[0]


def test_histogram_has_every_duration(monitor: IsolatedMonitor) -> None:
    """The bars add up to the calls, and the quantiles are beside their lines."""
    (axes,) = figures_of(monitor)["generation_time"].axes
    assert sum(bar.get_height() for bar in axes.patches) == 30
    assert texts(axes)[:2] == ["median 2.45 s", "95th percentile 3.75 s"]
    assert axes.get_xlabel() == "seconds"


@pytest.mark.parametrize(
    "values",
    [[2.0] * 5, [0.0, 0.0], [1e-300], [-1.0, 1e3], [1.0, 1e300], [-1e300, 1e300], [0.001, 900.0]],
)
def test_histogram_has_a_bar_for_odd_values(values: list[float]) -> None:
    """Equal, negative and absurd durations are neither lost nor an error."""
    with isolated_monitor() as monitor:
        for value in values:
            monitor.record_metric("generation_time", value)
        (axes,) = figures_of(monitor)["generation_time"].axes
    assert sum(bar.get_height() for bar in axes.patches) == len(values)
    assert len(axes.patches) <= 60


@pytest.mark.parametrize(("calls", "window"), [(1, 10), (500, 10), (501, 20), (1_001, 50)])
def test_rolling_mean_spans_ten_samples_or_a_fiftieth(calls: int, window: int) -> None:
    """Few samples are averaged as in AfterImage, many in visible windows."""
    with isolated_monitor() as monitor:
        for _ in range(calls):
            monitor.track_generation(1.0, True)
        success, _ = figures_of(monitor)["success_error_rate"].axes
    assert f"rolling mean of {window};" in texts(success)[0]


def test_durations_over_decades_are_on_a_logarithmic_axis() -> None:
    """Milliseconds and minutes are both legible; 0 is shown as a millisecond."""
    with isolated_monitor() as monitor:
        for duration in (0.0, 0.002, 0.5, 3.0, 80.0, float("nan")):
            monitor.track_generation(duration, True, model_name="atlas")
        (axes,) = figures_of(monitor)["generation_time"].axes
    assert axes.get_xscale() == "log"
    assert sum(bar.get_height() for bar in axes.patches) == 5
    assert axes.get_xlim()[0] == pytest.approx(0.001)
    assert texts(axes)[-1] == "5 calls"


def test_scores_of_other_scales_have_their_own_axes() -> None:
    """Scores from 1 to 5 do not flatten scores from 0 to 1."""
    with isolated_monitor() as monitor:
        for number in range(20):
            scores = {"_coherence": 0.8, "stars": 1 + number % 5, "grounding": 0.9}
            monitor.track_evaluation(0.5, True, "judge", scores)
        shares, stars = figures_of(monitor)["evaluation_scores"].axes
    assert legend(shares) == ["grounding", "_coherence"]
    assert legend(stars) == ["stars"]
    assert stars.lines[0].get_ydata()[-1] == pytest.approx(3.0)
    assert shares.get_ylim() == pytest.approx((-0.02, 1.02))


def test_rarer_scores_are_counted_in_the_note() -> None:
    """Eight names are drawn."""
    with isolated_monitor() as monitor:
        monitor.track_evaluation(0.5, True, "judge", {f"score{n:02}": 0.5 for n in range(12)})
        (axes,) = figures_of(monitor)["evaluation_scores"].axes
    assert len(axes.lines) == 8
    assert "4 rarer names are not shown" in texts(axes)[0]


def test_afterimages_plots_have_all_their_samples() -> None:
    """They have conversations, evaluations' tokens and samples of ``record_metric``."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=5)
        monitor.track_generation(9.0, False, conversation_length=2)
        monitor.track_evaluation(0.5, True, "judge", {"tone": 0.5}, prompt_token_count=7)
        monitor.record_metric("error_rate", 1.0)
        monitor.record_metric("generation_time", 4.0)
        monitor.record_metric("evaluation_score_tone", 0.7)
        figures = figures_of(monitor)
    success, error = figures["success_error_rate"].axes
    assert legend(success) == ["Success rate, 50.0% in all"]
    assert legend(error) == ["Error rate, 66.7% in all"]
    (times,) = figures["generation_time"].axes
    assert texts(times)[-1] == "1 call and 1 conversation and 1 recorded value"
    (tokens,) = figures["prompt_token_count"].axes
    assert np.asarray(tokens.collections[0].get_offsets())[:, 1].tolist() == [5, 7]
    assert figures["evaluation_scores"].axes[0].lines[0].get_ydata() == pytest.approx([0.5, 0.6])
    assert not BY_MODEL & set(figures)


@pytest.fixture
def fleet() -> Iterator[IsolatedMonitor]:
    """Return a monitor with two models, failures, a conversation and an evaluation."""
    with isolated_monitor() as monitor:
        for number in range(8):
            is_large = number % 4 == 0
            is_failed = number in {1, 4, 5}
            monitor.track_generation(
                10.0 if is_large else 1.0,
                not is_failed,
                model_name="large" if is_large else "small",
                prompt_token_count=None if is_failed else 1_000,
                completion_token_count=None if is_failed else 10,
                total_token_count=1_050 if number == 0 else None,
                metadata={"error_type": "TimeoutError"} if number == 1 else None,
            )
        monitor.track_generation(60.0, False, conversation_length=3)
        monitor.track_evaluation(0.1, True, "judge", {}, model_name="j", prompt_token_count=9)
        yield monitor


def test_tokens_by_model_are_the_totals_of_the_calls(fleet: IsolatedMonitor) -> None:
    """A bar has a model's prompt, completion and the rest of the provider's total."""
    figures = figures_of(fleet)
    assert set(figures) >= BY_MODEL
    (axes,) = figures["tokens_by_model"].axes
    assert names(axes) == ["small", "large"]
    assert widths(axes) == [[4_000, 1_000], [40, 10], [0, 40]]
    assert legend(axes) == ["Prompt", "Completion", "In the total only"]
    assert texts(axes) == ["4,040 (79.4%)", "1,050 (20.6%)", "5,090 tokens; 5 of 8 calls"]


def test_outcomes_by_model_are_shares_with_counts(fleet: IsolatedMonitor) -> None:
    """Conversations and evaluations are not calls of a model."""
    (axes,) = figures_of(fleet)["outcomes_by_model"].axes
    assert names(axes) == ["small", "large"]
    assert widths(axes) == [pytest.approx([4 / 6, 1 / 2]), pytest.approx([2 / 6, 1 / 2])]
    assert texts(axes) == ["2 of 6 failed (33.3%)", "1 of 2 failed (50.0%)", "8 calls"]


def test_times_by_model_are_quantiles_of_the_calls(fleet: IsolatedMonitor) -> None:
    """Each model has its median and its number of calls."""
    (axes,) = figures_of(fleet)["generation_time_by_model"].axes
    assert names(axes) == ["small", "large"]
    assert texts(axes)[:2] == ["1 s  (n = 6)", "10 s  (n = 2)"]


def test_errors_are_counted_by_type(fleet: IsolatedMonitor) -> None:
    """A failed call without a type is unknown."""
    (axes,) = figures_of(fleet)["errors_by_type"].axes
    assert names(axes) == ["unknown", "TimeoutError"]
    assert widths(axes) == [[2, 1]]
    assert texts(axes)[-1] == "3 of 8 calls"


def test_tokens_over_time_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time slice has the tokens of its calls, stacked by model."""
    now = START
    monkeypatch.setattr(clock, "now", lambda: now)
    with isolated_monitor() as monitor:
        for number in range(120):
            now = START + 60.0 * number
            model = "large" if number < 40 else "small"
            monitor.track_generation(1.0, True, model_name=model, prompt_token_count=10)
        (axes,) = figures_of(monitor)["tokens_over_time_by_model"].axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[0] * 20 + [20] * 40, [20] * 20 + [0] * 40]
    assert axes.get_ylabel() == "tokens per 2 minutes"
    assert legend(axes) == ["large", "small"]


def test_share_below_all_is_not_rounded_to_all() -> None:
    """One failed call among thousands is visible."""
    with isolated_monitor() as monitor:
        for number in range(6_000):
            monitor.track_generation(1.0, number != 0, model_name=f"m{number % 2}")
        figures = figures_of(monitor)
    (axes,) = figures["outcomes_by_model"].axes
    assert texts(axes)[:2] == ["1 of 3,000 failed (<0.1%)", "none of 3,000 failed"]
    assert legend(figures["success_error_rate"].axes[0]) == ["Success rate, >99.9% in all"]


@pytest.mark.parametrize(
    ("outcomes", "length"),
    [([True] * 60, 0.1), ([True, True, False] * 20, 0.5), ([True] * 30 + [False] * 30, 1.0)],
)
def test_shares_have_axes_of_equal_round_length(outcomes: list[bool], length: float) -> None:
    """A nearly constant rate is not magnified to fill the axis."""
    with isolated_monitor() as monitor:
        for outcome in outcomes:
            monitor.track_generation(1.0, outcome)
        success, error = figures_of(monitor)["success_error_rate"].axes
    assert np.ptp(success.get_ylim()) == pytest.approx(1.06 * length)
    assert np.ptp(error.get_ylim()) == pytest.approx(1.06 * length)


def test_smaller_models_are_merged() -> None:
    """The eight largest have their own bars, and the others share the last one."""
    with isolated_monitor() as monitor:
        for number in range(12):
            for _ in range(1 + number):
                monitor.track_generation(1.0, True, model_name=f"m{number:02}")
        (axes,) = figures_of(monitor)["outcomes_by_model"].axes
    assert names(axes) == [*(f"m{number:02}" for number in range(11, 3, -1)), "4 others"]
    assert texts(axes)[8] == "none of 10 failed"


def test_single_model_has_no_plots_by_model(monitor: IsolatedMonitor) -> None:
    """They would repeat the others."""
    assert set(figures_of(monitor)) == SEVEN | {"errors_by_type"}


def test_hostile_names_are_drawn_literally(tmp_path: Path) -> None:
    """No name is a formula, hidden, or drawn in missing glyphs."""
    hostile = ["$x_1$ costs $5", "_private", "通义千问", "a\nb", "<&>", "x" * 300, "\U0001f680"]
    with isolated_monitor() as monitor:
        for name in hostile:
            monitor.track_generation(
                1.0, False, model_name=name, prompt_token_count=5, metadata={"error_type": name}
            )
            monitor.track_evaluation(0.5, True, "judge", {name: 0.5})
        figures = figures_of(monitor)
    plots.save(figures, tmp_path)
    (axes,) = figures["tokens_over_time_by_model"].axes
    assert {"$x_1$ costs $5", "_private"} <= set(legend(axes))
    assert len(set(legend(axes))) == len(hostile)


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([(1.0, True, 5)], id="one"),
        pytest.param([(0.0, False, 0)] * 3, id="zeros"),
        pytest.param([(float("nan"), True, None)] * 3, id="nothing known"),
        pytest.param([(2.0, True, 7)] * 200, id="all the same"),
        pytest.param([(1e-6, True, 1), (1e9, False, 2**40)], id="far apart"),
    ],
)
def test_odd_data_is_drawn(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Few, equal, absent and extreme values are drawn without a warning."""
    with isolated_monitor() as monitor:
        for number, (duration, success, tokens) in enumerate(calls):
            monitor.track_generation(
                duration, success, model_name=f"m{number % 2}", prompt_token_count=tokens
            )
        figures = figures_of(monitor)
    plots.save(figures, tmp_path)
    assert "success_error_rate" in figures
    assert len(list(tmp_path.iterdir())) == len(figures)


def test_time_axis_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The axis names its offset from UTC, also over a change of it."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        noon = datetime(2026, 3, 28, 11, tzinfo=UTC).timestamp()
        samples = Samples(noon + 3600 * np.arange(48.0), np.ones(48), None)
        figure = plots.draw_metric("m", samples, rolling_window=5, figsize=(12, 6))
        (axes,) = figure.axes
        assert axes.get_xlabel() == "local time (UTC+02:00)"
        formatter = axes.xaxis.get_major_formatter()
        before, after = (datetime(2026, 3, day, 11, tzinfo=UTC) for day in (28, 29))
        assert [dates.num2date(d, formatter._tz).hour for d in dates.date2num([before, after])] == [
            12,
            13,
        ]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("values", [(1e300, -1e300), (1e300, 1.0), (1e6, 1e6 + 1e-6), (1e-300,)])
@pytest.mark.parametrize("moment", [datetime.min, datetime.max, datetime(2026, 3, 9)])  # noqa: DTZ001, DTZ901
def test_extremes_are_drawn(
    values: tuple[float, ...], moment: datetime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value and no time in a history makes a plot fail, in any zone."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati" if moment == datetime.max else "America/New_York")  # noqa: DTZ901
    time.tzset()
    first = moment.replace(tzinfo=UTC).timestamp()
    samples = Samples(np.array([first, START, START][-len(values) :]), np.array(values), None)
    samples.time[0] = first
    try:
        for name in ("generation_time", "mine"):
            figure = plots.draw_metric(name, samples, rolling_window=5, figsize=(6, 3))
            plots.save({name: figure}, tmp_path)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(list(tmp_path.iterdir())) == 2


def test_long_histories_have_few_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history of any length has at most sixty slices."""
    now = START
    monkeypatch.setattr(clock, "now", lambda: now)
    with isolated_monitor() as monitor:
        for number in range(200):
            now = START + 86_400.0 * number
            monitor.track_generation(1.0, True, model_name=f"m{number % 2}", prompt_token_count=10)
        (axes,) = figures_of(monitor)["tokens_over_time_by_model"].axes
    assert axes.get_ylabel() == "tokens per 4 days"
    assert sum(bar.get_height() for bars in axes.containers for bar in bars) == 2_000


def test_plots_of_a_full_history_are_small(tmp_path: Path) -> None:
    """Lines have a thousand points, and files a modest size."""
    chance = np.random.default_rng(1)
    samples = Samples(START + np.arange(100_000.0), chance.lognormal(size=100_000), None)
    figure = plots.draw_metric("generation_time", samples, rolling_window=10, figsize=(12, 6))
    assert len(figure.axes[0].lines[0].get_ydata()) <= 1_002
    plots.save({"generation_time": figure}, tmp_path)
    assert (tmp_path / "generation_time.png").stat().st_size < 1_500_000


def test_default_folder_is_in_the_log_dir(tmp_path: Path) -> None:
    """Without a folder the files go to ``plots`` in the log_dir, and nothing is returned."""
    with isolated_monitor(log_dir=tmp_path / "logs") as monitor:
        monitor.track_generation(1.0, True)
        assert not (tmp_path / "logs" / "plots").exists()
        assert monitor.visualize_metrics() is None
        assert {file.stem for file in (tmp_path / "logs" / "plots").iterdir()} == {
            "success_error_rate",
            "generation_time",
        }


def test_missing_data_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The result is an empty dict, and no folder is created."""
    with isolated_monitor() as monitor:
        assert monitor.visualize_metrics(tmp_path / "plots") == {}
    assert "nothing to plot" in caplog.text
    assert not (tmp_path / "plots").exists()


def test_file_as_folder_is_a_warning(
    monitor: IsolatedMonitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """AfterImage plots at the end of each job, so that an invalid folder must not raise."""
    (tmp_path / "taken").write_text("mine")
    with caplog.at_level(logging.WARNING):
        assert monitor.visualize_metrics(tmp_path / "taken", return_figures=True) == {}
    assert "plots were not drawn" in caplog.text
    assert (tmp_path / "taken").read_text() == "mine"


def test_failed_write_leaves_the_old_file(
    monitor: IsolatedMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is replaced completely or not at all."""
    old = tmp_path / "generation_time.png"
    old.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    assert monitor.visualize_metrics(tmp_path) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["generation_time.png"]
    assert old.read_bytes() == b"old"


def test_matplotlib_state_does_not_change(monitor: IsolatedMonitor, tmp_path: Path) -> None:
    """The caller's backend, style and open figures are unchanged."""
    before = mpl.get_backend(), dict(mpl.rcParams), plt.get_fignums()
    monitor.visualize_metrics(tmp_path)
    monitor.plot_metric("generation_time")
    assert (mpl.get_backend(), dict(mpl.rcParams), plt.get_fignums()) == before


HOSTILE = {
    "text.usetex": True,
    "path.sketch": (1, 100, 2),
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "font.weight": "bold",
    "lines.marker": "x",
    "xtick.minor.visible": True,
    "axes.titlelocation": "right",
    "timezone": "Asia/Tokyo",
}


@pytest.mark.parametrize(
    "settings",
    [style.library["dark_background"], style.library["seaborn-v0_8-talk"], HOSTILE],
    ids=["dark", "large", "hostile"],
)
def test_callers_style_has_no_effect(
    fleet: IsolatedMonitor, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Files are equal to the byte, whatever style, LaTeX or sketch setting is active."""
    plots.save(figures_of(fleet, (6, 3)), tmp_path / "plain")
    with mpl.rc_context(settings):
        plots.save(figures_of(fleet, (6, 3)), tmp_path / "styled")
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "styled" / file.name).read_bytes(), file.name


def test_figures_that_are_not_returned_are_freed(
    monitor: IsolatedMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not stay in memory."""
    drawn: list[weakref.ref[Figure]] = []
    save = plots.save

    def watch(figures: dict[str, Figure], folder: Path) -> None:
        drawn.extend(weakref.ref(figure) for figure in figures.values())
        save(figures, folder)

    monkeypatch.setattr(plots, "save", watch)
    assert monitor.visualize_metrics(tmp_path) is None
    gc.collect()
    assert len(drawn) >= len(SEVEN)
    assert [each() for each in drawn] == [None] * len(drawn)


def test_returned_figure_needs_no_backend(monitor: IsolatedMonitor, tmp_path: Path) -> None:
    """It can be saved in any format, and notebooks display it."""
    figure = monitor.plot_metric("generation_time")
    figure.savefig(tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_text().startswith("<?xml")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_one_metric_shows_samples_and_mean(monitor: IsolatedMonitor) -> None:
    """``plot_metric`` draws every sample and the rolling mean of its window."""
    (axes,) = monitor.plot_metric("generation_time", rolling_window=5, figsize=(4, 3)).axes
    assert len(axes.collections[0].get_offsets()) == 30
    assert axes.lines[0].get_ydata()[-1] == pytest.approx((3.9 + 3.8 + 3.7 + 3.6 + 3.5) / 5)
    assert axes.get_title(loc="left") == "Generation time"
    assert legend(axes) == ["samples", "mean of 5"]


def test_metric_without_samples_is_rejected(monitor: IsolatedMonitor) -> None:
    """An unknown metric, an empty window and an invalid window each have a remedy."""
    with pytest.raises(ExportError, match="'nope' was never recorded"):
        monitor.plot_metric("nope")
    with pytest.raises(ExportError, match="not recorded within -1 day"):
        monitor.plot_metric("generation_time", window=-timedelta(days=1))
    with pytest.raises(ConfigError, match=r"window must be a datetime\.timedelta"):
        monitor.plot_metric("generation_time", window=5)  # type: ignore[arg-type]
    for name in (None, 5, []):
        with pytest.raises(ExportError, match="was never recorded"):
            monitor.plot_metric(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [-1, 2.5, 2**31, "10", None, True])
def test_invalid_rolling_window_is_rejected(window: Any, monitor: IsolatedMonitor) -> None:
    """The message names the argument, its value and the remedy."""
    with pytest.raises(ConfigError, match=rf"rolling_window must be .*got {window!r}"):
        monitor.plot_metric("generation_time", rolling_window=window)


@pytest.mark.parametrize("size", [(0, 0), (-1, 5), (math.nan, 3), (math.inf, 3), None, "x", (5,)])
def test_invalid_size_is_rejected(
    size: Any, monitor: IsolatedMonitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``plot_metric`` raises, and ``visualize_metrics`` warns."""
    with pytest.raises(ConfigError, match="figsize must be width and height in inches"):
        monitor.plot_metric("generation_time", figsize=size)
    assert monitor.visualize_metrics(tmp_path, size) == {}
    assert "figsize must be width and height in inches" in caplog.text


def test_metric_is_found_by_its_recorded_name(monitor: IsolatedMonitor) -> None:
    """``plot_metric`` reads a name as ``record_metric`` and ``get_metrics`` do."""

    class Name(Enum):
        QUEUE = "queue"

    monitor.record_metric(Name.QUEUE, 1)  # type: ignore[arg-type]
    assert monitor.get_metrics(Name.QUEUE)["count"] == 1  # type: ignore[arg-type]
    (axes,) = monitor.plot_metric(Name.QUEUE).axes  # type: ignore[arg-type]
    assert axes.get_title(loc="left") == "queue"


def test_without_matplotlib_the_pip_command_is_named(
    monitor: IsolatedMonitor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the extra, plots log a warning with the pip command, and one plot raises."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert monitor.visualize_metrics(tmp_path) == {}
    assert 'pip install "genmeter[plots]"' in caplog.text
    with pytest.raises(MissingExtraError, match="matplotlib"):
        monitor.plot_metric("generation_time")


def test_drawing_without_matplotlib_names_the_extra() -> None:
    """The error has the remedy."""
    code = """
import sys
sys.modules["matplotlib"] = None
from genmeter.errors import MissingExtraError
from genmeter.files import plots
from genmeter.testing import isolated_monitor
with isolated_monitor() as monitor:
    monitor.track_generation(1.0, True)
    try:
        plots.draw_all(monitor._session.history.snapshot(), (6, 3))
    except MissingExtraError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert 'pip install "genmeter[plots]"' in done.stdout


def test_importing_genmeter_does_not_import_matplotlib() -> None:
    """The package starts without the dependencies of plots."""
    code = "import sys, genmeter; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_genmeter_does_not_import_pandas() -> None:
    """A job without frames does not wait half a second for pandas."""
    code = "import sys, genmeter; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
