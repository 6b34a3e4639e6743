"""Any value of a caller as JSON of bounded size."""

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
    from collections.abc import Iterable

__all__ = ["jsonable_text", "to_jsonable"]

MAX_DEPTH = 6
"""Levels of nesting that are kept; what lies deeper becomes text."""
MAX_NODES = 1_000
"""Values that are kept of one nested value; further ones are dropped."""
MAX_TEXT = 8_192
"""Characters that are kept of a text."""
_MAX_INT = 2**63
_UNREADABLE_TEXT = "<unreadable>"


def to_jsonable(value: Any) -> Any:
    """Return a value as JSON has it: None, bool, int, float, str, list or dict with str keys.

    An Enum stands for its value, a NumPy scalar for its number, a date or time for its ISO 8601
    text. Anything else, an integer of more than 64 bits, NaN and infinity become text. Never
    raises.

    Args:
        value: Anything.

    Returns:
        New containers, at most :data:`MAX_DEPTH` deep and of :data:`MAX_NODES` values; text of at
        most :data:`MAX_TEXT` characters.
    """
    if type(value) is dict and len(value) < MAX_NODES:
        value = value.copy()  # in one step, whatever other threads do to it
        if _is_flat(value):
            return value
    return _Reader().read(value, MAX_DEPTH)


def jsonable_text(mapping: dict[str, Any]) -> str:
    """Return a dict as compact JSON text; never raises."""
    return json.dumps(to_jsonable(mapping), separators=(",", ":"), ensure_ascii=False)


def _is_flat(mapping: dict[Any, Any]) -> bool:
    """Return whether a dict is JSON already, as nearly all are, at a sixth of the cost."""
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
    """Reads one value, nested ones within its budget of nodes."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def read(self, value: Any, depth: int) -> Any:
        self._left -= 1
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
        # By the type: isinstance() asks the object for its class, which may raise.
        if issubclass(kind, dict | list | tuple | set | frozenset):
            if not depth:  # the text of a container may be of any size, so only its kind is kept
                return f"<{kind.__name__}>"
            is_dict = issubclass(kind, dict)
            return self._read_dict(value, depth) if is_dict else self._read_items(value, depth)
        inner = value
        if issubclass(kind, Enum):
            inner = value.value
        elif issubclass(kind, np.generic):
            inner = value.item()
        elif issubclass(kind, date | time):
            inner = value.isoformat()
        elif issubclass(kind, int | float | str):
            inner = _base_of(value, kind)
        return _text(value) if inner is value or not depth else self.read(inner, depth - 1)

    def _read_dict(self, value: Any, depth: int) -> dict[str, Any]:
        plain = {}
        for key, item in self._taken(dict.items(value)):
            if self._left <= 0:
                break
            plain[key if type(key) is str and key.isascii() else _text(key)] = self.read(
                item, depth - 1
            )
        return plain

    def _read_items(self, value: Any, depth: int) -> list[Any]:
        plain = []
        for base in (list, tuple, set, frozenset):
            if issubclass(type(value), base):
                for item in self._taken(base.__iter__(value)):
                    if self._left <= 0:
                        break
                    plain.append(self.read(item, depth - 1))
                break
        return plain

    def _taken(self, items: Iterable[Any]) -> list[Any]:
        # In one step, whatever other threads do to the container meanwhile.
        return list(islice(items, max(0, self._left)))


def _base_of(value: Any, kind: type) -> Any:
    """Take a true int, float or str out of an object of a class derived from one."""
    if issubclass(kind, int):
        return int.__index__(value)
    return float.__float__(value) if issubclass(kind, float) else str.__str__(value)


def _text(value: Any) -> str:
    text = safe_text(value, MAX_TEXT)
    return _UNREADABLE_TEXT if text is None else text
