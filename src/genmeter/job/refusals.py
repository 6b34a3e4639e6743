"""``Refusals``: the calls that the job's budget has refused, in this process and in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from genmeter.job.store import Store

__all__ = ["Refusals", "Refused"]


class Refused(NamedTuple):
    """The refused calls of a job.

    Args:
        own: Those of this process.
        others: Those of the other processes, as far as they have published them.
        reason: Why the first one was refused; None if none was.
    """

    own: int
    others: int
    reason: str | None


class Refusals:
    """Counts the refused calls of this process, and shares the count by the job's store."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with none."""
        self._count = self._written = 0
        self._reason: str | None = None

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, reason: str) -> None:
        """Count a refused call; never waits.

        Args:
            reason: Why it was refused.
        """
        if self._reason is None:
            self._reason = reason
        self._count += 1

    def write(self, store: Store) -> None:
        """Write those that the store does not have yet.

        Raises:
            StoreError: The store cannot be written.
        """
        count = self._count - self._written
        if not count or self._reason is None:
            return
        self._written += count
        try:
            store.add_refusals(count, self._reason)
        except BaseException:
            self._written -= count
            raise

    def read(self, store: Store | None) -> Refused:
        """Return those of all processes.

        Args:
            store: The store; None if this process has not joined.

        Raises:
            StoreError: The store cannot be read.
        """
        own, written = self._count, self._written
        if store is None:
            return Refused(own, 0, self._reason)
        count, reason = store.refusals()
        return Refused(own, max(0, count - written), reason or self._reason)
