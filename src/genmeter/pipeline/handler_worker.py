"""Workers of handlers: one each, which counts and logs lost items."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from genmeter.events.values import safe_text
from genmeter.pipeline.worker import Loss, Worker
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
    Loss.UNFINISHED: "%s had %d %s pending when shutdown timed out; %s counts them; "
    "raise shutdown_timeout, or make the handler faster",
}


class HandlerWorker(Worker[_T]):
    """The worker of one handler; the first loss of each kind is logged.

    Args:
        deliver: As for :class:`Worker`; so are the remaining arguments.
        label: The handler's name in the metric of losses.
        shown: The handler's name in log lines.
        self_metrics: Counts losses.
        deferred_log: Logs losses.
        items: The kind of items in log lines, a plural.
        is_ours: Whether the handler is part of this package, so that its errors need no traceback.
        on_drop: For the producer, to call after an event that was not queued; must not wait or raise.

    Attributes:
        label: As passed.
        is_ours: As passed.
        on_drop: As passed.
        end_by: Deadline of its end, on the clock of ``time.monotonic()``; None until it is set.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[_T]], object] = lambda _: None,
        *,
        label: str,
        shown: str,
        self_metrics: SelfMetrics,
        deferred_log: DeferredLog,
        items: str = "events",
        is_ours: bool = False,
        on_drop: Callable[[], object] = lambda: None,
        **options: Any,
    ) -> None:
        self.label = label
        self.is_ours = is_ours
        self.on_drop = on_drop
        self.end_by: float | None = None
        self._shown = shown
        self._items = items
        self._self_metrics = self_metrics
        self._deferred_log = deferred_log
        self._logged: set[Loss] = set()
        super().__init__(deliver, name=f"genmeter-{label}", on_loss=self.lose, **options)

    def lose(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Count lost items, and log the first loss of each kind."""
        self._self_metrics.count_handler_error(self.label, loss.value, count)
        if loss in self._logged:
            return
        self._logged.add(loss)
        arguments: tuple[object, ...] = {
            Loss.RAISED: (safe_text(error, 1_000) or type(error).__name__,),
            Loss.QUEUE_FULL: (self._capacity, self._items),
            Loss.UNFINISHED: (count, self._items),
        }[loss]
        self._deferred_log.add(
            logging.WARNING,
            _TEXTS[loss],
            self._shown,
            *arguments,
            _METRIC,
            error=None if self.is_ours else error,
        )

    def reset(self) -> None:
        """Reset in a forked child; takes no lock."""
        self.end_by = None
        super().reset()

    def finish(self, deadline: float) -> None:
        """Close, and wait for the end; items still queued at the deadline are lost."""
        self.close()
        left = self.join(deadline)
        if left:
            self.lose(Loss.UNFINISHED, left)


_W = TypeVar("_W", bound=HandlerWorker[Any])


class HandlerWorkers(Generic[_W]):
    """The workers of a list of handlers, which the job may change at any time.

    Handlers are compared by identity: equal ones are distinct, and one need not be hashable. Only
    one thread at a time may call :meth:`sync`.

    Args:
        new_worker: Creates the worker of a handler.

    Attributes:
        present: The workers of the handlers in the list at the last :meth:`sync`.
    """

    def __init__(self, new_worker: Callable[[Any], _W]) -> None:
        self._new_worker = new_worker
        self._by_id: dict[int, _W] = {}
        self._ids: list[int] = []
        self.present: list[_W] = []
        self._removed: set[int] = set()
        self._is_closing = False
        self._has_ended = False

    def all(self) -> list[_W]:
        """Return the workers of the listed handlers, and of removed ones that are still busy."""
        return list(self._by_id.values())

    def sync(self, handlers: Sequence[Any]) -> list[_W]:
        """Return the workers of these handlers, in order.

        A removed handler keeps its worker until its queue is empty.
        """
        ids = [id(handler) for handler in handlers]
        if ids != self._ids:
            self.present = [self._worker(handler) for handler in handlers]
            self._ids = ids
            self._removed = set(self._by_id) - set(ids)
        if self._removed and not self._is_closing:
            for key in list(self._removed):
                worker = self._by_id[key]
                if worker.is_idle:
                    worker.close()
                    del self._by_id[key]
                    self._removed.remove(key)
        return self.present

    def start(self, handlers: Sequence[Any]) -> None:
        """Start the threads of handlers outside this package before they have items.

        Since Python 3.12 no thread can be started while the interpreter ends; then the main thread
        would call the handlers, and one that blocks would delay the exit.
        """
        for handler in handlers:
            worker = self._worker(handler)
            if not worker.is_ours:
                worker.start()

    def close(self) -> None:
        """Have every thread end once its queue is empty, without waiting."""
        self._is_closing = True
        for worker in self.all():
            worker.close()

    def finish(self, deadline: float) -> None:
        """Close and wait; items still queued at the deadline, and later ones, are lost."""
        self._has_ended = True
        workers = self.all()
        for worker in workers:
            worker.end_by = deadline
        self.close()
        for worker in workers:
            worker.finish(deadline)

    def reset(self) -> None:
        """Reset in a forked child: the parent delivers the queued items."""
        self._is_closing = self._has_ended = False
        for worker in self.all():
            worker.reset()

    def _worker(self, handler: Any) -> _W:
        worker = self._by_id.get(id(handler))
        if worker is None:
            worker = self._by_id.setdefault(id(handler), self._new_worker(handler))
            # Checked after the insertion, so that either this or finish() closes it.
            if self._is_closing:
                worker.close()
            if self._has_ended:
                worker.finish(0.0)
        return worker
