"""Evaluates the alerts of one monitor and sends them to its handlers."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from genmeter import clock
from genmeter.alerting._schedule import schedule
from genmeter.alerting.evaluate import Evaluator
from genmeter.alerting.state import AlertStates
from genmeter.clock import seconds_left
from genmeter.errors import ConfigError
from genmeter.events.model import Reason
from genmeter.events.values import UNREADABLE, label_text, safe_text
from genmeter.pipeline.handler_worker import HandlerWorker, HandlerWorkers
from genmeter.pipeline.worker import Loss, is_worker_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.alerting.state import Alert
    from genmeter.config.alerts import AlertSettings
    from genmeter.history.store import History
    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.drain import Pipeline
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = ["AlertReceiver", "Alerting", "check_alert_handlers"]

_NEVER_AWAITED = "the handler must be a plain function, got a coroutine, which nobody would await"
_CAPACITY = 1_000  # alerts that may be queued for one handler
_PATIENCE = 1.0  # seconds for the last evaluation


def check_alert_handlers(handlers: Sequence[Any]) -> None:
    """Check that each handler can be called.

    Raises:
        ConfigError: One cannot be called, or is a coroutine function.
    """
    for number, handler in enumerate(handlers):
        if callable(handler) and not _is_awaited(handler):
            continue
        problem = "which nobody would await" if callable(handler) else "which cannot be called"
        raise ConfigError(
            f"alert_handlers[{number}] must be a plain function that takes an Alert, got "
            f"{safe_text(handler, 200)}, {problem}"
        )


class AlertReceiver(ABC):
    """Base class of an alert handler that is also called after each evaluation, and at the end.

    A plain function is enough for most handlers. Derive from this class to send firing alerts
    repeatedly or in the background. Other handlers' methods named ``refresh`` or ``flush`` are not
    called. All methods are called on the handler's worker thread, one at a time; an exception is
    counted and affects that call only.
    """

    @abstractmethod
    def __call__(self, alert: Alert) -> object:
        """Handle an alert that starts to fire, or is resolved.

        Args:
            alert: The alert, a copy for this handler.
        """

    @abstractmethod
    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Handle all firing alerts, after each evaluation.

        A slow handler gets the newest evaluation only.

        Args:
            alerts: All firing alerts.
            interval: Seconds until the next evaluation; 0 if only ``check_alerts`` evaluates.
        """

    @abstractmethod
    def flush(self, timeout: float) -> bool:
        """Deliver all alerts, while the job waits for it or the monitor is shut down.

        Alerts that cannot be delivered in time must not be delivered before the next call of any
        method.

        Args:
            timeout: Seconds that it may take; 0 if the time is over.

        Returns:
            Whether all alerts were delivered.
        """


class EvaluatedSession(Protocol):
    """The part of a session that the evaluation of alerts reads; see ``SessionState``."""

    history: History
    job: str
    has_events: bool
    is_closed: bool

    @property
    def last_call(self) -> float | None:
        """Unix time of the end of the job's last call; None before the first."""


class Alerting:
    """Evaluates a monitor's alerts, periodically and on request, and sends them to its handlers.

    The periodic evaluation starts when the monitor has recorded an event or can have handlers (one
    was passed, set, or may be added to the list). All monitors of the process share its thread. It
    and the handlers' threads end with :meth:`stop`, or when this object is collected.

    Args:
        pipeline: The monitor's; it drains before an evaluation.
        session: The monitor's, whose history is evaluated.
        handlers: A list of callables that take an alert.
        settings: The settings of the alerts.
        interval: Seconds between evaluations; 0 or less to evaluate in :meth:`check` only.
        repeat: Seconds after which a firing alert is sent again; None for never.
        last_death: Returns the Unix time at which a process of the job last died, None if none has
            or another process leads; must not wait.
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
        last_death: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.settings = settings
        self._last_death = last_death
        self._pipeline = pipeline
        self._session = session
        self._handlers = handlers
        self._may_have_handlers = bool(handlers)
        self._interval = interval
        self._evaluator = Evaluator(settings.rules(), pipeline.self_metrics, clock.now())
        self._states = AlertStates(settings, repeat)
        self._workers = self._new_workers()
        self._is_scheduled = False
        self._is_evaluated = False
        self._has_warned = False
        self._has_failed = False
        self._is_stopped = False
        self._epoch = pipeline.epoch
        weakref.finalize(self, schedule.discard, id(self)).atexit = False

    @property
    def handlers(self) -> Any:
        """The job's list of handlers, which it may change or replace at any time."""
        self._may_have_handlers = True
        self.start()
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: Any) -> None:
        self._handlers = handlers
        self._may_have_handlers = True
        self.start()

    def start(self) -> None:
        """Start the handlers' threads and the periodic evaluation, unless that awaits an event.

        A second call does nothing. In a forked child it must be called again.
        """
        self.reset()
        if self._is_stopped or self._interval <= 0:
            return
        self._workers.start(self._current_handlers())
        if self._may_have_handlers or self._session.has_events:
            self.schedule()

    def schedule(self) -> bool:
        """Start the periodic evaluation, if there is one; at the first event at the latest.

        Returns:
            False if no thread could be started; call again.
        """
        if self._interval <= 0 or self._is_stopped or self._is_scheduled:
            return True
        tick = weakref.WeakMethod(self._tick)
        self._is_scheduled = schedule.add(id(self), lambda: _call(tick), self._interval)
        if not self._is_scheduled:
            self._warn_once(
                "cannot start a thread for the periodic evaluation of alerts: until one starts, "
                "only check_alerts() and shutdown() evaluate them; raise the system's limit of "
                "threads"
            )
        if self._is_stopped:  # meanwhile, by another thread
            schedule.discard(id(self))
        return self._is_scheduled

    def check(self, timeout: float) -> None:
        """Evaluate now, and wait until the handlers have handled the alerts.

        On a handler's thread it does not wait.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        is_stopped = self._is_stopped
        # After the end a check uses its own threads.
        workers = self._new_workers() if is_stopped else self._workers
        handlers = self._current_handlers()
        self._pipeline.run(lambda: self._evaluate(handlers, workers, flush_by=deadline))
        for worker in tuple(workers.present):
            worker.wait_until_delivered(deadline)
        if is_stopped:
            workers.finish(deadline)
        self._pipeline.deferred_log.flush()

    def firing(self) -> Mapping[str, int]:
        """Return the number of firing alerts by name at the last evaluation; never raises.

        All are 0 before the first evaluation. It is empty without a periodic evaluation or a
        :meth:`check`, and after :meth:`stop`. It neither evaluates nor waits.
        """
        self.reset()
        if self._is_stopped or not (self._is_evaluated or self._interval > 0):
            return {}
        return self._states.counts(self._evaluator.rules)

    def conclude(self, timeout: float) -> None:
        """Evaluate once more, before the monitor is closed; never raises.

        This covers jobs shorter than an interval, and the time after the last evaluation.

        Args:
            timeout: Seconds to wait at most.
        """
        self.reset()
        if self._interval > 0:
            self._try_to_evaluate(min(timeout, _PATIENCE))

    def stop(self, timeout: float) -> None:
        """Stop evaluating, and wait until the handlers have handled their queued alerts.

        It resolves no alert. Alerts that are not handled in time are dropped and counted.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        self.reset()
        self._is_stopped = True
        schedule.discard(id(self))
        self._workers.finish(deadline)

    def reset(self) -> None:
        """Reset in a forked child: nothing fires, the queues are empty, no thread runs.

        Every other method calls this, so a child need not.
        """
        epoch = self._pipeline.epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._is_scheduled = self._is_evaluated = False
        self._evaluator.begin(clock.now())
        self._states.forget()
        self._workers.reset()

    def _tick(self) -> None:
        # A closed session gets no new data, and its end resolves nothing.
        if not self._session.is_closed:
            self._try_to_evaluate(None)

    def _try_to_evaluate(self, timeout: float | None) -> None:
        handlers = self._current_handlers()

        def evaluate() -> None:
            if not self._is_stopped:
                self._evaluate(handlers, self._workers)

        try:
            with contextlib.suppress(TimeoutError):
                self._pipeline.run(evaluate, timeout)
        except BaseException as error:
            self._report_failure(error)
            # On a caller's thread a signal handler may have raised it.
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
        workers: HandlerWorkers[_AlertWorker],
        *,
        flush_by: float | None = None,
    ) -> None:
        """Evaluate and queue the alerts to send; only the pipeline may call this.

        The owner of the drain also owns the states and the workers. With their own lock, a signal
        handler on the main thread could deadlock.
        """
        session, now = self._session, clock.now()
        last_call = None if session.is_closed else session.last_call
        found = self._evaluator.evaluate(
            session.history, now, last_call=last_call, last_death=self._last_death()
        )
        to_send = self._states.update(found, now, job=session.job, has_receivers=bool(handlers))
        self._is_evaluated = True
        # A handler that is listed twice gets every alert twice.
        present = workers.sync(handlers)
        for alert in to_send:
            for worker in present:
                # A copy for each: handlers may change it, each on its own thread.
                worker.put(copy.deepcopy(alert))
        for worker in present:
            if worker.is_receiver:
                firing = self._states.firing(now, session.job)
                worker.refresh(firing, max(0.0, self._interval))
                if flush_by is not None:
                    worker.put_control(_Flush(flush_by))

    def _new_workers(self) -> HandlerWorkers[_AlertWorker]:
        self_metrics, deferred_log = self._pipeline.self_metrics, self._pipeline.deferred_log
        return HandlerWorkers(lambda handler: _AlertWorker(handler, self_metrics, deferred_log))

    def _current_handlers(self) -> tuple[Any, ...]:
        handlers = self._handlers
        if isinstance(handlers, list | tuple):
            return tuple(handlers)
        if handlers is not None:
            self._warn_once("alert_handlers must be a list, got %s; no handler is called", handlers)
        return ()

    def _warn_once(self, message: str, *arguments: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            shown = (safe_text(each, 200) for each in arguments)
            self._pipeline.deferred_log.add(logging.WARNING, message, *shown)


@dataclass(frozen=True)
class _Refresh:
    """A request to call ``refresh``."""


@dataclass(frozen=True)
class _Flush:
    """A request to call ``flush``; the deadline is on the clock of ``time.monotonic()``."""

    deadline: float


class _AlertWorker(HandlerWorker["Alert | _Refresh | _Flush"]):
    """The worker of one alert handler.

    Attributes:
        is_receiver: Whether the handler is an :class:`AlertReceiver`.
    """

    def __init__(self, handler: Any, self_metrics: SelfMetrics, deferred_log: DeferredLog) -> None:
        self.is_receiver = issubclass(type(handler), AlertReceiver)
        self._handler = handler
        self._newest: tuple[list[Alert], float] | None = None
        self._is_refresh_queued = False
        label = _name_of(handler)
        super().__init__(
            self._call_handler,
            label=label,
            shown=f"the alert handler {label}",
            self_metrics=self_metrics,
            deferred_log=deferred_log,
            items="alerts",
            capacity=_CAPACITY,
            batch=1,  # if the handler raises, only that alert is lost
            on_end=self._flush_at_end,
        )

    def reset(self) -> None:
        """Reset, in a forked child; takes no lock."""
        self._newest, self._is_refresh_queued = None, False
        super().reset()

    def put_control(self, item: _Refresh | _Flush) -> bool:
        """Queue an item that is not an alert, unless the queue is full: it must not displace one."""
        return not self.is_full and self.put(item)

    def refresh(self, alerts: list[Alert], interval: float) -> None:
        """Queue all firing alerts; a slow handler gets the newest evaluation only."""
        self._newest = (alerts, interval)
        if not self._is_refresh_queued:
            self._is_refresh_queued = True
            if not self.put_control(_Refresh()):
                self._is_refresh_queued = False

    def _call_handler(self, items: Sequence[Alert | _Refresh | _Flush]) -> None:
        for item in items:
            if isinstance(item, _Refresh):
                # Reset before reading the newest: a concurrent refresh is queued again.
                self._is_refresh_queued = False
                newest, self._newest = self._newest, None
                if newest is not None:
                    self._handler.refresh(*newest)
            elif isinstance(item, _Flush):
                self._handler.flush(seconds_left(item.deadline))
            else:
                result = self._handler(item)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(_NEVER_AWAITED)

    def _flush_at_end(self) -> None:
        if self.end_by is None or not self.is_receiver:
            return
        if not self._handler.flush(seconds_left(self.end_by)):
            self.lose(Loss.UNFINISHED, 1)


def _call(method: weakref.WeakMethod[Any]) -> None:
    found = method()
    if found is not None:
        found()


def _is_awaited(handler: Any) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - inspects it
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _name_of(handler: Any) -> str:
    try:
        name = getattr(handler, "__qualname__", "")
    except UNREADABLE:
        name = ""
    return label_text(name) or type(handler).__qualname__
