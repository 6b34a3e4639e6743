"""Evaluates the conditions of rules on a monitor's own data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.history.store import History
    from genmeter.history.windows import GroupSum
    from genmeter.pipeline.self_metrics import SelfMetrics
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Instrument, Label
    from genmeter.schema.query import Group, HistoryQuery

__all__ = ["CounterDeltas", "Evaluator", "Finding"]

_SPACING = 50  # records in the shortest window at most


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
"""Reads each of the monitor's own counters, by the label of its alert."""

_Counts = dict[tuple["Instrument", str], int]


class CounterDeltas:
    """Keeps earlier values of the monitor's own counters, for the length of the longest window.

    Args:
        self_metrics: The process's.
        windows: Seconds; the windows that `since` is called with.
        now: Unix time in seconds; earlier counts are in no increase.
    """

    def __init__(self, self_metrics: SelfMetrics, windows: Sequence[float], now: float) -> None:
        self._self_metrics = self_metrics
        self._longest = max(windows, default=0.0)
        self._spacing = min(windows, default=0.0) / _SPACING
        self._records: list[tuple[float, _Counts]] = []
        self._current: _Counts = {}
        self.begin(now)

    def begin(self, now: float) -> None:
        """Start over with the current counts."""
        self._current = self._read()
        self._records = [(now, self._current)]

    def sample(self, now: float) -> None:
        """Record the current counts."""
        self._current = self._read()
        last, counts = self._records[-1]
        if now < last:  # the clock was set back
            self._records = [(now, counts)]
        if counts != self._current:
            # Keep the newest, and earlier ones that are far enough apart.
            if len(self._records) > 1 and last - self._records[-2][0] < self._spacing:
                self._records.pop()
            self._records.append((now, self._current))
        start = now - self._longest
        while len(self._records) > 1 and self._records[1][0] <= start:
            del self._records[0]

    def since(self, instrument: Instrument, start: float) -> dict[str, int]:
        """Return the increases of a counter since a Unix time, by label; without zeros."""
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


class Finding(NamedTuple):
    """A group for which a rule's condition is active, with the fields of :class:`~genmeter.schema.query.Observed`.

    ``value`` is in the indicator's unit: a mean, a share or a sum over the first window, the drop
    of a mean, or the seconds since the last call.
    """

    rule: AlertRule
    group: Group
    value: float
    mean: float
    rows: int
    min: float
    max: float


class Evaluator:
    """Evaluates rules as Prometheus would, over exact windows.

    Args:
        rules: Rows of ``AlertSettings.rules()``; those that only Prometheus can evaluate are skipped.
        self_metrics: The process's, for the alerts on the monitor itself.
        now: Unix time in seconds; earlier counts of the monitor itself are ignored.
    """

    def __init__(self, rules: Sequence[AlertRule], self_metrics: SelfMetrics, now: float) -> None:
        self.rules = tuple(rule for rule in rules if rule.condition.is_local)
        windows = [
            window
            for rule in self.rules
            if rule.condition.indicator is not None
            and any(part.rows is None for part in rule.condition.indicator.query.parts)
            for window in rule.condition.windows
        ]
        self._deltas = CounterDeltas(self_metrics, windows, now)

    def begin(self, now: float) -> None:
        """Start over, in a forked child."""
        self._deltas.begin(now)

    def evaluate(
        self,
        history: History,
        now: float,
        *,
        last_call: float | None,
        last_death: float | None = None,
    ) -> list[Finding]:
        """Return the active conditions, in the order of the rules; call it under the drain's lock.

        Args:
            history: The monitor's.
            now: Unix time in seconds.
            last_call: Unix time of the job's last call; None before the first call and after the
                monitor is closed, when the job cannot stall.
            last_death: Unix time at which a process of the job last died; None if none has, or
                another process evaluates that.
        """
        self._deltas.sample(now)
        data = _LocalData(history, self._deltas, now, last_call, last_death)
        return [
            Finding(rule, group, *observed)
            for rule in self.rules
            for group, observed in sorted(
                rule.condition.active(data, rule.by).items(),
                key=lambda each: [text or "" for text in each[0]],
            )
        ]


class _LocalData:
    """The process's data at one moment; caches sums that several rules use."""

    def __init__(
        self,
        history: History,
        deltas: CounterDeltas,
        now: float,
        last_call: float | None,
        last_death: float | None,
    ) -> None:
        self.since_last_call = None if last_call is None else now - last_call
        self.since_last_death = None if last_death is None else now - last_death
        self._history = history
        self._deltas = deltas
        self._now = now
        self._sums: dict[
            tuple[HistoryQuery, tuple[Label, ...], float], Mapping[Group, GroupSum]
        ] = {}

    def rows(
        self, query: HistoryQuery, by: Sequence[Label], window: float
    ) -> Mapping[Group, GroupSum]:
        key = (query, tuple(by), window)
        if key not in self._sums:
            self._sums[key] = self._history.window(query, by, self._now - window)
        return self._sums[key]

    def increases(self, instrument: Instrument, window: float) -> Mapping[str, int]:
        return self._deltas.since(instrument, self._now - window)
