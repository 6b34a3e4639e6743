"""What has changed in the cells of the built-in provider since the last time.

The processes of a job publish these changes (package ``job``). Nothing is copied of a series that
did not change, which makes a second of an idle process cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.metrics._cells import GaugeCell, HistogramCell
from genmeter.metrics._instruments import CellHistogram, ObservedInstrument
from genmeter.schema.metrics import INSTRUMENTS, Across

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.util.types import AttributeValue

    from genmeter.metrics._callbacks import Observations
    from genmeter.metrics._instruments import CellInstrument
    from genmeter.metrics.meter import BuiltinMeterProvider

__all__ = ["Buckets", "Change", "Changes", "Origin", "Series"]

_ACROSS = {(row.name, row.kind.exposed_as): row.across for row in INSTRUMENTS}


class Origin(NamedTuple):
    """The metric of a series."""

    scope: InstrumentationScope
    name: str
    unit: str
    description: str
    kind: str
    bounds: tuple[float, ...]
    across: Across


class Buckets(NamedTuple):
    """The buckets of a histogram, with its minimum and maximum."""

    counts: list[int]
    low: float
    high: float


class Series:
    """One label set of a metric.

    Attributes:
        origin: Its metric.
        attributes: Its label set.
        start: Its start, in Unix nanoseconds; None for a gauge.
        number: For the user of the changes; None at first.
        is_gone: Whether an observable instrument does not observe it any more.
    """

    __slots__ = ("attributes", "is_gone", "number", "origin", "sent", "start")

    def __init__(
        self, origin: Origin, attributes: Mapping[str, AttributeValue], start: int | None
    ) -> None:
        self.origin = origin
        self.attributes = attributes
        self.start = start
        self.number: int | None = None
        self.is_gone = False
        self.sent: tuple[float, Buckets | None] | None = None


class Change(NamedTuple):
    """A series and its current value; a histogram has its sum, and its buckets."""

    series: Series
    value: float
    buckets: Buckets | None


class Changes:
    """Finds what has changed since the changes that were accepted.

    Args:
        provider: The provider of the series.
    """

    def __init__(self, provider: BuiltinMeterProvider) -> None:
        self._provider = provider
        self._series: dict[Any, Series] = {}
        self._origins: dict[Any, Origin] = {}
        self._observed: dict[ObservedInstrument, set[Hashable]] = {}
        self._seen: list[Change] = []

    def take(self, timeout: float) -> list[Change]:
        """Return the changes, those that were returned before and not accepted included.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: The owner of the cells was busy for too long.
        """
        self._seen = []
        self._provider.visit(self._visit, timeout)
        return self._seen

    def accept(self, changes: Iterable[Change]) -> None:
        """Note that changes were published."""
        for series, value, buckets in changes:
            series.sent = (value, buckets)

    def forget_accepted(self) -> None:
        """Return everything again, for another store."""
        for series in self._series.values():
            series.sent = None
            series.number = None

    def gone(self) -> list[Series]:
        """Return and forget the published series that are not observed any more."""
        found = [key for key, series in self._series.items() if series.is_gone]
        return [self._series.pop(key) for key in found]

    def _visit(
        self,
        scope: InstrumentationScope,
        instrument: CellInstrument[Any] | ObservedInstrument,
        observed: Observations | None,
        latest: int,
    ) -> None:
        if isinstance(instrument, ObservedInstrument):
            self._visit_observed(scope, instrument, observed or [], latest)
            return
        known, seen = self._series, self._seen
        for cell in instrument.cells(latest):
            series = known.get(cell)
            if series is None:
                is_gauge = isinstance(cell, GaugeCell)
                series = known[cell] = Series(
                    self._origin(scope, instrument),
                    cell.attributes,
                    None if is_gauge else cell.start,
                )
            sent = series.sent
            if isinstance(cell, HistogramCell):
                if sent is not None and sent[0] == cell.sum and sent[1] is not None:
                    if sent[1].counts == cell.counts:
                        continue
                elif not any(cell.counts):
                    continue
                buckets = Buckets(cell.counts.copy(), cell.min, cell.max)
                seen.append(Change(series, cell.sum, buckets))
            elif cell.value is not None and (sent is None or sent[0] != cell.value):
                seen.append(Change(series, cell.value, None))

    def _visit_observed(
        self,
        scope: InstrumentationScope,
        instrument: ObservedInstrument,
        observed: Observations,
        latest: int,
    ) -> None:
        current = instrument.series(latest, observed)
        before = self._observed.get(instrument, set())
        for key in before - current.keys():
            if (instrument, key) in self._series:
                self._series[instrument, key].is_gone = True
        self._observed[instrument] = set(current)
        for key, (attributes, start, value) in current.items():
            identity: Hashable = (instrument, key)
            series = self._series.get(identity)
            if series is None:
                series = Series(self._origin(scope, instrument), attributes, start)
                self._series[identity] = series
            series.is_gone = False
            if series.sent is None or series.sent[0] != value:
                self._seen.append(Change(series, value, None))

    def _origin(
        self, scope: InstrumentationScope, instrument: CellInstrument[Any] | ObservedInstrument
    ) -> Origin:
        origin = self._origins.get(instrument)
        if origin is None:
            origin = self._origins[instrument] = Origin(
                scope,
                instrument.name,
                instrument.unit,
                instrument.description,
                instrument.kind,
                instrument.bounds if isinstance(instrument, CellHistogram) else (),
                _across(scope.name, instrument),
            )
        return origin


def _across(scope: str, instrument: CellInstrument[Any] | ObservedInstrument) -> Across:
    """Return how a metric is combined: by its row, else by its kind."""
    exposed = "updown" if instrument.kind == "sum" else instrument.kind
    exposed = "counter" if exposed == "monotonic" else exposed
    if scope == "genmeter" and (instrument.name, exposed) in _ACROSS:
        return _ACROSS[instrument.name, exposed]
    if instrument.kind == "gauge":
        return Across.LAST
    is_observed_level = instrument.kind == "sum" and isinstance(instrument, ObservedInstrument)
    return Across.LIVING if is_observed_level else Across.SUM
