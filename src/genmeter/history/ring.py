"""A bounded ring of rows, stored as one array a column."""

from __future__ import annotations

import math
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["Flag", "MetadataStore", "Ring", "StringTable", "kept_since"]


class Flag:
    """Bits of the column ``flags``; for a call ``flags & INFERENCE == GENERATION``."""

    SUCCESS = 1
    CONVERSATION = 2
    MODEL_GIVEN = 4
    HAS_INPUT = 8
    HAS_OUTPUT = 16
    HAS_TOTAL = 32
    HAS_TURNS = 64
    GENERATION = 128
    EVALUATION = 256
    CANCELLED = 512
    UNPRICED = 1024
    HAS_COST = 2048
    ANY_TOKENS = HAS_INPUT | HAS_OUTPUT | HAS_TOTAL
    USAGE = ANY_TOKENS | HAS_COST
    INFERENCE = GENERATION | CONVERSATION


class StringTable(dict[str | None, int]):
    """Numbers of names, assigned at the first lookup; 0 stands for an absent name."""

    __slots__ = ("names",)

    def __init__(self) -> None:
        super().__init__({None: 0})
        self.names: list[str] = [""]

    def __missing__(self, name: str | None) -> int:
        number = self[name] = len(self.names)
        self.names.append(name or "")
        return number


_BUFFERED_ROWS = 1_024
# Memory of an entry beside its text in CPython 3.11: a tuple, a number and the text's header.
_ENTRY_BYTES = 160


class MetadataStore:
    """Texts of rows in rings; the oldest are dropped to make room for new ones.

    Args:
        max_bytes: Limit of memory in bytes, overhead included.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: deque[tuple[Ring, int, bytes]] = deque()
        self._bytes = 0
        self._written: dict[Ring, npt.NDArray[np.int64]] = {}

    def put(self, ring: Ring, text: str) -> None:
        """Store the text of the row that was appended last."""
        serial = ring.appended - 1
        written = self._written.get(ring)
        if written is None:
            written = self._written[ring] = np.zeros(ring.capacity, np.int64)
        written[serial % ring.capacity] = ring.appended
        entry = (ring, serial, text.encode())
        self._entries.append(entry)
        self._bytes += _size(entry)
        while self._entries and self._is_gone(self._entries[0]):
            self._drop()
        while self._bytes > self.max_bytes:
            self._drop()

    def texts(self, ring: Ring) -> dict[int, str]:
        """Return the texts of the rows that the ring still keeps, by serial number."""
        return {
            entry[1]: entry[2].decode()
            for entry in self._entries
            if entry[0] is ring and not self._is_gone(entry)
        }

    def cut(self, ring: Ring, serials: npt.NDArray[np.int64]) -> int:
        """Count the rows whose text was dropped for lack of room.

        Args:
            ring: The rows' ring.
            serials: Serial numbers of rows that the ring still keeps.
        """
        if ring not in self._written:
            return 0
        written = serials[self._written[ring][serials % ring.capacity] == serials + 1]
        # The oldest are dropped first, so every text from the first kept one on is kept.
        first = next((serial for its, serial, _ in self._entries if its is ring), ring.appended)
        return int((written < first).sum())

    def _drop(self) -> None:
        self._bytes -= _size(self._entries.popleft())

    @staticmethod
    def _is_gone(entry: tuple[Ring, int, bytes]) -> bool:
        ring, serial, _ = entry
        return serial < ring.first_serial


def _size(entry: tuple[Ring, int, bytes]) -> int:
    return _ENTRY_BYTES + len(entry[2])


class Ring:
    """The last ``capacity`` rows; the oldest are overwritten first.

    Rows are packed into a small buffer and moved into the columns together, which is much cheaper
    than a store into every column for every row. The columns' memory is reserved at once and
    used as rows arrive.

    Args:
        columns: Pairs of a column's name and its ``struct`` code, which is also NumPy's; one is
            ``time``.
        capacity: Maximum number of rows.

    Attributes:
        appended: Number of rows that were ever appended.
        lost_until: Newest ``time`` of a row that was overwritten; -inf before the first one. Rows
            need not be in the order of their times: a clock may be set back.
    """

    def __init__(self, columns: tuple[tuple[str, str], ...], capacity: int) -> None:
        codes = "".join(code for _, code in columns)
        self._pack = struct.Struct("=" + codes).pack
        self._dtype = np.dtype([(name, "=" + code) for name, code in columns])
        self._columns = {name: np.empty(capacity, self._dtype[name]) for name, _ in columns}
        self._buffer = bytearray()
        self._buffer_bytes = _BUFFERED_ROWS * self._dtype.itemsize
        self.capacity = capacity
        self.appended = 0
        self.lost_until = -math.inf

    def __repr__(self) -> str:
        return f"<Ring of {self.size} rows, at most {self.capacity}>"

    @property
    def size(self) -> int:
        """Number of rows that are kept."""
        return min(self.appended, self.capacity)

    @property
    def first_serial(self) -> int:
        """Serial number of the oldest row that is kept; the first appended row has 0."""
        return max(0, self.appended - self.capacity)

    def append(self, *row: Any) -> None:
        """Add a row; its values match the columns in order and type."""
        self._buffer += self._pack(*row)
        self.appended += 1
        if len(self._buffer) >= self._buffer_bytes:
            self._flush()

    def columns(self, *names: str) -> list[npt.NDArray[Any]]:
        """Return columns of the rows that are kept, in storage order.

        The arrays have ``size`` elements and are views, valid until the next ``append``.
        """
        self._flush()
        return [self._columns[name][: self.size] for name in names]

    def rows(self, names: Sequence[str], since: float | None) -> list[npt.NDArray[Any]]:
        """Copy columns of the rows that are kept, oldest first.

        Args:
            names: The columns.
            since: The smallest ``time`` to return, Unix time in seconds; None means all rows.

        Returns:
            The serial numbers, then each column.
        """
        order = self.in_order()
        serial = np.arange(self.appended - self.size, self.appended, dtype=np.int64)
        if since is not None:
            (time,) = self.columns("time")
            chosen = time[order] >= since
            order, serial = order[chosen], serial[chosen]
        return [serial, *(column[order] for column in self.columns(*names))]

    def in_order(self) -> npt.NDArray[np.intp]:
        """Return the positions of the kept rows, oldest first."""
        start = self.appended % self.capacity if self.appended > self.capacity else 0
        return np.roll(np.arange(self.size), -start)

    def _flush(self) -> None:
        if not self._buffer:
            return
        rows = np.frombuffer(bytes(self._buffer), self._dtype)
        self._buffer.clear()
        end = self.appended % self.capacity
        kept = rows[-self.capacity :]
        self._note_lost(rows[: -self.capacity], self.appended - len(rows))
        # The rows fill up to `end`; those that do not fit before it go to the end of the columns.
        tail = min(end, len(kept))
        head = len(kept) - tail
        for name, column in self._columns.items():
            values = kept[name]
            column[end - tail : end] = values[head:]
            column[self.capacity - head :] = values[:head]

    def _note_lost(self, passed: npt.NDArray[Any], before: int) -> None:
        """Note the times of rows that are about to be overwritten.

        Args:
            passed: New rows that are overwritten before they reach the columns.
            before: Number of rows that were appended before the new ones.
        """
        serials = np.arange(
            max(0, before - self.capacity), min(before, self.appended - self.capacity)
        )
        times = np.concatenate([self._columns["time"][serials % self.capacity], passed["time"]])
        if len(times):
            self.lost_until = max(self.lost_until, float(times.max()))


def kept_since(ring: Ring, since: float | None) -> float | None:
    """Return the time since which a ring keeps all rows, if it is later than a window's start.

    Args:
        ring: A ring with a column ``time``.
        since: The window's start, Unix time in seconds; None means the start of the history.

    Returns:
        Unix time in seconds; None if no row of the window was overwritten.
    """
    (time,) = ring.columns("time")
    if ring.lost_until == -math.inf or (since is not None and since > ring.lost_until):
        return None
    later = time[time > ring.lost_until]
    return float(later.min()) if len(later) else math.nextafter(ring.lost_until, math.inf)
