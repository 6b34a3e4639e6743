"""A copy of a history's rows, for readers that take longer than the drain can wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["CallRows", "Snapshot", "ValueRows"]


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
