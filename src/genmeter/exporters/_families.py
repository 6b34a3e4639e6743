"""Translate OpenTelemetry metrics to Prometheus metric families.

A family is one name, one kind, one help text and the streams of points under it, from all scopes.
Conflicts that Prometheus rejects (two kinds under one name, the same series twice, a counter below
zero) are resolved here, so that the writers only write.
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

from genmeter.events.values import shown
from genmeter.pipeline.once import FirstTimes
from genmeter.schema.prom_names import family_name, family_unit, label_name

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

__all__ = [
    "ExemplarText",
    "Family",
    "Labels",
    "Pairs",
    "Translator",
    "bucket_exemplars",
    "exemplar_of",
    "finite_bounds",
    "openmetrics_has_sum",
]

Pairs = tuple[tuple[str, str], ...]

_logger = logging.getLogger("genmeter")

_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

# OpenMetrics 1.0: the names and values of an exemplar's labels, in UTF-8 characters.
_EXEMPLAR_LABELS_LIMIT = 128


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot carry, with U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _value_text(value: object) -> str:
    """Return an attribute's value as text: bytes in Base64, anything else but a string as JSON."""
    try:
        # A number alone may be NaN or Infinity; JSON, and so an array, has no such numbers.
        text = value if isinstance(value, float) else _jsonable(value)
        if not isinstance(text, str):
            text = json.dumps(text, ensure_ascii=False, separators=(",", ":"), default=str)
    except Exception:
        # A strange value of another instrumentation must not cost the page.
        text = f"<{type(value).__name__}>"
    return clean(text)


def _jsonable(value: object) -> object:
    """Replace values that JSON does not have, as OpenTelemetry's JSON of attributes does."""
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
    """Return attributes as labels, sorted by name.

    The values of keys that become the same label are joined with ``;`` in the order of the keys.
    Empty values are dropped, since Prometheus does not distinguish them from a missing label.
    """
    values: dict[str, str] = {}
    for key, value in sorted(attributes, key=lambda pair: str(pair[0])):
        if value is not None and (text := _value_text(value)):
            name = label_name(str(key))
            values[name] = f"{values[name]};{text}" if name in values else text
    return tuple(sorted(values.items()))


class Labels:
    """The labels of one stream of points and their text; immutable.

    ``inner`` is the text between the braces. ``started`` is the start time in Unix nanoseconds, or
    None if it is not exposed, and ``created`` its text in Unix seconds, empty without one.
    """

    __slots__ = ("attributes", "created", "inner", "pairs", "started")

    def __init__(self, attributes: object, pairs: Pairs, started: int | None = None) -> None:
        # Kept alive so that no other object gets its id, which is the key in the cache.
        self.attributes = attributes
        self.started = started
        self.pairs = pairs
        self.inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)
        self.created = repr(started / 1e9) if started else ""


class LabelCache:
    """The `Labels` of the points of one instrument, by the identity of their attributes.

    Identity, not equality: ``1``, ``1.0`` and ``True`` are equal but differ as labels. A provider
    returns the same attributes object at every collection. Each page fills a new cache from that of
    the page before: only labels of the last page are kept, and concurrent pages share nothing that
    either of them changes.
    """

    def __init__(
        self, scope_attributes: Pairs, kind: str, before: LabelCache | None = None
    ) -> None:
        self._scope_attributes = scope_attributes
        self._kind = kind
        self._before = before.known if before is not None else {}
        self.known: dict[int, Labels] = {}

    def labels(self, attributes: Mapping[str, Any] | None, started: int | None) -> Labels:
        key = id(attributes)
        found = self._before.get(key)
        if found is None or found.attributes is not attributes or found.started != started:
            found = Labels(attributes, self._pairs(attributes or {}), started)
        self.known[key] = found
        return found

    def _pairs(self, attributes: Mapping[str, Any]) -> Pairs:
        pairs = label_pairs([*self._scope_attributes, *attributes.items()])
        labels = dict(pairs)
        if self._kind != "histogram" or "le" not in labels:
            return pairs
        # Renamed as Prometheus does at a scrape: `le` is the format's own label.
        name = "exported_le"
        while name in labels:
            name = f"exported_{name}"
        labels[name] = labels.pop("le")
        return tuple(sorted(labels.items()))


class ExemplarText(NamedTuple):
    """An exemplar's labels, its value and its time in Unix seconds."""

    labels: Pairs
    value: float
    timestamp: float


def exemplar_of(exemplars: Iterable[Any]) -> ExemplarText | None:
    """Return the newest of a point's exemplars, preferring those with labels."""
    labeled = [(_exemplar_labels(each), each) for each in exemplars]
    if not labeled:
        return None
    labels, newest = max(labeled, key=lambda pair: (bool(pair[0]), pair[1].time_unix_nano))
    return ExemplarText(labels, newest.value, newest.time_unix_nano / 1e9)


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
    """Return a histogram's bounds without an explicit infinity, which every histogram implies."""
    return bounds[:-1] if bounds and bounds[-1] == math.inf else bounds


def bucket_exemplars(point: Any) -> dict[int, ExemplarText]:
    """Return a histogram point's exemplars by the index of their bucket."""
    buckets: dict[int, list[Any]] = {}
    bounds = finite_bounds(point.explicit_bounds)
    for exemplar in point.exemplars:
        if not math.isnan(exemplar.value):
            buckets.setdefault(bisect_left(bounds, exemplar.value), []).append(exemplar)
    found = {index: exemplar_of(exemplars) for index, exemplars in buckets.items()}
    return {index: exemplar for index, exemplar in found.items() if exemplar is not None}


_SAMPLE_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}

# The labels of a scope's name, version and schema URL, which its attributes must not override.
_SCOPE_LABELS = ("otel_scope_name", "otel_scope_version", "otel_scope_schema_url")


@dataclass(slots=True)
class Family:
    """One metric family of a page."""

    name: str  # without the suffixes of its samples
    kind: str  # counter, gauge, histogram or info
    unit: str  # with which the name ends after an underscore; may be empty
    help: str
    warner: _Warner
    created: bool = True  # whether the start times of its streams are exposed
    help_differs: bool = False  # between the instruments under this name
    # Points and the cache of their labels, a pair for each instrument.
    streams: list[tuple[LabelCache, Sequence[Any]]] = field(default_factory=list)
    info: Pairs = ()  # the labels of an info, which has no points

    def points(self) -> Iterator[tuple[Labels, Any]]:
        """Yield each valid point with its labels, which are unique."""
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
                        f"{{{shown(labels.inner)}}}; only the first is exposed; rename one instrument "
                        "or attribute",
                    )
                    continue
                # NaN is not at least 0 either; OpenMetrics allows neither in a counter.
                if counter and not point.value >= 0:
                    self.warner.warn(
                        ("counter", self.name),
                        f"dropped the counter {self.name!r} with the value {point.value!r}: must "
                        "be at least 0",
                    )
                    continue
                seen.add(labels.inner)
                yield labels, point

    def describe(self, description: str, unit: str) -> None:
        """Add the help and the unit of one more instrument; warn if they differ."""
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
    """Return whether OpenMetrics allows a histogram to have a sum and a count.

    It allows neither with a negative bound, since the sum may then drop, nor with a sum that is
    negative or not a number.
    """
    bounds = point.explicit_bounds
    return (not bounds or bounds[0] >= 0) and point.sum is not None and point.sum >= 0


class _Warner:
    """Logs each warning once."""

    def __init__(self) -> None:
        self._first = FirstTimes()

    def warn(self, key: Hashable, message: str) -> None:
        if self._first.is_new(key):  # also of two concurrent pages only once
            _logger.warning("%s", message)


class Translator:
    """Translates collections to families; remembers labels and the warnings that it logged.

    It is thread-safe without a lock, because its caches are replaced as a whole. The arguments are
    those of `PrometheusBridge`.
    """

    def __init__(self, *, own_scope: str, target_info: bool, created: bool) -> None:
        self._own_scope = own_scope
        self._target_info = target_info
        self._created = created
        self._warner = _Warner()
        self._caches: dict[Hashable, LabelCache] = {}
        self._resource: tuple[Resource | None, Pairs] = (None, ())

    def families(self, data: MetricsData | None, names: Collection[str] = ()) -> list[Family]:
        """Return the families of a collection; if names are given, only those with such samples."""
        page = _Page(self._warner, self._created)
        caches: dict[Hashable, LabelCache] = {}
        for resource_metrics in data.resource_metrics if data is not None else ():
            if self._target_info:
                self._add_target_info(page, resource_metrics.resource)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._add(page, caches, scope_metrics.scope, metric)
        if names:
            # Such a page does not use all labels, so the caches of the last whole one stay.
            wanted = {page.owners.get(name) for name in names}
            return [family for family in page.families.values() if family.name in wanted]
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
                f"dropped the metric {metric.name!r}: the Prometheus text formats have no "
                f"{type(metric.data).__name__}; add a view with an "
                "ExplicitBucketHistogramAggregation for its instrument",
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
        # Two views of one instrument may share a name; each gets its own cache.
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
    """The families of one page, in order of arrival, without two that share a sample name."""

    def __init__(self, warner: _Warner, created: bool) -> None:
        self.families: dict[str, Family] = {}
        # The family of each sample name.
        self.owners: dict[str, str] = {}
        self._warner = warner
        self._created = created

    def family(self, name: str, kind: str, unit: str, description: str) -> Family | None:
        """Return the family to add points to; None if another family has its name."""
        family = self.families.get(name)
        if family is not None and family.kind == kind:
            family.describe(clean(description), unit)
            return family
        samples = [name + end for end in _SAMPLE_SUFFIXES[kind]]
        taken = next((self.owners[each] for each in samples if each in self.owners), None)
        if taken is not None:
            self._warner.warn(
                ("clash", name, kind),
                f"dropped the {kind} {name!r}: it has series of the same name as the "
                f"{self.families[taken].kind} {taken!r}; rename one of the two instruments",
            )
            return None
        family = Family(name, kind, unit, clean(description), self._warner, self._created)
        self.families[name] = family
        self.owners.update(dict.fromkeys(samples, name))
        return family
