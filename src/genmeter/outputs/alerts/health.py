"""What the monitor counts of itself, over a window."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from genmeter import catalogue as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.catalogue import Instrument
    from genmeter.pipeline.self_metrics import SelfMetrics

__all__ = ["CounterDeltas"]

_SPACING = 50  # so many records in the shortest window, however often it is evaluated


def _by_handler(self_metrics: SelfMetrics) -> Mapping[str, int]:
    by_handler: Counter[str] = Counter()
    for (handler, _), count in self_metrics.handler_errors.items():
        by_handler[handler] += count
    return by_handler


_COUNTS: Mapping[Instrument, Callable[[SelfMetrics], Mapping[str, int]]] = {
    cat.MONITOR_EVENTS: lambda self_metrics: self_metrics.rejected,
    cat.HANDLER_ERRORS: _by_handler,
    cat.LABEL_OVERFLOW: lambda self_metrics: self_metrics.overflows,
    cat.EXPORT_FAILURES: lambda self_metrics: self_metrics.export_failures,
}
"""What each counter of the monitor itself has counted, by its alert's label."""

_Counts = dict[tuple["Instrument", str], int]


class CounterDeltas:
    """Remembers what the self_metrics were, for as long as a window may look back.

    Args:
        self_metrics: The process's.
        windows: Seconds; those that will be asked for.
        now: Unix time in seconds; what was counted before it is in no increase.
    """

    def __init__(self, self_metrics: SelfMetrics, windows: Sequence[float], now: float) -> None:
        self._self_metrics = self_metrics
        self._longest = max(windows, default=0.0)
        self._spacing = min(windows, default=0.0) / _SPACING
        self._records: list[tuple[float, _Counts]] = []
        self._current: _Counts = {}
        self.begin(now)

    def begin(self, now: float) -> None:
        """Begin anew, with what is counted by now."""
        self._current = self._read()
        self._records = [(now, self._current)]

    def sample(self, now: float) -> None:
        """Take a sample of what is counted by now."""
        self._current = self._read()
        last, counts = self._records[-1]
        if now < last:  # the clock was set back
            self._records = [(now, counts)]
        if counts != self._current:
            # The newest is always there; of those before it, some that stand far enough apart.
            if len(self._records) > 1 and last - self._records[-2][0] < self._spacing:
                self._records.pop()
            self._records.append((now, self._current))
        start = now - self._longest
        while len(self._records) > 1 and self._records[1][0] <= start:
            del self._records[0]

    def since(self, instrument: Instrument, start: float) -> dict[str, int]:
        """Return by how much a counter has grown, by its label; labels without growth are absent.

        Args:
            instrument: One of the monitor's own counters.
            start: Unix time in seconds.
        """
        before = self._records[0][1]
        for when, counts in self._records:
            if when > start:
                break
            before = counts
        return {
            label: grown
            for (counter, label), count in self._current.items()
            if counter == instrument and (grown := count - before.get((counter, label), 0)) > 0
        }

    def _read(self) -> _Counts:
        return {
            (instrument, label): count
            for instrument, read in _COUNTS.items()
            for label, count in dict(read(self._self_metrics)).items()
        }
