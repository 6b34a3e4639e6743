"""The built-in meter: OpenTelemetry's metrics API over cumulative cells."""

from genmeter.metrics.cells import BIRTH_MARGIN_NS, GaugeCell, HistogramCell, SumCell
from genmeter.metrics.instruments import CellCounter, CellGauge, CellHistogram, CellUpDownCounter
from genmeter.metrics.meter import BuiltinMeter, BuiltinMeterProvider, LockedOwner, Owner

__all__ = [
    "BIRTH_MARGIN_NS",
    "BuiltinMeter",
    "BuiltinMeterProvider",
    "CellCounter",
    "CellGauge",
    "CellHistogram",
    "CellUpDownCounter",
    "GaugeCell",
    "HistogramCell",
    "LockedOwner",
    "Owner",
    "SumCell",
]
