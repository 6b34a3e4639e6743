"""The instruments of the built-in meter, each with the cells of its label sets.

A measurement comes in by one of two ways. Other libraries call the API on any thread: the call
copies what it was passed and posts the change to the owner. The recorder, which runs on the owner,
takes a label set's cell once and changes it directly.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

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
from genmeter.metrics.callbacks import Observer
from genmeter.metrics.cells import (
    BIRTH_MARGIN_NS,
    Cell,
    GaugeCell,
    HistogramCell,
    SumCell,
    birth_ns,
)
from genmeter.metrics.values import clean_attributes, key_of, read_number

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext
    from opentelemetry.util.types import Attributes, AttributeValue

    from genmeter.metrics.callbacks import Observations

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
    "LockedOwner",
    "ObservedInstrument",
    "Owner",
    "Shared",
]

_T = TypeVar("_T")

DEFAULT_BOUNDS: Final = (
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1_000.0, 2_500.0, 5_000.0,
    7_500.0, 10_000.0,
)  # fmt: skip
"""A histogram's bounds where its creator advises none, from OpenTelemetry's specification."""

_OVERFLOW: Final[Mapping[str, AttributeValue]] = {"otel.metric.overflow": True}
_OVERFLOW_KEY: Final = key_of(_OVERFLOW)
_MAX_WARNINGS = 1_000
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class Owner(Protocol):
    """Who alone may touch the state of a meter: a thread, or whoever holds a lock."""

    def post(self, function: Callable[[], object]) -> None:
        """Have a function called later by the owner, in the order of the posts.

        It never waits and never raises.

        Args:
            function: What to call.
        """

    def run(self, function: Callable[[], _T], timeout: float | None) -> _T:
        """Call a function under the ownership, after all that was posted before.

        It is called directly where the caller is the owner.

        Args:
            function: What to call.
            timeout: Seconds to wait for the ownership; None means without a limit.

        Raises:
            TimeoutError: The ownership was not to be had in time; the function is not called.
        """


class LockedOwner:
    """An owner without a thread: whoever holds its lock.

    A post waits for the lock, which is held for one change or one collection.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def post(self, function: Callable[[], object]) -> None:
        """Call a function at once, under the lock; what it raises is dropped.

        Args:
            function: What to call.
        """
        with self._lock, suppress(Exception):
            function()

    def run(self, function: Callable[[], _T], timeout: float | None) -> _T:
        """Call a function under the lock.

        Args:
            function: What to call.
            timeout: Seconds to wait for the lock; None means without a limit.

        Raises:
            TimeoutError: The lock was not free in time.
        """
        seconds = -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=seconds):
            raise TimeoutError(f"the meter's lock was not free within {timeout} s")
        try:
            return function()
        finally:
            self._lock.release()

    def reset_after_fork(self) -> None:
        """Make the lock anew in a forked child; in the parent another thread may have held it."""
        self._lock = threading.RLock()


class Shared:
    """What the instruments of one provider share.

    Args:
        owner: Who alone touches the cells.
        cardinality_limit: How many label sets one instrument may have.
        exemplars: Whether sampled spans are kept as exemplars.
        warn: Called as ``Logger.warning`` is; it must neither wait nor raise.
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
        self.start = 0
        self._warn = warn
        self._warned: set[Hashable] = set()
        self.be_born()

    def be_born(self) -> None:
        """Let what is observed from the first collection on start now."""
        self.start = max(0, time.time_ns() - BIRTH_MARGIN_NS)

    def warn_once(self, key: Hashable, message: str, *arguments: object) -> None:
        """Log a warning unless one with the same key was logged; never raises."""
        if key not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(key)
            with suppress(Exception):
                self._warn(message, *arguments)

    def sampled_span(self, context: Context | None) -> SpanContext | None:
        """Return the sampled span of a context, None where there is none.

        Args:
            context: None or an empty one stands for the current context, as in the SDK.
        """
        if not self.exemplars:
            return None
        try:
            span = get_current_span(context or None).get_span_context()
            return span if span.trace_flags.sampled and span.is_valid else None
        except UNREADABLE:  # no context, or the span of a broken tracer: the amount still counts
            return None


class Instrument(ABC):
    """What every instrument of the built-in meter has.

    Attributes:
        name: Its name in lower case, as it is exported.
        unit: Its unit; may be empty.
        description: What it measures; may be empty.
    """

    def __init__(self, shared: Shared, name: str, unit: str, description: str) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self._shared = shared

    @abstractmethod
    def clear(self) -> None:
        """Forget every label set."""

    def _metric(self, data: Sum | Gauge | HistogramData) -> Metric:
        return Metric(name=self.name, description=self.description, unit=self.unit, data=data)


class CellInstrument(Instrument, Generic[Cell]):
    """A synchronous instrument and the cells of its label sets.

    Attributes:
        takes_negative: True: what the API must drop, a cell of a histogram takes.
    """

    takes_negative = True

    def __init__(self, shared: Shared, name: str, unit: str = "", description: str = "") -> None:
        super().__init__(shared, name, unit, description)
        self._cells: dict[Hashable, Cell] = {}

    def cell(self, attributes: Mapping[str, AttributeValue], time: float) -> Cell:
        """Return the cell of a label set, always the same one; only the owner calls it.

        After :meth:`BuiltinMeterProvider.reset_after_fork` it is another one.

        Args:
            attributes: The label set, whose values are plain; it is copied.
            time: The time of the event, in Unix seconds, from which a new cell dates its birth.

        Returns:
            The cell; that of the overflow where the label set is new and past the limit.
        """
        key = key_of(attributes)
        cell = self._cells.get(key)
        return self._new_cell(key, dict(attributes), birth_ns(time)) if cell is None else cell

    def metric(self, time: int, latest: int) -> Metric | None:
        """Return the current state, None without any point; only the owner calls it.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            latest: When its series must have started, in Unix nanoseconds; those that are younger
                are dated back, for good.
        """
        exemplars = self._shared.exemplars
        points = []
        for cell in self._cells.values():
            if cell.start > latest:  # noqa: PLR1730 - a call of min() for every series
                cell.start = latest
            point = cell.point(time, exemplars=exemplars)
            if point is not None:
                points.append(point)
        return self._metric(self._data(points)) if points else None

    def clear(self) -> None:
        """Forget every cell."""
        self._cells = {}

    def _new_cell(
        self, key: Hashable, attributes: Mapping[str, AttributeValue], start: int
    ) -> Cell:
        if len(self._cells) >= self._shared.cardinality_limit:
            key, attributes = _OVERFLOW_KEY, dict(_OVERFLOW)
            cell = self._cells.get(key)
            if cell is not None:
                return cell
            self._shared.warn_once(
                (self, "overflow"),
                "the instrument %r has reached its limit of %d label sets; new ones are recorded "
                "as 'otel.metric.overflow'",
                self.name,
                self._shared.cardinality_limit,
            )
        made = self._cells[key] = self._make_cell(attributes, start)
        return made

    @abstractmethod
    def _data(self, points: list[Any]) -> Sum | Gauge | HistogramData: ...

    @abstractmethod
    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> Cell: ...

    def _post(
        self,
        change: Change,
        amount: Any,
        attributes: Attributes,
        context: Context | None,
        *,
        least: float | None = None,
    ) -> None:
        """Post a change of a label set's cell to the owner; never raises."""
        shared = self._shared
        if not shared.is_open:
            return
        now = time.time_ns()
        try:
            value = read_number(amount)
            if value is None or (least is not None and value < least):
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
            cell = self._new_cell(key, attributes, max(0, now - BIRTH_MARGIN_NS))
        if not change(cell, value, now / 1e9, span):
            self._drop("sum")

    def _drop(self, what: str) -> None:
        reasons = {
            "amount": "must be a finite number in range, not negative for counters and histograms",
            "measurement": "could not be read",
            "sum": "would leave the range of the exporters",
        }
        self._shared.warn_once(
            (self, what),
            "dropped a measurement of the instrument %r: its %s %s; logged once",
            self.name,
            what,
            reasons[what],
        )

    def _on_invalid(self) -> None:
        self._shared.warn_once(
            (self, "attributes"),
            "a measurement of the instrument %r has invalid attributes; they are converted to "
            "text or dropped, logged once",
            self.name,
        )


class _SumInstrument(CellInstrument[SumCell]):
    _is_monotonic = False

    def _data(self, points: list[Any]) -> Sum:
        return Sum(points, _CUMULATIVE, self._is_monotonic)

    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> SumCell:
        return SumCell(attributes, start)


class CellCounter(_SumInstrument, Counter):
    """A counter."""

    _is_monotonic = True

    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Add to a label set's sum; negative amounts are dropped; never raises or waits.

        Args:
            amount: What to add.
            attributes: The label set.
            context: Where the sampled span is looked for; the current context by default.
        """
        self._post(SumCell.add, amount, attributes, context, least=0)


class CellUpDownCounter(_SumInstrument, UpDownCounter):
    """A counter that can fall."""

    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Add to a label set's sum; never raises or waits.

        Args:
            amount: What to add.
            attributes: The label set.
            context: Where the sampled span is looked for; the current context by default.
        """
        self._post(SumCell.add, amount, attributes, context)


class CellHistogram(CellInstrument[HistogramCell], Histogram):
    """A histogram with explicit buckets.

    Attributes:
        bounds: The upper bounds of its buckets but for the last one.
    """

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
        """Record a value; negative ones are dropped; never raises or waits.

        Args:
            amount: What was measured.
            attributes: The label set.
            context: Where the sampled span is looked for; the current context by default.
        """
        self._post(HistogramCell.record, amount, attributes, context, least=0)

    def _data(self, points: list[Any]) -> HistogramData:
        return HistogramData(points, _CUMULATIVE)

    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> HistogramCell:
        return HistogramCell(attributes, start, self.bounds)


class CellGauge(CellInstrument[GaugeCell], _Gauge):
    """A gauge that is set."""

    def set(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Set a label set's value; never raises or waits.

        Args:
            amount: The new value.
            attributes: The label set.
            context: Where the sampled span is looked for; the current context by default.
        """
        self._post(GaugeCell.set, amount, attributes, context)

    def _data(self, points: list[Any]) -> Gauge:
        return Gauge(points)

    def _make_cell(self, attributes: Mapping[str, AttributeValue], start: int) -> GaugeCell:
        return GaugeCell(attributes, start)


class ObservedInstrument(Instrument):
    """An observable instrument: its points are what its callbacks observe at a collection.

    Attributes:
        observer: Its callbacks.
    """

    def __init__(
        self,
        shared: Shared,
        name: str,
        callbacks: Any = None,
        unit: str = "",
        description: str = "",
    ) -> None:
        super().__init__(shared, name, unit, description)
        self.observer = Observer(name, callbacks, shared.warn_once)
        self.clear()

    def clear(self) -> None:
        """Forget every label set."""
        self._known: dict[Hashable, Mapping[str, AttributeValue]] = {}
        self._starts: dict[Hashable, int] = {}
        self._absent_at: int | None = None

    def metric(self, time: int, latest: int, observations: Observations) -> Metric | None:
        """Return the last observation of each label set; only the owner calls it.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            latest: As :meth:`CellInstrument.metric` takes it.
            observations: What the callbacks observed.
        """
        values = self._values(observations)
        starts: Any = self._starts_of(values, latest)
        points = [
            NumberDataPoint(
                attributes=self._known[key],
                start_time_unix_nano=starts[key],
                time_unix_nano=time,
                value=value,
                exemplars=[],
            )
            for key, value in values.items()
        ]
        return self._metric(self._data(points)) if points else None

    def _values(self, observations: Observations) -> dict[Hashable, int | float]:
        """Return values by label set, whose attributes are the objects of the collection before."""
        limit = self._shared.cardinality_limit
        known: dict[Hashable, Mapping[str, AttributeValue]] = {}
        values: dict[Hashable, int | float] = {}
        for key, attributes, value in observations:
            if key not in values and len(values) >= limit:
                self._overflow(known, values, value)
                continue
            values[key] = value
            known[key] = self._known.get(key, attributes)
        self._known = known
        return values

    def _overflow(
        self,
        known: dict[Hashable, Mapping[str, AttributeValue]],
        values: dict[Hashable, int | float],
        value: float,
    ) -> None:
        key = _OVERFLOW_KEY
        known[key] = known.get(key) or self._known.get(key) or dict(_OVERFLOW)
        values[key] = self._merged(values.get(key), value)
        self._shared.warn_once(
            (self, "overflow"),
            "the instrument %r observes more than %d label sets; the others are reported as "
            "'otel.metric.overflow'",
            self.name,
            self._shared.cardinality_limit,
        )

    def _starts_of(self, keys: Iterable[Hashable], latest: int) -> Mapping[Hashable, int | None]:
        """Return since when each label set has counted: since the last collection without it.

        One that is gone for a while and comes back goes on, so starts are kept; where there are
        too many of them, the provider's is not wrong either.
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
        """Return the overflow's value with one more label set in it."""
        total = read_number(value if before is None else before + value)
        return value if total is None else total

    @abstractmethod
    def _data(self, points: list[NumberDataPoint]) -> Sum | Gauge: ...


class CellObservableCounter(ObservedInstrument, ObservableCounter):
    """A counter that is observed."""

    def _data(self, points: list[NumberDataPoint]) -> Sum:
        return Sum(points, _CUMULATIVE, is_monotonic=True)


class CellObservableUpDownCounter(ObservedInstrument, ObservableUpDownCounter):
    """A counter that is observed and can fall."""

    def _data(self, points: list[NumberDataPoint]) -> Sum:
        return Sum(points, _CUMULATIVE, is_monotonic=False)


class CellObservableGauge(ObservedInstrument, ObservableGauge):
    """A gauge that is observed."""

    def _starts_of(
        self,
        keys: Iterable[Hashable],
        latest: int,  # noqa: ARG002 - a gauge has no start
    ) -> Mapping[Hashable, int | None]:
        return dict.fromkeys(keys)

    def _merged(self, before: float | None, value: float) -> float:  # noqa: ARG002 - the last wins
        return value

    def _data(self, points: list[NumberDataPoint]) -> Gauge:
        return Gauge(points)
