"""What handlers get of an event: AfterImage's metrics and log records, with their time."""

from __future__ import annotations

from datetime import UTC, datetime
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events import Evaluation, Generation, Log, Metric
from genmeter.labels import UNREADABLE
from genmeter.recorders.old_metrics import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.events import Event

__all__ = ["LOGS", "METRICS", "HandlerKind"]


class HandlerKind(NamedTuple):
    """What a list of handlers is for.

    Attributes:
        one: The method that takes one row.
        many: The method, where a handler has it, that takes a list of rows. They are not the
            handler's to change: those of one event share what is the same.
        events: The types of events that have rows.
        rows: Gives the rows of an event.
        call: Calls the method for one row.
    """

    one: str
    many: str
    events: frozenset[type]
    rows: Callable[[Any], list[tuple[Any, ...]]]
    call: Callable[[Any, tuple[Any, ...]], object]

    def takes_many(self, handler: Any) -> bool:
        """Tell whether a handler has the method for many rows: by its class, since a mock has any.

        Where a derived class has a method of its own for one row only, that one counts.
        """
        try:
            if self.one in getattr(handler, "__dict__", ()):
                return False
            for base in type(handler).__mro__:
                if self.many in vars(base):
                    return True
                if self.one in vars(base):
                    return False
        except UNREADABLE:
            pass
        return False

    def many_to(self, handler: Any) -> Callable[[Sequence[Event]], None]:
        """Give what hands over events all at once."""

        def deliver(events: Sequence[Event]) -> None:
            getattr(handler, self.many)([row for event in events for row in self.rows(event)])

        return deliver

    def each_to(self, handler: Any) -> Callable[[Sequence[Event]], None]:
        """Give what hands over row by row, and raises the first error when all had their turn."""

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


def _check_done(result: object) -> None:
    if iscoroutine(result):
        result.close()
        raise TypeError("the method is a coroutine, which nobody would await; give a plain one")


def _metric_rows(event: Generation | Evaluation | Metric) -> list[tuple[Any, ...]]:
    stamp = _iso(event.time)
    rows = samples_of(event)
    for row in rows:
        row.metadata["timestamp"] = stamp
    return list(rows)


def _log_rows(event: Log | Generation | Evaluation) -> list[tuple[Any, ...]]:
    if isinstance(event, Log):
        data = {f"{key}_" if key in _OURS else key: value for key, value in event.data.items()}
        return [(event.time, {"level": event.level, "message": event.message, **data})]
    data = {"timestamp": _iso(event.time), "duration": event.duration, "success": event.success}
    message = "Generation metrics"
    if isinstance(event, Evaluation):
        message = "Evaluation metrics"
        data["evaluator_type"] = event.evaluator
        data["scores"] = {
            score.name: score.value
            if score.feedback is None
            else {"score": score.value, "feedback": score.feedback}
            for score in event.scores
        }
    return [(event.time, {"level": "info", "message": message, "data": {**data, **event.told}})]


def _iso(when: float) -> str:
    """Give a Unix time as local time in ISO 8601, with its offset from UTC."""
    try:
        return datetime.fromtimestamp(when, UTC).astimezone().isoformat(timespec="microseconds")
    except (OverflowError, OSError, ValueError):  # a year that the platform's clock does not have
        return _FIRST if when < 0 else _LAST


_OURS = ("level", "message")
_FIRST, _LAST = "0001-01-01T00:00:00.000000+00:00", "9999-12-31T23:59:59.999999+00:00"

METRICS = HandlerKind(
    "handle_metric",
    "handle_metrics",
    frozenset({Generation, Evaluation, Metric}),
    _metric_rows,
    lambda handler, row: handler.handle_metric(
        metric_name=row[0], value=row[1], metadata={**row[2]}
    ),
)
LOGS = HandlerKind(
    "handle_log",
    "handle_logs",
    frozenset({Generation, Evaluation, Log}),
    _log_rows,
    lambda handler, row: handler.handle_log(row[1]),
)
