"""Convert numbers and attributes of any caller to values that every exporter accepts.

This happens on the caller's thread, since reading them may run the caller's code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from genmeter.events.values import UNREADABLE, clean_text, safe_text, to_number
from genmeter.metrics._cells import MAX_FLOAT, MAX_INT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from opentelemetry.util.types import AttributeValue

__all__ = ["clean_attributes", "key_of", "read_number"]

_SCALARS = (bool, int, float, bytes, type(None))
# Of one label set, nested values included; only an endless mapping has more.
_MAX_VALUES = 1_024
_MAX_DEPTH = 8


def read_number(value: Any) -> int | float | None:
    """Convert a measured value to an int or float that every exporter accepts.

    Returns:
        The number; None if the value is not a finite number in range.
    """
    kind = type(value)
    if kind is not int and kind is not float:
        try:
            value = to_number(value)
        except UNREADABLE:
            return None
    limit = MAX_INT if type(value) is int else MAX_FLOAT
    return value if -limit <= value <= limit else None


def clean_attributes(
    attributes: Any, on_invalid: Callable[[], object]
) -> dict[str, AttributeValue]:
    """Copy attributes, nested values included.

    Sequences become tuples, mappings dicts. A value of another type becomes its text if its class
    defines one, otherwise None. Keys that are empty or cannot be read are dropped.

    Args:
        attributes: A mapping or None; anything else is invalid.
        on_invalid: Called if anything was converted to text or dropped.
    """
    if attributes is None:
        return {}
    if type(attributes) is dict:
        # One atomic step: other threads may change it.
        copied: dict[str, AttributeValue] = attributes.copy()
        for key, value in copied.items():
            if type(key) is not str or type(value) is not str:
                break
            if not key or not key.isascii() or not value.isascii():
                break
        else:
            return copied
        attributes = copied
    cleaner = _Cleaner()
    try:
        if not isinstance(attributes, Mapping):
            raise TypeError
        return cleaner.mapping(attributes, 0)
    except UNREADABLE:
        cleaner.is_valid = False
        return {}
    finally:
        if not cleaner.is_valid:
            on_invalid()


class _Cleaner:
    """Cleans one label set, bounded in depth and size."""

    def __init__(self) -> None:
        self.is_valid = True
        self._values_left = _MAX_VALUES

    def mapping(self, attributes: Mapping[Any, Any], depth: int) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {}
        for key, value in islice(attributes.items(), self._values_left):
            try:
                text = clean_text(key) if isinstance(key, str) else self._text(key)
                if not text:
                    raise ValueError
                found[text] = self.value(value, depth + 1)
            except UNREADABLE:
                self.is_valid = False
        return found

    def value(self, value: Any, depth: int) -> AttributeValue:
        self._values_left -= 1
        if self._values_left < 0 or depth > _MAX_DEPTH:
            raise ValueError
        if isinstance(value, str):
            return clean_text(value)
        if isinstance(value, _SCALARS):
            return self._scalar(value)
        if isinstance(value, Sequence):
            return tuple(self.value(each, depth + 1) for each in islice(value, self._values_left))
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        return self._text(value)

    def _scalar(self, value: Any) -> AttributeValue:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            return float.__pos__(value)
        if isinstance(value, bytes):
            return bytes.__getitem__(value, slice(None))
        plain = int.__pos__(value)
        return plain if -MAX_INT <= plain <= MAX_INT else self._text(plain)

    def _text(self, value: Any) -> str | None:
        """Convert a value of another type to text, as the SDK does."""
        self.is_valid = False
        kind: Any = type(value)
        if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
            return None  # its text would only be its address
        text = safe_text(value)
        if text is None:
            raise ValueError
        return text


def key_of(attributes: Mapping[str, AttributeValue]) -> Hashable:
    """Return the identity of a clean label set: types of values matter, their order does not."""
    for value in attributes.values():
        if type(value) is not str:
            return _tagged(attributes)
    return frozenset(attributes.items())


def _tagged(value: Any) -> Hashable:
    if isinstance(value, tuple):
        return ("sequence", *map(_tagged, value))
    if isinstance(value, Mapping):
        return ("mapping", *((key, _tagged(value[key])) for key in sorted(value)))
    if isinstance(value, float) and math.isnan(value):
        return ("float", "nan")  # NaN is not equal to itself
    return (type(value).__name__, value)
