"""The text of lines in a file: JSON values and local times, formatted at little cost.

Each line of a journal or a log is encoded while the job runs, so the common values (text, numbers
and dicts of them) have a path of their own. All others go through :func:`~genmeter.events.jsonable.to_jsonable`.
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from genmeter.events.jsonable import MAX_NODES, MAX_TEXT, to_jsonable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["iso_time", "log_time", "object_text", "value_text"]

_LARGE = 2**63
_LEVELS = 2  # of dicts within a dict; a log record has two, its data and the caller's metadata
_MICROSECONDS = 1_000_000
_FIRST, _LAST = "0001-01-01T00:00:00.000000+00:00", "9999-12-31T23:59:59.999999+00:00"
_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def value_text(value: Any) -> str:
    """Return a value as JSON text on one line, in ASCII; never raises.

    Args:
        value: Anything; what JSON does not have becomes text, as ``to_jsonable`` does it.
    """
    text = _scalar_text(value)
    return _encode(to_jsonable(value)) if text is None else text


def object_text(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as a JSON object on one line, in ASCII; never raises.

    Args:
        mapping: Anything that a caller passed; dicts of plain values, and few levels of them, cost
            the least.
    """
    text, nodes = _object_text(mapping, _LEVELS)
    return _encode(to_jsonable(mapping)) if text is None or nodes >= MAX_NODES else text


def iso_time(when: float) -> str:
    """Return a Unix time as local time in ISO 8601, with microseconds and the offset from UTC.

    A time that no calendar has becomes the first or the last one that it has.
    """
    try:
        second = math.floor(when)
        microsecond = round((when - second) * _MICROSECONDS)
        if microsecond == _MICROSECONDS:
            second, microsecond = second + 1, 0
        base, offset = _calendar(second, time.tzname)
    except (OverflowError, OSError, ValueError):
        return _FIRST if when < 0 else _LAST
    return f"{base}.{microsecond:06d}{offset}"


def log_time(when: float) -> str:
    """Return a Unix time as local time to the millisecond, as the lines of a log begin."""
    return f"{_log_second(math.floor(when), time.tzname)},{int(when % 1 * 1000):03d}"


# By second, since the offset may change from one to the next. `time.tzname` is in the key for a job
# that calls time.tzset().


@lru_cache(maxsize=64)
def _calendar(second: int, _zone: tuple[str, str]) -> tuple[str, str]:
    text = datetime.fromtimestamp(second, UTC).astimezone().isoformat()
    return text[:19], text[19:]


@lru_cache(maxsize=64)
def _log_second(second: int, _zone: tuple[str, str]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _scalar_text(value: Any) -> str | None:
    """Return the text of a str, int, float, bool or None; None for whatever else it is."""
    # By identity of the type, which asks neither the value nor its class for anything.
    kind = type(value)
    if kind is str:
        is_plain = len(value) <= MAX_TEXT and value.isascii()
        return encode_basestring_ascii(value if is_plain else to_jsonable(value))
    if kind is int:
        return repr(value) if -_LARGE <= value < _LARGE else _encode(to_jsonable(value))
    if kind is float:
        return repr(value) if math.isfinite(value) else _encode(to_jsonable(value))
    if kind is bool:
        return "true" if value else "false"
    return "null" if value is None else None


def _object_text(mapping: Mapping[str, Any], levels: int) -> tuple[str | None, int]:
    """Return the text of plain dicts, so many levels of them, and the number of their values.

    The text is None where anything else is among them.
    """
    if type(mapping) is not dict or len(mapping) >= MAX_NODES:
        return None, 0
    pairs = []
    nodes = len(mapping) + 1
    for key, value in mapping.items():
        if type(key) is not str or not key.isascii():
            return None, 0
        text = repr(value) if type(value) is int and 0 <= value < _LARGE else _scalar_text(value)
        if text is None:
            text, inner = _object_text(value, levels - 1) if levels else (None, 0)
            if text is None:
                return None, 0
            nodes += inner
        pairs.append(f"{encode_basestring_ascii(key)}: {text}")
    return "{" + ", ".join(pairs) + "}", nodes
