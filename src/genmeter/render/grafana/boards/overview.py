"""The Overview dashboard: health, speed, failures and results of generation jobs."""

from __future__ import annotations

from genmeter.render.grafana.model import (
    BAD,
    GOOD,
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
    tile,
    total,
)
from genmeter.schema import indicators as ind
from genmeter.schema.metrics import (
    ALERT,
    ERROR_TYPE,
    FINISH_REASON,
    LEVEL,
    METRIC,
    MODEL,
    OUTCOME,
    SAMPLE_REASON,
    STEP,
    VERDICT,
)
from genmeter.schema.query import JOB

__all__ = ["OVERVIEW"]

_IS_IT_WELL = Row(
    "Is the job healthy?",
    (
        Panel(
            kind="gauge",
            queries=(
                Query(
                    series=(
                        SeriesRef(ind.SAMPLES_MADE, RANGE),
                        SeriesRef(ind.SAMPLES_EXPECTED, RANGE),
                    ),
                    # Only jobs with a known number of expected samples count.
                    formula="sum({0} and {1}) / (sum({1}) > 0)",
                    keep=(JOB,),
                    legend="Progress",
                ),
            ),
            title="Progress",
            description="Samples produced, including rejected ones, of the expected number.",
            unit="percentunit",
            width=3,
            height=4,
            axis_max=1,
            decimals=0,
            is_now=True,
        ),
        tile(
            Query(
                series=(
                    SeriesRef(ind.SAMPLES_EXPECTED, RANGE),
                    SeriesRef(ind.SAMPLES_MADE, RANGE),
                    SeriesRef(ind.SAMPLES, function="rate"),
                ),
                formula="max(clamp_min({0} - {1}, 0) / ({2} > 0))",
                keep=(JOB,),
                legend="Time left",
            ),
            title="Time left",
            description=(
                "Time to produce the remaining samples at the rate of the last five minutes; the "
                "longest of several jobs."
            ),
            unit="s",
            is_now=True,
            min_interval="5m",
        ),
        tile(
            query(ind.SUCCESS_SHARE, legend="Success rate"),
            unit="percentunit",
            alerts=("low_success_rate",),
            axis_max=1,
            decimals=1,
        ),
        tile(
            query(ind.CALLS, function="rate", legend="Calls per second"),
            title="Calls per second",
            description="Finished calls of a model per second, including failed and cancelled ones.",
            unit="reqps",
        ),
        tile(
            quantile(ind.CALL_DURATIONS, 0.95),
            title="Slowest 5 %",
            description="95th percentile of the duration of calls.",
            unit="s",
        ),
        tile(
            query(ind.COST, function="rate", formula="3600 * {0}", legend="Cost per hour"),
            title="Cost per hour",
            description=f"Cost of an hour at the current rate. {ind.COST.description}",
            unit="currencyUSD",
        ),
        tile(
            query(ind.COST_PER_SAMPLE, RANGE, legend="Cost per accepted sample"),
            title="Cost per sample",
            description=(
                f"{ind.COST_PER_SAMPLE.description} Includes only the selected models and steps."
            ),
            unit="currencyUSD",
            is_now=True,
        ),
        tile(query(ind.ACTIVE_CALLS, legend="Active calls")),
        lines(
            query(ind.SUCCESS_SHARE, legend="Succeeded", colour=GOOD),
            query(ind.FAILURE_SHARE, legend="Failed", colour=BAD),
            title="Success and error rate",
            description=(
                "Shares of the calls of a model that succeeded and failed, without cancelled ones."
            ),
            unit="percentunit",
            width=12,
            axis_max=1,
            alerts=("low_success_rate", "high_error_rate"),
        ),
        rate_panel(
            ind.CALLS,
            MODEL,
            per="second",
            title="Calls per second by model",
            unit="reqps",
            width=12,
        ),
    ),
)

_HOW_FAST = Row(
    "How fast is it?",
    (
        heat_map(ind.CALL_DURATIONS, unit="s", has_exemplars=True, links_to_traces=True),
        quantiles(
            ind.CALL_DURATIONS,
            title="Generation time: median, slowest 5 % and 1 %",
            unit="s",
            is_logarithmic=True,
            axis_min=None,
            links_to_traces=True,
        ),
        lines(
            quantile(ind.CALL_DURATIONS, 0.95, (MODEL,), legend=legend_of(MODEL)),
            title="Slowest 5 % by model",
            description="95th percentile of the duration of a model's calls.",
            unit="s",
            width=6,
        ),
        over_time(
            ind.CALL_TIME,
            MODEL,
            title="Mean time by model",
            unit="s",
            width=6,
            alerts=("high_generation_time",),
        ),
        over_time(ind.OUTPUT_SPEED, MODEL, title="Completion tokens per second of a call", width=6),
        lines(
            query(ind.LAST_CALL, formula="time() - {0}", by=(JOB,), legend=legend_of(JOB)),
            title="Time since the last call",
            description="Time since the last call of the job ended.",
            unit="s",
            width=6,
            alerts=("generation_stalled",),
        ),
    ),
)

_STREAMS = Row(
    "How fast does it stream?",
    (
        quantiles(
            ind.FIRST_CHUNKS,
            title="Time to first chunk: median, slowest 5 % and 1 %",
            unit="s",
            is_logarithmic=True,
            axis_min=None,
            width=8,
        ),
        quantiles(
            ind.OUTPUT_CHUNKS,
            title="Time per output chunk: median, slowest 5 % and 1 %",
            unit="s",
            is_logarithmic=True,
            axis_min=None,
            width=8,
        ),
        lines(
            quantile(ind.FIRST_CHUNKS, 0.95, (MODEL,), legend=legend_of(MODEL)),
            title="Slowest 5 % of first chunks by model",
            description="95th percentile of the time to the first chunk of a model's streams.",
            unit="s",
        ),
    ),
)

_WHY_FAIL = Row(
    "Why does it fail?",
    (
        lines(
            query(ind.ALERTS_FIRING, formula="{0} > 0", by=(ALERT,), legend=legend_of(ALERT)),
            width=24,
            height=6,
            style="bars",
            decimals=0,
            no_value="No alert fires",
        ),
        rate_panel(ind.CALL_FAILURES, ERROR_TYPE, per="minute", style="bars"),
        rate_panel(
            ind.CALLS,
            OUTCOME,
            per="minute",
            title="Calls per minute by outcome",
            description=(
                "Calls that succeeded, failed or were cancelled: the job left a stream early, or "
                "cancelled the task."
            ),
            style="bars",
        ),
        ratio_panel(ind.FAILURE_SHARE, MODEL, title="Error rate by model", axis_max=None),
        rate_panel(ind.RETRIES, ERROR_TYPE, per="minute", width=12, style="bars"),
        rate_panel(ind.FINISH_REASONS, FINISH_REASON, per="minute", width=12),
        ratio_panel(
            ind.TRUNCATED_SHARE,
            MODEL,
            starts_at_zero=False,
            title="Truncated completions by model",
            width=12,
            alerts=("generation_truncated",),
        ),
        ratio_panel(
            ind.RATE_LIMIT_SHARE,
            MODEL,
            starts_at_zero=False,
            title="Rate-limited retries per call by model",
            width=12,
            alerts=("rate_limited",),
        ),
        Panel(
            kind="gauge",
            queries=(
                query(
                    ind.FAILURE_SHARE,
                    RANGE,
                    formula="1 - {0} / {budget}",
                    legend="Error budget left",
                ),
            ),
            title="Error budget left",
            description=(
                "Share of the failures allowed by the objective that is left, over the time range; "
                "below 0 the objective is missed."
            ),
            unit="percentunit",
            width=6,
            axis_max=1,
            decimals=0,
            is_now=True,
            in_budgets=True,
        ),
        lines(
            query(ind.FAILURE_SHARE, "1h", formula="{0} / {budget}", legend="over 1 hour"),
            query(ind.FAILURE_SHARE, "6h", formula="{0} / {budget}", legend="over 6 hours"),
            title="Burn rate of the error budget",
            description="Failures as a multiple of the rate that the objective allows.",
            unit="none",
            width=18,
            alerts=("error_budget_burn:1h", "error_budget_burn:6h"),
            in_budgets=True,
        ),
    ),
)

_RESULTS = Row(
    "What does it produce?",
    (
        rate_panel(ind.SAMPLES, VERDICT, per="minute", style="bars"),
        ratio_panel(
            ind.REJECTED_SHARE,
            starts_at_zero=False,
            title="Share of rejected samples",
            alerts=("samples_rejected",),
        ),
        rate_panel(ind.REJECTIONS, SAMPLE_REASON, per="minute", style="bars"),
        rate_panel(ind.LOG_RECORDS, LEVEL, per="minute", width=12, style="bars"),
        lines(
            query(ind.CUSTOM_VALUES, by=(METRIC,), legend=legend_of(METRIC)),
            width=12,
            axis_min=None,
        ),
    ),
)


def _columns(*by: str) -> tuple[Query, ...]:
    return (
        total(ind.CALLS, *by, legend="Calls", unit="locale", decimals=0),
        query(ind.SUCCESS_SHARE, RANGE, by=by, legend="Succeeded", unit="percentunit", decimals=1),
        quantile(ind.CALL_DURATIONS, 0.5, by, window=RANGE, legend="Median", unit="s"),
        quantile(ind.CALL_DURATIONS, 0.95, by, window=RANGE, legend="Slowest 5 %", unit="s"),
        quantile(ind.CALL_DURATIONS, 0.99, by, window=RANGE, legend="Slowest 1 %", unit="s"),
        total(ind.TOKENS, *by, legend="Tokens"),
        total(ind.COST, *by, legend="Cost", unit="currencyUSD", decimals=2),
    )


def _table(title: str, by: str, height: int) -> Panel:
    return Panel(
        kind="table",
        queries=_columns(by),
        title=title,
        description=(
            "Calls, durations, tokens and cost over the time range; a click on a name filters by it. "
            "Tokens and cost include evaluations."
        ),
        width=24,
        height=height,
        is_now=True,
    )


_WHICH_ONE = Row(
    "Which one is it?",
    (
        _table("Models", MODEL.prometheus, 8),
        _table("Steps", STEP.prometheus, 7),
        _table("Jobs", JOB, 5),
    ),
)

OVERVIEW = Dashboard(
    name="genmeter-overview",
    title="genmeter / Overview",
    description="Health and speed of generation jobs, and why calls fail.",
    rows=(_IS_IT_WELL, _HOW_FAST, _STREAMS, _WHY_FAIL, _RESULTS, _WHICH_ONE),
)
