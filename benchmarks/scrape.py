"""How long a scrape takes: 10, 100 and 1,000 label sets of six instruments."""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from genmeter.outputs.prometheus import PrometheusReader

sys.path.insert(0, str(Path(__file__).parent))
from _table import Row, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.metrics.export import MetricReader

LABEL_SETS = (10, 100, 1000)
BOUNDS = [0.01 * 2**i for i in range(14)] + [163.84, 327.68]
COUNTERS = ("generations", "tokens.input", "tokens.output")
HISTOGRAMS = ("duration", "ttft")


def attribute_sets(count: int) -> list[dict[str, str]]:
    """Return label sets like those of a job of many models and steps."""
    pairs = product(range(count // 10), range(10))
    return [
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": f"organisation/model-{model}",
            "genmeter.step": f"step-{step}",
            "genmeter.phase": "generation",
        }
        for model, step in pairs
    ]


def fill_sdk(reader: MetricReader, sets: list[dict[str, str]]) -> MeterProvider:
    """Record every label set in three counters, an up-down counter and two histograms."""
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    meter = provider.get_meter("genmeter")
    counters = [meter.create_counter(name, "{token}", "A counter") for name in COUNTERS]
    counters.append(meter.create_up_down_counter("active", "{generation}", "A gauge"))
    histograms = [
        meter.create_histogram(name, "s", "A histogram", explicit_bucket_boundaries_advisory=BOUNDS)
        for name in HISTOGRAMS
    ]
    for index, attributes in enumerate(sets):
        for counter in counters:
            counter.add(index + 1, attributes)
        for histogram in histograms:
            histogram.record(0.02 * (index + 1), attributes)
    return provider


def fill_prometheus_client(registry: CollectorRegistry, sets: list[dict[str, str]]) -> None:
    """Record the same in prometheus_client's own instruments."""
    labels = [key.replace(".", "_") for key in sets[0]]
    arguments: dict[str, Any] = {"labelnames": labels, "registry": registry}
    counters = [Counter(name.replace(".", "_"), "A counter", **arguments) for name in COUNTERS]
    gauge = Gauge("active", "A gauge", **arguments)
    histograms = [
        Histogram(f"{name}_seconds", "A histogram", buckets=BOUNDS, **arguments)
        for name in HISTOGRAMS
    ]
    for index, attributes in enumerate(sets):
        values = tuple(attributes.values())
        for instrument in (*counters, gauge):
            instrument.labels(*values).inc(index + 1)
        for histogram in histograms:
            histogram.labels(*values).observe(0.02 * (index + 1))


def least(call: Callable[[], object], repeat: int) -> float:
    """Return the least time of so many calls, in seconds; one more call warms up."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def run(repeat: int) -> list[Row]:
    """Measure every way to a page, each the least of ``repeat`` scrapes."""
    rows = []
    for count in LABEL_SETS:
        sets = attribute_sets(count)
        reader = PrometheusReader()
        through_client = CollectorRegistry()
        through_client.register(reader.collector)
        upstream = CollectorRegistry()
        plain = CollectorRegistry()
        upstream_reader = PrometheusMetricReader(registry=upstream)
        providers = [fill_sdk(reader, sets), fill_sdk(upstream_reader, sets)]
        fill_prometheus_client(plain, sets)
        ways: list[tuple[str, Callable[[], object]]] = [
            ("genmeter, Prometheus text", lambda reader=reader: reader.render(False)),
            ("genmeter, OpenMetrics", lambda reader=reader: reader.render(True)),
            ("the SDK's collection alone", reader.collect),
            (
                "genmeter's collector, prometheus_client",
                lambda registry=through_client: generate_openmetrics(registry),
            ),
            (
                "opentelemetry-exporter-prometheus, Prometheus text",
                lambda registry=upstream: generate_latest(registry),
            ),
            (
                "prometheus_client's own instruments, Prometheus text",
                lambda registry=plain: generate_latest(registry),
            ),
        ]
        group = f"A scrape of {count:,} label sets of six instruments"
        rows += [Row(group, subject, least(call, repeat)) for subject, call in ways]
        for provider in providers:
            provider.shutdown()
    return rows


if __name__ == "__main__":
    print_table(run(repeat=7))
