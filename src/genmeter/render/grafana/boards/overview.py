"""The Overview: is the job well, how fast is it, why does it fail, and what comes of it."""

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
    SAMPLE_REASON,
    STEP,
    VERDICT,
)
from genmeter.schema.query import JOB

__all__ = ["OVERVIEW"]

_IS_IT_WELL = Row(
    "Is it well?",
    (
        Panel(
            kind="gauge",
            queries=(
                Query(
                    series=(
                        SeriesRef(ind.SAMPLES_MADE, RANGE),
                        SeriesRef(ind.SAMPLES_EXPECTED, RANGE),
                    ),
                    # Of jobs that did not say how many samples they are to make, none count.
                    formula="sum({0} and {1}) / (sum({1}) > 0)",
                    keep=(JOB,),
                    legend="Progress",
                ),
            ),
            title="Progress",
            description="Samples made, rejected ones included, of those that the job is to make.",
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
                "How long the samples that are still to be made take, at the rate of the last five "
                "minutes; of several jobs the longest."
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
            description="Calls of a model that end in a second, failed ones included.",
            unit="reqps",
        ),
        tile(
            quantile(ind.CALL_DURATIONS, 0.95),
            title="Slowest 5 %",
            description="The time that 95 % of the calls do not exceed.",
            unit="s",
        ),
        tile(
            query(ind.COST, function="rate", formula="3600 * {0}", legend="Cost per hour"),
            title="Cost per hour",
            description=f"What an hour costs at the present rate. {ind.COST.description}",
            unit="currencyUSD",
        ),
        tile(
            query(ind.COST_PER_SAMPLE, RANGE, legend="Cost per accepted sample"),
            title="Cost per sample",
            description=(
                f"{ind.COST_PER_SAMPLE.description} Of models or steps that are chosen, what they "
                "cost."
            ),
            unit="currencyUSD",
            is_now=True,
        ),
        tile(query(ind.ACTIVE_CALLS, legend="Under way")),
        Panel(
            kind="timeseries",
            queries=(
                query(ind.SUCCESS_SHARE, legend="Succeeded", colour=GOOD),
                query(ind.FAILURE_SHARE, legend="Failed", colour=BAD),
            ),
            title="Success and error rate",
            description="Shares of the calls of a model that succeeded and that failed.",
            unit="percentunit",
            width=12,
            axis_max=1,
            alerts=("low_success_rate", "high_error_rate"),
            note="success_error_rate",
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
        heat_map(
            ind.CALL_DURATIONS,
            unit="s",
            has_exemplars=True,
            links_to_traces=True,
            note="generation_time",
        ),
        quantiles(
            ind.CALL_DURATIONS,
            title="Generation time: median, slowest 5 % and 1 %",
            unit="s",
            is_logarithmic=True,
            axis_min=None,
            links_to_traces=True,
        ),
        Panel(
            kind="timeseries",
            queries=(quantile(ind.CALL_DURATIONS, 0.95, (MODEL,), legend=legend_of(MODEL)),),
            title="Slowest 5 % by model",
            description="The time that 95 % of a model's calls do not exceed.",
            unit="s",
        ),
        over_time(
            ind.CALL_TIME,
            MODEL,
            title="Mean time by model",
            unit="s",
            alerts=("high_generation_time",),
        ),
        Panel(
            kind="timeseries",
            queries=(
                query(ind.LAST_CALL, formula="time() - {0}", by=(JOB,), legend=legend_of(JOB)),
            ),
            title="Time since the last call",
            description="How long ago the last call of the job ended.",
            unit="s",
            alerts=("generation_stalled",),
        ),
    ),
)

_WHY_FAIL = Row(
    "Why does it fail?",
    (
        Panel(
            kind="timeseries",
            queries=(
                query(ind.ALERTS_FIRING, formula="{0} > 0", by=(ALERT,), legend=legend_of(ALERT)),
            ),
            width=24,
            height=6,
            style="bars",
            decimals=0,
        ),
        rate_panel(ind.CALL_FAILURES, ERROR_TYPE, per="minute", style="bars"),
        ratio_panel(ind.FAILURE_SHARE, MODEL, title="Error rate by model", axis_max=None),
        rate_panel(ind.RETRIES, ERROR_TYPE, per="minute", style="bars"),
        rate_panel(ind.FINISH_REASONS, FINISH_REASON, per="minute"),
        ratio_panel(
            ind.TRUNCATED_SHARE,
            MODEL,
            starts_at_zero=False,
            title="Truncated completions by model",
            alerts=("generation_truncated",),
        ),
        ratio_panel(
            ind.RATE_LIMIT_SHARE,
            MODEL,
            starts_at_zero=False,
            title="Rate-limited retries per call by model",
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
                "What is left of the failures that the objective allows, over the time that is "
                "shown; below 0 more than that failed."
            ),
            unit="percentunit",
            width=6,
            axis_max=1,
            decimals=0,
            is_now=True,
            in_budgets=True,
        ),
        Panel(
            kind="timeseries",
            queries=(
                query(ind.FAILURE_SHARE, "1h", formula="{0} / {budget}", legend="over 1 hour"),
                query(ind.FAILURE_SHARE, "6h", formula="{0} / {budget}", legend="over 6 hours"),
            ),
            title="Burn rate of the error budget",
            description="How many times faster than the objective allows calls fail.",
            unit="none",
            width=18,
            alerts=("error_budget_burn:1h", "error_budget_burn:6h"),
            in_budgets=True,
        ),
    ),
)

_WHAT_COMES = Row(
    "What comes of it?",
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
        Panel(
            kind="timeseries",
            queries=(query(ind.CUSTOM_VALUES, by=(METRIC,), legend=legend_of(METRIC)),),
            width=12,
            axis_min=None,
        ),
    ),
)


def _columns(*by: str) -> tuple[Query, ...]:
    """Return the columns of a table of calls."""
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
            "Calls, times, tokens and cost over the time that is shown; a click on a name "
            "shows that one alone. Tokens and cost include evaluations."
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
    description="Whether generation jobs are well, how fast they are, and why calls fail.",
    rows=(_IS_IT_WELL, _HOW_FAST, _WHY_FAIL, _WHAT_COMES, _WHICH_ONE),
)
