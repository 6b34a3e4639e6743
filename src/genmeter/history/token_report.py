"""Token reports: the tokens of a monitor's calls by model, as objects, a table, a frame and a cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    import pandas as pd

    from genmeter.config.prices import PricesLike

__all__ = ["CostReport", "ModelTokenUsage", "Retired", "TokenUsageReport", "report_of", "summarise"]


class Retired:
    """Totals of histories that are not kept any more."""

    def __init__(self) -> None:
        self._report = TokenUsageReport(by_model=[])
        self._until = 0.0

    def add(self, report: TokenUsageReport, last: float | None) -> None:
        """Take over the totals of a history since its start.

        Args:
            report: The totals.
            last: Unix time in seconds of the newest event in them.
        """
        self._report = TokenUsageReport.merge([self._report, report])
        self._until = max(self._until, last or 0.0)

    def since(self, since: float | None) -> TokenUsageReport:
        """Return the totals; incomplete if they may hold tokens from before the window.

        Args:
            since: Unix time in seconds; None means since the start of the process.
        """
        if since is None:
            return self._report
        return TokenUsageReport(by_model=[], complete=since > self._until)


def summarise(values: npt.NDArray[Any]) -> dict[str, float]:
    """Return ``mean``, ``min``, ``max`` and ``count`` of some values; empty if there are none."""
    if not len(values):
        return {}
    return {
        "mean": float(values.mean()),
        "min": values.min().item(),
        "max": values.max().item(),
        "count": len(values),
    }


_INT64_MAX = 2**63 - 1
_NAME_WIDTH = 60


@dataclass(frozen=True)
class ModelTokenUsage:
    """What the calls to one model used, in tokens.

    Equality and hash look at the first four fields only, so that a value made of these four (which
    is all that AfterImage's class has) equals one of ours.

    Attributes:
        model_name: The model's name.
        prompt_tokens: Input tokens, cached ones among them.
        completion_tokens: Output tokens, reasoning among them.
        total_tokens: The sum of the totals of the calls.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        reasoning_tokens: The part of the output that was reasoning.
        calls: Calls to the model, failed ones among them.
    """

    model_name: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cache_read_tokens: int = field(default=0, compare=False)
    cache_write_tokens: int = field(default=0, compare=False)
    reasoning_tokens: int = field(default=0, compare=False)
    calls: int = field(default=0, compare=False)


_COUNTS = tuple(f.name for f in fields(ModelTokenUsage))[1:]


@dataclass(frozen=True)
class CostReport:
    """What tokens cost, in USD.

    Attributes:
        by_model: USD for each model that has a price, sorted by name.
        total: Their sum; unpriced models add nothing to it.
        unpriced: The models without a price, sorted.
    """

    by_model: dict[str, float]
    total: float
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("model", "USD")]
        rows += [(_shown(model), f"{usd:,.6f}") for model, usd in self.by_model.items()]
        rows.append(("total", f"{self.total:,.6f}"))
        text = _table(rows)
        if self.unpriced:
            text += f"\nWithout a price: {', '.join(map(_shown, self.unpriced))}."
        return text


@dataclass
class TokenUsageReport:
    """Tokens by model and in all, over a window or since the start.

    Totals are exact Python integers. Equality leaves `complete` and `covers_since` out, so that a
    report made of AfterImage's four fields equals one of ours.

    Attributes:
        by_model: One entry for each model, sorted by name.
        total_prompt_tokens: Input tokens of all models.
        total_completion_tokens: Output tokens of all models.
        total_tokens: The total of all models.
        complete: Whether every event of the window was still kept.
        covers_since: Where it is not complete, the time (aware, UTC) from when on events are kept.
    """

    by_model: list[ModelTokenUsage]
    total_prompt_tokens: int = 0
    total_completion_tokens: int = 0
    total_tokens: int = 0
    complete: bool = field(default=True, compare=False)
    covers_since: datetime | None = field(default=None, compare=False)

    @classmethod
    def merge(cls, reports: Iterable[TokenUsageReport]) -> TokenUsageReport:
        """Sum reports, of several monitors for example, into one.

        The sum is complete if all of them are; else it covers the time from the latest
        `covers_since` on, since when all of them are complete.

        Args:
            reports: Any number of reports; none gives an empty report.
        """
        reports = list(reports)
        sums: dict[str, list[int]] = {}
        for usage in (usage for report in reports for usage in report.by_model):
            counts = sums.setdefault(usage.model_name, [0] * len(_COUNTS))
            for index, name in enumerate(_COUNTS):
                counts[index] += getattr(usage, name)
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
        )

    def to_frame(self) -> pd.DataFrame:
        """Return the report as a frame: one row a model, in the report's order.

        Returns:
            A frame with the columns ``model_name`` (object, of `str`), then ``prompt_tokens``,
            ``completion_tokens``, ``total_tokens``, ``cache_read_tokens``,
            ``cache_write_tokens``, ``reasoning_tokens`` and ``calls``: int64, or object (of Python
            integers, exact) if a value of the column does not fit into 64 bits.
        """
        import pandas as pd

        names = [usage.model_name for usage in self.by_model]
        columns = {"model_name": pd.Series(names, dtype="object")}
        for name in _COUNTS:
            values = [getattr(usage, name) for usage in self.by_model]
            fits = all(-_INT64_MAX <= value <= _INT64_MAX for value in values)
            columns[name] = pd.Series(values, dtype="int64" if fits else "object")
        return pd.DataFrame(columns)

    def cost(self, prices: PricesLike) -> CostReport:
        """Say what the tokens cost.

        Where a price depends on the size of a call, the size of a model's mean call decides; the
        counter ``genmeter.cost.usd`` prices each call by itself.

        Args:
            prices: A `PriceTable` or what makes one: a mapping from model to price, the path of a
                JSON or TOML file, or ``"genai-prices"``.

        Raises:
            ConfigError: The prices cannot be used.
            MissingExtraError: ``"genai-prices"`` was asked for and is not installed.
        """
        table = PriceTable.coerce(prices)
        if table is None:
            raise ConfigError("prices=None: a cost needs prices; give a PriceTable or a mapping")
        by_model: dict[str, float] = {}
        unpriced: set[str] = set()
        for usage in self.by_model:
            usd = table.cost(
                usage.model_name,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.cache_read_tokens,
                calls=usage.calls,
            )
            if usd is None:
                unpriced.add(usage.model_name)
            else:
                by_model[usage.model_name] = by_model.get(usage.model_name, 0.0) + usd
        return CostReport(
            by_model=dict(sorted(by_model.items())),
            total=math.fsum(by_model.values()),
            unpriced=tuple(sorted(unpriced)),
        )

    def __str__(self) -> str:
        columns = {
            "calls": [usage.calls for usage in self.by_model],
            "prompt": [usage.prompt_tokens for usage in self.by_model],
            "completion": [usage.completion_tokens for usage in self.by_model],
            "total": [usage.total_tokens for usage in self.by_model],
            "cache read": [usage.cache_read_tokens for usage in self.by_model],
            "cache write": [usage.cache_write_tokens for usage in self.by_model],
            "reasoning": [usage.reasoning_tokens for usage in self.by_model],
        }
        totals = {title: sum(values) for title, values in columns.items()}
        totals |= {
            "prompt": self.total_prompt_tokens,
            "completion": self.total_completion_tokens,
            "total": self.total_tokens,
        }
        titles = [t for t in columns if totals[t] or t in {"prompt", "completion", "total"}]
        rows = [("model", *titles)]
        for index, usage in enumerate(self.by_model):
            counts = (f"{columns[title][index]:,}" for title in titles)
            rows.append((_shown(usage.model_name), *counts))
        rows.append(("total", *(f"{totals[title]:,}" for title in titles)))
        return "\n".join([_table(rows), *self._words_on_completeness()])

    def _words_on_completeness(self) -> list[str]:
        if self.complete:
            return []
        if self.covers_since is None:
            return ["Incomplete: not every event of the window is kept; raise history.capacity."]
        since = self.covers_since.isoformat(sep=" ", timespec="seconds")
        return [f"Incomplete: only events since {since} are kept; raise history.capacity."]


def _shown(name: str) -> str:
    # A name is whatever a caller gave: a line feed or a lone surrogate would break the table.
    shown = "".join(char if char.isprintable() else "?" for char in name)
    return shown if len(shown) <= _NAME_WIDTH else f"{shown[: _NAME_WIDTH - 3]}..."


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Align rows, names to the left and numbers to the right, with rules around the body."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], *([rule] if lines[1:-1] else []), lines[-1]])


def report_of(
    usages: Iterable[ModelTokenUsage], kept_since: float | None = None
) -> TokenUsageReport:
    """Make a report.

    Args:
        usages: One for each model.
        kept_since: From when on (Unix time) events are kept, if that is later than asked.
    """
    by_model = sorted(usages, key=lambda usage: usage.model_name)
    return TokenUsageReport(
        by_model=by_model,
        total_prompt_tokens=sum(usage.prompt_tokens for usage in by_model),
        total_completion_tokens=sum(usage.completion_tokens for usage in by_model),
        total_tokens=sum(usage.total_tokens for usage in by_model),
        complete=kept_since is None,
        covers_since=None if kept_since is None else datetime.fromtimestamp(kept_since, UTC),
    )
