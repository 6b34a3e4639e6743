"""The alerts of one monitor: when they are evaluated, and who hears of them."""

from __future__ import annotations

import contextlib
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
from genmeter.outputs.alerts.evaluation import Evaluator
from genmeter.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.alert_settings import AlertSettings
    from genmeter.pipeline import Pipeline
    from genmeter.sink import Sink

__all__ = ["Alerting"]

_PATIENCE = 1.0  # seconds; who asks what fires is a scrape, which has a time-out


class Alerting:
    """Evaluates a monitor's alerts, every so often and when asked, and hands them to its handlers.

    The thread that evaluates starts once there can be a handler: where one is given, set, or
    somebody has got hold of the list, to which one may be added. Without it, who asks what fires
    has it evaluated. It and the handlers' threads end when this object is forgotten, if
    :meth:`stop` did not come first.

    Args:
        pipeline: The monitor's; what is told is drained before an evaluation.
        sink: The monitor's, whose history is judged.
        handlers: A list of callables that take an alert.
        settings: Which alerts there are.
        interval: Seconds between evaluations; 0 or less for none but those of :meth:`check`.
        repeat: Seconds after which an alert that still fires is sent again; None for never.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sink: Sink,
        *,
        handlers: Any,
        settings: AlertSettings,
        interval: float,
        repeat: float | None = None,
    ) -> None:
        self.settings = settings
        self._pipeline = pipeline
        self._sink = sink
        self._handlers = handlers
        self._interval = interval
        self._evaluator = Evaluator(settings.rules(), pipeline.tallies, clock.now())
        self._book = AlertBook(settings, repeat)
        self._delivery = AlertDelivery(pipeline.tallies, pipeline.notices)
        self._judged_at: float | None = None
        self._may_have_handlers = bool(handlers)
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
            self._warn_once("alerts are evaluated by scrapes and check_alerts() only: %s", error)
        finally:
            self._starting.release()

    def begin(self) -> None:
        """Start the threads of the handlers, which the last evaluation may need."""
        self.reset()
        handlers = self._current_handlers() if self._interval > 0 else ()
        if handlers:
            self._pipeline.run(lambda: self._delivery.begin(handlers))

    def check(self, timeout: float) -> None:
        """Evaluate now, and wait until the handlers have taken what there is to send.

        On the thread of a handler it does not wait.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        self._evaluate(flush_by=deadline)
        self._delivery.wait(deadline)
        if self._is_stopped:
            self._delivery.finish(deadline)
        self._pipeline.notices.tell()

    def firing(self) -> Mapping[str, int]:
        """Count what fires, by the alerts' names; nothing before the first evaluation.

        Evaluates first where that is due; never raises. What a closed monitor's alerts were stays
        so until :meth:`stop`.
        """
        self.reset()
        if self._is_stopped:
            return {}
        if self._is_due() and not self._sink.is_closed:
            self._try_to_evaluate(_PATIENCE)
        return {} if self._judged_at is None else self._book.counts(self._evaluator.rules)

    def conclude(self, timeout: float) -> None:
        """Evaluate once more, before the monitor is closed; never raises.

        Else nobody would hear of a job that is over before the first interval is, nor of what
        goes wrong after the last one.

        Args:
            timeout: Seconds to wait at most.
        """
        self.reset()
        if not self._is_stopped and self._interval > 0:
            self._try_to_evaluate(min(timeout, _PATIENCE))

    def stop(self, timeout: float) -> None:
        """Evaluate no more by itself, and wait until the handlers have taken what waits.

        Nothing counts as resolved by that.

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
        self._judged_at = None
        self._evaluator.begin(clock.now())
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
        # One that is shut down has nothing new to tell; that it ended resolves nothing.
        if not self._is_stopped and not self._sink.is_closed:
            self._evaluate()

    def _is_due(self) -> bool:
        if self._interval <= 0:
            return False
        # Also where the clock was set back.
        return self._judged_at is None or not 0 <= clock.now() - self._judged_at < self._interval

    def _try_to_evaluate(self, timeout: float) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                self._evaluate(timeout=timeout)
        except Exception:
            self._pipeline.tallies.count_rejected(Reason.INTERNAL)

    def _evaluate(self, *, timeout: float | None = None, flush_by: float | None = None) -> None:
        handlers = self._current_handlers()
        # The drain's lock guards the book and the delivery too: one that a signal handler on the
        # main thread could find taken by its own thread would hang there.
        self._pipeline.run(lambda: self._judge(handlers, flush_by), timeout)

    def _judge(self, handlers: tuple[Any, ...], flush_by: float | None) -> None:
        sink, now = self._sink, clock.now()
        last_call = None if sink.is_closed else sink.last_call
        found = self._evaluator.evaluate(sink.history, now, last_call=last_call)
        self._judged_at = now
        self._delivery.use(handlers)
        for alert in self._book.update(found, now, job=sink.job, is_heard=bool(handlers)):
            self._delivery.put(alert, handlers)
        self._delivery.refresh(
            handlers, lambda: self._book.firing(now, sink.job), max(0.0, self._interval)
        )
        if flush_by is not None:
            self._delivery.flush(handlers, flush_by)

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
