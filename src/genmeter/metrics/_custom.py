"""Custom metrics: values of ``record_metric``, registered as instruments or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from genmeter import clock
from genmeter.events.model import Reason
from genmeter.events.values import LabelTable
from genmeter.metrics._instruments import CellInstrument
from genmeter.metrics.binding import OVERFLOW, cells_of
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from genmeter.config.monitor import CustomMetric, MonitorConfig
    from genmeter.events.model import Metric
    from genmeter.metrics.binding import Attributes, BoundSum, Cells

__all__ = ["CustomInstruments"]


class CustomInstruments:
    """Records custom metrics; only the owner of the pipeline uses it.

    Args:
        config: The registered metrics, and the limits.
        instruments: The cells of every instrument, by name; :meth:`create` adds to it.
        on_reject: Called with the reason, a name and a dropped value.
    """

    def __init__(
        self,
        config: MonitorConfig,
        instruments: dict[str, Cells],
        on_reject: Callable[[Reason, str, object], None],
    ) -> None:
        self._instruments = instruments
        self._on_reject = on_reject
        self._combinations = config.limits.combinations
        self._rows = {row.name: row for row in config.custom_metrics}
        self._gauges: dict[str, _Gauge] = {}
        self._labels = {
            # An overflow is not reported: the caller chose these labels.
            (row.name, key): LabelTable(key, config.limits.custom_metrics, lambda _: None)
            for row in config.custom_metrics
            for key in row.labels
        }
        self.reset()

    def reset(self) -> None:
        """Forget every cell, in a forked child."""
        self._samples: dict[str, tuple[BoundSum, BoundSum]] = {}
        self._last: dict[str, float] = {}
        for gauge in self._gauges.values():
            gauge.values.clear()

    def record(self, event: Metric) -> None:
        """Record a value."""
        row = self._rows.get(event.name)
        if row is not None:
            self._record_registered(row, event)
            return
        cells = self._samples.get(event.name)
        if cells is None:
            attributes = {cat.METRIC.key: event.name}
            # Not the event's time, which the caller may have set: the series starts now.
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
        """Create the instruments of the registered metrics."""
        for row in self._rows.values():
            # promtool objects to a metric without a help text.
            text = row.help or f"Values of `record_metric` for {row.name}."
            instrument: Any
            if row.kind == "gauge":
                gauge = self._gauges[row.name] = _Gauge(self._combinations)
                meter.create_observable_gauge(row.name, [gauge.observe], row.unit, text)
                continue
            if row.kind == "histogram":
                instrument = meter.create_histogram(
                    row.name, row.unit, text, explicit_bucket_boundaries_advisory=row.bounds
                )
            elif row.kind == "counter":
                instrument = meter.create_counter(row.name, row.unit, text)
            else:
                instrument = meter.create_up_down_counter(row.name, row.unit, text)
            self._instruments[row.name] = cells_of(instrument, self._combinations)

    def observe_values(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Return the last value of each metric that is not registered."""
        return [
            Observation(value, {cat.METRIC.key: name}) for name, value in self._last.copy().items()
        ]

    def _record_registered(self, row: CustomMetric, event: Metric) -> None:
        if event.value < 0 and not self._takes_negative(row):
            # The SDK would log a warning each time; this is logged once and counted.
            self._on_reject(Reason.NEGATIVE, row.name, event.value)
            return
        attributes = {}
        for key in row.labels:
            label = self._labels[row.name, key].clean(event.metadata.get(key))
            if label is not None:
                attributes[key] = label
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
        if row.kind == "histogram":  # the SDK's drop negative values
            has_negative_bounds = bool(row.bounds) and row.bounds[0] < 0
            return has_negative_bounds and isinstance(self._instruments[row.name], CellInstrument)
        return row.kind != "counter"


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
