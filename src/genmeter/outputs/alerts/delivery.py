"""From an alert to the job's handlers: each behind a queue and a thread of its own."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError
from genmeter.labels import UNREADABLE, label_text, safe_text
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
        if callable(handler) and not inspect.iscoroutinefunction(handler):
            continue
        problem = "nobody would await it" if callable(handler) else "it cannot be called"
        raise ConfigError(
            f"alert_handlers[{number}] is {safe_text(handler, 200)}, and {problem}; give a plain "
            "function that takes an Alert"
        )


class AlertDelivery:
    """Hands alerts to handlers, none of which can hold up the job or another handler.

    Args:
        tallies: Where failures of handlers are counted.
        notices: Where the first failure of each kind of a handler is told.
    """

    def __init__(self, tallies: Tallies, notices: Notices) -> None:
        self._tallies = tallies
        self._notices = notices
        # By the handler's id: it may be neither hashable nor comparable.
        self._receivers: dict[int, Receiver[Alert]] = {}
        self._retired: list[Receiver[Alert]] = []

    def use(self, handlers: Sequence[Any]) -> None:
        """Part with handlers that are not among these, once they have what waits for them.

        Only one thread at a time may call this or :meth:`put`.
        """
        wanted = {id(handler) for handler in handlers}
        for key in [key for key in self._receivers if key not in wanted]:
            receiver = self._receivers.pop(key)
            receiver.feed.close()
            self._retired.append(receiver)
        self._retired = [each for each in self._retired if not each.feed.is_idle]

    def put(self, alert: Alert, handlers: Sequence[Any]) -> None:
        """Queue an alert for each of the handlers; a handler that is there twice gets it twice."""
        for handler in handlers:
            receiver = self._receivers.get(id(handler))
            if receiver is None:
                receiver = self._receivers[id(handler)] = self._receiver(handler)
            # A copy for each: what one changes, on its own thread, must not reach the others.
            receiver.feed.put(dataclasses.replace(alert, data=alert.data.copy()))

    def wait(self, deadline: float) -> None:
        """Wait until the handlers have taken what was put; not on a handler's own thread.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        for receiver in tuple(self._receivers.values()):
            receiver.feed.wait_until_delivered(deadline)

    def close(self) -> None:
        """Have each thread end once nothing waits for its handler; does not wait for that."""
        for receiver in tuple(self._receivers.values()):
            receiver.feed.close()

    def finish(self, deadline: float) -> None:
        """Close, wait for the end, and count what is left then as lost.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        self.close()
        receivers = [*self._receivers.values(), *self._retired]
        self._receivers, self._retired = {}, []
        for receiver in receivers:
            receiver.finish(deadline)

    def reset(self) -> None:
        """Begin anew in a forked child: the parent delivers what waits."""
        for receiver in (*self._receivers.values(), *self._retired):
            receiver.feed.reset()
        self._receivers, self._retired = {}, []

    def _receiver(self, handler: Any) -> Receiver[Alert]:
        name = _name_of(handler)
        return Receiver(
            name,
            f"the alert handler {name}",
            _deliver_to(handler),
            self._tallies,
            self._notices,
            items="alerts",
            capacity=_CAPACITY,
            batch=1,  # an alert that the handler raises at costs no other
        )


def _deliver_to(handler: Any) -> Callable[[Sequence[Alert]], None]:
    def deliver(alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            result = handler(alert)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(_NEVER_AWAITED)

    return deliver


def _name_of(handler: Any) -> str:
    try:
        name = getattr(handler, "__qualname__", "")
    except UNREADABLE:
        name = ""
    return label_text(name) or type(handler).__qualname__
