"""What has changed in the cells of the built-in provider since the last time.

The processes of a job publish these changes (package ``job``). Nothing is copied of a series that
did not change, which makes a second of an idle process cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.metrics._cells import GaugeCell
from genmeter.metrics._instruments import CellHistogram, ObservedInstrument
from genmeter.schema.metrics import INSTRUMENTS, Across

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.util.types import AttributeValue

    from genmeter.metrics._callbacks import Observations
    from genmeter.metrics._instruments import CellInstrument
    from genmeter.metrics.meter import BuiltinMeterProvider

__all__ = ["Buckets", "Change", "Changes", "Origin", "Series"]

_NEVER: Any = object()  # stands for a value that was not published
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
        self.sent: Any = _NEVER

    def accept(self, value: float, buckets: Buckets | None) -> None:  # noqa: ARG002 - has none
        """Note what was published."""
        self.sent = value

    def forget(self) -> None:
        """Note that nothing was published."""
        self.sent = _NEVER


class _CellSeries(Series):
    """The series of a cell; what was published is in the lists of its family."""

    __slots__ = ("_family", "_index")

    def __init__(
        self,
        origin: Origin,
        attributes: Mapping[str, AttributeValue],
        start: int | None,
        family: _Family,
        index: int,
    ) -> None:
        super().__init__(origin, attributes, start)
        self._family = family
        self._index = index

    def accept(self, value: float, buckets: Buckets | None) -> None:
        self._family.values[self._index] = value
        if buckets is not None:
            self._family.counts[self._index] = buckets.counts

    def forget(self) -> None:
        self._family.values[self._index] = _NEVER


class _Family:
    """The cells of an instrument, with what was published of them.

    All are lists in the order of the cells, since most visits find most cells unchanged: one look at
    an unchanged cell is what a visit costs. Recording marks nothing, and costs no more.

    Attributes:
        cells: The cells.
        series: Their series.
        values: The published values, or sums of histograms: the very objects, so that one that did not
            change is known without a comparison.
        counts: The published buckets of histograms.
    """

    def __init__(self) -> None:
        self.cells: list[Any] = []
        self.series: list[Series] = []
        self.values: list[Any] = []
        self.counts: list[list[int]] = []

    def update(self, cells: list[Any], origin: Origin) -> None:
        """Add new cells.

        Args:
            cells: All cells, those that are known first.
            origin: Their metric.
        """
        for index in range(len(self.cells), len(cells)):
            cell = cells[index]
            start = None if isinstance(cell, GaugeCell) else cell.start
            self.series.append(_CellSeries(origin, cell.attributes, start, self, index))
            self.values.append(_NEVER)
            self.counts.append([])
        self.cells = cells

    def changed_numbers(self) -> list[Change]:
        """Return the changes of sums or gauges."""
        series = self.series
        return [
            Change(series[index], cell.value, None)
            for index, (cell, sent) in enumerate(zip(self.cells, self.values, strict=True))
            if cell.value is not sent and cell.value != sent and cell.value is not None
        ]

    def changed_histograms(self) -> list[Change]:
        """Return the changes of histograms; a value of 0 changes only the buckets."""
        series = self.series
        rows = zip(self.cells, self.values, self.counts, strict=True)
        return [
            Change(series[index], cell.sum, Buckets(cell.counts.copy(), cell.min, cell.max))
            for index, (cell, sent, counts) in enumerate(rows)
            if (cell.sum is not sent or cell.counts != counts)
            and (sent is not _NEVER or any(cell.counts))
        ]


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
        self._families: dict[CellInstrument[Any], _Family] = {}
        self._series: dict[Any, Series] = {}  # of observable instruments
        self._origins: dict[Any, Origin] = {}
        self._observed: dict[ObservedInstrument, set[Hashable]] = {}
        self._seen: list[Change] = []

    def prepare(self, timeout: float) -> Callable[[], list[Change]]:
        """Call the callbacks of other libraries, before the changes are taken.

        Args:
            timeout: Seconds.

        Returns:
            A function for the owner of the cells, which returns the changes, those that were returned
            before and not accepted included.
        """
        visit = self._provider.prepare_visit(timeout)

        def take() -> list[Change]:
            self._seen = []
            visit(self._visit)
            return self._seen

        return take

    def accept(self, changes: Iterable[Change]) -> None:
        """Note that changes were published."""
        for series, value, buckets in changes:
            series.accept(value, buckets)

    def series(self) -> list[Series]:
        """Return all series that were found so far."""
        of_cells = [series for family in self._families.values() for series in family.series]
        return [*of_cells, *self._series.values()]

    def forget_accepted(self) -> None:
        """Return everything again, for another store."""
        for series in self.series():
            series.forget()
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
        family = self._families.setdefault(instrument, _Family())
        cells = instrument.cells(latest, known=len(family.cells))
        if family.cells and cells[:1] != family.cells[:1]:  # the instrument was cleared
            family = self._families[instrument] = _Family()
            cells = instrument.cells(latest)
        family.update(cells, self._origin(scope, instrument))
        is_histogram = isinstance(instrument, CellHistogram)
        self._seen += family.changed_histograms() if is_histogram else family.changed_numbers()

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
            if series.sent is _NEVER or series.sent != value:
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
