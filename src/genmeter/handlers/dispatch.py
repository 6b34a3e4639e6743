"""Passes events from the drain to a monitor's handlers and subscribers, each on its own worker."""

from __future__ import annotations

import logging
import threading
from functools import partial
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from genmeter.events.afterimage import metric_rows
from genmeter.events.capture import class_name
from genmeter.events.model import Evaluation, Generation, Log, Metric
from genmeter.events.values import UNREADABLE, label_text, safe_text
from genmeter.handlers._journal_run import JournalRun
from genmeter.handlers._lines import JournalLines, iso_time, log_lines, log_record
from genmeter.handlers.base import FileLogHandler, FileMetricHandler
from genmeter.pipeline.handler_worker import HandlerWorker, HandlerWorkers
from genmeter.pipeline.worker import BATCH, CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.events.model import Event
    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = [
    "LOGS",
    "METRICS",
    "HandlerDispatcher",
    "HandlerKind",
    "Subscriber",
    "is_handing_out_logs",
]


class HandlerKind(NamedTuple):
    """A kind of handlers: of metrics, or of logs.

    Attributes:
        one: The handler's method for one row.
        many: The handler's optional method for a list of rows. It must not change them, since rows
            of one event share metadata.
        events: The types of events that have rows.
        rows: Returns the rows of an event.
        call: Calls the method for one row.
        file_handler: genmeter's class that writes rows to a file.
        lines: Returns a function that encodes events for such a handler, with its own cache.
    """

    one: str
    many: str
    events: frozenset[type]
    rows: Callable[[Any], list[tuple[Any, ...]]]
    call: Callable[[Any, tuple[Any, ...]], object]
    file_handler: type[FileMetricHandler | FileLogHandler]
    lines: Callable[[Any], Callable[[Sequence[Event]], bytes]]

    def takes_many(self, handler: Any) -> bool:
        """Return whether a handler's class has the method for many rows.

        The class decides, since a mock has any method. A derived class that overrides only the
        method for one row does not count.
        """
        return self._definer(handler) is not None

    def many_to(self, handler: Any) -> Callable[[Sequence[Event]], None]:
        """Return a function that passes all events to a handler in one call.

        genmeter's file handlers get encoded lines, unless a subclass or the object overrides a
        method for rows.
        """
        if self._definer(handler) is self.file_handler and self.many not in vars(handler):
            encode = self.lines(handler)
            return lambda events: handler.append_lines(encode(events))

        def deliver(events: Sequence[Event]) -> None:
            getattr(handler, self.many)([row for event in events for row in self.rows(event)])

        return deliver

    def each_to(self, handler: Any) -> Callable[[Sequence[Event]], None]:
        """Return a function that calls a handler for each row, then raises the first error."""

        def deliver(events: Sequence[Event]) -> None:
            failure: BaseException | None = None
            for event in events:
                for row in self.rows(event):
                    try:
                        _check_done(self.call(handler, row))
                    except BaseException as error:
                        failure = error if failure is None else failure
            if failure is not None:
                raise failure

        return deliver

    def _definer(self, handler: Any) -> type | None:
        """Return the class that defines ``many``; None if there is none or ``one`` overrides it."""
        try:
            if self.one in getattr(handler, "__dict__", ()):
                return None
            for base in type(handler).__mro__:
                if self.many in vars(base):
                    return base
                if self.one in vars(base):
                    return None
        except UNREADABLE:
            pass
        return None


def _check_done(result: object) -> None:
    if iscoroutine(result):
        result.close()
        raise TypeError("the method must not return a coroutine, because nothing awaits it")


def _metric_rows(event: Generation | Evaluation | Metric) -> list[tuple[Any, ...]]:
    stamp = iso_time(event.time)
    rows = metric_rows(event)
    for row in rows:
        row.metadata["timestamp"] = stamp
    return list(rows)


def _log_rows(event: Log | Generation | Evaluation) -> list[tuple[Any, ...]]:
    return [(event.time, log_record(event))]


METRICS = HandlerKind(
    "handle_metric",
    "handle_metrics",
    frozenset({Generation, Evaluation, Metric}),
    _metric_rows,
    lambda handler, row: handler.handle_metric(
        metric_name=row[0], value=row[1], metadata={**row[2]}
    ),
    FileMetricHandler,
    # Of a subclass that does not call the constructor, whose every line fails, not the worker.
    lambda handler: JournalLines(getattr(handler, "_run", None)).encode,
)
LOGS = HandlerKind(
    "handle_log",
    "handle_logs",
    frozenset({Generation, Evaluation, Log}),
    _log_rows,
    lambda handler, row: handler.handle_log(row[1]),
    FileLogHandler,
    lambda _: log_lines,
)

_FILE_HANDLERS = (FileMetricHandler, FileLogHandler)
_delivering = threading.local()


def is_handing_out_logs() -> bool:
    """Return whether this thread is delivering log messages to a handler or a subscriber."""
    return getattr(_delivering, "has_logs", False)


class Subscriber(Protocol):
    """Receives clean events on its own worker.

    Attributes:
        name: Its name in metrics and log lines.
        wants: The types of events that it receives.
    """

    name: str
    wants: tuple[type, ...]

    def take(self, events: Sequence[Event]) -> None:
        """Handle events, which are in order."""


class HandlerDispatcher:
    """Queues one monitor's events for its handlers and subscribers; never waits or raises.

    Only the pipeline's owner calls :meth:`record` and :meth:`start`.

    Args:
        self_metrics: Counts the events that handlers lose.
        deferred_log: Logs the first loss of each handler and reason.
        subscribers: The receivers of events besides the handlers.

    Attributes:
        metric_handlers: The handlers of metrics; the job may change or replace the list at any
            time.
        log_handlers: The same for handlers of log records.
    """

    def __init__(
        self,
        self_metrics: SelfMetrics,
        deferred_log: DeferredLog,
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> None:
        self.metric_handlers: list[Any] = []
        self.log_handlers: list[Any] = []
        self._deferred_log = deferred_log
        self._has_warned: set[str] = set()
        losses = {"self_metrics": self_metrics, "deferred_log": deferred_log}
        self._metrics = HandlerWorkers(partial(_handler_worker, METRICS, losses))
        self._logs = HandlerWorkers(partial(_handler_worker, LOGS, losses))
        self._subscribers = [(each.wants, _subscriber_worker(each, losses)) for each in subscribers]

    def record(self, event: Event) -> None:
        """Queue an event for all handlers and subscribers of its type."""
        kind = type(event)
        if kind in METRICS.events:
            for worker in self._metrics.sync(self._listed(METRICS, self.metric_handlers)):
                if not worker.put(event) and kind is not Metric:
                    worker.on_drop()
        if kind in LOGS.events:
            for worker in self._logs.sync(self._listed(LOGS, self.log_handlers)):
                worker.put(event)
        for wants, worker in self._subscribers:
            if kind in wants:
                worker.put(event)

    def start(self) -> None:
        """Start the threads of the job's handlers before the first event."""
        self._metrics.start(self._listed(METRICS, self.metric_handlers))
        self._logs.start(self._listed(LOGS, self.log_handlers))

    def flush(self, deadline: float) -> list[str]:
        """Wait until all events queued so far are delivered.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            The names of the workers that did not finish in time.
        """
        return [each.label for each in self._workers() if not each.wait_until_delivered(deadline)]

    def begin_close(self) -> None:
        """Let each worker end after its queued events, without waiting."""
        self._metrics.close()
        self._logs.close()
        for _, worker in self._subscribers:
            worker.close()

    def finish_close(self, deadline: float) -> None:
        """Wait until all workers have ended; events left at the deadline are counted and logged.

        Args:
            deadline: On the clock of ``time.monotonic()``.
        """
        # genmeter's handlers first: if no thread can start they run here, and a handler that
        # blocks must not use up their time.
        for worker in sorted(self._workers(), key=lambda each: not each.is_ours):
            worker.finish(deadline)
        self._metrics.finish(deadline)
        self._logs.finish(deadline)

    def reset(self) -> None:
        """Reset in a forked child, with the same handlers."""
        self._metrics.reset()
        self._logs.reset()
        for _, worker in self._subscribers:
            worker.reset()

    def _workers(self) -> list[HandlerWorker[Event]]:
        return [*self._metrics.all(), *self._logs.all(), *(each for _, each in self._subscribers)]

    def _listed(self, kind: HandlerKind, handlers: Any) -> list[Any]:
        """Return the handlers; the job may have replaced the list with anything."""
        if type(handlers) is list:
            return [*handlers]
        # By the base's own method, since a derived class may override it.
        for base in (list, tuple):
            if issubclass(type(handlers), base):
                return list(base.__iter__(handlers))
        if handlers is not None and kind.one not in self._has_warned:
            self._has_warned.add(kind.one)
            self._deferred_log.add(
                logging.WARNING,
                "the handlers with %s must be a list, got %s; none is called",
                kind.one,
                safe_text(handlers, 200),
            )
        return []


def _handler_worker(
    kind: HandlerKind, losses: dict[str, Any], handler: Any
) -> HandlerWorker[Event]:
    takes_many = kind.takes_many(handler)
    is_ours = issubclass(type(handler), _FILE_HANDLERS)
    deliver = kind.many_to(handler) if takes_many else kind.each_to(handler)
    name = label_text(class_name(type(handler))) or "unknown"
    run = getattr(handler, "_run", None) if is_ours else None
    return HandlerWorker(
        _marked(deliver) if Log in kind.events else deliver,
        label=name,
        shown=f"{name}.{kind.one}",
        capacity=CAPACITY,
        # One event at a time, so that an event that makes the handler raise loses no others.
        batch=BATCH if takes_many else 1,
        is_ours=is_ours,
        on_end=handler.close if is_ours else lambda: None,
        on_drop=run.skip_event if isinstance(run, JournalRun) else lambda: None,
        **losses,
    )


def _subscriber_worker(subscriber: Subscriber, losses: dict[str, Any]) -> HandlerWorker[Event]:
    take, name = subscriber.take, subscriber.name
    return HandlerWorker(
        _marked(take) if Log in subscriber.wants else take, label=name, shown=name, **losses
    )


def _marked(deliver: Callable[[Sequence[Event]], object]) -> Callable[[Sequence[Event]], None]:
    def deliver_logs(events: Sequence[Event]) -> None:
        before = is_handing_out_logs()
        _delivering.has_logs = True
        try:
            deliver(events)
        finally:
            _delivering.has_logs = before

    return deliver_logs
