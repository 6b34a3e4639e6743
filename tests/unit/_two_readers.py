"""A monitor whose metrics have two readers: a page and OTLP."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from genmeter.config.monitor import MonitorConfig
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.testing import IsolatedMonitor, fresh_runtime, isolated_monitor
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.metrics.export import MetricsData

__all__ = ["PROVIDERS", "TwoReaders", "check_outputs", "two_readers"]

PROVIDERS = ("builtin", "sdk")
"""The meter providers of a monitor."""


class TwoReaders(NamedTuple):
    """A monitor and the collections of its second reader."""

    monitor: IsolatedMonitor
    collect: Callable[[], MetricsData | None]


@contextmanager
def two_readers(
    config: MonitorConfig | None = None, *, provider: str = "builtin", **kwargs: Any
) -> Iterator[TwoReaders]:
    """Return a monitor with a page and a second reader, and shut it down after the block.

    Args:
        config: Its settings.
        provider: One of :data:`PROVIDERS`.
        **kwargs: Further arguments of the monitor.
    """
    if provider == "builtin":
        with isolated_monitor(config, **kwargs) as monitor:
            made = monitor._runtime._external.keys()
            (found,) = [each for each in made if isinstance(each, BuiltinMeterProvider)]
            yield TwoReaders(monitor, found.collect)
        return
    reader, memory = PrometheusReader(), InMemoryMetricReader()
    sdk = MeterProvider([reader, memory], resource=Resource({}), shutdown_on_exit=False)
    config = dataclasses.replace(config or MonitorConfig(), drain="inline", meter_provider=sdk)
    with fresh_runtime(), IsolatedMonitor(reader.bridge, config=config, **kwargs) as monitor:
        yield TwoReaders(monitor, memory.get_metrics_data)


def check_outputs(read: TwoReaders) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Parse both pages strictly, encode for OTLP, and return the samples of OpenMetrics."""
    monitor = read.monitor
    old = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(monitor.page())
        for sample in family.samples
    }
    assert old
    samples = {}
    for family in parse_openmetrics(monitor.page(openmetrics=True)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
            assert all(0 < len(value) <= 128 for value in sample.labels.values()), sample
    data = read.collect()
    assert data is not None
    assert encode_metrics(data).SerializeToString()
    return samples
