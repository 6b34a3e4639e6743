"""Rates from differences of counters."""

from __future__ import annotations

import pytest
from _live import status

from genmeter.cli.live.rates import RateMeter, Rates


def meter(*totals: tuple[float, int] | tuple[float, int, str]) -> RateMeter:
    """A meter of times, calls, and the life of the counters."""
    created = RateMeter()
    for at, calls, *instance in totals:
        created.add(at, status(calls, samples=calls, instance=(*instance, "one")[0]))
    return created


def test_rates_are_the_difference_over_the_last_seconds() -> None:
    """Calls and tokens of 10 s, samples of a minute."""
    steady = [(2.0 * step, 10 * step + (400 if step == 30 else 0)) for step in range(4, 31)]
    rates = meter(*steady).rates()
    assert rates.calls == pytest.approx((50 + 400) / 10)
    assert rates.tokens == pytest.approx(120 * (50 + 400) / 10)
    assert rates.samples == pytest.approx((260 + 400) / 52)


def test_one_reading_has_no_rate() -> None:
    """A rate needs two."""
    assert meter().rates() == meter((0.0, 100)).rates() == Rates()


def test_an_interval_longer_than_the_window_has_the_rate_of_the_interval() -> None:
    """Such as two readings in ten minutes."""
    assert meter((0.0, 100), (600.0, 700), (1200.0, 1900)).rates().calls == 2.0


@pytest.mark.parametrize("after", [("one",), ("two",)])
def test_a_restart_has_no_rate_until_its_second_reading(after: tuple[str]) -> None:
    """Neither a negative one, nor the whole total in one interval."""
    before: list[tuple[float, int, str]] = [(0.0, 900, "one"), (2.0, 1000, "one")]
    assert meter(*before, (4.0, 50, *after)).rates() == Rates()
    assert meter(*before, (4.0, 50, *after), (6.0, 70, *after)).rates().calls == 10.0


def test_a_restarted_job_that_is_beyond_its_last_total_has_no_absurd_rate() -> None:
    """Another instance begins again, though its counters did not fall."""
    assert meter((0.0, 10, "one"), (2.0, 500, "two")).rates() == Rates()


def test_a_part_that_is_missing_for_a_moment_is_no_rate() -> None:
    """A page without one of its processes drops, and rises when the process is back."""
    found = meter((0.0, 1000), (2.0, 1020), (4.0, 300), (6.0, 1060))
    assert found.rates() == Rates()
    found.add(8.0, status(1080, samples=1080))
    assert found.rates().calls == 10.0


def test_a_restarted_job_passes_its_former_total_without_a_gap() -> None:
    """Half a minute after the drop, nothing of it returns."""
    found = meter((0.0, 100), (2.0, 4), (20.0, 40), (40.0, 80), (50.0, 100), (60.0, 120))
    assert found.rates().calls == 2.0


def test_readings_of_the_same_time_are_one() -> None:
    """Prometheus has the same sample until its next scrape."""
    found = meter((0.0, 100), (15.0, 400), (15.0, 400), (15.0, 400))
    assert found.rates().calls == 20.0


def test_resets_of_the_last_minute_are_counted() -> None:
    """One of several processes answers each time."""
    found = meter(*[(2.0 * at, 100 + at, ("a", "b")[at % 2]) for at in range(6)])
    assert found.resets == 5
    assert found.rates() == Rates()
    found.add(100.0, status(200, samples=200, instance="b"))
    assert found.resets == 0


def test_the_time_left_is_that_of_the_samples_missing() -> None:
    """Unknown without a rate, 0 beyond the expected number."""
    assert Rates(samples=2.0).seconds_left(status(samples=40, expected=100)) == 30.0
    assert Rates(samples=2.0).seconds_left(status(samples=140, expected=100)) == 0.0
    assert Rates(samples=0.0).seconds_left(status()) is None
    assert Rates().seconds_left(status()) is None
    assert Rates(samples=2.0).seconds_left(status(expected=None)) is None


def test_the_sum_of_rates_is_that_of_the_known_ones() -> None:
    """A source that does not answer has none."""
    assert Rates.sum([Rates(1.0, 2.0), Rates(), Rates(3.0, 4.0, 5.0)]) == Rates(4.0, 6.0, 5.0)
    assert Rates.sum([Rates()]) == Rates()
