"""From an alert to the job's handlers: each behind a queue and a thread of its own."""

from __future__ import annotations

import copy
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError
from genmeter.labels import UNREADABLE, label_text, safe_text
from genmeter.recorders.feed import Loss
from genmeter.recorders.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.notices import Notices
    from genmeter.outputs.alerts.book import Alert
    from genmeter.tallies import Tallies

__all__ = ["AlertDelivery", "check_alert_handlers"]

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


class AlertDelivery:
    """Hands alerts to handlers, none of which can hold up the job or another handler.

    A handler may have two methods beside being callable: ``refresh(alerts, interval)`` is called
    after each evaluation with all that fires and the seconds between evaluations (0 where only
    ``check_alerts`` evaluates), and ``flush(timeout)`` where somebody waits, to bring what it has
    taken out within so many seconds and tell whether it could. All are called on its thread.

    Args:
        tallies: Where failures of handlers are counted.
        notices: Where the first failure of each kind of a handler is told.
    """

    def __init__(self, tallies: Tallies, notices: Notices) -> None:
        self._tallies = tallies
        self._notices = notices
        # By the handler's id: it may be neither hashable nor comparable.
        self._outlets: dict[int, _Outlet] = {}
        self._retired: list[_Outlet] = []

    def use(self, handlers: Sequence[Any]) -> None:
        """Part with handlers that are not among these, once they have what waits for them.

        Only one thread at a time may call this or what queues anything.
        """
        wanted = {id(handler) for handler in handlers}
        for key in [key for key in self._outlets if key not in wanted]:
            outlet = self._outlets.pop(key)
            outlet.feed.close()
            self._retired.append(outlet)
        self._retired = [each for each in self._retired if not each.feed.is_idle]

    def begin(self, handlers: Sequence[Any]) -> None:
        """Start the threads of handlers, since the end of the interpreter has none to give.

        What is put then would be delivered by the thread that ends, which a handler could block.
        """
        for handler in handlers:
            self._outlet(handler).feed.start()

    def put(self, alert: Alert, handlers: Sequence[Any]) -> None:
        """Queue an alert for each of the handlers; a handler that is there twice gets it twice."""
        for handler in handlers:
            # A copy for each: what one changes, on its own thread, must not reach the others.
            self._outlet(handler).feed.put(copy.deepcopy(alert))

    def refresh(
        self, handlers: Sequence[Any], firing: Callable[[], list[Alert]], interval: float
    ) -> None:
        """Have handlers that ask for it told of all that fires.

        Args:
            handlers: The handlers.
            firing: Gives all that fires.
            interval: Seconds until the next evaluation.
        """
        for handler in handlers:
            if _method(handler, "refresh") is not None:
                self._outlet(handler).refresh(firing(), interval)

    def flush(self, handlers: Sequence[Any], deadline: float) -> None:
        """Have handlers that can bring out what they have taken, after all that waits for them.

        Args:
            handlers: The handlers.
            deadline: As ``time.monotonic()`` counts.
        """
        for handler in handlers:
            outlet = self._outlets.get(id(handler))
            if outlet is not None and _method(handler, "flush") is not None:
                outlet.feed.put(_Flush(deadline))

    def wait(self, deadline: float) -> None:
        """Wait until the handlers have taken what was put; not on a handler's own thread.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        for outlet in tuple(self._outlets.values()):
            outlet.feed.wait_until_delivered(deadline)

    def close(self) -> None:
        """Have each thread end once nothing waits for its handler; does not wait for that."""
        for outlet in tuple(self._outlets.values()):
            outlet.feed.close()

    def finish(self, deadline: float) -> None:
        """Close, wait for the end, and count what is left then as lost.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        outlets = [*self._outlets.values(), *self._retired]
        for outlet in outlets:
            outlet.deadline = deadline
        self.close()
        self._outlets, self._retired = {}, []
        for outlet in outlets:
            outlet.finish(deadline)

    def reset(self) -> None:
        """Begin anew in a forked child: the parent delivers what waits."""
        for outlet in (*self._outlets.values(), *self._retired):
            outlet.feed.reset()
        self._outlets, self._retired = {}, []

    def _outlet(self, handler: Any) -> _Outlet:
        outlet = self._outlets.get(id(handler))
        if outlet is None:
            outlet = _Outlet(handler, self._tallies, self._notices)
            self._outlets[id(handler)] = outlet
        return outlet


@dataclass(frozen=True)
class _Refresh:
    """Has a handler told of the newest of what fires."""


@dataclass(frozen=True)
class _Flush:
    """Has a handler bring out what it has taken, until a time as ``time.monotonic()`` counts."""

    deadline: float


class _Outlet(Receiver["Alert | _Refresh | _Flush"]):
    """One handler behind its queue.

    Attributes:
        deadline: When its end must be over, as ``time.monotonic()`` counts; None until it ends.
    """

    def __init__(self, handler: Any, tallies: Tallies, notices: Notices) -> None:
        self._handler = handler
        self._newest: tuple[list[Alert], float] | None = None
        self._is_refresh_queued = False
        self.deadline: float | None = None
        name = _name_of(handler)
        super().__init__(
            name,
            f"the alert handler {name}",
            self._deliver,
            tallies,
            notices,
            items="alerts",
            capacity=_CAPACITY,
            batch=1,  # an alert that the handler raises at costs no other
            on_end=self._end,
        )

    def refresh(self, alerts: list[Alert], interval: float) -> None:
        """Have the handler told of all that fires; a slow one is told of the newest only."""
        self._newest = (alerts, interval)
        if not self._is_refresh_queued:
            self._is_refresh_queued = True
            self.feed.put(_Refresh())

    def _deliver(self, items: Sequence[Alert | _Refresh | _Flush]) -> None:
        # Before the newest is taken, and after any item: a full queue may have left one out.
        self._is_refresh_queued = False
        for item in items:
            if isinstance(item, _Refresh):
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
        if self.deadline is None or _method(self._handler, "flush") is None:
            return
        if not self._flush(self.deadline):
            self.lose(Loss.UNFINISHED, 1)

    def _flush(self, deadline: float) -> bool:
        return bool(self._handler.flush(max(0.0, deadline - time.monotonic())))


def _is_awaited(handler: Any) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - not whether, but what it is
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _method(handler: Any, name: str) -> Callable[..., Any] | None:
    try:
        found = getattr(handler, name, None)
    except UNREADABLE:
        return None
    return found if callable(found) else None


def _name_of(handler: Any) -> str:
    try:
        name = getattr(handler, "__qualname__", "")
    except UNREADABLE:
        name = ""
    return label_text(name) or type(handler).__qualname__
