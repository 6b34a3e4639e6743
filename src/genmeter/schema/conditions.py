"""The conditions of alerts: each in PromQL, on a process's own data, and in words.

A condition is an expression: a comparison of an indicator's query with a threshold, or something of
its own. Whoever renders, evaluates or describes an alert asks its condition, so a new kind of
condition is one class here.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from genmeter.schema import metrics as cat
from genmeter.schema.query import (
    JOB,
    LONG_WINDOW,
    Ratio,
    Selector,
    duration,
    names_of,
    quoted,
    single,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.schema.indicators import Indicator
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import Group, LocalData, Observed, Record

__all__ = [
    "Above",
    "Base",
    "Below",
    "Condition",
    "Drop",
    "LabelOverflow",
    "Stale",
    "TargetAbsent",
    "TargetDown",
]

Base = Literal["error_budget", "cost_budget", "token_budget"]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
_WORDS = (("day", DAY), ("hour", HOUR), ("minute", MINUTE))
_SHARE = "%"
# As Go's printf has them, which Prometheus's templates use, and Python's %; then the unit's word.
_FORMATS = {"s": "%.1f s", "{token}": "%.0f tokens", "{turn}": "%.2f turns", "{USD}": "%.2f USD"}
_COUNT = "%.0f"  # the subject says what is counted
_NUMBER = "%.3f"
_MOST_DIGITS = 1e15
_OWN_METRICS = "(gen_ai_client|genmeter)_.+"


@dataclass(frozen=True)
class Condition(ABC):
    """When an alert is active.

    Args:
        indicator: What is compared with the threshold; None where the condition has none.
        threshold: In the indicator's unit, or how many times ``base``; equal is not past it.
        windows: Seconds.
        min_samples: What a ratio's denominator must add up to over the first window.
        base: What the threshold is a multiple of: the error budget that an objective leaves, or a
            budget for 24 hours, without which there is no such alert.
        subject: What the value is, to begin a message with; the indicator's title by default.
        jobs: The jobs that must have a target; only of conditions that need them.
    """

    indicator: Indicator | None = None
    threshold: float = 0.0
    windows: tuple[float, ...] = (5 * MINUTE,)
    min_samples: int = 1
    base: Base | None = None
    subject: str = ""
    jobs: tuple[str, ...] = ()

    is_local: ClassVar[bool] = True
    """Whether a process can tell by its own data; else Prometheus alone can."""
    is_lower_bound: ClassVar[bool] = False
    """Whether values under the limit are the bad ones."""

    @property
    def limit(self) -> float:
        """What the value is compared with."""
        return self.threshold

    @property
    def value_format(self) -> str:
        """How the value is written: ``%`` for a share in percent, or a printf format and a unit."""
        return _COUNT

    @property
    def is_recorded(self) -> bool:
        """Whether its PromQL is made of recorded series."""
        return False

    def configured(self, bases: Mapping[Base, float | None], jobs: tuple[str, ...]) -> Self | None:
        """Return the condition for the settings of a job; None where they leave no such alert.

        Args:
            bases: What thresholds are multiples of.
            jobs: The jobs that must have a target.
        """
        return self

    def records(self, by: Sequence[Label], selector: Selector) -> list[Record]:
        """Return the recording rules that the PromQL needs, each after those that it needs.

        Args:
            by: The labels that make a group, beside the job.
            selector: Which series.
        """
        return []

    @abstractmethod
    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Write it in PromQL, for an alert that is active while there is a result.

        Args:
            by: The labels that make a group, beside the job.
            selector: Which series.
        """

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the groups for which it is met now, by the process's own data.

        Args:
            data: What the process knows.
            by: The labels that make a group.
        """
        return {}

    @abstractmethod
    def describe(self, for_: float) -> str:
        """Describe it in a few words, for a table.

        Args:
            for_: Seconds for which it must be met before the alert fires.
        """

    @abstractmethod
    def summary(self, value: str) -> str:
        """Say what the value is, in a few words.

        Args:
            value: As a text, or a template for it.
        """

    @abstractmethod
    def finding(self, value: str, for_: float) -> str:
        """Say what was found, in one sentence.

        Args:
            value: As a text, or a template for it.
            for_: Seconds for which it must be met before the alert fires.
        """


@dataclass(frozen=True)
class _Comparison(Condition):
    """A condition on the value of an indicator."""

    indicator: Indicator

    is_past: ClassVar[Callable[[float, float], bool]] = operator.gt
    sign: ClassVar[str] = ">"
    word: ClassVar[str] = "above"

    @property
    def value_format(self) -> str:
        """Percent for shares; of a sum the subject says what is counted."""
        if isinstance(self.indicator.query, Ratio):
            return _FORMATS.get(self.indicator.unit, _SHARE)
        return _FORMATS["{USD}"] if self.indicator.unit == "{USD}" else _COUNT

    @property
    def is_recorded(self) -> bool:
        """Over several windows, or over more than six hours."""
        return len(self.windows) > 1 or max(self.windows) > LONG_WINDOW

    def configured(self, bases: Mapping[Base, float | None], jobs: tuple[str, ...]) -> Self | None:
        """Return it with a threshold in the indicator's unit; None without a budget for it."""
        if self.base is None:
            return self
        base = bases[self.base]
        if base is None:
            return None
        # As they are written, not as binary fractions have them: 14.4 * 0.01 is not quite 0.144.
        threshold = float(Decimal(repr(self.threshold)) * Decimal(repr(float(base))))
        return replace(self, threshold=threshold, base=None)

    def records(self, by: Sequence[Label], selector: Selector) -> list[Record]:
        """Return those of its query over each window."""
        if not self.is_recorded:
            return []
        return [
            record
            for number, window in enumerate(self.windows)
            for record in self.indicator.query.records(
                by, window, selector, needs_count=number == 0 and self.min_samples > 1
            )
        ]

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the query itself, or its recorded series over each window."""
        query = self.indicator.query
        if not self.is_recorded:
            window = duration(self.windows[0])
            expr = query.promql(names_of(by), window, selector, min_samples=self.min_samples)
            gap = "\n" if "\n" in expr else " "
            return f"{expr}{gap}{self.sign} {_number(self.threshold)}"
        compared = self._compared([query.record_name(by, window) for window in self.windows])
        if isinstance(query, Ratio) and self.min_samples > 1:
            compared.append(f"{query.per.record_name(by, self.windows[0])} >= {self.min_samples}")
        return "\nand\n".join(compared)

    def _compared(self, names: list[str]) -> list[str]:
        return [f"{name} {self.sign} {_number(self.threshold)}" for name in names]

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the groups whose value is past the threshold over each window."""
        query = self.indicator.query
        found: dict[Group, Observed] = {}
        for number, window in enumerate(self.windows):
            values = query.values(data, by, window, self.min_samples if number == 0 else 1)
            past = {
                group: each
                for group, each in values.items()
                if type(self).is_past(each.value, self.threshold)
            }
            found = past if number == 0 else {k: v for k, v in found.items() if k in past}
            if not found:
                break
        return found

    @property
    def _subject(self) -> str:
        return self.subject or self.indicator.title.lower()

    def describe(self, for_: float) -> str:
        """Name the subject, the threshold and the windows."""
        windows = " and ".join(duration(window) for window in self.windows)
        least = f", of at least {self.min_samples}" if self.min_samples > 1 else ""
        return f"{self._subject} {self.word} {self._multiple()} over {windows}{least}"

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
    """Over the first window the indicator is lower than over the second, by more than the threshold."""

    @property
    def value_format(self) -> str:
        """A drop of a share is a plain number."""
        return _FORMATS.get(self.indicator.unit, _NUMBER)

    def _compared(self, names: list[str]) -> list[str]:
        recent, before = names
        return [f"{before} - {recent} > {_number(self.threshold)}"]

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the groups that have a value over both windows, and a lower one over the first."""
        query, (recent, before) = self.indicator.query, self.windows
        now = query.values(data, by, recent, self.min_samples)
        earlier = query.values(data, by, before) if now else {}
        drops = {
            group: each._replace(value=earlier[group].value - each.value)
            for group, each in now.items()
            if group in earlier
        }
        return {group: each for group, each in drops.items() if each.value > self.threshold}

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
        """Count the series of the SDK's own overflow too, which have no label but one."""
        series = _series("", selector, f'__name__=~"{_OWN_METRICS}"', 'otel_metric_overflow="true"')
        return f"{Above.promql(self, by, selector)}\nor\ncount by ({JOB}) ({series}) > 0"


@dataclass(frozen=True)
class Stale(Condition):
    """No call has ended for the first window, and the job is not finished."""

    @property
    def limit(self) -> float:
        """The seconds after which it is met."""
        return self.windows[0]

    @property
    def value_format(self) -> str:
        """Seconds."""
        return _FORMATS["s"]

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the newest end of a call with now, of processes that have not finished.

        A finished process counts neither as the last to have ended a call, while another hangs, nor
        as one that is idle, while another has only begun.
        """
        last = _series(cat.LAST_GENERATION.prometheus, selector)
        finished = _series(cat.JOB_FINISHED.prometheus, selector)
        return (
            f"time() - max by ({JOB}) (\n"
            f"  {last}\n"
            f"  and on ({JOB}, instance)\n"
            f"  {finished} == 0\n"
            f") > {_number(self.limit)}"
        )

    def active(self, data: LocalData, by: Sequence[Label]) -> dict[Group, Observed]:
        """Return the job where its newest call is too old."""
        age = data.since_last_call
        return {} if age is None or age <= self.limit else {(): single(age)}

    def describe(self, for_: float) -> str:
        """Name the time."""
        return f"no call has ended for {duration(self.limit)}, and the job is not finished"

    def summary(self, value: str) -> str:
        """Name the time since the last call."""
        return f"no call has ended for {value}"

    def finding(self, value: str, for_: float) -> str:
        """Name the time since the last call, and the limit."""
        return (
            f"Time since the last call ended: {value}, more than {_spell(self.limit)}; the job is "
            "up and has not said that it is finished."
        )


@dataclass(frozen=True)
class TargetDown(Condition):
    """All targets of a job that was there within the first window, and is not finished, are down."""

    is_local: ClassVar[bool] = False

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the number of targets that are up with 0."""
        up = _series("up", selector)
        finished = _series(cat.JOB_FINISHED.prometheus, selector)
        return (
            f"sum by ({JOB}) ({up}) == 0\n"
            f"and on ({JOB})\n"
            f"(last_over_time({finished}[{duration(self.windows[0])}]) == 0 "
            f"and on ({JOB}, instance) {up} == 0)"
        )

    def describe(self, for_: float) -> str:
        """Name the time."""
        return f"no target has answered for {duration(for_)}"

    def summary(self, value: str) -> str:
        """Say that none answers."""
        return "no target answers"

    def finding(self, value: str, for_: float) -> str:
        """Say for how long none has answered, and that the job is not finished."""
        since = f", for {_spell(for_)} already" if for_ else ""
        return (
            f"Every target of the job fails to answer{since}; one did within the last "
            f"{_span(self.windows[0])}, and did not say that it is finished."
        )


@dataclass(frozen=True)
class TargetAbsent(Condition):
    """Prometheus has no target of a job that must have one."""

    is_local: ClassVar[bool] = False

    def configured(self, bases: Mapping[Base, float | None], jobs: tuple[str, ...]) -> Self | None:
        """Return it for the jobs; None without any."""
        return replace(self, jobs=jobs) if jobs else None

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Ask for each job whether it is absent."""
        absent = [f"absent({_series('up', selector, f'{JOB}={quoted(job)}')})" for job in self.jobs]
        if not selector.common:
            return "\nor\n".join(absent)
        # What the selector matches would else become labels of the alert.
        return "\nor\n".join(f"group by ({JOB}) ({each})" for each in absent)

    def describe(self, for_: float) -> str:
        """Name the time."""
        return f"a job that was named has had no target for {duration(for_)}"

    def summary(self, value: str) -> str:
        """Say that there is none."""
        return "Prometheus has no target"

    def finding(self, value: str, for_: float) -> str:
        """Say for how long there has been none."""
        since = f" for {_spell(for_)}" if for_ else ""
        return f"Prometheus has had no target of the job{since}."


def value_text(condition: Condition, value: float) -> str:
    """Write a value of a condition for a person."""
    written = condition.value_format
    # Go's humanizePercentage has four digits too.
    return f"{value * 100:.4g}%" if written == _SHARE else written % value


def value_template(condition: Condition) -> str:
    """Write the same as a template that Prometheus fills in."""
    if condition.value_format == _SHARE:
        return "{{ $value | humanizePercentage }}"
    number, space, unit = condition.value_format.partition(" ")
    return f'{{{{ $value | printf "{number}" }}}}{space}{unit}'


def _series(metric: str, selector: Selector, *matched: str) -> str:
    matchers = [*matched, *selector.matchers()]
    return f"{metric}{{{','.join(matchers)}}}" if matchers else metric


def _number(value: float) -> str:
    # Digit for digit what the process compares with.
    return f"{value:.0f}" if value.is_integer() and abs(value) < _MOST_DIGITS else repr(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _span(seconds: float) -> str:
    """Write a duration for a person, to stand after "the last": ``5 minutes``, ``24 hours``."""
    for unit, size in _WORDS:
        count = seconds / size
        if count.is_integer() and (count > 1 or (count == 1 and unit != "day")):
            return f"{count:.0f} {unit}s" if count > 1 else unit
    return "second" if seconds == 1 else f"{seconds:.12g} seconds"


def _spell(seconds: float) -> str:
    """Write a duration for a person, with its number: ``5 minutes``, ``1 hour``."""
    span = _span(seconds)
    return span if span[0].isdigit() else f"1 {span}"
