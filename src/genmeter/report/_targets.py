"""The targets of a fleet: when each was sampled, how its processes ended, and which are the same."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

__all__ = ["FleetTarget", "Gap", "duplicates", "unseen_ends"]

_MAX_INTERVALS = 1000  # of a target, to find the usual one
_GAP_INTERVALS = 3.5
_MAX_GAPS = 1000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Gap(NamedTuple):
    """A time without samples.

    Attributes:
        begin: Unix time of the last sample before it.
        end: Unix time of the first sample after it.
    """

    begin: float
    end: float


class FleetTarget:
    """What was scraped under one address, or pushed under one id: mostly one process at a time.

    Args:
        labels: The labels that all series of the target share, such as ``job`` and ``instance``.

    Attributes:
        labels: As given.
        first_at: Unix time of the first sample.
        last_at: Unix time of the last sample.
        restarts: Unix times of samples at which a counter without a birth had fallen, or another
            process answered for the first time; sorted.
        ends: Of the lives of its series that ended, the times of the last sample and of the first of
            the next.
        births: Births of its series, each with what identifies the series within a process.
        ids: Values of ``service.instance.id`` of its processes.
        alternates: Whether several processes answer in turn.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self.first_at = math.inf
        self.last_at = -math.inf
        self.restarts: list[float] = []
        self.ends: set[tuple[float, float]] = set()
        self.births: set[Hashable] = set()
        self.ids: set[str] = set()
        self.alternates = False
        self._intervals: list[float] = []
        self._longest: list[Gap] = []
        self._scraped_at: float | None = None
        # The first and the last time of each process.
        self._seen_ids: dict[str, tuple[float, float]] = {}
        # Times at which "the job has finished" changed, with the value.
        self._finished: list[tuple[float, bool]] = []
        # Prometheus moves a pushed `service.instance.id` to this label.
        if self.is_one_process:
            self.ids.add(self.process or "")

    @property
    def job(self) -> str | None:
        """The job, from the labels of a scrape or of a push."""
        if job := self.labels.get("job"):
            return job
        name = self.labels.get("service_name")
        space = self.labels.get("service_namespace")
        return f"{space}/{name}" if name and space else name

    @property
    def process(self) -> str | None:
        """The address or the id."""
        return self.labels.get("instance") or self.labels.get("service_instance_id")

    @property
    def is_one_process(self) -> bool:
        """Whether the target is known to be one process, which has pushed under an id of its own."""
        return _UUID.fullmatch(self.process or "") is not None

    @property
    def name(self) -> str:
        """The job and the process, for a note."""
        return f"{self.job or '?'}/{self.process or '?'}"

    def include_time(self, at: float) -> None:
        """Extend the time that was sampled."""
        self.first_at = min(self.first_at, at)
        self.last_at = max(self.last_at, at)

    def add_restart(self, at: float) -> None:
        """Add the time of a fall."""
        index = bisect_left(self.restarts, at)
        if index == len(self.restarts) or self.restarts[index] != at:
            insort(self.restarts, at)

    def add_id(self, process_id: str, times: Sequence[float]) -> None:
        """Add samples with the id of the process; a new one is a restart."""
        self.ids.add(process_id)
        known = self._seen_ids.get(process_id)
        if known is None:
            if self._seen_ids:
                self.add_restart(times[0])
            first = times[0]
        else:
            first = known[0]
        self._seen_ids[process_id] = (first, times[-1])
        spans = sorted(self._seen_ids.values())
        if any(later[0] <= earlier[1] for earlier, later in pairwise(spans)):
            self.alternates = True

    def restarted_within(self, after: float, until: float) -> bool:
        """Return whether there was a fall later than one time and no later than another."""
        return bisect_right(self.restarts, until) > bisect_right(self.restarts, after)

    def set_finished(self, at: float, *, is_finished: bool) -> None:
        """Set whether the job had finished, as of a sample."""
        if not self._finished or self._finished[-1][1] != is_finished:
            self._finished.append((at, is_finished))

    def add_scrapes(self, samples: Sequence[tuple[float, float]]) -> None:
        """Add the next samples of the gauge that says whether the job has finished.

        Args:
            samples: Times and values.
        """
        previous = self._scraped_at
        for at, value in samples:
            self.include_time(at)
            self.set_finished(at, is_finished=value > 0)
        self._scraped_at = samples[-1][0]
        times = [at for at, _ in samples if previous is None or at > previous]
        if previous is not None:
            times.insert(0, previous)
        gaps = [Gap(begin, end) for begin, end in pairwise(times)]
        room = _MAX_INTERVALS - len(self._intervals)
        self._intervals += [gap.end - gap.begin for gap in gaps[:room]]
        if gaps and self._intervals:
            limit = _GAP_INTERVALS * median(self._intervals[:99])
            found = [gap for gap in gaps if gap.end - gap.begin > limit]
            self._longest = [*self._longest, *found][-_MAX_GAPS:]

    @property
    def interval(self) -> float | None:
        """The usual seconds between two scrapes; None if unknown."""
        return median(self._intervals) if self._intervals else None

    def is_finished(self, at: float = math.inf) -> bool:
        """Return whether the job had finished in the last sample before a time."""
        index = bisect_left(self._finished, (at, False))
        return index > 0 and self._finished[index - 1][1]

    def gaps(self) -> list[Gap]:
        """Return the gaps that are longer than a few intervals."""
        if self.interval is None:
            return []
        limit = _GAP_INTERVALS * self.interval
        return [gap for gap in self._longest if gap.end - gap.begin > limit]


def unseen_ends(target: FleetTarget) -> list[Gap]:
    """Return the ends of processes of a target that another process follows.

    Returns:
        Times between which a process ended that had not finished by its last sample. As few as
        explain the lives of all series: each series begins anew when it is first used.
    """
    found: list[Gap] = []
    latest = -math.inf
    if target.alternates:
        return found
    for begin, end in sorted(target.ends, key=lambda each: each[1]):
        if begin >= latest:
            latest = end
            if not target.is_finished(end):
                found.append(Gap(begin, end))
    return found


def duplicates(
    targets: Iterable[FleetTarget], weights: Mapping[int, float]
) -> dict[int, FleetTarget]:
    """Find the targets of processes that are counted by another target too.

    Two targets show the same process if they share a birth of a series or, if one of them has no
    births, an id.

    Args:
        targets: All targets.
        weights: What each has counted, by its ``id()``; the one with the most is kept.

    Returns:
        The targets to drop, by their ``id()``, and the kept one of each.
    """
    kept: dict[Hashable, list[FleetTarget]] = defaultdict(list)
    dropped: dict[int, FleetTarget] = {}
    for target in sorted(targets, key=lambda each: -weights.get(id(each), 0.0)):
        tokens: set[Hashable] = {*target.births, *(("id", each) for each in target.ids)}
        tokens.add(("id", target.process))
        others = {id(other): other for token in tokens for other in kept.get(token, ())}
        same = next((other for other in others.values() if _is_same(target, other)), None)
        if same is not None:
            dropped[id(target)] = same
            continue
        for token in tokens:
            kept[token].append(target)
    return dropped


def _is_same(one: FleetTarget, other: FleetTarget) -> bool:
    if one.births and other.births:
        return not one.births.isdisjoint(other.births)
    # A pushed id may be any text, such as the name of a pod.
    return not one.ids.isdisjoint(other.ids) or one.process in other.ids or other.process in one.ids
