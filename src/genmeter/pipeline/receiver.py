"""Someone outside who takes what the drain gives: the feed before them, and what they lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from genmeter.events.values import safe_text
from genmeter.pipeline.worker import BATCH, CAPACITY, Loss, Worker
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = ["Receiver"]

_T = TypeVar("_T")
_METRIC = cat.HANDLER_ERRORS.prometheus


class Receiver(Generic[_T]):
    """A handler or the like behind a feed of its own; each kind of loss is told once.

    Args:
        name: The value of its label.
        shown: What log lines call it.
        deliver: Takes a batch.
        self_metrics: Where losses are counted.
        deferred_log: Where they are told.
        items: What it takes, in the plural, for the log lines.
        capacity: Items that may wait.
        batch: Most items of a batch.
        is_ours: Whether an error's text says all, so that no traceback is needed.
        on_end: Called after the last item.

    Attributes:
        feed: What waits for it.
    """

    def __init__(
        self,
        name: str,
        shown: str,
        deliver: Callable[[Sequence[_T]], object],
        self_metrics: SelfMetrics,
        deferred_log: DeferredLog,
        *,
        items: str = "events",
        capacity: int = CAPACITY,
        batch: int = BATCH,
        is_ours: bool = False,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.is_ours = is_ours
        self._shown = shown
        self._items = items
        self._capacity = capacity
        self._self_metrics = self_metrics
        self._deferred_log = deferred_log
        self._told: set[Loss] = set()
        self.feed: Worker[_T] = Worker(
            deliver,
            name=f"genmeter-{name}",
            on_loss=self.lose,
            on_end=on_end,
            capacity=capacity,
            batch=batch,
        )

    def lose(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Count items that it did not take; the first of a kind is told to the log."""
        self._self_metrics.count_handler_error(self.name, loss.value, count)
        if loss in self._told:
            return
        self._told.add(loss)
        what: tuple[object, ...] = {
            Loss.RAISED: (safe_text(error, 1_000) or type(error).__name__,),
            Loss.QUEUE_FULL: (self._capacity, self._items),
            Loss.UNFINISHED: (count, self._items),
        }[loss]
        self._deferred_log.add(
            logging.WARNING,
            _TEXTS[loss],
            self._shown,
            *what,
            _METRIC,
            error=None if self.is_ours else error,
        )

    def finish(self, deadline: float) -> None:
        """End the feed; what is left at the deadline is lost.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        self.feed.close()
        left = self.feed.join(deadline)
        if left:
            self.lose(Loss.UNFINISHED, left)


_TEXTS = {
    Loss.RAISED: "%s failed: %s; further failures are only counted, in %s",
    Loss.QUEUE_FULL: "%s is too slow: %d %s wait for it, and further ones are left out until it has "
    "caught up; %s counts them",
    Loss.UNFINISHED: "%s had not taken %d %s when the time for shutdown was over; %s counts them; "
    "raise shutdown_timeout, or make the handler faster",
}
