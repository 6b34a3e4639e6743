"""Rates of a job over the last seconds, from differences between its counters."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genmeter.report.status import Status

__all__ = ["RateMeter", "Rates"]

WINDOW = 10.0  # seconds of the rates of calls and tokens
LONG_WINDOW = 60.0  # seconds of the rate of samples, which the time left is estimated from
_RETURN_SECONDS = 30.0


class Rates(NamedTuple):
    """Rates per second; None is unknown.

    Attributes:
        calls: Calls.
        tokens: Total tokens.
        samples: Samples, accepted and rejected.
    """

    calls: float | None = None
    tokens: float | None = None
    samples: float | None = None

    @classmethod
    def sum(cls, parts: Iterable[Rates]) -> Rates:
        """Return the sums of the known ones; None if none is known."""
        columns = zip(*parts, strict=True)
        known = ([value for value in column if value is not None] for column in columns)
        return cls(*(sum(values) if values else None for values in known))

    def seconds_left(self, status: Status) -> float | None:
        """Estimate the seconds until a job has produced its samples; None if unknown."""
        if status.expected is None:
            return None
        left = status.expected - status.samples
        if left <= 0:
            return 0.0
        return left / self.samples if self.samples else None


class _Point(NamedTuple):
    at: float
    instance: str
    totals: tuple[int, int, int]


class RateMeter:
    """The rates of one job, from its totals at different times.

    Counters only fall when the job has restarted, or when the page lacks a part of it, such as one
    of its processes. Neither is a rate, nor is the rise when the part returns: the meter begins
    again.
    """

    def __init__(self) -> None:
        self._points: deque[_Point] = deque()
        self._before_drop: _Point | None = None
        self._resets: deque[float] = deque(maxlen=1_000)
        self._last = 0.0

    @property
    def resets(self) -> int:
        """How often the totals began again in the last minute."""
        return sum(at > self._last - LONG_WINDOW for at in self._resets)

    def add(self, at: float, status: Status) -> None:
        """Add totals.

        Args:
            at: When the totals were read, in seconds; equal times are one reading.
            status: The totals.
        """
        total = status.total
        point = _Point(at, status.instance, (total.calls, total.total_tokens, status.samples))
        points = self._points
        if points:
            last = points[-1]
            if at == last.at:
                return
            if self._is_new_life(last, point):
                points.clear()
        self._last = at
        points.append(point)
        while len(points) > 2 and points[1].at <= at - LONG_WINDOW:  # noqa: PLR2004 - a difference needs two
            points.popleft()

    def _is_new_life(self, last: _Point, point: _Point) -> bool:
        """Return whether differences to earlier points mean nothing."""
        if point.at < last.at or point.instance != last.instance:
            self._before_drop = None
            self._resets.append(point.at)
            return True
        if any(new < old for new, old in zip(point.totals, last.totals, strict=True)):
            if self._before_drop is None:
                self._before_drop = last
            self._resets.append(point.at)
            return True
        before = self._before_drop
        if before is None:
            return False
        if point.at - before.at > _RETURN_SECONDS:
            self._before_drop = None
        elif all(new >= old for new, old in zip(point.totals, before.totals, strict=True)):
            self._before_drop = None
            return True
        return False

    def rates(self) -> Rates:
        """Return the rates up to the last totals."""
        calls, tokens, _ = self._over(WINDOW)
        return Rates(calls, tokens, self._over(LONG_WINDOW)[2])

    def _over(self, seconds: float) -> tuple[float | None, float | None, float | None]:
        points = self._points
        if len(points) < 2:  # noqa: PLR2004 - a difference needs two
            return None, None, None
        last = points[-1]
        first = points[0]
        for point in points:
            if point.at > last.at - seconds and point is not points[0]:
                break
            first = point
        elapsed = last.at - first.at
        calls, tokens, samples = (
            (new - old) / elapsed for new, old in zip(last.totals, first.totals, strict=True)
        )
        return calls, tokens, samples
