"""A monitor whose metrics are read twice: as a page, and as what OTLP sends."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from genmeter.config import MonitorConfig
from genmeter.outputs.prometheus import PrometheusReader
from genmeter.testing import IsolatedMonitor, fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TwiceRead", "check_outputs", "twice_read"]


class TwiceRead(IsolatedMonitor):
    """An isolated monitor with a second reader."""

    memory: InMemoryMetricReader


@contextmanager
def twice_read(config: MonitorConfig | None = None, **kwargs: Any) -> Iterator[TwiceRead]:
    """Make a monitor with a page and a second reader, and shut it down after the block."""
    reader, memory = PrometheusReader(), InMemoryMetricReader()
    provider = MeterProvider([reader, memory], resource=Resource({}), shutdown_on_exit=False)
    config = dataclasses.replace(config or MonitorConfig(), drain="inline", meter_provider=provider)
    with fresh_runtime(), TwiceRead(reader, config=config, **kwargs) as monitor:
        monitor.memory = memory
        yield monitor


def check_outputs(monitor: TwiceRead) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Parse both pages strictly, encode for OTLP, and give the samples of the OpenMetrics page."""
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
    data = monitor.memory.get_metrics_data()
    assert data is not None
    assert encode_metrics(data).SerializeToString()
    return samples
