"""The open spans of a process, by their ids."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmeter.observed.model import SpanKey, SpanNode

__all__ = ["MAX_OPEN", "OpenSpans"]

MAX_OPEN = 20_000
"""Open spans that are kept; beyond, the oldest are forgotten, such as spans that never end."""


class OpenSpans:
    """The open spans of the process, and recent ones that are a call or lie in one."""

    def __init__(self) -> None:
        self._by_key: dict[SpanKey, SpanNode] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: SpanKey) -> SpanNode | None:
        """Return the node of a span."""
        return self._by_key.get(key)

    def add(self, node: SpanNode) -> SpanNode:
        """Keep a node from its start; returns the one of the same span that is there already."""
        if len(self._by_key) >= MAX_OPEN:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread changed it
                self.forget(next(iter(self._by_key)))
        return self._by_key.setdefault(node.key, node)

    def forget(self, key: SpanKey) -> None:
        """Remove a node."""
        self._by_key.pop(key, None)

    def reset(self) -> None:
        """Forget all, in a forked child."""
        self._by_key = {}
