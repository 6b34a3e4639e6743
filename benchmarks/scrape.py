"""How long a scrape takes: 10, 100 and 1,000 label sets of six instruments."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from _measure import seconds, side_by_side
from _table import Aim, Row, at_most, ours_to, print_aims, print_table
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from genmeter.outputs.prometheus import PrometheusReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.metrics.export import MetricReader

LABEL_SETS = (10, 100, 1000)
ROUNDS = 7
GROUP = "A scrape of {:,} label sets of six instruments"
OURS = "genmeter, Prometheus text"
UPSTREAM = "opentelemetry-exporter-prometheus, Prometheus text"
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


def run() -> list[Row]:
    """Measure every way to a page, each the least of so many scrapes."""
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
        ways: dict[str, Callable[[], object]] = {
            OURS: partial(reader.render, False),
            "genmeter, OpenMetrics": partial(reader.render, True),
            "the SDK's collection alone": reader.collect,
            "genmeter's collector, prometheus_client": partial(
                generate_openmetrics, through_client
            ),
            UPSTREAM: partial(generate_latest, upstream),
            "prometheus_client's own instruments, Prometheus text": partial(generate_latest, plain),
        }
        timed = {name: partial(seconds, way) for name, way in ways.items()}
        rows += [
            Row(GROUP.format(count), name, each.least, ratio=each.ratio)
            for name, each in side_by_side(timed, ROUNDS).items()
        ]
        for provider in providers:
            provider.shutdown()
    return rows


def aims(rows: list[Row]) -> list[Aim]:
    """Judge the figures."""
    return [
        at_most(
            f"a scrape of {count:,} label sets: at most 1/3 of upstream's time",
            ours_to(rows, GROUP.format(count), UPSTREAM),
            1 / 3,
        )
        for count in LABEL_SETS
    ]


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
