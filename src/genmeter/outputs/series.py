"""The labels of a series, and the exemplars that its samples carry."""

from __future__ import annotations

import base64
import json
import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.naming import label_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ExemplarText",
    "LabelCache",
    "Labels",
    "Pairs",
    "bucket_exemplars",
    "clean",
    "exemplar_of",
    "finite_bounds",
    "label_pairs",
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
