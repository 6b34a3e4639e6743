"""Sums by the minute, for windows that reach further back than a ring of events does."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MOST", "Minute", "Minutes"]

_MINUTE = 60.0
MOST = 3 * 24 * 60 + 1
"""Minutes that are kept, of those in which anything was told.

As many as a window of three days, the longest of an alert, can touch.
"""


class Minute(NamedTuple):
    """What was told in a minute, or in several; ``cost`` is in USD."""

    calls: int = 0
    failures: int = 0
    tokens: int = 0
    cost: float = 0.0

    @property
    def successes(self) -> int:
        """Calls that succeeded."""
        return self.calls - self.failures


class Minutes:
    """Sums of the last minutes in which anything was told, however many calls they had.

    Each time counts for the minute that it lies in, whatever came before it: a clock that is set
    back or forward neither loses nor moves anything. As in the rings, what was told by a clock that
    ran ahead lies within every window until the clock is there again.
    """

    def __init__(self) -> None:
        # By the Unix time that they begin at, in the order of their first call.
        self._minutes: dict[float, list[float]] = {}
        self._start = self._end = float("-inf")
        self._current: list[float] = []

    def add(self, time: float, calls: int, failures: int, tokens: int, cost: float) -> None:
        """Add a call.

        Args:
            time: Unix time in seconds.
            calls: 1, or 0 for what only cost tokens.
            failures: 1 where it failed.
            tokens: What it took.
            cost: USD.
        """
        if not self._start <= time < self._end:
            self._turn_to(time)
        current = self._current
        current[0] += calls
        current[1] += failures
        current[2] += tokens
        current[3] += cost

    def total(self, since: float) -> Minute:
        """Sum the minutes that ended after a time; the one that it lies in counts whole.

        Args:
            since: Unix time in seconds.
        """
        kept = [sums for start, sums in self._minutes.items() if start + _MINUTE > since]
        if not kept:
            return Minute()
        calls, failures, tokens, cost = (sum(column) for column in zip(*kept, strict=True))
        return Minute(int(calls), int(failures), int(tokens), float(cost))

    def _turn_to(self, time: float) -> None:
        self._start = time // _MINUTE * _MINUTE
        self._end = self._start + _MINUTE
        self._current = self._minutes.setdefault(self._start, [0, 0, 0, 0.0])
        if len(self._minutes) > MOST:
            del self._minutes[next(iter(self._minutes))]
