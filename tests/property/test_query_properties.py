"""Queries: a history's rows and Prometheus's series result in the same counts."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import genmeter.clock
from genmeter import HistoryConfig, MonitorConfig
from genmeter.config.prices import PriceTable
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.indicators import INDICATORS
from genmeter.schema.query import Selector
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.samples import Sample

    from genmeter import GenerationMonitor
    from genmeter.history.store import History
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import CounterQuery

START = 1_000_000.0
SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
QUERIES = {
    f"{indicator.id}.{number}": part
    for indicator in INDICATORS
    for number, part in enumerate(indicator.query.parts)
    if part.rows is not None
}
GROUPINGS: tuple[tuple[Label, ...], ...] = tuple(
    dict.fromkeys(
        rule.by
        for rule in ALERT_RULES
        if rule.condition.indicator is not None and rule.condition.indicator.query.parts[0].rows
    )
)
CONFIG = MonitorConfig(
    prices=PriceTable({"a": (1.0, 2.0), "free": (0.0, 0.0)}),
    score_scales={"grade": (1.0, 10.0), "mood": (-1.0, 1.0)},
)


class RateLimitError(Exception):
    """An exception of a provider's client."""


class Recorded(NamedTuple):
    """A method of a monitor and its arguments."""

    method: str
    positional: tuple[Any, ...]
    keywords: dict[str, Any]


counts = st.none() | st.integers(0, 2**40) | st.sampled_from([0, -3, float("nan"), "many"])
durations = st.floats(0, 1e6) | st.sampled_from([None, -1.0, float("nan")])
models = st.sampled_from(["a", "free", "unknown to the list", None])
retries = st.sampled_from(
    [
        *(None, 0, 3, [], [RateLimitError()], ["rate_limited", "Timeout"]),
        *([TimeoutError(), RateLimitError, RateLimitError()], {"wrong": 1}),
    ]
)
common = {
    "model_name": models,
    "prompt_token_count": counts,
    "completion_token_count": counts,
    "total_token_count": counts,
    "cache_read_token_count": counts,
    "error": st.sampled_from([None, RateLimitError("slow down"), ValueError("no")]),
}
generations = st.builds(
    Recorded,
    st.just("track_generation"),
    st.tuples(durations, st.booleans()),
    st.fixed_dictionaries(
        {},
        optional={
            **common,
            "finish_reason": st.sampled_from(["stop", "length", "MAX_TOKENS", "max_token", ""]),
            "conversation_length": st.integers(-1, 9),
            "turns": st.integers(0, 9),
            "retries": retries,
            "metadata": st.sampled_from([{"operation": "conversation_generation"}, {}, None]),
        },
    ),
)
scores = st.dictionaries(
    st.sampled_from(["grade", "mood", "coherence"]),
    st.sampled_from([0.25, 0.0, 1.0, -0.5, 1.5, 7, 10, 11, float("inf"), {"score": 0.5}]),
)
evaluations = st.builds(
    Recorded,
    st.just("track_evaluation"),
    st.tuples(durations, st.booleans(), st.sampled_from(["judge", "rules", None]), scores),
    st.fixed_dictionaries({}, optional=common),
)
samples = st.builds(
    Recorded,
    st.just("record_sample"),
    st.tuples(st.booleans()),
    st.fixed_dictionaries({}, optional={"reason": st.sampled_from(["long", "dull"])}),
)
metrics = st.builds(
    Recorded,
    st.just("record_metric"),
    st.tuples(
        st.sampled_from(["evaluation_score_grade", "error_rate", "conversation_length", "own"]),
        st.floats(0, 9),
    ),
    st.just({}),
)
programs = st.lists(st.one_of(generations, generations, evaluations, samples, metrics), max_size=25)


def record(monitor: GenerationMonitor, program: Iterable[Recorded]) -> None:
    """Run a program on the monitor."""
    for each in program:
        getattr(monitor, each.method)(*each.positional, **each.keywords)


def parsed(page: str) -> list[Sample]:
    """Return the samples of a page."""
    families = text_string_to_metric_families(page)
    return [sample for family in families for sample in family.samples]


def counted(page: Sequence[Sample], query: CounterQuery, by: Sequence[Label]) -> dict[Any, float]:
    """Sum the series that a query's PromQL selects, by group; matching follows Prometheus."""
    name, _, braces = query.series(Selector()).partition("{")
    matchers = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', braces)
    matches: dict[str, Callable[[str, str], bool]] = {
        "=": lambda value, text: value == text,
        "!=": lambda value, text: value != text,
        "=~": lambda value, text: re.fullmatch(text, value) is not None,
    }
    found: dict[Any, float] = defaultdict(float)
    for sample in page:
        if sample.name == name and all(
            matches[sign](sample.labels.get(label, ""), text) for label, sign, text in matchers
        ):
            group = tuple(sample.labels.get(label.prometheus) for label in by)
            found[group] += sample.value
    return found


def kept(
    history: History, query: CounterQuery, by: Sequence[Label], since: float
) -> dict[Any, float]:
    """Sum a query's rows since a time, by group."""
    rows = query.rows
    assert rows is not None
    found = history.window(rows, by, since)
    return {key: each.rows if rows.column is None else each.sum for key, each in found.items()}


def check(
    found: dict[Any, float], expected: dict[Any, float], earlier: dict[Any, float] | None = None
) -> None:
    """Compare sums by group; groups with a sum of 0 may be absent.

    Args:
        found: Of the rows.
        expected: Of the series.
        earlier: What is taken off that; the rest is as exact as floats of its size are.
    """
    for group in found.keys() | expected.keys():
        total, before = expected.get(group, 0.0), (earlier or {}).get(group, 0.0)
        rounding = 1e-9 * max(1.0, abs(total))
        assert found.get(group, 0.0) == pytest.approx(total - before, abs=rounding)


def groupings(query: CounterQuery) -> list[tuple[Label, ...]]:
    """Return the groupings of alerts whose labels a query's series have."""
    return [by for by in GROUPINGS if set(by) <= set(query.instrument.labels)]


@SETTINGS
@given(programs, programs)
def test_rows_and_series_of_every_query_agree(
    before: list[Recorded], after: list[Recorded]
) -> None:
    """A window's sums equal the increases of its series, for each query and grouping."""
    with (
        mock.patch.object(genmeter.clock, "now", return_value=START) as clock,
        isolated_monitor(CONFIG) as monitor,
    ):
        record(monitor, before)
        earlier = parsed(monitor.page())
        clock.return_value = START + 100.0
        record(monitor, after)
        page, history = parsed(monitor.page()), monitor._session.history
        for query in QUERIES.values():
            for by in groupings(query):
                total = counted(page, query, by)
                check(kept(history, query, by, START), total)
                check(kept(history, query, by, START + 50.0), total, counted(earlier, query, by))


@SETTINGS
@given(programs)
def test_sums_by_minute_agree_when_the_ring_is_too_short(
    program: list[Recorded],
) -> None:
    """Sums by minute are complete, however few calls are kept."""
    by_minute = [query for query in QUERIES.values() if query.rows and query.rows.by_minute]
    assert {query.instrument for query in by_minute} == {
        *(cat.GENERATIONS, cat.COST, cat.TOTAL_TOKENS)
    }
    config = MonitorConfig(
        prices=CONFIG.prices,
        score_scales=CONFIG.score_scales,
        history=HistoryConfig(capacity=1),
    )
    with isolated_monitor(config) as monitor:
        record(monitor, program)
        page = parsed(monitor.page())
        for query in by_minute:
            check(kept(monitor._session.history, query, (), 0.0), counted(page, query, ()))


def test_program_has_data_for_every_query() -> None:
    """No comparison is of two empty results."""
    with isolated_monitor(CONFIG) as monitor:
        for model, success in (("a", True), ("a", False), ("b", True)):
            monitor.track_generation(
                *(2.0, success),
                model_name=model,
                prompt_token_count=3,
                completion_token_count=4,
                finish_reason="length",
                retries=[RateLimitError()],
            )
        monitor.track_generation(2.0, True, model_name="b")  # without usage
        monitor.track_generation(9.0, True, conversation_length=3)
        monitor.track_evaluation(1.0, False, "judge", {"grade": 7})
        monitor.record_sample(False, "dull")
        page, history = parsed(monitor.page()), monitor._session.history
        for name, query in QUERIES.items():
            assert kept(history, query, (), 0.0).keys() == {()}, name
            assert kept(history, query, (), 0.0)[()] > 0, name
            check(kept(history, query, (), 0.0), counted(page, query, ()))
