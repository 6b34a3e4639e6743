"""One face for the cells of our own meter and for the instruments of any other.

The recorder makes its instruments with the OpenTelemetry API, whoever implements it, and then asks
for a cell for each label set. Instruments of the built-in provider have cells; those of another
provider get a stand-in that calls the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from genmeter.metrics.cells import MAX_FLOAT, MAX_INT
from genmeter.metrics.instruments import CellInstrument

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
"""The label set of what comes after the limit, as OpenTelemetry's SDK specification has it."""

NO_SPAN: Final = Context({"genmeter": "no span"})
"""The context of records on behalf of no span.

Without a context, or with an empty one, the SDK takes the current one, and the exemplar would name
the span of whichever thread happens to drain.
"""


class BoundSum(Protocol):
    """A counter of one label set."""

    def add(self, amount: float) -> bool:
        """Add to the sum; returns whether the sum stays in range, so that it was added."""


class BoundHistogram(Protocol):
    """A histogram of one label set."""

    def record(self, value: float, time: float, span: SpanContext | None) -> bool:
        """Record a value; returns whether the sum stays in range, so that it was recorded."""


class Cells(Protocol):
    """An instrument whose label sets can be had one by one.

    Attributes:
        takes_negative: Whether a histogram takes negative values; the SDK's drops them.
    """

    takes_negative: bool

    def cell(self, attributes: Attributes, time: float) -> Any:
        """Return the cell of a label set, which is born at ``time`` (Unix seconds) if it is new."""


def cells_of(instrument: Any, limit: int) -> Cells:
    """Return the cells of an instrument that some meter made.

    Args:
        instrument: The instrument.
        limit: How many label sets it may have, where its meter has no limit of its own.
    """
    return instrument if isinstance(instrument, CellInstrument) else _Foreign(instrument, limit)


def context_of(span: SpanContext | None) -> Context:
    """Return a context in which a span is current, and nothing else.

    Args:
        span: The span's ids; None stands for no span.
    """
    if span is None:
        return NO_SPAN
    return set_span_in_context(NonRecordingSpan(span), Context())


class _Foreign:
    """The cells of an instrument of another provider.

    The SDK limits label sets from 1.45.2 on only, and without a limit the memory would grow with
    the product of all labels.
    """

    __slots__ = ("_cells", "_instrument", "_limit", "takes_negative", "total")

    def __init__(self, instrument: Any, limit: int) -> None:
        self._instrument = instrument
        self._limit = limit
        self.takes_negative = False
        self._cells: dict[Hashable, _ForeignCell] = {}
        # The guard is on the sum over all label sets, so each of them is in range too.
        self.total: float = 0

    def cell(self, attributes: Attributes, time: float) -> _ForeignCell:  # noqa: ARG002
        key = tuple(attributes.items())
        found = self._cells.get(key)
        if found is None:
            if len(self._cells) >= self._limit:
                attributes, key = OVERFLOW, ()
            found = self._cells.setdefault(key, _ForeignCell(self, self._instrument, attributes))
        return found


class _ForeignCell:
    """One label set of an instrument of another provider."""

    __slots__ = ("_foreign", "_instrument", "attributes")

    def __init__(self, foreign: _Foreign, instrument: Any, attributes: Attributes) -> None:
        self._foreign = foreign
        self._instrument = instrument
        self.attributes = attributes

    def add(self, amount: float) -> bool:
        if not self._fits(amount):
            return False
        self._instrument.add(amount, self.attributes, NO_SPAN)
        return True

    def record(self, value: float, time: float, span: SpanContext | None) -> bool:  # noqa: ARG002
        if not self._fits(value):
            return False
        self._instrument.record(value, self.attributes, context_of(span))
        return True

    def _fits(self, amount: float) -> bool:
        total = self._foreign.total + abs(amount)
        if not total <= (MAX_INT if type(total) is int else MAX_FLOAT):
            return False
        self._foreign.total = total
        return True
