"""The state of one time series: a sum, a histogram or a last value.

A cell has no lock: only the owner of the meter's state may use it. A collection copies what it
reads, so a point never changes after it is returned.

Times are Unix seconds, as in events; a cell's ``start`` and the time of a collection are Unix
nanoseconds, as in OpenTelemetry.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext
    from opentelemetry.util.types import AttributeValue

    Sample = tuple[float, float, SpanContext]  # value, Unix seconds, the span

__all__ = [
    "MAX_FLOAT",
    "MAX_INT",
    "START_MARGIN_NS",
    "Cell",
    "GaugeCell",
    "HistogramCell",
    "SumCell",
    "start_ns",
]

START_MARGIN_NS = 1_000_000_000
"""How much earlier than its first event a series starts, in nanoseconds.

Prometheus dates a sample at the start of the scrape. A series that started later, before the
response was written, would look like a reset to the ingestion of created timestamps. The margin
need not cover slow collections: a collection moves the start of younger series to this long before
its own beginning.
"""

MAX_INT = 2**63 - 1
"""The largest integer that fits OTLP's 64 bits; a larger sum fails every later export."""

MAX_FLOAT = 1e308
"""The largest float of a sum; an infinite sum fails every later scrape."""


def start_ns(time: float) -> int:
    """Return the start of a series, in Unix nanoseconds, from the time of its first event."""
    return max(0, int(time * 1e9) - START_MARGIN_NS)


class SumCell:
    """The sum of one label set of a counter or an up-down counter.

    Args:
        attributes: The label set; points refer to the same object.
        start: Start of the series, in Unix nanoseconds.
    """

    __slots__ = ("attributes", "exemplar", "start", "value")

    def __init__(self, attributes: Mapping[str, AttributeValue], start: int) -> None:
        self.attributes = attributes
        self.start = start
        self.value: int | float = 0
        self.exemplar: Sample | None = None

    def add(self, amount: float, time: float = 0.0, span: SpanContext | None = None) -> bool:
        """Add to the sum, unless it would leave the range of the exporters.

        Args:
            amount: The amount.
            time: Time of the exemplar.
            span: The sampled span of the measurement, which becomes the exemplar.

        Returns:
            Whether the amount was added.
        """
        try:
            value = self.value + amount
        except OverflowError:  # an integer too large for a float
            return False
        if type(value) is int:
            if not -MAX_INT <= value <= MAX_INT:
                return False
        elif not -MAX_FLOAT <= value <= MAX_FLOAT:  # false for NaN too
            return False
        self.value = value
        if span is not None:
            self.exemplar = (amount, time, span)
        return True

    def point(self, time: int, *, exemplars: bool) -> NumberDataPoint:
        """Return the current state, at the time of a collection."""
        return NumberDataPoint(
            attributes=self.attributes,
            start_time_unix_nano=self.start,
            time_unix_nano=time,
            value=self.value,
            exemplars=[_exemplar(self.exemplar)] if exemplars and self.exemplar else [],
        )


class HistogramCell:
    """The buckets of one label set of a histogram.

    Args:
        attributes: The label set; points refer to the same object.
        start: Start of the series, in Unix nanoseconds.
        bounds: The upper bounds of all buckets except the last, strictly increasing.
    """

    __slots__ = ("attributes", "bounds", "counts", "exemplars", "max", "min", "start", "sum")

    def __init__(
        self, attributes: Mapping[str, AttributeValue], start: int, bounds: tuple[float, ...]
    ) -> None:
        self.attributes = attributes
        self.start = start
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: int | float = 0
        self.min: int | float = math.inf
        self.max: int | float = -math.inf
        self.exemplars: dict[int, Sample] | None = None

    def record(self, value: float, time: float, span: SpanContext | None) -> bool:
        """Record a value, unless the sum would become infinite.

        Args:
            value: The value.
            time: Time of the exemplar.
            span: The sampled span of the measurement, which becomes the exemplar of its bucket.

        Returns:
            Whether the value was recorded.
        """
        try:
            total = self.sum + value
        except OverflowError:  # an integer too large for a float
            return False
        if not -MAX_FLOAT <= total <= MAX_FLOAT:  # false for NaN too
            return False
        index = bisect_left(self.bounds, value)
        self.sum = total
        self.counts[index] += 1
        if value < self.min:  # noqa: PLR1730 - a call of min() costs more than all the rest
            self.min = value
        if value > self.max:  # noqa: PLR1730
            self.max = value
        if span is not None:
            if self.exemplars is None:
                self.exemplars = {}
            self.exemplars[index] = (value, time, span)
        return True

    def point(self, time: int, *, exemplars: bool) -> HistogramDataPoint | None:
        """Return the current state; None before the first value, without minimum and maximum."""
        count = sum(self.counts)
        if not count:
            return None
        samples = self.exemplars if exemplars else None
        return HistogramDataPoint(
            attributes=self.attributes,
            start_time_unix_nano=self.start,
            time_unix_nano=time,
            count=count,
            sum=self.sum,
            bucket_counts=tuple(self.counts),
            explicit_bounds=self.bounds,
            min=self.min,
            max=self.max,
            exemplars=[_exemplar(samples[index]) for index in sorted(samples)] if samples else [],
        )


class GaugeCell:
    """The last value of one label set of a gauge.

    Args:
        attributes: The label set; points refer to the same object.
        start: Start of the series, in Unix nanoseconds; points have none.
    """

    __slots__ = ("attributes", "exemplar", "start", "value")

    def __init__(self, attributes: Mapping[str, AttributeValue], start: int) -> None:
        self.attributes = attributes
        self.start = start
        self.value: int | float | None = None
        self.exemplar: Sample | None = None

    def set(self, value: float, time: float = 0.0, span: SpanContext | None = None) -> bool:
        """Set the value, unless it is outside the range of the exporters.

        Args:
            value: The value.
            time: Time of the exemplar.
            span: The sampled span of the measurement, which becomes the exemplar.

        Returns:
            Whether the value was set.
        """
        limit = MAX_INT if type(value) is int else MAX_FLOAT
        if not -limit <= value <= limit:
            return False
        self.value = value
        if span is not None:
            self.exemplar = (value, time, span)
        return True

    def point(self, time: int, *, exemplars: bool) -> NumberDataPoint | None:
        """Return the current state; None before the first value."""
        if self.value is None:
            return None
        return NumberDataPoint(
            attributes=self.attributes,
            start_time_unix_nano=None,  # type: ignore[arg-type] # as in the SDK's gauges
            time_unix_nano=time,
            value=self.value,
            exemplars=[_exemplar(self.exemplar)] if exemplars and self.exemplar else [],
        )


Cell = TypeVar("Cell", SumCell, HistogramCell, GaugeCell)


def _exemplar(sample: Sample) -> Exemplar:
    value, time, span = sample
    return Exemplar(
        filtered_attributes={},
        value=value,
        time_unix_nano=int(time * 1e9),
        span_id=span.span_id,
        trace_id=span.trace_id,
    )
