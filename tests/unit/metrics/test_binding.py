"""Cells of instruments of the built-in meter, and adapters for those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _meters import points, provider, span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from genmeter.metrics.binding import NO_SPAN, OVERFLOW, cells_of, context_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context


class Instrument:
    """An instrument of another provider that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, dict[str, Any], Context | None]] = []

    def add(
        self,
        amount: float,
        attributes: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Record the call."""
        self.calls.append((amount, dict(attributes or {}), context))

    record = add

    @property
    def amounts(self) -> list[float]:
        """The recorded amounts."""
        return [amount for amount, *_ in self.calls]


@pytest.fixture
def instrument() -> Instrument:
    """Return an instrument."""
    return Instrument()


# --- cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["create_counter", "create_up_down_counter", "create_histogram"])
def test_builtin_instrument_needs_no_adapter(name: str) -> None:
    """The recorder changes its sums directly."""
    made = provider()
    own = getattr(made.get_meter("test"), name)("n")
    cells = cells_of(own, 3)
    assert cells is own
    cell = cells.cell({"m": "a"}, 5.0)
    assert cell is cells.cell({"m": "a"}, 9.0)
    assert (cell.record(1.0, 5.0, None) if "histogram" in name else cell.add(1)) is True
    assert list(points(made.collect(), "n")) == [("a",)]


def test_foreign_cell_records_at_once_with_its_labels(instrument: Instrument) -> None:
    """Each amount reaches the other provider with the labels of its cell, and without a span."""
    cells = cells_of(instrument, 3)
    one, other = cells.cell({"m": "a"}, 5.0), cells.cell({"m": "b"}, 5.0)
    for amount in (1, 2):
        assert one.add(amount)
    assert other.add(5)
    assert instrument.calls == [
        (1, {"m": "a"}, NO_SPAN),
        (2, {"m": "a"}, NO_SPAN),
        (5, {"m": "b"}, NO_SPAN),
    ]


def test_adding_0_exposes_a_series_at_0(instrument: Instrument) -> None:
    """An addition of 0 is passed on, so that rates include the first increase."""
    assert cells_of(instrument, 3).cell({"m": "a"}, 5.0).add(0)
    assert instrument.amounts == [0]


# --- sums stay in range -------------------------------------------------------------------------


def test_foreign_sum_stays_within_64_bits(instrument: Instrument) -> None:
    """An integer sum past 2**63 - 1, over all label sets, is rejected; the next amount is not."""
    cells = cells_of(instrument, 10)
    assert cells.cell({"m": "a"}, 5.0).add(2**62)
    assert not cells.cell({"m": "b"}, 5.0).add(2**62)
    assert cells.cell({"m": "c"}, 5.0).add(5)
    assert instrument.amounts == [2**62, 5]


@pytest.mark.parametrize("method", ["add", "record"])
@pytest.mark.parametrize("amount", [1e308, float("inf"), float("nan")])
def test_foreign_sum_stays_finite(instrument: Instrument, amount: float, method: str) -> None:
    """An amount that would make a float sum infinite or NaN is rejected."""
    cell = cells_of(instrument, 3).cell({}, 5.0)

    def put(value: float) -> bool:
        return bool(cell.add(value) if method == "add" else cell.record(value, 5.0, None))

    assert [put(value) for value in (1e307, amount, 2.0)] == [True, False, True]
    assert instrument.amounts == [1e307, 2.0]


def test_negative_amounts_count_towards_the_bound(instrument: Instrument) -> None:
    """An up-down sum stays in range on both sides."""
    cell = cells_of(instrument, 3).cell({}, 5.0)
    assert cell.add(-(2**62))
    assert not cell.add(2**62)
    assert instrument.amounts == [-(2**62)]


# --- label sets are bounded ---------------------------------------------------------------------


def test_foreign_label_sets_past_the_limit_overflow(instrument: Instrument) -> None:
    """Without this limit an SDK before 1.45.2 would keep every label set forever."""
    cells = cells_of(instrument, 3)
    for number in range(10):
        cells.cell({"m": str(number)}, 5.0).add(1)
    cells.cell({"m": "0"}, 5.0).add(1)
    found: dict[Any, float] = {}
    for amount, labels, _ in instrument.calls:
        key = tuple(labels.items())
        found[key] = found.get(key, 0) + amount
    assert found == {
        (("m", "0"),): 2,
        (("m", "1"),): 1,
        (("m", "2"),): 1,
        tuple(OVERFLOW.items()): 7,
    }


def test_each_foreign_instrument_has_its_own_limit(instrument: Instrument) -> None:
    """A known label set keeps its cell after the limit is reached."""
    cells, others = cells_of(instrument, 1), cells_of(Instrument(), 1)
    first = cells.cell({"m": "x"}, 5.0)
    assert cells.cell({"m": "x"}, 5.0) is first
    assert cells.cell({"m": "y"}, 5.0).attributes is OVERFLOW
    assert cells.cell({"m": "z"}, 5.0) is cells.cell({"m": "y"}, 5.0)
    assert others.cell({"m": "y"}, 5.0).attributes == {"m": "y"}


# --- spans --------------------------------------------------------------------------------------


def test_context_contains_only_the_span() -> None:
    """Without a span it is a context that the SDK does not replace by the current one."""
    made = span(5)
    assert get_current_span(context_of(made)).get_span_context() is made
    assert len(context_of(made)) == 1
    assert context_of(None) is NO_SPAN
    assert len(NO_SPAN) == 1


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    """Return a reader of the SDK."""
    made = InMemoryMetricReader()
    yield made
    made.shutdown()


def test_sdk_exemplar_names_the_span_of_the_event(reader: InMemoryMetricReader) -> None:
    """It is not the span of the draining thread."""
    sdk = MeterProvider([reader], shutdown_on_exit=False)
    histogram = sdk.get_meter("test").create_histogram("n")
    cell = cells_of(histogram, 3).cell({"m": "a"}, 5.0)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("of the drain"):
        assert cell.record(1.0, 5.0, span(7))
        assert cell.record(700.0, 5.0, None)
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = points(data, "n").values()
    assert [each.span_id for each in point.exemplars] == [7]
    assert point.count == 2
