"""The Evaluation dashboard: scores, effort and failures."""

from __future__ import annotations

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
    quantile,
    quantiles,
    query,
    rate_panel,
    ratio_panel,
    share_or_zero,
    tile,
    total,
)
from genmeter.schema import indicators as ind
from genmeter.schema.metrics import ERROR_TYPE, EVALUATOR, MODEL, OUTCOME, SCORE_NAME

__all__ = ["EVALUATION"]

_SCORE = (SCORE_NAME, EVALUATOR)

_IS_IT_WELL = Row(
    "Is the job healthy?",
    (
        Panel(
            kind="bargauge",
            queries=(query(ind.MEAN_SCORE, RANGE, by=(SCORE_NAME,), legend=legend_of(SCORE_NAME)),),
            unit="none",
            width=9,
            height=5,
            axis_max=1,
            decimals=2,
            is_now=True,
        ),
        tile(
            share_or_zero(ind.EVALUATION_FAILURE_SHARE, legend="Failed"),
            unit="percentunit",
            height=5,
            decimals=1,
            alerts=("evaluation_failures",),
        ),
        tile(query(ind.EVALUATIONS, RANGE, legend="Evaluations"), height=5, is_now=True),
        tile(
            quantile(ind.EVALUATION_DURATIONS, 0.95),
            title="Slowest 5 %",
            description="95th percentile of the duration of evaluations.",
            unit="s",
            height=5,
        ),
        tile(
            query(ind.EVALUATION_TOKENS, RANGE, legend="Tokens"),
            title="Tokens",
            height=5,
            is_now=True,
        ),
        tile(
            query(ind.EVALUATION_COST, RANGE, legend="Cost"),
            title="Cost",
            unit="currencyUSD",
            height=5,
            is_now=True,
        ),
    ),
)

_HOW_GOOD = Row(
    "How good are the samples?",
    (
        over_time(
            ind.MEAN_SCORE,
            SCORE_NAME,
            title="Scores over time",
            unit="none",
            width=12,
            axis_max=1,
            decimals=2,
        ),
        heat_map(ind.SCORES, title="Distribution of the scores", unit="none"),
        lines(
            Query(
                series=(SeriesRef(ind.MEAN_SCORE, "1h"), SeriesRef(ind.MEAN_SCORE, "1d")),
                formula="{0} - {1}",
                by=_SCORE,
                legend=legend_of(*_SCORE),
            ),
            title="Mean of an hour against that of 24 hours",
            description=(
                "Mean score of an hour minus that of 24 hours; a value below 0 is a drop."
            ),
            unit="none",
            width=12,
            axis_min=None,
            decimals=2,
            alerts=("evaluation_score_drop",),
            is_change=True,
        ),
        Panel(
            kind="table",
            queries=(
                query(ind.MEAN_SCORE, RANGE, by=_SCORE, legend="Mean, 0 to 1", decimals=2),
                query(ind.RAW_SCORE, RANGE, by=_SCORE, legend="Mean, own scale", decimals=2),
                quantile(ind.SCORES, 0.1, _SCORE, window=RANGE, legend="Lowest 10 %"),
                total(ind.SCORES_GIVEN, *_SCORE, legend="Scores", unit="locale", decimals=0),
            ),
            title="Scores by evaluator",
            description=(
                "Means over the time range; the mean on the score's own scale is since the start of "
                "the job."
            ),
            width=12,
            is_now=True,
        ),
    ),
)

_WHY = Row(
    "Why does it fail, and what slows it down?",
    (
        rate_panel(ind.EVALUATIONS, OUTCOME, per="minute", style="bars"),
        ratio_panel(
            ind.EVALUATION_FAILURE_SHARE,
            EVALUATOR,
            starts_at_zero=False,
            title="Failed evaluations by evaluator",
            alerts=("evaluation_failures",),
        ),
        rate_panel(ind.EVALUATION_FAILURES, ERROR_TYPE, per="minute", style="bars"),
        heat_map(ind.EVALUATION_DURATIONS, unit="s", has_exemplars=True, links_to_traces=True),
        quantiles(
            ind.EVALUATION_DURATIONS,
            title="Evaluation time: median, slowest 5 % and 1 %",
            unit="s",
            is_logarithmic=True,
            axis_min=None,
            links_to_traces=True,
        ),
        lines(
            quantile(ind.EVALUATION_DURATIONS, 0.95, (EVALUATOR,), legend=legend_of(EVALUATOR)),
            title="Slowest 5 % by evaluator",
            description="95th percentile of the duration of an evaluator's evaluations.",
            unit="s",
        ),
        rate_panel(ind.EVALUATION_TOKENS, MODEL, per="second"),
        rate_panel(ind.EVALUATION_COST, MODEL, per="hour", unit="currencyUSD"),
    ),
)

EVALUATION = Dashboard(
    name="genmeter-evaluation",
    title="genmeter / Evaluation",
    description=(
        "Quality of the samples, and the effort of evaluations; only tokens and cost are split by "
        "model and step."
    ),
    rows=(_IS_IT_WELL, _HOW_GOOD, _WHY),
)
