"""The signals: what each says, and that the history can answer it."""

from __future__ import annotations

import pytest

from genmeter.files.plots import PLOTS, UNITS
from genmeter.history.frames import to_frame
from genmeter.schema.signals import EVALUATION_SCORE, GENERATION_TIME, SIGNALS, TOTAL_TOKENS, Signal
from genmeter.testing import isolated_monitor


def test_ids_are_unique() -> None:
    """A signal can be named by its id."""
    assert len({signal.id for signal in SIGNALS}) == len(SIGNALS)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.id)
def test_every_signal_has_its_columns_in_the_frames(signal: Signal) -> None:
    """What a signal is computed from is there, in a frame of at least one of its kinds."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=1)
        monitor.track_generation(1.0, True, conversation_length=2)
        monitor.track_evaluation(1.0, True, "judge", {"coherence": 0.5})
        snapshot = monitor._session.history.snapshot()
    columns = {name for kind in signal.frames for name in to_frame(snapshot, kind).columns}
    stem = signal.column.removesuffix("*")
    assert signal.column in columns or any(name.startswith(stem) for name in columns)
    assert columns.issuperset(signal.less)


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.id)
def test_every_signal_is_in_words(signal: Signal) -> None:
    """A title, a sentence and a unit that plots can name stand with every signal."""
    assert signal.title[0].isupper()
    assert signal.description.endswith(".")
    assert signal.unit in UNITS


def test_every_plotted_signal_is_in_the_list() -> None:
    """The list of signals is whole, and no plot has one of its own."""
    assert {signal for plot in PLOTS for signal in plot.signals} <= set(SIGNALS)


def test_a_signal_knows_the_old_metrics_that_it_stands_for() -> None:
    """A signal stands for its old name, a pattern for every name that begins so."""
    assert GENERATION_TIME.stands_for("generation_time")
    assert not GENERATION_TIME.stands_for("generation_time_of_mine")
    assert EVALUATION_SCORE.stands_for("evaluation_score_coherence")
    assert not EVALUATION_SCORE.stands_for("evaluation_time")
    assert not TOTAL_TOKENS.stands_for("total_tokens")
