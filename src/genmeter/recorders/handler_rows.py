"""How events reach handlers: as AfterImage's metrics and log records, one by one, many, or encoded."""

from __future__ import annotations

from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events import Evaluation, Generation, Log, Metric
from genmeter.handlers import FileLogHandler, FileMetricHandler
from genmeter.labels import UNREADABLE
from genmeter.line_text import iso_time
from genmeter.recorders.event_lines import JournalLines, LogLines, log_record
from genmeter.recorders.old_metrics import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.events import Event
    from genmeter.recorders.event_lines import EventLines

__all__ = ["LOGS", "METRICS", "HandlerKind"]


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
        lines: Makes what encodes events for that file.
    """

    one: str
    many: str
    events: frozenset[type]
    rows: Callable[[Any], list[tuple[Any, ...]]]
    call: Callable[[Any, tuple[Any, ...]], object]
    file_handler: type[FileMetricHandler | FileLogHandler]
    lines: Callable[[], EventLines]

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
            lines = self.lines()
            return lambda events: handler.append_lines(lines.encode(events))

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
    rows = samples_of(event)
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
    JournalLines,
)
LOGS = HandlerKind(
    "handle_log",
    "handle_logs",
    frozenset({Generation, Evaluation, Log}),
    _log_rows,
    lambda handler, row: handler.handle_log(row[1]),
    FileLogHandler,
    LogLines,
)
