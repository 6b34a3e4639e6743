"""Numbers from callers: whatever can be read as one becomes a finite int or float in range."""

from __future__ import annotations

import math
import operator
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from genmeter.events import Reason
from genmeter.labels import UNREADABLE

__all__ = [
    "MAX_COUNT",
    "MAX_SECONDS",
    "MAX_TIME",
    "MAX_VALUE",
    "Rejected",
    "Unusable",
    "checked",
    "is_boolean",
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


class Rejected(Exception):  # noqa: N818 - control flow between the two modules, not an error
    """A value cannot be used; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Unusable(NamedTuple):
    """What is left, on the caller's thread, of a value that is no number; ``text`` shows it."""

    reason: Reason
    text: str

    def __str__(self) -> str:
        return self.text


def is_boolean(value: Any) -> bool:
    """Tell a truth value, Python's or NumPy's, which is no amount of anything."""
    # Neither isinstance() nor a comparison, which ask the value's class, and that may raise.
    kind = type(value)
    return kind is bool or kind is np.bool_


def to_number(value: Any) -> float:
    """Read a value as a number.

    Takes what converts without a loss of meaning: int, float, bool, Decimal, Fraction, NumPy
    scalars, and an Enum of these. Text is not a number, even where it could be read as one.

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
        if is_boolean(value) or isinstance(value, int):
            return int(value)
        return _index_or_float(value)
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
