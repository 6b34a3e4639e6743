"""Cells for the instruments of any meter provider.

The recorder creates its instruments with the OpenTelemetry API and looks up a cell for each label
set. Instruments of the built-in provider have cells; those of another provider get adapters that
call the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from genmeter.metrics._cells import MAX_FLOAT, MAX_INT, HistogramCell, SumCell
from genmeter.metrics._instruments import CellInstrument

if TYPE_CHECKING:
    from collections.abc import Hashable

    from opentelemetry.trace import SpanContext

__all__ = [
    "NO_SPAN",
    "OVERFLOW",
    "Attributes",
    "BoundHistogram",
    "BoundSum",
    "Cells",
    "cells_of",
    "context_of",
]

Attributes = Mapping[str, str | bool]
OVERFLOW: Final[Attributes] = {"otel.metric.overflow": True}
"""The label set of measurements past the limit, from OpenTelemetry's SDK specification."""

NO_SPAN: Final = Context({"genmeter": "no span"})
"""The context of measurements outside of any span.

With None or an empty context the SDK uses the current one, and the exemplar would name the span of
the draining thread.
"""


def cells_of(instrument: Any, limit: int) -> Cells:
    """Return the cells of an instrument of any meter.

    Args:
        instrument: The instrument.
        limit: Maximum number of label sets, if its meter has no limit.
    """
    if isinstance(instrument, CellInstrument):
        return instrument
    return ForeignInstrument(instrument, limit)


def context_of(span: SpanContext | None) -> Context:
    """Return a context that contains only a span; None stands for no span."""
    if span is None:
        return NO_SPAN
    return set_span_in_context(NonRecordingSpan(span), Context())


class ForeignInstrument:
    """The cells of an instrument of another provider.

    The SDK limits label sets only from 1.45.2 on, and without a limit memory would grow with the
    product of all labels.
    """

    __slots__ = ("_cells", "_limit", "instrument", "total")

    def __init__(self, instrument: Any, limit: int) -> None:
        self.instrument = instrument
        self._limit = limit
        self._cells: dict[Hashable, ForeignCell] = {}
        # If the sum over all label sets is in range, each label set is in range too.
        self.total: float = 0

    def cell(self, attributes: Attributes, time: float) -> ForeignCell:  # noqa: ARG002
        """Return the cell of a label set."""
        key = tuple(attributes.items())
        found = self._cells.get(key)
        if found is None:
            if len(self._cells) >= self._limit:
                attributes, key = OVERFLOW, ()
            found = self._cells.setdefault(key, ForeignCell(self, attributes))
        return found


class ForeignCell:
    """One label set of an instrument of another provider."""

    __slots__ = ("_owner", "attributes")

    def __init__(self, owner: ForeignInstrument, attributes: Attributes) -> None:
        self._owner = owner
        self.attributes = attributes

    def add(self, amount: float) -> bool:
        """Add to the sum; returns whether it stays in range, so that the amount was added."""
        if not self._fits(amount):
            return False
        self._owner.instrument.add(amount, self.attributes, NO_SPAN)
        return True

    def record(self, value: float, time: float, span: SpanContext | None) -> bool:  # noqa: ARG002
        """Record a value; returns whether the sum stays in range, so that it was recorded."""
        if not self._fits(value):
            return False
        self._owner.instrument.record(value, self.attributes, context_of(span))
        return True

    def _fits(self, amount: float) -> bool:
        total = self._owner.total + abs(amount)
        if not total <= (MAX_INT if type(total) is int else MAX_FLOAT):
            return False
        self._owner.total = total
        return True


BoundSum: TypeAlias = SumCell | ForeignCell
BoundHistogram: TypeAlias = HistogramCell | ForeignCell
Cells: TypeAlias = CellInstrument[Any] | ForeignInstrument
