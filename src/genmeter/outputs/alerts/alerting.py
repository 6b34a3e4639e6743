"""The alerts of one monitor: when they are evaluated, and who hears of them."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from genmeter import clock
from genmeter.events import Reason
from genmeter.labels import safe_text
from genmeter.outputs.alerts.book import AlertBook
from genmeter.outputs.alerts.delivery import AlertDelivery
from genmeter.outputs.alerts.rules import WINDOW
from genmeter.outputs.summaries import summarise
from genmeter.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.pipeline import Pipeline
    from genmeter.sink import Sink

__all__ = ["Alerting"]


class Alerting:
    """Evaluates a monitor's alerts, every so often and when asked, and hands them to its handlers.

    The thread that evaluates starts once there can be a handler: where one is given, set, or
    somebody has got hold of the list, to which one may be added. It and the handlers' threads
    end when this object is forgotten, if :meth:`stop` did not come first.

    Args:
        pipeline: The monitor's; what is told is drained before an evaluation.
        sink: The monitor's, whose history is judged.
        handlers: A list of callables that take an alert.
        thresholds: By the names of the monitor's arguments; None is the default.
        interval: Seconds between evaluations; 0 or less for none but those of :meth:`check`.
        repeat: Seconds after which an alert that still fires is sent again; None for never.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sink: Sink,
        *,
        handlers: Any,
        thresholds: Mapping[str, float | None],
        interval: float,
        repeat: float | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._sink = sink
        self._handlers = handlers
        self._interval = interval
        self._book = AlertBook(thresholds, repeat)
        self._delivery = AlertDelivery(pipeline.tallies, pipeline.notices)
        self._may_have_handlers = bool(handlers)
        self._had_handlers = False
        self._has_warned = False
        self._is_stopped = False
        self._periodic: Periodic | None = None
        self._starting = threading.Lock()
        self._epoch = pipeline.epoch
        weakref.finalize(self, self._delivery.close).atexit = False

    @property
    def handlers(self) -> Any:
        """The job's handlers: its own list, which it may change or replace at any time."""
        self._expect_handlers()
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: Any) -> None:
        self._handlers = handlers
        self._expect_handlers()

    def start(self) -> None:
        """Start the periodic evaluation, if there can be a handler; a second call does nothing.

        In a forked child, where the parent's thread is not, it is to be called again.
        """
        self.reset()
        if self._is_stopped or self._interval <= 0 or not self._may_have_handlers:
            return
        if self._periodic is not None or not self._starting.acquire(blocking=False):
            return
        try:
            if self._periodic is None:
                self._periodic = self._new_periodic()
        except RuntimeError as error:  # no thread to be had; the next chance may be better
            self._warn_once("alerts are evaluated by check_alerts() only: %s", error)
        finally:
            self._starting.release()

    def check(self, timeout: float) -> None:
        """Evaluate now, and wait until the handlers have taken what there is to send.

        On the thread of a handler it does not wait.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        self._evaluate()
        self._delivery.wait(deadline)
        if self._is_stopped:
            self._delivery.finish(deadline)
        self._pipeline.notices.tell()

    def stop(self, timeout: float) -> None:
        """Evaluate no more by itself, and wait until the handlers have taken what waits.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        self._is_stopped = True
        if self._periodic is not None:
            self._periodic.stop(timeout)
        self._delivery.finish(deadline)

    def reset(self) -> None:
        """Begin anew in a forked child: nothing has fired, nothing waits, no thread runs.

        Every other method calls this, so a child that never does is well too.
        """
        epoch = self._pipeline.epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._periodic = None
        self._starting = threading.Lock()
        self._book.forget()
        self._delivery.reset()

    def _expect_handlers(self) -> None:
        self._may_have_handlers = True
        self.start()

    def _new_periodic(self) -> Periodic:
        tick, tallies = weakref.WeakMethod(self._tick), self._pipeline.tallies

        def turn() -> None:
            found = tick()
            if found is not None:
                found()

        periodic = Periodic(
            turn,
            self._interval,
            name="genmeter-alerts",
            on_error=lambda: tallies.count_rejected(Reason.INTERNAL),
        )
        weakref.finalize(self, periodic.stop, 0).atexit = False
        return periodic

    def _tick(self) -> None:
        if not self._is_stopped:
            self._evaluate()

    def _evaluate(self) -> None:
        handlers = self._current_handlers()
        if handlers or self._had_handlers:
            # The drain's lock guards the book and the delivery too: one that a signal handler on
            # the main thread could find taken by its own thread would hang there.
            self._pipeline.run(lambda: self._judge(handlers))

    def _judge(self, handlers: tuple[Any, ...]) -> None:
        self._had_handlers = bool(handlers)
        self._delivery.use(handlers)
        if not handlers:  # what fires is news for those that come
            self._book.forget()
            return
        now = clock.now()
        for alert in self._book.evaluate(lambda name: self._summary(name, now - WINDOW), now):
            self._delivery.put(alert, handlers)

    def _summary(self, name: str, since: float) -> dict[str, float]:
        found = self._sink.history.samples(name, since)
        return {} if found is None else summarise(found.value)

    def _current_handlers(self) -> tuple[Any, ...]:
        handlers = self._handlers
        if isinstance(handlers, list | tuple):
            return tuple(handlers)
        if handlers is not None:
            self._warn_once("alert_handlers is %s, so none is called; give a list", handlers)
        return ()

    def _warn_once(self, message: str, cause: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._pipeline.notices.add(logging.WARNING, message, safe_text(cause, 200))
