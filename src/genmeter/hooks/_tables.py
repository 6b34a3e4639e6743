"""Tables of what is open in a framework: bounded, without a lock, and empty in a forked child."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["MAX_OPEN", "OpenTable"]

MAX_OPEN = 100_000
"""Entries of a table; of more the oldest are dropped."""

_V = TypeVar("_V")


class OpenTable(Generic[_V]):
    """What has begun and not ended, by the framework's key of it. Each operation is atomic.

    What a parent process has open is its own: it ends there.

    Args:
        on_drop: Called with each entry that is dropped for lack of room, and by :meth:`clear`.
    """

    def __init__(self, on_drop: Callable[[_V], object] = lambda _: None) -> None:
        self._on_drop = on_drop
        self._entries: dict[Hashable, _V] = {}
        _tables.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def add(self, key: Hashable, value: _V) -> None:
        """Add an entry, or replace the one of the same key."""
        self._entries[key] = value
        while len(self._entries) > MAX_OPEN:
            # Another thread may add or take one meanwhile.
            with suppress(KeyError, RuntimeError, StopIteration):
                self._on_drop(self._entries.pop(next(iter(self._entries))))

    def get(self, key: Hashable) -> _V | None:
        """Return an entry; None without one."""
        return self._entries.get(key)

    def take(self, key: Hashable) -> _V | None:
        """Remove and return an entry; None without one."""
        return self._entries.pop(key, None)

    def claim(self, key: Hashable, value: _V) -> bool:
        """Add an entry unless its key is there; returns whether it was added."""
        if self._entries.setdefault(key, value) is not value:
            return False
        self.add(key, value)
        return True

    def values(self) -> list[_V]:
        """Return the entries, the oldest first."""
        return list(self._entries.values())

    def clear(self) -> None:
        """Drop all."""
        while self._entries:
            with suppress(KeyError):
                self._on_drop(self._entries.popitem()[1])

    def reset(self) -> None:
        """Forget all, in a forked child."""
        self._entries = {}


_tables: weakref.WeakSet[OpenTable[Any]] = weakref.WeakSet()


def _reset_all() -> None:
    for each in list(_tables):
        each.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
