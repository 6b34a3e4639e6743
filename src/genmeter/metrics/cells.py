"""The state of one time series: a sum, a histogram or a last value.

A cell belongs to the owner of the meter's state: it has no lock, and only the owner may use it. A
collection copies what it reads, so a point never changes after it was returned.

Times that a caller passes are Unix seconds, as the recorders have them; a cell's ``start`` is Unix
nanoseconds, as OpenTelemetry has it.
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
    "BIRTH_MARGIN_NS",
    "MAX_FLOAT",
    "MAX_INT",
    "Cell",
    "GaugeCell",
    "HistogramCell",
    "SumCell",
    "birth_ns",
]

BIRTH_MARGIN_NS = 1_000_000_000
"""How much earlier than its first event a series starts, in nanoseconds.

Prometheus dates a sample when it begins to ask. An event that arrives before the answer is written
would be later than its own sample, and the ingestion of created timestamps would see a reset. What
makes the answer late, such as another library's callback that takes seconds, does not matter: a
collection dates back what is younger than this, as seen from its own beginning.
"""

MAX_INT = 2**63 - 1
"""The largest integer that OTLP's fixed 64 bits hold; one sum past it fails every later export."""

MAX_FLOAT = 1e308
"""The largest float of a sum; an infinite sum fails every later scrape."""


def birth_ns(time: float) -> int:
    """Return the start of a series, in Unix nanoseconds.

    Args:
        time: The time of its first event, in Unix seconds.
    """
    return max(0, int(time * 1e9) - BIRTH_MARGIN_NS)


class SumCell:
    """The sum of one label set of a counter or an up-down counter.

    The recorder may also add to ``value`` directly where the sum cannot leave its range.

    Args:
        attributes: The label set; points refer to this very object.
        start: When the series was born, in Unix nanoseconds.
    """

    __slots__ = ("attributes", "exemplar", "start", "value")

    def __init__(self, attributes: Mapping[str, AttributeValue], start: int) -> None:
        self.attributes = attributes
        self.start = start
        self.value: int | float = 0
        self.exemplar: Sample | None = None

    def add(self, amount: float, time: float = 0.0, span: SpanContext | None = None) -> bool:
        """Add to the sum.

        Args:
            amount: What to add.
            time: When, in Unix seconds; needed with a span only.
            span: The sampled span that it was measured in, which becomes the exemplar.

        Returns:
            Whether it was added; a sum that would leave the range of the exporters stays as it is.
        """
        try:
            value = self.value + amount
        except OverflowError:  # an integer that no float holds
            return False
        if type(value) is int:
            if not -MAX_INT <= value <= MAX_INT:
                return False
        elif not -MAX_FLOAT <= value <= MAX_FLOAT:  # nor not a number
            return False
        self.value = value
        if span is not None:
            self.exemplar = (amount, time, span)
        return True

    def point(self, time: int, *, exemplars: bool) -> NumberDataPoint:
        """Return the current state.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            exemplars: Whether the exemplar is included.
        """
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
        attributes: The label set; points refer to this very object.
        start: When the series was born, in Unix nanoseconds.
        bounds: The upper bounds of the buckets but for the last one, strictly increasing.
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
        """Record a value.

        Args:
            value: What was measured.
            time: When, in Unix seconds.
            span: The sampled span that it was measured in, which becomes its bucket's exemplar.

        Returns:
            Whether it was recorded; a value that would make the sum infinite is not.
        """
        try:
            total = self.sum + value
        except OverflowError:  # an integer that no float holds
            return False
        if not -MAX_FLOAT <= total <= MAX_FLOAT:  # nor not a number
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
        """Return the current state.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            exemplars: Whether the exemplars are included.

        Returns:
            The point; None before the first record, when there is neither minimum nor maximum.
        """
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
        attributes: The label set; points refer to this very object.
        start: When the series was born, in Unix nanoseconds.
    """

    __slots__ = ("attributes", "exemplar", "start", "value")

    def __init__(self, attributes: Mapping[str, AttributeValue], start: int) -> None:
        self.attributes = attributes
        self.start = start
        self.value: int | float | None = None
        self.exemplar: Sample | None = None

    def set(self, value: float, time: float = 0.0, span: SpanContext | None = None) -> bool:
        """Set the value.

        Args:
            value: The new value.
            time: When, in Unix seconds; needed with a span only.
            span: The sampled span that it was measured in, which becomes the exemplar.

        Returns:
            Whether it was set; a value outside the range of the exporters is not.
        """
        limit = MAX_INT if type(value) is int else MAX_FLOAT
        if not -limit <= value <= limit:
            return False
        self.value = value
        if span is not None:
            self.exemplar = (value, time, span)
        return True

    def point(self, time: int, *, exemplars: bool) -> NumberDataPoint | None:
        """Return the current state.

        Args:
            time: The time of the collection, in Unix nanoseconds.
            exemplars: Whether the exemplar is included.

        Returns:
            The point, without a start like every gauge's; None before the first value.
        """
        if self.value is None:
            return None
        return NumberDataPoint(
            attributes=self.attributes,
            start_time_unix_nano=None,  # type: ignore[arg-type] # as the SDK's gauges have it
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
