"""From the drain to the job's own handlers, each behind a feed of its own."""

from __future__ import annotations

import logging
import threading
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from genmeter.events.afterimage import metric_rows
from genmeter.events.model import Evaluation, Generation, Log, Metric
from genmeter.events.values import UNREADABLE, label_text, safe_text
from genmeter.handlers._event_lines import JournalLines, log_lines, log_record
from genmeter.handlers._line_text import iso_time
from genmeter.handlers.base import FileLogHandler, FileMetricHandler
from genmeter.pipeline.receiver import Receiver
from genmeter.pipeline.worker import BATCH, CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.events.model import Event
    from genmeter.pipeline.deferred_log import DeferredLog
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = ["LOGS", "METRICS", "HandlerKind", "Relay", "Tap", "is_handing_out_logs"]


class HandlerKind(NamedTuple):
    """What a list of handlers is for.

    Attributes:
        one: The method that takes one row.
        many: The method, where a handler has it, that takes a list of rows. They are not the
            handler's to change: those of one event share what is the same.
        events: The types of events that have rows.
        rows: Returns the rows of an event.
        call: Calls the method for one row.
        file_handler: The class of ours that writes the rows to a file.
        lines: Returns a function that encodes events for that file, with a cache of its own.
    """

    one: str
    many: str
    events: frozenset[type]
    rows: Callable[[Any], list[tuple[Any, ...]]]
    call: Callable[[Any, tuple[Any, ...]], object]
    file_handler: type[FileMetricHandler | FileLogHandler]
    lines: Callable[[], Callable[[Sequence[Event]], bytes]]

    def takes_many(self, handler: Any) -> bool:
        """Return whether a handler has the method for many rows, by its class: a mock has any.

        Where a derived class has a method of its own for one row only, that one counts.
        """
        return self._definer(handler) is not None

    def many_to(self, handler: Any) -> Callable[[Sequence[Event]], None]:
        """Return the function that hands over events all at once.

        A file handler of ours gets their lines, unless a derived class has a method of its own for
        rows, or the object itself has.
        """
        if self._definer(handler) is self.file_handler and self.many not in vars(handler):
            encode = self.lines()
            return lambda events: handler.append_lines(encode(events))

        def deliver(events: Sequence[Event]) -> None:
            getattr(handler, self.many)([row for event in events for row in self.rows(event)])

        return deliver

    def each_to(self, handler: Any) -> Callable[[Sequence[Event]], None]:
        """Return the function that hands over row by row, and raises the first error at the end."""

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
        """Return the class that ``many`` is from; None without one, or where ``one`` overrides it."""
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
        raise TypeError("the method must be a plain one, got a coroutine, which nobody would await")


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
    lambda: JournalLines().encode,
)
LOGS = HandlerKind(
    "handle_log",
    "handle_logs",
    frozenset({Generation, Evaluation, Log}),
    _log_rows,
    lambda handler, row: handler.handle_log(row[1]),
    FileLogHandler,
    lambda: log_lines,
)

_OUR_OWN = (FileMetricHandler, FileLogHandler)
_hands = threading.local()


def is_handing_out_logs() -> bool:
    """Tell whether this thread is just in someone who takes log messages."""
    return getattr(_hands, "hold_logs", False)


class Tap(Protocol):
    """What takes events as they are, behind a feed of its own.

    Attributes:
        name: What it is called where it fails.
        wants: The types of the events that it takes.
    """

    name: str
    wants: tuple[type, ...]

    def take(self, events: Sequence[Event]) -> None:
        """Take some events, in their order."""


class Relay:
    """Passes one monitor's events on to its handlers; neither waits nor raises.

    The pipeline's owner alone calls :meth:`record` and :meth:`begin`.

    Args:
        self_metrics: Where what a handler did not take is counted.
        deferred_log: Where it is told, once for each handler and reason.
        taps: What takes events beside the handlers.

    Attributes:
        metric_handlers: Who gets metrics; the job may change or replace the list at any time.
        log_handlers: Who gets log records; likewise.
    """

    def __init__(
        self, self_metrics: SelfMetrics, deferred_log: DeferredLog, *, taps: Sequence[Tap] = ()
    ) -> None:
        self.metric_handlers: list[Any] = []
        self.log_handlers: list[Any] = []
        self._metrics = _Group(METRICS, self_metrics, deferred_log)
        self._logs = _Group(LOGS, self_metrics, deferred_log)
        self._taps = [
            (
                tap.wants,
                Receiver(
                    tap.name,
                    tap.name,
                    _marked(tap.take) if Log in tap.wants else tap.take,
                    self_metrics,
                    deferred_log,
                ),
            )
            for tap in taps
        ]

    def record(self, event: Event) -> None:
        """Queue the event for everyone who takes its type."""
        kind = type(event)
        if kind in METRICS.events:
            self._metrics.put(self.metric_handlers, event)
        if kind in LOGS.events:
            self._logs.put(self.log_handlers, event)
        for wants, receiver in self._taps:
            if kind in wants:
                receiver.feed.put(event)

    def begin(self) -> None:
        """Start the threads of the job's own handlers before there is an event.

        From Python 3.12 on the end of the interpreter starts no thread, so that one which blocks
        would be called by, and hold up, the main thread.
        """
        self._metrics.begin(self.metric_handlers)
        self._logs.begin(self.log_handlers)

    def deliver(self, deadline: float) -> list[str]:
        """Wait until everyone has taken all that was queued before.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            The names of those that were not done by then.
        """
        return [
            each.name for each in self._receivers() if not each.feed.wait_until_delivered(deadline)
        ]

    def begin_close(self) -> None:
        """Have everyone end after what is queued; :meth:`finish_close` waits for it."""
        self._metrics.is_closing = self._logs.is_closing = True
        for receiver in self._receivers():
            receiver.feed.close()

    def finish_close(self, deadline: float) -> None:
        """Wait until everyone has ended; what is left at the deadline is counted and told.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        # Our own first: where no thread is to be had they are delivered here, and a handler that
        # blocks must not take their time.
        for receiver in sorted(self._receivers(), key=lambda each: not each.is_ours):
            receiver.finish(deadline)

    def reset(self) -> None:
        """Begin anew in a forked child, with the same handlers."""
        self._metrics.is_closing = self._logs.is_closing = False
        for receiver in self._receivers():
            receiver.feed.reset()

    def _receivers(self) -> list[Receiver[Event]]:
        return [*self._metrics.all(), *self._logs.all(), *(receiver for _, receiver in self._taps)]


def _marked(deliver: Callable[[Sequence[Event]], object]) -> Callable[[Sequence[Event]], None]:
    def hand_out(events: Sequence[Event]) -> None:
        before = is_handing_out_logs()
        _hands.hold_logs = True
        try:
            deliver(events)
        finally:
            _hands.hold_logs = before

    return hand_out


class _Group:
    """The handlers of one list. They are told apart by identity: equal ones are still several.

    Attributes:
        is_closing: Whether the list is looked at no more.
    """

    def __init__(
        self, kind: HandlerKind, self_metrics: SelfMetrics, deferred_log: DeferredLog
    ) -> None:
        self.is_closing = False
        self._kind = kind
        self._self_metrics = self_metrics
        self._deferred_log = deferred_log
        self._by_id: dict[int, Receiver[Event]] = {}
        self._ids: list[int] = []
        self._gone: set[int] = set()
        self._present: list[Receiver[Event]] = []
        self._has_complained = False

    def all(self) -> list[Receiver[Event]]:
        """Give who is in the list, and who was and is not done yet."""
        return list(self._by_id.values())

    def put(self, handlers: Any, event: Event) -> None:
        """Queue an event for each of the handlers."""
        self._look(handlers)
        for receiver in self._present:
            receiver.feed.put(event)
        if self._gone:
            self._drop_idle()

    def begin(self, handlers: Any) -> None:
        """Start the threads of handlers that are not our own."""
        self._look(handlers)
        for receiver in self._present:
            if not receiver.is_ours:
                receiver.feed.start()

    def _drop_idle(self) -> None:
        """End the workers of handlers that left the list and have taken all that was theirs."""
        if self.is_closing:
            return
        for key in list(self._gone):
            feed = self._by_id[key].feed
            if feed.is_idle:
                feed.close()
                del self._by_id[key]
                self._gone.remove(key)

    def _look(self, handlers: Any) -> None:
        if self.is_closing:
            return
        present = [*handlers] if type(handlers) is list else self._own_list(handlers)
        ids = [id(handler) for handler in present]
        if ids != self._ids:
            for handler in present:
                if id(handler) not in self._by_id:
                    self._by_id[id(handler)] = self._receiver(handler)
            self._present = [self._by_id[key] for key in ids]
            self._ids = ids
            self._gone = self._by_id.keys() - set(ids)

    def _own_list(self, handlers: Any) -> list[Any]:
        # By the type, and by its own method: the job may have put anything into the list's place.
        for base in (list, tuple):
            if issubclass(type(handlers), base):
                return list(base.__iter__(handlers))
        if handlers is not None and not self._has_complained:
            self._has_complained = True
            self._deferred_log.add(
                logging.WARNING,
                "the handlers with %s are %s, so none is called; give a list",
                self._kind.one,
                safe_text(handlers, 200),
            )
        return []

    def _receiver(self, handler: Any) -> Receiver[Event]:
        kind = self._kind
        takes_many = kind.takes_many(handler)
        is_ours = issubclass(type(handler), _OUR_OWN)
        deliver = kind.many_to(handler) if takes_many else kind.each_to(handler)
        if Log in kind.events:
            deliver = _marked(deliver)
        # type's own, since a metaclass may have another that raises.
        name = label_text(type.__dict__["__name__"].__get__(type(handler))) or "unknown"
        return Receiver(
            name,
            f"{name}.{kind.one}",
            deliver,
            self._self_metrics,
            self._deferred_log,
            capacity=CAPACITY,
            # One event at a time, so that one that the handler raises at costs no other.
            batch=BATCH if takes_many else 1,
            is_ours=is_ours,
            on_end=handler.close if is_ours else lambda: None,
        )
