"""For which groups the conditions of the rules hold, by a monitor's history."""

from __future__ import annotations

import operator
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.history.store import History
    from genmeter.history.windows import GroupSum
    from genmeter.pipeline.self_metrics import SelfMetrics
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Instrument, Label
    from genmeter.schema.query import HistoryQuery
    from genmeter.schema.signals import Signal

__all__ = ["CounterDeltas", "Evaluator", "Finding", "Group"]

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


Group = tuple[str | None, ...]
"""The values of a rule's labels; None where the label is absent."""

_T = TypeVar("_T")
_PASSES = {"above": operator.gt, "below": operator.lt}


class _Value(NamedTuple):
    """A signal over a window: its value, and of how many rows, with their least and most."""

    value: float
    rows: int
    least: float
    most: float


class Finding(NamedTuple):
    """A group for which a rule's condition holds.

    Attributes:
        rule: The rule.
        group: The values of its labels.
        value: What was judged, in the signal's unit: a mean or a share over the first window, a
            sum over it, by how much a mean fell, or the seconds since the last call.
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
    """Judges rules as Prometheus would, over windows that are exact.

    Args:
        rules: The rows of ``AlertSettings.rules()``; what only Prometheus can judge is left out.
        self_metrics: The process's, for the alerts on the monitor itself.
        now: Unix time in seconds; of the monitor itself only what comes after is judged.
    """

    def __init__(self, rules: Sequence[AlertRule], self_metrics: SelfMetrics, now: float) -> None:
        self.rules = tuple(rule for rule in rules if rule.is_judged_in_process)
        windows = [
            window
            for rule in self.rules
            if _counts_the_monitor(rule.signal)
            for window in rule.windows
        ]
        self._deltas = CounterDeltas(self_metrics, windows, now)

    def begin(self, now: float) -> None:
        """Begin anew, in a forked child."""
        self._deltas.begin(now)

    def evaluate(self, history: History, now: float, *, last_call: float | None) -> list[Finding]:
        """Give all that holds now, in the order of the rules; to be called under the drain's lock.

        Args:
            history: The monitor's.
            now: Unix time in seconds.
            last_call: Unix time of the job's newest call; None where nothing can stall, before the
                first and once the monitor will be told nothing more.
        """
        self._deltas.sample(now)
        windows = _Windows(history, self._deltas, now)
        found: list[Finding] = []
        for rule in self.rules:
            if rule.how == "stalled":
                if last_call is not None and now - last_call > rule.windows[0]:
                    found.append(_single(rule, now - last_call))
            elif rule.how == "fall":
                found += _fallen(rule, windows)
            else:
                found += _past(rule, windows)
        return found


def _past(rule: AlertRule, windows: _Windows) -> list[Finding]:
    """Find the groups whose signal passes the threshold over each window."""
    passes, threshold = _PASSES[rule.how], rule.threshold
    first, *others = rule.windows
    values = windows.values(rule, first, rule.min_samples)
    held = {group: each for group, each in values.items() if passes(each.value, threshold)}
    for window in others:
        if not held:
            break
        values = windows.values(rule, window)
        held = {
            group: each
            for group, each in held.items()
            if group in values and passes(values[group].value, threshold)
        }
    return [_finding(rule, group, each.value, each) for group, each in _sorted(held)]


def _fallen(rule: AlertRule, windows: _Windows) -> list[Finding]:
    """Find the groups whose signal is lower over the first window than over the second."""
    recent, before = rule.windows
    now = windows.values(rule, recent, rule.min_samples)
    earlier = windows.values(rule, before) if now else {}
    falls = {
        group: (earlier[group].value - each.value, each)
        for group, each in now.items()
        if group in earlier
    }
    return [
        _finding(rule, group, fall, each)
        for group, (fall, each) in _sorted(falls)
        if fall > rule.threshold
    ]


class _Windows:
    """Signals over windows that end now; what several rules ask for is summed once."""

    def __init__(self, history: History, deltas: CounterDeltas, now: float) -> None:
        self._history = history
        self._deltas = deltas
        self._now = now
        self._sums: dict[
            tuple[HistoryQuery, tuple[Label, ...], float], Mapping[Group, GroupSum]
        ] = {}

    def values(self, rule: AlertRule, window: float, least: int = 1) -> dict[Group, _Value]:
        """Give the values of a rule's signal, by group.

        Args:
            rule: A rule with a signal.
            window: Seconds.
            least: Of a ratio, what its denominator must add up to; it is more than 0 in any case.
        """
        signal = rule.signal
        if signal is None or signal.of is None:
            return {}
        of, per = signal.of.rows, None if signal.per is None else signal.per.rows
        if of is None:
            grown = self._deltas.since(signal.of.instrument, self._now - window)
            return {(label,): _lone(count) for label, count in grown.items()}
        if per is None:
            sums = self._window(of, rule.by, window)
            return {group: _lone(_total(of, each)) for group, each in sums.items()}
        sums = self._window(of, rule.by, window)
        if (of.ring, of.having) == (per.ring, per.having) and per.column is None:
            below = {group: float(each.rows) for group, each in sums.items()}
        else:
            found = self._window(per, rule.by, window)
            below = {group: _total(per, each) for group, each in found.items()}
        return {
            group: _ratio(of, sums.get(group), amount)
            for group, amount in below.items()
            if amount > 0 and amount >= least
        }

    def _window(
        self, rows: HistoryQuery, by: tuple[Label, ...], window: float
    ) -> Mapping[Group, GroupSum]:
        key = (rows, by, window)
        if key not in self._sums:
            self._sums[key] = self._history.window(rows, by, self._now - window)
        return self._sums[key]


def _ratio(rows: HistoryQuery, of: GroupSum | None, amount: float) -> _Value:
    total = 0.0 if of is None else _total(rows, of)
    count = round(amount)
    if rows.column is None:  # a share: each row is in it, 1, or is not, 0
        return _Value(total / amount, count, float(total == amount), float(total > 0))
    if of is None:
        return _Value(0.0, count, 0.0, 0.0)
    return _Value(total / amount, count, of.least, of.most)


def _total(rows: HistoryQuery, found: GroupSum) -> float:
    return float(found.rows) if rows.column is None else found.sum


def _lone(value: float) -> _Value:
    return _Value(value, 1, value, value)


def _single(rule: AlertRule, value: float) -> Finding:
    return _finding(rule, (), value, _lone(value))


def _finding(rule: AlertRule, group: Group, value: float, found: _Value) -> Finding:
    return Finding(rule, group, value, found.value, found.rows, found.least, found.most)


def _sorted(found: Mapping[Group, _T]) -> list[tuple[Group, _T]]:
    return sorted(found.items(), key=lambda each: [text or "" for text in each[0]])


def _counts_the_monitor(signal: Signal | None) -> bool:
    return signal is not None and signal.of is not None and signal.of.rows is None
