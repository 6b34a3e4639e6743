"""The samples of the old metric names that a snapshot holds, by columns.

The same rows as ``recorders.old_metrics.samples_of`` gives for the same events, made from the
history's arrays at once. Rows stand by metric, sorted by name, and within one in the order in which
they were told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

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
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from genmeter.history.metadata import Records
    from genmeter.history.snapshot import CallRows, Snapshot

    Codes = npt.NDArray[np.uint16]
    Mask = npt.NDArray[np.bool_]
    Positions = npt.NDArray[np.intp]

__all__ = [
    "NO_PROVIDER",
    "PHASES",
    "SampleRows",
    "SampleTable",
    "Whose",
    "free_records",
    "microseconds",
    "records_of",
    "sample_table",
    "token_parts",
    "whose_of",
]

NO_PROVIDER = "_OTHER"
"""What an unknown provider is called; no column shows it."""
PHASES = ("", "generation", "conversation", "evaluation")
"""What ``Whose.phase`` stands for."""


class SampleRows(NamedTuple):
    """Samples, an element each.

    Attributes:
        time: Microseconds since 1970, UTC.
        value: The values.
        exact: Those of them that are counts, exactly; else 0.
        is_count: Whether the value is a count.
        call: Position of the row's call in the snapshot; -1 where it has none.
        own: Position of the row in the snapshot's values; -1 where it came from a call.
        is_first: Whether it is the first row of its event, which has what is told of it once.
    """

    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    exact: npt.NDArray[np.int64]
    is_count: Mask
    call: Positions
    own: Positions
    is_first: Mask

    def at(self, rows: slice | Positions) -> SampleRows:
        """Give some of the samples."""
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
        """Give each metric and its rows."""
        for number, name in enumerate(self.names):
            yield name, slice(int(self.starts[number]), int(self.starts[number + 1]))


class Whose(NamedTuple):
    """Whose a call is: indexes into ``Snapshot.names``, 0 where absent, of :data:`PHASES` for phase.

    One element more than there are calls: the last, which is absent, is what position -1 gives.
    """

    phase: Codes
    evaluator: Codes
    model: Codes
    step: Codes
    provider: Codes


def microseconds(times: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Turn Unix times in seconds into microseconds, which is what a float64 tells of today."""
    return np.round(times * 1e6).astype(np.int64)


def whose_of(snapshot: Snapshot) -> Whose:
    """Give the labels of each call's rows."""
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
    return Whose(*(np.append(column.astype(np.uint16), np.uint16(0)) for column in columns))


def token_parts(calls: CallRows) -> Iterator[tuple[str, str, npt.NDArray[np.int64]]]:
    """Give the metadata that itemises tokens: its key, the metric that has it, and the counts."""
    yield "cache_read_token_count", "prompt_token_count", calls.cache_read
    yield "cache_write_token_count", "prompt_token_count", calls.cache_write
    yield "reasoning_token_count", "completion_token_count", calls.reasoning


def sample_table(snapshot: Snapshot) -> SampleTable:
    """Make the table of a snapshot."""
    score_call = _call_of_scores(snapshot)
    found: dict[str, list[SampleRows]] = {}
    for name, rows in (
        *_from_calls(snapshot.calls, snapshot.names, score_call),
        *_from_values(snapshot, score_call),
    ):
        if len(rows.time):
            found.setdefault(name, []).append(rows)
    names = sorted(found)
    parts = [_in_order(found[name]) for name in names]
    starts = np.cumsum([0, *(len(part.time) for part in parts)])
    return SampleTable(names, starts, _joined([*parts, _NO_ROWS]))


def free_records(snapshot: Snapshot, table: SampleTable) -> tuple[Records, Records]:
    """Parse the free data of the table's rows.

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
    """Parse the free data of some rows.

    Args:
        texts: The data by the rows' serial numbers.
        serials: The rows'.
        positions: Where they stand in what is made of them.
    """
    found = [
        (row, texts[serial])
        for row, serial in zip(positions.tolist(), serials.tolist(), strict=True)
        if serial in texts
    ]
    data = parse_objects([text for _, text in found])
    return [(row, told) for (row, _), told in zip(found, data, strict=True)]


def _joined(parts: list[SampleRows]) -> SampleRows:
    return SampleRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _in_order(parts: list[SampleRows]) -> SampleRows:
    if len(parts) == 1:
        return parts[0]
    rows = _joined(parts)
    order = np.argsort(rows.time, kind="stable")
    return rows.at(order)


def _call_of_scores(snapshot: Snapshot) -> Positions:
    """Give the position of each value's evaluation; -1 where it has none or that is gone."""
    serials, events = snapshot.calls.serial, snapshot.values.event
    found = np.searchsorted(serials, events)
    if not len(serials):
        return np.full(len(events), -1)
    is_kept = serials[np.minimum(found, len(serials) - 1)] == events
    return np.where(is_kept & (events >= 0), found, -1)


def _from_calls(
    calls: CallRows, names: tuple[str, ...], score_call: Positions
) -> Iterator[tuple[str, SampleRows]]:
    flags = calls.flags
    times = microseconds(calls.time)
    is_timed = ~np.isnan(calls.duration)
    has_score = np.zeros(len(flags) + 1, np.bool_)
    has_score[score_call] = True
    is_success = ((flags & SUCCESS) != 0).astype(np.float64)
    generation, evaluation = (flags & GENERATION) != 0, (flags & EVALUATION) != 0
    ones, never = np.ones(len(flags)), np.zeros(len(flags), np.bool_)

    def rows(chosen: Mask, values: npt.NDArray[Any], is_first: Mask = never) -> SampleRows:
        call = np.flatnonzero(chosen)
        value = values[call]
        is_count = np.full(len(call), value.dtype.kind == "i")
        return SampleRows(
            times[call],
            value.astype(np.float64),
            np.where(is_count, value, 0).astype(np.int64),
            is_count,
            call,
            np.full(len(call), -1),
            is_first[call],
        )

    yield "generation_time", rows(generation & is_timed, calls.duration, is_timed)
    yield "success_rate", rows(generation, is_success, ~is_timed)
    yield "error_rate", rows(generation, 1 - is_success)
    yield "evaluation_time", rows(evaluation & is_timed, calls.duration, is_timed)
    is_bare = ~is_timed & ~has_score[:-1]
    yield "evaluation_error_rate", rows(evaluation, 1 - is_success, is_bare)
    for name, flag, counts in (
        ("prompt_token_count", HAS_INPUT, calls.input),
        ("completion_token_count", HAS_OUTPUT, calls.output),
        ("total_token_count", HAS_TOTAL, calls.total),
        ("conversation_length", HAS_TURNS, calls.turns),
    ):
        yield name, rows((flags & flag) != 0, counts)
    is_named = generation & ((flags & MODEL_GIVEN) != 0)
    for number in np.unique(calls.model[is_named]):
        yield f"model_usage:{names[number]}", rows(is_named & (calls.model == number), ones)
    has_reason = generation & (calls.finish_reason != 0)
    for number in np.unique(calls.finish_reason[has_reason]):
        chosen = has_reason & (calls.finish_reason == number)
        yield f"finish_reason:{names[number]}", rows(chosen, ones)


def _from_values(snapshot: Snapshot, score_call: Positions) -> Iterator[tuple[str, SampleRows]]:
    calls, values = snapshot.calls, snapshot.values
    times = microseconds(values.time)
    # The first score of an evaluation without a duration is that evaluation's first row.
    is_untimed = np.append(np.isnan(calls.duration), np.False_)[score_call]
    is_first = np.zeros(len(times), np.bool_)
    is_first[np.unique(score_call, return_index=True)[1]] = True
    is_first &= is_untimed & (score_call >= 0)
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
