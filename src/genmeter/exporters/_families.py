"""From the SDK's points to Prometheus's metric families.

A family is one name, one kind, one help text and the streams of points under it, from whatever
scope they come. What Prometheus could not take in (two kinds under one name, the same series
twice, a counter below zero) is settled here, so that the writers only write.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.sdk.metrics.export import Gauge, Histogram, Metric, Sum

from genmeter.schema.prom_names import family_name, family_unit, label_name

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

__all__ = [
    "ExemplarText",
    "Family",
    "LabelCache",
    "Labels",
    "Pairs",
    "Translator",
    "bucket_exemplars",
    "clean",
    "exemplar_of",
    "finite_bounds",
    "label_pairs",
    "openmetrics_has_sum",
]

Pairs = tuple[tuple[str, str], ...]

_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

# OpenMetrics 1.0: the names and values of an exemplar's labels, in UTF-8 characters.
_EXEMPLAR_LABELS_LIMIT = 128


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot carry, with U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _value_text(value: object) -> str:
    """Spell an attribute's value: a string as it is, bytes in Base64, anything else as JSON."""
    if not isinstance(value, str):
        try:
            value = _spelled(value)
        except Exception:
            # Whatever another instrumentation put there, it does not cost the page.
            value = f"<{type(value).__name__}>"
    return clean(value)


def _spelled(value: object) -> str:
    # A number alone may be NaN or Infinity; JSON, and so an array, has no such numbers.
    value = _jsonable(value) if not isinstance(value, float) else value
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _jsonable(value: object) -> object:
    """Replace what JSON cannot carry as OpenTelemetry's JSON of attribute values does."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    return value


def label_pairs(attributes: Iterable[tuple[str, object]]) -> Pairs:
    """Turn attributes into labels, sorted by name.

    Keys that become the same label are joined with ``;`` in the order of the keys. An empty value
    is no label at all, which is what Prometheus makes of it.
    """
    values: dict[str, str] = {}
    for key, value in sorted(attributes, key=lambda pair: str(pair[0])):
        if value is not None and (text := _value_text(value)):
            name = label_name(str(key))
            values[name] = f"{values[name]};{text}" if name in values else text
    return tuple(sorted(values.items()))


class Labels:
    """The labels of one stream of points, and their text, made once and never changed.

    Attributes:
        attributes: What the labels come from.
        started: The start time of the stream in Unix nanoseconds; None where it is not exposed.
        pairs: Names and values, sorted by name.
        inner: The text between the braces, empty without labels.
        created: The text of the start time in Unix seconds, empty where there is none.
    """

    __slots__ = ("attributes", "created", "inner", "pairs", "started")

    def __init__(self, attributes: object, pairs: Pairs, started: int | None = None) -> None:
        # Held so that its id, which the cache knows it by, is not given to another object.
        self.attributes = attributes
        self.started = started
        self.pairs = pairs
        self.inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)
        self.created = repr(started / 1e9) if started else ""


class LabelCache:
    """The `Labels` of the points of one instrument, by the identity of their attributes.

    Identity, not equality: ``1``, ``1.0`` and ``True`` are equal and are not the same label. A
    provider returns the same attributes object at every collection. A page has a cache of its own,
    which begins with the labels that the page before used: no more is kept than was exposed last,
    and pages that are written at the same time share nothing that either of them changes.

    Args:
        scope_attributes: The attributes of the instrument's scope, under the names of its labels.
        kind: The kind of the family that the labels are for.
        before: The cache of the page before, if there is one.
    """

    def __init__(
        self, scope_attributes: Pairs, kind: str, before: LabelCache | None = None
    ) -> None:
        self._scope_attributes = scope_attributes
        self._kind = kind
        self._before = before.known if before is not None else {}
        self.known: dict[int, Labels] = {}

    def labels(self, attributes: Mapping[str, Any] | None, started: int | None) -> Labels:
        """Return the labels of a point with these attributes and this start time."""
        key = id(attributes)
        found = self._before.get(key)
        if found is None or found.attributes is not attributes or found.started != started:
            found = Labels(attributes, self._pairs(attributes or {}), started)
        self.known[key] = found
        return found

    def _pairs(self, attributes: Mapping[str, Any]) -> Pairs:
        pairs = label_pairs([*self._scope_attributes, *attributes.items()])
        return _renamed(pairs, "le") if self._kind == "histogram" else pairs


def _renamed(pairs: Pairs, reserved: str) -> Pairs:
    """Rename a label that is in the way of the format's own, as Prometheus does at a scrape."""
    labels = dict(pairs)
    if reserved not in labels:
        return pairs
    name = f"exported_{reserved}"
    while name in labels:
        name = f"exported_{name}"
    labels[name] = labels.pop(reserved)
    return tuple(sorted(labels.items()))


class ExemplarText(NamedTuple):
    """An exemplar's labels, its value and its time in Unix seconds."""

    labels: Pairs
    value: float
    timestamp: float


def exemplar_of(exemplars: Iterable[Any]) -> ExemplarText | None:
    """Return the youngest of a point's exemplars; one with labels rather than one without."""
    youngest: ExemplarText | None = None
    for exemplar in sorted(exemplars, key=lambda item: item.time_unix_nano, reverse=True):
        labels = _exemplar_labels(exemplar)
        if labels or youngest is None:
            youngest = ExemplarText(labels, exemplar.value, exemplar.time_unix_nano / 1e9)
        if labels:
            break
    return youngest


def _exemplar_labels(exemplar: Any) -> Pairs:
    wanted: list[tuple[str, str]] = []
    if exemplar.trace_id and exemplar.span_id:
        wanted += [
            ("trace_id", f"{exemplar.trace_id:032x}"),
            ("span_id", f"{exemplar.span_id:016x}"),
        ]
    wanted += label_pairs((exemplar.filtered_attributes or {}).items())
    kept: dict[str, str] = {}
    left = _EXEMPLAR_LABELS_LIMIT
    for name, value in wanted:
        if name not in kept and len(name) + len(value) <= left:
            kept[name] = value
            left -= len(name) + len(value)
    return tuple(sorted(kept.items()))


def finite_bounds(bounds: Sequence[float]) -> Sequence[float]:
    """Return a histogram's bounds without an explicit infinity, which is the last bucket's own."""
    return bounds[:-1] if bounds and bounds[-1] == math.inf else bounds


def bucket_exemplars(point: Any) -> dict[int, ExemplarText]:
    """Return a histogram point's exemplars by the index of the bucket that holds their value."""
    buckets: dict[int, list[Any]] = {}
    bounds = finite_bounds(point.explicit_bounds)
    for exemplar in point.exemplars:
        if not math.isnan(exemplar.value):
            buckets.setdefault(bisect_left(bounds, exemplar.value), []).append(exemplar)
    found = {index: exemplar_of(exemplars) for index, exemplars in buckets.items()}
    return {index: exemplar for index, exemplar in found.items() if exemplar is not None}


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
