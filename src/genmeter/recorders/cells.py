"""Sums that wait, one for each label set of a counter, and go to the SDK once a batch.

And the cap on label sets: the SDK has one from 1.45.2 on only, and without any the memory would grow
with the product of all labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry.context import Context

from genmeter.events import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["NO_SPAN", "OVERFLOW", "Addable", "Attributes", "Batch", "Cell", "LabelSets"]

Attributes = Mapping[str, str | bool]
OVERFLOW: Final[Attributes] = {"otel.metric.overflow": True}
"""The label set of what comes after the limit, as OpenTelemetry's SDK specification has it."""

NO_SPAN: Final = Context({"genmeter": "no span"})
"""For what is told to the SDK on behalf of no span.

Without a context, or with an empty one, the SDK takes the current one, and the exemplar would name
the span of whichever thread happens to drain.
"""

# What OTLP's fixed 64-bit integers hold; one sum past it fails every later export.
_MAX_SUM = 2**63 - 1
# A sum that becomes infinite fails every later scrape.
_MAX_FLOAT = 1e308


class Addable(Protocol):
    """A counter or an up-down counter of OpenTelemetry."""

    def add(
        self,
        amount: float,
        attributes: Attributes | None = None,
        context: Context | None = None,
    ) -> None:
        """Add to the label set's sum."""


class _Guarded:
    """An instrument whose sums can never leave the range that every exporter takes.

    The guard is on the sum over all label sets, so each of them is in range too.
    """

    __slots__ = ("_instrument", "_total", "name")

    def __init__(self, name: str, instrument: Addable) -> None:
        self.name = name
        self._instrument = instrument
        self._total: float = 0

    def add(self, amount: float, attributes: Attributes) -> bool:
        total = self._total + abs(amount)
        if not total <= (_MAX_SUM if type(total) is int else _MAX_FLOAT):
            return False
        self._total = total
        self._instrument.add(amount, attributes, NO_SPAN)
        return True


class Cell:
    """The waiting sum of one label set."""

    __slots__ = ("_batch", "_is_waiting", "attributes", "instrument", "pending")

    def __init__(self, instrument: _Guarded, attributes: Attributes, batch: list[Cell]) -> None:
        self.instrument = instrument
        self.attributes = attributes
        self.pending: float = 0
        self._batch = batch
        self._is_waiting = False

    def add(self, amount: float) -> None:
        """Add to the sum; 0 makes the series known at 0."""
        self.pending += amount
        if not self._is_waiting:
            self._is_waiting = True
            self._batch.append(self)

    def take(self) -> float:
        """Take what waits."""
        pending, self.pending = self.pending, 0
        self._is_waiting = False
        return pending


class LabelSets:
    """The label sets of each instrument, up to a limit.

    Args:
        limit: How many one instrument may have; those after it are :data:`OVERFLOW`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, dict[Hashable, Attributes]] = {}

    def admit(self, name: str, attributes: Attributes) -> Attributes:
        """Give the label set to record under.

        Args:
            name: The instrument's name.
            attributes: The label set that is wanted.
        """
        known = self._known.setdefault(name, {})
        key = tuple(attributes.items())
        found = known.get(key)
        if found is None:
            if len(known) >= self._limit:
                return OVERFLOW
            found = known[key] = attributes
        return found


class Batch:
    """The cells that wait.

    Args:
        limit: How many label sets one instrument may have.
        on_reject: Told the reason, the instrument's name and the sum that had to be left out.
    """

    def __init__(self, limit: int, on_reject: Callable[[Reason, str, object], None]) -> None:
        self._waiting: list[Cell] = []
        self._instruments: dict[str, _Guarded] = {}
        self._sets = LabelSets(limit)
        self._cells: dict[tuple[str, int], Cell] = {}
        self._on_reject = on_reject

    def register(self, name: str, instrument: Addable) -> None:
        """Make an instrument known by its name."""
        self._instruments[name] = _Guarded(name, instrument)

    def cell(self, name: str, attributes: Attributes) -> Cell:
        """Give the cell of a registered instrument's label set, always the same one."""
        admitted = self._sets.admit(name, attributes)
        key = (name, id(admitted))  # the set is kept, so that its id stays its own
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell(self._instruments[name], admitted, self._waiting)
        return cell

    def flush(self) -> None:
        """Hand every waiting sum to its instrument."""
        waiting = self._waiting
        for cell in waiting:
            amount = cell.take()
            if not cell.instrument.add(amount, cell.attributes):
                self._on_reject(Reason.OVERFLOW, cell.instrument.name, amount)
        waiting.clear()
