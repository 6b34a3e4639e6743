"""Sums of floats that do not depend on the order, or on what was added up before.

The sum over processes must never be less than it was: Prometheus takes that for a restart. A sum of
rounded sums may be less by the last bit. So what is added up for good is kept as a fraction, which is
exact, and the sum for a page is rounded once.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Exact", "add", "parts_of", "total"]

Exact = int | float | str
"""A number, or the text of a fraction."""

_MAX_INT = 2**63 - 1
_MAX_PARTS = 64


def add(first: Exact, second: Exact) -> Exact:
    """Return the sum of two numbers, without any rounding if both are finite."""
    if any(isinstance(each, float) and not math.isfinite(each) for each in (first, second)):
        return float(parts_of(first)[0]) + float(parts_of(second)[0])
    exact = Fraction(first) + Fraction(second)
    if exact.denominator == 1 and isinstance(first, int) and isinstance(second, int):
        return exact.numerator if abs(exact.numerator) <= _MAX_INT else str(exact)
    try:
        rounded = float(exact)
    except OverflowError:  # beyond all floats
        return math.inf if exact > 0 else -math.inf
    return rounded if Fraction(rounded) == exact else str(exact)


def parts_of(value: Exact) -> Sequence[int | float]:
    """Return numbers whose sum is exactly the value."""
    if not isinstance(value, str):
        return (value,)
    rest = Fraction(value)
    parts: list[int | float] = []
    while rest and len(parts) < _MAX_PARTS:
        part = float(rest)
        parts.append(part)
        rest -= Fraction(part)
    return parts or (0.0,)


def total(values: Iterable[int | float]) -> int | float:
    """Return the sum, rounded once; that of integers is one, unless it is beyond 64 bits."""
    values = list(values)
    if all(type(value) is int for value in values):
        found = sum(values)
        return found if -_MAX_INT <= found <= _MAX_INT else float(found)
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # beyond all floats, or infinities
        return sum(map(float, values))
