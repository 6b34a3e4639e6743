"""Custom metrics: what ``record_metric`` is told under any name, and instruments of the caller's."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from genmeter import catalogue as cat
from genmeter.events import Reason
from genmeter.labels import LabelTable
from genmeter.recorders.cells import NO_SPAN, LabelSets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from genmeter.config import CustomMetric, MonitorConfig
    from genmeter.events import Metric
    from genmeter.recorders.cells import Attributes, Batch, Cell

__all__ = ["CustomInstruments"]


class CustomInstruments:
    """Feeds the instruments of custom metrics. The drain's lock guards it.

    Args:
        config: The registered instruments, and the limits.
        batch: Where sums wait.
        on_reject: Told the reason, a name and the value that was left out.
    """

    def __init__(
        self,
        config: MonitorConfig,
        batch: Batch,
        on_reject: Callable[[Reason, str, object], None],
    ) -> None:
        self._batch = batch
        self._on_reject = on_reject
        self._samples: dict[str, tuple[Cell, Cell]] = {}
        self._last: dict[str, float] = {}
        self._limit = config.limits.custom_metrics
        self._rows = {row.name: row for row in config.custom_metrics}
        self._sets = LabelSets(config.limits.combinations)
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, dict[int, tuple[float, Attributes]]] = {}
        self._labels = {
            (row.name, key): LabelTable(key, self._limit, _ignore)
            for row in config.custom_metrics
            for key in row.labels
        }

    def record(self, event: Metric) -> None:
        """Feed a value to its instrument."""
        row = self._rows.get(event.name)
        if row is not None:
            self._feed(row, event)
            return
        cells = self._samples.get(event.name)
        if cells is None:
            attributes = {cat.METRIC.key: event.name}
            cells = (
                self._batch.cell(cat.CUSTOM_SAMPLES.name, attributes),
                self._batch.cell(cat.CUSTOM_ACCUMULATED.name, attributes),
            )
            self._samples[event.name] = cells
        samples, accumulated = cells
        samples.add(1)
        accumulated.add(event.value)
        self._last[event.name] = event.value

    def create(self, meter: Meter) -> None:
        """Make the registered instruments."""
        for row in self._rows.values():
            # promtool objects to a metric without a help text.
            text = row.help or f"Values that `record_metric` was given for {row.name}."
            arguments = (row.name, row.unit, text)
            if row.kind == "histogram":
                self._histograms[row.name] = meter.create_histogram(
                    *arguments, explicit_bucket_boundaries_advisory=row.bounds
                )
            elif row.kind == "gauge":
                values = self._gauges[row.name] = {}
                observe = functools.partial(_observe, values)
                meter.create_observable_gauge(row.name, [observe], row.unit, text)
            elif row.kind == "counter":
                self._batch.register(row.name, meter.create_counter(*arguments))
            else:
                self._batch.register(row.name, meter.create_up_down_counter(*arguments))

    def observe_values(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Give the last value of each metric that is not registered."""
        return [
            Observation(value, {cat.METRIC.key: name}) for name, value in self._last.copy().items()
        ]

    def _feed(self, row: CustomMetric, event: Metric) -> None:
        if event.value < 0 and row.kind in ("counter", "histogram"):
            # The SDK drops it with a warning each time; ours is counted and said once.
            self._on_reject(Reason.NEGATIVE, row.name, event.value)
            return
        attributes = self._attributes(row, event.metadata)
        if row.kind in ("counter", "updown"):
            self._batch.cell(row.name, attributes).add(event.value)
            return
        admitted = self._sets.admit(row.name, attributes)
        if row.kind == "histogram":
            self._histograms[row.name].record(event.value, admitted, NO_SPAN)
        else:
            self._gauges[row.name][id(admitted)] = (event.value, admitted)

    def _attributes(self, row: CustomMetric, metadata: Mapping[str, Any]) -> dict[str, str]:
        attributes = {}
        for key in row.labels:
            try:
                given = metadata.get(key)
            except Exception:
                given = None  # the caller's own keys may be of a class that cannot be compared
            value = self._labels[row.name, key].clean(given)
            if value is not None:
                attributes[key] = value
        return attributes


def _ignore(name: str) -> None:
    """Let a registered metric's own label overflow: its limit is the caller's business."""


def _observe(
    values: Mapping[int, tuple[float, Attributes]], _options: CallbackOptions
) -> Iterable[Observation]:
    return [Observation(value, attributes) for value, attributes in dict(values).values()]
