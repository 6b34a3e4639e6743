"""Add the cells of all processes of a job up to the metrics of the job."""

from __future__ import annotations

import ast
import math
import time
from array import array
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from genmeter.job.store import Combined, Definition, pack, unpack
from genmeter.schema.metrics import INSTRUMENTS, JOB_PROCESSES, STATE, Across

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

    from genmeter.job.store import CellRow, Census, SeriesRow, Store
    from genmeter.metrics.changes import Origin

__all__ = ["Merger", "combine", "definition_of", "labels_text"]

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_MAX_INT = 2**63 - 1
_RANK = {row.name: rank for rank, row in enumerate(INSTRUMENTS)}


def definition_of(origin: Origin) -> Definition:
    """Return the metric of a series as the store has it."""
    scope = origin.scope
    return Definition(
        (scope.name, scope.version, scope.schema_url, labels_text(scope.attributes or {})),
        origin.name,
        origin.unit,
        origin.description,
        origin.kind,
        origin.bounds,
        origin.across.value,
    )


def labels_text(attributes: Mapping[str, AttributeValue]) -> str:
    """Return a label set as text, equal for equal ones, whatever their order."""
    return repr(sorted((key, _literal(value)) for key, value in attributes.items()))


def _literal(value: Any) -> Any:
    """Return a value whose ``repr`` can be read again; that of a subclass may be anything."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, tuple | list):
        return tuple(map(_literal, value))
    if isinstance(value, dict):
        return {_literal(key): _literal(each) for key, each in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    kind = next((each for each in (int, bytes) if isinstance(value, each)), str)
    return kind(value)


def _labels_of(text: str) -> dict[str, AttributeValue]:
    return dict(ast.literal_eval(text))


def combine(definition: Definition, older: CellRow, newer: CellRow) -> Combined:
    """Return two cells of a series as one."""
    if definition.across == Across.MAX:
        return Combined(max(older.value, newer.value))
    if definition.across == Across.LAST:
        return Combined((newer if newer.changed >= older.changed else older).value)
    terms = [*_terms(older.value, older.parts), *_terms(newer.value, newer.parts)]
    buckets = None
    if older.buckets is not None and newer.buckets is not None:
        counts, low, high = unpack(older.buckets)
        more, least, most = unpack(newer.buckets)
        added = [a + b for a, b in zip(counts, more, strict=True)]
        buckets = pack(added, min(low, least), max(high, most))
    parts = _exact_parts(terms)
    return Combined(_sum(terms), buckets, array("d", parts).tobytes() if len(parts) > 1 else None)


def _terms(value: float, parts: bytes | None) -> Sequence[float]:
    """Return numbers whose exact sum is that of a cell."""
    return (value,) if parts is None else array("d", parts)


def _sum(terms: Sequence[float]) -> float:
    """Return the exact sum, rounded once.

    A sum that is rounded at each step depends on the order: when a process ends, it may be less
    than before by the last bit, and a counter that falls by that counts once more.
    """
    if all(isinstance(term, int) for term in terms):
        return _in_range(sum(terms))
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):  # infinities
        return sum(map(float, terms))


def _exact_parts(terms: Sequence[float]) -> list[float]:
    """Return few floats that have the same exact sum (Shewchuk's grow-expansion)."""
    parts: list[float] = []
    if all(isinstance(term, int) for term in terms) or not math.isfinite(sum(map(float, terms))):
        return parts
    for term in map(float, terms):
        rest, kept = term, []
        for part in parts:
            more, less = (rest, part) if abs(rest) >= abs(part) else (part, rest)
            rest = more + less
            if error := less - (rest - more):
                kept.append(error)
        parts = [*kept, rest]
    return parts


def _in_range(value: float) -> float:
    return value if -_MAX_INT <= value <= _MAX_INT else float(value)


class Merger:
    """Reads the store and adds the processes up.

    It keeps the label sets between two reads, as the same objects, whose text a page caches.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._births = ""
        self._series: dict[int, tuple[int, dict[str, AttributeValue], int]] = {}
        self._metrics: dict[int, Definition] = {}
        self._scopes: dict[Any, InstrumentationScope] = {}
        self._states = {state: {STATE.key: state} for state in ("running", "ended", "died")}

    def collect(self, resource: Resource) -> MetricsData:
        """Return the metrics of the job.

        Raises:
            StoreError: The store cannot be read.
        """
        found = self._store.read(
            max(self._series, default=0), max(self._metrics, default=0), self._births
        )
        if found.births != self._births:
            self._births = found.births
            self._series.clear()
        self._add_known(found.series, found.metrics)
        now = time.time_ns()
        by_metric = self._points(_sums(found.cells, self._across()), now)
        scopes: dict[InstrumentationScope, list[tuple[int, int, Metric]]] = {}
        for number, points in by_metric.items():
            definition = self._metrics[number]
            scope = self._scope(definition)
            rank = _RANK.get(definition.name, len(_RANK))
            scopes.setdefault(scope, []).append((rank, number, _metric(definition, points)))
        own = next((each for each in scopes if each.name == "genmeter"), None)
        if own is not None:
            rank = _RANK[JOB_PROCESSES.name]
            scopes[own].append((rank, 0, self._processes(found.census, now)))
        return MetricsData(
            [
                ResourceMetrics(
                    resource,
                    [
                        ScopeMetrics(
                            scope,
                            [metric for *_, metric in sorted(metrics, key=lambda each: each[:2])],
                            scope.schema_url or "",
                        )
                        for scope, metrics in scopes.items()
                    ],
                    resource.schema_url,
                )
            ]
            if scopes
            else []
        )

    def _add_known(self, series: Sequence[SeriesRow], metrics: Mapping[int, Definition]) -> None:
        self._metrics.update(metrics)
        for number, metric, labels, birth in series:
            self._series[number] = (metric, _labels_of(labels), birth)

    def _across(self) -> dict[int, str]:
        return {
            number: self._metrics[metric].across for number, (metric, *_) in self._series.items()
        }

    def _points(
        self, sums: Mapping[int, tuple[float, Any]], now: int
    ) -> dict[int, list[NumberDataPoint] | list[HistogramDataPoint]]:
        found: dict[int, list[Any]] = {}
        for number, (value, buckets) in sums.items():
            metric, attributes, birth = self._series[number]
            definition = self._metrics[metric]
            point: NumberDataPoint | HistogramDataPoint
            if buckets is not None:
                counts, low, high = buckets
                point = HistogramDataPoint(
                    attributes=attributes,
                    start_time_unix_nano=birth,
                    time_unix_nano=now,
                    count=sum(counts),
                    sum=value,
                    bucket_counts=tuple(counts),
                    explicit_bounds=definition.bounds,
                    min=low,
                    max=high,
                    exemplars=[],
                )
            else:
                start: Any = None if definition.kind == "gauge" else birth
                point = NumberDataPoint(attributes, start, now, value, exemplars=[])
            found.setdefault(metric, []).append(point)
        return found

    def _scope(self, definition: Definition) -> InstrumentationScope:
        scope = self._scopes.get(definition.scope)
        if scope is None:
            name, version, schema, attributes = definition.scope
            found = _labels_of(attributes) or None
            scope = self._scopes[definition.scope] = InstrumentationScope(
                name, version, schema, found
            )
        return scope

    def _processes(self, census: Census, now: int) -> Metric:
        start: Any = None
        points = [
            NumberDataPoint(self._states[state], start, now, getattr(census, state), exemplars=[])
            for state in self._states
        ]
        row = JOB_PROCESSES
        return Metric(row.name, row.help, row.unit, Gauge(points))


def _added(
    before: tuple[list[int], float, float] | None, packed: bytes
) -> tuple[list[int], float, float]:
    """Add the buckets of a histogram to those before."""
    counts, low, high = unpack(packed)
    if before is None:
        return counts.tolist(), low, high
    added = [a + b for a, b in zip(before[0], counts, strict=True)]
    return added, min(before[1], low), max(before[2], high)


def _sums(
    cells: Sequence[CellRow], across: Mapping[int, str]
) -> dict[int, tuple[float, tuple[list[int], float, float] | None]]:
    """Add the cells of each series up by its rule."""
    values: dict[int, float] = {}
    terms: dict[int, list[float]] = {}
    buckets: dict[int, tuple[list[int], float, float]] = {}
    changed: dict[int, float] = {}
    for series, value, packed, when, is_running, parts in cells:
        rule = across[series]
        if rule == Across.SUM:
            terms.setdefault(series, []).extend(_terms(value, parts))
        if packed is not None:
            buckets[series] = _added(buckets.get(series), packed)
        if rule == Across.SUM or (rule in (Across.LIVING, Across.MIN) and not is_running):
            continue
        if series not in values:
            values[series] = value
        elif rule == Across.MAX:
            values[series] = max(values[series], value)
        elif rule == Across.MIN:
            values[series] = min(values[series], value)
        elif rule == Across.LAST:
            if when >= changed[series]:
                values[series] = value
        else:
            values[series] = _in_range(values[series] + value)
        changed[series] = max(when, changed.get(series, when))
    values.update((series, _sum(found)) for series, found in terms.items())
    return {series: (value, buckets.get(series)) for series, value in values.items()}


def _metric(definition: Definition, points: Any) -> Metric:
    data: Sum | Gauge | Histogram
    if definition.kind == "gauge":
        data = Gauge(points)
    elif definition.kind == "histogram":
        data = Histogram(points, _CUMULATIVE)
    else:
        data = Sum(points, _CUMULATIVE, definition.kind == "monotonic")
    return Metric(definition.name, definition.description, definition.unit, data)
