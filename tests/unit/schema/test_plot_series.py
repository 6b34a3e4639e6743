"""The plot series: what each says, and that the history can answer it."""

from __future__ import annotations

import pytest

from genmeter.files.plots import PLOTS, UNITS
from genmeter.history.frames import to_frame
from genmeter.schema.plot_series import (
    EVALUATION_SCORE,
    GENERATION_TIME,
    PLOT_SERIES,
    TOTAL_TOKENS,
    PlotSeries,
)
from genmeter.testing import isolated_monitor


def test_ids_are_unique() -> None:
    """A series can be named by its id."""
    assert len({series.id for series in PLOT_SERIES}) == len(PLOT_SERIES)


@pytest.mark.parametrize("series", PLOT_SERIES, ids=lambda series: series.id)
def test_every_series_has_its_columns_in_the_frames(series: PlotSeries) -> None:
    """What a series is computed from is there, in a frame of at least one of its kinds."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=1)
        monitor.track_generation(1.0, True, conversation_length=2)
        monitor.track_evaluation(1.0, True, "judge", {"coherence": 0.5})
        snapshot = monitor._session.history.snapshot()
    columns = {name for kind in series.frames for name in to_frame(snapshot, kind).columns}
    stem = series.column.removesuffix("*")
    assert series.column in columns or any(name.startswith(stem) for name in columns)
    assert columns.issuperset(series.less)


@pytest.mark.parametrize("series", PLOT_SERIES, ids=lambda series: series.id)
def test_every_series_is_in_words(series: PlotSeries) -> None:
    """A title, a sentence and a unit that plots can name stand with every series."""
    assert series.title[0].isupper()
    assert series.description.endswith(".")
    assert series.unit in UNITS


def test_every_plotted_series_is_in_the_list() -> None:
    """The list of series is whole, and no plot has one of its own."""
    assert {series for plot in PLOTS for series in plot.series} <= set(PLOT_SERIES)


def test_a_series_knows_the_old_metrics_that_it_stands_for() -> None:
    """A series stands for its old name, a pattern for every name that begins so."""
    assert GENERATION_TIME.stands_for("generation_time")
    assert not GENERATION_TIME.stands_for("generation_time_of_mine")
    assert EVALUATION_SCORE.stands_for("evaluation_score_coherence")
    assert not EVALUATION_SCORE.stands_for("evaluation_time")
    assert not TOTAL_TOKENS.stands_for("total_tokens")
