"""The tables of what is open in a framework."""

from __future__ import annotations

import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

from genmeter.hooks import _tables
from genmeter.hooks._tables import OpenTable

if TYPE_CHECKING:
    import pytest


def test_the_oldest_are_dropped_for_lack_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a call of the function that ends it."""
    monkeypatch.setattr(_tables, "MAX_OPEN", 3)
    dropped: list[int] = []
    table: OpenTable[int] = OpenTable(dropped.append)
    for number in range(5):
        table.add(str(number), number)
    assert (dropped, table.values()) == ([0, 1], [2, 3, 4])
    assert (table.take("2"), table.take("2"), table.get("3")) == (2, None, 3)
    table.clear()
    assert (sorted(dropped), len(table)) == ([0, 1, 3, 4], 0)


def test_a_key_is_claimed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one of several threads, and within the bound."""
    monkeypatch.setattr(_tables, "MAX_OPEN", 50)
    table: OpenTable[object] = OpenTable()
    claimed: list[int] = []

    def claim() -> None:
        claimed.extend(number for number in range(200) if table.claim(number, object()))

    threads = [threading.Thread(target=claim, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(claimed) == set(range(200))
    assert len(table) == 50
    assert not table.claim(199, object())


def _report(table: OpenTable[Any], queue: Any) -> None:
    queue.put(len(table))


def test_what_a_parent_has_open_is_not_open_in_its_child() -> None:
    """Its end comes in the parent."""
    dropped: list[int] = []
    table: OpenTable[int] = OpenTable(dropped.append)
    table.add("a", 1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_report, args=(table, queue))
    child.start()
    assert queue.get(timeout=60) == 0
    child.join(60)
    assert (len(table), dropped) == (1, [])
