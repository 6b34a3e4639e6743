"""AfterImage's metrics, computed from a history's columns: one metric, or all in a snapshot.

The rows equal those that ``events.afterimage.metric_rows`` returns for the same events.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.events.values import label_text
from genmeter.history.metadata import parse_objects
from genmeter.history.ring import Flag, kept_since
from genmeter.schema import afterimage as table
from genmeter.schema.afterimage import NO_PROVIDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from genmeter.history.metadata import Records
    from genmeter.history.ring import Ring, StringTable
    from genmeter.history.snapshot import CallRows, Snapshot
    from genmeter.schema.afterimage import MetricSpec

    Codes = npt.NDArray[np.uint16]
    Columns = Callable[[str], npt.NDArray[Any]]
    Mask = npt.NDArray[np.bool_]
    Positions = npt.NDArray[np.intp]

__all__ = [
    "PHASES",
    "MetricReader",
    "RowLabels",
    "SampleRows",
    "SampleTable",
    "Samples",
    "free_records",
    "microseconds",
    "records_of",
    "row_labels",
    "sample_table",
    "token_parts",
]

PHASES = ("", table.GENERATION, table.CONVERSATION, table.EVALUATION)
"""What ``RowLabels.phase`` stands for."""

# --- the table, applied to the columns of calls ----------------------------------------------------

_KIND_FLAGS = {table.GENERATION: Flag.GENERATION, table.EVALUATION: Flag.EVALUATION}
_KNOWN_FLAGS = {
    "input_tokens": Flag.HAS_INPUT,
    "output_tokens": Flag.HAS_OUTPUT,
    "total_tokens": Flag.HAS_TOTAL,
    "turns": Flag.HAS_TURNS,
    "model": Flag.MODEL_GIVEN,
    "cost": Flag.HAS_COST,
    "cancelled": Flag.CANCELLED,
    "unpriced": Flag.UNPRICED,
}


def _flags_of(metric: MetricSpec) -> int:
    of_kind = _KIND_FLAGS[metric.kinds[0]] if len(metric.kinds) == 1 else 0
    return of_kind | _KNOWN_FLAGS.get(metric.field, 0)


def _column_of(field: str) -> str:
    return field.removesuffix("_tokens")


def _has(metric: MetricSpec, columns: Columns) -> Mask:
    """Return a mask of the rows that have a metric."""
    need = _flags_of(metric)
    found: Mask = (columns("flags") & need) == need
    if metric.field == "duration":
        found &= ~np.isnan(columns("duration"))
    elif metric.value == "label":
        found &= columns(metric.field) != 0
    elif metric.value in ("success", "failure"):
        found &= (columns("flags") & Flag.CANCELLED) == 0
    return found


def _values_of(metric: MetricSpec, columns: Columns) -> npt.NDArray[Any]:
    """Return the metric's value for each row, valid where the row has the metric."""
    if metric.value == "amount":
        return columns(_column_of(metric.field))
    flags = columns("flags")
    if metric.value in ("label", "flag"):
        return np.ones(len(flags))
    is_success: Mask = (flags & Flag.SUCCESS) != 0
    return (is_success if metric.value == "success" else ~is_success).astype(np.float64)


def token_parts(calls: CallRows) -> Iterator[tuple[str, str, npt.NDArray[np.int64]]]:
    """Yield the metadata that itemises tokens: its key, its metric and the counts."""
    for metric in table.METRICS:
        for key, field in metric.parts:
            yield key, metric.name, getattr(calls, _column_of(field))


# --- one metric, from the rings --------------------------------------------------------------------


class Samples(NamedTuple):
    """Samples of one metric, in no particular order.

    Attributes:
        time: Unix times in seconds.
        value: The values, one for each time.
        kept_since: Unix time of the oldest kept row, if it is later than the requested start.
    """

    time: npt.NDArray[np.float64]
    value: npt.NDArray[Any]
    kept_since: float | None


class MetricReader:
    """Reads the rings by metric, and remembers which metrics were ever recorded.

    The history updates the attributes as it appends rows, because rings drop old rows.

    Args:
        calls: The ring of calls and evaluations.
        others: The ring of scores and custom values.
        numbers: The table that the numbers in their label columns index.

    Attributes:
        flags: All flags that any row of ``calls`` ever had.
        labels: The labels that calls had, by column.
        values: The names in ``others``.
    """

    def __init__(self, calls: Ring, others: Ring, numbers: StringTable) -> None:
        self._calls = calls
        self._others = others
        self._names = numbers
        self.flags = 0
        self.labels: dict[str, set[str]] = {
            metric.field: set() for metric in table.METRICS if metric.value == "label"
        }
        self.values: set[str] = set()

    def samples(self, name: str, since: float | None = None) -> Samples | None:
        """Return the samples of a metric.

        Args:
            name: E.g. ``generation_time``, ``model_usage:MODEL`` or a name of ``record_metric``.
            since: Unix time in seconds; None means all rows.

        Returns:
            The samples; None if the metric was never recorded.
        """
        if not self._is_recorded(name):
            name = _canonical_name(name)
            if not self._is_recorded(name):
                return None
        parts = []
        metric, label = _metric_of(name)
        if metric is not None:
            parts.append((self._calls, *self._from_calls(metric, label, since)))
        if name in self.values:
            time, value, names = self._others.columns("time", "value", "name")
            chosen = (names == self._names[name]) & _is_recent(time, since)
            parts.append((self._others, time[chosen], value[chosen]))
        # Counts stay integers unless other values were recorded under the same name.
        filled = [part for part in parts if len(part[1])] or parts[:1]
        _, time, value = filled[0]
        for _, more_time, more_value in filled[1:]:  # no copy of the only part that most have
            time, value = np.concatenate([time, more_time]), np.concatenate([value, more_value])
        starts = (kept_since(ring, since) for ring, _, _ in parts)
        return Samples(time, value, max(filter(None, starts), default=None))

    def _is_recorded(self, name: str) -> bool:
        metric, label = _metric_of(name)
        if metric is None:
            return name in self.values
        need = _flags_of(metric)
        is_known = metric.value != "label" or label in self.labels[metric.field]
        return (is_known and (self.flags & need) == need) or name in self.values

    def _from_calls(
        self, metric: MetricSpec, label: str, since: float | None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
        def columns(name: str) -> npt.NDArray[Any]:
            return self._calls.columns(name)[0]

        chosen = _has(metric, columns) & _is_recent(columns("time"), since)
        if metric.value == "label":
            chosen &= columns(metric.field) == self._names.get(label, -1)
        return columns("time")[chosen], _values_of(metric, columns)[chosen]


def _is_recent(time: npt.NDArray[np.float64], since: float | None) -> Mask:
    return np.ones(len(time), np.bool_) if since is None else time >= since


def _metric_of(name: str) -> tuple[MetricSpec | None, str]:
    """Return the metric of calls with this name, and the label in it as its column has it."""
    metric, label = table.metric_of(name)
    is_reason = metric is not None and metric.field == "finish_reason"
    return metric, label.lower() if is_reason else label


def _canonical_name(name: str) -> str:
    """Return a metric's name with its label as it is stored: cut to its length, without controls."""
    prefix = next((each for each in table.PREFIXES if name.startswith(each)), "")
    return prefix + (label_text(name.removeprefix(prefix)) or "")


# --- all metrics, from a snapshot ------------------------------------------------------------------


class SampleRows(NamedTuple):
    """Samples, an element each.

    Attributes:
        time: Microseconds since 1970, UTC.
        value: The values; a float64 holds every count exactly.
        is_count: Whether the value is a count.
        call: Position of the row's call in the snapshot; -1 if it has none.
        own: Position of the row in the snapshot's values; -1 if it came from a call.
        is_first: Whether it is the first row of its event, which carries the event's metadata.
    """

    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    is_count: Mask
    call: Positions
    own: Positions
    is_first: Mask

    def at(self, rows: slice | Positions) -> SampleRows:
        """Return the samples at these positions."""
        columns: list[Any] = [column[rows] for column in self]
        return SampleRows(*columns)


class SampleTable(NamedTuple):
    """All samples, by metric.

    Attributes:
        names: The metrics, sorted.
        starts: Position of each metric's first row, then the number of rows.
        rows: The samples.
    """

    names: list[str]
    starts: npt.NDArray[np.int64]
    rows: SampleRows

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield each metric and the slice of its rows."""
        for number, name in enumerate(self.names):
            yield name, slice(int(self.starts[number]), int(self.starts[number + 1]))


class RowLabels(NamedTuple):
    """The labels of each call: indexes into ``Snapshot.names``; the phase indexes :data:`PHASES`.

    0 is an absent label. The last element, at position -1, has no labels.
    """

    phase: Codes
    evaluator: Codes
    model: Codes
    step: Codes
    provider: Codes
    response_model: Codes


def microseconds(times: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Convert Unix times in seconds to microseconds, the finest unit that a float64 resolves."""
    return np.round(times * 1e6).astype(np.int64)


def row_labels(snapshot: Snapshot) -> RowLabels:
    """Return the labels of each call."""
    calls = snapshot.calls
    flags = calls.flags
    is_evaluation = (flags & Flag.EVALUATION) != 0
    phase = np.where(is_evaluation, 3, np.where((flags & Flag.CONVERSATION) != 0, 2, 1))
    has_model = np.where(
        is_evaluation, (flags & Flag.HAS_TOTAL) != 0, (flags & Flag.CONVERSATION) == 0
    )
    unknown = [number for number, name in enumerate(snapshot.names) if name == NO_PROVIDER]
    columns = (
        phase,
        calls.evaluator,
        np.where(has_model, calls.model, 0),
        calls.step,
        np.where(np.isin(calls.provider, unknown), 0, calls.provider),
        np.where(has_model, calls.response_model, 0),
    )
    return RowLabels(*(np.append(column.astype(np.uint16), np.uint16(0)) for column in columns))


def sample_table(snapshot: Snapshot) -> SampleTable:
    """Create the table of a snapshot, sorted by metric name, then in recording order."""
    score_call = _call_of_scores(snapshot)
    # The calls whose first row is still missing; the last element is not a call.
    is_next = np.append(np.ones(len(snapshot.calls.flags), np.bool_), np.False_)
    of_calls, of_values = [], []
    for metric in table.METRICS:
        if metric.value == "score":
            new = of_values = list(_from_values(snapshot, score_call, is_next))
        else:
            new = list(_from_calls(snapshot, metric, is_next))
            of_calls += new
        for _, rows in new:
            is_next[rows.call] = False
    found: dict[str, list[SampleRows]] = {}
    for name, rows in of_calls + of_values:
        if len(rows.time):
            found.setdefault(name, []).append(rows)
    names = sorted(found)
    parts = [_in_order(found[name]) for name in names]
    starts = np.cumsum([0, *(len(part.time) for part in parts)])
    return SampleTable(names, starts, _joined([*parts, _NO_ROWS]))


def free_records(snapshot: Snapshot, table: SampleTable) -> tuple[Records, Records]:
    """Parse the metadata that callers recorded with the table's rows.

    Returns:
        Pairs of a row's position and its data: first those of calls and evaluations, at their
        first rows, then those of scores and custom values.
    """
    rows = table.rows
    first = np.flatnonzero(rows.is_first)
    of_calls = records_of(snapshot.call_data, snapshot.calls.serial[rows.call[first]], first)
    own = np.flatnonzero(rows.own >= 0)
    of_values = records_of(snapshot.value_data, snapshot.values.serial[rows.own[own]], own)
    return of_calls, of_values


def records_of(
    texts: dict[int, str], serials: npt.NDArray[np.int64], positions: Positions
) -> Records:
    """Parse the metadata that callers recorded with some rows.

    Args:
        texts: The metadata as JSON, by the rows' serial numbers.
        serials: The rows' serial numbers.
        positions: The position to return for each row.
    """
    found = [
        (row, texts[serial])
        for row, serial in zip(positions.tolist(), serials.tolist(), strict=True)
        if serial in texts
    ]
    data = parse_objects([text for _, text in found])
    return [(row, parsed) for (row, _), parsed in zip(found, data, strict=True)]


def _joined(parts: list[SampleRows]) -> SampleRows:
    return SampleRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _in_order(parts: list[SampleRows]) -> SampleRows:
    if len(parts) == 1:
        return parts[0]
    rows = _joined(parts)
    return rows.at(np.argsort(rows.time, kind="stable"))


def _call_of_scores(snapshot: Snapshot) -> Positions:
    """Return the position of each value's evaluation; -1 without one, or if it was overwritten."""
    serials, events = snapshot.calls.serial, snapshot.values.event
    found = np.searchsorted(serials, events)
    if not len(serials):
        return np.full(len(events), -1)
    is_kept = serials[np.minimum(found, len(serials) - 1)] == events
    return np.where(is_kept & (events >= 0), found, -1)


def _from_calls(
    snapshot: Snapshot, metric: MetricSpec, is_next: Mask
) -> Iterator[tuple[str, SampleRows]]:
    columns = partial(getattr, snapshot.calls)
    call = np.flatnonzero(_has(metric, columns))
    value = _values_of(metric, columns)[call]
    rows = SampleRows(
        microseconds(snapshot.calls.time[call]),
        value.astype(np.float64),
        np.full(len(call), value.dtype.kind == "i"),
        call,
        np.full(len(call), -1),
        is_next[call],
    )
    if metric.value != "label":
        yield metric.name, rows
        return
    labels = columns(metric.field)[call]
    for number in np.unique(labels):
        yield metric.name + snapshot.names[number], rows.at(np.flatnonzero(labels == number))


def _from_values(
    snapshot: Snapshot, score_call: Positions, is_next: Mask
) -> Iterator[tuple[str, SampleRows]]:
    values = snapshot.values
    times = microseconds(values.time)
    is_first = np.zeros(len(times), np.bool_)
    is_first[np.unique(score_call, return_index=True)[1]] = True
    is_first &= is_next[score_call]
    for number in np.unique(values.name):
        own = np.flatnonzero(values.name == number)
        is_count = np.zeros(len(own), np.bool_)
        rows = SampleRows(
            times[own], values.value[own], is_count, score_call[own], own, is_first[own]
        )
        yield snapshot.names[number], rows


_NO_ROWS = SampleRows(*(np.empty(0, code) for code in ("i8", "f8", "?", "p", "p", "?")))
