"""The instruments of the built-in meter, each with the cells of its label sets.

Other libraries call the API on any thread: the call copies its arguments and posts the change to
the owner. The recorder, which runs on the owner, looks up the cell of a label set once and changes
it directly.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

from opentelemetry.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.trace import get_current_span

from genmeter.events.values import UNREADABLE
from genmeter.metrics._callbacks import Observer
from genmeter.metrics._cells import (
    START_MARGIN_NS,
    Cell,
    GaugeCell,
    HistogramCell,
    SumCell,
    start_ns,
)
from genmeter.metrics._values import clean_attributes, key_of, read_number
from genmeter.pipeline.once import FirstTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext
    from opentelemetry.util.types import Attributes, AttributeValue

    from genmeter.metrics._callbacks import Observations

    Change = Callable[["Any", int | float, float, SpanContext | None], bool]

__all__ = [
    "DEFAULT_BOUNDS",
    "CellCounter",
    "CellGauge",
    "CellHistogram",
    "CellInstrument",
    "CellObservableCounter",
    "CellObservableGauge",
    "CellObservableUpDownCounter",
    "CellUpDownCounter",
    "Instrument",
    "ObservedInstrument",
    "ObservedSeries",
    "Owner",
    "Shared",
]

_T = TypeVar("_T")

DEFAULT_BOUNDS: Final = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1_000.0, 2_500.0, 5_000.0,
    7_500.0, 10_000.0,
)  # fmt: skip
"""The default bounds of a histogram, from OpenTelemetry's specification."""

_OVERFLOW: Final[Mapping[str, AttributeValue]] = {"otel.metric.overflow": True}
_OVERFLOW_KEY: Final = key_of(_OVERFLOW)
_REASONS: Final = {
    "amount": "must be a finite number in range, not negative for counters and histograms",
    "measurement": "could not be read",
    "sum": "would leave the range of the exporters",
}
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class Owner(Protocol):
    """The one thread, or the holder of a lock, that may use the state of a meter."""

    def post(self, function: Callable[[], object]) -> None:
        """Have the owner call a function later, in the order of the posts; never waits or raises."""

    def run(self, function: Callable[[], _T], timeout: float | None) -> _T:
        """Call a function as the owner, after all functions posted before.

        Args:
            function: The function; it is called directly if the caller is the owner.
            timeout: Seconds to wait for the owner; None means without a limit.

        Raises:
            TimeoutError: The owner was busy for too long; the function is not called later.
        """


class Shared:
    """State that the instruments of one provider share.

    Args:
        owner: The only one who may use the cells.
        cardinality_limit: Maximum number of label sets of one instrument.
        exemplars: Whether sampled spans are kept as exemplars.
        warn: Called like ``Logger.warning``; must not wait.
    """

    def __init__(
        self,
        owner: Owner,
        *,
        cardinality_limit: int,
        exemplars: bool,
        warn: Callable[..., object],
    ) -> None:
        self.owner = owner
        self.cardinality_limit = cardinality_limit
        self.exemplars = exemplars
        self.is_open = True
        self._warn = warn
        self._first = FirstTimes()
        self.reset_start()

    def reset_start(self) -> None:
        """Set the start of series that the first collection observes to now."""
        self.start = max(0, time.time_ns() - START_MARGIN_NS)

    def warn_once(self, key: Hashable, message: str, *arguments: object) -> None:
        """Log a warning unless one with the same key was logged; never raises."""
        if self._first.is_new(key):
            with suppress(Exception):
                self._warn(message, *arguments)

    def sampled_span(self, context: Context | None) -> SpanContext | None:
        """Return the sampled span of a context, if any.

        None or an empty context stands for the current one, as in the SDK.
        """
        if not self.exemplars:
            return None
        try:
            span = get_current_span(context or None).get_span_context()
            return span if span.trace_flags.sampled and span.is_valid else None
        except UNREADABLE:  # not a context, or a broken span: the amount still counts
            return None


class Instrument(ABC):
    """Base of the built-in meter's instruments.

    Attributes:
        kind: ``monotonic``, ``sum``, ``gauge`` or ``histogram``.
        name: Its exported name, in lower case.
        unit: Its unit; may be empty.
        description: Its help text; may be empty.
    """

    kind: ClassVar[str] = "sum"

    def __init__(self, shared: Shared, name: str, unit: str = "", description: str = "") -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self._shared = shared
        self.clear()

    @abstractmethod
    def clear(self) -> None:
        """Forget every label set."""

    def _warn_of_overflow(self) -> None:
        self._shared.warn_once(
            (self, "overflow"),
            "the instrument %r has reached its limit of %d label sets; new ones are recorded as "
            "'otel.metric.overflow'",
            self.name,
            self._shared.cardinality_limit,
        )

    def _metric(self, points: list[Any]) -> Metric | None:
        if not points:
            return None
        return Metric(self.name, self.description, self.unit, self._data(points))

    def _data(self, points: list[Any]) -> Sum | Gauge | HistogramData:
        return Sum(points, _CUMULATIVE, self.kind == "monotonic")


class CellInstrument(Instrument, Generic[Cell]):
    """A synchronous instrument and the cells of its label sets."""

    def cell(self, attributes: Mapping[str, AttributeValue], time: float) -> Cell:
        """Return the cell of a label set, the same one until :meth:`clear`; for the owner only.

        Args:
            attributes: The label set, with plain values; it is copied.
            time: The time of the event, in Unix seconds; a new series starts a margin earlier.

        Returns:
            The cell; that of the overflow if the label set is new and the limit is reached.
        """
        key = key_of(attributes)
        cell = self._cells.get(key)
        return self._new_cell(key, dict(attributes), start_ns(time)) if cell is None else cell

    def metric(self, time: int, latest: int) -> Metric | None:
        """Return the current state, None without any point; for the owner only.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            latest: The latest start of a series, in Unix nanoseconds; later starts are moved here
                permanently.
        """
        exemplars = self._shared.exemplars
        points = [cell.point(time, exemplars=exemplars) for cell in self.cells(latest)]
        return self._metric([point for point in points if point is not None])

    def cells(self, latest: int, *, known: int = 0) -> list[Cell]:
        """Return the cells of all label sets, oldest first; for the owner only.

        Args:
            latest: The latest start of a series, in Unix nanoseconds; later starts are moved here
                permanently.
            known: Number of the oldest cells whose starts need not be looked at again.
        """
        found = list(self._cells.values())
        for cell in islice(found, known, None):
            if cell.start > latest:  # noqa: PLR1730 - a call of min() for every series
                cell.start = latest
        return found

    def clear(self) -> None:
        """Forget every cell."""
        self._cells: dict[Hashable, Cell] = {}

    def _new_cell(
        self, key: Hashable, attributes: Mapping[str, AttributeValue], start: int
    ) -> Cell:
        if len(self._cells) >= self._shared.cardinality_limit:
            key, attributes = _OVERFLOW_KEY, dict(_OVERFLOW)
            cell = self._cells.get(key)
            if cell is not None:
                return cell
            self._warn_of_overflow()
        new = self._cells[key] = self._make_cell(attributes, start)
        return new

    @abstractmethod
    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> Cell: ...

    def _post(
        self,
        change: Change,
        amount: Any,
        attributes: Attributes,
        context: Context | None,
        *,
        min_: float = -math.inf,
    ) -> None:
        """Post a change of a cell to the owner; never raises."""
        shared = self._shared
        if not shared.is_open:
            return
        now = time.time_ns()
        try:
            value = read_number(amount)
            if value is None or value < min_:
                self._drop("amount")
                return
            clean = clean_attributes(attributes, self._on_invalid)
            span = shared.sampled_span(context)
            shared.owner.post(partial(self._apply, change, value, clean, now, span))
        except UNREADABLE:
            self._drop("measurement")

    def _apply(
        self,
        change: Change,
        value: float,
        attributes: dict[str, AttributeValue],
        now: int,
        span: SpanContext | None,
    ) -> None:
        key = key_of(attributes)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._new_cell(key, attributes, max(0, now - START_MARGIN_NS))
        if not change(cell, value, now / 1e9, span):
            self._drop("sum")

    def _drop(self, what: str) -> None:
        self._shared.warn_once(
            (self, what),
            "dropped a measurement of the instrument %r: its %s %s; logged once",
            self.name,
            what,
            _REASONS[what],
        )

    def _on_invalid(self) -> None:
        self._shared.warn_once(
            (self, "attributes"),
            "a measurement of the instrument %r has invalid attributes; they are converted to "
            "text or dropped, logged once",
            self.name,
        )


class _SumInstrument(CellInstrument[SumCell]):
    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Add to the sum of a label set; never raises or waits.

        Args:
            amount: The amount; a counter drops negative ones.
            attributes: The label set.
            context: The context of the sampled span; the current one by default.
        """
        min_ = 0 if self.kind == "monotonic" else -math.inf
        self._post(SumCell.add, amount, attributes, context, min_=min_)

    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> SumCell:
        return SumCell(attributes, start)


class CellCounter(_SumInstrument, Counter):
    """A counter."""

    kind = "monotonic"


class CellUpDownCounter(_SumInstrument, UpDownCounter):
    """A counter that can decrease."""


class CellHistogram(CellInstrument[HistogramCell], Histogram):
    """A histogram with explicit buckets.

    Attributes:
        bounds: The upper bounds of all buckets except the last.
    """

    kind = "histogram"

    def __init__(
        self,
        shared: Shared,
        name: str,
        unit: str = "",
        description: str = "",
        bounds: tuple[float, ...] = DEFAULT_BOUNDS,
    ) -> None:
        super().__init__(shared, name, unit, description)
        self.bounds = bounds

    def record(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Record a value; never raises or waits.

        Args:
            amount: The value; negative ones are dropped.
            attributes: The label set.
            context: The context of the sampled span; the current one by default.
        """
        self._post(HistogramCell.record, amount, attributes, context, min_=0)

    def _data(self, points: list[Any]) -> HistogramData:
        return HistogramData(points, _CUMULATIVE)

    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> HistogramCell:
        return HistogramCell(attributes, start, self.bounds)


class CellGauge(CellInstrument[GaugeCell], _Gauge):
    """A synchronous gauge."""

    kind = "gauge"

    def set(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Set the value of a label set; never raises or waits.

        Args:
            amount: The value.
            attributes: The label set.
            context: The context of the sampled span; the current one by default.
        """
        self._post(GaugeCell.set, amount, attributes, context)

    def _data(self, points: list[Any]) -> Gauge:
        return Gauge(points)

    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> GaugeCell:
        return GaugeCell(attributes, start)


class ObservedSeries(NamedTuple):
    """One label set as observed; ``start`` is None for a gauge."""

    attributes: Mapping[str, AttributeValue]
    start: int | None
    value: int | float


class ObservedInstrument(Instrument):
    """An observable instrument: its points are what its callbacks observe at a collection.

    Attributes:
        observer: Its callbacks.
    """

    def __init__(
        self,
        shared: Shared,
        name: str,
        unit: str = "",
        description: str = "",
        callbacks: Any = None,
    ) -> None:
        super().__init__(shared, name, unit, description)
        self.observer = Observer(name, callbacks, shared.warn_once)

    def clear(self) -> None:
        """Forget every label set."""
        self._known: dict[Hashable, Mapping[str, AttributeValue]] = {}
        self._starts: dict[Hashable, int] = {}
        self._absent_at: int | None = None

    def metric(self, time: int, latest: int, observations: Observations) -> Metric | None:
        """Return the last observation of each label set; for the owner only.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            latest: The latest start of a series, in Unix nanoseconds.
            observations: The observations of the callbacks.
        """
        series: Any = self.series(latest, observations).values()
        return self._metric(
            [
                NumberDataPoint(each.attributes, each.start, time, each.value, exemplars=[])
                for each in series
            ]
        )

    def series(self, latest: int, observations: Observations) -> dict[Hashable, ObservedSeries]:
        """Return the last observation of each label set, by its identity; for the owner only.

        Args:
            latest: The latest start of a series, in Unix nanoseconds.
            observations: The observations of the callbacks.
        """
        values = self._values(observations)
        starts = self._starts_of(values, latest)
        return {
            key: ObservedSeries(self._known[key], starts[key], value)
            for key, value in values.items()
        }

    def _values(self, observations: Observations) -> dict[Hashable, int | float]:
        """Return values by label set; a known one keeps its attributes object."""
        limit = self._shared.cardinality_limit
        known: dict[Hashable, Mapping[str, AttributeValue]] = {}
        values: dict[Hashable, int | float] = {}
        for key, attributes, value in observations:
            if key in values or len(values) < limit:
                values[key] = value
                known[key] = self._known.get(key, attributes)
                continue
            overflow = _OVERFLOW_KEY
            known[overflow] = known.get(overflow) or self._known.get(overflow) or dict(_OVERFLOW)
            values[overflow] = self._merged(values.get(overflow), value)
            self._warn_of_overflow()
        self._known = known
        return values

    def _starts_of(self, keys: Iterable[Hashable], latest: int) -> Mapping[Hashable, int | None]:
        """Return the start of each label set: the last collection without it.

        Starts are kept, since a label set that is missing for a while continues its series. Past
        the limit the provider's start is used, which is early but not wrong.
        """
        first = self._shared.start
        youngest = first if self._absent_at is None else max(first, min(self._absent_at, latest))
        self._absent_at = latest
        found: dict[Hashable, int] = {}
        for key in keys:
            start = self._starts.get(key)
            if start is None:
                start = youngest if len(self._starts) < self._shared.cardinality_limit else first
            found[key] = min(start, latest)
            if key in self._starts or len(self._starts) < self._shared.cardinality_limit:
                self._starts[key] = found[key]
        return found

    def _merged(self, before: float | None, value: float) -> float:
        """Return the value of the overflow with one more label set added."""
        total = read_number(value if before is None else before + value)
        return value if total is None else total


class CellObservableCounter(ObservedInstrument, ObservableCounter):
    """An observable counter."""

    kind = "monotonic"


class CellObservableUpDownCounter(ObservedInstrument, ObservableUpDownCounter):
    """An observable counter that can decrease."""


class CellObservableGauge(ObservedInstrument, ObservableGauge):
    """An observable gauge."""

    kind = "gauge"

    def _starts_of(
        self,
        keys: Iterable[Hashable],
        latest: int,  # noqa: ARG002 - a gauge has no start
    ) -> Mapping[Hashable, int | None]:
        return dict.fromkeys(keys)

    def _merged(self, before: float | None, value: float) -> float:  # noqa: ARG002 - the last wins
        return value

    def _data(self, points: list[Any]) -> Gauge:
        return Gauge(points)
