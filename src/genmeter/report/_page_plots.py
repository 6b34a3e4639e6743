"""The plots of a page: which numbers of a report they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.report._page_parts import figure, shown
from genmeter.report.details import MOST, OUTCOMES
from genmeter.report.distribution import Distribution
from genmeter.report.formats import usd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from genmeter.files.page_plots import PagePlots
    from genmeter.report.details import Details
    from genmeter.report.usage_table import UsageTable
    from genmeter.tables.markup import Markup

__all__ = [
    "calls_over_time",
    "cost_by",
    "distributions",
    "durations",
    "durations_by_model",
    "errors",
    "first_chunks",
    "first_chunks_by_model",
    "scores",
    "tokens_by",
    "tokens_over_time",
]

_BOX = (0.05, 0.25, 0.5, 0.75, 0.95)
_MARKS = {"median": 0.5, "95th percentile": 0.95}
_COLOURS = {"succeeded": "good", "failed": "bad", "cancelled": "neutral"}
_UNKNOWN = "unknown"


def calls_over_time(draw: PagePlots, details: Details) -> Markup | None:
    """Draw the calls by outcome."""
    parts: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        outcome: (series.times, series.amounts)
        for outcome in OUTCOMES
        if (series := details.calls.get(outcome)) is not None
    }
    if not parts:
        return None
    title = "Calls over time"
    colours = [_COLOURS[outcome] for outcome in parts]
    return figure(title, draw.over_time(title, "calls", parts, colours), "by when they ended")


def tokens_over_time(draw: PagePlots, details: Details) -> Markup | None:
    """Draw the tokens by model."""
    parts = {
        shown(model): (series.times, series.amounts)
        for model, series in sorted(details.tokens.items())
        if any(series.amounts)
    }
    if not parts:
        return None
    title = "Tokens over time by model"
    return figure(title, draw.over_time(title, "tokens", parts), "by when their calls ended")


def tokens_by(draw: PagePlots, usage: UsageTable, key: str) -> Markup | None:
    """Draw the tokens of each model or step, if there are several."""
    rows = [(group[0], row) for group, row in usage.group((key,)).items() if row.total_tokens]
    if not rows or (key != "model" and len(rows) == 1):
        return None
    rows.sort(key=lambda each: -each[1].total_tokens)
    counts = {
        "prompt": [row.prompt_tokens for _, row in rows],
        "completion": [row.completion_tokens for _, row in rows],
        "in the total only": [
            max(0, row.total_tokens - row.prompt_tokens - row.completion_tokens) for _, row in rows
        ],
    }
    parts = {name: [min(count, MOST) for count in part] for name, part in counts.items()}
    title = f"Tokens by {key}"
    drawing = draw.bars(
        title,
        "tokens",
        [name or _UNKNOWN for name, _ in rows],
        {name: part for name, part in parts.items() if any(part)},
        [
            colour
            for colour, part in zip(("second", "main", "neutral"), parts.values(), strict=True)
            if any(part)
        ],
        [draw.count(min(row.total_tokens, MOST)) for _, row in rows],
    )
    return figure(title, drawing)


def cost_by(draw: PagePlots, usage: UsageTable, key: str) -> Markup | None:
    """Draw the cost of each model or step that has one."""
    rows = [
        (group[0], min(row.cost, MOST)) for group, row in usage.group((key,)).items() if row.cost
    ]
    if not rows or (key != "model" and len(rows) == 1):
        return None
    rows.sort(key=lambda each: -each[1])
    title = f"Cost by {key}"
    drawing = draw.bars(
        title,
        "USD",
        [name or _UNKNOWN for name, _ in rows],
        {"cost": [cost for _, cost in rows]},
        ["main"],
        [f"{usd(cost)} USD" for _, cost in rows],
        is_count=False,
    )
    note = "models without a price are missing" if usage.unpriced else ""
    return figure(title, drawing, note)


def errors(draw: PagePlots, details: Details, untyped: int) -> Markup | None:
    """Draw the failed calls by type of error; there must be some."""
    found = details.errors.most_common()
    if untyped:
        found.append(("type unknown", untyped))
    title = "Failed calls by type of error"
    counts = [count for _, count in found]
    texts = [draw.count(count) for count in counts]
    names = [name for name, _ in found]
    return figure(title, draw.bars(title, "calls", names, {"failed": counts}, ["bad"], texts))


def durations(draw: PagePlots, usage: UsageTable) -> Markup | None:
    """Draw the distribution of the durations of calls."""
    return _histogram(draw, "Duration of calls", usage.total().distribution())


def durations_by_model(draw: PagePlots, usage: UsageTable) -> Markup | None:
    """Draw the durations of each model."""
    found = {
        group[0] or _UNKNOWN: row.distribution() for group, row in usage.group(("model",)).items()
    }
    return distributions(draw, "Duration of calls by model", found)


def first_chunks(draw: PagePlots, found: Iterable[Distribution]) -> Markup | None:
    """Draw the distribution of first-chunk times."""
    return _histogram(draw, "Time to the first chunk", Distribution.sum(found))


def first_chunks_by_model(draw: PagePlots, found: Mapping[str, Distribution]) -> Markup | None:
    """Draw the first-chunk times of each model."""
    return distributions(draw, "Time to the first chunk by model", found)


def scores(draw: PagePlots, details: Details) -> list[Markup | None]:
    """Draw the spread of scores: those from 0 to 1, those beyond, and those of endpoints."""
    known = {name: each for name, each in details.scores.items() if each.count}
    unit = {name for name, each in known.items() if min(each.values) >= 0 and max(each.values) <= 1}
    parts = {
        "Scores between 0 and 1": {name: each for name, each in known.items() if name in unit},
        "Scores beyond 0 to 1": {name: each for name, each in known.items() if name not in unit},
        "Scores of endpoints, in their scale": {
            name: each.positions for name, each in details.scaled_scores.items()
        },
    }
    return [distributions(draw, title, part, "score") for title, part in parts.items()]


def distributions(
    draw: PagePlots,
    title: str,
    found: Mapping[str, Distribution],
    unit: str = "seconds",
    *,
    is_sorted: bool = True,
) -> Markup | None:
    """Draw the quantiles of some distributions, the largest first unless they have an order."""
    known = [(name, each) for name, each in found.items() if each.count]
    if not known:
        return None
    if is_sorted:
        known.sort(key=lambda item: -item[1].count)
    quantiles = [[min(each.quantile(share) or 0.0, MOST) for share in _BOX] for _, each in known]
    show = draw.seconds if unit == "seconds" else "{:.3g}".format
    texts = [
        f"{show(box[2])} (n = {each.count:,})"
        for box, (_, each) in zip(quantiles, known, strict=True)
    ]
    return figure(title, draw.boxes(title, unit, [name for name, _ in known], quantiles, texts))


def _histogram(draw: PagePlots, title: str, found: Distribution) -> Markup | None:
    marks = {name: min(found.quantile(share) or 0.0, MOST) for name, share in _MARKS.items()}
    values = [min(value, MOST) for value in found.values]
    return figure(title, draw.histogram(title, "seconds", values, found.buckets, marks))
