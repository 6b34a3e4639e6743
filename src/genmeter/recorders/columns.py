"""A bounded ring of rows, kept as one array a column."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Ring", "kept_since"]

_STAGED_ROWS = 1_024


class Ring:
    """The last ``capacity`` rows, oldest overwritten first.

    Rows are packed one after another into a small stage and moved into the columns together,
    which costs a fraction of a store into every column for every row. The columns' memory is
    reserved at once and used as rows come.

    Args:
        columns: Pairs of a column's name and its ``struct`` code, which is also NumPy's.
        capacity: Most rows that are kept.
    """

    def __init__(self, columns: tuple[tuple[str, str], ...], capacity: int) -> None:
        codes = "".join(code for _, code in columns)
        self._pack = struct.Struct("=" + codes).pack
        self._dtype = np.dtype([(name, "=" + code) for name, code in columns])
        self._columns = {name: np.empty(capacity, self._dtype[name]) for name, _ in columns}
        self._stage = bytearray()
        self._stage_limit = _STAGED_ROWS * self._dtype.itemsize
        self.capacity = capacity
        self.appended = 0

    def __repr__(self) -> str:
        return f"<Ring of {self.size} rows, at most {self.capacity}>"

    @property
    def size(self) -> int:
        """Rows that are kept."""
        return min(self.appended, self.capacity)

    @property
    def first_serial(self) -> int:
        """Serial number of the oldest row that is kept; the first row ever has 0."""
        return max(0, self.appended - self.capacity)

    def append(self, *row: Any) -> None:
        """Add a row; its values stand in the order of the columns and fit their codes."""
        self._stage += self._pack(*row)
        self.appended += 1
        if len(self._stage) >= self._stage_limit:
            self._settle()

    def columns(self, *names: str) -> list[npt.NDArray[Any]]:
        """Give columns of the rows that are kept, in the order of storage.

        Returns:
            An array of ``size`` elements a name; views, valid until the next ``append``.
        """
        self._settle()
        return [self._columns[name][: self.size] for name in names]

    def in_order(self) -> npt.NDArray[np.intp]:
        """Give the positions of the kept rows from the oldest to the newest."""
        start = self.appended % self.capacity if self.appended > self.capacity else 0
        return np.roll(np.arange(self.size), -start)

    def _settle(self) -> None:
        if not self._stage:
            return
        rows = np.frombuffer(bytes(self._stage), self._dtype)
        self._stage.clear()
        end = self.appended % self.capacity
        kept = rows[-self.capacity :]
        # The rows fill up to `end`; what does not fit before it stands at the ring's end.
        tail = min(end, len(kept))
        head = len(kept) - tail
        for name, column in self._columns.items():
            values = kept[name]
            column[end - tail : end] = values[head:]
            if head:
                stop = self.capacity
                column[stop - head : stop] = values[:head]


def kept_since(ring: Ring, since: float | None) -> float | None:
    """Say from when on a ring keeps all, where that is later than asked.

    Args:
        ring: One with a column ``time``, Unix times in seconds.
        since: What is asked, Unix time in seconds; None means from the start.

    Returns:
        Unix time in seconds; None where nothing that was asked for is gone.
    """
    if ring.appended <= ring.capacity:
        return None
    (time,) = ring.columns("time")
    oldest = float(time[ring.first_serial % ring.capacity])
    return None if since is not None and since >= oldest else oldest
