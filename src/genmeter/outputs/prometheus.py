"""The bridge from OpenTelemetry's metrics to Prometheus.

`PrometheusReader` is a metric reader for any MeterProvider. What it collects leaves in one of two
ways: `PrometheusReader.render` writes a page itself, and `PrometheusReader.collector` can be
registered in a registry of prometheus_client, for a program that exposes one already.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import MetricReader
from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from genmeter.errors import ConfigError
from genmeter.outputs import exposition
from genmeter.outputs.families import Translator, has_sum
from genmeter.outputs.readers import cardinality_arguments
from genmeter.outputs.series import bucket_exemplars, exemplar_of, finite_bounds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.sdk.metrics.export import MetricsData

    from genmeter.outputs.families import Family
    from genmeter.outputs.series import ExemplarText, Labels

__all__ = ["FamilyCollector", "PrometheusReader"]


class PrometheusReader(MetricReader):
    """A metric reader whose metrics are pulled as a Prometheus page.

    One lock is held over each collection and its rendering. A collection that fails or outlasts
    its time raises, so that a scrape is a whole page or none.

    Args:
        cardinality_limit: Label sets that one instrument may have, 1 or more. What comes after is
            counted under ``otel_metric_overflow="true"``. SDKs that cannot be told keep to 2,000.
        own_scope: The instrumentation scope whose metrics get no ``otel_scope_*`` labels.
        target_info: Whether the resource's attributes are exposed as ``target_info``.
        timeout: Seconds that a collection may take.

    Attributes:
        collection_lock: Held during a collection. Who forks holds it over the fork, so that the
            child does not inherit a half-done one.
        collector: The same metrics for a ``prometheus_client.CollectorRegistry``.

    Raises:
        ConfigError: ``cardinality_limit`` or ``timeout`` is out of range.
    """

    def __init__(
        self,
        *,
        cardinality_limit: int = 2000,
        own_scope: str = "genmeter",
        target_info: bool = True,
        timeout: float = 10.0,
    ) -> None:
        if type(cardinality_limit) is not int or cardinality_limit < 1:
            raise ConfigError(
                f"cardinality_limit is {cardinality_limit!r}; give a whole number, 1 or more"
            )
        if not timeout > 0:
            raise ConfigError(f"timeout is {timeout!r}; give seconds, more than 0")
        super().__init__(**cardinality_arguments(MetricReader, cardinality_limit))
        self.collection_lock = threading.Lock()
        self.collector = FamilyCollector(self)
        self._timeout = timeout
        self._translator = Translator(own_scope=own_scope, target_info=target_info)
        self._received: MetricsData | None = None
        self._stopped = False

    def render(self, openmetrics: bool) -> bytes:
        """Collect, and write a page.

        Args:
            openmetrics: OpenMetrics 1.0, with units and exemplars, rather than Prometheus 0.0.4.

        Returns:
            The page in UTF-8; after `shutdown` one without metrics.

        Raises:
            TimeoutError: Another collection did not end in time.
            Exception: Whatever the SDK raises for a collection that fails or takes too long.
        """
        with self._collection() as families:
            return exposition.write(families, openmetrics=openmetrics)

    def collect_families(self) -> list[Metric]:
        """Collect, and return metric families of prometheus_client; raises as `render` does."""
        with self._collection() as families:
            return [_to_metric(family) for family in families]

    @contextmanager
    def _collection(self) -> Iterator[list[Family]]:
        if not self.collection_lock.acquire(timeout=self._timeout):
            raise TimeoutError(
                f"another collection has not ended for {self._timeout} s; a callback of an "
                "observable instrument hangs"
            )
        try:
            self._received = None
            if not self._stopped:
                self.collect(timeout_millis=self._timeout * 1e3)
            received, self._received = self._received, None
            yield self._translator.families(received)
        finally:
            self.collection_lock.release()

    def _receive_metrics(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: Any,
    ) -> None:
        del timeout_millis, kwargs
        self._received = metrics_data

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing, since pages are pulled; always True."""
        del timeout_millis
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Collect no more; pages are empty from here on. Further calls do nothing."""
        del timeout_millis, kwargs
        self._stopped = True


class FamilyCollector(Collector):
    """A reader's metrics as a collector of prometheus_client.

    Args:
        reader: Where the metrics come from.
    """

    def __init__(self, reader: PrometheusReader) -> None:
        self._reader = reader

    def collect(self) -> Iterable[Metric]:
        """Collect from the SDK; raises as `PrometheusReader.render` does."""
        return self._reader.collect_families()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing, so that registering does not collect."""
        return ()


def _to_metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind, family.unit)
    if family.kind == "info":
        metric.add_sample(f"{family.name}_info", dict(family.info), 1)
    for labels, point in family.points():
        if family.kind == "histogram":
            _add_histogram(metric, labels, point)
        elif family.kind == "counter":
            _add_counter(metric, labels, point)
        else:
            metric.add_sample(family.name, dict(labels.pairs), exposition.to_float(point.value))
    return metric


def _add_counter(metric: Metric, labels: Labels, point: Any) -> None:
    metric.add_sample(
        f"{metric.name}_total",
        dict(labels.pairs),
        exposition.to_float(point.value),
        exemplar=_to_exemplar(exemplar_of(point.exemplars)),
    )
    _add_created(metric, labels)


def _add_histogram(metric: Metric, labels: Labels, point: Any) -> None:
    bounds = finite_bounds(point.explicit_bounds)
    exemplars = bucket_exemplars(point)
    counts = list(accumulate(point.bucket_counts))
    counts[len(bounds) :] = counts[-1:]
    for index, (bound, count) in enumerate(zip([*bounds, float("inf")], counts, strict=True)):
        metric.add_sample(
            f"{metric.name}_bucket",
            {**dict(labels.pairs), "le": exposition.go_text(bound)},
            count,
            exemplar=_to_exemplar(exemplars.get(index)),
        )
    if has_sum(point):
        metric.add_sample(f"{metric.name}_count", dict(labels.pairs), counts[-1])
        total = exposition.to_float(point.sum)
        metric.add_sample(f"{metric.name}_sum", dict(labels.pairs), total)
    _add_created(metric, labels)


def _add_created(metric: Metric, labels: Labels) -> None:
    if labels.created:
        metric.add_sample(f"{metric.name}_created", dict(labels.pairs), float(labels.created))


def _to_exemplar(exemplar: ExemplarText | None) -> Exemplar | None:
    if exemplar is None:
        return None
    return Exemplar(dict(exemplar.labels), exposition.to_float(exemplar.value), exemplar.timestamp)
