"""Token reports: totals, tables, frames and costs."""

from __future__ import annotations

import dataclasses
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from genmeter.config.prices import PriceTable
from genmeter.history.token_report import CostReport, ModelTokenUsage, TokenUsageReport, summarise

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)
ONE = datetime(2025, 1, 1, 13, tzinfo=UTC)
BIG = ModelTokenUsage("big", 1_234_567, 2_345, 1_236_912, calls=7)
SMALL = ModelTokenUsage("small", 10, 5, 16, 4, 3, 2, 1)
COUNTS = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "calls",
]
MORE = ["unpriced_calls", "cost_usd"]


def report_of(*usages: ModelTokenUsage, **fields: Any) -> TokenUsageReport:
    """Return a report whose totals match its entries."""
    return TokenUsageReport(
        list(usages),
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.total_tokens for usage in usages),
        **fields,
    )


def test_reports_are_created_and_compared_like_afterimages() -> None:
    """The four fields suffice, by position or name, and decide equality."""
    report = TokenUsageReport(by_model=[ModelTokenUsage("m", 1, 2, 3)], total_prompt_tokens=1)
    assert report.total_completion_tokens == 0
    assert report.total_tokens == 0
    assert report.complete
    assert report.covers_since is None
    rich = ModelTokenUsage("m", 1, 2, 3, cache_read_tokens=1, calls=9)
    assert report == TokenUsageReport([rich], 1, complete=False, covers_since=NOON)
    assert hash(rich) == hash(ModelTokenUsage("m", 1, 2, 3))
    assert report != TokenUsageReport([ModelTokenUsage("m", 1, 2, 4)], 1)


def test_report_is_mutable_and_its_entries_are_not() -> None:
    """As in AfterImage's classes."""
    report = TokenUsageReport([SMALL])
    report.total_tokens = 7
    assert report.total_tokens == 7
    with pytest.raises(FrozenInstanceError):
        SMALL.prompt_tokens = 7  # type: ignore[misc]


def test_empty_report_is_true() -> None:
    """``report or default`` is the report."""
    assert bool(TokenUsageReport([])) is True


def test_reports_are_summed_by_model() -> None:
    """Every count of every model is added, and models are sorted."""
    merged = TokenUsageReport.merge([report_of(SMALL), report_of(BIG, SMALL)])
    assert merged == report_of(BIG, ModelTokenUsage("small", 20, 10, 32))
    assert merged.by_model[0].calls == 7
    small = merged.by_model[1]
    assert (small.cache_read_tokens, small.cache_write_tokens) == (8, 6)
    assert (small.reasoning_tokens, small.calls) == (4, 2)
    assert merged.complete


def test_no_reports_sum_to_an_empty_one() -> None:
    """A process without monitors has an empty report."""
    assert TokenUsageReport.merge(iter(())) == TokenUsageReport([], 0, 0, 0)


def test_sum_covers_the_time_covered_by_all_parts() -> None:
    """It covers the time since the latest of theirs."""
    whole = report_of(BIG)
    parts = [report_of(complete=False, covers_since=since) for since in (NOON, ONE, None)]
    merged = TokenUsageReport.merge([whole, *parts])
    assert not merged.complete
    assert merged.covers_since == ONE
    unknown = TokenUsageReport.merge([whole, parts[2]])
    assert not unknown.complete
    assert unknown.covers_since is None


def test_frame_has_a_row_for_each_model() -> None:
    """Names are objects, counts are int64, in the order of the fields."""
    frame = report_of(BIG, SMALL).to_frame()
    assert list(frame.columns) == ["model_name", *COUNTS, *MORE]
    assert str(frame["cost_usd"].dtype) == "float64"
    assert frame["model_name"].tolist() == ["big", "small"]
    assert frame["model_name"].dtype == object
    assert {str(frame[name].dtype) for name in COUNTS} == {"int64"}
    assert [frame[name].tolist()[1] for name in COUNTS] == [10, 5, 16, 4, 3, 2, 1]


def test_empty_frame_has_the_same_columns_and_types() -> None:
    """Code that sums a frame needs no special case."""
    frame = TokenUsageReport([]).to_frame()
    assert len(frame) == 0
    assert (frame.dtypes == report_of(BIG).to_frame().dtypes).all()


@pytest.mark.parametrize(
    ("value", "dtype"), [(2**63 - 1, "int64"), (2**63, "object"), (2**70, "object")]
)
def test_count_beyond_64_bits_is_exact(value: int, dtype: str) -> None:
    """Only the column that needs it has Python integers."""
    frame = report_of(ModelTokenUsage("m", value, 0, value), SMALL).to_frame()
    assert frame["prompt_tokens"].tolist()[0] == value
    assert str(frame["prompt_tokens"].dtype) == dtype
    assert str(frame["completion_tokens"].dtype) == "int64"


def test_cost_sums_priced_models() -> None:
    """Cached tokens have their own price, and unpriced models are listed."""
    report = report_of(BIG, ModelTokenUsage("free", 9, 9, 18), SMALL)
    costs = report.cost({"small": (1_000_000, 2_000_000, 500_000), "free": (0, 0)})
    assert costs == CostReport({"free": 0.0, "small": 6 + 10 + 2.0}, 18.0, ("big",))
    assert list(costs.by_model) == ["free", "small"]


def test_cost_sums_entries_of_one_model() -> None:
    """A caller's report may list a model twice."""
    costs = report_of(SMALL, SMALL).cost(PriceTable({"small": (1_000_000, 0)}))
    assert costs.by_model == {"small": 20.0}


def test_cost_of_an_empty_report_is_zero() -> None:
    """It is the float 0.0."""
    costs = TokenUsageReport([]).cost({})
    assert costs == CostReport({}, 0.0, ())
    assert isinstance(costs.total, float)


def test_total_alone_is_unpriced() -> None:
    """It does not say what of it was output, so it is not free."""
    costs = report_of(ModelTokenUsage("m", 0, 0, 900, calls=1)).cost({"m": (1, 2)})
    assert costs == CostReport({}, 0.0, ("m",))


@pytest.mark.parametrize("prices", [None, {"small": (1, 2)}])
def test_cost_of_an_incomplete_report_says_so(prices: Any) -> None:
    """The cost of what is not kept any more is missing."""
    costs = dataclasses.replace(report_of(SMALL), complete=False).cost(prices)
    assert not costs.complete
    assert "Incomplete: not every event of the window is kept" in str(costs)
    assert "Incomplete" not in str(report_of(SMALL).cost(prices))


def test_price_by_size_is_estimated() -> None:
    """Sums do not say how large each call was, and the report says so."""
    usage = ModelTokenUsage("gemini-2.5-pro", 1_000_000, 0, 1_000_000, calls=10)
    costs = report_of(usage).cost("genai-prices")
    assert costs.estimated == ("gemini-2.5-pro",)
    assert "Estimated, since the price depends on the size of each call: gemini-2.5-pro" in str(
        costs
    )


def test_recorded_costs_are_those_of_the_calls() -> None:
    """Without prices the report has what was spent when the calls ended."""
    report = report_of(
        ModelTokenUsage("a", 9, 9, 18, calls=2, cost_usd=0.5),
        ModelTokenUsage("b", 9, 9, 18, calls=2, unpriced_calls=1, cost_usd=0.25),
        ModelTokenUsage("c", 9, 9, 18, calls=2, unpriced_calls=2),
        without_usage={"d": 3},
    )
    costs = report.cost()
    assert costs == CostReport({"a": 0.5, "b": 0.25}, 0.75, ("b", "c"), (), 3)
    assert report.cost_usd == 0.75
    assert str(costs).endswith(
        "Without a price: b, c.\nCalls without usage: 3; their tokens and cost are unknown, and missing above."
    )


def test_calls_without_usage_are_named() -> None:
    """The sums lack their tokens."""
    report = report_of(
        dataclasses.replace(SMALL, total_tokens=15), without_usage={"d": 2, "small": 1_000}
    )
    assert report.calls_without_usage == 1_002
    assert str(report).endswith(
        "\nCalls without usage: 1,002 (d: 2, small: 1,000); their tokens and cost are unknown, and missing above."
    )
    assert TokenUsageReport.merge([report, report]).calls_without_usage == 2_004


def test_what_is_neither_input_nor_output_is_said() -> None:
    """A call with a total only has a 0 in both, which is no count."""
    text = "Tokens in the total only: 1,200; their calls count them neither as input nor as output."
    report = report_of(ModelTokenUsage("a", 9, 9, 18), ModelTokenUsage("b", 0, 0, 1_200))
    assert str(report).splitlines()[-1] == text
    assert text in report._repr_html_()
    assert "Tokens in" not in str(report_of(ModelTokenUsage("a", 9, 9, 18)))


def test_report_prints_as_a_table() -> None:
    """Numbers are aligned with thousands separators; a column of zeros is omitted."""
    assert str(report_of(BIG, ModelTokenUsage("m", 1, 2, 3))) == (
        "model  calls     prompt  completion      total\n"
        "----------------------------------------------\n"
        "big        7  1,234,567       2,345  1,236,912\n"
        "m          0          1           2          3\n"
        "----------------------------------------------\n"
        "total      7  1,234,568       2,347  1,236,915"
    )


def test_cached_and_reasoning_tokens_are_shown_if_any() -> None:
    """They have their own columns."""
    header, _, row, *_ = str(report_of(SMALL)).splitlines()
    assert header.split("  ")[-3:] == ["cache read", "cache write", "reasoning"]
    assert row.split() == ["small", "1", "10", "5", "16", "4", "3", "2"]


def test_empty_report_prints_its_totals() -> None:
    """The totals are 0."""
    header, rule, total = str(TokenUsageReport([])).splitlines()
    assert header.split() == ["model", "prompt", "completion", "total"]
    assert set(rule) == {"-"}
    assert total.split() == ["total", "0", "0", "0"]


@pytest.mark.parametrize(
    ("since", "words"),
    [
        (NOON, "Incomplete: only events since 2025-01-01 12:00:00+00:00 are kept; "),
        (None, "Incomplete: not every event of the window is kept; "),
    ],
)
def test_incomplete_report_prints_a_note(since: datetime | None, words: str) -> None:
    """The last line has the time since which events are kept, and the remedy."""
    text = str(report_of(BIG, complete=False, covers_since=since))
    assert text.splitlines()[-1] == f"{words}raise history.capacity."


def test_hostile_name_does_not_break_the_table() -> None:
    """Line feeds, terminal codes and lone surrogates become question marks; long names are cut."""
    text = str(
        report_of(ModelTokenUsage("a\n\x1b[31m\ud800", 1, 1, 2), ModelTokenUsage("x" * 99, 1, 1, 2))
    )
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "a??[31m?" in text
    assert f"{'x' * 57}... " in text
    assert "x" * 58 not in text
    assert text.encode()


def test_cost_report_prints_as_a_table() -> None:
    """It has USD by model and in total, and the unpriced models."""
    assert str(CostReport({"big": 1234.5, "m": 0.00002}, 1234.50002, ("x", "y"))) == (
        "model           USD\n"
        "-------------------\n"
        "big    1,234.500000\n"
        "m          0.000020\n"
        "-------------------\n"
        "total  1,234.500020\n"
        "Without a price: x, y."
    )
    assert "Without" not in str(CostReport({}, 0.0))


def test_summary_has_python_numbers() -> None:
    """It can be written as JSON, whatever the column's type."""
    summary = summarise(np.array([1, 2, 6], dtype=np.int64))
    assert summary == {"mean": 3.0, "min": 1, "max": 6, "count": 3}
    assert {type(each) for each in summary.values()} == {int, float}


def test_summary_of_no_values_is_empty() -> None:
    """It does not have zeros."""
    assert summarise(np.array([])) == {}
