"""What the monitor counts of itself: plain numbers that observable instruments read."""

from __future__ import annotations

from collections import Counter
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmeter.events.model import Reason

__all__ = ["SelfMetrics"]


class SelfMetrics:
    """Counts of a process, without a lock on any caller's path."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin at 0."""
        self.recorded = 0
        # A key of its own for each thread: no two threads add to the same number.
        self._rejected: Counter[tuple[int, Reason]] = Counter()
        self.overflows: Counter[str] = Counter()
        self._handler_errors: Counter[tuple[int, str, str]] = Counter()
        self.export_failures: Counter[str] = Counter()

    def count_rejected(self, reason: Reason) -> None:
        """Count a value that was left out."""
        self._rejected[get_ident(), reason] += 1

    @property
    def rejected(self) -> dict[str, int]:
        """Values that were left out, by reason."""
        by_reason: Counter[str] = Counter()
        for (_, reason), count in self._rejected.copy().items():
            by_reason[reason.value] += count
        return dict(by_reason)

    def count_overflow(self, limit: str) -> None:
        """Count a label value that became ``other``."""
        self.overflows[limit] += 1

    def count_handler_error(self, handler: str, reason: str = "raised", count: int = 1) -> None:
        """Count what a handler of the job's own did not take.

        Args:
            handler: The handler's class.
            reason: Why: ``raised``, ``queue_full`` or ``unfinished``.
            count: How many events, or calls of a callback.
        """
        self._handler_errors[get_ident(), handler, reason] += count

    @property
    def handler_errors(self) -> dict[tuple[str, str], int]:
        """What handlers did not take, by handler and reason."""
        by_handler: Counter[tuple[str, str]] = Counter()
        for (_, handler, reason), count in self._handler_errors.copy().items():
            by_handler[handler, reason] += count
        return dict(by_handler)

    def count_export_failure(self, exporter: str) -> None:
        """Count a push that failed."""
        self.export_failures[exporter] += 1
