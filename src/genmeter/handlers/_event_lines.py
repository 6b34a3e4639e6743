"""Encodes events as the lines of the journal and of the log.

The lines are those that the file handlers write for the rows of
:func:`~genmeter.events.afterimage.metric_rows` and for log records. But an event's labels and time
are encoded once for all its lines, and the text of labels and names is cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genmeter.events.afterimage import first_data, metric_data, shared_data, values_of
from genmeter.events.model import Evaluation, Generation, Log, Metric
from genmeter.handlers._line_text import iso_time, log_time, object_text, value_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.events.model import Event

__all__ = ["JournalLines", "log_lines", "log_record"]

_MOST_CACHED = 1_024
"""Names, and sets of labels, whose text is cached; one more empties the cache."""


class JournalLines:
    """Encodes events as lines of ``metrics.jsonl``, several an event.

    One thread at a time may use it. The numbers of an event are clean, so their repr is JSON.
    """

    def __init__(self) -> None:
        self._heads: dict[str, str] = {}
        self._labels: dict[tuple[Any, ...], str] = {}

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return the lines of calls, evaluations and metrics; other events have none."""
        lines: list[str] = []
        for event in events:
            if isinstance(event, Generation | Evaluation):
                self._add_lines(lines, event)
            elif isinstance(event, Metric):
                data = _inner(metric_data(event))
                head = self._heads.get(event.name) or self._new_head(event.name)
                lines.append(f"{head}{event.value!r}{data}{_end(event)}")
        return "".join(lines).encode()

    def _add_lines(self, lines: list[str], event: Generation | Evaluation) -> None:
        heads = self._heads
        labels = self._labels_of(event)
        end = _end(event)
        tail = labels + end
        first = _inner(first_data(event))
        for name, value, own in values_of(event):
            head = heads.get(name) or self._new_head(name)
            if first or own:
                lines.append(f"{head}{value!r}{labels}{_inner(own or {})}{first}{end}")
                first = ""
            else:
                lines.append(f"{head}{value!r}{tail}")

    def _labels_of(self, event: Generation | Evaluation) -> str:
        key = (
            (event.call, event.is_conversation)
            if isinstance(event, Generation)
            else (event.call, event.total_tokens is None, event.evaluator)
        )
        text = self._labels.get(key)
        if text is None:
            if len(self._labels) >= _MOST_CACHED:
                self._labels.clear()
            text = self._labels[key] = _inner(shared_data(event))
        return text

    def _new_head(self, name: str) -> str:
        if len(self._heads) >= _MOST_CACHED:
            self._heads.clear()
        head = self._heads[name] = f'{{"metric": {value_text(name)}, "value": '
        return head


def log_lines(events: Sequence[Event]) -> bytes:
    """Encode events as lines of ``afterimage.log``.

    Returns:
        A line for each log message, call and evaluation; other events have none.
    """
    lines = (
        f"{log_time(event.time)} - {object_text(log_record(event))}\n"
        for event in events
        if isinstance(event, Log | Generation | Evaluation)
    )
    return "".join(lines).encode()


def log_record(event: Log | Generation | Evaluation) -> dict[str, Any]:
    """Return the log record of an event, with the values as given."""
    if isinstance(event, Log):
        given = {f"{key}_" if key in _OURS else key: value for key, value in event.data.items()}
        return {"level": event.level, "message": event.message, **given}
    data: dict[str, Any] = {
        "timestamp": iso_time(event.time),
        "duration": event.duration,
        "success": event.success,
    }
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
    return {"level": "info", "message": message, "data": {**data, **event.raw_kwargs}}


_OURS = ("level", "message")


def _end(event: Generation | Evaluation | Metric) -> str:
    return f', "timestamp": "{iso_time(event.time)}"}}\n'


def _inner(data: dict[str, Any]) -> str:
    """Return the fields of an object as they follow other ones."""
    return f", {object_text(data)[1:-1]}" if data else ""
