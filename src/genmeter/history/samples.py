"""AfterImage's metrics, made of a history's columns: of one metric, or of all that a snapshot holds.

The same rows as ``events.afterimage.metric_rows`` makes of the same events, one by one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.events.values import label_text
from genmeter.history.metadata import parse_objects
from genmeter.history.ring import (
    CONVERSATION,
    EVALUATION,
    GENERATION,
    HAS_INPUT,
    HAS_OUTPUT,
    HAS_TOTAL,
    HAS_TURNS,
    MODEL_GIVEN,
    SUCCESS,
    kept_since,
)
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

# --- what the table means for the columns of calls -------------------------------------------------

_KIND_FLAGS = {table.GENERATION: GENERATION, table.EVALUATION: EVALUATION}
_KNOWN_FLAGS = {
    "input_tokens": HAS_INPUT,
    "output_tokens": HAS_OUTPUT,
    "total_tokens": HAS_TOTAL,
    "turns": HAS_TURNS,
    "model": MODEL_GIVEN,
}


def _flags_of(metric: MetricSpec) -> int:
    """Return the flags that all rows with a metric have."""
    of_kind = _KIND_FLAGS[metric.kinds[0]] if len(metric.kinds) == 1 else 0
    return of_kind | _KNOWN_FLAGS.get(metric.field, 0)


def _column_of(field: str) -> str:
    return field.removesuffix("_tokens")


def _has(metric: MetricSpec, columns: Columns) -> Mask:
    """Say which rows have a metric."""
    need = _flags_of(metric)
    found: Mask = (columns("flags") & need) == need
    if metric.field == "duration":
        found &= ~np.isnan(columns("duration"))
    elif metric.value == "label":
        found &= columns(metric.field) != 0
    return found


def _values_of(metric: MetricSpec, columns: Columns) -> npt.NDArray[Any]:
    """Return the value that each row has if it has the metric."""
    if metric.value == "amount":
        return columns(_column_of(metric.field))
    flags = columns("flags")
    if metric.value == "label":
        return np.ones(len(flags))
    is_success: Mask = (flags & SUCCESS) != 0
    return (is_success if metric.value == "success" else ~is_success).astype(np.float64)


def token_parts(calls: CallRows) -> Iterator[tuple[str, str, npt.NDArray[np.int64]]]:
    """Return the metadata that itemises tokens: its key, the metric that has it, and the counts."""
    for metric in table.METRICS:
        for key, field in metric.parts:
            yield key, metric.name, getattr(calls, _column_of(field))


# --- one metric, from the rings --------------------------------------------------------------------


class Samples(NamedTuple):
    """Samples of one metric, in no certain order.

    Attributes:
        time: Unix times in seconds.
        value: The values, as many.
        kept_since: From when on (Unix time) they are kept, if that is later than asked.
    """

    time: npt.NDArray[np.float64]
    value: npt.NDArray[Any]
    kept_since: float | None


class MetricReader:
    """Reads the rings by metric, and knows which metrics were ever recorded.

    The history that fills the rings fills the attributes too, since the rings forget.

    Args:
        calls: The ring of calls and evaluations.
        others: The ring of scores and custom values.
        numbers: What the numbers in their label columns stand for.

    Attributes:
        flags: All flags that any row of ``calls`` has had.
        labels: The labels that calls had, by the column that holds them.
        values: The names in ``others``.
    """

    def __init__(self, calls: Ring, others: Ring, numbers: StringTable) -> None:
        self._calls = calls
        self._others = others
        self._names = numbers
        self.flags = 0
        self.labels: dict[str, set[str]] = {"model": set(), "finish_reason": set()}
        self.values: set[str] = set()

    def samples(self, name: str, since: float | None = None) -> Samples | None:
        """Return the samples of a metric.

        Args:
            name: Such as ``generation_time``, ``model_usage:MODEL`` or a name that was passed to
                ``record_metric``.
            since: Unix time in seconds; None means all that are kept.

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
        # Counts stay integers if nothing else was recorded under their name.
        filled = [part for part in parts if len(part[1])] or parts[:1]
        _, time, value = filled[0]
        for _, more_time, more_value in filled[1:]:  # no copy of the one part that most have
            time, value = np.concatenate([time, more_time]), np.concatenate([value, more_value])
        starts = [kept_since(ring, since) for ring, _, _ in parts]
        return Samples(
            time, value, max((each for each in starts if each is not None), default=None)
        )

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
    """Return the metric of a name, if calls have it, and the label in it as their column has it."""
    metric, label = table.metric_of(name)
    is_reason = metric is not None and metric.field == "finish_reason"
    return metric, label.lower() if is_reason else label


def _canonical_name(name: str) -> str:
    """Return a metric's name with its label as it is kept: cut to its length, without controls."""
    prefix = next((each for each in table.PREFIXES if name.startswith(each)), "")
    return prefix + (label_text(name.removeprefix(prefix)) or "")


# --- all metrics, from a snapshot ------------------------------------------------------------------


class SampleRows(NamedTuple):
    """Samples, an element each.

    Attributes:
        time: Microseconds since 1970, UTC.
        value: The values.
        exact: Those of them that are counts, exactly; else 0.
        is_count: Whether the value is a count.
        call: Position of the row's call in the snapshot; -1 if it has none.
        own: Position of the row in the snapshot's values; -1 if it came from a call.
        is_first: Whether it is the first row of its event, which has the metadata of the event.
    """

    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    exact: npt.NDArray[np.int64]
    is_count: Mask
    call: Positions
    own: Positions
    is_first: Mask

    def at(self, rows: slice | Positions) -> SampleRows:
        """Return some of the samples."""
        columns: list[Any] = [column[rows] for column in self]
        return SampleRows(*columns)


class SampleTable(NamedTuple):
    """All samples, by metric.

    Attributes:
        names: The metrics, sorted.
        starts: Where each metric's rows begin, and at the end the number of rows.
        rows: The samples.
    """

    names: list[str]
    starts: npt.NDArray[np.int64]
    rows: SampleRows

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Return each metric and its rows."""
        for number, name in enumerate(self.names):
            yield name, slice(int(self.starts[number]), int(self.starts[number + 1]))


class RowLabels(NamedTuple):
    """The labels of each call's rows: indexes into ``Snapshot.names``, the phase into :data:`PHASES`.

    0 stands for an absent label. Position -1, one past the calls, has no labels.
    """

    phase: Codes
    evaluator: Codes
    model: Codes
    step: Codes
    provider: Codes


def microseconds(times: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Turn Unix times in seconds into microseconds, which a float64 of today still tells apart."""
    return np.round(times * 1e6).astype(np.int64)


def row_labels(snapshot: Snapshot) -> RowLabels:
    """Return the labels of each call's rows."""
    calls = snapshot.calls
    flags = calls.flags
    is_evaluation = (flags & EVALUATION) != 0
    phase = np.where(is_evaluation, 3, np.where((flags & CONVERSATION) != 0, 2, 1))
    has_model = np.where(is_evaluation, (flags & HAS_TOTAL) != 0, (flags & CONVERSATION) == 0)
    unknown = [number for number, name in enumerate(snapshot.names) if name == NO_PROVIDER]
    columns = (
        phase,
        calls.evaluator,
        np.where(has_model, calls.model, 0),
        calls.step,
        np.where(np.isin(calls.provider, unknown), 0, calls.provider),
    )
    return RowLabels(*(np.append(column.astype(np.uint16), np.uint16(0)) for column in columns))


def sample_table(snapshot: Snapshot) -> SampleTable:
    """Make the table of a snapshot: by metric, sorted by name, and then in the order of recording."""
    score_call = _call_of_scores(snapshot)
    # The calls whose first row is still to come; the last one is no call.
    is_next = np.append(np.ones(len(snapshot.calls.flags), np.bool_), np.False_)
    of_calls, of_values = [], []
    for metric in table.METRICS:
        if metric.value == "score":
            made = of_values = list(_from_values(snapshot, score_call, is_next))
        else:
            made = list(_from_calls(snapshot, metric, is_next))
            of_calls += made
        for _, rows in made:
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
        Rows' positions and their data: those of calls and evaluations, which stand on their first
        rows, and those of scores and custom values.
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
        positions: The positions to return the rows under.
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
    order = np.argsort(rows.time, kind="stable")
    return rows.at(order)


def _call_of_scores(snapshot: Snapshot) -> Positions:
    """Return the position of each value's evaluation; -1 if it has none or that is gone."""
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
    is_count = np.full(len(call), value.dtype.kind == "i")
    rows = SampleRows(
        microseconds(snapshot.calls.time[call]),
        value.astype(np.float64),
        np.where(is_count, value, 0).astype(np.int64),
        is_count,
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
        yield (
            snapshot.names[number],
            SampleRows(
                times[own],
                values.value[own],
                np.zeros(len(own), np.int64),
                np.zeros(len(own), np.bool_),
                score_call[own],
                own,
                is_first[own],
            ),
        )


_NO_ROWS = SampleRows(
    np.empty(0, np.int64),
    np.empty(0, np.float64),
    np.empty(0, np.int64),
    np.empty(0, np.bool_),
    np.empty(0, np.intp),
    np.empty(0, np.intp),
    np.empty(0, np.bool_),
)
