"""The Tokens and cost dashboard: usage by model and step, call lengths and budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.render.grafana.model import (
    RANGE,
    Dashboard,
    Panel,
    Query,
    Row,
    SeriesRef,
    heat_map,
    legend_of,
    lines,
    over_time,
    query,
    rate_panel,
    ratio_panel,
    tile,
    total,
)
from genmeter.schema import indicators as ind
from genmeter.schema.metrics import (
    COST_SOURCE,
    MODALITY,
    MODEL,
    RESPONSE_MODEL,
    STEP,
    UNREAD_REASON,
    Label,
)

if TYPE_CHECKING:
    from genmeter.schema.indicators import Indicator

__all__ = ["TOKENS"]

_HOURLY = "3600 * {0}"
_DAY = "1d"

_HOW_MUCH = Row(
    "How much is it?",
    (
        tile(query(ind.TOKENS, RANGE, legend="Tokens"), width=4, is_now=True),
        tile(query(ind.COST, RANGE, legend="Cost"), unit="currencyUSD", width=4, is_now=True),
        tile(
            query(ind.COST, function="rate", formula=_HOURLY, legend="per hour"),
            title="Cost per hour",
            description=f"Cost of an hour at the current rate. {ind.COST.description}",
            unit="currencyUSD",
            width=4,
        ),
        tile(
            query(ind.COST_PER_CALL, RANGE, legend="Cost per call"),
            title="Cost per call",
            unit="currencyUSD",
            width=4,
            is_now=True,
        ),
        tile(
            query(ind.CACHE_HIT_SHARE, legend="Cache hits"),
            unit="percentunit",
            width=4,
            axis_max=1,
            decimals=1,
        ),
        tile(
            query(ind.REASONING_SHARE, legend="Reasoning"),
            unit="percentunit",
            width=4,
            axis_max=1,
            decimals=1,
        ),
    ),
)

_PROMPT, _COMPLETION, _TOTAL = (
    SeriesRef(indicator, function="rate")
    for indicator in (ind.PROMPT_TOKENS, ind.COMPLETION_TOKENS, ind.TOKENS)
)
_WHERE_TO = Row(
    "Where does it go?",
    (
        lines(
            Query(series=(_PROMPT,), legend="Prompt", colour="blue"),
            Query(series=(_COMPLETION,), legend="Completion", colour="purple"),
            Query(
                series=(_TOTAL, _PROMPT, _COMPLETION),
                formula="clamp_min({0} - {1} - {2}, 0)",
                legend="In the total only",
                colour="text",
            ),
            title="Tokens per second",
            description=(
                "Tokens of prompts and completions; tokens that the provider assigns to neither are "
                "in the total only."
            ),
            width=12,
            style="stack",
        ),
        rate_panel(ind.TOKENS, MODEL, per="second", title="Tokens per second by model", width=12),
        rate_panel(ind.COST, MODEL, per="hour", title="Cost per hour by model", unit="currencyUSD"),
        *(
            Panel(
                kind="bargauge",
                queries=(query(ind.COST, RANGE, by=(by,), legend=legend_of(by)),),
                title=title,
                unit="currencyUSD",
                is_now=True,
            )
            for title, by in (("Cost by model", MODEL), ("Cost by step", STEP))
        ),
    ),
)

_PER_CALL = Row(
    "How long are the calls?",
    (
        over_time(ind.CALL_TOKENS, MODEL, alerts=("high_token_usage:total",)),
        over_time(ind.PROMPT_LENGTH, MODEL, alerts=("high_token_usage:prompt",)),
        over_time(ind.COMPLETION_LENGTH, MODEL, alerts=("high_token_usage:completion",)),
        heat_map(ind.PROMPT_LENGTHS),
        heat_map(ind.COMPLETION_LENGTHS),
    ),
)

_CACHE = Row(
    "How much is cached, and how much is reasoning?",
    (
        ratio_panel(ind.CACHE_HIT_SHARE, MODEL, title="Cache hits by model", width=12, axis_max=1),
        ratio_panel(ind.REASONING_SHARE, MODEL, title="Reasoning by model", width=12, axis_max=1),
        rate_panel(ind.CACHE_WRITES, MODEL, per="minute", width=12, style="bars"),
        lines(
            *(
                Query(series=(ref,), by=(MODALITY,), legend=f"{{{{{MODALITY.prometheus}}}}} {side}")
                for ref, side in ((_PROMPT, "in"), (_COMPLETION, "out"))
            ),
            title="Tokens per second by modality",
            description=(
                "Tokens of prompts (in) and completions (out), as far as the response names the "
                "modality; others are unknown."
            ),
            width=12,
            style="stack",
        ),
    ),
)

_COMPLETE = Row(
    "Are the sums complete?",
    (
        ratio_panel(
            ind.UNREAD_SHARE,
            MODEL,
            starts_at_zero=False,
            title="Share of calls without usage",
            width=6,
            alerts=("usage_unread",),
        ),
        rate_panel(ind.UNREAD_CALLS, UNREAD_REASON, per="minute", width=6, style="bars"),
        rate_panel(
            ind.UNPRICED_CALLS,
            MODEL,
            per="minute",
            width=6,
            style="bars",
            alerts=("model_unpriced",),
        ),
        rate_panel(
            ind.COST,
            COST_SOURCE,
            per="hour",
            title="Cost per hour by source",
            description=(
                "Cost as reported by the provider, and by the job's prices for calls without a "
                "reported one."
            ),
            unit="currencyUSD",
            width=6,
        ),
    ),
)


def _spent(title: str, ref: SeriesRef, unit: str, *alerts: str) -> Panel:
    return lines(
        Query(series=(ref,), by=("job",), legend=legend_of("job")),
        title=title,
        description=(
            f"{ref.indicator.description} The lines are the shares of the budget at which the alerts "
            "fire; without a budget there are none."
        ),
        unit=unit,
        width=12,
        alerts=alerts,
    )


_BUDGET = Row(
    "What is left of the budget?",
    (
        _spent(
            "Cost of the last 24 hours",
            SeriesRef(ind.COST, _DAY),
            "currencyUSD",
            "cost_budget_burn:warning",
            "cost_budget_burn:critical",
        ),
        _spent(
            "Tokens of the last 24 hours",
            SeriesRef(ind.TOKENS, _DAY),
            "short",
            "token_budget_burn:warning",
            "token_budget_burn:critical",
        ),
    ),
)


def _costs(*by: Label) -> tuple[Query, ...]:
    return (
        total(ind.COST, *by, legend="Cost", unit="currencyUSD", decimals=2),
        Query(
            series=(SeriesRef(ind.COST, RANGE), SeriesRef(ind.TOKENS, RANGE)),
            formula="1e6 * {0} / ({1} > 0)",
            by=by,
            legend="Cost of a million tokens",
            unit="currencyUSD",
            decimals=2,
        ),
    )


def _columns(by: Label) -> tuple[Query, ...]:
    def share(indicator: Indicator, legend: str) -> Query:
        return query(indicator, RANGE, by=(by,), legend=legend, unit="percentunit", decimals=1)

    return (
        total(ind.TOKENS, by, legend="Tokens"),
        total(ind.PROMPT_TOKENS, by, legend="Prompt"),
        total(ind.COMPLETION_TOKENS, by, legend="Completion"),
        share(ind.CACHE_HIT_SHARE, "Cache hits"),
        share(ind.REASONING_SHARE, "Reasoning"),
        *_costs(by),
    )


def _answering() -> Panel:
    by = (MODEL, RESPONSE_MODEL)
    return Panel(
        kind="table",
        queries=(
            total(ind.CALLS, *by, legend="Calls", unit="locale", decimals=0),
            total(ind.TOKENS, *by, legend="Tokens"),
            *_costs(*by),
        ),
        title="Answering models",
        description=(
            "The models that answered, by the model that was called, over the time range; none if "
            "the response names no model. Tokens and cost include evaluations."
        ),
        width=24,
        height=9,
        is_now=True,
    )


_WHO = Row(
    "Which one is it?",
    (
        *(
            Panel(
                kind="table",
                queries=_columns(by),
                title=title,
                description=(
                    "Tokens and cost over the time range, including evaluations; a click on a name "
                    "filters by it."
                ),
                width=24,
                height=8,
                is_now=True,
            )
            for title, by in (("Models", MODEL), ("Steps", STEP))
        ),
        _answering(),
    ),
)

TOKENS = Dashboard(
    name="genmeter-tokens",
    title="genmeter / Tokens and cost",
    description="Tokens and cost by model and step, and what is left of a budget.",
    rows=(_HOW_MUCH, _WHERE_TO, _COMPLETE, _PER_CALL, _CACHE, _BUDGET, _WHO),
)
