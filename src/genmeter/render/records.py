"""Recording rules: what several alerts need, and sums over long windows.

A ratio over more than six hours is made of sums that are added up from recorded sums over five
minutes, which lie end to end: no evaluation reads days of samples of every series. What is counted
between the last scrape of one step and the first of the next is in neither, and `increase` makes up
for it from what it saw: that cancels out in a ratio. A sum that is judged by itself, a budget's, is
taken over the raw series.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genmeter.schema.query import JOB, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import CounterQuery, Selector
    from genmeter.schema.signals import Signal

__all__ = ["Record", "is_recorded", "ratio_name", "records", "total_name"]

_STEP = 300.0  # seconds of the sums that long ones are added up from
_LONG = 6 * 3_600.0


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule.

    Args:
        name: The series that it records, as level:metric:operation.
        expr: What of, in PromQL.
    """

    name: str
    expr: str


def is_recorded(rule: AlertRule) -> bool:
    """Tell whether an alert's expression is made of recorded series."""
    return rule.signal is not None and (len(rule.windows) > 1 or max(rule.windows) > _LONG)


def total_name(term: CounterQuery, by: Sequence[Label], window: float) -> str:
    """Name the series of what a term adds up to over a window."""
    return f"{_level(by)}:{_metric(term)}{term.part}:increase{duration(window)}"


def ratio_name(signal: Signal, by: Sequence[Label], window: float) -> str:
    """Name the series of a signal over a window, of one that is a ratio.

    Raises:
        ValueError: The signal has no query.
    """
    of, _ = _terms(signal)
    operation = "mean" if of.part else "ratio"
    return f"{_level(by)}:{_metric(of)}:{operation}_rate{duration(window)}"


def records(rules: Iterable[AlertRule], selector: Selector) -> list[Record]:
    """Give the records that the alerts' expressions are made of, each after what it needs."""
    found: list[Record] = []
    for rule in rules:
        if not is_recorded(rule):
            continue
        for number, window in enumerate(rule.windows):
            found += _of_window(
                rule, window, selector, needs_count=number == 0 and rule.min_samples > 1
            )
    return list(dict.fromkeys(found))


def _of_window(
    rule: AlertRule, window: float, selector: Selector, *, needs_count: bool
) -> Iterator[Record]:
    signal = rule.signal
    assert signal is not None  # noqa: S101 - is_recorded() has asked
    of, per = _terms(signal)
    if per is None:
        yield _total(of, rule.by, window, selector)
        return
    if window > _LONG:
        for term in (of, per):
            step = _total(term, rule.by, _STEP, selector)
            yield step
            steps = f"{step.name}[{duration(window)}:{duration(_STEP)}]"
            yield Record(total_name(term, rule.by, window), f"sum_over_time({steps})")
        expr = f"{total_name(of, rule.by, window)}\n/\n({total_name(per, rule.by, window)} > 0)"
    else:
        if needs_count:
            yield _total(per, rule.by, window, selector)
        expr = signal.promql(_names(rule.by), duration(window), selector)
    yield Record(ratio_name(signal, rule.by, window), expr)


def _total(term: CounterQuery, by: Sequence[Label], window: float, selector: Selector) -> Record:
    expr = term.promql(_names(by), duration(window), selector)
    return Record(total_name(term, by, window), expr)


def _terms(signal: Signal) -> tuple[CounterQuery, CounterQuery | None]:
    if signal.of is None:
        raise ValueError(f"the signal {signal.id} has no query")
    return signal.of, signal.per


def _level(by: Sequence[Label]) -> str:
    return "_".join([JOB, *(label.key.rpartition(".")[2] for label in by)])


def _metric(term: CounterQuery) -> str:
    words = [word for _, matcher in term.where for word in re.findall(r"\w+", matcher)]
    return "_".join([term.instrument.prometheus.removesuffix("_total"), *words])


def _names(by: Sequence[Label]) -> list[str]:
    return [JOB, *(label.prometheus for label in by)]
