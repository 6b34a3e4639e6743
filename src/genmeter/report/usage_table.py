"""The usage of a job, by model, step, provider and phase."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from genmeter.events.answers import TokenCounts
from genmeter.report._runs import Runs
from genmeter.report.distribution import Distribution, sum_histograms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from genmeter.config.prices import PriceTable

__all__ = [
    "EVALUATION",
    "GENERATION",
    "GROUP_KEYS",
    "UNKNOWN_MODEL",
    "GroupKey",
    "Outcomes",
    "UsageRow",
    "UsageTable",
]

GENERATION = "generation"
EVALUATION = "evaluation"
UNKNOWN_MODEL = "unknown"


class GroupKey(NamedTuple):
    """The labels of a row; None is unknown.

    While a journal is read, its ``process`` is the id of a run.
    """

    model: str
    step: str | None
    provider: str | None
    phase: str
    response_model: str | None = None
    job: str | None = None
    process: str | None = None


GROUP_KEYS = GroupKey._fields
"""The keys that a table can be grouped by."""


@dataclass(slots=True)
class UsageRow:
    """The usage of one group.

    Attributes:
        calls: Calls, failed and cancelled ones included; 0 for evaluations.
        failures: Failed calls.
        cancelled: Calls that were cancelled, which are no failures.
        calls_without_usage: Calls whose tokens are unknown, and missing here.
        prompt_tokens: Input tokens.
        completion_tokens: Output tokens.
        total_tokens: Tokens in total, as reported by the provider.
        cache_read_tokens: Input tokens read from a cache.
        cache_write_tokens: Input tokens written to a cache.
        reasoning_tokens: Output tokens of reasoning.
        token_calls: Calls and evaluations with tokens; 0 if unknown.
        cost: USD; None if unknown.
        durations: Seconds of each call; empty for an endpoint and Prometheus.
        buckets: Cumulative histogram of the seconds; for an endpoint and Prometheus only.
        duration_sum: Sum of the seconds; for an endpoint and Prometheus only.
    """

    calls: int = 0
    failures: int = 0
    cancelled: int = 0
    calls_without_usage: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    token_calls: int = 0
    cost: float | None = None
    durations: array[float] = field(default_factory=lambda: array("d"))
    buckets: Counter[float] = field(default_factory=Counter)
    duration_sum: float = 0.0

    @classmethod
    def sum(cls, rows: Iterable[UsageRow]) -> UsageRow:
        """Return the sum of some rows."""
        rows, total = list(rows), cls()
        for row in rows:
            for name in _COUNTS:
                setattr(total, name, getattr(total, name) + getattr(row, name))
            total.durations.extend(row.durations)
            total.duration_sum += row.duration_sum
        total.buckets = sum_histograms([row.buckets for row in rows if row.buckets])
        costs = [row.cost for row in rows if row.cost is not None]
        total.cost = math.fsum(costs) if costs else None
        return total

    def is_empty(self) -> bool:
        """Return whether nothing was counted."""
        return not any(getattr(self, name) for name in _COUNTS)

    def success_share(self) -> float | None:
        """Return the share of calls that succeeded, 0 to 1, without cancelled ones; or None."""
        ended = self.calls - self.cancelled
        return (ended - self.failures) / ended if ended else None

    def mean(self) -> float | None:
        """Return the mean duration in seconds; None without any."""
        return self.distribution().mean()

    def quantile(self, share: float) -> float | None:
        """Return a quantile of the durations in seconds, as of a distribution; None without any."""
        return self.distribution().quantile(share)

    def distribution(self) -> Distribution:
        """Return the distribution of the durations in seconds."""
        return Distribution(self.durations, self.buckets, self.duration_sum)


_COUNTS = [name for name, kind in UsageRow.__annotations__.items() if kind == "int"]


@dataclass(slots=True)
class Outcomes:
    """How many there were, and how many failed."""

    count: int = 0
    failures: int = 0

    def add(self, *, is_failure: bool) -> None:
        """Count one."""
        self.count += 1
        self.failures += is_failure


@dataclass
class UsageTable:
    """The usage of a job.

    Attributes:
        source: ``journal``, ``export``, ``endpoint`` or ``prometheus``; ``several`` for different ones.
        window: Time before the newest event, or before now for ``prometheus``, that is included; None
            includes all.
        rows: The sums by key.
        conversations: Conversations, which consist of calls.
        evaluations: Evaluations; their tokens are in the rows, but they are not calls.
        since: Unix time of the first event; None if unknown.
        until: Unix time of the last event.
        unpriced: Models with tokens and without a price; empty without prices.
        estimated: Models whose cost is not exact, since it depends on the size of each call.
        skipped: Number of invalid lines or values.
        notes: Sentences about the completeness of the table.
        is_complete: Whether nothing is known to be missing.
        is_repeated: Whether something is known to be counted twice.
        unread: The sources that could not be read.
        runs: The writers of journals, by the process of the keys.
    """

    source: str
    window: timedelta | None = None
    rows: dict[GroupKey, UsageRow] = field(default_factory=dict)
    conversations: Outcomes = field(default_factory=Outcomes)
    evaluations: Outcomes = field(default_factory=Outcomes)
    since: float | None = None
    until: float | None = None
    unpriced: set[str] = field(default_factory=set)
    estimated: set[str] = field(default_factory=set)
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    is_complete: bool = True
    is_repeated: bool = False
    unread: list[str] = field(default_factory=list)
    runs: Runs = field(default_factory=Runs)

    @classmethod
    def sum(cls, tables: Sequence[UsageTable], window: timedelta | None = None) -> UsageTable:
        """Return the sum of some tables, without their notes."""
        kinds = {table.source for table in tables}
        total = cls(kinds.pop() if len(kinds) == 1 else "several", window)
        rows: dict[GroupKey, list[UsageRow]] = {}
        for table in tables:
            for key, row in table.rows.items():
                rows.setdefault(key, []).append(row)
            for outcomes, added in (
                (total.conversations, table.conversations),
                (total.evaluations, table.evaluations),
            ):
                outcomes.count += added.count
                outcomes.failures += added.failures
            for when in (table.since, table.until):
                if when is not None:
                    total.include_time(when)
            total.unpriced |= table.unpriced
            total.estimated |= table.estimated
            total.skipped += table.skipped
            total.unread += table.unread
            total.is_complete = total.is_complete and table.is_complete
            total.is_repeated = total.is_repeated or table.is_repeated
            total.runs.update(table.runs)
        total.rows = {
            key: each[0] if len(each) == 1 else UsageRow.sum(each) for key, each in rows.items()
        }
        return total

    @property
    def is_estimated(self) -> bool:
        """Whether quantiles are estimated from the buckets of histograms."""
        return self.source == "endpoint" or any(row.buckets for row in self.rows.values())

    def name_processes(self) -> None:
        """Replace the runs in the keys by the job and the process that they belong to."""
        names = self.runs.names()
        rows: dict[GroupKey, list[UsageRow]] = {}
        for key, row in self.rows.items():
            job, process = names.get(key.process or "", (key.job, key.process))
            rows.setdefault(key._replace(job=job, process=process), []).append(row)
        self.rows = {
            key: each[0] if len(each) == 1 else UsageRow.sum(each) for key, each in rows.items()
        }

    def note_partial(self, note: str) -> None:
        """Add a note on numbers that are missing."""
        self.is_complete = False
        self.notes.append(note)

    def note_repeated(self, note: str) -> None:
        """Add a note on numbers that are counted twice."""
        self.is_repeated = True
        self.notes.append(note)

    def row(self, key: GroupKey) -> UsageRow:
        """Return the row of a key, a new one at its first use."""
        if key not in self.rows:
            self.rows[key] = UsageRow()
        return self.rows[key]

    def note_skipped(self, unit: str, details: str = "") -> None:
        """Add a note on invalid lines or values."""
        plural = "" if self.skipped == 1 else "s"
        self.note_partial(f"Skipped {self.skipped:,} invalid {unit}{plural}{details}.")

    def include_time(self, when: float) -> None:
        """Extend the time that the table covers."""
        self.since = min(when, math.inf if self.since is None else self.since)
        self.until = max(when, -math.inf if self.until is None else self.until)

    def is_empty(self) -> bool:
        """Return whether nothing was counted."""
        return not (self.rows or self.conversations.count or self.evaluations.count)

    def price_sums(self, prices: PriceTable) -> None:
        """Replace the costs by prices of the sums, for a source that does not have each call."""
        if any(row.cost for row in self.rows.values()):
            self.notes.append(
                "Costs by the sums of tokens: what providers reported, service tiers, batches and "
                "modalities of single calls are not in them."
            )
        self.unpriced.clear()
        for key, row in self.rows.items():
            tokens = TokenCounts(
                row.prompt_tokens,
                row.completion_tokens,
                row.total_tokens,
                row.cache_read_tokens,
                row.cache_write_tokens,
                row.reasoning_tokens,
            )
            row.cost, is_exact = prices.usd_of_sum(
                tokens,
                calls=row.token_calls or row.calls,
                model=key.model,
                provider=key.provider,
                answered=key.response_model,
            )
            if not row.total_tokens:
                row.cost = None
            elif row.cost is None:
                self.unpriced.add(key.model)
            elif not is_exact:
                self.estimated.add(key.model)

    def group(self, by: Sequence[str]) -> dict[tuple[str | None, ...], UsageRow]:
        """Sum the rows by some of :data:`GROUP_KEYS`.

        Returns:
            Rows by the values of the keys, sorted, None last.
        """
        groups: dict[tuple[str | None, ...], list[UsageRow]] = {}
        for key, row in self.rows.items():
            groups.setdefault(tuple(getattr(key, name) for name in by), []).append(row)
        order = sorted(groups, key=lambda group: [(value is None, value or "") for value in group])
        return {group: UsageRow.sum(groups[group]) for group in order}

    def total(self) -> UsageRow:
        """Return the sum of all rows."""
        return UsageRow.sum(self.rows.values())
