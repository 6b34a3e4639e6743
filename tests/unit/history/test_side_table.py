"""The side table: free data, capped in bytes."""

from __future__ import annotations

import numpy as np

from genmeter.history.ring import Ring, SideTable


def ring(capacity: int = 4) -> Ring:
    """Make a ring of one column."""
    return Ring((("n", "q"),), capacity)


def put(table: SideTable, into: Ring, *texts: str) -> None:
    """Append a row for each text and keep the text."""
    for text in texts:
        into.append(0)
        table.put(into, text)


def cut(table: SideTable, rows: Ring) -> int:
    """Count the kept rows whose text is gone."""
    return table.cut(rows, np.arange(rows.first_serial, rows.appended))


def test_texts_are_found_by_their_rows() -> None:
    """Each text is given under its row's serial; rows without one are left out."""
    table, rows = SideTable(10_000), ring()
    put(table, rows, "a")
    rows.append(0)
    put(table, rows, "c")
    assert table.texts(rows) == {0: "a", 2: "c"}
    assert cut(table, rows) == 0


def test_two_rings_do_not_share_texts() -> None:
    """A serial belongs to its ring."""
    table, one, other = SideTable(10_000), ring(), ring()
    put(table, one, "one")
    put(table, other, "other")
    assert (table.texts(one), table.texts(other)) == ({0: "one"}, {0: "other"})


def test_a_row_that_is_overwritten_takes_its_text_along() -> None:
    """What the ring lost is not counted as cut."""
    table, rows = SideTable(10_000), ring(2)
    put(table, rows, *"abcd")
    assert table.texts(rows) == {2: "c", 3: "d"}
    assert cut(table, rows) == 0


def test_the_oldest_make_room_and_are_counted() -> None:
    """No more bytes are kept than allowed."""
    table, rows = SideTable(1_000), ring(100)
    put(table, rows, *("x" * 240 for _ in range(10)))
    assert list(table.texts(rows)) == [8, 9]
    assert cut(table, rows) == 8


def test_without_room_nothing_is_kept() -> None:
    """A cap of 0 turns the table off, and says so."""
    table, rows = SideTable(0), ring()
    put(table, rows, "a", "b")
    assert table.texts(rows) == {}
    assert cut(table, rows) == 2


def test_only_rows_that_are_kept_are_counted() -> None:
    """A row that was cut and then overwritten is no loss beside the row itself."""
    table, rows = SideTable(1_000), ring(4)
    put(table, rows, *("x" * 240 for _ in range(50)))
    assert cut(table, rows) == 2
    assert table.cut(rows, np.array([47, 48, 49])) == 1
    rows.append(0)
    assert cut(table, rows) == 1
