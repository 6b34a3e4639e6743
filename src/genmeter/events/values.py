"""Numbers and texts of any object of a caller, and tables that bound the values of a label."""

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
    "safe_text",
    "shown",
    "to_number",
]

MAX_COUNT = 2**40
"""Most tokens or turns of one call: sums over a full history then fit 64 bits."""
MAX_SECONDS = 1e9
"""Longest duration, 31 years: what is longer is a time stamp passed by mistake."""
MAX_TIME = 9_223_372_036.0
"""Latest Unix time, in the year 2262; pandas counts nanoseconds with 64 bits."""
MAX_VALUE = 1e300
"""Largest custom value or score: sums over a full history stay finite."""

UNREADABLE = (Exception, SystemExit, GeneratorExit, CancelledError)
"""What a caller's own object may raise when it is read; only a true interrupt passes.

A task is cancelled where it awaits, and nothing is awaited here: the error is the object's own, such
as a property's that asks a cancelled future.
"""
OTHER = "other"
"""The value of a label once its limit is reached."""
MAX_LABEL = 128
"""Longest label value, in characters."""
_MAX_SHOWN = 200
_CACHED_PER_VALUE = 8
_CONTROLS = dict.fromkeys([*range(32), 127], " ")


class Rejected(Exception):  # noqa: N818 - control flow between the two modules, not an error
    """A value cannot be used; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Unusable(NamedTuple):
    """What the caller's thread keeps of a value that is not what it must be; ``text`` shows it."""

    reason: Reason
    text: str

    def __str__(self) -> str:
        return self.text


def is_boolean(value: Any) -> bool:
    """Return whether a value is a boolean, Python's or NumPy's, and so no amount of anything."""
    # Neither isinstance() nor a comparison, which ask the value's class, and that may raise.
    kind = type(value)
    return kind is bool or kind is np.bool_


def to_number(value: Any) -> float:
    """Read a value as a number.

    Takes what converts without a loss of meaning: int, float, bool, Decimal, Fraction, NumPy
    scalars, and an Enum of these. Text is not a number, even where it could be read as one.

    Returns:
        A true int or float, whatever a class derived from these overrides.

    Raises:
        Rejected: It is none.
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


def checked(number: float, most: float, *, least: float) -> float:
    """Pass a finite number between ``least`` and ``most``.

    Raises:
        Rejected: It is not.
    """
    if isinstance(number, float) and not math.isfinite(number):
        raise Rejected(Reason.NOT_FINITE)
    if number < least:
        raise Rejected(Reason.NEGATIVE if least == 0 else Reason.OUT_OF_RANGE)
    if number > most:
        raise Rejected(Reason.OUT_OF_RANGE)
    return number


def _index_or_float(value: Any) -> float:
    if hasattr(value, "__index__"):
        try:
            return operator.index(value)
        except TypeError:
            pass  # NumPy's arrays have the method and refuse to use it
    if getattr(value, "ndim", 0):
        raise Rejected(Reason.NOT_A_NUMBER)
    return float(value)


def safe_text(value: Any, limit: int = 8_192) -> str | None:
    """Read a value as text that every encoder takes.

    Args:
        value: Anything; an Enum stands for its value.
        limit: Most characters that are kept.

    Returns:
        The text, lone surrogates replaced by ``?``; None where the value cannot be read.
    """
    try:
        if isinstance(value, Enum):
            value = value.value
        # str.__getitem__ gives a true str even of a subclass that overrides everything else.
        text = str.__getitem__(str(value), slice(0, limit))
    except UNREADABLE:
        return None
    return clean_text(text)


def shown(value: Any) -> str:
    """Return the beginning of a value's text, for a message."""
    return safe_text(value, _MAX_SHOWN) or "an object that cannot be shown"


def clean_text(value: str) -> str:
    """Return a plain str that UTF-8 can carry; lone surrogates become ``?``."""
    text = str.__str__(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def label_text(value: Any) -> str | None:
    """Read a value as text that is fit to be a label.

    Args:
        value: Anything; an Enum stands for its value.

    Returns:
        At most :data:`MAX_LABEL` characters, control characters made spaces and none of them at
        the ends; None where nothing is left or the value cannot be read.
    """
    text = safe_text(value, 4 * MAX_LABEL)
    return None if text is None else text.translate(_CONTROLS).strip()[:MAX_LABEL].rstrip() or None


class LabelTable:
    """The values that one label has taken, up to a limit; further ones become ``other``.

    Not thread-safe: the drain's lock guards it.

    Args:
        name: The name of the limit.
        limit: How many values may differ.
        on_overflow: Called with ``name`` each time that a value becomes ``other``.
    """

    __slots__ = ("_cache", "_known", "_limit", "_name", "_on_overflow")

    def __init__(self, name: str, limit: int, on_overflow: Callable[[str], None]) -> None:
        self._name = name
        self._limit = limit
        self._on_overflow = on_overflow
        self._known: set[str] = set()
        self._cache: dict[str, str] = {}

    def clean(self, raw: Any) -> str | None:
        """Return the label value for ``raw``; None where it is empty or cannot be read."""
        if raw is None:
            return None
        if type(raw) is str:
            known = self._cache.get(raw)
            if known is not None:
                return known
        return self._clean_slowly(raw)

    def reserve(self, values: Iterable[str]) -> None:
        """Reserve values that are known beforehand, whatever the limit."""
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
        # Only known values are kept, so that names without end cannot fill the cache.
        if type(raw) is str and len(raw) <= MAX_LABEL:
            if len(self._cache) >= self._limit * _CACHED_PER_VALUE:
                self._cache.clear()
            self._cache[raw] = text
        return text
