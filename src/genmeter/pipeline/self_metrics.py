"""Counts of genmeter's own work, which observable instruments read."""

from __future__ import annotations

from collections import Counter
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmeter.events.model import Reason

__all__ = ["SelfMetrics"]


class SelfMetrics:
    """The counts of a process; no caller waits for a lock."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.recorded = 0
        # Keyed by thread, so that no two threads update the same number.
        self._rejected: Counter[tuple[int, Reason]] = Counter()
        self.overflows: Counter[str] = Counter()
        self._handler_errors: Counter[tuple[int, str, str]] = Counter()
        self.export_failures: Counter[str] = Counter()
        self._repetitions: Counter[tuple[int, str]] = Counter()

    def count_rejected(self, reason: Reason) -> None:
        """Count a dropped value."""
        self._rejected[get_ident(), reason] += 1

    @property
    def rejected(self) -> dict[str, int]:
        """Dropped values by reason."""
        by_reason: Counter[str] = Counter()
        for (_, reason), count in self._rejected.copy().items():
            by_reason[reason.value] += count
        return dict(by_reason)

    def count_overflow(self, limit: str) -> None:
        """Count a label value recorded as ``other``."""
        self.overflows[limit] += 1

    def count_handler_error(self, handler: str, reason: str = "raised", count: int = 1) -> None:
        """Count events or calls that a handler did not handle.

        Args:
            handler: The handler's name.
            reason: ``raised``, ``queue_full`` or ``unfinished``.
            count: Number of events or calls.
        """
        self._handler_errors[get_ident(), handler, reason] += count

    @property
    def handler_errors(self) -> dict[tuple[str, str], int]:
        """Events and calls that were not handled, by handler and reason."""
        by_handler: Counter[tuple[str, str]] = Counter()
        for (_, handler, reason), count in self._handler_errors.copy().items():
            by_handler[handler, reason] += count
        return dict(by_handler)

    def count_export_failure(self, exporter: str) -> None:
        """Count a failed push."""
        self.export_failures[exporter] += 1

    def count_repetition(self, reason: str) -> None:
        """Count an observation of a call that was dropped, since it repeats another one."""
        self._repetitions[get_ident(), reason] += 1

    @property
    def repetitions(self) -> dict[str, int]:
        """Dropped observations by reason."""
        by_reason: Counter[str] = Counter()
        for (_, reason), count in self._repetitions.copy().items():
            by_reason[reason] += count
        return dict(by_reason)
