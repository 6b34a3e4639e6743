"""The bridge from OpenTelemetry metrics to Prometheus.

`PrometheusBridge.render` collects and writes a page. A `FamilyCollector` can be registered in a registry
of prometheus_client, for a program that already exposes one.
"""

from __future__ import annotations

import math
import os
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from genmeter.config.checks import number
from genmeter.exporters import _prometheus_text as exposition
from genmeter.exporters._families import (
    Translator,
    bucket_exemplars,
    exemplar_of,
    finite_bounds,
    openmetrics_has_sum,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from opentelemetry.sdk.metrics.export import MetricsData

    from genmeter.exporters._families import ExemplarText, Family, Pairs

__all__ = ["FamilyCollector", "PrometheusBridge"]

# prometheus_client's variable.
_DISABLE_CREATED = "PROMETHEUS_DISABLE_CREATED_SERIES"


class PrometheusBridge:
    """Turns collections of OpenTelemetry metrics into Prometheus pages.

    It is thread-safe without a lock: concurrent requests are collected and written concurrently.

    Args:
        collect: Returns the current metrics, or None without any. It is called with the seconds
            that it may take. `render` passes its exceptions on, so that a scrape is a whole page or
            none. If it returns the same attributes object for a point at every collection, the text
            of the labels is cached.
        own_scope: The instrumentation scope whose metrics get no ``otel_scope_*`` labels.
        target_info: Whether the resource's attributes are exposed as ``target_info``.
        created: Whether the start times of counters and histograms are exposed as ``_created``
            series; None means unless ``PROMETHEUS_DISABLE_CREATED_SERIES`` is true.
        timeout: Seconds that a collection may take.

    Raises:
        ConfigError: ``timeout`` is not above 0.
    """

    def __init__(
        self,
        collect: Callable[[float], MetricsData | None],
        *,
        own_scope: str = "genmeter",
        target_info: bool = True,
        created: bool | None = None,
        timeout: float = 10.0,
    ) -> None:
        number(above=0, what="seconds")("timeout", timeout)
        if created is None:
            created = os.environ.get(_DISABLE_CREATED, "").strip().lower() not in ("true", "1", "t")
        self._collect = collect
        self._timeout = timeout
        self._own_scope = own_scope
        self._target_info = target_info
        self._created = created
        self.after_fork_in_child()

    def render(self, openmetrics: bool, names: Collection[str] = ()) -> bytes:
        """Collect, and return a page.

        Args:
            openmetrics: OpenMetrics 1.0, with units and exemplars, rather than Prometheus 0.0.4.
            names: The names of the samples to write, such as ``genmeter_tokens_total``; empty for
                all.

        Returns:
            The page in UTF-8.

        Raises:
            Exception: The collection failed.
        """
        families = self._translator.families(self._collect(self._timeout), names)
        return exposition.write(families, openmetrics=openmetrics, names=names)

    def collect_families(self) -> list[Metric]:
        """Collect, and return metric families of prometheus_client; raises as `render` does."""
        families = self._translator.families(self._collect(self._timeout))
        return [_to_metric(family) for family in families]

    def after_fork_in_child(self) -> None:
        """Drop the caches of earlier pages, since a fork may happen while one is written."""
        self._translator = Translator(
            own_scope=self._own_scope, target_info=self._target_info, created=self._created
        )


class FamilyCollector(Collector):
    """Metrics as a collector of prometheus_client.

    Args:
        collect: Collects and returns metric families.
    """

    def __init__(self, collect: Callable[[], list[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        """Collect, as valid OpenMetrics; raises as `PrometheusBridge.render` does."""
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing, so that registering does not collect."""
        return ()


def _to_metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind, family.unit)
    for suffix, labels, value, exemplar in _samples(family):
        copied = exemplar and Exemplar(
            dict(exemplar.labels), exposition.to_float(exemplar.value), exemplar.timestamp
        )
        metric.add_sample(
            family.name + suffix, dict(labels), exposition.to_float(value), exemplar=copied
        )
    return metric


def _samples(family: Family) -> Iterator[tuple[str, Pairs, Any, ExemplarText | None]]:
    """Yield suffix, labels, value and exemplar of each sample."""
    if family.kind == "info":
        yield "_info", family.info, 1, None
    for labels, point in family.points():
        if family.kind == "gauge":
            yield "", labels.pairs, point.value, None
        elif family.kind == "counter":
            yield "_total", labels.pairs, point.value, exemplar_of(point.exemplars)
        else:
            bounds = finite_bounds(point.explicit_bounds)
            exemplars = bucket_exemplars(point)
            counts = list(accumulate(point.bucket_counts))
            counts[len(bounds) :] = counts[-1:]
            for index, (bound, count) in enumerate(zip([*bounds, math.inf], counts, strict=True)):
                le = ("le", exposition.go_text(bound))
                yield "_bucket", (*labels.pairs, le), count, exemplars.get(index)
            if openmetrics_has_sum(point):
                yield "_count", labels.pairs, counts[-1], None
                yield "_sum", labels.pairs, point.sum, None
        if labels.created:
            yield "_created", labels.pairs, float(labels.created), None
