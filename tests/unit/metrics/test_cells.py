"""Cells: ranges, starts, exemplars and immutable points."""

from __future__ import annotations

import math
from typing import Any

import pytest
from _meters import span

from genmeter.metrics._cells import (
    MAX_FLOAT,
    MAX_INT,
    START_MARGIN_NS,
    GaugeCell,
    HistogramCell,
    SumCell,
    start_ns,
)

BOUNDS = (1.0, 2.0, 4.0)


def test_series_starts_a_second_before_its_first_event() -> None:
    """A sample dated at the start of the scrape is never older than its series."""
    assert start_ns(1_000.5) == 1_000_500_000_000 - START_MARGIN_NS == 999_500_000_000


def test_start_is_not_before_the_epoch() -> None:
    """OTLP's times are unsigned."""
    assert start_ns(0.25) == 0


def test_sum_keeps_the_type_of_its_amounts() -> None:
    """Integers stay integers until a float is added."""
    cell = SumCell({}, 1)
    assert cell.add(2)
    assert cell.add(3)
    assert (cell.value, type(cell.value)) == (5, int)
    assert cell.add(0.5)
    assert (cell.value, type(cell.value)) == (5.5, float)


@pytest.mark.parametrize(
    ("before", "amount"),
    [
        (MAX_INT, 1),
        (-MAX_INT, -1),
        (0, 2**63),
        (0.5, 10**400),
        (1e308, 1e307),
        (-1e308, -1e307),
        (0, math.inf),
        (0, -math.inf),
        (0, math.nan),
    ],
)
def test_sum_rejects_amounts_that_leave_the_range(before: float, amount: float) -> None:
    """One sum past 64 bits fails every later push, one infinite sum every later scrape."""
    cell = SumCell({}, 1)
    cell.value = before
    assert not cell.add(amount)
    assert not cell.add(amount, 1.0, span(1))
    assert cell.value == before
    assert cell.exemplar is None


@pytest.mark.parametrize("end", [MAX_INT, -MAX_INT, MAX_FLOAT, -MAX_FLOAT], ids=str)
def test_ends_of_the_ranges_are_valid(end: float) -> None:
    """The largest integer of OTLP, and the largest float that is a finite sum on every page."""
    total, gauge = SumCell({}, 1), GaugeCell({}, 1)
    assert total.add(end)
    assert total.value == end
    assert gauge.set(end)
    assert gauge.value == end
    histogram = HistogramCell({}, 1, BOUNDS)
    assert histogram.record(end, 1.0, None)
    assert histogram.sum == end


def test_value_equal_to_a_bound_is_in_its_bucket() -> None:
    """Upper bounds are inclusive, as in Prometheus."""
    cell = HistogramCell({"a": "b"}, 7, BOUNDS)
    for value in (0, 1, 1.5, 2, 4, 4.5):
        assert cell.record(value, 1.0, None)
    point = cell.point(9, exemplars=True)
    assert point is not None
    assert (point.bucket_counts, point.count, point.sum) == ((2, 2, 1, 1), 6, 13.0)
    assert (point.min, point.max) == (0, 4.5)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (7, 9)
    assert point.explicit_bounds == BOUNDS


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e308, 10**400])
def test_histogram_rejects_values_that_make_the_sum_infinite(value: float) -> None:
    """Sum, buckets and exemplars do not change."""
    cell = HistogramCell({}, 1, BOUNDS)
    cell.record(1e307, 1.0, None)
    assert not cell.record(value, 1.0, span(1))
    point = cell.point(2, exemplars=True)
    assert point is not None
    assert (point.sum, point.count, point.max, point.exemplars) == (1e307, 1, 1e307, [])


def test_histogram_without_values_has_no_point() -> None:
    """It has no minimum yet."""
    assert HistogramCell({}, 1, BOUNDS).point(2, exemplars=True) is None


def test_returned_point_does_not_change() -> None:
    """A reader gets a copy."""
    cell = HistogramCell({}, 1, BOUNDS)
    cell.record(1, 1.0, span(1))
    before = cell.point(2, exemplars=True)
    copied = repr(before)
    cell.record(1, 2.0, span(2))
    assert repr(before) == copied


def test_histogram_keeps_the_last_exemplar_of_each_bucket() -> None:
    """They are in the order of the buckets, and every reader sees them."""
    cell = HistogramCell({}, 1, BOUNDS)
    for value, number in ((9, 1), (0.5, 2), (0.25, 3)):
        cell.record(value, float(number), span(number))
    cell.record(0.75, 4.0, None)
    seen = [read_exemplars(cell) for _ in range(2)]
    assert seen == [[(0.25, 3, 3_000_000_000), (9, 1, 1_000_000_000)]] * 2


def test_sums_and_gauges_keep_the_last_sampled_exemplar() -> None:
    """A later change outside of any span keeps it."""
    total, gauge = SumCell({}, 1), GaugeCell({}, 1)
    for number in (1, 2):
        assert total.add(number, float(number), span(number))
        assert gauge.set(number, float(number), span(number))
    total.add(5)
    gauge.set(5)
    for cell in (total, gauge):
        assert [read_exemplars(cell) for _ in range(2)] == [[(2, 2, 2_000_000_000)]] * 2


def test_exemplars_can_be_turned_off() -> None:
    """No point has any then."""
    total, gauge, histogram = SumCell({}, 1), GaugeCell({}, 1), HistogramCell({}, 1, BOUNDS)
    total.add(1, 1.0, span(1))
    gauge.set(1, 1.0, span(1))
    histogram.record(1, 1.0, span(1))
    for cell in (total, gauge, histogram):
        assert len(read_exemplars(cell)) == 1
        point = cell.point(2, exemplars=False)
        assert point is not None
        assert point.exemplars == []


def test_exemplar_leads_to_its_trace() -> None:
    """It has the ids of the span, and no attributes, as the SDK's without filtered ones."""
    total = SumCell({}, 1)
    total.add(1, 1.5, span(7))
    (exemplar,) = total.point(2, exemplars=True).exemplars
    assert (exemplar.trace_id, exemplar.span_id) == (span(7).trace_id, span(7).span_id)
    assert exemplar.filtered_attributes == {}
    assert exemplar.time_unix_nano == 1_500_000_000


@pytest.mark.parametrize("value", [math.inf, math.nan, 2**63, -(2**63) - 1])
def test_gauge_rejects_values_out_of_range(value: float) -> None:
    """It keeps the previous value."""
    gauge = GaugeCell({}, 1)
    assert gauge.point(2, exemplars=True) is None
    assert gauge.set(3)
    assert not gauge.set(value)
    assert not gauge.set(value, 1.0, span(1))
    point = gauge.point(2, exemplars=True)
    assert point is not None
    assert (point.value, point.exemplars) == (3, [])


def read_exemplars(cell: Any) -> list[tuple[float, int, int]]:
    """Return value, span and time of each exemplar."""
    return [
        (each.value, each.span_id, each.time_unix_nano)
        for each in cell.point(9, exemplars=True).exemplars
    ]
