"""The Conversations dashboard: success, length and failures."""

from __future__ import annotations

from genmeter.render.grafana.model import (
    RANGE,
    Dashboard,
    Row,
    heat_map,
    over_time,
    quantile,
    quantiles,
    query,
    rate_panel,
    share_or_zero,
    tile,
)
from genmeter.schema import indicators as ind
from genmeter.schema.metrics import ERROR_TYPE, OUTCOME

__all__ = ["CONVERSATIONS"]

_IS_IT_WELL = Row(
    "Is the job healthy?",
    (
        tile(query(ind.CONVERSATIONS, RANGE, legend="Conversations"), width=6, is_now=True),
        tile(
            share_or_zero(ind.CONVERSATION_SUCCESS_SHARE, legend="Success rate"),
            unit="percentunit",
            width=6,
            axis_max=1,
            decimals=1,
        ),
        tile(
            query(ind.CONVERSATION_LENGTH, legend="Turns"),
            title="Turns per conversation",
            description="Mean number of turns per conversation.",
            width=6,
            decimals=1,
            alerts=("long_conversations",),
        ),
        tile(
            quantile(ind.CONVERSATION_DURATIONS, 0.95),
            title="Slowest 5 %",
            description="95th percentile of the duration of conversations.",
            unit="s",
            width=6,
        ),
        rate_panel(ind.CONVERSATIONS, OUTCOME, per="minute", style="bars"),
        rate_panel(ind.CONVERSATION_FAILURES, ERROR_TYPE, per="minute", style="bars"),
        rate_panel(ind.TURNS, per="minute"),
    ),
)

_HOW_LONG = Row(
    "How long are they?",
    (
        over_time(
            ind.CONVERSATION_LENGTH,
            title="Mean length over time",
            description="Mean number of turns per conversation.",
            width=12,
            decimals=1,
            alerts=("long_conversations",),
        ),
        heat_map(ind.CONVERSATION_LENGTHS),
        quantiles(
            ind.CONVERSATION_DURATIONS,
            title="Duration: median, slowest 5 % and 1 %",
            unit="s",
            is_logarithmic=True,
            axis_min=None,
            links_to_traces=True,
        ),
        heat_map(ind.CONVERSATION_DURATIONS, unit="s", has_exemplars=True, links_to_traces=True),
    ),
)

CONVERSATIONS = Dashboard(
    name="genmeter-conversations",
    title="genmeter / Conversations",
    description=("Success and length of conversations; split by job and instance only."),
    rows=(_IS_IT_WELL, _HOW_LONG),
)
