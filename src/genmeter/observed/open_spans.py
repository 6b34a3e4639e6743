"""The open spans of a process, by their ids."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmeter.observed.model import SpanKey, SpanNode

__all__ = ["MAX_OPEN", "OpenSpans"]

MAX_OPEN = 20_000
"""Spans that are kept; beyond, the oldest are forgotten, such as spans that never end."""


class OpenSpans:
    """The open spans of the process, and recent ones that are a call or lie in one.

    Each operation is atomic: the job's threads begin and end spans, the pipeline's owner forgets them.

    Args:
        seconds: For how long a span is kept after its end, if nothing forgets it before.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._by_key: dict[SpanKey, SpanNode] = {}
        self._ended: deque[tuple[float, SpanNode]] = deque(maxlen=MAX_OPEN)

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

    def end(self, node: SpanNode, now: float) -> None:
        """Note the end of a span that is a call; it is kept a while, since others may observe it too."""
        node.is_open = False
        self._ended.append((now, node))

    def forget(self, key: SpanKey) -> None:
        """Remove a node."""
        self._by_key.pop(key, None)

    def expire(self, now: float) -> None:
        """Forget what ended too long ago; called by the pipeline's owner."""
        with contextlib.suppress(IndexError):  # the oldest made room
            while self._ended and now - self._ended[0][0] > self._seconds:
                _, node = self._ended.popleft()
                if self._by_key.get(node.key) is node:
                    self.forget(node.key)

    def reset(self) -> None:
        """Forget all, in a forked child."""
        self._by_key = {}
        self._ended.clear()
