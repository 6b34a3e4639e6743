"""Tokens and cost: where they go, how long calls are, and what is left of the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.render.grafana.model import RANGE, Dashboard, Panel, Query, Read, Row
from genmeter.render.grafana.parts import heat_map, legend_of, over_time, pace, shares, tile, total
from genmeter.schema import live_signals as live
from genmeter.schema import panel_signals as pan
from genmeter.schema.metrics import MODEL, STEP, Label

if TYPE_CHECKING:
    from genmeter.schema.signals import Signal

__all__ = ["TOKENS"]

_HOURLY = "3600 * {0}"
_DAY = "1d"

_HOW_MUCH = Row(
    "How much is it?",
    (
        tile(
            Query(reads=(Read(live.TOKENS, RANGE),), legend="Tokens"),
            width=4,
            is_now=True,
        ),
        tile(
            Query(reads=(Read(live.COST, RANGE),), legend="Cost"),
            unit="currencyUSD",
            width=4,
            is_now=True,
        ),
        tile(
            Query(reads=(Read(live.COST, function="rate"),), formula=_HOURLY, legend="per hour"),
            title="Cost per hour",
            description=f"What an hour costs at the present pace. {live.COST.description}",
            unit="currencyUSD",
            width=4,
        ),
        tile(
            Query(reads=(Read(pan.COST_PER_CALL, RANGE),), legend="Cost per call"),
            title="Cost per call",
            unit="currencyUSD",
            width=4,
            is_now=True,
        ),
        tile(
            Query(reads=(Read(pan.CACHE_HIT_SHARE),), legend="Cache hits"),
            unit="percentunit",
            width=4,
            most=1,
            decimals=1,
        ),
        tile(
            Query(reads=(Read(pan.REASONING_SHARE),), legend="Reasoning"),
            unit="percentunit",
            width=4,
            most=1,
            decimals=1,
        ),
    ),
)

_PROMPT, _COMPLETION, _TOTAL = (
    Read(signal, function="rate")
    for signal in (pan.PROMPT_TOKENS, pan.COMPLETION_TOKENS, live.TOKENS)
)
_WHERE_TO = Row(
    "Where does it go?",
    (
        Panel(
            kind="timeseries",
            queries=(
                Query(reads=(_PROMPT,), legend="Prompt", colour="blue"),
                Query(reads=(_COMPLETION,), legend="Completion", colour="purple"),
                Query(
                    reads=(_TOTAL, _PROMPT, _COMPLETION),
                    formula="clamp_min({0} - {1} - {2}, 0)",
                    legend="In the total only",
                    colour="text",
                ),
            ),
            title="Tokens per second",
            description=(
                "Tokens of prompts and completions; what the provider totals and gives to "
                "neither is in the total only."
            ),
            width=12,
            style="stack",
        ),
        pace(live.TOKENS, MODEL, per="second", title="Tokens per second by model", width=12),
        pace(live.COST, MODEL, per="hour", title="Cost per hour by model", unit="currencyUSD"),
        Panel(
            kind="bargauge",
            queries=(Query(reads=(Read(live.COST, RANGE),), by=(MODEL,), legend=legend_of(MODEL)),),
            title="Cost by model",
            unit="currencyUSD",
            is_now=True,
        ),
        Panel(
            kind="bargauge",
            queries=(Query(reads=(Read(live.COST, RANGE),), by=(STEP,), legend=legend_of(STEP)),),
            title="Cost by step",
            unit="currencyUSD",
            is_now=True,
        ),
    ),
)

_PER_CALL = Row(
    "How long are the calls?",
    (
        over_time(
            live.CALL_TOKENS,
            MODEL,
            alerts=("high_token_usage:total",),
            note="total_token_count",
        ),
        over_time(
            live.PROMPT_LENGTH,
            MODEL,
            alerts=("high_token_usage:prompt",),
            note="prompt_token_count",
        ),
        over_time(
            live.COMPLETION_LENGTH,
            MODEL,
            alerts=("high_token_usage:completion",),
            note="completion_token_count",
        ),
        heat_map(pan.PROMPT_LENGTHS),
        heat_map(pan.COMPLETION_LENGTHS),
    ),
)

_CACHE = Row(
    "What is saved, and what is thought?",
    (
        shares(pan.CACHE_HIT_SHARE, MODEL, title="Cache hits by model", width=12, most=1),
        shares(pan.REASONING_SHARE, MODEL, title="Reasoning by model", width=12, most=1),
        pace(pan.CACHE_WRITES, MODEL, per="minute", width=12, style="bars"),
        pace(
            live.UNPRICED_CALLS,
            MODEL,
            per="minute",
            style="bars",
            width=12,
            alerts=("model_unpriced",),
        ),
    ),
)


def _spent(title: str, read: Read, unit: str, *alerts: str) -> Panel:
    return Panel(
        kind="timeseries",
        queries=(Query(reads=(read,), by=("job",), legend=legend_of("job")),),
        title=title,
        description=(
            f"{read.signal.description} The lines are the shares of a budget at which the alert "
            "fires; there are none without a budget."
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
            Read(live.COST, _DAY),
            "currencyUSD",
            "cost_budget_burn:warning",
            "cost_budget_burn:critical",
        ),
        _spent(
            "Tokens of the last 24 hours",
            Read(live.TOKENS, _DAY),
            "short",
            "token_budget_burn:warning",
            "token_budget_burn:critical",
        ),
    ),
)


def _columns(by: Label) -> tuple[Query, ...]:
    def share(signal: Signal, legend: str) -> Query:
        return Query(
            reads=(Read(signal, RANGE),), by=(by,), legend=legend, unit="percentunit", decimals=1
        )

    return (
        total(live.TOKENS, by, legend="Tokens"),
        total(pan.PROMPT_TOKENS, by, legend="Prompt"),
        total(pan.COMPLETION_TOKENS, by, legend="Completion"),
        share(pan.CACHE_HIT_SHARE, "Cache hits"),
        share(pan.REASONING_SHARE, "Reasoning"),
        total(live.COST, by, legend="Cost", unit="currencyUSD", decimals=2),
        Query(
            reads=(Read(live.COST, RANGE), Read(live.TOKENS, RANGE)),
            formula="1e6 * {0} / ({1} > 0)",
            by=(by,),
            legend="Cost of a million tokens",
            unit="currencyUSD",
            decimals=2,
        ),
    )


_WHO = Row(
    "Which one is it?",
    tuple(
        Panel(
            kind="table",
            queries=_columns(by),
            title=title,
            description=(
                "Tokens and cost over the time that is shown, evaluations included; a click on a "
                "name shows that one alone."
            ),
            width=24,
            height=8,
            is_now=True,
        )
        for title, by in (("Models", MODEL), ("Steps", STEP))
    ),
)

TOKENS = Dashboard(
    name="genmeter-tokens",
    title="genmeter / Tokens and cost",
    description="Where tokens and money go, by model and step, and what is left of a budget.",
    rows=(_HOW_MUCH, _WHERE_TO, _PER_CALL, _CACHE, _BUDGET, _WHO),
)
