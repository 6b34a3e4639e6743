"""Duration of a scrape of 10, 100 and 1,000 label sets of six instruments.

The first subject is genmeter as in a job, with the built-in provider owned by the pipeline's
thread. It is compared with the SDK's provider through the same bridge, among others.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from _measure import seconds, side_by_side
from _table import Aim, Row, at_most, ours_to, print_aims, print_table
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from genmeter import LabelLimits
from genmeter.exporters.prometheus import FamilyCollector, PrometheusBridge
from genmeter.exporters.provider import CollectingReader
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider as ApiProvider
    from opentelemetry.sdk.metrics.export import MetricReader

LABEL_SETS = (10, 100, 1000)
ROUNDS = 7
GROUP = "A scrape of {:,} label sets of six instruments"
OURS = "genmeter, Prometheus text"
THROUGH_SDK = "the SDK's provider through the same bridge"
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


def sdk_provider(reader: MetricReader) -> MeterProvider:
    """Create a provider of the SDK with a reader."""
    return MeterProvider(metric_readers=[reader], shutdown_on_exit=False)


def builtin_provider(closing: ExitStack) -> BuiltinMeterProvider:
    """Create the built-in provider, owned by a pipeline's thread as in a job."""
    pipeline = Pipeline(asdict(LabelLimits()), self_metrics=SelfMetrics())
    pipeline.start()
    closing.callback(pipeline.stop, 5.0)
    return BuiltinMeterProvider(pipeline, resource=Resource({}))


def fill(provider: ApiProvider, sets: list[dict[str, str]]) -> None:
    """Record every label set in three counters, an up-down counter and two histograms."""
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


def fill_prometheus_client(registry: CollectorRegistry, sets: list[dict[str, str]]) -> None:
    """Record the same with prometheus_client."""
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
    """Measure the ways to render a page, as the minimum of several scrapes."""
    rows: list[Row] = []
    for count in LABEL_SETS:
        with ExitStack() as closing:
            rows += _measure(count, closing)
    return rows


def _measure(count: int, closing: ExitStack) -> list[Row]:
    sets = attribute_sets(count)
    builtin = builtin_provider(closing)
    bridge = PrometheusBridge(builtin.collect)
    reader = CollectingReader()
    through_client, upstream, plain = (CollectorRegistry() for _ in range(3))
    through_client.register(FamilyCollector(bridge.collect_families))
    sdk = [sdk_provider(reader), sdk_provider(PrometheusMetricReader(registry=upstream))]
    for provider in (builtin, *sdk):
        fill(provider, sets)
        closing.callback(provider.shutdown)
    fill_prometheus_client(plain, sets)
    ways: dict[str, Callable[[], object]] = {
        OURS: partial(bridge.render, False),
        "genmeter, OpenMetrics": partial(bridge.render, True),
        "genmeter's collection alone": builtin.collect,
        "genmeter's collector, prometheus_client": partial(generate_openmetrics, through_client),
        THROUGH_SDK: partial(PrometheusBridge(reader.collect_data).render, False),
        "the SDK's collection alone": reader.collect,
        UPSTREAM: partial(generate_latest, upstream),
        "prometheus_client's own instruments, Prometheus text": partial(generate_latest, plain),
    }
    timed = {name: partial(seconds, way) for name, way in ways.items()}
    return [
        Row(GROUP.format(count), name, each.min, ratio=each.ratio)
        for name, each in side_by_side(timed, ROUNDS).items()
    ]


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    return [
        at_most(
            f"a scrape of {count:,} label sets: at most {promise}",
            ours_to(rows, GROUP.format(count), subject),
            limit,
        )
        for count in LABEL_SETS
        for promise, subject, limit in (
            ("1/3 of upstream's time", UPSTREAM, 1 / 3),
            ("1.0 of the SDK's provider", THROUGH_SDK, 1.0),
        )
    ]


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
