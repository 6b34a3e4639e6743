"""From an alert to the job's handlers: each has a worker of its own."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genmeter.clock import seconds_left
from genmeter.errors import ConfigError
from genmeter.events.values import UNREADABLE, label_text, safe_text
from genmeter.pipeline.receiver import Receiver
from genmeter.pipeline.worker import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.alerting.state import Alert
    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = ["AlertDelivery", "AlertReceiver", "check_alert_handlers"]

_NEVER_AWAITED = "it is a coroutine function, which nobody would await; give a plain function"
_CAPACITY = 1_000  # alerts that may wait for one handler


def check_alert_handlers(handlers: Sequence[Any]) -> None:
    """Check that each handler can be called.

    Raises:
        ConfigError: One cannot, or is a coroutine function.
    """
    for number, handler in enumerate(handlers):
        if callable(handler) and not _is_awaited(handler):
            continue
        problem = "nobody would await it" if callable(handler) else "it cannot be called"
        raise ConfigError(
            f"alert_handlers[{number}] is {safe_text(handler, 200)}, and {problem}; give a plain "
            "function that takes an Alert"
        )


class AlertReceiver(ABC):
    """Base class of an alert handler that also hears of each evaluation, and of the end.

    A plain function is enough for most handlers. Derive from this class where alerts go on to a
    service that must be told again and again what still fires, or where they are sent in the
    background. Only of such a handler are :meth:`refresh` and :meth:`flush` called; methods of
    these names of any other handler are its own. All are called on the handler's worker thread,
    one at a time, and whatever they raise is counted and costs that call only.
    """

    @abstractmethod
    def __call__(self, alert: Alert) -> object:
        """Take an alert that starts to fire, or is resolved.

        Args:
            alert: The alert, a copy for this handler.
        """

    @abstractmethod
    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Take all alerts that fire, after each evaluation.

        A handler that is slow gets the newest evaluation only.

        Args:
            alerts: All that fire now.
            interval: Seconds until the next evaluation; 0 where only ``check_alerts`` evaluates.
        """

    @abstractmethod
    def flush(self, timeout: float) -> bool:
        """Deliver what was taken, as the job waits for it or the monitor is shut down.

        What cannot be delivered in time must not be delivered before the next call of any method.

        Args:
            timeout: Seconds that it may take; 0 where the time is over already.

        Returns:
            Whether all was delivered.
        """


class AlertDelivery:
    """Hands alerts to handlers, none of which can hold up the job or another handler.

    Args:
        self_metrics: Where failures of handlers are counted.
        deferred_log: Where the first failure of each kind of a handler is logged.
    """

    def __init__(self, self_metrics: SelfMetrics, deferred_log: DeferredLog) -> None:
        self._self_metrics = self_metrics
        self._deferred_log = deferred_log
        # By the handler's id: it may be neither hashable nor comparable.
        self._workers: dict[int, _HandlerWorker] = {}
        self._retired: list[_HandlerWorker] = []
        self._is_finished = False

    def use(self, handlers: Sequence[Any]) -> None:
        """Retire handlers that are not among these, once they have what waits for them.

        Only one thread at a time may call this or what queues anything.
        """
        wanted = {id(handler) for handler in handlers}
        for key in [key for key in self._workers if key not in wanted]:
            worker = self._workers.pop(key)
            worker.feed.close()
            self._retired.append(worker)
        self._retired = [each for each in self._retired if not each.feed.is_idle]

    def start(self, handlers: Sequence[Any]) -> None:
        """Start the threads of handlers, since the end of the interpreter starts none.

        An alert that is queued then would be delivered by the thread that ends, which a handler
        could block.
        """
        for handler in handlers:
            self._worker(handler).feed.start()

    def put(self, alert: Alert, handlers: Sequence[Any]) -> None:
        """Queue an alert for each of the handlers; a handler that is there twice gets it twice.

        After :meth:`finish` it only counts as lost.
        """
        for handler in handlers:
            # A copy for each: what one changes, on its own thread, must not reach the others.
            self._worker(handler).feed.put(copy.deepcopy(alert))

    def refresh(
        self, handlers: Sequence[Any], firing: Callable[[], list[Alert]], interval: float
    ) -> None:
        """Queue all alerts that fire for those handlers that are an :class:`AlertReceiver`.

        Args:
            handlers: The handlers.
            firing: Returns all that fire.
            interval: Seconds until the next evaluation.
        """
        for handler in handlers:
            if _is_receiver(handler):
                self._worker(handler).refresh(firing(), interval)

    def flush(self, handlers: Sequence[Any], deadline: float) -> None:
        """Have every :class:`AlertReceiver` deliver what it takes until then.

        Args:
            handlers: The handlers.
            deadline: As ``time.monotonic()`` counts.
        """
        for handler in handlers:
            worker = self._workers.get(id(handler))
            if worker is not None and _is_receiver(handler):
                worker.put_control(_Flush(deadline))

    def wait(self, deadline: float) -> None:
        """Wait until the handlers have taken what was put; not on a handler's own thread.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        for worker in tuple(self._workers.values()):
            worker.feed.wait_until_delivered(deadline)

    def close(self) -> None:
        """Have each thread end once nothing waits for its handler; does not wait for that."""
        for worker in tuple(self._workers.values()):
            worker.feed.close()

    def finish(self, deadline: float) -> None:
        """Close, wait for the end, and count what is left then as lost.

        No handler is called with an alert that it was not called with by then.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        self._is_finished = True
        workers = [*self._workers.values(), *self._retired]
        for worker in workers:
            worker.deadline = deadline
        self.close()
        self._workers, self._retired = {}, []
        for worker in workers:
            worker.finish(deadline)

    def reset(self) -> None:
        """Begin anew in a forked child: the parent delivers what waits."""
        for worker in (*self._workers.values(), *self._retired):
            worker.feed.reset()
        self._workers, self._retired = {}, []
        self._is_finished = False

    def _worker(self, handler: Any) -> _HandlerWorker:
        worker = self._workers.get(id(handler))
        if worker is None:
            worker = _HandlerWorker(handler, self._self_metrics, self._deferred_log)
            self._workers[id(handler)] = worker
            # Looked at last, so that either this or finish() itself sees the other.
            if self._is_finished:
                worker.finish(0.0)
        return worker


@dataclass(frozen=True)
class _Refresh:
    """Has a handler take the newest of what fires."""


@dataclass(frozen=True)
class _Flush:
    """Has a handler deliver what it has taken, until a time as ``time.monotonic()`` counts."""

    deadline: float


class _HandlerWorker(Receiver["Alert | _Refresh | _Flush"]):
    """The worker of one handler.

    Attributes:
        deadline: When its end must be over, as ``time.monotonic()`` counts; None until it ends.
    """

    def __init__(self, handler: Any, self_metrics: SelfMetrics, deferred_log: DeferredLog) -> None:
        self._handler = handler
        self._newest: tuple[list[Alert], float] | None = None
        self._is_refresh_queued = False
        self.deadline: float | None = None
        name = _name_of(handler)
        super().__init__(
            name,
            f"the alert handler {name}",
            self._deliver,
            self_metrics,
            deferred_log,
            items="alerts",
            capacity=_CAPACITY,
            batch=1,  # an alert that the handler raises at costs no other
            on_end=self._end,
        )

    def put_control(self, item: _Refresh | _Flush) -> bool:
        """Queue an item that is no alert, unless the queue is full; then no alert is lost."""
        return not self.feed.is_full and self.feed.put(item)

    def refresh(self, alerts: list[Alert], interval: float) -> None:
        """Have the handler take all that fires; a slow one takes the newest only."""
        self._newest = (alerts, interval)
        if not self._is_refresh_queued:
            self._is_refresh_queued = True
            if not self.put_control(_Refresh()):
                self._is_refresh_queued = False

    def _deliver(self, items: Sequence[Alert | _Refresh | _Flush]) -> None:
        for item in items:
            if isinstance(item, _Refresh):
                # Before the newest is taken: one that comes now is queued again.
                self._is_refresh_queued = False
                newest, self._newest = self._newest, None
                if newest is not None:
                    self._handler.refresh(*newest)
            elif isinstance(item, _Flush):
                self._flush(item.deadline)
            else:
                result = self._handler(item)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(_NEVER_AWAITED)

    def _end(self) -> None:
        if self.deadline is None or not _is_receiver(self._handler):
            return
        if not self._flush(self.deadline):
            self.lose(Loss.UNFINISHED, 1)

    def _flush(self, deadline: float) -> bool:
        return bool(self._handler.flush(seconds_left(deadline)))


def _is_receiver(handler: Any) -> bool:
    return issubclass(type(handler), AlertReceiver)


def _is_awaited(handler: Any) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - not whether, but what it is
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _name_of(handler: Any) -> str:
    try:
        name = getattr(handler, "__qualname__", "")
    except UNREADABLE:
        name = ""
    return label_text(name) or type(handler).__qualname__
