"""Cells: sums by label set that go to the SDK once a batch, and never out of range."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the double's own signature

import pytest
from opentelemetry.context import Context  # noqa: TC002 - the double's own signature

from genmeter.events import Reason
from genmeter.recorders.cells import OVERFLOW, Batch, LabelSets


class Counter:
    """A counter that writes down what it was told."""

    def __init__(self) -> None:
        self.added: list[tuple[float, dict[str, str]]] = []

    def add(
        self,
        amount: float,
        attributes: Mapping[str, str] | None = None,
        context: Context | None = None,
    ) -> None:
        """Write it down."""
        self.added.append((amount, dict(attributes or {})))


@pytest.fixture
def counter() -> Counter:
    """Return a counter."""
    return Counter()


@pytest.fixture
def left_out() -> list[tuple[Reason, str, object]]:
    """Return the list of what was left out."""
    return []


@pytest.fixture
def batch(counter: Counter, left_out: list[tuple[Reason, str, object]]) -> Batch:
    """Return a batch that knows the counter as ``calls``."""
    made = Batch(3, lambda *what: left_out.append(what))
    made.register("calls", counter)
    return made


def test_a_batch_adds_each_label_sets_sum_once(batch: Batch, counter: Counter) -> None:
    """A thousand additions are one call of the SDK."""
    one, other = batch.cell("calls", {"m": "a"}), batch.cell("calls", {"m": "b"})
    for _ in range(1_000):
        one.add(2)
    other.add(5)
    assert counter.added == []
    batch.flush()
    assert counter.added == [(2_000, {"m": "a"}), (5, {"m": "b"})]


def test_what_was_flushed_is_not_added_again(batch: Batch, counter: Counter) -> None:
    """A flush with nothing new adds nothing, a later one only what is new."""
    cell = batch.cell("calls", {})
    cell.add(1)
    batch.flush()
    batch.flush()
    cell.add(2)
    batch.flush()
    assert [amount for amount, _ in counter.added] == [1, 2]


def test_nothing_makes_a_series_known_at_0(batch: Batch, counter: Counter) -> None:
    """Adding 0 is told to the SDK, so that rates see the first increase."""
    batch.cell("calls", {"m": "a"}).add(0)
    batch.flush()
    assert counter.added == [(0, {"m": "a"})]


def test_a_sum_stays_within_64_bits(
    batch: Batch, counter: Counter, left_out: list[tuple[Reason, str, object]]
) -> None:
    """An integer sum past 2**63 - 1, over all label sets, is left out and told."""
    for label in "ab":
        batch.cell("calls", {"m": label}).add(2**62)
    batch.cell("calls", {"m": "c"}).add(5)
    batch.flush()
    assert counter.added == [(2**62, {"m": "a"}), (5, {"m": "c"})]
    assert left_out == [(Reason.OVERFLOW, "calls", 2**62)]


@pytest.mark.parametrize("amount", [1e308, float("inf"), float("nan")])
def test_a_sum_stays_finite(
    batch: Batch, counter: Counter, left_out: list[tuple[Reason, str, object]], amount: float
) -> None:
    """What would make a float sum infinite, or no number, is left out and told."""
    cell = batch.cell("calls", {})
    cell.add(1e307)
    batch.flush()
    cell.add(amount)
    batch.flush()
    cell.add(2.0)
    batch.flush()
    assert [each for each, _ in counter.added] == [1e307, 2.0]
    assert [reason for reason, *_ in left_out] == [Reason.OVERFLOW]


def test_what_is_taken_away_counts_towards_the_bound(
    batch: Batch, left_out: list[tuple[Reason, str, object]]
) -> None:
    """Sums that go up and down cannot leave the range on either side."""
    cell = batch.cell("calls", {})
    for amount in (-(2**62), 2**62):
        cell.add(amount)
        batch.flush()
    assert [reason for reason, *_ in left_out] == [Reason.OVERFLOW]


def test_label_sets_past_the_limit_share_one(batch: Batch, counter: Counter) -> None:
    """Without a cap of ours an SDK before 1.45.2 keeps every label set for ever."""
    for number in range(10):
        batch.cell("calls", {"m": str(number)}).add(1)
    batch.cell("calls", {"m": "0"}).add(1)
    batch.flush()
    expected = [
        (2, {"m": "0"}),
        (1, {"m": "1"}),
        (1, {"m": "2"}),
        (7, {"otel.metric.overflow": True}),
    ]
    assert counter.added == expected


def test_a_histograms_label_sets_have_a_limit_too() -> None:
    """Each instrument has its own count, and a known set stays known."""
    sets = LabelSets(1)
    first = sets.admit("a", {"m": "x"})
    assert sets.admit("a", {"m": "x"}) is first
    assert sets.admit("a", {"m": "y"}) is OVERFLOW
    assert sets.admit("b", {"m": "y"}) == {"m": "y"}
