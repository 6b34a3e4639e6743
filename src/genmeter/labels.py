"""Text that is safe to be a label, and tables that bound how many values a label takes."""

from __future__ import annotations

from asyncio import CancelledError
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "MAX_LABEL",
    "OTHER",
    "UNREADABLE",
    "LabelTable",
    "clean_text",
    "label_text",
    "safe_text",
]

UNREADABLE = (Exception, SystemExit, GeneratorExit, CancelledError)
"""What a caller's own object may raise when it is read; only a true interrupt passes.

A task is cancelled where it awaits, and nothing is awaited here: the error is the object's own, such
as a property's that asks a cancelled future.
"""
OTHER = "other"
"""What a label's value becomes once its limit is reached."""
MAX_LABEL = 128
"""Longest label value, in characters."""
_CACHED_PER_VALUE = 8
_CONTROLS = dict.fromkeys([*range(32), 127], " ")


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
        on_overflow: Told ``name`` each time that a value becomes ``other``.
    """

    __slots__ = ("_cache", "_known", "_limit", "_name", "_on_overflow")

    def __init__(self, name: str, limit: int, on_overflow: Callable[[str], None]) -> None:
        self._name = name
        self._limit = limit
        self._on_overflow = on_overflow
        self._known: set[str] = set()
        self._cache: dict[str, str] = {}

    def clean(self, raw: Any) -> str | None:
        """Give the label value for ``raw``; None where it is empty or cannot be read."""
        if raw is None:
            return None
        if type(raw) is str:
            known = self._cache.get(raw)
            if known is not None:
                return known
        return self._clean_slowly(raw)

    def reserve(self, values: Iterable[str]) -> None:
        """Keep a place for values that are known beforehand, whatever the limit."""
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
