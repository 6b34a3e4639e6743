"""Converts callers' objects to numbers and texts, and bounds the number of values of a label."""

from __future__ import annotations

import math
import operator
from asyncio import CancelledError
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.events.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "MAX_COUNT",
    "MAX_LABEL",
    "MAX_REPR",
    "MAX_SECONDS",
    "MAX_TIME",
    "MAX_VALUE",
    "OTHER",
    "UNREADABLE",
    "LabelTable",
    "Rejected",
    "Unusable",
    "checked",
    "clean_text",
    "is_boolean",
    "label_text",
    "safe_repr",
    "safe_text",
    "shown",
    "to_number",
]

MAX_COUNT = 2**40
"""Largest count of tokens or turns of a call, so that sums over a full history fit in 64 bits."""
MAX_SECONDS = 1e9
"""Longest duration, 31 years: a longer one is a timestamp passed by mistake."""
MAX_TIME = 9_223_372_036.0
"""Latest Unix time, in the year 2262; pandas counts nanoseconds in 64 bits."""
MAX_VALUE = 1e300
"""Largest custom value or score, so that sums over a full history stay finite."""

UNREADABLE = (Exception, SystemExit, GeneratorExit, CancelledError)
"""Exceptions that reading a caller's object may raise; only a true interrupt is not caught.

A task is only cancelled where it awaits, and nothing is awaited here, so a ``CancelledError`` is the
object's own, for example from a property that reads a cancelled future.
"""
OTHER = "other"
"""The value of a label once its limit is reached."""
MAX_REPR = 500
"""Longest text of a value in an error, in characters."""
MAX_LABEL = 128
"""Longest label value, in characters."""
_MAX_SHOWN = 200
_CACHED_PER_VALUE = 8
_CONTROLS = dict.fromkeys([*range(32), 127], " ")


class Rejected(Exception):  # noqa: N818 - control flow, not an error
    """A value is invalid for the given reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Unusable(NamedTuple):
    """An invalid value, as the caller's thread records it; ``text`` shows the value."""

    reason: Reason
    text: str

    def __str__(self) -> str:
        return self.text


def is_boolean(value: Any) -> bool:
    """Return whether a value is a boolean of Python's or NumPy's."""
    # isinstance() and comparisons run code of the value's class, which may raise.
    kind = type(value)
    return kind is bool or kind is np.bool_


def to_number(value: Any) -> float:
    """Convert a value to a true int or float.

    Accepts int, float, bool, Decimal, Fraction, NumPy scalars, and an Enum of these. Text is
    not a number, even if it could be parsed.

    Raises:
        Rejected: The value is not a number, or is unreadable or out of range.
    """
    if type(value) is Unusable:
        raise Rejected(value.reason)
    try:
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, str | bytes | bytearray | memoryview):
            raise Rejected(Reason.NOT_A_NUMBER)
        if isinstance(value, int):
            return int.__index__(value)
        return float.__float__(value) if isinstance(value, float) else _index_or_float(value)
    except Rejected:
        raise
    except OverflowError:
        raise Rejected(Reason.OUT_OF_RANGE) from None
    except (TypeError, ValueError):
        raise Rejected(Reason.NOT_A_NUMBER) from None
    except UNREADABLE:
        raise Rejected(Reason.UNREADABLE) from None


def checked(number: float, max_: float, *, min_: float) -> float:
    """Return a number that is finite and between ``min_`` and ``max_``.

    Raises:
        Rejected: It is not.
    """
    if isinstance(number, float) and not math.isfinite(number):
        raise Rejected(Reason.NOT_FINITE)
    if number < min_:
        raise Rejected(Reason.NEGATIVE if min_ == 0 else Reason.OUT_OF_RANGE)
    if number > max_:
        raise Rejected(Reason.OUT_OF_RANGE)
    return number


def _index_or_float(value: Any) -> float:
    if hasattr(value, "__index__"):
        try:
            return operator.index(value)
        except TypeError:
            pass  # NumPy's arrays have the method, but it raises
    if getattr(value, "ndim", 0):
        raise Rejected(Reason.NOT_A_NUMBER)
    return float(value)


def safe_text(value: Any, limit: int = 8_192) -> str | None:
    """Convert a value to text that UTF-8 can encode, of at most ``limit`` characters.

    An Enum becomes its value. Returns None if the value is unreadable.
    """
    try:
        if isinstance(value, Enum):
            value = value.value
        # str.__getitem__ returns a true str, whatever a subclass overrides.
        text = str.__getitem__(str(value), slice(0, limit))
    except UNREADABLE:
        return None
    return clean_text(text)


def shown(value: Any) -> str:
    """Return the start of a value's text in one line, for a message."""
    text = safe_text(value, _MAX_SHOWN)
    return "an object that cannot be shown" if text is None else text.translate(_CONTROLS)


def safe_repr(value: Any) -> str:
    """Return the ``repr()`` of a value for an error, or what can be said of a value without one.

    A long one is cut at :data:`MAX_REPR` characters.
    """
    try:
        text = repr(value)
        text = str.__getitem__(text, slice(0, MAX_REPR + 1))
    except UNREADABLE:
        # By type's own property: that of a metaclass may raise.
        name = type.__dict__["__name__"].__get__(type(value))
        return f"an object of {name} that cannot be shown"
    return clean_text(text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}...")


def clean_text(value: str) -> str:
    """Return a true str that UTF-8 can encode; lone surrogates become ``?``."""
    text = str.__str__(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def label_text(value: Any) -> str | None:
    """Convert a value to text for a label.

    Control characters become spaces; the text is stripped and cut to :data:`MAX_LABEL` characters.
    Returns None if it is then empty, or the value is unreadable.
    """
    text = safe_text(value, 4 * MAX_LABEL)
    return None if text is None else text.translate(_CONTROLS).strip()[:MAX_LABEL].rstrip() or None


class LabelTable:
    """The distinct values of one label, up to a limit; further values become ``other``.

    Not thread-safe: the drain's lock guards it.

    Args:
        name: The name of the limit.
        limit: Maximum number of distinct values.
        on_overflow: Called with ``name`` each time a value becomes ``other``.
    """

    __slots__ = ("_cache", "_known", "_limit", "_name", "_on_overflow")

    def __init__(self, name: str, limit: int, on_overflow: Callable[[str], None]) -> None:
        self._name = name
        self._limit = limit
        self._on_overflow = on_overflow
        self._known: set[str] = set()
        self._cache: dict[str, str] = {}

    def clean(self, raw: Any) -> str | None:
        """Return the label value for ``raw``; None if it is empty or unreadable."""
        if raw is None:
            return None
        if type(raw) is str:
            known = self._cache.get(raw)
            if known is not None:
                return known
        return self._clean_slowly(raw)

    def reserve(self, values: Iterable[str]) -> None:
        """Add values in advance, regardless of the limit."""
        self._known.update(values)

    def _clean_slowly(self, raw: Any) -> str | None:
        text = label_text(raw)
        if text is None or text == OTHER:
            return text
        if text not in self._known:
            if len(self._known) >= self._limit:
                self._on_overflow(self._name)
                return OTHER
            self._known.add(text)
        # Only known values are cached, so that endless new names cannot fill it.
        if type(raw) is str and len(raw) <= MAX_LABEL:
            if len(self._cache) >= self._limit * _CACHED_PER_VALUE:
                self._cache.clear()
            self._cache[raw] = text
        return text
