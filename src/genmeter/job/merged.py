"""Add the cells of all processes of a job up to the metrics of the job."""

from __future__ import annotations

import ast
import json
import math
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

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

from genmeter.deferral import deferral
from genmeter.job._exact import add, parts_of, total
from genmeter.job.store import Definition, State, pack, unpack
from genmeter.schema.metrics import INSTRUMENTS, JOB_LAST_DEATH, JOB_PROCESSES, STATE, Across

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

    from genmeter.job._exact import Exact
    from genmeter.job.store import CellRow, Census, ProcessRow, Store
    from genmeter.metrics.changes import Origin

__all__ = ["Merger", "combine", "definition_of", "labels_text"]

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_OF_JSON = {str, int, float, bool}
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
    """Return a label set as text, equal for equal ones, whatever their order.

    That is JSON, which is read many times faster than Python's literals; these, a list of pairs, if
    there is a value that JSON has not, or a surrogate: JSON reads two of them as one character.
    """
    plain = {key: _literal(value) for key, value in attributes.items()}
    if all(value is None or type(value) in _OF_JSON for value in plain.values()):
        text = json.dumps(plain, sort_keys=True)
        if "\\ud" not in text:
            return text
    return repr(sorted(plain.items()))


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
    found: dict[str, AttributeValue] = json.loads(text) if text[0] == "{" else _pairs_of(text)
    return found


def _pairs_of(text: str) -> dict[str, AttributeValue]:
    return dict(ast.literal_eval(text))


def combine(definition: Definition, older: CellRow, newer: CellRow) -> tuple[Exact, bytes | None]:
    """Return the value and the buckets of two cells of a series, added up for good."""
    if definition.across == Across.MAX:
        return max(older.value, newer.value), None
    if definition.across == Across.LAST:
        return (newer if newer.changed >= older.changed else older).value, None
    value = add(older.value, newer.value)
    if older.buckets is None or newer.buckets is None:
        return value, None
    counts, low, high = unpack(older.buckets)
    more, least, most = unpack(newer.buckets)
    added = [a + b for a, b in zip(counts, more, strict=True)]
    return value, pack(added, min(low, least), max(high, most))


class _Part:
    """What one process has of a series."""

    __slots__ = ("changed", "counts", "high", "low", "values")

    def __init__(self, cell: CellRow) -> None:
        self.values = parts_of(cell.value)
        self.changed = cell.changed
        self.counts: array[int] | None = None
        self.low = self.high = 0.0
        if cell.buckets is not None:
            self.counts, self.low, self.high = unpack(cell.buckets)


class _Total(NamedTuple):
    """The value of a series in the job, and its buckets, minimum and maximum."""

    value: int | float
    counts: tuple[int, ...] | None = None
    low: float = 0.0
    high: float = 0.0


class Merger:
    """Reads the store and adds the processes up.

    It keeps what it has read: only what changed since is read again. The label sets stay the same
    objects, so that a page can cache their text.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._births = ""
        self._series: dict[int, tuple[int, dict[str, AttributeValue], int]] = {}
        self._metrics: dict[int, Definition] = {}
        self._scopes: dict[Any, InstrumentationScope] = {}
        self._states = {state: {STATE.key: state} for state in ("running", "ended", "died")}
        self._unlabelled: dict[str, AttributeValue] = {}
        self._processes: dict[int, ProcessRow] = {}
        self._parts: dict[int, dict[int, _Part]] = {}  # by series and process
        self._totals: dict[int, _Total | None] = {}  # by series

    def collect(self, resource: Resource) -> MetricsData:
        """Return the metrics of the job.

        Raises:
            StoreError: The store cannot be read.
        """
        with deferral, self._lock:
            census = self._update()
            now = time.time_ns()
            scopes: dict[InstrumentationScope, list[tuple[int, int, Metric]]] = {}
            for number, points in self._points(now).items():
                definition = self._metrics[number]
                rank = _RANK.get(definition.name, len(_RANK))
                found = scopes.setdefault(self._scope(definition), [])
                found.append((rank, number, _metric(definition, points)))
        own = next((each for each in scopes if each.name == "genmeter"), None)
        if own is not None:
            scopes[own] += [(_RANK[metric.name], 0, metric) for metric in self._census(census, now)]
        found_scopes = [
            ScopeMetrics(
                scope,
                [metric for *_, metric in sorted(metrics, key=lambda each: each[:2])],
                scope.schema_url or "",
            )
            for scope, metrics in scopes.items()
        ]
        if not found_scopes:
            return MetricsData([])
        return MetricsData([ResourceMetrics(resource, found_scopes, resource.schema_url)])

    def _update(self) -> Census:
        """Read what has changed."""
        found = self._store.read(
            self._processes,
            max(self._series, default=0),
            max(self._metrics, default=0),
            self._births,
        )
        self._births = found.births
        self._metrics.update(found.metrics)
        for number, metric, labels, birth in found.series:
            known = self._series.get(number)
            attributes = _labels_of(labels) if known is None else known[1]
            self._series[number] = (metric, attributes, birth)
        before, self._processes = self._processes, {each.id: each for each in found.processes}
        changed: set[int] = set()
        for number, process in before.items():
            now = self._processes.get(number)
            if now is None or now.generation != process.generation:
                changed |= self._forget(number)
            elif now.state != process.state:
                changed |= {each for each, parts in self._parts.items() if number in parts}
        for number, cells in found.cells.items():
            for cell in cells:
                self._parts.setdefault(cell.series, {})[number] = _Part(cell)
                changed.add(cell.series)
        for series in changed:
            self._totals[series] = self._total(series)
        return found.census

    def _forget(self, process: int) -> set[int]:
        return {
            series for series, parts in self._parts.items() if parts.pop(process, None) is not None
        }

    def _total(self, series: int) -> _Total | None:
        """Return the value of a series by its rule; None if it has none."""
        metric, *_ = self._series[series]
        rule = self._metrics[metric].across
        parts = self._parts[series]
        if rule in (Across.LIVING, Across.MIN):
            parts = {
                number: part
                for number, part in parts.items()
                if self._processes[number].state == State.RUNNING
            }
        if not parts:
            return None
        found = list(parts.values())
        if rule == Across.LAST:
            return _Total(max(found, key=lambda part: part.changed).values[0])
        values = [value for part in found for value in part.values]
        if rule in (Across.MIN, Across.MAX):
            return _Total(min(values) if rule == Across.MIN else max(values))
        counts = [part.counts for part in found if part.counts is not None]
        if not counts:
            return _Total(total(values))
        return _Total(
            total(values),
            tuple(map(sum, zip(*counts, strict=True))) if len(counts) > 1 else tuple(counts[0]),
            min(part.low for part in found),
            max(part.high for part in found),
        )

    def _points(self, now: int) -> dict[int, list[NumberDataPoint] | list[HistogramDataPoint]]:
        found: dict[int, list[Any]] = {}
        for number, (metric, attributes, birth) in self._series.items():
            have = self._totals.get(number)
            if have is None:
                continue
            definition = self._metrics[metric]
            point: NumberDataPoint | HistogramDataPoint
            if have.counts is not None:
                point = HistogramDataPoint(
                    attributes=attributes,
                    start_time_unix_nano=birth,
                    time_unix_nano=now,
                    count=sum(have.counts),
                    sum=have.value,
                    bucket_counts=have.counts,
                    explicit_bounds=definition.bounds,
                    min=have.low,
                    max=have.high,
                    exemplars=[],
                )
            else:
                start: Any = None if definition.kind == "gauge" else birth
                point = NumberDataPoint(attributes, start, now, have.value, exemplars=[])
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

    def _census(self, census: Census, now: int) -> list[Metric]:
        start: Any = None
        points = [
            NumberDataPoint(self._states[state], start, now, getattr(census, state), exemplars=[])
            for state in self._states
        ]
        found = [(JOB_PROCESSES, points)]
        if census.last_death is not None:
            value = census.last_death
            point = NumberDataPoint(self._unlabelled, start, now, value, exemplars=[])
            found.append((JOB_LAST_DEATH, [point]))
        return [Metric(row.name, row.help, row.unit, Gauge(each)) for row, each in found]


def _metric(definition: Definition, points: Any) -> Metric:
    data: Sum | Gauge | Histogram
    if definition.kind == "gauge":
        data = Gauge(points)
    elif definition.kind == "histogram":
        data = Histogram(points, _CUMULATIVE)
    else:
        data = Sum(points, _CUMULATIVE, definition.kind == "monotonic")
    return Metric(definition.name, definition.description, definition.unit, data)
