"""The table of plot series fits the history's frames and the plots."""

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


@pytest.mark.parametrize("series", PLOT_SERIES, ids=lambda series: series.title)
def test_every_series_has_columns_in_a_frame(series: PlotSeries) -> None:
    """A frame of at least one of its kinds has the columns that a series is computed from."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=1)
        monitor.track_generation(1.0, True, conversation_length=2)
        monitor.track_evaluation(1.0, True, "judge", {"coherence": 0.5})
        snapshot = monitor._session.history.snapshot()
    columns = {name for kind in series.frames for name in to_frame(snapshot, kind).columns}
    stem = series.column.removesuffix("*")
    assert series.column in columns or any(name.startswith(stem) for name in columns)
    assert columns.issuperset(series.less)


@pytest.mark.parametrize("series", PLOT_SERIES, ids=lambda series: series.title)
def test_every_series_has_a_title_and_a_known_unit(series: PlotSeries) -> None:
    """Plots can label every series and its axis."""
    assert series.title[0].isupper()
    assert series.unit in UNITS


def test_plots_use_series_of_the_table_only() -> None:
    """No plot defines a series outside the table."""
    assert {series for plot in PLOTS for series in plot.series} <= set(PLOT_SERIES)


def test_series_match_the_names_of_afterimage_metrics() -> None:
    """A series matches the name that it replaces; a pattern matches every name with its prefix."""
    assert GENERATION_TIME.stands_for("generation_time")
    assert not GENERATION_TIME.stands_for("generation_time_of_mine")
    assert EVALUATION_SCORE.stands_for("evaluation_score_coherence")
    assert not EVALUATION_SCORE.stands_for("evaluation_time")
    assert not TOTAL_TOKENS.stands_for("total_tokens")
