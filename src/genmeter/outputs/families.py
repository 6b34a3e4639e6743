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

from genmeter.naming import family_name, family_unit, label_name
from genmeter.outputs.series import LabelCache, clean, label_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Sequence

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from genmeter.outputs.series import Labels, Pairs

__all__ = ["Family", "Translator", "openmetrics_has_sum"]

_logger = logging.getLogger("genmeter")

_SAMPLE_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}

# The labels of a scope's own name, version and schema URL, which no attribute of it may change.
_SCOPE_LABELS = ("otel_scope_name", "otel_scope_version", "otel_scope_schema_url")


@dataclass(slots=True)
class Family:
    """One metric family of a page.

    Attributes:
        name: Without the suffixes of its samples.
        kind: ``counter``, ``gauge``, ``histogram`` or ``info``.
        unit: The unit's word, which the name ends with after an underscore; may be empty.
        help: What the metric is.
        created: Whether the start times of its streams are exposed.
        help_differs: Whether an instrument under this name has another help text.
        streams: Points, and the cache of their labels, one pair a scope.
        info: The labels of an ``info``, which has no points.
    """

    name: str
    kind: str
    unit: str
    help: str
    warner: _Warner
    created: bool = True
    help_differs: bool = False
    streams: list[tuple[LabelCache, Sequence[Any]]] = field(default_factory=list)
    info: Pairs = ()

    def sample_names(self) -> set[str]:
        """Return the names that its samples may have."""
        return {self.name + end for end in _SAMPLE_SUFFIXES[self.kind]}

    def points(self) -> Iterator[tuple[Labels, Any]]:
        """Yield each point that can be written, with its labels; no two have the same."""
        seen: set[str] = set()
        counter = self.kind == "counter"
        created = self.created and self.kind in ("counter", "histogram")
        for cache, points in self.streams:
            for point in points:
                labels = cache.labels(
                    point.attributes, point.start_time_unix_nano if created else None
                )
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
                yield labels, point

    def describe(self, description: str, unit: str) -> None:
        """Take the help and the unit of one more instrument; warn where they are others."""
        self.help_differs |= bool(self.help and description and description != self.help)
        for what, ours, theirs in (("help", self.help, description), ("unit", self.unit, unit)):
            if not ours:
                setattr(self, what, theirs)
            elif theirs and theirs != ours:
                self.warner.warn(
                    (what, self.name),
                    f"several instruments are exposed as {self.name!r} with different values of "
                    f"{what}: {ours!r} is used, {theirs!r} is ignored; use one text for all of "
                    "them, or rename an instrument",
                )


def openmetrics_has_sum(point: Any) -> bool:
    """Return whether OpenMetrics allows a histogram its sum and count.

    It has neither where a bucket's bound is negative, since the sum may then fall, and takes no sum
    that is negative or not a number.
    """
    bounds = point.explicit_bounds
    return (not bounds or bounds[0] >= 0) and point.sum is not None and point.sum >= 0


class _Warner:
    """Logs each warning once."""

    def __init__(self) -> None:
        self._given: dict[Hashable, object] = {}

    def warn(self, key: Hashable, message: str) -> None:
        # One step, so that of two pages that are written at the same time only one warns.
        mine = object()
        if self._given.setdefault(key, mine) is mine:
            _logger.warning("%s", message)


class Translator:
    """Turns collections into families; remembers names, labels and the warnings it gave.

    It is safe for threads and has no lock: what it remembers is replaced as a whole.

    Args:
        own_scope: The instrumentation scope whose points get no ``otel_scope_*`` labels.
        target_info: Whether the resource's attributes are exposed as ``target_info``.
        created: Whether the start times of counters and histograms are exposed.
    """

    def __init__(self, *, own_scope: str, target_info: bool, created: bool) -> None:
        self._own_scope = own_scope
        self._target_info = target_info
        self._created = created
        self._warner = _Warner()
        self._caches: dict[Hashable, LabelCache] = {}
        self._resource: tuple[Resource | None, Pairs] = (None, ())

    def families(self, data: MetricsData | None, names: Collection[str] = ()) -> list[Family]:
        """Return the families of one collection, those of the same name made one.

        Args:
            data: The collection; None for one without metrics.
            names: Sample names; only families that may have one of them are returned. Empty for
                all.
        """
        page = _Page(self._warner, self._created)
        caches: dict[Hashable, LabelCache] = {}
        for resource_metrics in data.resource_metrics if data is not None else ():
            if self._target_info:
                self._add_target_info(page, resource_metrics.resource)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._add(page, caches, scope_metrics.scope, metric)
        if names:
            # Such a page does not use all labels, so the next whole one needs those of the last.
            wanted = frozenset(names)
            return [
                family
                for family in page.families.values()
                if not wanted.isdisjoint(family.sample_names())
            ]
        self._caches = caches
        return list(page.families.values())

    def _add_target_info(self, page: _Page, resource: Resource) -> None:
        known, pairs = self._resource
        if resource is not known:
            pairs = label_pairs(resource.attributes.items())
            self._resource = (resource, pairs)
        if pairs:
            family = page.family("target", "info", "", "Target metadata")
            if family is not None:
                family.info = pairs

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
        name = family_name(metric.name, unit, kind)
        family = page.family(
            name,
            "gauge" if kind == "updown" else kind,
            family_unit(name, unit, kind),
            metric.description or "",
        )
        if family is None:
            return
        key = (scope, metric.name, unit, kind)
        # Two views can give one instrument's points the same name twice, each with its own cache.
        before = None if key in caches else self._caches.get(key)
        cache = LabelCache(self._scope_attributes(scope), family.kind, before)
        caches.setdefault(key, cache)
        family.streams.append((cache, metric.data.data_points))

    def _scope_attributes(self, scope: InstrumentationScope) -> Pairs:
        if scope.name == self._own_scope:
            return ()
        attributes: dict[str, Any] = {}
        for key, value in (scope.attributes or {}).items():
            name = f"otel_scope_{key}"
            if label_name(name) not in _SCOPE_LABELS:
                attributes[name] = value
        own = (scope.name, scope.version, scope.schema_url)
        attributes.update(zip(_SCOPE_LABELS, own, strict=True))
        return tuple(attributes.items())


def _kind(data: object) -> str | None:
    if isinstance(data, Sum):
        return "counter" if data.is_monotonic else "updown"
    if isinstance(data, Gauge):
        return "gauge"
    return "histogram" if isinstance(data, Histogram) else None


class _Page:
    """The families of one page, in the order in which they came, none in another's way."""

    def __init__(self, warner: _Warner, created: bool) -> None:
        self.families: dict[str, Family] = {}
        self._names: dict[str, str] = {}
        self._warner = warner
        self._created = created

    def family(self, name: str, kind: str, unit: str, description: str) -> Family | None:
        """Return the family to add points to, None where another has its name."""
        family = self.families.get(name)
        if family is not None and family.kind == kind:
            family.describe(clean(description), unit)
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
        family = Family(name, kind, unit, clean(description), self._warner, self._created)
        self.families[name] = family
        self._names.update((name + end, name) for end in _SAMPLE_SUFFIXES[kind])
        return family
