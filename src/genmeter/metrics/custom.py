"""Custom metrics: those that ``record_metric`` is given, and instruments of the caller's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from genmeter import clock
from genmeter.events.model import Reason
from genmeter.events.values import LabelTable
from genmeter.metrics.binding import OVERFLOW, cells_of
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter

    from genmeter.config.monitor import CustomMetric, MonitorConfig
    from genmeter.events.model import Metric
    from genmeter.metrics.binding import Attributes, BoundSum, Cells

__all__ = ["CustomInstruments"]


class CustomInstruments:
    """Feeds the instruments of custom metrics; the pipeline's owner alone uses it.

    Args:
        config: The registered instruments, and the limits.
        instruments: The cells of every instrument, by name; :meth:`create` adds to it.
        on_reject: Called with the reason, a name and the value that was dropped.
    """

    def __init__(
        self,
        config: MonitorConfig,
        instruments: dict[str, Cells],
        on_reject: Callable[[Reason, str, object], None],
    ) -> None:
        self._instruments = instruments
        self._on_reject = on_reject
        self._limit = config.limits.custom_metrics
        self._combinations = config.limits.combinations
        self._rows = {row.name: row for row in config.custom_metrics}
        self._gauges: dict[str, _Gauge] = {}
        self._labels = {
            (row.name, key): LabelTable(key, self._limit, _ignore)
            for row in config.custom_metrics
            for key in row.labels
        }
        self.reset()

    def reset(self) -> None:
        """Forget every cell, in a forked child, whose provider starts at 0."""
        self._samples: dict[str, tuple[BoundSum, BoundSum]] = {}
        self._last: dict[str, float] = {}
        for gauge in self._gauges.values():
            gauge.values.clear()

    def record(self, event: Metric) -> None:
        """Feed a value to its instrument."""
        row = self._rows.get(event.name)
        if row is not None:
            self._feed(row, event)
            return
        cells = self._samples.get(event.name)
        if cells is None:
            attributes = {cat.METRIC.key: event.name}
            # Not the event's time, which may be a caller's: the series begins to count now.
            now = clock.now()
            cells = (
                self._instruments[cat.CUSTOM_SAMPLES.name].cell(attributes, now),
                self._instruments[cat.CUSTOM_ACCUMULATED.name].cell(attributes, now),
            )
            self._samples[event.name] = cells
        samples, accumulated = cells
        samples.add(1)
        if not accumulated.add(event.value):
            self._on_reject(Reason.OVERFLOW, cat.CUSTOM_ACCUMULATED.name, event.value)
        self._last[event.name] = event.value

    def create(self, meter: Meter) -> None:
        """Make the registered instruments."""
        for row in self._rows.values():
            # promtool objects to a metric without a help text.
            text = row.help or f"Values that `record_metric` was given for {row.name}."
            arguments = (row.name, row.unit, text)
            made: Any
            if row.kind == "histogram":
                made = meter.create_histogram(
                    *arguments, explicit_bucket_boundaries_advisory=row.bounds
                )
            elif row.kind == "gauge":
                gauge = self._gauges[row.name] = _Gauge(self._combinations)
                meter.create_observable_gauge(row.name, [gauge.observe], row.unit, text)
                continue
            elif row.kind == "counter":
                made = meter.create_counter(*arguments)
            else:
                made = meter.create_up_down_counter(*arguments)
            self._instruments[row.name] = cells_of(made, self._combinations)

    def observe_values(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Give the last value of each metric that is not registered."""
        return [
            Observation(value, {cat.METRIC.key: name}) for name, value in self._last.copy().items()
        ]

    def _feed(self, row: CustomMetric, event: Metric) -> None:
        if event.value < 0 and not self._takes_negative(row):
            # The SDK drops it with a warning each time; ours is counted and logged once.
            self._on_reject(Reason.NEGATIVE, row.name, event.value)
            return
        attributes = self._attributes(row, event.metadata)
        if row.kind == "gauge":
            self._gauges[row.name].set(event.value, attributes)
            return
        cell = self._instruments[row.name].cell(attributes, clock.now())
        if row.kind == "histogram":
            is_kept = cell.record(event.value, event.time, None)
        else:
            is_kept = cell.add(event.value)
        if not is_kept:
            self._on_reject(Reason.OVERFLOW, row.name, event.value)

    def _takes_negative(self, row: CustomMetric) -> bool:
        if row.kind == "histogram":
            has_negative_bounds = bool(row.bounds) and row.bounds[0] < 0
            return has_negative_bounds and self._instruments[row.name].takes_negative
        return row.kind != "counter"

    def _attributes(self, row: CustomMetric, metadata: Mapping[str, Any]) -> dict[str, str]:
        attributes = {}
        for key in row.labels:
            value = self._labels[row.name, key].clean(metadata.get(key))
            if value is not None:
                attributes[key] = value
        return attributes


def _ignore(name: str) -> None:
    """Let a registered metric's own label overflow: its limit is the caller's business."""


class _Gauge:
    """The last values of a registered gauge, by label set."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.values: dict[tuple[tuple[str, str], ...], tuple[float, Attributes]] = {}

    def set(self, value: float, attributes: dict[str, str]) -> None:
        key = tuple(attributes.items())
        if key not in self.values and len(self.values) >= self._limit:
            self.values[()] = (value, OVERFLOW)
        else:
            self.values[key] = (value, attributes)

    def observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, labels) for value, labels in self.values.copy().values()]
