"""A copy of a history's rows, for readers that take longer than the drain can wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from genmeter.history.ring import MetadataStore, Ring

__all__ = ["CallRows", "Snapshot", "ValueRows", "take"]


class CallRows(NamedTuple):
    """Calls, conversations and evaluations; arrays of one length, in the order of recording.

    ``time`` is Unix time in seconds, ``duration`` seconds, NaN if unknown; tokens and turns are
    counts, whose flags say whether they are known; names are indexes into ``Snapshot.names``, 0 if
    absent.
    """

    serial: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    duration: npt.NDArray[np.float64]
    input: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    cache_read: npt.NDArray[np.int64]
    cache_write: npt.NDArray[np.int64]
    reasoning: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    model: npt.NDArray[np.uint16]
    step: npt.NDArray[np.uint16]
    provider: npt.NDArray[np.uint16]
    operation: npt.NDArray[np.uint16]
    error_type: npt.NDArray[np.uint16]
    finish_reason: npt.NDArray[np.uint16]
    evaluator: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint16]


class ValueRows(NamedTuple):
    """Scores and custom values; ``event`` is the serial of a score's evaluation, else -1."""

    serial: npt.NDArray[np.int64]
    event: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    name: npt.NDArray[np.uint16]
    evaluator: npt.NDArray[np.uint16]


class Snapshot(NamedTuple):
    """The rows that a history keeps.

    Attributes:
        calls: See :class:`CallRows`.
        values: See :class:`ValueRows`.
        names: What the names' indexes stand for.
        call_data: JSON text of a call's metadata, by serial.
        value_data: The same of a custom value's metadata and of a score's feedback.
        kept_since: Unix time from which on all rows are kept, if earlier ones were overwritten.
        data_cut: How many of these rows lost their metadata for lack of room.
    """

    calls: CallRows
    values: ValueRows
    names: tuple[str, ...]
    call_data: dict[int, str]
    value_data: dict[int, str]
    kept_since: float | None
    data_cut: int


def take(
    calls: Ring,
    values: Ring,
    names: list[str],
    metadata: MetadataStore,
    *,
    since: float | None,
    kept_since: float | None,
) -> Snapshot:
    """Copy the rows of two rings and their metadata.

    Args:
        calls: The ring whose columns are those of :class:`CallRows`.
        values: The ring whose columns are those of :class:`ValueRows`.
        names: What the names' numbers stand for.
        metadata: The metadata of both.
        since: Unix time in seconds; None means all.
        kept_since: As in the snapshot.
    """
    call_rows = CallRows(*_rows(calls, CallRows._fields[1:], since))
    value_rows = ValueRows(*_rows(values, ValueRows._fields[1:], since))
    call_data, value_data = metadata.texts(calls), metadata.texts(values)
    data_cut = metadata.cut(calls, call_rows.serial) + metadata.cut(values, value_rows.serial)
    return Snapshot(
        call_rows, value_rows, tuple(names), call_data, value_data, kept_since, data_cut
    )


def _rows(ring: Ring, columns: tuple[str, ...], since: float | None) -> list[npt.NDArray[Any]]:
    order = ring.in_order()
    serial = np.arange(ring.appended - ring.size, ring.appended, dtype=np.int64)
    if since is not None:
        (time,) = ring.columns("time")
        chosen = time[order] >= since
        order, serial = order[chosen], serial[chosen]
    return [serial, *(column[order] for column in ring.columns(*columns))]
