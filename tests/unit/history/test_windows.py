"""Windows over a history's rows: by group, from the ring or by minute."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.events.model import Sample, Score
from genmeter.history.store import History
from genmeter.history.windows import MAX_MINUTES, MINUTE_COLUMNS, GroupSum, Minutes
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.indicators import INDICATORS
from genmeter.schema.query import HistoryQuery
from history_events import START, conversation, evaluation, generation, metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genmeter.events.model import Event

CALLS = HistoryQuery("calls", ("inference",))
DURATION = HistoryQuery("calls", ("inference", "duration_known"), "duration")


def history(events: Iterable[Event], capacity: int = 1_000, **options: Any) -> History:
    """Return a history with these events."""
    made = History(capacity, **options)
    for event in events:
        made.record(event)
    return made


def counts(made: History, rows: HistoryQuery, *by: Any, since: float = 0.0) -> dict[Any, int]:
    """Count the rows of each group."""
    return {key: each.rows for key, each in made.window(rows, by, START + since).items()}


def test_group_has_count_sum_min_and_max() -> None:
    """Each group's numbers are those of its rows."""
    made = history(
        generation(model=model, duration=duration)
        for model, duration in (("a", 4.0), ("b", 1.0), ("a", 2.0), ("a", 9.0))
    )
    assert made.window(DURATION, (cat.MODEL,), 0.0) == {
        ("a",): GroupSum(3, 15.0, 2.0, 9.0),
        ("b",): GroupSum(1, 1.0, 1.0, 1.0),
    }
    assert made.window(DURATION, (), 0.0) == {(): GroupSum(4, 16.0, 1.0, 9.0)}


def test_window_includes_its_start() -> None:
    """A row at the start is in it, an earlier one is not."""
    made = history(generation(at) for at in (0, 10, 20))
    assert counts(made, CALLS, since=10) == {(): 2}
    assert counts(made, CALLS, since=20.5) == {}


def test_groups_without_rows_are_absent() -> None:
    """So is the only group without labels."""
    assert history([]).window(CALLS, (), 0.0) == {}
    assert history([evaluation()]).window(CALLS, (cat.MODEL,), 0.0) == {}


def test_absent_label_is_none() -> None:
    """Calls have no evaluator, so theirs is None."""
    assert counts(history([generation()]), CALLS, cat.EVALUATOR) == {(None,): 1}


def test_scores_are_grouped_by_name_and_evaluator() -> None:
    """Each pair is a group, named as the labels are in Prometheus."""
    made = history(
        [
            evaluation(evaluator="one", scores=(Score("x", 0.5), Score("y", 1.0))),
            evaluation(evaluator="two", scores=(Score("x", 0.25),)),
            evaluation(evaluator="one", scores=(Score("x", 0.75),)),
        ]
    )
    rows = HistoryQuery("scores", ("on_scale",), "share")
    assert made.window(rows, (cat.SCORE_NAME, cat.EVALUATOR), 0.0) == {
        ("x", "one"): GroupSum(2, 1.25, 0.5, 0.75),
        ("x", "two"): GroupSum(1, 0.25, 0.25, 0.25),
        ("y", "one"): GroupSum(1, 1.0, 1.0, 1.0),
    }


def test_groups_of_many_rows_in_any_order_are_whole() -> None:
    """Each pair of labels is one group, however many rows of others are between its rows."""
    order = random.Random(1)  # noqa: S311 - repeatable
    pairs = [(f"s{order.randrange(9)}", f"judge {order.randrange(9)}") for _ in range(1_000)]
    made = history(
        evaluation(evaluator=evaluator, scores=(Score(name, 1.0),)) for name, evaluator in pairs
    )
    rows = HistoryQuery("scores", ("on_scale",), "share")
    assert counts(made, rows, cat.SCORE_NAME, cat.EVALUATOR) == Counter(pairs)
    assert counts(made, rows, cat.EVALUATOR) == {
        (name,): count for name, count in Counter(each for _, each in pairs).items()
    }


def test_scores_are_scaled_to_shares() -> None:
    """A scale includes its ends; values off the scale and custom values do not count."""
    values = (1.0, 10.0, 0.99, 10.01, -1.0, 5.5)
    made = history(
        [
            evaluation(scores=tuple(Score("grade", value) for value in values)),
            metric(name="evaluation_score_grade", value=2.0),
        ],
        scales={"grade": (1.0, 10.0), "never passed": (0.0, 5.0)},
    )
    rows = HistoryQuery("scores", ("on_scale",), "share")
    assert made.window(rows, (), 0.0) == {(): GroupSum(3, 1.5, 0.0, 1.0)}


def test_samples_are_counted_by_verdict() -> None:
    """Only rejected ones, or all."""
    made = history(Sample(START, accepted, None) for accepted in (True, False, False))
    assert counts(made, HistoryQuery("samples", ("rejected",))) == {(): 2}
    assert counts(made, HistoryQuery("samples")) == {(): 3}


def test_conversations_do_not_count_as_calls() -> None:
    """Their turns count, but not their outcome or duration."""
    made = history([conversation(success=False), generation(turns=2), evaluation()])
    assert counts(made, CALLS) == {(): 1}
    assert counts(made, HistoryQuery("calls", ("inference", "failure"))) == {}
    assert made.window(HistoryQuery("calls", ("turns_known",), "turns"), (), 0.0) == {
        (): GroupSum(2, 5.0, 2.0, 3.0)
    }


def test_calls_without_a_price_are_unpriced() -> None:
    """Without prices no call is unpriced; a free call has a price, and one in part both."""
    events = [
        generation(cost=140e-6),
        generation(unpriced=True),
        evaluation(cost=0.0),
        generation(cost=0.0, unpriced=True),
    ]
    unpriced = HistoryQuery("calls", ("total_known", "unpriced"))
    priced = HistoryQuery("calls", ("priced",), "cost")
    made = history(events)
    assert counts(made, unpriced) == {(): 2}
    assert made.window(priced, (), 0.0) == {
        (): (3, pytest.approx(140e-6), 0.0, pytest.approx(140e-6))
    }
    without = history([generation(), evaluation()])
    assert (without.window(unpriced, (), 0.0), without.window(priced, (), 0.0)) == ({}, {})


def test_retries_for_rate_limits_are_summed() -> None:
    """Retries after other errors do not count, and conversations have none."""
    made = history(
        [
            generation(retries={"rate_limited": 2, "Timeout": 5}),
            generation(retries={"Timeout": 1}),
            generation(retries={"rate_limited": 10_000}),
            conversation(retries={"rate_limited": 7}),
        ]
    )
    rows = HistoryQuery("calls", ("inference",), "rate_limited")
    assert made.window(rows, (), 0.0)[()].sum == 10_002


def test_truncation_is_two_finish_reasons() -> None:
    """`length` and `max_tokens` count, for calls with a known reason."""
    reasons = ["length", "max_tokens", "stop", None, "length_of_rope"]
    made = history(generation(finish_reason=reason) for reason in reasons)
    assert counts(made, HistoryQuery("calls", ("inference", "truncated"))) == {(): 2}
    assert counts(made, HistoryQuery("calls", ("inference", "finish_known"))) == {(): 4}


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.id)
def test_every_alert_can_be_summed_by_its_labels(rule: Any) -> None:
    """A history has a column for each label that an alert is grouped by."""
    made = history([generation(), conversation(), evaluation(), Sample(START, False, None)])
    indicator = rule.condition.indicator
    parts = () if indicator is None else indicator.query.parts
    for rows in [part.rows for part in parts if part.rows is not None]:
        for group in made.window(rows, rule.by, 0.0):
            assert len(group) == len(rule.by)


# --- minutes where the ring does not reach -------------------------------------------------------


def by_minute() -> dict[str, HistoryQuery]:
    """Return the queries that have sums by minute."""
    parts = [part for each in INDICATORS for part in each.query.parts]
    rows = [part.rows for part in parts if part.rows is not None]
    return {each.by_minute: each for each in rows if each.by_minute is not None}


def test_kept_window_is_exact() -> None:
    """A window of kept rows is exact, not rounded to minutes."""
    made = history((generation(at) for at in range(20)), capacity=10)
    assert counts(made, by_minute()["calls"], since=10) == {(): 10}
    assert counts(made, by_minute()["calls"], since=15) == {(): 5}


def test_full_ring_is_exact() -> None:
    """At its capacity no row is overwritten yet."""
    made = history((generation(at) for at in range(10)), capacity=10)
    found = made.window(by_minute()["calls"], (), 0.0)
    assert found == {(): GroupSum(10, 10.0, 1.0, 1.0)}


def test_minutes_cover_overwritten_rows() -> None:
    """Sums by minute have no minimum and maximum."""
    events = [
        generation(60.0 * number, success=number % 4 > 0, total_tokens=7, cost=140e-6)
        for number in range(20)
    ]
    made = history([*events, evaluation(1_200.0, total_tokens=9)], capacity=5)
    found = {name: made.window(rows, (), 0.0)[()] for name, rows in by_minute().items()}
    assert {name: each.rows for name, each in found.items()} == {
        "calls": 20,
        "successes": 15,
        "failures": 5,
        "tokens": 0,
        "cost": 0,
        "ended": 20,
    }
    assert {name: each.sum for name, each in found.items()} == {
        "calls": 20.0,
        "successes": 15.0,
        "failures": 5.0,
        "tokens": 149.0,
        "cost": pytest.approx(20 * 140e-6),
        "ended": 20.0,
    }
    assert all(math.isnan(each.min) and math.isnan(each.max) for each in found.values())


def test_first_minute_counts_in_full() -> None:
    """A window that begins within a minute includes all of that minute."""
    first = START // 60 * 60 - START
    made = history((generation(first + at) for at in (0, 30, 59, 60, 90)), capacity=1)
    assert counts(made, by_minute()["calls"], since=first + 45) == {(): 5}
    assert counts(made, by_minute()["calls"], since=first + 60) == {(): 2}


def test_groups_without_minutes_are_absent() -> None:
    """As with rows, there is no group without events."""
    made = history((generation(at) for at in range(5)), capacity=1)
    assert made.window(by_minute()["failures"], (), 0.0) == {}


def test_groups_have_only_kept_rows() -> None:
    """There are no minutes by label, so overwritten rows are missing."""
    made = history((generation(at) for at in range(20)), capacity=5)
    assert counts(made, by_minute()["calls"], cat.MODEL) == {("atlas",): 5}


def test_sums_without_minutes_have_only_kept_rows() -> None:
    """A query without sums by minute is answered by the ring."""
    made = history((generation(at) for at in range(20)), capacity=5)
    assert counts(made, CALLS) == {(): 5}


def test_both_sides_of_a_share_have_minutes_or_the_numerator_has_none() -> None:
    """A share of kept rows never has a denominator of minutes."""
    for indicator in INDICATORS:
        rows = [part.rows for part in indicator.query.parts if part.rows is not None]
        if rows and rows[0].by_minute is not None:
            assert rows[-1].by_minute is not None, indicator.id


calls = st.tuples(
    st.integers(0, 600),
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["", "x", "y"]),
    st.floats(0, 100) | st.none(),
)


@given(st.lists(calls, max_size=60), st.integers(1, 40), st.integers(0, 600))
def test_sums_of_any_rows_are_right(
    passed: list[tuple[int, str, str, float | None]], capacity: int, since: int
) -> None:
    """For any order, capacity and window each group equals a sum by hand."""
    made = history(
        (
            generation(at, model=model, duration=duration, finish_reason=reason or None)
            for at, model, reason, duration in passed
        ),
        capacity=capacity,
    )
    groups: dict[Any, list[float]] = defaultdict(list)
    for at, model, _, duration in passed[-capacity:]:
        if at >= since and duration is not None:
            groups[model,].append(duration)
    assert made.window(DURATION, (cat.MODEL,), START + since) == {
        group: (len(values), pytest.approx(sum(values)), min(values), max(values))
        for group, values in groups.items()
    }


# --- sums by the minute ---------------------------------------------------------------------------

MINUTE = 60.0


def minutes(*times: float) -> Minutes:
    """Return sums of a failed call with 2 tokens and 0.5 USD at each time."""
    made = Minutes()
    for time in times:
        made.add(time, 1, 0, 1, 2, 0.5)
    return made


def totals(made: Minutes, since: float) -> list[float]:
    """Return the sum of each column."""
    return [made.total(column, since) for column in MINUTE_COLUMNS]


def test_sums_without_calls_are_zero() -> None:
    """Before the first call every sum is 0."""
    assert totals(Minutes(), 0.0) == [0, 0, 0, 0, 0.0, 0]


def test_each_column_is_summed_separately() -> None:
    """Calls, outcomes, tokens and cost do not mix."""
    made = Minutes()
    made.add(1.0, 1, 1, 0, 10, 0.25)
    made.add(2.0, 1, 0, 1, 0, 0.0)
    made.add(3.0, 0, 0, 0, 5, 0.5)
    assert totals(made, 0.0) == [2, 1, 1, 15, 0.75, 2]


@pytest.mark.parametrize(
    ("since", "calls"), [(0.0, 4), (59.0, 4), (60.0, 3), (61.0, 3), (119.999, 3), (120.0, 1)]
)
def test_minute_of_the_window_start_counts_in_full(since: float, calls: int) -> None:
    """A call before the window, but in its first minute, is in the sum."""
    assert minutes(59.0, 60.0, 119.0, 120.0).total("calls", since) == calls


def test_large_sums_are_exact() -> None:
    """Tokens are summed as integers."""
    made = Minutes()
    for second in range(3):
        made.add(40.0 * second, 1, 1, 0, 2**53 + 1, 0.0)
    assert made.total("tokens", 0.0) == 3 * 2**53 + 3


def test_clock_set_back_moves_nothing() -> None:
    """Calls count for their own time, even if that minute had calls before."""
    made = minutes(1_000.0, 5_000.0, 1_010.0)
    assert made.total("calls", 4_900.0) == 1
    assert made.total("calls", 900.0) == 3


def test_clock_set_forward_and_back_loses_nothing() -> None:
    """A year ahead by mistake does not lose the days before."""
    made = minutes(1_000.0, 1_000.0 + 366 * 86_400.0, 1_100.0)
    assert made.total("calls", 900.0) == 3


def test_three_days_are_kept() -> None:
    """A window of three days is complete; earlier minutes are dropped."""
    made = minutes(*(MINUTE * number for number in range(MAX_MINUTES + 10)))
    now = MINUTE * (MAX_MINUTES + 10)
    assert made.total("calls", now - 3 * 86_400.0) == MAX_MINUTES - 1
    assert made.total("calls", 0.0) == MAX_MINUTES


def test_minutes_without_calls_are_not_kept() -> None:
    """Only minutes with calls count against the limit."""
    made = minutes(*(3_600.0 * number for number in range(MAX_MINUTES)))
    assert made.total("calls", 0.0) == MAX_MINUTES


def test_memory_of_minutes_is_bounded() -> None:
    """Whatever the job's length, and however its clock is set."""
    tracemalloc.start()
    try:
        made = Minutes()
        for number in range(5 * MAX_MINUTES):
            made.add(MINUTE * (number % (3 * MAX_MINUTES)), 1, 1, 0, 10**9, 0.5)
            made.add(MINUTE * number, 1, 1, 0, 10**9, 0.5)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * 2**20


@given(
    st.lists(st.tuples(st.floats(0, 20_000), st.booleans(), st.integers(0, 2**60)), max_size=60),
    st.floats(-100, 20_100),
)
def test_sums_are_right_for_any_order_of_times(
    events: list[tuple[float, bool, int]], since: float
) -> None:
    """Each call counts for its own minute."""
    made = Minutes()
    for time, failed, tokens in events:
        made.add(time, 1, not failed, failed, tokens, 0.25)
    counted = [each for each in events if math.floor(each[0] / MINUTE) * MINUTE + MINUTE > since]
    assert totals(made, since) == [
        len(counted),
        sum(not failed for _, failed, _ in counted),
        sum(failed for _, failed, _ in counted),
        sum(tokens for _, _, tokens in counted),
        0.25 * len(counted),
        len(counted),
    ]
