"""Queries: what is summed over a window, in PromQL and over a monitor's own history alike.

A query is the one place that knows both the series of an instrument, with its matchers, and the rows
that a history keeps of the same events. So Prometheus's rules and the evaluation in process cannot
drift apart.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

from genmeter.schema.metrics import PHASE, Instrument, Label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "ALL_SERIES",
    "JOB",
    "LONG_WINDOW",
    "CounterQuery",
    "Function",
    "GaugeQuery",
    "Group",
    "HistoryQuery",
    "LocalData",
    "Observed",
    "Query",
    "Ratio",
    "Record",
    "RowCondition",
    "Selector",
    "duration",
    "names_of",
    "quoted",
    "single",
]

JOB = "job"
"""The label by which every query of ours keeps jobs apart."""

RowCondition = Literal[
    "inference",
    "evaluation",
    "success",
    "failure",
    "turns_known",
    "duration_known",
    "input_known",
    "output_known",
    "total_known",
    "priced",
    "unpriced",
    "finish_known",
    "truncated",
    "on_scale",
    "rejected",
]
"""What can be required of a row of a history; see :mod:`genmeter.history.windows`."""

TRUNCATED = ("length", "max_tokens")
"""The finish reasons of a completion that was cut off."""

Function = Literal["increase", "rate"]
Group = tuple[str | None, ...]
"""The values of the labels that a result is grouped by; None where a label is absent."""

LONG_WINDOW = 6 * 3_600.0
"""Seconds; ratios over longer windows are added up from recorded sums.

So no evaluation reads days of samples of every series. The steps lie end to end. What is counted
between the last scrape of one step and the first of the next is in neither, and ``increase``
estimates it: that cancels out in a ratio. A sum that is compared by itself, a budget's, is taken
over the raw series.
"""
_STEP = 300.0  # seconds of the recorded sums that long ones are added up from
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float) -> str:
    """Write seconds as Prometheus does, in the largest unit that divides them: ``5m``, ``90s``."""
    milliseconds = round(seconds * 1_000)
    if not milliseconds:
        return "0s"
    for unit, size in _UNITS:
        if milliseconds % (size * 1_000) == 0:
            return f"{milliseconds // (size * 1_000)}{unit}"
    return f"{milliseconds}ms"


def quoted(text: str) -> str:
    """Write a text as a PromQL string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class Record(NamedTuple):
    """A recording rule: the series that it writes, as level:metric:operation, and its PromQL."""

    name: str
    expr: str


class Observed(NamedTuple):
    """What a process observed over a window.

    Attributes:
        value: What is compared to a threshold.
        mean: Of the rows; ``value`` where that is no mean.
        rows: How many rows; 1 where ``value`` is no mean.
        least: The least of the rows' values.
        most: The most.
    """

    value: float
    mean: float
    rows: int
    least: float
    most: float


class LocalData(Protocol):
    """What a process knows itself, over windows that end now."""

    @property
    def since_last_call(self) -> float | None:
        """Seconds since the newest call ended; None where no further call is expected."""

    def rows(
        self, query: HistoryQuery, by: Sequence[Label], window: float
    ) -> Mapping[Group, tuple[int, float, float, float]]:
        """Sum rows by group: their number, and the sum, the least and the most of their values."""

    def increases(self, instrument: Instrument, window: float) -> Mapping[str, int]:
        """Return by how much one of the monitor's own counters has grown, by its label."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Rows of a history, and what is summed over them.

    Args:
        ring: Which of the history's rings.
        having: The conditions of each row.
        column: The column that is summed; None counts the rows.
        by_minute: The column of the history's sums by the minute that has the same over all rows,
            for windows that reach further back than the ring does.
    """

    ring: Literal["calls", "scores", "samples"]
    having: tuple[RowCondition, ...] = ()
    column: str | None = None
    by_minute: Literal["calls", "successes", "failures", "tokens", "cost"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which series a query reads.

    Args:
        common: Matchers for all of them, as PromQL has them within braces, without these.
        by_label: Matchers such as ``=~"$model"`` for instruments that have the label.
    """

    common: str = ""
    by_label: Mapping[Label, str] = field(default_factory=dict)

    def matchers(self, labels: Sequence[Label] = ()) -> list[str]:
        """Return the matchers for series with these labels."""
        known = [
            f"{label.prometheus}{matcher}"
            for label, matcher in self.by_label.items()
            if label in labels
        ]
        return [*([self.common] if self.common else []), *known]


ALL_SERIES = Selector()


class Query(ABC):
    """A number over a window: a sum, a value or a ratio."""

    __slots__ = ()

    @property
    @abstractmethod
    def parts(self) -> tuple[CounterQuery, ...]:
        """The queries of single series that it is made of: of a ratio numerator and denominator."""

    def at_least(self, min_samples: int) -> Self:
        """Return it with a minimum for the denominator of a ratio, which is then recorded too."""
        return self

    @abstractmethod
    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Write it in PromQL.

        Args:
            by: Prometheus's names of the labels to keep.
            window: A duration such as ``5m``, or a variable of a dashboard.
            selector: Which series.
            function: ``rate`` for a sum per second; a ratio is the same with both.
        """

    @abstractmethod
    def values(self, data: LocalData, by: Sequence[Label], window: float) -> dict[Group, Observed]:
        """Compute it in process, by group.

        Args:
            data: What the process knows.
            by: The labels that make a group.
            window: Seconds.
        """

    @abstractmethod
    def record_name(self, by: Sequence[Label], window: float) -> str:
        """Name its recorded series, by group, over a window in seconds."""

    @abstractmethod
    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield its recording rules over a window, each after those that it needs.

        Args:
            by: The labels that make a group, beside the job.
            window: Seconds.
            selector: Which series.
        """


@dataclass(frozen=True, slots=True)
class CounterQuery(Query):
    """Something that adds up: increments of a counter, or the sum or count of a histogram.

    Args:
        instrument: Whose series.
        part: Of a histogram: its sum, its count, or its buckets, which keep ``le`` where that is
            among the labels that a query keeps.
        where: Matchers, by label; of an instrument with a phase, ``genmeter_phase`` is matched in
            any case, since its name may be another instrumentation's too.
        rows: The same in a history; None where histories do not keep it.
    """

    instrument: Instrument
    part: Literal["", "_sum", "_count", "_bucket"] = ""
    where: tuple[tuple[Label, str], ...] = ()
    rows: HistoryQuery | None = None

    @property
    def parts(self) -> tuple[CounterQuery, ...]:
        """Itself."""
        return (self,)

    def series(self, selector: Selector) -> str:
        """Write the series as a PromQL selector."""
        matched = [f"{label.prometheus}{matcher}" for label, matcher in self.where]
        is_shared = PHASE in self.instrument.labels
        if is_shared and not any(label is PHASE for label, _ in self.where):
            matched.insert(0, f'{PHASE.prometheus}!=""')
        matched += selector.matchers(self.instrument.labels)
        braces = f"{{{','.join(matched)}}}" if matched else ""
        return f"{self.instrument.prometheus}{self.part}{braces}"

    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Sum what the series grew by."""
        return f"{_aggregated('sum', by)} ({function}({self.series(selector)}[{window}]))"

    def values(self, data: LocalData, by: Sequence[Label], window: float) -> dict[Group, Observed]:
        """Sum the rows, or what a counter of the monitor itself grew by."""
        if self.rows is None:
            grown = data.increases(self.instrument, window)
            return {(label,): single(count) for label, count in grown.items()}
        sums = data.rows(self.rows, by, window)
        return {group: single(self.total_of(*each)) for group, each in sums.items()}

    def total_of(self, rows: int, total: float, *_: float) -> float:
        """Return what rows add up to: their number, or the sum of their values."""
        return float(rows) if self.rows is None or self.rows.column is None else total

    def record_name(self, by: Sequence[Label], window: float) -> str:
        """Name the sum."""
        return f"{_level(by)}:{self.metric_name()}{self.part}:increase{duration(window)}"

    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield the sum."""
        expr = self.promql(names_of(by), duration(window), selector)
        yield Record(self.record_name(by, window), expr)

    def metric_name(self) -> str:
        """Return the metric's part of a recorded series' name."""
        words = [word for _, matcher in self.where for word in re.findall(r"\w+", matcher)]
        return "_".join([self.instrument.prometheus.removesuffix("_total"), *words])


@dataclass(frozen=True, slots=True)
class GaugeQuery(CounterQuery):
    """Something that has a value: the last of each series within a window.

    Args:
        aggregation: How the series of a group are combined.
    """

    aggregation: Literal["sum", "max"] = "sum"

    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Take the last value of each series."""
        grouped = _aggregated(self.aggregation, by)
        return f"{grouped} (last_over_time({self.series(selector)}[{window}]))"


@dataclass(frozen=True, slots=True)
class Ratio(Query):
    """A share or a mean: one query divided by another.

    Args:
        of: The numerator.
        per: The denominator; without any of it there is no value, so nothing is divided by 0.
        min_samples: What the denominator must add up to; above 1 it needs ``increase``.
    """

    of: CounterQuery
    per: CounterQuery
    min_samples: int = 1

    @property
    def parts(self) -> tuple[CounterQuery, ...]:
        """Numerator and denominator."""
        return (self.of, self.per)

    def at_least(self, min_samples: int) -> Self:
        """Return it with another minimum."""
        return replace(self, min_samples=min_samples)

    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Divide; without any of the denominator there is no value."""
        of, per = (each.promql(by, window, selector, function) for each in self.parts)
        guard = f">= {self.min_samples}" if self.min_samples > 1 else "> 0"
        return f"{of}\n/\n({per} {guard})"

    def values(self, data: LocalData, by: Sequence[Label], window: float) -> dict[Group, Observed]:
        """Divide, with the number of rows, the least and the most of their values."""
        of, per = self.of.rows, self.per.rows
        if of is None or per is None:
            return {}
        sums = data.rows(of, by, window)
        if (of.ring, of.having) == (per.ring, per.having) and per.column is None:
            below = {group: float(each[0]) for group, each in sums.items()}
        else:
            found = data.rows(per, by, window)
            below = {group: self.per.total_of(*each) for group, each in found.items()}
        return {
            group: self._divided(sums.get(group), amount)
            for group, amount in below.items()
            if amount > 0 and amount >= self.min_samples
        }

    def _divided(self, found: tuple[int, float, float, float] | None, amount: float) -> Observed:
        total = 0.0 if found is None else self.of.total_of(*found)
        value, count = total / amount, round(amount)
        if self.of.rows is None or self.of.rows.column is None:
            # A share: each row is in it, 1, or is not, 0.
            return Observed(value, value, count, float(total == amount), float(total > 0))
        least, most = (0.0, 0.0) if found is None else found[2:]
        return Observed(value, value, count, least, most)

    def record_name(self, by: Sequence[Label], window: float) -> str:
        """Name the ratio."""
        operation = "mean" if self.of.part else "ratio"
        return f"{_level(by)}:{self.of.metric_name()}:{operation}_rate{duration(window)}"

    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield the ratio, over a long window after the sums that it is made of."""
        if window > LONG_WINDOW:
            for part in self.parts:
                (step,) = part.records(by, _STEP, selector)
                yield step
                steps = f"{step.name}[{duration(window)}:{duration(_STEP)}]"
                yield Record(part.record_name(by, window), f"sum_over_time({steps})")
            of, per = (part.record_name(by, window) for part in self.parts)
            expr = f"{of}\n/\n({per} > 0)"
        else:
            if self.min_samples > 1:
                yield from self.per.records(by, window, selector)
            expr = self.at_least(1).promql(names_of(by), duration(window), selector)
        yield Record(self.record_name(by, window), expr)


def names_of(by: Sequence[Label]) -> list[str]:
    """Return Prometheus's names of the labels that a rule keeps, the job's first."""
    return [JOB, *(label.prometheus for label in by)]


def single(value: float) -> Observed:
    """Return a value that is no mean."""
    return Observed(value, value, 1, value, value)


def _aggregated(aggregation: str, by: Sequence[str]) -> str:
    return f"{aggregation} by ({', '.join(by)})" if by else aggregation


def _level(by: Sequence[Label]) -> str:
    return "_".join([JOB, *(label.short for label in by)])
