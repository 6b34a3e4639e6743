"""Sums by the minute, for windows that reach further back than a ring of events does."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Minute", "Minutes"]

_MINUTE = 60.0
_SPAN = 3 * 86_400.0  # seconds; the longest window of an alert


class Minute(NamedTuple):
    """What happened in a minute; ``cost`` is in USD."""

    calls: int = 0
    failures: int = 0
    tokens: int = 0
    cost: float = 0.0


class Minutes:
    """The last three days by the minute: exact sums of calls, however many there were."""

    def __init__(self) -> None:
        # Minutes since the epoch and their sums; a clock that is set back adds to the newest.
        self._minutes: deque[tuple[float, Minute]] = deque()
        self._current: list[float] = [0, 0, 0, 0.0]
        self._start = float("-inf")

    def add(self, time: float, calls: int, failures: int, tokens: int, cost: float) -> None:
        """Add a call.

        Args:
            time: Unix time in seconds.
            calls: 1, or 0 for what only cost tokens.
            failures: 1 where it failed.
            tokens: What it took.
            cost: USD.
        """
        if time >= self._start + _MINUTE:
            self._turn(time)
        current = self._current
        current[0] += calls
        current[1] += failures
        current[2] += tokens
        current[3] += cost

    def total(self, since: float) -> Minute:
        """Sum the minutes that ended after a time.

        Args:
            since: Unix time in seconds.
        """
        kept = [sums for start, sums in self._minutes if start + _MINUTE > since]
        if self._start + _MINUTE > since:
            kept.append(self._closed())
        if not kept:
            return Minute()
        calls, failures, tokens, cost = (sum(column) for column in zip(*kept, strict=True))
        return Minute(calls, failures, tokens, cost)

    def _turn(self, time: float) -> None:
        if any(self._current):
            self._minutes.append((self._start, self._closed()))
        while self._minutes and self._minutes[0][0] + _MINUTE < time - _SPAN:
            self._minutes.popleft()
        self._start = time // _MINUTE * _MINUTE
        self._current = [0, 0, 0, 0.0]

    def _closed(self) -> Minute:
        calls, failures, tokens, cost = self._current
        return Minute(int(calls), int(failures), int(tokens), float(cost))
