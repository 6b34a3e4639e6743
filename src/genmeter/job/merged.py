"""Add the cells of all processes of a job up to the metrics of the job."""

from __future__ import annotations

import ast
import math
import operator
import threading
import time
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

from genmeter.job.store import Definition, State, pack, unpack
from genmeter.schema.metrics import INSTRUMENTS, JOB_PROCESSES, STATE, Across

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

    from genmeter.job.store import CellRow, Census, Contents, SeriesRow, Store
    from genmeter.metrics.changes import Origin

__all__ = ["Merger", "combine", "definition_of", "labels_text"]

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_Buckets = tuple[list[int], float, float]  # counts, minimum and maximum
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
    """Return a value whose ``repr`` can be read again."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple):
        return tuple(map(_literal, value))
    if isinstance(value, dict):
        return {key: _literal(each) for key, each in value.items()}
    return value


def _labels_of(text: str) -> dict[str, AttributeValue]:
    return dict(ast.literal_eval(text))


def combine(definition: Definition, older: CellRow, newer: CellRow) -> tuple[float, bytes | None]:
    """Return the value and the buckets of two cells of a series."""
    if definition.across == Across.MAX:
        return max(older.value, newer.value), None
    if definition.across == Across.LAST:
        return (newer if newer.changed >= older.changed else older).value, None
    if older.buckets is None or newer.buckets is None:
        return _in_range(older.value + newer.value), None
    counts, low, high = unpack(older.buckets)
    more, least, most = unpack(newer.buckets)
    added = [a + b for a, b in zip(counts, more, strict=True)]
    buckets = pack(added, min(low, least), max(high, most))
    return _in_range(older.value + newer.value), buckets


def _in_range(value: float) -> float:
    return value if -_MAX_INT <= value <= _MAX_INT else float(value)


class Merger:
    """Reads the store and adds the processes up.

    It keeps the label sets between two reads, as the same objects, whose text a page caches, and the
    sums: only what changed is read and added up again.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # pages and pushes have threads of their own
        self._births = ""
        self._version = 0
        self._running: dict[int, bool] = {}  # whether each runs
        self._cells: dict[int, dict[int, CellRow]] = {}  # of each series, by process
        self._sums: dict[int, tuple[float, _Buckets | None]] = {}
        self._series: dict[int, tuple[int, dict[str, AttributeValue], int]] = {}
        self._metrics: dict[int, Definition] = {}
        self._scopes: dict[Any, InstrumentationScope] = {}
        self._states = {state: {STATE.key: state} for state in ("running", "ended", "died")}

    def collect(self, resource: Resource) -> MetricsData:
        """Return the metrics of the job.

        Raises:
            StoreError: The store cannot be read.
        """
        with self._lock:
            return self._collect(resource)

    def _collect(self, resource: Resource) -> MetricsData:
        found = self._store.read(
            max(self._series, default=0),
            max(self._metrics, default=0),
            self._births,
            self._version,
        )
        if found.births != self._births:
            self._births = found.births
            self._series.clear()
        self._add_known(found.series, found.metrics)
        self._update(found)
        now = time.time_ns()
        by_metric = self._points(self._sums, now)
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

    def _update(self, found: Contents) -> None:
        """Add the series up of which a cell or a process has changed."""
        cells, changed = self._cells, set()
        for cell in found.cells:
            own = cells.setdefault(cell.series, {})
            if cell.value is None:
                own.pop(cell.process, None)
            else:
                own[cell.process] = cell
            changed.add(cell.series)
        states = {number: state == State.RUNNING for number, state in found.processes.items()}
        before, self._running = self._running, states
        others = {number for number, state in before.items() if states.get(number) != state}
        if others:
            gone = others - states.keys()
            for series, own in cells.items():
                if not others.isdisjoint(own):
                    changed.add(series)
                    for number in gone:
                        own.pop(number, None)
        for series in changed:
            rule = self._metrics[self._series[series][0]].across
            total = _sum(list(cells[series].values()), rule, states)
            if total is None:
                self._sums.pop(series, None)
            else:
                self._sums[series] = total
        self._version = found.version

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


def _sum(
    cells: Sequence[CellRow], rule: str, states: Mapping[int, bool]
) -> tuple[float, _Buckets | None] | None:
    """Add the cells of a series up; None if there are none."""
    if rule in (Across.LIVING, Across.MIN):
        cells = [each for each in cells if states.get(each.process)]
    if not cells:
        return None
    if rule == Across.LAST:
        return max(cells, key=lambda each: each.changed).value, None
    values = [each.value for each in cells]
    if rule in (Across.MAX, Across.MIN):
        return (max if rule == Across.MAX else min)(values), None
    # Whatever the order of the processes: a sum that falls would look like a restart.
    is_whole = all(type(each) is int for each in values)
    total = _in_range(sum(values) if is_whole else math.fsum(values))
    packed = [each.buckets for each in cells if each.buckets is not None]
    if not packed:
        return total, None
    counts, low, high = unpack(packed[0])
    added = counts.tolist()
    for each in packed[1:]:
        counts, least, most = unpack(each)
        added = list(map(operator.add, added, counts))
        low, high = min(low, least), max(high, most)
    return total, (added, low, high)


def _metric(definition: Definition, points: Any) -> Metric:
    data: Sum | Gauge | Histogram
    if definition.kind == "gauge":
        data = Gauge(points)
    elif definition.kind == "histogram":
        data = Histogram(points, _CUMULATIVE)
    else:
        data = Sum(points, _CUMULATIVE, definition.kind == "monotonic")
    return Metric(definition.name, definition.description, definition.unit, data)
