"""The report itself: sums by the keys that were asked for, with shares, quantiles and cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport
from genmeter.report.ledger import Outcomes, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from genmeter.config.prices import PriceTable
    from genmeter.report.ledger import Key, Ledger

__all__ = ["GROUP_KEYS", "Report", "Row", "make_report"]

GROUP_KEYS = ("model", "step", "provider", "phase")
"""What a report can be grouped by."""


@dataclass(frozen=True)
class Row:
    """One group of calls, or all of them.

    Attributes:
        group: The group's value of each key; None where the source does not say.
        sums: Calls, failures and tokens.
        success_share: Successes of all calls, 0 to 1; None without calls.
        cost: USD; None where no model of the group has a price.
        mean: Mean duration of the calls in seconds; None without any.
        p50: Half of the calls took no longer, in seconds.
        p95: 95 % of the calls took no longer, in seconds.
    """

    group: dict[str, str | None]
    sums: Tally
    success_share: float | None
    cost: float | None
    mean: float | None
    p50: float | None
    p95: float | None


@dataclass(frozen=True)
class Report:
    """What a job used.

    Attributes:
        source: ``journal``, ``export`` or ``endpoint``.
        by: What the rows are grouped by.
        rows: One for each group, sorted.
        total: All of them together.
        conversations: They span calls and are not among them.
        evaluations: Their tokens and cost are in the rows, and they are not among the calls.
        unpriced: Models with tokens and without a price, sorted; empty without prices.
        since: Unix time of the first event; None where unknown.
        until: Unix time of the last one.
        window: How long before the newest event the report begins; None means all.
        is_estimated: The quantiles are estimated from the buckets of histograms.
        skipped: Lines or values that could not be used.
        notes: What a reader must know, as sentences.
    """

    source: str
    by: tuple[str, ...]
    rows: list[Row]
    total: Row
    conversations: Outcomes
    evaluations: Outcomes
    unpriced: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    window: timedelta | None = None
    is_estimated: bool = False
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Say whether nothing was counted."""
        return not (self.rows or self.conversations.count or self.evaluations.count)


def make_report(
    ledger: Ledger,
    by: Sequence[str],
    prices: PriceTable | None = None,
    window: timedelta | None = None,
) -> Report:
    """Group what a source told.

    Args:
        ledger: What it told.
        by: Some of :data:`GROUP_KEYS`.
        prices: What tokens cost; None means the costs that the source itself tells, if any.
        window: What the ledger was cut to, to be said in the report.
    """
    groups: dict[tuple[str | None, ...], dict[Key, Tally]] = {}
    for key, tally in ledger.tallies.items():
        group = tuple(getattr(key, name) for name in by)
        groups.setdefault(group, {})[key] = tally
    ordered = sorted(groups, key=lambda group: [(value is None, value or "") for value in group])
    rows = [
        _row(dict(zip(by, group, strict=True)), groups[group], ledger, prices) for group in ordered
    ]
    return Report(
        source=ledger.source,
        by=tuple(by),
        rows=rows,
        total=_row({}, ledger.tallies, ledger, prices),
        conversations=ledger.conversations,
        evaluations=ledger.evaluations,
        unpriced=_unpriced(ledger, prices),
        since=ledger.since,
        until=ledger.until,
        window=window,
        is_estimated=ledger.is_estimated,
        skipped=ledger.skipped,
        notes=ledger.notes,
    )


def _row(
    group: dict[str, str | None],
    tallies: dict[Key, Tally],
    ledger: Ledger,
    prices: PriceTable | None,
) -> Row:
    sums = Tally()
    for tally in tallies.values():
        sums.merge(tally)
    durations = sums.buckets if ledger.is_estimated else sums.durations
    p50, p95 = durations.quantiles((0.5, 0.95))
    return Row(
        group=group,
        sums=sums,
        success_share=(sums.calls - sums.failures) / sums.calls if sums.calls else None,
        cost=sums.cost if prices is None else _cost(tallies, prices),
        mean=durations.mean(),
        p50=p50,
        p95=p95,
    )


def _cost(tallies: dict[Key, Tally], prices: PriceTable) -> float | None:
    cost = _usage(tallies.items()).cost(prices)
    return cost.total if cost.by_model else None


def _unpriced(ledger: Ledger, prices: PriceTable | None) -> tuple[str, ...]:
    if prices is None:
        return tuple(sorted(ledger.unpriced))
    told = ((key, tally) for key, tally in ledger.tallies.items() if tally.total_tokens)
    return _usage(told).cost(prices).unpriced


def _usage(tallies: Iterable[tuple[Key, Tally]]) -> TokenUsageReport:
    return TokenUsageReport(
        by_model=[
            ModelTokenUsage(
                key.model,
                tally.prompt_tokens,
                tally.completion_tokens,
                tally.total_tokens,
                tally.cache_read_tokens,
                tally.cache_write_tokens,
                tally.reasoning_tokens,
                tally.token_calls,
            )
            for key, tally in tallies
        ]
    )
