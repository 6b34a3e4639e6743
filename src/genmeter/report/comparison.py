"""Runs side by side, and how each differs from the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.report.details import Details
    from genmeter.report.usage_table import UsageRow, UsageTable

__all__ = ["Block", "Comparison", "Difference", "Kind", "Line", "Run", "Value", "Verdict"]

Kind = Literal["count", "share", "usd", "seconds", "score"]
Verdict = Literal["better", "worse", ""]
Group = tuple[str | None, ...]
_LEAST_RATIO = 0.0005  # smaller ones are shown as 0.0 %


class Run(NamedTuple):
    """What some sources have.

    Attributes:
        name: Its name, such as ``A``.
        sources: The sources as they may be shown, without logins.
        table: Their sums.
        details: What they have beside the sums.
    """

    name: str
    sources: Sequence[str]
    table: UsageTable
    details: Details


class Value(NamedTuple):
    """A number of a run.

    Attributes:
        number: None if it is unknown.
        is_exact: Whether it is neither partial nor estimated.
        is_absent: Whether the run has nothing of its group.
    """

    number: float | None = None
    is_exact: bool = True
    is_absent: bool = False


class Difference(NamedTuple):
    """How a number differs from that of the first run.

    Attributes:
        amount: The difference.
        ratio: The difference as a part of the first run's number; None if that is 0.
        verdict: Which one is better, where a direction is known and both numbers are exact.
    """

    amount: float
    ratio: float | None
    verdict: Verdict


class Line(NamedTuple):
    """One number of all runs.

    Attributes:
        name: What it is.
        kind: How it is shown.
        values: The number of each run.
        is_lower_better: Whether less is better; if not, no direction is known.
    """

    name: str
    kind: Kind
    values: Sequence[Value]
    is_lower_better: bool

    def difference(self, run: int) -> Difference | None:
        """Return how a run differs from the first; None if a number is unknown or absent."""
        base, value = self.values[0], self.values[run]
        if base.number is None or value.number is None:
            return None
        amount = value.number - base.number
        verdict: Verdict = ""
        ratio = amount / base.number if base.number else None
        is_visible = bool(amount) and (ratio is None or abs(ratio) >= _LEAST_RATIO)
        if self.is_lower_better and is_visible and base.is_exact and value.is_exact:
            verdict = "better" if amount < 0 else "worse"
        return Difference(amount, ratio, verdict)


class Block(NamedTuple):
    """The numbers of one group.

    Attributes:
        group: The values of the keys; None for the sum of all groups.
        lines: Its numbers.
    """

    group: Group | None
    lines: Sequence[Line]


class _Measure(NamedTuple):
    """A number of a row of a report.

    Attributes:
        name: What it is.
        kind: How it is shown.
        read: Returns it from the row; None is unknown.
        doubt: What makes it inexact, beside a run that is incomplete.
        is_lower_better: Whether less is better; if not, no direction is known.
    """

    name: str
    kind: Kind
    read: Callable[[UsageRow], float | None]
    doubt: Literal["", "tokens", "cost", "durations"] = ""
    is_lower_better: bool = False

    @property
    def is_of_calls(self) -> bool:
        """Whether there is no such number without calls, such as those of evaluations only."""
        return self.kind in ("share", "seconds")


def _failure_share(row: UsageRow) -> float | None:
    success = row.success_share()
    return None if success is None else 1 - success


def _tokens(name: str) -> Callable[[UsageRow], float | None]:
    def read(row: UsageRow) -> float | None:
        # Of calls that are all without usage, nothing is known: 0 would be wrong.
        is_known = row.total_tokens or not row.calls_without_usage
        return float(getattr(row, name)) if is_known else None

    return read


_MEASURES = (
    _Measure("calls", "count", lambda row: float(row.calls)),
    _Measure("failed", "share", _failure_share, is_lower_better=True),
    _Measure("prompt tokens", "count", _tokens("prompt_tokens"), "tokens"),
    _Measure("completion tokens", "count", _tokens("completion_tokens"), "tokens"),
    _Measure("cost USD", "usd", lambda row: row.cost, "cost", is_lower_better=True),
    _Measure("p50 s", "seconds", lambda row: row.quantile(0.5), "durations", is_lower_better=True),
    _Measure("p95 s", "seconds", lambda row: row.quantile(0.95), "durations", is_lower_better=True),
)


@dataclass(frozen=True)
class Comparison:
    """Some runs, at least two, the first of which the others are compared with.

    Attributes:
        runs: The runs.
        by: The keys to group by.
    """

    runs: Sequence[Run]
    by: tuple[str, ...]

    def blocks(self) -> list[Block]:
        """Return the numbers of each group, sorted, and those of all groups with the scores last."""
        grouped = [run.table.group(self.by) for run in self.runs]
        order = sorted(
            {group for groups in grouped for group in groups},
            key=lambda group: [(value is None, value or "") for value in group],
        )
        blocks = [
            Block(group, self._lines([groups.get(group) for groups in grouped], group))
            for group in order
        ]
        total = self._lines([run.table.total() for run in self.runs], None)
        return [*blocks, Block(None, [*total, *self._scores()])]

    def _lines(self, rows: Sequence[UsageRow | None], group: Group | None) -> list[Line]:
        return [
            Line(
                measure.name,
                measure.kind,
                [
                    self._value(measure, run.table, row, group)
                    for run, row in zip(self.runs, rows, strict=True)
                ],
                measure.is_lower_better,
            )
            for measure in _MEASURES
        ]

    def _value(
        self, measure: _Measure, table: UsageTable, row: UsageRow | None, group: Group | None
    ) -> Value:
        if row is None or (measure.is_of_calls and not row.calls):
            # What is missing in a partial run may have been there.
            return Value(is_absent=table.is_complete or row is not None)
        doubts = {
            "": False,
            "tokens": row.calls_without_usage > 0,
            "cost": row.calls_without_usage > 0 or self._is_cost_partial(table, group),
            "durations": row.distribution().is_estimated,
        }
        is_exact = _is_whole(table) and not doubts[measure.doubt]
        return Value(measure.read(row), is_exact)

    def _is_cost_partial(self, table: UsageTable, group: Group | None) -> bool:
        """Return whether a model of the group is without a price, or has an estimated cost."""
        doubtful = table.unpriced | table.estimated
        if group is None or not doubtful:
            return bool(doubtful)
        return any(
            key.model in doubtful
            for key in table.rows
            if tuple(getattr(key, name) for name in self.by) == group
        )

    def _scores(self) -> list[Line]:
        """Return the mean of each score; which direction is better is not known."""
        found = [_score_means(run) for run in self.runs]
        absent = [
            Value(is_absent=run.table.is_complete and "prometheus" not in run.details.kinds)
            for run in self.runs
        ]
        return [
            Line(
                f"{name} mean",
                "score",
                [means.get(name, none) for means, none in zip(found, absent, strict=True)],
                is_lower_better=False,
            )
            for name in sorted({name for means in found for name in means})
        ]


def _is_whole(table: UsageTable) -> bool:
    return table.is_complete and not table.is_repeated


def _score_means(run: Run) -> Mapping[str, Value]:
    """Return the mean of each score, of what files and endpoints have together."""
    details = run.details
    means = {}
    for name in details.scores.keys() | details.scaled_scores.keys():
        values, scaled = details.scores.get(name), details.scaled_scores.get(name)
        count = (values.count if values else 0) + (scaled.count if scaled else 0)
        total = sum(values.values) if values else 0.0
        total += scaled.total if scaled else 0.0
        means[name] = Value(
            total / count if count else None,
            _is_whole(run.table) and not details.invalid_scores,
        )
    return means
