"""For which groups the conditions of the rules are met, by a monitor's own data."""

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
        windows: Seconds; those that `since` is called with.
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
        """Start over with the counts of now."""
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


class Finding(NamedTuple):
    """A group for which a rule's condition is met.

    Attributes:
        rule: The rule.
        group: The values of its labels.
        value: What was compared with the threshold, in the indicator's unit: a mean or a share over
            the first window, a sum over it, by how much a mean dropped, or the seconds since the
            last call.
        mean: Of the first window; ``value`` where that is no mean.
        rows: Of how many rows; 1 where ``value`` is no mean.
        least: The least of these rows' values.
        most: The most.
    """

    rule: AlertRule
    group: Group
    value: float
    mean: float
    rows: int
    least: float
    most: float


class Evaluator:
    """Evaluates rules as Prometheus would, over windows that are exact.

    Args:
        rules: The rows of ``AlertSettings.rules()``; those that only Prometheus can evaluate are
            skipped.
        self_metrics: The process's, for the alerts on the monitor itself.
        now: Unix time in seconds; of the monitor itself only what comes after is counted.
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

    def evaluate(self, history: History, now: float, *, last_call: float | None) -> list[Finding]:
        """Return what is met now, in the order of the rules; call it under the drain's lock.

        Args:
            history: The monitor's.
            now: Unix time in seconds.
            last_call: Unix time of the job's newest call; None where nothing can stall, before the
                first and once the monitor is closed.
        """
        self._deltas.sample(now)
        age = None if last_call is None else now - last_call
        data = _LocalData(history, self._deltas, now, age)
        return [
            Finding(rule, group, *observed)
            for rule in self.rules
            for group, observed in sorted(
                rule.condition.active(data, rule.by).items(),
                key=lambda each: [text or "" for text in each[0]],
            )
        ]


class _LocalData:
    """What the process knows at one moment; what several rules ask for is summed once."""

    def __init__(
        self, history: History, deltas: CounterDeltas, now: float, since_last_call: float | None
    ) -> None:
        self.since_last_call = since_last_call
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
