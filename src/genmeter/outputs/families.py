"""From the SDK's points to Prometheus's metric families.

A family is one name, one kind, one help text and the streams of points under it, from whatever
scope they come. What Prometheus could not take in (two kinds under one name, the same series
twice, a counter below zero) is settled here, so that the writers only write.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import Gauge, Histogram, Metric, Sum

from genmeter.naming import family_name, unit_suffix
from genmeter.outputs.series import LabelCache, clean, label_pairs

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from genmeter.outputs.series import Labels, Pairs

__all__ = ["Family", "Translator", "has_sum"]

_logger = logging.getLogger("genmeter")

_SAMPLE_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}


@dataclass(slots=True)
class Family:
    """One metric family of a page.

    Attributes:
        name: Without the suffixes of its samples.
        kind: ``counter``, ``gauge``, ``histogram`` or ``info``.
        unit: The unit's word, which the name ends with; may be empty.
        help: What the metric is.
        streams: Points, and the cache of their labels, one pair a scope.
        info: The labels of an ``info``, which has no points.
    """

    name: str
    kind: str
    unit: str
    help: str
    warner: _Warner
    streams: list[tuple[LabelCache, Sequence[Any]]] = field(default_factory=list)
    info: Pairs = ()

    def points(self) -> Iterator[tuple[Labels, Any]]:
        """Yield each point that can be written, with its labels; no two have the same."""
        seen: set[str] = set()
        counter = self.kind == "counter"
        for cache, points in self.streams:
            cache.begin()
            for point in points:
                labels = cache.labels(point.attributes)
                if labels.inner in seen:
                    self.warner.warn(
                        ("duplicate", self.name),
                        f"the metric {self.name!r} has two points with the labels "
                        f"{{{labels.inner}}}; only the first is exposed, rename one instrument "
                        "or attribute",
                    )
                    continue
                # NaN is not at least 0 either; OpenMetrics allows neither in a counter.
                if counter and not point.value >= 0:
                    self.warner.warn(
                        ("counter", self.name),
                        f"the counter {self.name!r} has the value {point.value!r}; counters that "
                        "are negative or not a number are left out",
                    )
                    continue
                seen.add(labels.inner)
                started = point.start_time_unix_nano
                if labels.started != started:
                    labels.started = started
                    labels.created = repr(started / 1e9) if started else ""
                yield labels, point


def has_sum(point: Any) -> bool:
    """Tell whether a histogram's sum and count can be written.

    OpenMetrics has neither where a bucket's bound is negative, since the sum may then fall, and
    takes no sum that is negative or not a number.
    """
    bounds = point.explicit_bounds
    return (not bounds or bounds[0] >= 0) and point.sum is not None and point.sum >= 0


class _Warner:
    """Logs each warning once."""

    def __init__(self) -> None:
        self._given: set[Hashable] = set()

    def warn(self, key: Hashable, message: str) -> None:
        if key not in self._given:
            self._given.add(key)
            _logger.warning(message)


class Translator:
    """Turns collections into families; remembers names, labels and the warnings it gave.

    Not safe for threads: the reader's lock is held around each use.

    Args:
        own_scope: The instrumentation scope whose points get no ``otel_scope_*`` labels.
        target_info: Whether the resource's attributes are exposed as ``target_info``.
    """

    def __init__(self, *, own_scope: str, target_info: bool) -> None:
        self._own_scope = own_scope
        self._target_info = target_info
        self._warner = _Warner()
        self._caches: dict[Hashable, LabelCache] = {}
        self._resource: Resource | None = None
        self._resource_pairs: Pairs = ()

    def families(self, data: MetricsData | None) -> list[Family]:
        """Return the families of one collection, those of the same name made one."""
        page = _Page(self._warner)
        caches: dict[Hashable, LabelCache] = {}
        for resource_metrics in data.resource_metrics if data is not None else ():
            if self._target_info:
                self._add_target_info(page, resource_metrics)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._add(page, caches, scope_metrics.scope, metric)
        self._caches = caches
        return list(page.families.values())

    def _add_target_info(self, page: _Page, resource_metrics: ResourceMetrics) -> None:
        resource = resource_metrics.resource
        if resource is not self._resource:
            self._resource = resource
            self._resource_pairs = label_pairs(resource.attributes.items())
        if self._resource_pairs:
            family = page.family("target", "info", "", "Target metadata")
            if family is not None:
                family.info = self._resource_pairs

    def _add(
        self,
        page: _Page,
        caches: dict[Hashable, LabelCache],
        scope: InstrumentationScope,
        metric: Metric,
    ) -> None:
        kind = _kind(metric.data)
        if kind is None:
            self._warner.warn(
                ("unknown", metric.name),
                f"the metric {metric.name!r} is a {type(metric.data).__name__}, which the "
                "Prometheus text formats cannot carry; it is left out, give its instrument a view "
                "with an ExplicitBucketHistogramAggregation",
            )
            return
        unit = metric.unit or ""
        family = page.family(
            family_name(metric.name, unit, kind),
            "gauge" if kind == "updown" else kind,
            unit_suffix(unit, kind),
            metric.description or "",
        )
        if family is None:
            return
        key = (scope, metric.name, unit, kind)
        cache = self._caches.get(key)
        # Two views can give one instrument's points the same name twice, each with its own cache.
        if cache is None or key in caches:
            cache = LabelCache(self._scope_attributes(scope), family.kind)
        caches.setdefault(key, cache)
        family.streams.append((cache, metric.data.data_points))

    def _scope_attributes(self, scope: InstrumentationScope) -> Pairs:
        if scope.name == self._own_scope:
            return ()
        attributes: dict[str, Any] = {
            f"otel_scope_{key}": value for key, value in (scope.attributes or {}).items()
        }
        attributes["otel_scope_name"] = scope.name
        attributes["otel_scope_version"] = scope.version
        attributes["otel_scope_schema_url"] = scope.schema_url
        return tuple(attributes.items())


def _kind(data: object) -> str | None:
    if isinstance(data, Sum):
        return "counter" if data.is_monotonic else "updown"
    if isinstance(data, Gauge):
        return "gauge"
    return "histogram" if isinstance(data, Histogram) else None


class _Page:
    """The families of one page, in the order in which they came, none in another's way."""

    def __init__(self, warner: _Warner) -> None:
        self.families: dict[str, Family] = {}
        self._names: dict[str, str] = {}
        self._warner = warner

    def family(self, name: str, kind: str, unit: str, description: str) -> Family | None:
        """Return the family to add points to, None where another has its name."""
        family = self.families.get(name)
        if family is not None and family.kind == kind:
            family.help = family.help or clean(description)
            return family
        taken = next(
            (
                self._names[name + end]
                for end in _SAMPLE_SUFFIXES[kind]
                if name + end in self._names
            ),
            None,
        )
        if taken is not None:
            self._warner.warn(
                ("clash", name, kind),
                f"the {kind} {name!r} cannot be exposed beside the {self.families[taken].kind} "
                f"{taken!r}, because series of theirs have the same name; it is left out, rename "
                "one of the two instruments",
            )
            return None
        family = Family(name, kind, unit, clean(description), self._warner)
        self.families[name] = family
        self._names.update((name + end, name) for end in _SAMPLE_SUFFIXES[kind])
        return family
