"""The conditions of alerts: each in PromQL, on a process's own data, and in words.

Rendering, evaluating and describing an alert all use its condition, so a new kind of condition is
one class here.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from genmeter.schema import metrics as cat
from genmeter.schema.query import (
    LONG_WINDOW,
    Ratio,
    Selector,
    duration,
    single,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.schema.indicators import Indicator
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import CounterQuery, Group, LocalData, Observed, Query, Record

__all__ = [
    "Above",
    "Base",
    "Below",
    "Condition",
    "Drop",
    "LabelOverflow",
    "ProcessDied",
    "Stale",
    "selected",
    "value_template",
    "value_text",
]

Base = Literal["error_budget", "cost_budget", "token_budget"]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
_WORDS = (("day", DAY), ("hour", HOUR), ("minute", MINUTE))
_SHARE = "%"
# Formats for Go's printf, which Prometheus's templates use, and Python's %; then the unit.
_FORMATS = {"s": "%.1f s", "{token}": "%.0f tokens", "{turn}": "%.2f turns", "{USD}": "%.2f USD"}
_COUNT = "%.0f"  # the subject names what is counted
_NUMBER = "%.3f"
_MAX_INTEGER = 1e15
_OWN_COUNTERS = ('__name__=~"(gen_ai_client|genmeter)_.+"', '__name__=~".+_total"')


@dataclass(frozen=True)
class Condition(ABC):
    """When an alert is active.

    Args:
        indicator: The indicator to compare with the threshold; None for conditions without one.
        threshold: In the indicator's unit, or a multiple of ``base``; an equal value is not active.
        windows: Seconds.
        min_samples: The minimum of a ratio's denominator over the first window.
        base: The unit of the threshold: the error budget that an objective leaves, or a budget for
            24 hours; without a budget there is no alert.
        subject: Names the value at the start of a message; the indicator's title by default.
        jobs: The jobs that must have a target, or the scrape jobs of Collectors, for conditions that
            need them.
    """

    indicator: Indicator | None = None
    threshold: float = 0.0
    windows: tuple[float, ...] = (5 * MINUTE,)
    min_samples: int = 1
    base: Base | None = None
    subject: str = ""
    jobs: tuple[str, ...] = ()

    is_local: ClassVar[bool] = True
    """Whether a process can evaluate it on its own data; else only Prometheus can."""
    is_lower_bound: ClassVar[bool] = False
    """Whether values below the limit are bad."""
    headline: ClassVar[str] = ""
    sentence: ClassVar[str] = ""
    description: ClassVar[str] = ""
    """The texts of a condition without a threshold."""

    @property
    def limit(self) -> float:
        """The value to compare with."""
        return self.threshold

    @property
    def value_format(self) -> str:
        """How to format the value: ``%`` for a share in percent, or a printf format and a unit."""
        return _COUNT

    @property
    def is_recorded(self) -> bool:
        """Whether its PromQL uses recorded series."""
        return False

    def configured(
        self, bases: Mapping[Base, float | None], jobs: Sequence[str], collectors: Sequence[str]
    ) -> Self | None:
        """Return the condition for a job's settings; None if they disable it."""
        return self

    def records(self, by: Sequence[Label], selector: Selector) -> list[Record]:
        """Return the recording rules of its PromQL, each after its dependencies."""
        return []

    def reads(self) -> list[tuple[CounterQuery, float]]:
        """Return each counter whose increase it reads, with the window in seconds."""
        return []

    @abstractmethod
    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Return it in PromQL, grouped by the job and ``by``; it is active while it has a result."""

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the groups for which it is active now, by the process's own data."""
        return {}

    def describe(self, for_: float) -> str:
        """Describe it in a few words, for a table; ``for_`` is the alert's."""
        limit, wait = duration(self.limit), duration(for_)
        window = duration(self.windows[0]) if self.windows else ""
        return self.description.format(limit=limit, wait=wait, window=window)

    def summary(self, value: str) -> str:
        """Return a headline for a value, which is a text or a template."""
        return self.headline.format(value=value)

    def finding(self, value: str, for_: float) -> str:
        """Describe a value in one sentence; it is a text or a template."""
        since = f" for {_spell(for_)}" if for_ else ""
        window, limit = _span(self.windows[0]), _spell(self.limit)
        return self.sentence.format(value=value, since=since, window=window, limit=limit)


@dataclass(frozen=True)
class _Comparison(Condition):
    """A condition on the value of an indicator."""

    indicator: Indicator

    is_past: ClassVar[Callable[[float, float], bool]] = operator.gt
    sign: ClassVar[str] = ">"
    word: ClassVar[str] = "above"

    @property
    def value_format(self) -> str:
        """Percent for shares; the subject of a sum names what is counted."""
        if isinstance(self.indicator.query, Ratio):
            return _FORMATS.get(self.indicator.unit, _SHARE)
        return _FORMATS["{USD}"] if self.indicator.unit == "{USD}" else _COUNT

    @property
    def is_recorded(self) -> bool:
        """Whether it has several windows, or one of more than an hour."""
        return len(self.windows) > 1 or max(self.windows) > LONG_WINDOW

    def configured(
        self, bases: Mapping[Base, float | None], jobs: Sequence[str], collectors: Sequence[str]
    ) -> Self | None:
        """Return it with a threshold in the indicator's unit; None without its budget."""
        if self.base is None:
            return self
        base = bases[self.base]
        if base is None:
            return None
        # Decimal, since 14.4 * 0.01 is not quite 0.144 in binary.
        threshold = float(Decimal(repr(self.threshold)) * Decimal(repr(float(base))))
        return replace(self, threshold=threshold, base=None)

    def _queries(self) -> list[tuple[Query, float]]:
        """Return the query of each window; ``min_samples`` holds for the first."""
        query, (first, *others) = self.indicator.query, self.windows
        return [(query.at_least(self.min_samples), first), *((query, each) for each in others)]

    def records(self, by: Sequence[Label], selector: Selector) -> list[Record]:
        """Return those of its query over each window."""
        queries = self._queries() if self.is_recorded else []
        return [
            record for query, window in queries for record in query.records(by, window, selector)
        ]

    def reads(self) -> list[tuple[CounterQuery, float]]:
        """Return the parts of its query over each window."""
        query = self.indicator.query
        return [(part, query.window_read(each)) for each in self.windows for part in query.parts]

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the query, or its recorded series over each window."""
        (query, first), *_ = queries = self._queries()
        if not self.is_recorded:
            expr = query.promql(selector.names_of(by), duration(first), selector)
            gap = "\n" if "\n" in expr else " "
            return f"{expr}{gap}{self.sign} {_number(self.threshold)}"
        compared = self._compared(
            [each.record_name(by, window, selector) for each, window in queries]
        )
        if isinstance(query, Ratio) and self.min_samples > 1:
            samples = query.per.record_name(by, first, selector)
            compared.append(f"{samples} >= {self.min_samples}")
        return "\nand\n".join(compared)

    def _compared(self, names: list[str]) -> list[str]:
        return [f"{name} {self.sign} {_number(self.threshold)}" for name in names]

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the groups whose value is past the threshold over each window."""
        (query, first), *others = self._queries()
        found = self._past(query.values(data, by, first))
        for each, window in others:
            if found:
                past = self._past(each.values(data, by, window))
                found = {group: value for group, value in found.items() if group in past}
        return found

    def _past(self, values: dict[Group, Observed]) -> dict[Group, Observed]:
        is_past, threshold = type(self).is_past, self.threshold
        return {group: each for group, each in values.items() if is_past(each.value, threshold)}

    @property
    def _subject(self) -> str:
        return self.subject or self.indicator.title.lower()

    def describe(self, for_: float) -> str:
        """Name the subject, the threshold and the windows."""
        windows = " and ".join(duration(window) for window in self.windows)
        samples = f", of at least {self.min_samples}" if self.min_samples > 1 else ""
        return f"{self._subject} {self.word} {self._multiple()} over {windows}{samples}"

    def _multiple(self) -> str:
        of_base = "" if self.base is None else f" times the {self.base.replace('_', ' ')}"
        return f"{self.threshold:g}{of_base}"

    def summary(self, value: str) -> str:
        """Name the subject and its value."""
        return f"{self._subject} {value}"

    def finding(self, value: str, for_: float) -> str:
        """Name the value, the windows and the threshold."""
        subject, (first, *others) = _capital(self._subject), map(_span, self.windows)
        limit = f", {self.word} the threshold of {self._threshold_text()}" if self.threshold else ""
        also = "".join(f", and in the last {span} too" for span in others)
        return f"{subject}: {value} in the last {first}{limit}{also}."

    def _threshold_text(self) -> str:
        if self.value_format == _SHARE:
            return f"{self.threshold * 100:.12g}%"
        _, space, unit = self.value_format.partition(" ")
        return f"{self.threshold:.12g}{space}{unit}"


@dataclass(frozen=True)
class Above(_Comparison):
    """The indicator is above the threshold over each window."""


@dataclass(frozen=True)
class Below(_Comparison):
    """The indicator is below the threshold over each window."""

    is_past: ClassVar[Callable[[float, float], bool]] = operator.lt
    sign: ClassVar[str] = "<"
    word: ClassVar[str] = "below"
    is_lower_bound: ClassVar[bool] = True


@dataclass(frozen=True)
class Drop(_Comparison):
    """The indicator is lower over the first window than over the second, by the threshold."""

    @property
    def value_format(self) -> str:
        """A plain number for the drop of a share."""
        return _FORMATS.get(self.indicator.unit, _NUMBER)

    def _compared(self, names: list[str]) -> list[str]:
        recent, before = names
        return [f"{before} - {recent} > {_number(self.threshold)}"]

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the groups with values over both windows, and a lower one over the first."""
        (query, recent), (whole, before) = self._queries()
        now = query.values(data, by, recent)
        earlier = whole.values(data, by, before) if now else {}
        drops = {
            group: each._replace(value=earlier[group].value - each.value)
            for group, each in now.items()
            if group in earlier
        }
        return self._past(drops)

    def describe(self, for_: float) -> str:
        """Name the subject, both windows and the threshold."""
        recent, before = map(duration, self.windows)
        return f"{self._subject} over {recent} against {before} above {self._multiple()}"

    def finding(self, value: str, for_: float) -> str:
        """Name the drop, both windows and the threshold."""
        recent, before = map(_span, self.windows)
        return (
            f"{_capital(self._subject)}: {value} in the last {recent}, compared to the last "
            f"{before}; the threshold is {self._threshold_text()}."
        )


@dataclass(frozen=True)
class LabelOverflow(Above):
    """Label values past their limit, or label sets past an instrument's."""

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Count the series of the SDK's own overflow too, of processes in which one of them grew.

        They stay to the end of the process, so their number alone would never be 0 again.
        """
        series = selected("", selector, *_OWN_COUNTERS, 'otel_metric_overflow="true"')
        of_process = f"sum by ({selector.process})"
        return (
            f"{Above.promql(self, by, selector)}\n"
            f"or\n"
            f"count by ({selector.job}) (\n"
            f"  {series}\n"
            f"  unless on ({selector.process}) (\n"
            f"    {of_process} ({series})\n"
            f"    == {of_process} ({series} offset {duration(self.windows[0])})\n"
            f"  )\n"
            f") > 0"
        )


@dataclass(frozen=True)
class _Age(Condition):
    """Compares the time since an event with the first window."""

    @property
    def limit(self) -> float:
        """The seconds with which the time since the event is compared."""
        return self.windows[0]

    @property
    def value_format(self) -> str:
        """Seconds."""
        return _FORMATS["s"]


@dataclass(frozen=True)
class Stale(_Age):
    """No call has ended for the first window, and the job is not finished."""

    headline: ClassVar[str] = "no call has ended for {value}"
    sentence: ClassVar[str] = (
        "Time since the last call ended: {value}, more than {limit}; the job is up and has not "
        "reported that it is finished."
    )
    description: ClassVar[str] = "no call has ended for {limit}, and the job is not finished"

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the last end of a call with now, over processes that have not finished.

        So a finished process neither hides another one that hangs, nor counts as idle while another
        one starts.
        """
        last = selected(cat.LAST_GENERATION.prometheus, selector)
        finished = selected(cat.JOB_FINISHED.prometheus, selector)
        return (
            f"time() - max by ({selector.job}) (\n"
            f"  {last}\n"
            f"  and on ({selector.process})\n"
            f"  {finished} == 0\n"
            f") > {_number(self.limit)}"
        )

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the job if its last call is too old."""
        age = data.since_last_call
        return {} if age is None or age <= self.limit else {(): single(age)}


@dataclass(frozen=True)
class ProcessDied(_Age):
    """A process of the job has died within the first window.

    It compares a time, not a number of processes: that may be past 0 at the first scrape, when a
    process has died just before or in an earlier run with whose totals this one goes on, and it
    stays past 0 to the job's end.
    """

    is_lower_bound: ClassVar[bool] = True
    headline: ClassVar[str] = "a process of the job died {value} ago"
    sentence: ClassVar[str] = (
        "A process of the job was killed or crashed {value} ago; of what it recorded, about its last "
        "second may be missing in all numbers of the job."
    )
    description: ClassVar[str] = "a process of the job has died in the last {limit}"

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the last death with now, also after the end of the job."""
        series = selected(cat.JOB_LAST_DEATH.prometheus, selector)
        last = f"last_over_time({series}[{duration(self.limit)}])"
        return f"time() - max by ({selector.job}) ({last}) < {_number(self.limit)}"

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the job if the last death is recent."""
        age = data.since_last_death
        return {} if age is None or age >= self.limit else {(): single(age)}


def value_text(condition: Condition, value: float) -> str:
    """Format a value of a condition."""
    written = condition.value_format
    # Go's humanizePercentage has four digits too.
    return f"{value * 100:.4g}%" if written == _SHARE else written % value


def value_template(condition: Condition) -> str:
    """Return the template by which Prometheus formats the value the same way."""
    if condition.value_format == _SHARE:
        return "{{ $value | humanizePercentage }}"
    number, space, unit = condition.value_format.partition(" ")
    return f'{{{{ $value | printf "{number}" }}}}{space}{unit}'


def selected(metric: str, selector: Selector, *matched: str) -> str:
    """Return a metric's selected series, with further matchers."""
    matchers = [*matched, *selector.matchers()]
    return f"{metric}{{{','.join(matchers)}}}" if matchers else metric


def _number(value: float) -> str:
    # All digits, so that Prometheus compares with the same number as the process.
    return f"{value:.0f}" if value.is_integer() and abs(value) < _MAX_INTEGER else repr(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _span(seconds: float) -> str:
    """Format a duration to follow "the last": ``5 minutes``, ``hour``."""
    for unit, size in _WORDS:
        count = seconds / size
        if count.is_integer() and (count > 1 or (count == 1 and unit != "day")):
            return f"{count:.0f} {unit}s" if count > 1 else unit
    return "second" if seconds == 1 else f"{seconds:.12g} seconds"


def _spell(seconds: float) -> str:
    """Format a duration with its number: ``5 minutes``, ``1 hour``."""
    span = _span(seconds)
    return span if span[0].isdigit() else f"1 {span}"
