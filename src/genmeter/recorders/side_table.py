"""What has no column in a ring: free metadata and feedback, as JSON text, capped in bytes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from genmeter.recorders.columns import Ring

__all__ = ["SideTable"]

# What CPython 3.11 takes for an entry beside its text: a tuple, a number and the text's header.
_ENTRY_BYTES = 160


class SideTable:
    """Texts that belong to rows of rings; the oldest make room for the newest.

    Args:
        max_bytes: Most bytes that are kept, entries' own size included.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: deque[tuple[Ring, int, bytes]] = deque()
        self._bytes = 0
        self._told: dict[Ring, npt.NDArray[np.int64]] = {}

    def put(self, ring: Ring, text: str) -> None:
        """Keep the text of the row that was appended last."""
        serial = ring.appended - 1
        told = self._told.get(ring)
        if told is None:
            told = self._told[ring] = np.zeros(ring.capacity, np.int64)
        told[serial % ring.capacity] = ring.appended
        entry = (ring, serial, text.encode())
        self._entries.append(entry)
        self._bytes += _size(entry)
        while self._entries and self._is_gone(self._entries[0]):
            self._drop()
        while self._bytes > self.max_bytes:
            self._drop()

    def texts(self, ring: Ring) -> dict[int, str]:
        """Give the texts of the rows that the ring still keeps, by the rows' serial numbers."""
        return {
            entry[1]: entry[2].decode()
            for entry in self._entries
            if entry[0] is ring and not self._is_gone(entry)
        }

    def cut(self, ring: Ring, serials: npt.NDArray[np.int64]) -> int:
        """Count the rows whose text had to make room, or had no room at all.

        Args:
            ring: The rows' ring.
            serials: Their serial numbers, all of them kept by the ring.
        """
        if ring not in self._told:
            return 0
        told = serials[self._told[ring][serials % ring.capacity] == serials + 1]
        # The oldest go first, so all from the first that is kept on are.
        first = next((serial for its, serial, _ in self._entries if its is ring), ring.appended)
        return int((told < first).sum())

    def _drop(self) -> None:
        self._bytes -= _size(self._entries.popleft())

    @staticmethod
    def _is_gone(entry: tuple[Ring, int, bytes]) -> bool:
        ring, serial, _ = entry
        return serial < ring.first_serial


def _size(entry: tuple[Ring, int, bytes]) -> int:
    return _ENTRY_BYTES + len(entry[2])
