"""The history of one monitor: windows over kept rows, and totals since the start."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import pytest

from genmeter.config.monitor import HistoryConfig
from genmeter.events.model import Call, Evaluation, Generation, Log, Metric, Sample, Score
from genmeter.history.store import History
from genmeter.history.token_report import TokenUsageReport
from genmeter.schema.query import HistoryQuery

CALL = Call("chat", "openai", "m", None, "unknown")
PLAIN: dict[str, Any] = {
    "call": CALL,
    "duration": 1.0,
    "success": True,
    "input_tokens": None,
    "output_tokens": None,
    "total_tokens": None,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "error_type": None,
    "raw_kwargs": {},
    "span": None,
}


def generation(time: float, model: str = "m", **fields: Any) -> Generation:
    """Return a call with default fields."""
    own = {
        "model_given": True,
        "finish_reason": None,
        "is_conversation": False,
        "turns": None,
        "retries": None,
    }
    return Generation(time=time, **{**PLAIN, **own, "call": CALL._replace(model=model), **fields})


def tokens(time: float, count: int, model: str = "m", **fields: Any) -> Generation:
    """Return a call with `count` input, `2 * count` output and `3 * count` total tokens."""
    return generation(
        time, model, input_tokens=count, output_tokens=2 * count, total_tokens=3 * count, **fields
    )


def evaluation(time: float, *scores: Score, **fields: Any) -> Evaluation:
    """Return an evaluation with default fields."""
    return Evaluation(time=time, **{**PLAIN, "evaluator": "judge", "scores": scores, **fields})


def history(*events: Any, capacity: int = 100) -> History:
    """Return a history with these events."""
    made = History(capacity)
    for event in events:
        made.record(event)
    return made


def usage(made: History, since: float | None = None) -> dict[str, tuple[int, ...]]:
    """Return the six counts of tokens and the calls of each model."""
    report = made.token_usage(since)
    assert [each.model_name for each in report.by_model] == sorted(
        each.model_name for each in report.by_model
    )
    return {each.model_name: astuple(each)[1:8] for each in report.by_model}


def covered(made: History, since: float) -> float | None:
    """Return the time since which a window is complete; None if all of it is."""
    report = made.token_usage(since)
    assert report.complete == (report.covers_since is None)
    return None if report.covers_since is None else report.covers_since.timestamp()


def values(made: History, name: str, since: float | None = None) -> list[float] | None:
    """Return the sorted values of a metric; None if it was never recorded."""
    found = made.samples(name, since)
    return None if found is None else sorted(found.value.tolist())


def test_totals_since_the_start_outlive_the_ring() -> None:
    """The totals include all overwritten calls."""
    made = history(*(tokens(float(n), 2**40 - n, "a") for n in range(50)), capacity=3)
    total = sum(2**40 - n for n in range(50))
    assert usage(made) == {"a": (total, 2 * total, 3 * total, 0, 0, 0, 50)}
    assert made.token_usage().complete


def test_window_sums_its_calls_by_model() -> None:
    """Earlier calls and calls without tokens do not count."""
    made = history(
        tokens(1.0, 1, "a"),
        tokens(2.0, 10, "a"),
        tokens(3.0, 100, "b", cache_read_tokens=7, cache_write_tokens=6, reasoning_tokens=5),
        generation(3.0, "c"),
    )
    assert usage(made, 2.0) == {
        "a": (10, 20, 30, 0, 0, 0, 1),
        "b": (100, 200, 300, 7, 6, 5, 1),
    }
    assert usage(made, 9.0) == {}
    assert usage(made)["a"] == (11, 22, 33, 0, 0, 0, 2)
    assert usage(made)["b"] == (100, 200, 300, 7, 6, 5, 1)


def test_empty_history_has_no_tokens() -> None:
    """The empty report is complete."""
    for since in (None, 0.0):
        assert history().token_usage(since) == TokenUsageReport([])
        assert history().token_usage(since).complete
    assert history().last_time is None


@pytest.mark.parametrize("count", [2**31, 2**40])
def test_window_of_large_counts_is_exact(count: int) -> None:
    """Sums are exact beyond the precision of a float."""
    events = [tokens(1.0, count - n, "ab"[n % 2]) for n in range(9_000)]
    made = history(*events, capacity=10_000)
    for model, first in (("a", 0), ("b", 1)):
        total = sum(count - n for n in range(first, 9_000, 2))
        assert usage(made, 0.0)[model] == (total, 2 * total, 3 * total, 0, 0, 0, 4_500)


def test_window_counts_failed_calls_of_models_with_tokens() -> None:
    """The totals since the start do too; a report of 0 tokens counts."""
    made = history(
        generation(1.0, "a", success=False),
        tokens(2.0, 0, "a"),
        generation(3.0, "b", success=False),
        generation(4.0, "a", is_conversation=True, turns=2),
    )
    assert usage(made, 0.0) == usage(made) == {"a": (0, 0, 0, 0, 0, 0, 2)}


def test_calls_without_usage_and_costs_are_summed() -> None:
    """Those of a window are those since the start, as far as it goes back."""
    made = history(
        tokens(1.0, 5, "a", cost=0.5),
        tokens(2.0, 5, "a", cost=0.25, unpriced=True),
        tokens(3.0, 5, "b"),
        generation(4.0, "b", unread="no_usage"),
        generation(5.0, "c", unread="stream"),
        generation(6.0, "d", success=False),
        generation(7.0, "e", success=False, cost=2.0, cost_reported=True),
    )
    expected = {"a": (1, 0.75), "b": (1, 0.0), "e": (0, 2.0)}
    for since in (None, 0.0):
        report = made.token_usage(since)
        assert {each.model_name: astuple(each)[8:] for each in report.by_model} == expected
        assert report.without_usage == {"b": 1, "c": 1}
    assert made.token_usage(2.0).cost_usd == 2.25
    assert made.token_usage(5.0).calls_without_usage == 1


def test_window_longer_than_the_ring_is_incomplete() -> None:
    """The report has the time of the first kept call."""
    made = history(*(tokens(float(n), 1) for n in range(10)), capacity=4)
    assert covered(made, 2.0) == 6.0
    assert covered(made, 6.0) is None
    assert covered(made, 7.0) is None
    samples = made.samples("generation_time")
    assert samples is not None
    assert samples.kept_since == 6.0


def test_completeness_is_by_ring() -> None:
    """Overwritten custom values do not make a window of calls incomplete, nor vice versa."""
    values = [Metric(float(n), "own", 1.0, {}) for n in range(10)]
    made = history(tokens(1.0, 5), *values, capacity=4)
    samples, own = made.samples("generation_time"), made.samples("own")
    assert samples is not None
    assert own is not None
    assert (samples.kept_since, own.kept_since) == (None, 6.0)


def test_full_ring_is_complete() -> None:
    """At its capacity no row is overwritten yet."""
    made = history(*(tokens(float(n), 1) for n in range(4)), capacity=4)
    assert covered(made, 0.0) is None
    assert made.size == 4


def test_tokens_of_evaluations_count() -> None:
    """They are in the same totals."""
    made = history(evaluation(1.0, input_tokens=5, total_tokens=5))
    assert usage(made) == usage(made, 0.0) == {"m": (5, 0, 5, 0, 0, 0, 1)}


def test_custom_name_with_a_colon_has_only_its_own_values() -> None:
    """The text after the colon is not a finish reason."""
    made = history(
        tokens(1.0, 10, "a", finish_reason="stop"),
        Metric(2.0, "latency:stop", 7.0, {}),
        Metric(3.0, "latency:a", 8.0, {}),
    )
    for name, value in (("latency:stop", 7.0), ("latency:a", 8.0)):
        samples = made.samples(name)
        assert samples is not None
        assert samples.value.tolist() == [value]


def test_afterimages_names_have_afterimages_values() -> None:
    """Each name has the same samples as in AfterImage, conversations included."""
    made = history(
        tokens(1.0, 10, "a", duration=2.0, finish_reason="stop"),
        generation(2.0, "b", duration=None, success=False),
        generation(3.0, "b", model_given=False, is_conversation=True, turns=4, duration=9.0),
        evaluation(4.0, Score("s", 0.5), Score("t", -1.0), duration=3.0, success=False),
        Metric(5.0, "own", 7.0, {}),
    )
    expected = {
        "generation_time": [2.0, 9.0],
        "success_rate": [0.0, 1.0, 1.0],
        "error_rate": [0.0, 0.0, 1.0],
        "prompt_token_count": [10],
        "completion_token_count": [20],
        "total_token_count": [30],
        "conversation_length": [4],
        "model_usage:a": [1.0],
        "model_usage:b": [1.0],
        "finish_reason:stop": [1.0],
        "evaluation_time": [3.0],
        "evaluation_error_rate": [1.0],
        "evaluation_score_s": [0.5],
        "evaluation_score_t": [-1.0],
        "own": [7.0],
    }
    assert {name: values(made, name) for name in expected} == expected


def test_unrecorded_name_has_no_samples() -> None:
    """Neither has an unknown name, nor a known one without an event."""
    made = history(generation(1.0))
    for name in ("unknown", "prompt_token_count", "evaluation_time", "model_usage:x", "", ":"):
        assert made.samples(name) is None


def test_known_name_without_samples_in_the_window_is_empty() -> None:
    """It differs from a name that was never recorded."""
    assert values(history(generation(1.0)), "generation_time", since=5.0) == []
    assert values(history(Metric(1.0, "own", 1.0, {})), "own", since=5.0) == []


def test_custom_values_add_to_afterimages_metrics() -> None:
    """`record_metric("error_rate", ...)` adds samples to the metric, but no call."""
    made = history(
        generation(1.0),
        Metric(2.0, "error_rate", 1.0, {}),
        Metric(2.0, "generation_time", 60.0, {}),
        Metric(2.0, "model_usage:m", 5.0, {}),
    )
    assert values(made, "error_rate") == [0.0, 1.0]
    assert values(made, "generation_time") == [1.0, 60.0]
    assert values(made, "model_usage:m") == [1.0, 5.0]
    assert values(made, "success_rate") == [1.0]


def test_samples_have_their_times() -> None:
    """Each value has the time of its event."""
    samples = history(generation(1.0, duration=5.0), generation(2.0, duration=6.0)).samples(
        "generation_time"
    )
    assert samples is not None
    assert list(zip(samples.time.tolist(), samples.value.tolist(), strict=True)) == [
        (1.0, 5.0),
        (2.0, 6.0),
    ]


def test_long_names_are_found() -> None:
    """A name is cut when it is stored, and found by its full length."""
    long = "x" * 300
    made = history(
        generation(1.0, "x" * 128, finish_reason="x" * 128),
        evaluation(1.0, Score("x" * 128, 0.5)),
        Metric(1.0, "x" * 128, 2.0, {}),
    )
    for name in (long, f"model_usage:{long}", f"finish_reason:{long}", f"evaluation_score_{long}"):
        assert values(made, name)
    assert values(made, "finish_reason:" + "X" * 128) == [1.0]


def test_each_ring_has_its_own_capacity() -> None:
    """Calls, scores and custom values, and samples do not overwrite one another."""
    made = history(
        *(Metric(float(n), "own", n, {}) for n in range(10)),
        *(Sample(float(n), True, None) for n in range(7)),
        generation(1.0),
        capacity=4,
    )
    assert values(made, "own") == [6.0, 7.0, 8.0, 9.0]
    assert values(made, "generation_time") == [1.0]
    assert (made.size, made.capacity, made.ring_capacity) == (9, 12, 4)


def test_last_call_is_the_newest_call() -> None:
    """Conversations and evaluations are not calls, and a clock set back changes nothing."""
    made = history(generation(5.0), generation(3.0), capacity=1)
    assert made.last_call == 5.0
    for event in (generation(9.0, is_conversation=True), evaluation(9.0)):
        made.record(event)
        assert made.last_call == 5.0
    assert history(generation(0.0)).last_call == 0.0
    assert history(evaluation(1.0)).last_call is None
    assert made.emptied().last_call is None


def test_bytes_of_a_call_match_the_documentation() -> None:
    """The help of the setting says what a call takes."""
    columns = History(10_000)._calls._columns.values()
    size = sum(column.itemsize for column in columns)
    (help_,) = (each.metadata["help"] for each in fields(HistoryConfig) if each.name == "capacity")
    assert f"{size} bytes" in help_


def test_emptied_history_keeps_its_settings() -> None:
    """It records costs and scales scores as the first one does."""
    made = History(10, scales={"s": (0.0, 4.0)}).emptied()
    made.record(tokens(1.0, 1_000_000, cost=5.0))
    made.record(evaluation(1.0, Score("s", 3.0)))
    (cost,) = made.window(HistoryQuery("calls", ("priced",), "cost"), (), 0.0).values()
    (share,) = made.window(HistoryQuery("scores", ("on_scale",), "share"), (), 0.0).values()
    assert (cost.sum, share.sum) == (5.0, 0.75)


def test_log_records_are_ignored() -> None:
    """A log record changes nothing."""
    made = history(Log(1.0, "info", "text", {}, None))
    assert made.size == 0


def test_last_time_and_emptied_history() -> None:
    """An emptied history has the same capacity, but no rows."""
    made = history(generation(3.0), generation(1.0), capacity=7)
    assert made.last_time == 3.0
    assert (made.emptied().size, made.emptied().capacity) == (0, 21)
    assert made.size == 2
