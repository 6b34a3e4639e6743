"""Queries as PromQL: selectors, windows, grouping and guards against a division by 0."""

from __future__ import annotations

import pytest

from genmeter.schema import indicators as ind
from genmeter.schema import metrics as cat
from genmeter.schema.query import CounterQuery, GaugeQuery, Selector, duration, quoted

ALL = Selector()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0s"), (0.0004, "0s"), (0.001, "1ms"), (0.25, "250ms"), (1.5, "1500ms")),
        *((1, "1s"), (59, "59s"), (60, "1m"), (90, "90s"), (300.0, "5m"), (5_400, "90m")),
        *((3_600, "1h"), (86_400, "1d"), (7 * 86_400, "7d"), (90_000, "25h")),
    ],
)
def test_durations_are_in_the_largest_unit_that_divides_them(seconds: float, text: str) -> None:
    """A duration is one whole number and a unit of Prometheus."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ('a "b"', r'"a \"b\""'),
        (r"a\d", r'"a\\d"'),
        (r"\"", r'"\\\""'),
        ("two\nlines", r'"two\nlines"'),
        ("größe {x}", '"größe {x}"'),
    ],
)
def test_texts_are_quoted_for_promql(text: str, written: str) -> None:
    """Only quotes, backslashes and newlines are escaped."""
    assert quoted(text) == written


def test_series_of_calls_match_the_phase() -> None:
    """Only genmeter sets the phase, so the matcher excludes other instrumentations."""
    assert (
        CounterQuery(instrument=cat.TOTAL_TOKENS).series(ALL)
        == 'genmeter_tokens_total{genmeter_phase!=""}'
    )
    assert CounterQuery(instrument=cat.SAMPLES).series(ALL) == "genmeter_samples_total"
    generation = CounterQuery(instrument=cat.TOTAL_TOKENS, where=((cat.PHASE, '="generation"'),))
    assert generation.series(ALL) == 'genmeter_tokens_total{genmeter_phase="generation"}'


def test_parts_of_a_histogram_are_separate_series() -> None:
    """Sum, count and buckets have their suffixes after the unit."""
    names = [
        CounterQuery(instrument=cat.CONVERSATION_LENGTH, part=part).series(ALL)
        for part in ("_sum", "_count", "_bucket")
    ]
    assert names == [f"genmeter_conversation_length_{part}" for part in ("sum", "count", "bucket")]


def test_matchers_have_a_fixed_order() -> None:
    """The order is: phase, the query's, the common ones, those by label."""
    selector = Selector(
        common='cluster="a",job=~"x|y"',
        by_label={cat.MODEL: '=~"$model"', cat.EVALUATOR: '="judge"', cat.STEP: '="s"'},
    )
    query = CounterQuery(instrument=cat.GENERATIONS, where=((cat.OUTCOME, '="failure"'),))
    assert query.series(selector) == (
        'genmeter_generations_total{genmeter_phase!="",genmeter_outcome="failure",'
        'cluster="a",job=~"x|y",gen_ai_request_model=~"$model",genmeter_step="s"}'
    )
    scores = CounterQuery(instrument=cat.SCORE, part="_count")
    assert scores.series(selector) == (
        'genmeter_evaluation_score_count{cluster="a",job=~"x|y",genmeter_evaluator="judge"}'
    )


def test_a_counter_query_sums_an_increase_or_a_rate() -> None:
    """The increase is the default; the sum is by the given labels, or by none."""
    query = CounterQuery(instrument=cat.LOGS)
    assert query.promql([], "5m", ALL) == "sum (increase(genmeter_logs_total[5m]))"
    assert query.promql(["job", "genmeter_level"], "$__range", ALL, function="rate") == (
        "sum by (job, genmeter_level) (rate(genmeter_logs_total[$__range]))"
    )


def test_a_gauge_query_takes_the_last_value() -> None:
    """A gauge is never summed over time, for any function."""
    gauge = GaugeQuery(instrument=cat.HISTORY_SIZE, aggregation="max")
    for function in ("increase", "rate"):
        assert gauge.promql(["job"], "5m", ALL, function=function) == (
            "max by (job) (last_over_time(genmeter_monitor_history_size[5m]))"
        )
    assert (
        GaugeQuery(instrument=cat.HISTORY_SIZE)
        .promql([], "5m", ALL)
        .startswith("sum (last_over_time(")
    )


def test_a_sum_is_rendered_without_a_denominator() -> None:
    """The query of an indicator that is not a ratio is a plain sum."""
    assert ind.COST.query.promql(["job"], "1d", ALL) == (
        'sum by (job) (increase(genmeter_cost_usd_total{genmeter_phase!=""}[1d]))'
    )
    assert ind.COST.query.promql(["job"], "1h", ALL, function="rate").startswith(
        "sum by (job) (rate("
    )


@pytest.mark.parametrize(("min_samples", "guard"), [(1, "> 0"), (2, ">= 2"), (20, ">= 20")])
def test_a_ratio_guards_its_denominator_by_min_samples(min_samples: int, guard: str) -> None:
    """Groups below the minimum have no value; nothing is divided by 0."""
    query = ind.EVALUATION_FAILURE_SHARE.query.at_least(min_samples)
    assert query.promql(["job"], "15m", ALL) == (
        'sum by (job) (increase(genmeter_evaluations_total{genmeter_outcome="failure"}[15m]))\n'
        "/\n"
        f"(sum by (job) (increase(genmeter_evaluations_total[15m])) {guard})"
    )
