"""What a source tells of a job, summed by model, step, provider and phase."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from genmeter.report.durations import Buckets, Durations

__all__ = ["EVALUATION", "GENERATION", "Key", "Ledger", "Outcomes", "Tally"]

GENERATION = "generation"
EVALUATION = "evaluation"


class Key(NamedTuple):
    """Whose calls they were; None is what the source does not say."""

    model: str
    step: str | None
    provider: str | None
    phase: str


@dataclass(slots=True)
class Tally:
    """The sums of one key.

    Attributes:
        calls: Calls of a model, failed ones among them; 0 for evaluations.
        failures: Those that failed.
        prompt_tokens: Input tokens.
        completion_tokens: Output tokens.
        total_tokens: The sum of the totals of the calls.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        reasoning_tokens: The part of the output that was reasoning.
        token_calls: Calls that told tokens, those of evaluations among them; 0 where unknown.
        cost: USD by the job's own prices; None where the source has none.
        durations: How long the calls took, each of them.
        buckets: The same of an endpoint, which has no more than a histogram.
    """

    calls: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    token_calls: int = 0
    cost: float | None = None
    durations: Durations = field(default_factory=Durations)
    buckets: Buckets = field(default_factory=Buckets)

    def merge(self, other: Tally) -> None:
        """Add the sums of another."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.cost is not None:
            self.cost = (self.cost or 0.0) + other.cost
        self.durations.merge(other.durations)
        self.buckets.merge(other.buckets)

    def is_empty(self) -> bool:
        """Say whether nothing was counted."""
        return not any(getattr(self, name) for name in _SUMS)


_SUMS = tuple(name for name in Tally.__slots__ if name not in {"cost", "durations", "buckets"})


@dataclass(slots=True)
class Outcomes:
    """How many there were, and how many of them failed."""

    count: int = 0
    failures: int = 0

    def add(self, *, is_failure: bool) -> None:
        """Count one."""
        self.count += 1
        self.failures += is_failure


@dataclass
class Ledger:
    """All that a report is made of.

    Attributes:
        source: ``journal``, ``export`` or ``endpoint``.
        tallies: The sums by key.
        conversations: They span calls, so they are none themselves.
        evaluations: Their tokens are in the tallies.
        since: Unix time of the first event that counts; None without one, or where unknown.
        until: Unix time of the last one.
        is_estimated: Durations are in the buckets of histograms.
        unpriced: Models that the job's own prices do not know.
        skipped: Lines that could not be used.
        notes: What a reader of the report must know, as sentences.
    """

    source: str
    tallies: dict[Key, Tally] = field(default_factory=dict)
    conversations: Outcomes = field(default_factory=Outcomes)
    evaluations: Outcomes = field(default_factory=Outcomes)
    since: float | None = None
    until: float | None = None
    is_estimated: bool = False
    unpriced: set[str] = field(default_factory=set)
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def tally(self, key: Key) -> Tally:
        """Give the sums of a key, new ones at its first use."""
        tally = self.tallies.get(key)
        if tally is None:
            tally = self.tallies[key] = Tally()
        return tally

    def happened(self, when: float) -> None:
        """Widen the time that the report covers."""
        self.since = min(when, math.inf if self.since is None else self.since)
        self.until = max(when, -math.inf if self.until is None else self.until)
