"""Queries: sums, values and ratios over a window, in PromQL and over a monitor's own history.

A query knows both the series of an instrument and the rows that a history keeps of the same events,
so Prometheus's rules and the evaluation in the process cannot drift apart.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

from genmeter.schema.metrics import MODEL, PHASE, STEP, Instrument, Label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "ALL_SERIES",
    "INSTANCE",
    "JOB",
    "LE",
    "LONG_WINDOW",
    "CounterQuery",
    "DistributionQuery",
    "Distributions",
    "Function",
    "GaugeQuery",
    "Group",
    "Histograms",
    "HistoryQuery",
    "LocalData",
    "Observed",
    "Query",
    "Ratio",
    "Record",
    "RowCondition",
    "Selector",
    "duration",
    "quoted",
    "single",
]

JOB = "job"
"""The label that every query groups by."""
INSTANCE = "instance"
"""The label that distinguishes the processes of a job."""
LE = "le"
"""The label of a classic histogram's buckets."""

RowCondition = Literal[
    "inference",
    "evaluation",
    "success",
    "failure",
    "ended",
    "unread",
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
"""A condition on a row of a history; see :mod:`genmeter.history.windows`."""

TRUNCATED = (
    "length",
    "max_tokens",
    "max_output_tokens",
    "model_length",
    "model_context_window_exceeded",
    "reason_max_len",
    "reason_max_context",
)
"""The finish reasons of a truncated completion, in lower case.

In this order: OpenAI's chat and most others; Anthropic, Bedrock, and Google and Cohere in upper case;
OpenAI's responses; Mistral; Anthropic and Bedrock; xAI's own client.
"""

Function = Literal["increase", "rate"]
Histograms = Literal["classic", "native"]
"""How Prometheus stores histograms: as series of buckets, sum and count, or each as one series."""
Distributions = Literal["scraped", "recorded"]
"""What distributions of times are read from: each process's histograms, or what rules record of each job's."""
Group = tuple[str | None, ...]
"""The values of the labels that a result is grouped by; None for an absent label."""

LONG_WINDOW = 3_600.0
"""Seconds; ratios over longer windows use recorded sums, which are cheaper to evaluate.

``increase`` estimates the counts between the last scrape of one step and the first of the next; the
error cancels out in a ratio. A sum that is compared by itself (a budget) uses the raw series.
"""
_STEP = 300.0  # seconds of a recorded sum
_SHOWN_BY = (MODEL, STEP)  # the labels by which panels show distributions of calls
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float) -> str:
    """Format seconds as Prometheus does, in the largest unit that divides them: ``5m``, ``90s``."""
    milliseconds = round(seconds * 1_000)
    if not milliseconds:
        return "0s"
    for unit, size in _UNITS:
        if milliseconds % (size * 1_000) == 0:
            return f"{milliseconds // (size * 1_000)}{unit}"
    return f"{milliseconds}ms"


def quoted(text: str) -> str:
    """Return a text as a PromQL string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class Record(NamedTuple):
    """A recording rule.

    Attributes:
        name: The name of its series: level:metric:operation.
        expr: Its PromQL.
    """

    name: str
    expr: str


class Observed(NamedTuple):
    """A value that a process computed over a window.

    Attributes:
        value: The value to compare with a threshold.
        mean: The mean of the rows, or ``value`` if that is not a mean.
        rows: The number of rows, or 1 if ``value`` is not a mean.
        min: The lowest value of a row.
        max: The highest value of a row.
    """

    value: float
    mean: float
    rows: int
    min: float
    max: float


class LocalData(Protocol):
    """The data of one process, over windows that end now."""

    @property
    def since_last_call(self) -> float | None:
        """Seconds since the last call ended; None if no further call is expected."""

    @property
    def since_last_death(self) -> float | None:
        """Seconds since a process of the job died; None if none has, or another process leads."""

    def rows(
        self, query: HistoryQuery, by: Sequence[Label], window: float
    ) -> Mapping[Group, tuple[int, float, float, float]]:
        """Return by group the number of rows, and the sum, minimum and maximum of their values."""

    def increases(self, instrument: Instrument, window: float) -> Mapping[str, int]:
        """Return the increase of one of the monitor's own counters, by its label."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """A sum over rows of a history.

    Args:
        ring: The ring of the history.
        having: The conditions on each row.
        column: The column to sum; None counts the rows.
        by_minute: The same sum over all rows in the history's sums by minute, for windows longer
            than the ring.
    """

    ring: Literal["calls", "scores", "samples"]
    having: tuple[RowCondition, ...] = ()
    column: str | None = None
    by_minute: Literal["calls", "successes", "failures", "tokens", "cost", "ended"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Selects the series that queries read, and distinguishes their sources.

    Args:
        common: PromQL matchers for all series, without braces.
        by_label: Matchers such as ``=~"$model"`` for instruments with the label.
        group_by: Labels of the targets, such as ``namespace``, that every query groups by besides the
            job.
        replica_labels: Labels in which only the copies of a series differ that several servers have
            scraped; of these copies one counts.
        suffix: Ends the names of recorded series, so that those of several selectors differ.
        histograms: How Prometheus stores histograms.
        distributions: What distributions of the times of calls are read from.
        recorded: PromQL matchers for recorded distributions, without braces: of labels of the job
            only, since they are sums over its processes.
        shared: The recorded sums of increases that several queries read, by metric and window.
    """

    common: str = ""
    by_label: Mapping[Label, str] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()
    replica_labels: tuple[str, ...] = ()
    suffix: str = ""
    histograms: Histograms = "classic"
    distributions: Distributions = "scraped"
    recorded: str = ""
    shared: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def matchers(self, labels: Sequence[Label] = (), *, are_recorded: bool = False) -> list[str]:
        """Return the matchers for scraped series with these labels, or for recorded distributions."""
        known = [
            f"{label.prometheus}{matcher}"
            for label, matcher in self.by_label.items()
            if label in labels
        ]
        all_ = self.recorded if are_recorded else self.common
        return [*([all_] if all_ else []), *known]

    def names_of(self, by: Sequence[Label] = ()) -> list[str]:
        """Return Prometheus's names of the labels of a job and of a group."""
        return [JOB, *self.group_by, *(label.prometheus for label in by)]

    @property
    def job(self) -> str:
        """The comma-separated labels of a job."""
        return ", ".join(self.names_of())

    @property
    def process(self) -> str:
        """The comma-separated labels of a process."""
        return f"{self.job}, {INSTANCE}"

    def record_name(self, by: Sequence[Label], metric: str, operation: str) -> str:
        """Return the name of a recorded series: level, metric and operation."""
        level = "_".join([JOB, *self.group_by, *(label.short for label in by)])
        end = f"_{self.suffix}" if self.suffix else ""
        return f"{level}:{metric}:{operation}{end}"

    def one_copy(self, expr: str, *, is_histogram: bool = False) -> str:
        """Return an expression with one of the copies that several servers have scraped.

        Args:
            expr: The expression.
            is_histogram: Whether its values are native histograms.
        """
        replicas = ", ".join(self.replica_labels)
        # A copy with a gap is lower, so the highest is the closest. Histograms have no order.
        aggregation = "avg" if is_histogram else "max"
        return f"{aggregation} without ({replicas}) ({expr})" if replicas else expr


ALL_SERIES = Selector()


class Query(ABC):
    """A number over a window: a sum, a value or a ratio."""

    __slots__ = ()

    @property
    @abstractmethod
    def parts(self) -> tuple[CounterQuery, ...]:
        """Its queries of single instruments; of a ratio numerator and denominator."""

    def window_read(self, window: float) -> float:
        """Return the window over which its parts read scraped series, for a window in seconds."""
        return window

    def at_least(self, min_samples: int) -> Self:
        """Return it with a minimum for the denominator of a ratio, which is then recorded too."""
        return self

    @abstractmethod
    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Return it in PromQL.

        Args:
            by: Prometheus's names of the labels to keep.
            window: A duration such as ``5m``, or a variable of a dashboard.
            selector: The series to read.
            function: ``rate`` for a sum per second; a ratio is the same with both.
        """

    @abstractmethod
    def values(self, data: LocalData, by: Sequence[Label], window: float) -> dict[Group, Observed]:
        """Compute it from the process's own data, by group; ``window`` in seconds."""

    @abstractmethod
    def record_name(self, by: Sequence[Label], window: float, selector: Selector) -> str:
        """Return the name of its recorded series; ``window`` in seconds."""

    @abstractmethod
    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield its recording rules, each after its dependencies; ``window`` in seconds."""


@dataclass(frozen=True, slots=True)
class CounterQuery(Query):
    """The increase of a counter, or of the sum, count or buckets of a histogram.

    Args:
        instrument: The counter or histogram.
        part: The part of a histogram.
        where: Matchers by label. An instrument with a phase always gets a matcher on
            ``genmeter_phase``, since other instrumentations may use its name too.
        rows: The same in a history; None if histories do not keep it.
    """

    instrument: Instrument
    part: Literal["", "_sum", "_count", "_bucket"] = ""
    where: tuple[tuple[Label, str], ...] = ()
    rows: HistoryQuery | None = None

    @property
    def parts(self) -> tuple[CounterQuery, ...]:
        """Return itself."""
        return (self,)

    @property
    def metric(self) -> str:
        """The name of its series."""
        return f"{self.instrument.prometheus}{self.part}"

    def series(self, selector: Selector) -> str:
        """Return the series as a PromQL selector."""
        matched = [f"{label.prometheus}{matcher}" for label, matcher in self.where]
        is_shared = PHASE in self.instrument.labels
        if is_shared and not any(label is PHASE for label, _ in self.where):
            matched.insert(0, f'{PHASE.prometheus}!=""')
        matched += selector.matchers(self.instrument.labels)
        part = self.part if selector.histograms == "classic" else ""
        return f"{self.instrument.prometheus}{part}{_braces(matched)}"

    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Sum the increases of the series; native histograms have no label of a bucket."""
        shared = selector.shared.get((self.metric, window))
        if shared is not None and function == "increase":
            matched = [f"{label.prometheus}{matcher}" for label, matcher in self.where]
            return f"{_aggregated('sum', by)} ({shared}{_braces(matched)})"
        increases = f"{function}({self.series(selector)}[{window}])"
        is_histogram = False
        if selector.histograms == "native" and self.part:
            by = [name for name in by if name != LE]
            is_histogram = self.part == "_bucket"
            increases = increases if is_histogram else f"histogram{self.part}({increases})"
        copy = selector.one_copy(increases, is_histogram=is_histogram)
        return f"{_aggregated('sum', by)} ({copy})"

    def values(self, data: LocalData, by: Sequence[Label], window: float) -> dict[Group, Observed]:
        """Sum the rows; of the monitor's own counters return the increases."""
        if self.rows is None:
            grown = data.increases(self.instrument, window)
            return {(label,): single(count) for label, count in grown.items()}
        sums = data.rows(self.rows, by, window)
        return {group: single(self.total_of(*each)) for group, each in sums.items()}

    def total_of(self, rows: int, total: float, *_: float) -> float:
        """Return the number of rows, or the sum of their values."""
        return float(rows) if self.rows is None or self.rows.column is None else total

    def record_name(self, by: Sequence[Label], window: float, selector: Selector) -> str:
        """Return the name of the recorded sum."""
        metric, operation = f"{self.metric_name()}{self.part}", f"increase{duration(window)}"
        return selector.record_name(by, metric, operation)

    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield the recorded sum."""
        expr = self.promql(selector.names_of(by), duration(window), selector)
        yield Record(self.record_name(by, window, selector), expr)

    def metric_name(self) -> str:
        """Return the metric part of a recorded series' name."""
        words = [word for _, matcher in self.where for word in re.findall(r"\w+", matcher)]
        return "_".join([self.instrument.prometheus.removesuffix("_total"), *words])


@dataclass(frozen=True, slots=True)
class DistributionQuery(CounterQuery):
    """The buckets of a histogram over a window, for quantiles and heat maps.

    The buckets of the times of calls, by model, step and error, are most series of a job, and of a thousand
    processes they take seconds to read. So rules can record the increases of each job's. Their sum over a window is proportional
    to the window's increase, also of jobs that ran for a part of it only; that is all that a quantile needs.
    """

    part: Literal["_bucket"] = "_bucket"

    def is_recorded(self, selector: Selector) -> bool:
        """Return whether its increases are recorded: of times, of which there are most series."""
        is_of_times = self.instrument.unit == "s" and {*_SHOWN_BY} <= {*self.instrument.labels}
        return selector.distributions == "recorded" and is_of_times

    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Sum the rates or increases of the buckets; recorded increases are proportional to these."""
        if not self.is_recorded(selector):
            return CounterQuery.promql(self, by, window, selector, function)
        is_histogram = selector.histograms == "native"
        name = self.record_name(_SHOWN_BY, _STEP, selector)
        matched = selector.matchers(self.instrument.labels, are_recorded=True)
        is_rate = function == "rate"
        over_time = "avg_over_time" if is_rate else "sum_over_time"
        increases = f"{over_time}({name}{_braces(matched)}[{window}])"
        kept = [name for name in by if name != LE or not is_histogram]
        copy = selector.one_copy(increases, is_histogram=is_histogram)
        return f"{_aggregated('sum', kept)} ({copy}){f' / {_STEP:g}' if is_rate else ''}"

    def record_name(self, by: Sequence[Label], window: float, selector: Selector) -> str:
        """Return the name of the recorded increases."""
        metric = self.metric if selector.histograms == "classic" else self.instrument.prometheus
        return selector.record_name(by, metric, f"increase{duration(window)}")

    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield the recorded increases."""
        scraped = replace(selector, distributions="scraped")
        names = [*selector.names_of(by), LE]
        expr = CounterQuery.promql(self, names, duration(window), scraped)
        yield Record(self.record_name(by, window, selector), expr)

    def recorded(self, selector: Selector) -> Iterator[Record]:
        """Yield the increases that `promql` reads if they are recorded."""
        return self.records(_SHOWN_BY, _STEP, selector)


@dataclass(frozen=True, slots=True)
class GaugeQuery(CounterQuery):
    """The last value of each series within a window, summed or the highest by group."""

    aggregation: Literal["sum", "max"] = "sum"

    def promql(
        self, by: Sequence[str], window: str, selector: Selector, function: Function = "increase"
    ) -> str:
        """Take the last value of each series."""
        last = f"last_over_time({self.series(selector)}[{window}])"
        values = selector.one_copy(last) if self.aggregation == "sum" else last
        return f"{_aggregated(self.aggregation, by)} ({values})"


@dataclass(frozen=True, slots=True)
class Ratio(Query):
    """A share or a mean: one query divided by another.

    Args:
        of: The numerator.
        per: The denominator; if it is 0, there is no value.
        min_samples: The minimum of the denominator; above 1 it needs ``increase``.
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
        """Divide, with a guard against a denominator of 0."""
        of, per = (each.promql(by, window, selector, function) for each in self.parts)
        guard = f">= {self.min_samples}" if self.min_samples > 1 else "> 0"
        return f"{of}\n/\n({per} {guard})"

    def values(self, data: LocalData, by: Sequence[Label], window: float) -> dict[Group, Observed]:
        """Divide; the result has the number, minimum and maximum of the rows too."""
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
            # A share: the value of each row is 1 or 0.
            return Observed(value, value, count, float(total == amount), float(total > 0))
        low, high = (0.0, 0.0) if found is None else found[2:]
        return Observed(value, value, count, low, high)

    def record_name(self, by: Sequence[Label], window: float, selector: Selector) -> str:
        """Return the name of the recorded ratio."""
        operation = f"{'mean' if self.of.part else 'ratio'}_rate{duration(window)}"
        return selector.record_name(by, self.of.metric_name(), operation)

    def window_read(self, window: float) -> float:
        """Return the step of the recorded sums for a long window."""
        return _STEP if window > LONG_WINDOW else window

    def records(self, by: Sequence[Label], window: float, selector: Selector) -> Iterator[Record]:
        """Yield the ratio after the sums that it divides, which others may read too."""
        for part in self.parts:
            if window > LONG_WINDOW:
                (step,) = part.records(by, _STEP, selector)
                yield step
                steps = f"{step.name}[{duration(window)}:{duration(_STEP)}]"
                yield Record(part.record_name(by, window, selector), f"sum_over_time({steps})")
            else:
                yield from part.records(by, window, selector)
        of, per = (part.record_name(by, window, selector) for part in self.parts)
        yield Record(self.record_name(by, window, selector), f"{of}\n/\n({per} > 0)")


def single(value: float) -> Observed:
    """Return a value that is not a mean."""
    return Observed(value, value, 1, value, value)


def _aggregated(aggregation: str, by: Sequence[str]) -> str:
    return f"{aggregation} by ({', '.join(by)})" if by else aggregation


def _braces(matched: Sequence[str]) -> str:
    return f"{{{','.join(matched)}}}" if matched else ""
