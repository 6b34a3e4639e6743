"""The workers of handlers: one each, whose losses are counted and logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from genmeter.events.values import safe_text
from genmeter.pipeline.worker import BATCH, CAPACITY, Loss, Worker
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = ["HandlerWorker", "HandlerWorkers"]

_T = TypeVar("_T")
_METRIC = cat.HANDLER_ERRORS.prometheus
_TEXTS = {
    Loss.RAISED: "%s failed: %s; further failures are only counted, in %s",
    Loss.QUEUE_FULL: "%s is too slow: %d %s are queued, and further ones are dropped until it has "
    "caught up; %s counts them",
    Loss.UNFINISHED: "%s had %d %s pending when the time for shutdown was over; %s counts them; "
    "raise shutdown_timeout, or make the handler faster",
}


class HandlerWorker(Worker[_T]):
    """The worker of one handler or subscriber; the first loss of each kind is logged.

    Args:
        deliver: Takes a batch.
        label: The handler's name in the metric of losses.
        shown: Its name in log lines.
        self_metrics: Where losses are counted.
        deferred_log: Where they are logged.
        items: What it takes, in the plural, for the log lines.
        capacity: Items that may be queued.
        batch: Most items of a batch.
        is_ours: Whether the handler is one of this package's, whose errors need no traceback.
        on_end: Called after the last item.

    Attributes:
        label: As passed.
        is_ours: As passed.
        end_by: When its end must be over, as ``time.monotonic()`` counts; None until then.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[_T]], object],
        *,
        label: str,
        shown: str,
        self_metrics: SelfMetrics,
        deferred_log: DeferredLog,
        items: str = "events",
        capacity: int = CAPACITY,
        batch: int = BATCH,
        is_ours: bool = False,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.label = label
        self.is_ours = is_ours
        self.end_by: float | None = None
        self._shown = shown
        self._items = items
        self._self_metrics = self_metrics
        self._deferred_log = deferred_log
        self._logged: set[Loss] = set()
        super().__init__(
            deliver,
            name=f"genmeter-{label}",
            on_loss=self.lose,
            on_end=on_end,
            capacity=capacity,
            batch=batch,
        )

    def lose(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Count items that it did not take; log the first loss of a kind."""
        self._self_metrics.count_handler_error(self.label, loss.value, count)
        if loss in self._logged:
            return
        self._logged.add(loss)
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

    def reset(self) -> None:
        """Start anew, in a forked child; takes no lock."""
        self.end_by = None
        super().reset()

    def finish(self, deadline: float) -> None:
        """Close, and wait for the end; items left at the deadline are lost.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        self.close()
        left = self.join(deadline)
        if left:
            self.lose(Loss.UNFINISHED, left)


_W = TypeVar("_W", bound=HandlerWorker[Any])


class HandlerWorkers(Generic[_W]):
    """The workers of a list of handlers, which the job may change at any time.

    Handlers are told apart by identity: equal ones are still several, and one need not be hashable.
    Only one thread at a time may call :meth:`sync`.

    Args:
        make: Makes the worker of a handler.

    Attributes:
        present: The workers of the handlers in the list, as :meth:`sync` last found it.
    """

    def __init__(self, make: Callable[[Any], _W]) -> None:
        self._make = make
        self._by_id: dict[int, _W] = {}
        self._ids: list[int] = []
        self.present: list[_W] = []
        self._gone: set[int] = set()
        self._is_closing = False
        self._has_ended = False

    def all(self) -> list[_W]:
        """Return the workers of handlers in the list, and of removed ones that are still busy."""
        return list(self._by_id.values())

    def sync(self, handlers: Sequence[Any]) -> list[_W]:
        """Return the workers of these handlers, in their order.

        A handler that was removed keeps its worker until its queue is empty.
        """
        ids = [id(handler) for handler in handlers]
        if ids != self._ids:
            self.present = [self._worker(handler) for handler in handlers]
            self._ids = ids
            self._gone = set(self._by_id) - set(ids)
        if self._gone and not self._is_closing:
            for key in list(self._gone):
                worker = self._by_id[key]
                if worker.is_idle:
                    worker.close()
                    del self._by_id[key]
                    self._gone.remove(key)
        return self.present

    def start(self, handlers: Sequence[Any]) -> None:
        """Start the threads of handlers that are not this package's, before there is an item.

        From Python 3.12 on no thread can be started while the interpreter ends, so that a handler
        that blocks would be called by, and hold up, the main thread.
        """
        for handler in handlers:
            worker = self._worker(handler)
            if not worker.is_ours:
                worker.start()

    def close(self) -> None:
        """Have every thread end once its queue is empty; does not wait for that."""
        self._is_closing = True
        for worker in self.all():
            worker.close()

    def finish(self, deadline: float) -> None:
        """Close, and wait for the ends; items left at the deadline, and later ones, are lost.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        self._has_ended = True
        workers = self.all()
        for worker in workers:
            worker.end_by = deadline
        self.close()
        for worker in workers:
            worker.finish(deadline)

    def reset(self) -> None:
        """Start anew in a forked child: the parent delivers what was queued."""
        self._is_closing = self._has_ended = False
        for worker in self.all():
            worker.reset()

    def _worker(self, handler: Any) -> _W:
        worker = self._by_id.get(id(handler))
        if worker is None:
            worker = self._by_id.setdefault(id(handler), self._make(handler))
            # Asked for last, so that either this or finish() itself sees the other.
            if self._is_closing:
                worker.close()
            if self._has_ended:
                worker.finish(0.0)
        return worker
