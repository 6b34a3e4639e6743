"""Writes what this process has counted to the store of its job: what changed since the last time.

The cells of the page and the usage of the totals are taken in one visit of the pipeline's owner, and
written in one transaction: whoever reads the store sees both of the same moment, also if this process
is killed right after it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from genmeter.job.amounts import StoreError
from genmeter.job.merged import combine, definition_of, labels_text
from genmeter.job.store import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.job.spending import Spending
    from genmeter.job.store import Store, Totals
    from genmeter.metrics.changes import Change, Changes

__all__ = ["Publisher"]

_PART = 500  # new series of a transaction
_MIN_TIMEOUT = 0.1


class Publisher:
    """What one process writes to the store.

    Args:
        spending: Has its usage and its reservations.
        log: Called like ``Logger.log``; must not wait.

    Attributes:
        changes: What changes in the cells of its provider; None if they are the application's.
        lock: Held while writing, and while the store is replaced.
        has_published: Whether the store has what this process had counted when it joined.
    """

    def __init__(self, spending: Spending, log: Callable[..., None]) -> None:
        self._spending = spending
        self._log = log
        self.changes: Changes | None = None
        self.lock = threading.Lock()
        self.has_published = False
        self._is_failing = False

    def begin(self) -> None:
        """Begin with a store that has nothing of this process."""
        self.has_published = False
        if self.changes is not None:
            self.changes.forget_accepted()

    def end_provider(self, store: Store | None, number: int) -> None:
        """Keep what a provider that is over has published as of the past.

        Args:
            store: The store; None if this process has not joined.
            number: The number of this process.
        """
        with self.lock:
            if store is not None and self.changes is not None:
                try:
                    store.settle(number, combine)
                except StoreError as error:
                    self.report(error)
            self.changes = None

    def publish(self, store: Store, number: int, *, is_root: bool, timeout: float) -> bool:
        """Write what changed; return whether that was possible.

        Args:
            store: The store.
            number: The number of this process.
            is_root: Whether it is the first one of its family.
            timeout: Seconds to wait for other threads and for the pipeline's owner, each.
        """
        if not self.lock.acquire(timeout=timeout):
            return False
        try:
            timeout = max(_MIN_TIMEOUT, timeout)
            changes = self.changes
            take: Callable[[], list[Change]] = list
            if changes is not None:
                take = changes.prepare(timeout)

            def write(found: list[Change], usage: list[Totals], released: Sequence[int]) -> None:
                self._number_series(store, found, is_root=is_root)
                store.publish(number, _cells(found), usage, released)
                if changes is not None:
                    changes.accept(found)

            try:
                self._spending.publish(take, write, timeout=timeout)
                if changes is not None and (gone := changes.gone()):
                    numbers = [each.number for each in gone if each.number is not None]
                    store.forget_observed(number, numbers)
                if not self.has_published:
                    store.confirm(number)
            except (StoreError, TimeoutError) as error:
                self.report(error)
                return False
            self._is_failing = False
            self.has_published = True
            return True
        finally:
            self.lock.release()

    def _number_series(self, store: Store, changes: list[Change], *, is_root: bool) -> None:
        new = [each.series for each in changes if each.series.number is None]
        if not new:
            return
        rows = [
            (definition_of(each.origin), labels_text(each.attributes), each.start or 0)
            for each in new
        ]
        # In parts, so that the other processes can write in between.
        for start in range(0, len(new), _PART):
            numbers = store.number_series(rows[start : start + _PART], is_root=is_root)
            for series, number in zip(new[start : start + _PART], numbers, strict=True):
                series.number = number

    def report(self, error: Exception) -> None:
        """Log the first of errors in a row."""
        if not self._is_failing:
            self._is_failing = True
            self._log(
                logging.WARNING,
                "what this process counts cannot be published to its job, which goes on without "
                "it for now: %s",
                error,
            )


def _cells(changes: list[Change]) -> list[tuple[int, float, bytes | None]]:
    return [
        (series.number or 0, value, None if buckets is None else pack(*buckets))
        for series, value, buckets in changes
    ]
