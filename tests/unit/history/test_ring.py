"""The ring: the last rows, in columns of constant memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.history.ring import MetadataStore, Ring, kept_since

COLUMNS = (("time", "d"), ("count", "q"), ("name", "H"))


def filled(capacity: int, rows: int) -> Ring:
    """Create a ring and append numbered rows."""
    ring = Ring(COLUMNS, capacity)
    for number in range(rows):
        ring.append(number / 2, number, number % 7)
    return ring


def in_order(ring: Ring, name: str) -> list[Any]:
    """Return a column, oldest row first."""
    (column,) = ring.columns(name)
    return list(column[ring.in_order()])


@pytest.mark.parametrize("capacity", [1, 2, 3, 1_000, 1_024, 1_500, 5_000])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1_023, 1_024, 1_025, 2_048, 3_333, 10_000])
def test_ring_keeps_its_last_rows(capacity: int, rows: int) -> None:
    """For any capacity and number of rows the newest are kept in order."""
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
    """64-bit counts and times are returned unchanged."""
    ring = Ring(COLUMNS, 2)
    ring.append(1_700_000_000.123456, 2**63 - 1, 65_535)
    time, count, name = ring.columns("time", "count", "name")
    assert (time[0], count[0], name[0]) == (1_700_000_000.123456, 2**63 - 1, 65_535)
    assert (count.dtype, name.dtype) == (np.int64, np.uint16)


def test_repr_shows_size_and_capacity() -> None:
    """The text has the number of rows and the capacity."""
    ring = filled(4, 9)
    assert repr(ring) == "<Ring of 4 rows, at most 4>"


# --- metadata of rows -----------------------------------------------------------------------------


def one_column(capacity: int = 4) -> Ring:
    """Create a ring with one column."""
    return Ring((("time", "q"),), capacity)


def put(table: MetadataStore, into: Ring, *texts: str) -> None:
    """Append a row for each text and store the text."""
    for text in texts:
        into.append(0)
        table.put(into, text)


def cut(table: MetadataStore, rows: Ring) -> int:
    """Count the kept rows whose text was dropped."""
    return table.cut(rows, np.arange(rows.first_serial, rows.appended))


def test_texts_are_found_by_serial() -> None:
    """A row without a text is absent."""
    table, rows = MetadataStore(10_000), one_column()
    put(table, rows, "a")
    rows.append(0)
    put(table, rows, "c")
    assert table.texts(rows) == {0: "a", 2: "c"}
    assert cut(table, rows) == 0


def test_rings_do_not_share_texts() -> None:
    """A serial belongs to its ring."""
    table, one, other = MetadataStore(10_000), one_column(), one_column()
    put(table, one, "one")
    put(table, other, "other")
    assert (table.texts(one), table.texts(other)) == ({0: "one"}, {0: "other"})


def test_text_of_an_overwritten_row_is_dropped() -> None:
    """It does not count as cut."""
    table, rows = MetadataStore(10_000), one_column(2)
    put(table, rows, *"abcd")
    assert table.texts(rows) == {2: "c", 3: "d"}
    assert cut(table, rows) == 0


def test_oldest_texts_are_dropped_and_counted() -> None:
    """The store never exceeds its limit."""
    table, rows = MetadataStore(1_000), one_column(100)
    put(table, rows, *("x" * 240 for _ in range(10)))
    assert list(table.texts(rows)) == [8, 9]
    assert cut(table, rows) == 8


def test_without_room_nothing_is_kept() -> None:
    """With a limit of 0 every text counts as cut."""
    table, rows = MetadataStore(0), one_column()
    put(table, rows, "a", "b")
    assert table.texts(rows) == {}
    assert cut(table, rows) == 2


def test_only_kept_rows_count_as_cut() -> None:
    """A row that was cut and then overwritten does not count."""
    table, rows = MetadataStore(1_000), one_column(4)
    put(table, rows, *("x" * 240 for _ in range(50)))
    assert cut(table, rows) == 2
    assert table.cut(rows, np.array([47, 48, 49])) == 1
    rows.append(0)
    assert cut(table, rows) == 1


@given(
    times=st.lists(st.integers(0, 9), max_size=30),
    capacity=st.integers(1, 8),
    since=st.none() | st.integers(-1, 10),
    reads=st.sets(st.integers(0, 29)),
)
def test_window_is_complete_only_if_no_row_of_it_was_overwritten(
    times: list[int], capacity: int, since: int | None, reads: set[int]
) -> None:
    """Whatever the order of the times: a clock may be set back, and rows may have equal times."""
    rows = Ring((("time", "d"),), capacity)
    for number, time in enumerate(times):
        rows.append(float(time))
        if number in reads:  # moves the buffered rows
            rows.columns("time")
    lost, kept = times[: len(times) - capacity] if len(times) > capacity else [], times[-capacity:]
    found = kept_since(rows, since)
    is_complete = all(since is not None and time < since for time in lost)
    assert (found is None) == is_complete
    if found is not None:
        assert all(time < found for time in lost)
        assert not any(max(lost) < time < found for time in kept)
