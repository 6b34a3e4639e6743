"""The alerts of one monitor: when they are evaluated, and which handlers they go to."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from genmeter import clock
from genmeter.alerting.evaluate import Evaluator
from genmeter.alerting.notify import AlertDelivery
from genmeter.alerting.schedule import schedule
from genmeter.alerting.state import AlertStates
from genmeter.events.model import Reason
from genmeter.events.values import safe_text
from genmeter.pipeline.worker import is_worker_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.config.alerts import AlertSettings
    from genmeter.history.store import History
    from genmeter.pipeline.drain import Pipeline

__all__ = ["Alerting"]

_PATIENCE = 1.0  # seconds that the last evaluation may take


class EvaluatedSession(Protocol):
    """What the evaluation of alerts reads of a session; see ``SessionState``."""

    history: History
    job: str
    has_events: bool
    is_closed: bool

    @property
    def last_call(self) -> float | None:
        """When the job last got an answer: Unix time; None before the first."""


class Alerting:
    """Evaluates a monitor's alerts, periodically and when asked, and hands them to its handlers.

    The periodic evaluation begins once the monitor recorded an event or can have handlers (where
    one is given, set, or may be added to the list), on a thread that all monitors of the process
    share. That and the handlers' threads end when this object is
    collected, if :meth:`stop` did not come first.

    Args:
        pipeline: The monitor's; it drains before an evaluation.
        session: The monitor's, whose history is evaluated.
        handlers: A list of callables that take an alert.
        settings: Which alerts there are.
        interval: Seconds between evaluations; 0 or less for none but those of :meth:`check`.
        repeat: Seconds after which an alert that still fires is sent again; None for never.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        session: EvaluatedSession,
        *,
        handlers: Any,
        settings: AlertSettings,
        interval: float,
        repeat: float | None = None,
    ) -> None:
        self.settings = settings
        self._pipeline = pipeline
        self._session = session
        self._handlers = handlers
        self._may_have_handlers = bool(handlers)
        self._interval = interval
        self._evaluator = Evaluator(settings.rules(), pipeline.self_metrics, clock.now())
        self._states = AlertStates(settings, repeat)
        self._delivery = AlertDelivery(pipeline.self_metrics, pipeline.deferred_log)
        self._is_scheduled = False
        self._is_evaluated = False
        self._has_warned = False
        self._has_failed = False
        self._is_stopped = False
        self._epoch = pipeline.epoch
        weakref.finalize(self, schedule.discard, id(self)).atexit = False

    @property
    def handlers(self) -> Any:
        """The job's handlers: its own list, which it may change or replace at any time."""
        self._may_have_handlers = True
        self.start()
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: Any) -> None:
        self._handlers = handlers
        self._may_have_handlers = True
        self.start()

    def start(self) -> None:
        """Start the handlers' threads and the periodic evaluation, or have the first event do so.

        A second call does nothing. In a forked child it must be called again.
        """
        self.reset()
        if self._is_stopped or self._interval <= 0:
            return
        self._delivery.start(self._current_handlers())
        if self._may_have_handlers or self._session.has_events:
            self.schedule()

    def schedule(self) -> bool:
        """Start the periodic evaluation, if there is one; the first event does so at the latest.

        Returns:
            Whether nothing is left to do for it; else no thread could be started.
        """
        if self._interval <= 0 or self._is_stopped or self._is_scheduled:
            return True
        tick = weakref.WeakMethod(self._tick)
        self._is_scheduled = schedule.add(id(self), lambda: _call(tick), self._interval)
        if not self._is_scheduled:
            self._warn_once(
                "no thread could be started for the periodic evaluation of alerts: only "
                "check_alerts() and shutdown() evaluate them until one can; raise the system's "
                "limit of threads"
            )
        if self._is_stopped:  # meanwhile, by another thread
            schedule.discard(id(self))
        return self._is_scheduled

    def check(self, timeout: float) -> None:
        """Evaluate now, and wait until the handlers have taken what there is to send.

        On the thread of a handler it does not wait.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        is_over = self._is_stopped
        # After the end a check has threads of its own, for as long as it takes.
        delivery = (
            AlertDelivery(self._pipeline.self_metrics, self._pipeline.deferred_log)
            if is_over
            else self._delivery
        )
        handlers = self._current_handlers()
        self._pipeline.run(lambda: self._evaluate(handlers, delivery, flush_by=deadline))
        delivery.wait(deadline)
        if is_over:
            delivery.finish(deadline)
        self._pipeline.deferred_log.flush()

    def firing(self) -> Mapping[str, int]:
        """Count the alerts that fire by their names, as the last evaluation found them.

        None fires before the first evaluation. Empty where nothing evaluates periodically and
        nobody has asked for an evaluation, and after :meth:`stop`. Evaluates nothing, waits for
        nothing and never raises.
        """
        self.reset()
        if self._is_stopped or not (self._is_evaluated or self._interval > 0):
            return {}
        return self._states.counts(self._evaluator.rules)

    def conclude(self, timeout: float) -> None:
        """Evaluate once more, before the monitor is closed; never raises.

        Else no alert would be sent of a job that is over before the first interval is, nor of what
        goes wrong after the last one.

        Args:
            timeout: Seconds to wait at most.
        """
        self.reset()
        if self._interval > 0:
            self._try_to_evaluate(min(timeout, _PATIENCE))

    def stop(self, timeout: float) -> None:
        """Evaluate no more, and wait until the handlers have taken what waits.

        Nothing counts as resolved by that. An alert that was not handed over in time is dropped
        and counted.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        self._is_stopped = True
        schedule.discard(id(self))
        self._delivery.finish(deadline)

    def reset(self) -> None:
        """Begin anew in a forked child: nothing has fired, nothing waits, no thread runs.

        Every other method calls this, so a child that never does is well too.
        """
        epoch = self._pipeline.epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._is_scheduled = self._is_evaluated = False
        self._evaluator.begin(clock.now())
        self._states.forget()
        self._delivery.reset()

    def _tick(self) -> None:
        # Nothing new can come of a closed session, and that it ended resolves nothing.
        if not self._session.is_closed:
            self._try_to_evaluate(None)

    def _try_to_evaluate(self, timeout: float | None) -> None:
        handlers = self._current_handlers()

        def evaluate() -> None:
            if not self._is_stopped:
                self._evaluate(handlers, self._delivery)

        try:
            with contextlib.suppress(TimeoutError):
                self._pipeline.run(evaluate, timeout)
        except BaseException as error:
            self._report_failure(error)
            # Of a signal handler, where this is a caller's thread.
            if not isinstance(error, Exception) and not is_worker_thread():
                raise

    def _report_failure(self, error: BaseException) -> None:
        self._pipeline.self_metrics.count_rejected(Reason.INTERNAL)
        if not self._has_failed:
            self._has_failed = True
            self._pipeline.deferred_log.add(
                logging.ERROR,
                "internal error while evaluating alerts; further errors are only counted, in "
                "genmeter_monitor_events_total",
                error=error,
            )

    def _evaluate(
        self,
        handlers: tuple[Any, ...],
        delivery: AlertDelivery,
        *,
        flush_by: float | None = None,
    ) -> None:
        """Evaluate and queue what there is to send; only the pipeline may call this.

        Whoever owns the drain also owns the states and the delivery: a lock of their own could be
        held by the main thread when a signal handler on it asks for it.
        """
        session, now = self._session, clock.now()
        last_call = None if session.is_closed else session.last_call
        found = self._evaluator.evaluate(session.history, now, last_call=last_call)
        delivery.use(handlers)
        has_receivers = bool(handlers)
        to_send = self._states.update(found, now, job=session.job, has_receivers=has_receivers)
        self._is_evaluated = True
        for alert in to_send:
            delivery.put(alert, handlers)
        delivery.refresh(
            handlers, lambda: self._states.firing(now, session.job), max(0.0, self._interval)
        )
        if flush_by is not None:
            delivery.flush(handlers, flush_by)

    def _current_handlers(self) -> tuple[Any, ...]:
        handlers = self._handlers
        if isinstance(handlers, list | tuple):
            return tuple(handlers)
        if handlers is not None:
            self._warn_once("alert_handlers is %s, so none is called; give a list", handlers)
        return ()

    def _warn_once(self, message: str, *arguments: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            shown = (safe_text(each, 200) for each in arguments)
            self._pipeline.deferred_log.add(logging.WARNING, message, *shown)


def _call(method: weakref.WeakMethod[Any]) -> None:
    found = method()
    if found is not None:
        found()
