"""Token reports: token usage by model, as objects, a table, a frame and a cost."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.config.prices import PriceTable
from genmeter.events.answers import TokenCounts
from genmeter.tables.html import Column, html_table
from genmeter.tables.trackers import log_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    import pandas as pd

    from genmeter.config.prices import PricesLike

__all__ = [
    "CostReport",
    "ModelTokenUsage",
    "Retired",
    "TokenUsageReport",
    "UsageTotals",
    "report_of",
    "summarise",
    "unsplit_notes",
]


_INT64_MAX = 2**63 - 1
_NAME_WIDTH = 60
_INCOMPLETE = "Incomplete: {}; raise history.capacity."


class UsageTotals(NamedTuple):
    """The usage of all models.

    Args:
        tokens: Total tokens.
        usd: USD of the calls that have a price.
        calls: Calls with usage, and calls without.
        unpriced: Models with usage that has no price.
    """

    tokens: int
    usd: float
    calls: int
    unpriced: tuple[str, ...]

    @classmethod
    def sum(cls, totals: Iterable[UsageTotals]) -> UsageTotals:
        """Return the sum."""
        tokens, usd, calls, unpriced = zip(*totals, strict=True)
        models = dict.fromkeys(model for each in unpriced for model in each)
        return cls(sum(tokens), math.fsum(usd), sum(calls), tuple(models))


class Retired:
    """Totals of the histories of monitors that are gone."""

    def __init__(self) -> None:
        self._report = TokenUsageReport(by_model=[])
        self._totals = UsageTotals(0, 0.0, 0, ())
        self._until = 0.0

    def add(self, report: TokenUsageReport, last: float | None) -> None:
        """Add the totals of a history, whose newest event has the Unix time ``last``."""
        self._report = report = TokenUsageReport.merge([self._report, report])
        self._totals = UsageTotals(
            report.total_tokens,
            report.cost_usd,
            sum(usage.calls for usage in report.by_model) + report.calls_without_usage,
            tuple(usage.model_name for usage in report.by_model if usage.unpriced_calls),
        )
        self._until = max(self._until, last or 0.0)

    def totals(self) -> UsageTotals:
        """Return the usage of all models."""
        return self._totals

    def since(self, since: float | None) -> TokenUsageReport:
        """Return the totals, or an empty report for a window that starts at a Unix time.

        The latter is incomplete if some of the totals may belong to the window.
        """
        if since is None:
            return self._report
        return TokenUsageReport(by_model=[], complete=since > self._until)


def summarise(values: npt.NDArray[Any]) -> dict[str, float]:
    """Return ``mean``, ``min``, ``max`` and ``count`` of values; an empty dict without values."""
    if not len(values):
        return {}
    return {
        "mean": float(values.mean()),
        "min": values.min().item(),
        "max": values.max().item(),
        "count": len(values),
    }


@dataclass(frozen=True)
class ModelTokenUsage:
    """Token usage of the calls to one model.

    Equality and hash use only the first four fields, which are those of AfterImage's class.

    Attributes:
        model_name: The model's name.
        prompt_tokens: Input tokens, including cached ones.
        completion_tokens: Output tokens, including reasoning.
        total_tokens: The sum of the calls' totals.
        cache_read_tokens: Input tokens read from a cache.
        cache_write_tokens: Input tokens written to a cache.
        reasoning_tokens: Output tokens of reasoning.
        calls: Calls to the model, including failed ones.
        unpriced_calls: Calls with usage that was not priced, in whole or in part.
        cost_usd: USD of the calls that have a price, each priced when it ended.
    """

    model_name: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cache_read_tokens: int = field(default=0, compare=False)
    cache_write_tokens: int = field(default=0, compare=False)
    reasoning_tokens: int = field(default=0, compare=False)
    calls: int = field(default=0, compare=False)
    unpriced_calls: int = field(default=0, compare=False)
    cost_usd: float = field(default=0.0, compare=False)


_SUMS = tuple(f.name for f in fields(ModelTokenUsage))[1:]
_COUNTS = tuple(name for name in _SUMS if name != "cost_usd")
_SHOWN = ("calls", *_SUMS[:6])


@dataclass(frozen=True)
class CostReport:
    """The cost of tokens in USD.

    Attributes:
        by_model: USD for each model that has a price, sorted by name.
        total: Their sum, without unpriced models.
        unpriced: The models with usage that has no price, sorted.
        estimated: Models whose price depends on the size of each call, which sums do not say.
        calls_without_usage: Calls whose usage is unknown; their cost is missing.
        complete: Whether every event of the window was still kept; otherwise the cost of some is
            missing.
    """

    by_model: dict[str, float]
    total: float
    unpriced: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
    calls_without_usage: int = 0
    complete: bool = True

    def __str__(self) -> str:
        rows = [("model", "USD")]
        rows += [(_shown(model), f"{usd:,.6f}") for model, usd in self.by_model.items()]
        rows.append(("total", f"{self.total:,.6f}"))
        text = _table(rows)
        if self.unpriced:
            text += f"\nWithout a price: {', '.join(map(_shown, self.unpriced))}."
        if self.estimated:
            text += (
                "\nEstimated, since the price depends on the size of each call: "
                f"{', '.join(map(_shown, self.estimated))}; set MonitorConfig.prices to price each."
            )
        if self.calls_without_usage:
            text += f"\n{_without_usage(self.calls_without_usage)}"
        if not self.complete:
            text += f"\n{_INCOMPLETE.format('not every event of the window is kept')}"
        return text


@dataclass
class TokenUsageReport:
    """Token usage by model and in total, over a window or since the start.

    Totals are exact Python integers. Equality uses only the first four fields, which are those of
    AfterImage's class.

    Attributes:
        by_model: One entry for each model, sorted by name.
        total_prompt_tokens: Input tokens of all models.
        total_completion_tokens: Output tokens of all models.
        total_tokens: Total tokens of all models.
        complete: Whether every event of the window was still kept.
        covers_since: If incomplete, the time (aware, UTC) since which all events are kept.
        without_usage: Calls by model whose tokens are unknown, and missing in the sums.
    """

    by_model: list[ModelTokenUsage]
    total_prompt_tokens: int = 0
    total_completion_tokens: int = 0
    total_tokens: int = 0
    complete: bool = field(default=True, compare=False)
    covers_since: datetime | None = field(default=None, compare=False)
    without_usage: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def calls_without_usage(self) -> int:
        """Calls whose tokens are unknown, and missing in the sums."""
        return sum(self.without_usage.values())

    @property
    def cost_usd(self) -> float:
        """USD of the calls that have a price, each priced when it ended."""
        return math.fsum(usage.cost_usd for usage in self.by_model)

    @classmethod
    def merge(cls, reports: Iterable[TokenUsageReport]) -> TokenUsageReport:
        """Sum reports, for example of several monitors, into one.

        The sum is complete if all reports are. Otherwise it covers the time since the latest
        `covers_since`.

        Args:
            reports: Any number of reports.
        """
        reports = list(reports)
        sums: dict[str, list[Any]] = {}
        for usage in (usage for report in reports for usage in report.by_model):
            own = sums.setdefault(usage.model_name, [0] * len(_SUMS))
            for index, name in enumerate(_SUMS):
                own[index] += getattr(usage, name)
        without: Counter[str] = Counter()
        for report in reports:
            without.update(report.without_usage)
        partial = [report for report in reports if not report.complete]
        return cls(
            by_model=[ModelTokenUsage(model, *sums[model]) for model in sorted(sums)],
            total_prompt_tokens=sum(report.total_prompt_tokens for report in reports),
            total_completion_tokens=sum(report.total_completion_tokens for report in reports),
            total_tokens=sum(report.total_tokens for report in reports),
            complete=not partial,
            covers_since=max(
                (report.covers_since for report in partial if report.covers_since is not None),
                default=None,
            ),
            without_usage=dict(without),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return the report as a frame with one row a model, in the report's order.

        Returns:
            A frame with the columns ``model_name`` (object, of `str`), ``prompt_tokens``,
            ``completion_tokens``, ``total_tokens``, ``cache_read_tokens``,
            ``cache_write_tokens``, ``reasoning_tokens``, ``calls``, ``unpriced_calls``
            and ``cost_usd`` (float64). Counts are int64, or Python integers
            (object) if a value of the column does not fit into 64 bits.
        """
        import pandas as pd

        names = [usage.model_name for usage in self.by_model]
        columns = {"model_name": pd.Series(names, dtype="object")}
        for name in _COUNTS:
            values = [getattr(usage, name) for usage in self.by_model]
            fits = all(-_INT64_MAX <= value <= _INT64_MAX for value in values)
            columns[name] = pd.Series(values, dtype="int64" if fits else "object")
        costs = [usage.cost_usd for usage in self.by_model]
        return pd.DataFrame({**columns, "cost_usd": pd.Series(costs, dtype="float64")})

    def log_to(self, tracker: Any, *, prefix: str = "genmeter") -> None:
        """Log the numbers, the rows and the notes to the current run of an experiment tracker.

        See :func:`genmeter.tables.trackers.log_usage` for the names.

        Args:
            tracker: The module ``mlflow``, the module ``wandb`` or a run of it.
            prefix: What the names of all metrics begin with.

        Raises:
            ConfigError: The tracker is none of these, or ``prefix`` cannot be part of a name.
        """
        frame = self.to_frame()
        sums = {name: frame[name].sum() for name in frame.columns if name != "model_name"}
        total = {
            **{name: float(value) for name, value in sums.items()},
            "prompt_tokens": self.total_prompt_tokens,
            "completion_tokens": self.total_completion_tokens,
            "total_tokens": self.total_tokens,
            "calls_without_usage": self.calls_without_usage,
        }
        log_usage(
            tracker,
            total=total,
            frame=frame,
            keys=("model_name",),
            notes=self._notes(),
            prefix=prefix,
        )

    def cost(self, prices: PricesLike = None) -> CostReport:
        """Return the cost of the usage.

        Args:
            prices: None for the costs as recorded: each call by the prices of the monitor that
                recorded it, at its own time, or as its provider reported it. Otherwise a
                `PriceTable`, a mapping from model to price, the path of a JSON or TOML file, or
                ``"genai-prices"``: the sums of tokens at these prices. The report does not have
                each call, so a model whose price depends on the size of a call is ``estimated``;
                tiers, batches and reported costs of single calls are not in the sums either.

        Raises:
            ConfigError: The prices are invalid.
            MissingExtraError: ``"genai-prices"`` is not installed.
        """
        table = PriceTable.coerce(prices)
        if table is None:
            return self._recorded_cost()
        by_model: dict[str, float] = {}
        unpriced: set[str] = set()
        estimated: set[str] = set()
        for usage in self.by_model:
            name = usage.model_name
            tokens = TokenCounts(
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.total_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
                usage.reasoning_tokens,
            )
            usd, is_exact = table.usd_of_sum(tokens, calls=usage.calls, model=name)
            if usd is None:
                unpriced.add(name)
                continue
            by_model[name] = by_model.get(name, 0.0) + usd
            if not is_exact:
                estimated.add(name)
        return self._cost_report(by_model, unpriced, estimated)

    def _recorded_cost(self) -> CostReport:
        by_model: dict[str, float] = {}
        unpriced: set[str] = set()
        for usage in self.by_model:
            name = usage.model_name
            if usage.unpriced_calls:
                unpriced.add(name)
            if usage.cost_usd or not usage.unpriced_calls:
                by_model[name] = by_model.get(name, 0.0) + usage.cost_usd
        return self._cost_report(by_model, unpriced, set())

    def _cost_report(
        self, by_model: dict[str, float], unpriced: set[str], estimated: set[str]
    ) -> CostReport:
        return CostReport(
            by_model=dict(sorted(by_model.items())),
            total=math.fsum(by_model.values()),
            unpriced=tuple(sorted(unpriced)),
            estimated=tuple(sorted(estimated)),
            calls_without_usage=self.calls_without_usage,
            complete=self.complete,
        )

    def __str__(self) -> str:
        columns = self._columns()
        heads = tuple(each.title for each in columns)
        rows = zip(*(each.cells for each in columns), strict=True)
        text = _table([heads, *rows, tuple(each.total for each in columns)])
        return "\n".join([text, *self._notes()])

    def _repr_html_(self) -> str:
        columns = self._columns()
        if self.cost_usd:
            costs = [f"{usage.cost_usd:,.4f}" for usage in self.by_model]
            columns.append(Column("USD", costs, f"{self.cost_usd:,.4f}"))
        return html_table(columns, notes=self._notes())

    def _columns(self) -> list[Column]:
        columns = {
            name.removesuffix("_tokens").replace("_", " "): [
                getattr(usage, name) for usage in self.by_model
            ]
            for name in _SHOWN
        }
        totals = {title: sum(values) for title, values in columns.items()}
        totals |= {
            "prompt": self.total_prompt_tokens,
            "completion": self.total_completion_tokens,
            "total": self.total_tokens,
        }
        names = [_shown(usage.model_name) for usage in self.by_model]
        return [
            Column("model", names, "total", is_name=True),
            *(
                Column(title, [f"{each:,}" for each in counts], f"{totals[title]:,}")
                for title, counts in columns.items()
                if totals[title] or title in {"prompt", "completion", "total"}
            ),
        ]

    def _notes(self) -> list[str]:
        notes = []
        if self.calls_without_usage:
            notes.append(_without_usage(self.calls_without_usage, self.without_usage))
        parts = self.total_prompt_tokens + self.total_completion_tokens
        notes += unsplit_notes(self.total_tokens - parts)
        if not self.complete:
            kept = "not every event of the window is kept"
            if self.covers_since is not None:
                since = self.covers_since.isoformat(sep=" ", timespec="seconds")
                kept = f"only events since {since} are kept"
            notes.append(_INCOMPLETE.format(kept))
        return notes


def _without_usage(calls: int, by_model: Mapping[str, int] | None = None) -> str:
    shown = ""
    if by_model is not None:
        counts = (f"{_shown(model)}: {count:,}" for model, count in sorted(by_model.items()))
        shown = f" ({', '.join(counts)})"
    text = "their tokens and cost are unknown, and missing above."
    return f"Calls without usage: {calls:,}{shown}; {text}"


def unsplit_notes(tokens: int) -> list[str]:
    """Return what is said of tokens that are in the total, and neither in the input nor the output."""
    if tokens <= 0:
        return []
    text = "their calls count them neither as input nor as output."
    return [f"Tokens in the total only: {tokens:,}; {text}"]


def _shown(name: str) -> str:
    # A line feed or a lone surrogate in a caller's name would break the table.
    shown = "".join(char if char.isprintable() else "?" for char in name)
    return shown if len(shown) <= _NAME_WIDTH else f"{shown[: _NAME_WIDTH - 3]}..."


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Align names to the left and numbers to the right, with rules around the body."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], *([rule] if lines[1:-1] else []), lines[-1]])


def report_of(
    usages: Iterable[ModelTokenUsage],
    kept_since: float | None = None,
    without_usage: Mapping[str, int] | None = None,
) -> TokenUsageReport:
    """Create a report.

    Args:
        usages: The usage of each model.
        kept_since: Unix time since which events are kept, if later than the requested start.
        without_usage: Calls by model whose tokens are unknown.
    """
    by_model = sorted(usages, key=lambda usage: usage.model_name)
    return TokenUsageReport(
        by_model=by_model,
        total_prompt_tokens=sum(usage.prompt_tokens for usage in by_model),
        total_completion_tokens=sum(usage.completion_tokens for usage in by_model),
        total_tokens=sum(usage.total_tokens for usage in by_model),
        complete=kept_since is None,
        covers_since=None if kept_since is None else datetime.fromtimestamp(kept_since, UTC),
        without_usage=dict(without_usage or {}),
    )
