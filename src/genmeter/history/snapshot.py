"""A copy of a history's rows, for slow readers that must not block the drain."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["CallRows", "Snapshot", "ValueRows"]


class CallRows(NamedTuple):
    """Calls, conversations and evaluations in recording order, as arrays of equal length.

    ``time`` is Unix time in seconds; ``duration`` is seconds, NaN if unknown. ``flags`` has a bit
    for each count that is known; ``cost`` is USD, NaN if unknown. Names are indexes into ``Snapshot.names``, 0 if absent.
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
    response_model: npt.NDArray[np.uint16]
    unread: npt.NDArray[np.uint16]
    cost: npt.NDArray[np.float64]


class ValueRows(NamedTuple):
    """Scores and custom values; ``event`` is the serial number of a score's evaluation, or -1."""

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
        names: The names that the columns index.
        call_data: JSON text of calls' metadata, by serial number.
        value_data: The same for the metadata of custom values and the feedback of scores.
        kept_since: Unix time since which all rows are kept, if earlier ones were overwritten.
        data_cut: Number of these rows that lost their metadata for lack of room.
    """

    calls: CallRows
    values: ValueRows
    names: tuple[str, ...]
    call_data: dict[int, str]
    value_data: dict[int, str]
    kept_since: float | None
    data_cut: int
