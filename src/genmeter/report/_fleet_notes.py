"""What a fleet's report says about its completeness."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from genmeter.report._targets import FleetTarget, unseen_ends
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from genmeter.report._lives import SeriesLives
    from genmeter.report.promapi import Series

__all__ = ["INCOMPLETE", "Unknown", "missing_names", "name_query", "notes_of", "other_names"]

INCOMPLETE = "Incomplete:"
"""How a note begins if numbers are known to be missing."""
_MOST_NAMED = 3
_MOST_WARNINGS = 5
_RECENT_INTERVALS = 3.5
_RECENT_LEAST_SECONDS = 10.0  # a server returns samples some seconds after they were scraped
_RECENT_SECONDS = 300.0  # if the interval is unknown
_AMOUNTS = {cat.GENERATIONS.prometheus: "calls", cat.TOTAL_TOKENS.prometheus: "tokens"}
_SCRAPED = {
    *(name.removesuffix("_total") + "_created" for name in _AMOUNTS),
    *(row.prometheus for row in cat.INSTRUMENTS),
}
_TRANSLATION = (
    "set `translation_strategy: UnderscoreEscapingWithSuffixes` under `otlp:` of Prometheus, or "
    "`-opentelemetry.usePrometheusNaming` of VictoriaMetrics"
)
_NO_DURATIONS = (
    "No durations: the server has no classic histograms of them; rules and dashboards for classic ones "
    "are empty too. If it converts them to native ones, set `always_scrape_classic_histograms: true` for "
    "scrapes, and `convert_histograms_to_nhcb: false` under `otlp:` for pushes; if jobs push exponential "
    "ones, unset OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION."
)
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0


@dataclass
class Unknown:
    """What the stored samples do not say.

    Attributes:
        before: Calls and tokens at the first sample of series that began before the window.
        undated: Calls and tokens at the first sample of series of unknown birth.
        has_past: Whether the server has samples from before the window.
        lacks_buckets: Whether there are calls without a histogram of their durations.
        has_overflow: Whether a job has exceeded its limit of label combinations.
        unasked: Whether the server refused a question about the samples.
        down: Targets that do not answer at the end and had not finished, as ``up``.
        died: Numbers of processes that died, by job.
        other_names: Stored names of calls and tokens that are not those of a scrape.
    """

    before: Counter[str] = field(default_factory=Counter)
    undated: Counter[str] = field(default_factory=Counter)
    has_past: bool = True
    lacks_buckets: bool = False
    has_overflow: bool = False
    unasked: bool = False
    down: list[Series] = field(default_factory=list)
    died: list[Series] = field(default_factory=list)
    other_names: list[str] = field(default_factory=list)

    def add(self, name: str, lives: SeriesLives) -> None:
        """Add what is unknown of a series."""
        if unit := _AMOUNTS.get(name):
            self.before[unit] += round(lives.before)
            self.undated[unit] += round(lives.undated)


def notes_of(
    targets: Sequence[FleetTarget],
    dropped: Mapping[int, FleetTarget],
    unknown: Unknown,
    window: tuple[float, float],
    warnings: Iterable[str],
) -> list[str]:
    """Return the sentences of a report.

    Args:
        targets: The targets with samples in the window.
        dropped: The targets that are not counted, by ``id()``, and those that stand for them.
        unknown: What the samples do not say.
        window: Unix times of its begin and its end.
        warnings: What the server said about its answers.
    """
    counted = [target for target in targets if id(target) not in dropped]
    intervals = [each for target in counted if (each := target.interval) is not None]
    usual = median(intervals) if intervals else None
    notes = [
        *_beginning(counted, unknown, window[0]),
        *_endings(counted, usual, window[1]),
        *_gaps(counted),
        *_same(targets, dropped, counted),
        *_jobs(counted, unknown),
    ]
    if unknown.other_names:
        notes.append(
            f"Incomplete: the server also stores calls under {unknown.other_names[0]!r}, which is not "
            f"the name of a scrape; {_TRANSLATION}."
        )
    shown = list(warnings)
    notes += [f"The server warns: {each}" for each in shown[:_MOST_WARNINGS]]
    if len(shown) > _MOST_WARNINGS:
        notes.append(f"The server gave {len(shown) - _MOST_WARNINGS} more warnings.")
    if unknown.unasked:
        notes.append(
            "The server refused a question about its samples for its size: notes on targets that are "
            "down, died or counted twice may be missing."
        )
    return notes


def _beginning(targets: Sequence[FleetTarget], unknown: Unknown, since: float) -> list[str]:
    notes = []
    if not targets:
        notes.append("No samples in the window: no job was scraped, and none has pushed.")
    elif not unknown.has_past:
        first = min(target.first_at for target in targets)
        notes.append(
            f"The window begins {_time(since)}, and the first sample is of {_time(first)}: the server "
            "has none from before. If it started later, or keeps samples for a shorter time, jobs that "
            "ended before are missing."
        )
    if amount := _amount(unknown.before):
        notes.append(
            f"Not counted: up to {amount} of processes that began before the window and have no "
            "sample from before it, so that their time is unknown."
        )
    if amount := _amount(unknown.undated):
        notes.append(
            f"Counted, but up to {amount} may be from before the window: these series have no start "
            "times (`_created`), and no sample from before."
        )
    return notes


def _endings(targets: Sequence[FleetTarget], usual: float | None, until: float) -> list[str]:
    notes = []
    unseen: list[FleetTarget] = []
    ended: list[FleetTarget] = []
    running: list[FleetTarget] = []
    count = 0
    for target in targets:
        ends = len(unseen_ends(target))
        interval = target.interval or usual
        recent = _RECENT_SECONDS
        if interval is not None:
            recent = max(_RECENT_LEAST_SECONDS, _RECENT_INTERVALS * interval)
        if not target.is_finished():
            if until - target.last_at > recent:
                ends += 1
                ended.append(target)
            else:
                running.append(target)
        if ends:
            unseen.append(target)
            count += ends
    if count:
        tail = max((target.interval or usual or 0.0 for target in unseen), default=0.0)
        most = f", up to {_duration(tail)} or the gap in which it ended," if tail else ""
        latest = max((target.last_at for target in ended), default=None)
        when = "" if latest is None else f", the latest at {_time(latest)}"
        notes.append(
            f"{_count(count, 'process', 'processes')} ended without a last sample of the finished job "
            f"({_names(unseen)}{when}): what each counted after its last sample{most} is missing."
        )
    if running:
        oldest = max(until - target.last_at for target in running)
        notes.append(
            f"{_count(len(running), 'process', 'processes')} may still be running: what is counted "
            f"after the last sample, up to {_duration(oldest)} before the end, is missing."
        )
    return notes


def _gaps(targets: Sequence[FleetTarget]) -> list[str]:
    gaps = [(gap.end - gap.begin, target, gap) for target in targets for gap in target.gaps()]
    if not gaps:
        return []
    longest, target, gap = max(gaps, key=lambda each: each[0])
    exact = "counts over a gap are exact, except those of a process that ended in it"
    if not all(target.births for _, target, _ in gaps):
        exact += "; without start times (`_created`) a restart in a gap may be missed"
    where = f"{_names([each[1] for each in gaps])}, the longest of {_duration(longest)}"
    since = f"{_time(gap.begin)} ({target.name})"
    return [f"{_count(len(gaps), 'gap')} in the samples of {where} from {since}: {exact}."]


def _same(
    targets: Sequence[FleetTarget],
    dropped: Mapping[int, FleetTarget],
    counted: Sequence[FleetTarget],
) -> list[str]:
    notes = []
    twice = [target for target in targets if id(target) in dropped]
    if twice:
        pairs = [f"{_labels(each, dropped[id(each)])}" for each in twice[:_MOST_NAMED]]
        more = "" if len(twice) <= _MOST_NAMED else f" and {len(twice) - _MOST_NAMED} more"
        notes.append(
            f"Scraped twice, or scraped and pushed, and counted once: "
            f"{_count(len(twice), 'target')} not counted, {', '.join(pairs)}{more}, whose processes "
            "another target shows."
        )
    by_name = Counter(target.name for target in counted if target.process)
    unsure = {
        target.name: target
        for target in counted
        if by_name[target.name] > 1 and not (target.births or target.ids)
    }
    if unsure:
        notes.append(
            f"Targets with equal job and instance, but other labels ({_names(unsure.values())}), may "
            "be the same process, which is counted twice then; nothing in their samples says so."
        )
    if turns := [target for target in counted if target.alternates]:
        is_exact = all(target.births for target in turns)
        counted_as = (
            "each is counted up to the last time that it was seen"
            if is_exact
            else "without start times (`_created`) their counts are wrong"
        )
        notes.append(
            f"Several processes answer in turn for {_names(turns)}: {counted_as}. Give the job a name "
            "(GENMETER_JOB), so that each answers for all."
        )
    nameless = [target for target in counted if not (target.job and target.process)]
    if nameless:
        notes.append(
            f"Series of {_count(len(nameless), 'target')} have no `job` or `instance`: if several "
            "processes push into the same series, their counts are wrong; see docs/fleet.md."
        )
    pushed = [each for each in counted if each.job and not each.labels.get("job")]
    if pushed:
        notes.append(
            f"Series of {_count(len(pushed), 'target')} ({_names(pushed)}) have the service's name, but no "
            "label `job`: they are counted here, but rules and dashboards do not show them. "
            "VictoriaMetrics needs a relabelling for pushes; see docs/engines.md."
        )
    # A process has one life, so that nothing restarts.
    fallen = [each for each in counted if each.is_one_process and each.restarts]
    if fallen:
        notes.append(
            f"Incomplete: counters of {_names(fallen)} fall within one process. If it pushes with delta "
            "temporality, the server has stored the differences as if they were sums, and all numbers "
            "are too low: set OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative; see "
            "docs/engines.md."
        )
    return notes


def _jobs(targets: Sequence[FleetTarget], unknown: Unknown) -> list[str]:
    notes = []
    jobs = {target.labels.get("job") for target in targets}
    down = [FleetTarget(each.labels) for each in unknown.down if each.labels.get("job") in jobs]
    if down:
        notes.append(
            f"{INCOMPLETE} down at the end: {_names(down)}; what they count since their last sample is "
            "missing."
        )
    died = [each for each in unknown.died if each.labels.get("job") in jobs]
    if died:
        count = round(sum(each.samples[-1][1] for each in died))
        names = sorted({each.labels.get("job") or "?" for each in died})
        notes.append(
            f"{INCOMPLETE} {_count(count, 'process', 'processes')} of {', '.join(names[:_MOST_NAMED])} "
            "died: what each counted in its last second or so is missing."
        )
    if unknown.has_overflow:
        notes.append(
            "Incomplete: a job has exceeded its limit of label combinations, and the report lacks the "
            "excess; raise limits.combinations."
        )
    if unknown.lacks_buckets:
        notes.append(_NO_DURATIONS)
    return notes


def name_query(seconds: float) -> str:
    """Return the expression that finds the names of calls and tokens in any translation."""
    return (
        "count by (__name__) (last_over_time("
        '{__name__=~"genmeter[._](tokens|generations)([._].*)?"}'
        f"[{round(seconds * 1000)}ms]))"
    )


def other_names(found: Iterable[Series]) -> list[str]:
    """Return the names in the answer to `name_query` that are not those of a scrape.

    Any other translation of OTLP changes the name of the calls at least.
    """
    names = {series.labels.get("__name__", "") for series in found}
    return sorted(name for name in names if name not in _SCRAPED)


def missing_names(shown: str, others: Sequence[str], until: float, seconds: float) -> str:
    """Return the error for a server without metrics of genmeter, with the remedy.

    Args:
        shown: The server's address.
        others: The names that are not those of a scrape.
        until: Unix time of the window's end.
        seconds: The window's length.
    """
    shown = f"prometheus={shown!r}"
    if others:
        return f"{shown} stores other names than those of a scrape, such as {others[0]!r}; {_TRANSLATION}"
    return (
        f"{shown} has no metrics of genmeter within {_duration(seconds)} before {_time(until)}; use a "
        "longer window, and check that it scrapes the jobs or that they push to it"
    )


def _names(targets: Iterable[FleetTarget]) -> str:
    names = sorted({target.name for target in targets})
    more = "" if len(names) <= _MOST_NAMED else f" and {len(names) - _MOST_NAMED} more"
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def _labels(target: FleetTarget, other: FleetTarget) -> str:
    """Return a target's name, with the label in which it differs from one of the same name."""
    if target.name != other.name:
        return f"{target.name} ({other.name})"
    differing = sorted(
        f"{name}={text}" for name, text in target.labels.items() if other.labels.get(name) != text
    )
    return f"{target.name} ({', '.join(differing) or 'with fewer labels'})"


def _amount(amounts: Counter[str]) -> str:
    return " and ".join(f"{count:,} {unit}" for unit, count in amounts.items() if count)


def _count(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def _duration(seconds: float) -> str:
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
