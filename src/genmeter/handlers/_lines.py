"""The lines of the journal and of the log: JSON objects in ASCII, with local times.

Lines are encoded while the job runs, so common values (text, numbers and dicts of them) have a fast
path; other values pass through :func:`~genmeter.events.jsonable.to_jsonable`. :class:`JournalLines`
and :func:`log_lines` return the same lines as the file handlers write for single rows, but encode
an event's labels and time once for all its lines, and cache the text of labels and names. They also
have the time to a stream's first chunk, which rows lack.
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmeter.events.afterimage import first_data, metric_data, shared_data, values_of
from genmeter.events.jsonable import MAX_NODES, MAX_TEXT, to_jsonable
from genmeter.events.model import Evaluation, Generation, Log, Metric
from genmeter.handlers._journal_run import JournalRun, without_run_keys
from genmeter.schema.afterimage import FIRST_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from genmeter.events.model import Event, Score

__all__ = [
    "JournalLines",
    "iso_time",
    "log_line",
    "log_lines",
    "log_record",
    "log_time",
    "metric_lines",
    "object_text",
    "value_text",
]

_MAX_CACHED = 1_024  # names, and sets of labels; one more clears the cache
_MAX_INT = 2**63
_LEVELS = 2  # of nested dicts; a log record has two, its data and the caller's metadata
_MICROSECONDS = 1_000_000
_FIRST_TIME, _LAST_TIME = "0001-01-01T00:00:00.000000+00:00", "9999-12-31T23:59:59.999999+00:00"
_RECORD_KEYS = ("level", "message")
_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


# --- events ----------------------------------------------------------------------------------------


class JournalLines:
    """Encodes events as lines of ``metrics.jsonl``; for one thread at a time.

    The numbers of an event are finite, so their repr is JSON.

    Args:
        run: The fields of the writer; None for a file without a path.
    """

    def __init__(self, run: JournalRun | None = None) -> None:
        self._run = JournalRun(Path()) if run is None else run
        self._heads: dict[str, str] = {}
        self._labels: dict[tuple[Any, ...], str] = {}
        self._id = ""
        self._run_text = ""  # of all rows
        self._writer_text = ""  # of first rows

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return the lines of calls, evaluations and metrics; other events have none."""
        run, writer = self._run.refresh()
        if run != self._id:
            self._id = run
            self._run_text, self._writer_text = _members({"run": run}), _members({**writer})
        lines: list[str] = []
        for event in events:
            if isinstance(event, Generation | Evaluation):
                self._add_lines(lines, event)
            elif isinstance(event, Metric):
                data = _members(metric_data(event))
                head = self._heads.get(event.name) or self._new_head(event.name)
                lines.append(f"{head}{event.value!r}{data}{_end(event)}")
        return "".join(lines).encode()

    def _add_lines(self, lines: list[str], event: Generation | Evaluation) -> None:
        heads = self._heads
        labels = self._labels_of(event)
        end = self._run_text + _end(event)
        tail = labels + end
        first = _members(without_run_keys(first_data(event)))
        if isinstance(event, Generation) and event.first_chunk is not None:
            first += f', "{FIRST_CHUNK}": {event.first_chunk!r}'
        first += f', "seq": {self._run.next_number()}{self._writer_text}'
        for name, value, own in values_of(event):
            head = heads.get(name) or self._new_head(name)
            if first or own:
                lines.append(f"{head}{value!r}{labels}{_members(own or {})}{first}{end}")
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
            if len(self._labels) >= _MAX_CACHED:
                self._labels.clear()
            text = self._labels[key] = _members(shared_data(event))
        return text

    def _new_head(self, name: str) -> str:
        if len(self._heads) >= _MAX_CACHED:
            self._heads.clear()
        head = self._heads[name] = f'{{"metric": {value_text(name)}, "value": '
        return head


def log_lines(events: Iterable[Event]) -> bytes:
    """Return the lines of ``afterimage.log`` for log messages, calls and evaluations."""
    return "".join(
        log_line(event.time, log_record(event))
        for event in events
        if isinstance(event, Log | Generation | Evaluation)
    ).encode()


def log_record(event: Log | Generation | Evaluation) -> dict[str, Any]:
    """Return the log record of an event, with the values as recorded."""
    if isinstance(event, Log):
        data = {f"{k}_" if k in _RECORD_KEYS else k: value for k, value in event.data.items()}
        return {"level": event.level, "message": event.message, **data}
    data = {
        "timestamp": iso_time(event.time),
        "duration": event.duration,
        "success": event.success,
    }
    message = "Generation metrics"
    if isinstance(event, Evaluation):
        message = "Evaluation metrics"
        data["evaluator_type"] = event.evaluator
        data["scores"] = {score.name: _score(score) for score in event.scores}
    return {"level": "info", "message": message, "data": {**data, **event.raw_kwargs}}


def _score(score: Score) -> float | dict[str, Any]:
    texts = {"label": score.label, "feedback": score.feedback}
    known = {name: text for name, text in texts.items() if text is not None}
    return {"score": score.value, **known} if known else score.value


def _end(event: Generation | Evaluation | Metric) -> str:
    return f', "timestamp": "{iso_time(event.time)}"}}\n'


def _members(data: dict[str, Any]) -> str:
    """Return the members of an object, to append to other members."""
    return f", {object_text(data)[1:-1]}" if data else ""


# --- rows ------------------------------------------------------------------------------------------


def metric_lines(
    rows: Iterable[tuple[str, float, dict[str, Any]]], run: JournalRun
) -> Iterator[str]:
    """Yield the journal's lines for names, values and metadata; shared metadata is encoded once."""
    shared: dict[str, Any] = {}
    tail = ""
    for name, value, metadata in rows:
        if metadata is not shared:
            plain = to_jsonable(dict(metadata))
            if "phase" in plain:  # a row of a call or an evaluation
                plain = _with_run(plain, run)
            if "metric" in plain or "value" in plain:  # these win, as in AfterImage
                row = {"metric": to_jsonable(name), "value": to_jsonable(value), **plain}
                yield object_text(row) + "\n"
                continue
            shared = metadata
            tail = (f", {object_text(plain)[1:]}" if plain else "}") + "\n"
        yield f'{{"metric": {value_text(name)}, "value": {value_text(value)}{tail}'


def _with_run(plain: dict[str, Any], run: JournalRun) -> dict[str, Any]:
    """Return the metadata of a row with the fields of its writer, before the time."""
    run_id, writer = run.refresh()
    row = without_run_keys(plain)
    stamp = {"timestamp": row.pop("timestamp")} if "timestamp" in row else {}
    if "success" in row:  # the first row
        row |= {"seq": run.next_number(), **writer}
    return {**row, "run": run_id, **stamp}


def log_line(when: float, record: Mapping[str, Any]) -> str:
    """Return the log's line for a record at a Unix time."""
    return f"{log_time(when)} - {object_text(record)}\n"


# --- values ----------------------------------------------------------------------------------------


def value_text(value: Any) -> str:
    """Return a value as JSON text on one line, in ASCII; never raises."""
    text = _scalar_text(value)
    return _encode(to_jsonable(value)) if text is None else text


def object_text(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as a JSON object on one line, in ASCII; never raises."""
    text, nodes = _object_text(mapping, _LEVELS)
    return _encode(to_jsonable(mapping)) if text is None or nodes >= MAX_NODES else text


def _scalar_text(value: Any) -> str | None:
    """Return the text of a str, int, float, bool or None; None for any other type."""
    # By identity of the type, which runs no code of the value or its class.
    kind = type(value)
    if kind is str:
        is_plain = len(value) <= MAX_TEXT and value.isascii()
        return encode_basestring_ascii(value if is_plain else to_jsonable(value))
    if kind is int:
        return repr(value) if -_MAX_INT <= value < _MAX_INT else _encode(to_jsonable(value))
    if kind is float:
        return repr(value) if math.isfinite(value) else _encode(to_jsonable(value))
    if kind is bool:
        return "true" if value else "false"
    return "null" if value is None else None


def _object_text(mapping: Mapping[str, Any], levels: int) -> tuple[str | None, int]:
    """Return the text of nested dicts of plain values, and the number of values.

    The text is None if there are other values or more levels.
    """
    if type(mapping) is not dict or len(mapping) >= MAX_NODES:
        return None, 0
    pairs = []
    nodes = len(mapping) + 1
    for key, value in mapping.items():
        if type(key) is not str or not key.isascii():
            return None, 0
        text = repr(value) if type(value) is int and 0 <= value < _MAX_INT else _scalar_text(value)
        if text is None:
            text, inner = _object_text(value, levels - 1) if levels else (None, 0)
            if text is None:
                return None, 0
            nodes += inner
        pairs.append(f"{encode_basestring_ascii(key)}: {text}")
    return "{" + ", ".join(pairs) + "}", nodes


# --- times -----------------------------------------------------------------------------------------


def iso_time(when: float) -> str:
    """Return a Unix time as local time in ISO 8601, with microseconds and the offset from UTC.

    A time out of the calendar's range becomes the first or the last one in it.
    """
    try:
        second = math.floor(when)
        microsecond = round((when - second) * _MICROSECONDS)
        if microsecond == _MICROSECONDS:
            second, microsecond = second + 1, 0
        base, offset = _calendar(second, time.tzname)
    except (OverflowError, OSError, ValueError):
        return _FIRST_TIME if when < 0 else _LAST_TIME
    return f"{base}.{microsecond:06d}{offset}"


def log_time(when: float) -> str:
    """Return a Unix time as local time to the millisecond, in the format of ``logging``."""
    return f"{_log_second(math.floor(when), time.tzname)},{int(when % 1 * 1000):03d}"


# Cached by second, since the offset may change at any. `time.tzname` changes with time.tzset().


@lru_cache(maxsize=64)
def _calendar(second: int, _zone: tuple[str, str]) -> tuple[str, str]:
    text = datetime.fromtimestamp(second, UTC).astimezone().isoformat()
    return text[:19], text[19:]


@lru_cache(maxsize=64)
def _log_second(second: int, _zone: tuple[str, str]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
