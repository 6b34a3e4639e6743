"""Windows, thinning, bins and the reach of axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.files.plotting.arithmetic import (
    edges_of,
    extremes,
    for_axis,
    limits,
    rolling,
    rolling_window,
    share_reach,
    spread,
)


@pytest.mark.parametrize(
    ("samples", "window"), [(1, 10), (500, 10), (501, 20), (1_001, 50), (100_000, 2_000)]
)
def test_a_window_is_ten_or_a_fiftieth(samples: int, window: int) -> None:
    """Few samples are averaged as by the old monitor; many in windows that can be seen."""
    assert rolling_window(samples) == window


def test_a_rolling_mean_of_few_begins_at_once() -> None:
    """Three samples have three means."""
    assert rolling(np.array([1.0, 2.0, 6.0]), 10).mean().tolist() == [1.0, 1.5, 3.0]


def test_a_rolling_mean_of_many_begins_when_it_means_something() -> None:
    """The first tenth at most has no mean, so that no line begins with noise."""
    mean = rolling(np.ones(1_000), 20).mean()
    assert mean.isna().sum() == 19


def test_a_line_keeps_its_ends_when_it_is_thinned() -> None:
    """Of many positions a thousand stay, the first and the last among them."""
    chosen = spread(np.arange(50_000))
    assert (len(chosen), chosen[0], chosen[-1]) == (1_000, 0, 49_999)
    assert spread(np.arange(7)).tolist() == list(range(7))


@given(st.integers(1, 20_000), st.integers(0, 2**32 - 1))
def test_a_jagged_line_keeps_its_peaks(length: int, seed: int) -> None:
    """Thinning leaves no extreme out, nor the ends."""
    value = np.random.default_rng(seed).normal(size=length)
    chosen = extremes(value)
    assert len(chosen) <= 1_002
    assert {0, len(value) - 1} <= set(chosen.tolist())
    assert value[chosen].min() == value.min()
    assert value[chosen].max() == value.max()
    assert (np.diff(chosen) > 0).all()


def test_values_over_decades_ask_for_a_logarithmic_axis() -> None:
    """Seconds and milliseconds are told apart on one axis; a 0 is shown as a millisecond."""
    value, is_log = for_axis(np.array([0.0, 0.01, 30.0]))
    assert is_log
    assert value.tolist() == [0.001, 0.01, 30.0]


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0, 0.0], [-1.0, 1e3], [5.0], [1.0, 1e300]])
def test_other_values_have_a_linear_axis(values: list[float]) -> None:
    """Negative values, zeros only, values of one size and absurd ones are left as they are."""
    value, is_log = for_axis(np.array(values))
    assert not is_log
    assert value.tolist() == values


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=200))
def test_every_value_is_in_a_bin(values: list[float]) -> None:
    """A histogram loses nothing, whatever it is given, and its bins are few."""
    value, is_log = for_axis(np.array(values))
    edges = edges_of(value, is_log=is_log)
    assert len(edges) <= 61
    assert np.histogram(value, edges)[0].sum() == len(values)


def test_limits_leave_room() -> None:
    """Values have room around them, also where they are all the same, or 0."""
    assert limits(0.0, 100.0) == (-5.0, 105.0)
    assert limits(2.0, 2.0) == (1.8, 2.2)
    assert limits(0.0, 0.0) == (-1.0, 1.0)


@pytest.mark.parametrize(("deviation", "reach"), [(0, 0.1), (0.05, 0.1), (0.3, 0.5), (0.8, 1)])
def test_shares_have_an_axis_of_round_length(deviation: float, reach: float) -> None:
    """A rate that hardly moves is not blown up to fill the axis."""
    assert share_reach(deviation) == reach
