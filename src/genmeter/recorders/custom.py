"""Custom metrics: what ``record_metric`` is told under any name, and instruments of the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genmeter import catalogue as cat
from genmeter.events import Reason
from genmeter.labels import LabelTable
from genmeter.recorders.cells import NO_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import Meter

    from genmeter.config import CustomMetric, MonitorConfig
    from genmeter.events import Metric
    from genmeter.recorders.cells import Batch, Cell

__all__ = ["CustomInstruments"]


class CustomInstruments:
    """Feeds the instruments of custom metrics. The drain's lock guards it.

    Args:
        meter: The meter to make the registered instruments of.
        config: The registered instruments, and the limits.
        batch: Where sums wait.
        value: The gauge of the last value of what is not registered.
        on_reject: Told the reason, a name and the value that was left out.
    """

    def __init__(
        self,
        meter: Meter,
        config: MonitorConfig,
        batch: Batch,
        value: Any,
        on_reject: Callable[[Reason, str, object], None],
    ) -> None:
        self._batch = batch
        self._value = value
        self._on_reject = on_reject
        self._samples: dict[str, tuple[Cell, Cell]] = {}
        self._last: dict[str, float] = {}
        self._limit = config.limits.custom_metrics
        self._combinations = config.limits.combinations
        self._rows = {row.name: row for row in config.custom_metrics}
        self._instruments = {row.name: _instrument(meter, row) for row in config.custom_metrics}
        self._cells: dict[tuple[Any, ...], Cell] = {}
        for row in config.custom_metrics:
            if row.kind in ("counter", "updown"):
                batch.register(row.name, self._instruments[row.name])
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

    def flush(self) -> None:
        """Hand the last values to the SDK."""
        for name, value in self._last.items():
            self._value.set(value, {cat.METRIC.key: name}, NO_SPAN)
        self._last.clear()

    def _feed(self, row: CustomMetric, event: Metric) -> None:
        if event.value < 0 and row.kind in ("counter", "histogram"):
            # The SDK drops it with a warning each time; ours is counted and said once.
            self._on_reject(Reason.NEGATIVE, row.name, event.value)
            return
        attributes = self._attributes(row, event.metadata)
        if row.kind == "histogram":
            self._instruments[row.name].record(event.value, attributes, NO_SPAN)
        elif row.kind == "gauge":
            self._instruments[row.name].set(event.value, attributes, NO_SPAN)
        else:
            self._cell(row.name, attributes).add(event.value)

    def _cell(self, name: str, attributes: dict[str, str]) -> Cell:
        key = (name, *attributes.items())
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= self._combinations:
                self._cells.clear()
            cell = self._cells[key] = self._batch.cell(name, attributes)
        return cell

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


def _instrument(meter: Meter, row: CustomMetric) -> Any:
    if row.kind == "histogram":
        return meter.create_histogram(
            row.name, row.unit, row.help, explicit_bucket_boundaries_advisory=row.bounds
        )
    make = {
        "counter": meter.create_counter,
        "updown": meter.create_up_down_counter,
        "gauge": meter.create_gauge,
    }[row.kind]
    return make(row.name, row.unit, row.help)
