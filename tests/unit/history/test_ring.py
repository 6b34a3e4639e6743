"""The ring: the last rows, in columns, in a memory that never grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genmeter.history.ring import Ring

COLUMNS = (("time", "d"), ("count", "q"), ("name", "H"))


def filled(capacity: int, rows: int) -> Ring:
    """Make a ring and append numbered rows."""
    ring = Ring(COLUMNS, capacity)
    for number in range(rows):
        ring.append(number / 2, number, number % 7)
    return ring


def in_order(ring: Ring, name: str) -> list[Any]:
    """Give a column from the oldest row to the newest."""
    (column,) = ring.columns(name)
    return list(column[ring.in_order()])


@pytest.mark.parametrize("capacity", [1, 2, 3, 1_000, 1_024, 1_500, 5_000])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1_023, 1_024, 1_025, 2_048, 3_333, 10_000])
def test_a_ring_keeps_exactly_its_last_rows(capacity: int, rows: int) -> None:
    """Whatever the capacity and the number of rows, the newest are kept, in their order."""
    ring = filled(capacity, rows)
    kept = list(range(max(0, rows - capacity), rows))
    assert ring.size == len(kept)
    assert ring.appended == rows
    assert in_order(ring, "count") == kept
    assert in_order(ring, "time") == [number / 2 for number in kept]
    assert in_order(ring, "name") == [number % 7 for number in kept]


def test_reading_between_appends_changes_nothing() -> None:
    """A ring that is read after every row keeps the same rows as one that is read once."""
    ring = Ring(COLUMNS, 5)
    for number in range(23):
        ring.append(0.0, number, 0)
        assert in_order(ring, "count") == list(range(max(0, number - 4), number + 1))


def test_values_keep_their_precision() -> None:
    """64-bit counts and times come back as they were given."""
    ring = Ring(COLUMNS, 2)
    ring.append(1_700_000_000.123456, 2**63 - 1, 65_535)
    time, count, name = ring.columns("time", "count", "name")
    assert (time[0], count[0], name[0]) == (1_700_000_000.123456, 2**63 - 1, 65_535)
    assert (count.dtype, name.dtype) == (np.int64, np.uint16)


def test_a_ring_tells_its_size() -> None:
    """Its text names rows and capacity."""
    ring = filled(4, 9)
    assert repr(ring) == "<Ring of 4 rows, at most 4>"
