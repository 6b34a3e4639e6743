"""Sums by the minute: whole minutes, whatever the clock does, and never more than three days."""

from __future__ import annotations

import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.history.store import MOST, Minute, Minutes

MINUTE = 60.0


def minutes(*times: float) -> Minutes:
    """Make sums of a failed call of 2 tokens and 0.5 USD at each time."""
    made = Minutes()
    for time in times:
        made.add(time, 1, 1, 2, 0.5)
    return made


def test_nothing_adds_up_to_nothing() -> None:
    """Before the first call every sum is 0."""
    assert Minutes().total(0.0) == Minute(0, 0, 0, 0.0)


def test_each_sum_is_of_its_own_argument() -> None:
    """Calls, failures, tokens and cost do not mix, and what did not fail succeeded."""
    made = Minutes()
    made.add(1.0, 1, 0, 10, 0.25)
    made.add(2.0, 1, 1, 0, 0.0)
    made.add(3.0, 0, 0, 5, 0.5)
    assert made.total(0.0) == Minute(2, 1, 15, 0.75)
    assert made.total(0.0).successes == 1


@pytest.mark.parametrize(
    ("since", "calls"), [(0.0, 4), (59.0, 4), (60.0, 3), (61.0, 3), (119.999, 3), (120.0, 1)]
)
def test_the_minute_that_a_window_begins_in_counts_whole(since: float, calls: int) -> None:
    """What was told before the window, but in its first minute, is in the sum."""
    assert minutes(59.0, 60.0, 119.0, 120.0).total(since).calls == calls


def test_counts_are_exact_however_large() -> None:
    """Tokens are summed as whole numbers, past what a float holds."""
    made = Minutes()
    for second in range(3):
        made.add(40.0 * second, 1, 0, 2**53 + 1, 0.0)
    assert made.total(0.0).tokens == 3 * 2**53 + 3


def test_a_clock_that_is_set_back_moves_nothing() -> None:
    """What comes after counts for its own time, also where that had calls before."""
    made = minutes(1_000.0, 5_000.0, 1_010.0)
    assert made.total(4_900.0).calls == 1
    assert made.total(900.0).calls == 3


def test_a_clock_that_is_set_forward_and_back_loses_nothing() -> None:
    """A year ahead by mistake does not cost the days before."""
    made = minutes(1_000.0, 1_000.0 + 366 * 86_400.0, 1_100.0)
    assert made.total(900.0).calls == 3


def test_three_days_are_kept_and_no_more() -> None:
    """A window of three days is whole, and earlier minutes make room."""
    made = minutes(*(MINUTE * number for number in range(MOST + 10)))
    now = MINUTE * (MOST + 10)
    assert made.total(now - 3 * 86_400.0).calls == MOST - 1
    assert made.total(0.0).calls == MOST


def test_quiet_days_take_no_room() -> None:
    """Only minutes with calls count against the limit."""
    made = minutes(*(3_600.0 * number for number in range(MOST)))
    assert made.total(0.0).calls == MOST


def test_the_minutes_of_a_long_job_take_little_memory() -> None:
    """However long a job runs, and however its clock is set, the memory has a bound."""
    tracemalloc.start()
    try:
        made = Minutes()
        for number in range(5 * MOST):
            made.add(MINUTE * (number % (3 * MOST)), 1, 0, 10**9, 0.5)
            made.add(MINUTE * number, 1, 0, 10**9, 0.5)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * 2**20


@given(
    st.lists(st.tuples(st.floats(0, 20_000), st.booleans(), st.integers(0, 2**60)), max_size=60),
    st.floats(-100, 20_100),
)
def test_any_order_of_times_gives_the_plain_sums(
    told: list[tuple[float, bool, int]], since: float
) -> None:
    """Jumps back and forth in time change nothing: each call counts for the minute it lies in."""
    made = Minutes()
    for time, failed, tokens in told:
        made.add(time, 1, failed, tokens, 0.25)
    counted = [each for each in told if math.floor(each[0] / MINUTE) * MINUTE + MINUTE > since]
    assert made.total(since) == Minute(
        len(counted),
        sum(failed for _, failed, _ in counted),
        sum(tokens for _, _, tokens in counted),
        0.25 * len(counted),
    )
