"""The conditions on the targets of Prometheus, and on processes that push instead.

Only Prometheus can evaluate them: a process does not see its own end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from genmeter.schema import metrics as cat
from genmeter.schema.conditions import Condition, selected
from genmeter.schema.query import JOB, duration, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genmeter.schema.conditions import Base
    from genmeter.schema.metrics import Instrument, Label
    from genmeter.schema.query import Selector

__all__ = ["CollectorDown", "PushStopped", "TargetAbsent", "TargetDown", "TargetLost"]


@dataclass(frozen=True)
class TargetDown(Condition):
    """All targets of an unfinished job that was up within the first window are down.

    A job whose endpoint does not wait at its end for a last scrape is never seen as finished. So only
    jobs whose endpoint does wait, and those that must have a target, are expected to be up.
    """

    is_local: ClassVar[bool] = False
    headline: ClassVar[str] = "all targets are down"
    sentence: ClassVar[str] = (
        "All targets of the job have been down{since}; one was up within the last {window}, and the "
        "job did not report that it was finished."
    )
    description: ClassVar[str] = (
        "all targets have been down for {wait}, of a job that lingers at its end or must have a target"
    )

    def configured(
        self, bases: Mapping[Base, float | None], jobs: Sequence[str], collectors: Sequence[str]
    ) -> Self | None:
        """Return it for the jobs, whose end is a fault however they end."""
        return replace(self, jobs=tuple(jobs))

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare the number of targets that are up with 0."""
        up, within = selected("up", selector), duration(self.windows[0])
        required = "".join(f" or {_up_of(job, selector)}" for job in self.jobs)
        return (
            f"sum by ({selector.job}) ({up}) == 0\n"
            f"and on ({selector.job})\n"
            f"(\n"
            f"  {_last(cat.JOB_FINISHED, selector, within)} == 0\n"
            f"  and on ({selector.process}) {up} == 0\n"
            f"  and on ({selector.process}) "
            f"({_last(cat.JOB_LINGER, selector, within)} > 0{required})\n"
            f")"
        )


@dataclass(frozen=True)
class TargetAbsent(Condition):
    """Prometheus has no target of a job that must have one."""

    is_local: ClassVar[bool] = False
    headline: ClassVar[str] = "Prometheus has no target"
    sentence: ClassVar[str] = "Prometheus has had no target of the job{since}."
    description: ClassVar[str] = "a named job has had no target for {wait}"

    def configured(
        self, bases: Mapping[Base, float | None], jobs: Sequence[str], collectors: Sequence[str]
    ) -> Self | None:
        """Return it for the jobs; None without jobs."""
        return replace(self, jobs=tuple(jobs)) if jobs else None

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Return a query of the absence of each job."""
        absent = [f"absent({_up_of(job, selector)})" for job in self.jobs]
        if not selector.common:
            return "\nor\n".join(absent)
        # Otherwise the selector's matchers would become labels of the alert.
        return "\nor\n".join(f"group by ({selector.job}) ({each})" for each in absent)


@dataclass(frozen=True)
class TargetLost(Condition):
    """A process that was a target within the first window is none any more, and was not finished.

    That is a fault if its endpoint waits at its end for a last scrape, or if another process of the
    job has started since: an orchestrator replaced it. One that is replaced at the same address is
    seen by its counter, which falls.
    """

    is_local: ClassVar[bool] = False
    headline: ClassVar[str] = "processes that disappeared before their end {value}"
    sentence: ClassVar[str] = (
        "Processes that are no longer scraped, or were replaced, within the last {window}, and had not "
        "reported that they were finished: {value}."
    )
    description: ClassVar[str] = (
        "in the last {window} a process disappeared or was replaced, and had not reported its end"
    )

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Count the unfinished processes without a target, and those whose counter fell."""
        within, on = duration(self.windows[0]), f"on ({selector.process})"
        finished = selected(cat.JOB_FINISHED.prometheus, selector)
        up, events = (selected(each, selector) for each in ("up", cat.MONITOR_EVENTS.prometheus))
        last, lingers = (
            _last(each, selector, within) for each in (cat.JOB_FINISHED, cat.JOB_LINGER)
        )
        gone = (
            f"{last} == 0\n"
            f"  and {on} last_over_time({up}[{within}])\n"
            f"  unless {on} {up}\n"
            f"  and {on} (\n"
            f"    {lingers} > 0\n"
            f"    or\n"
            f"    {last}\n"
            f"    and on ({selector.job}) ({finished} unless {on} {finished} offset {within})\n"
            f"  )"
        )
        replaced = (
            f"max by ({selector.process}) (resets({events}[{within}])) > 0\n"
            f"  and {on} {lingers} > 0\n"
            f"  unless {on} max_over_time({finished}[{within}]) > 0"
        )
        return (
            f"count by ({selector.job}) (max by ({selector.process}) (\n"
            f"  {gone}\n"
            f"  or {on}\n"
            f"  {replaced}\n"
            f"))"
        )


@dataclass(frozen=True)
class PushStopped(Condition):
    """A process that pushed within the first window does not any more, and was not finished.

    The last push of a process that ends says so, unless it failed.
    """

    is_local: ClassVar[bool] = False
    headline: ClassVar[str] = "processes that stopped pushing before their end {value}"
    sentence: ClassVar[str] = (
        "Processes whose metrics stopped within the last {window}, without a push that reported their "
        "end: {value}."
    )
    description: ClassVar[str] = (
        "in the last {window} a process stopped pushing, and had not reported its end"
    )

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Count the unfinished processes without samples, of those that were never a target."""
        within, on = duration(self.windows[0]), f"on ({selector.process})"
        return (
            f"count by ({selector.job}) (max by ({selector.process}) (\n"
            f"  {_last(cat.JOB_FINISHED, selector, within)} == 0\n"
            f"  unless {on} {selected(cat.JOB_FINISHED.prometheus, selector)}\n"
            f"  unless {on} last_over_time({selected('up', selector)}[{within}])\n"
            f"))"
        )


@dataclass(frozen=True)
class CollectorDown(Condition):
    """All Collectors of a scrape job, of which one was up within the first window, are down."""

    is_local: ClassVar[bool] = False
    headline: ClassVar[str] = "the Collector is down"
    sentence: ClassVar[str] = (
        "Prometheus has reached no Collector of this scrape job{since}, but did within the last "
        "{window}: the metrics of all jobs that push to it are missing."
    )
    description: ClassVar[str] = "all Collectors of a scrape job have been down for {wait}"

    def configured(
        self, bases: Mapping[Base, float | None], jobs: Sequence[str], collectors: Sequence[str]
    ) -> Self | None:
        """Return it for the scrape jobs of Collectors; None without one."""
        return replace(self, jobs=tuple(collectors)) if collectors else None

    def promql(self, by: Sequence[Label], selector: Selector) -> str:
        """Compare a day with now, since service discovery may have dropped the target."""
        within, found = duration(self.windows[0]), []
        for job in self.jobs:
            up = _up_of(job, selector)
            found.append(
                f"max by ({selector.job}) (max_over_time({up}[{within}])) == 1\n"
                f"unless on ({selector.job})\n"
                f"max by ({selector.job}) ({up}) == 1"
            )
        return "\nor\n".join(found)


def _up_of(job: str, selector: Selector) -> str:
    return selected("up", selector, f"{JOB}={quoted(job)}")


def _last(row: Instrument, selector: Selector, window: str) -> str:
    return f"last_over_time({selected(row.prometheus, selector)}[{window}])"
