"""The margin in which a monitor and Prometheus may differ; see test_alert_agreement."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genmeter.schema.conditions import Drop, ProcessDied, Stale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genmeter.config.alerts import AlertSettings
    from genmeter.history.store import History
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import CounterQuery, HistoryQuery
    from genmeter.testing import IsolatedMonitor

ROUNDING = 1e-9
"""The relative error of sums of floats."""
STEP = 300.0
"""Seconds of the sums that Prometheus uses for long windows."""
LONG = 3_600.0
"""Seconds; longer windows use recorded sums."""

Labels = frozenset[tuple[str, str]]
Group = tuple[str | None, ...]

_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Course:
    """The times of scrapes and evaluations, in seconds.

    Attributes:
        end: The duration of the job.
        scrape: The scrape interval.
        evaluation: The evaluation interval of Prometheus's rules.
        checks: The evaluation interval of the monitor; both are compared after each.
        slowness: A factor for the job's gaps and pauses.
    """

    end: int
    scrape: int
    evaluation: int
    checks: int
    slowness: int = 1


@dataclass(frozen=True)
class Range:
    """The minimum and maximum of a number."""

    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """The result of one evaluation.

    Attributes:
        at: Seconds since the job's start.
        firing: The labels of the monitor's firing alerts, without the job.
        is_open: The labels of alerts within the margin.
        settled: Whether a rule fires, by its id, for groups outside of the margin.
    """

    at: float
    firing: frozenset[Labels]
    is_open: frozenset[Labels]
    settled: Mapping[str, frozenset[bool]]


class Margin:
    """Computes the margin in which a monitor and Prometheus may differ.

    Args:
        settings: The alerts.
        monitor: The monitor.
        course: The times of scrapes and evaluations.
    """

    def __init__(self, settings: AlertSettings, monitor: IsolatedMonitor, course: Course) -> None:
        self._course = course
        self._rules = [rule for rule in settings.rules() if rule.condition.is_local]
        self._history: History = monitor._session.history
        self._pages: list[dict[str, float]] = []
        # When a condition became active: certainly, and possibly.
        self._since: dict[tuple[str, Group, bool], float] = {}
        self._spans: dict[
            tuple[HistoryQuery, Sequence[Label], float, float], dict[Group, float]
        ] = {}

    def scraped(self, page: dict[str, float]) -> None:
        """Store a scrape."""
        self._pages.append(page)

    def evaluate(self, now: float, firing: frozenset[Labels]) -> Verdict:
        """Return the alerts within the margin.

        Args:
            now: Unix time in seconds.
            firing: The monitor's firing alerts.
        """
        is_open: set[Labels] = set()
        settled: dict[str, set[bool]] = {rule.id: set() for rule in self._rules}
        for rule in self._rules:
            for group, bounds in self._holds(rule, now).items():
                surely, possibly = (
                    self._fires(rule, group, now, sure, holds)
                    for sure, holds in zip((True, False), bounds, strict=True)
                )
                if surely != possibly:
                    is_open.add(_labels(rule, group))
                else:
                    settled[rule.id].add(surely)
        return Verdict(
            now,
            firing,
            frozenset(is_open),
            {rule: frozenset(found) for rule, found in settled.items()},
        )

    def _fires(self, rule: AlertRule, group: Group, now: float, sure: bool, holds: bool) -> bool:
        key = (rule.id, group, sure)
        if not holds:
            self._since.pop(key, None)
            return False
        return now - self._since.setdefault(key, now) >= rule.for_

    def _holds(self, rule: AlertRule, now: float) -> dict[Group, tuple[bool, bool]]:
        """Return by group whether the condition is certainly and possibly active."""
        if isinstance(rule.condition, Stale):
            last = self._history.last_call
            is_still = last is not None and now - last > rule.condition.limit
            return {(): (is_still, is_still)}
        if isinstance(rule.condition, ProcessDied):
            return {(): (False, False)}  # no process of these jobs dies
        values = [self._values(rule, window, now) for window in rule.condition.windows]
        groups = {group for found in values for group in found}
        # Groups without rows must be evaluated too, or their `since` would stay.
        groups |= {group for id_, group, _ in self._since if id_ == rule.id}
        return {group: _passes(rule, [found.get(group) for found in values]) for group in groups}

    def _values(self, rule: AlertRule, window: float, now: float) -> dict[Group, tuple[Range, ...]]:
        """Return the ranges of the indicator's value and denominator, by group."""
        assert rule.condition.indicator is not None
        sums = [
            self._sums(part, rule, window, now) for part in rule.condition.indicator.query.parts
        ]
        if len(sums) == 1:
            return {group: (total, Range(1, 1)) for group, total in sums[0].items()}
        of, per = sums
        nothing = Range(0, 0)
        return {
            group: (_ratio(of.get(group, nothing), below), below) for group, below in per.items()
        }

    def _sums(
        self, query: CounterQuery, rule: AlertRule, window: float, now: float
    ) -> dict[Group, Range]:
        """Return the range of Prometheus's and the monitor's sums over a window."""
        if query.rows is None:
            return self._increases(query, rule, window)
        sums = [self._rows(query.rows, rule.by, now - window)]
        if window > LONG:
            sums += [
                _stretched(self._steps(query.rows, rule.by, window, now - late), factor)
                for factor in (1.0, STEP / (STEP - self._course.scrape))
                # The sum may have been recorded one evaluation ago.
                for late in (0, self._course.evaluation)
            ]
        else:
            scraped = self._rows(query.rows, rule.by, now - window + self._course.scrape)
            stretch = window / (window - self._course.scrape)
            sums += [scraped, _stretched(scraped, stretch)]
        groups = {group for each in sums for group in each}
        return {
            group: Range(
                min(each.get(group, 0.0) for each in sums),
                max(each.get(group, 0.0) for each in sums),
            )
            for group in groups
        }

    def _steps(
        self, rows: HistoryQuery, by: Sequence[Label], window: float, now: float
    ) -> dict[Group, float]:
        """Sum Prometheus's increases of each step of a long window."""
        total: Counter[Group] = Counter()
        for step in range(round(window / STEP)):
            end = now - step * STEP
            if end > 0:
                total.update(self._span(rows, by, end - STEP + self._course.scrape, end))
        return dict(total)

    def _span(
        self, rows: HistoryQuery, by: Sequence[Label], start: float, end: float
    ) -> dict[Group, float]:
        """Sum the rows between two times in the past."""
        key = (rows, by, start, end)
        if key not in self._spans:
            after = self._rows(rows, by, end)
            self._spans[key] = {
                group: total - after.get(group, 0.0)
                for group, total in self._rows(rows, by, start).items()
            }
        return self._spans[key]

    def _rows(self, rows: HistoryQuery, by: Sequence[Label], since: float) -> dict[Group, float]:
        found = self._history.window(rows, by, since)
        return {
            group: float(each.rows) if rows.column is None else each.sum
            for group, each in found.items()
        }

    def _increases(self, query: CounterQuery, rule: AlertRule, window: float) -> dict[Group, Range]:
        """Return the ranges of the monitor's own counters, which it reads when it evaluates."""
        course, newest = self._course, len(self._pages) - 1
        inner, outer, last = (
            _totals(self._pages[max(0, newest - round(back / course.scrape))], query, rule.by)
            for back in (window - course.checks, window + course.checks, 0)
        )
        stretch = window / (window - course.scrape)
        return {
            group: Range(total - inner.get(group, 0.0), stretch * (total - outer.get(group, 0.0)))
            for group, total in last.items()
        }


def _passes(rule: AlertRule, found: Sequence[tuple[Range, ...] | None]) -> tuple[bool, bool]:
    """Return whether a rule's condition is certainly and possibly active.

    Args:
        rule: The rule.
        found: For each window the ranges of the value and the denominator; None without rows.
    """
    if any(each is None for each in found):
        return False, False
    values = [each[0] for each in found if each is not None]
    counted = [each[1] for each in found if each is not None]
    surely = counted[0].low >= rule.condition.min_samples and all(each.low > 0 for each in counted)
    possibly = counted[0].high >= rule.condition.min_samples
    if isinstance(rule.condition, Drop):
        recent, before = values
        values = [Range(before.low - recent.high, before.high - recent.low)]
    elif rule.condition.is_lower_bound:
        values = [Range(-each.high, -each.low) for each in values]
    threshold = (
        -rule.condition.threshold if rule.condition.is_lower_bound else rule.condition.threshold
    )
    tolerance = ROUNDING * max(1.0, abs(threshold))
    return (
        surely and all(each.low > threshold + tolerance for each in values),
        possibly
        and all(each.high > threshold - (tolerance if threshold else 0) for each in values),
    )


def _ratio(of: Range, per: Range) -> Range:
    infinity = float("inf")
    return Range(
        of.low / per.high if per.high else infinity,
        of.high / per.low if per.low else infinity,
    )


def _labels(rule: AlertRule, group: Group) -> Labels:
    named = zip((label.prometheus for label in rule.by), group, strict=True)
    return frozenset(
        [
            ("alertname", rule.name),
            ("severity", rule.severity),
            *((name, value) for name, value in named if value is not None),
            *rule.labels,
        ]
    )


def _totals(
    page: Mapping[str, float], query: CounterQuery, by: Sequence[Label]
) -> dict[Group, float]:
    """Sum the samples of a counter by group."""
    sums: dict[Group, float] = {}
    wanted = query.instrument.prometheus
    for series, value in page.items():
        name, _, inner = series.partition("{")
        if name != wanted:
            continue
        labels = dict(_LABEL.findall(inner))
        if all(f'="{labels.get(label.prometheus, "")}"' == match for label, match in query.where):
            group = tuple(labels.get(label.prometheus) for label in by)
            sums[group] = sums.get(group, 0.0) + value
    return sums


def _stretched(sums: Mapping[Group, float], factor: float) -> dict[Group, float]:
    return {group: total * factor for group, total in sums.items()}
