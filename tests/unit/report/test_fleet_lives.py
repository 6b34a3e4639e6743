"""The lives of a counter, joined from samples."""

from __future__ import annotations

import pytest

from genmeter.report._lives import SeriesLives

SINCE = 1000.0
Sample = tuple[float, float, float | None]


def lives_of(*samples: Sample, seed: tuple[float, float | None] | None = None) -> SeriesLives:
    """Add samples of time, value and birth, after the value before the window."""
    lives = SeriesLives(SINCE)
    if seed is not None:
        lives.seed(*seed)
    for at, value, birth in samples:
        lives.add(at, value, birth)
    return lives


@pytest.mark.parametrize(
    ("samples", "seed", "increase"),
    [
        # Born in the window: from 0.
        ([(1010, 5, 1005), (1020, 9, 1005)], None, 9),
        # Going on from before.
        ([(1010, 5, 900), (1020, 9, 900)], (3, 900), 6),
        # Began before the window without a sample: its first value has no date.
        ([(1010, 5, 900), (1020, 9, 900)], None, 4),
        # A restart: a fall, or with a higher count another birth.
        ([(1010, 5, None), (1020, 2, None)], (3, None), 4),
        ([(1010, 5, 900), (1020, 7, 1015)], (3, 900), 9),
        ([(1010, 7, 1005)], (3, 900), 7),
        # A zero at the birth.
        ([(1005, 0, None), (1010, 5, None), (1015, 0, None), (1020, 9, None)], (3, None), 14),
        # A birth becomes known while the counter goes on; then it is unknown again.
        ([(1010, 5, 900), (1020, 6, None)], (3, None), 3),
        # A process of the job was born earlier, and published later.
        ([(1010, 5, 1005), (1020, 9, 1004)], None, 9),
        # Nothing new.
        ([(1010, 3, 900)], (3, 900), 0),
        ([], (3, 900), 0),
        # A fall without a restart of the process.
        ([(1010, 5, 1005), (1020, 2, 1005), (1030, 4, 1005)], None, 9),
        # Three lives in two slices' order.
        ([(1010, 1, 1001), (1020, 1, 1011), (1030, 1, 1021)], None, 3),
    ],
)
def test_the_increase_is_the_sum_of_the_lives(
    samples: list[Sample], seed: tuple[float, float | None] | None, increase: float
) -> None:
    """Nothing is extrapolated."""
    assert lives_of(*samples, seed=seed).increase() == increase


def test_a_repeated_sample_is_ignored() -> None:
    """Ranges of Prometheus 2 share their ends."""
    lives = lives_of((1010, 5, None), (1010, 5, None), (1005, 9, None), seed=(3, None))
    assert lives.increase() == 2


def test_pages_of_several_processes_in_turn_are_lives_of_their_own() -> None:
    """A birth that comes back is not a restart, also if it was taken for a corrected one."""
    lives = lives_of(
        (1010, 5, 1002),
        (1020, 7, 1001),
        (1030, 6, 1002),
        (1040, 9, 1001),
        (1050, 8, 1002),
    )
    assert lives.increase() == 9 + 8
    assert lives.alternates


def test_what_is_unknown_of_the_first_sample_is_kept() -> None:
    """The value that is not counted, and the one that may be of before."""
    assert lives_of((1010, 5, 900)).before == 5
    assert lives_of((1010, 5, None)).undated == 5
    assert lives_of((1010, 5, 1001)).undated == lives_of((1010, 5, 1001)).before == 0
    dated = SeriesLives(SINCE)
    dated.add(1010, 5, is_dated=True)
    assert (dated.undated, dated.increase()) == (0, 5)


def test_a_known_restart_needs_no_fall() -> None:
    """Another counter of the process fell."""
    lives = lives_of((1010, 5, None))
    lives.add(1020, 9, is_restart=True)
    assert lives.increase() == 14
    assert lives.ends == [(1010, 1020)]


def test_a_restart_from_a_zero_is_none() -> None:
    """The zero that a server stores at a birth has begun the life already."""
    lives = lives_of((1005, 0, None))
    lives.add(1010, 9, is_restart=True)
    assert (lives.increase(), lives.ends) == (9, [])
