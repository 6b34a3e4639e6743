"""Converts any value of a caller to JSON of bounded size."""

from __future__ import annotations

import json
import math
from datetime import date, time
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.events.values import UNREADABLE, safe_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["jsonable_text", "to_jsonable"]

MAX_DEPTH = 6
"""Maximum depth of nesting; deeper values become text."""
MAX_NODES = 1_000
"""Maximum number of values in a nested value; further ones are dropped."""
MAX_TEXT = 8_192
"""Maximum length of a text, in characters."""
_MAX_INT = 2**63
_UNREADABLE_TEXT = "<unreadable>"
# Of objects of derived classes, whatever these override.
_TRUE_VALUE_OF: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__index__),
    (float, float.__float__),
    (str, str.__str__),
)


def to_jsonable(value: Any) -> Any:
    """Convert a value to a JSON type: None, bool, int, float, str, list or dict with str keys.

    An Enum becomes its value, a NumPy scalar its number, a date or time its ISO 8601 text. Anything
    else, an integer of more than 64 bits, NaN and infinity become text. Never raises.

    Returns:
        New containers, at most :data:`MAX_DEPTH` deep and with at most :data:`MAX_NODES` values.
    """
    if type(value) is dict and len(value) < MAX_NODES:
        value = value.copy()  # atomic, since other threads may change it
        if _is_flat(value):
            return value
    return _Reader().read(value, MAX_DEPTH)


def jsonable_text(value: Any) -> str:
    """Return a value as compact JSON text; never raises."""
    return json.dumps(to_jsonable(value), separators=(",", ":"), ensure_ascii=False)


def _is_flat(mapping: dict[Any, Any]) -> bool:
    """Return whether a dict is JSON already, as nearly all are; much cheaper than a conversion."""
    for key, value in mapping.items():
        if type(key) is not str or not key.isascii():
            return False
        kind = type(value)
        if kind is str:
            if not value.isascii() or len(value) > MAX_TEXT:
                return False
        elif kind is int:
            if not -_MAX_INT <= value < _MAX_INT:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is not bool and value is not None:
            return False
    return True


class _Reader:
    """Converts one value and the values nested in it, up to a number of nodes."""

    def __init__(self) -> None:
        self._budget = MAX_NODES

    def read(self, value: Any, depth: int) -> Any:
        self._budget -= 1
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return safe_text(value, MAX_TEXT)
        if kind is int:
            return value if -_MAX_INT <= value < _MAX_INT else _text(value)
        if kind is float:
            return value if math.isfinite(value) else str(value)
        try:
            return self._read_other(value, kind, depth)
        except UNREADABLE:
            return _text(value)

    def _read_other(self, value: Any, kind: type, depth: int) -> Any:
        # By the type: isinstance() reads the object's __class__, which may raise.
        for base in (dict, list, tuple, set, frozenset):
            if not issubclass(kind, base):
                continue
            if not depth:  # the text of a container may be of any size
                return f"<{kind.__name__}>"
            if base is dict:
                return self._read_dict(value, depth)
            return self._read_items(base.__iter__(value), depth)
        if issubclass(kind, Enum):
            inner = value.value
        elif issubclass(kind, np.generic):
            inner = value.item()
        elif issubclass(kind, date | time):
            inner = value.isoformat()
        else:
            reads = (read for base, read in _TRUE_VALUE_OF if issubclass(kind, base))
            inner = next((read(value) for read in reads), value)
        return _text(value) if inner is value or not depth else self.read(inner, depth - 1)

    def _read_dict(self, value: Any, depth: int) -> dict[str, Any]:
        plain = {}
        for key, item in self._take(dict.items(value)):
            if self._budget <= 0:
                break
            name = key if type(key) is str and key.isascii() else _text(key)
            plain[name] = self.read(item, depth - 1)
        return plain

    def _read_items(self, items: Iterable[Any], depth: int) -> list[Any]:
        plain: list[Any] = []
        for item in self._take(items):
            if self._budget <= 0:
                break
            plain.append(self.read(item, depth - 1))
        return plain

    def _take(self, items: Iterable[Any]) -> list[Any]:
        # Atomic, since other threads may change the container.
        return list(islice(items, max(0, self._budget)))


def _text(value: Any) -> str:
    text = safe_text(value, MAX_TEXT)
    return _UNREADABLE_TEXT if text is None else text
