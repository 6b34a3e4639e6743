"""Runs side by side: their numbers, what is unknown, and which direction is better."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from _written_pages import Page, read
from genmeter.report.comparison import Comparison, Difference, Line, Run, Value
from genmeter.report.comparison_formats import difference_text, to_csv, to_json, to_text, value_text
from genmeter.report.comparison_page import comparison_page
from genmeter.report.details import Details
from genmeter.report.usage_table import GENERATION, GroupKey, UsageTable

AT = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\x1b\u202e"


def run(name: str, source: str = "journal", **models: Any) -> Run:
    """Return a run of models, each with calls, failures, tokens, cost and the duration of each call."""
    table = UsageTable(source, since=0.0, until=60.0)
    for model, (calls, failures, tokens, cost, duration) in models.items():
        row = table.row(GroupKey(model, None, None, GENERATION))
        row.calls, row.failures, row.cost = calls, failures, cost
        row.prompt_tokens, row.completion_tokens, row.total_tokens = tokens, 10, tokens + 10
        row.token_calls = calls
        row.durations.extend([duration] * calls)
    return Run(name, [f"runs/{name.lower()}"], table, Details({source}))


def lines_of(comparison: Comparison, group: tuple[str | None, ...] | None) -> dict[str, Line]:
    """Return the lines of a group by name."""
    (block,) = (each for each in comparison.blocks() if each.group == group)
    return {line.name: line for line in block.lines}


def texts_of(line: Line) -> list[str]:
    """Return the numbers as they are shown."""
    return [value_text(value, line.kind) for value in line.values]


@pytest.fixture
def pair() -> Comparison:
    """Two runs of one model; each has another one too."""
    first = run("A", atlas=(100, 10, 1_000, 2.0, 1.5), mini=(50, 0, 500, 0.5, 0.5))
    second = run("B", atlas=(120, 3, 900, 1.5, 2.0), nova=(5, 5, 0, None, 3.0))
    return Comparison([first, second], ("model",))


def test_each_number_has_its_difference_and_its_direction(pair: Comparison) -> None:
    """Lower is better of cost, failures and durations; of the others nothing is said."""
    lines = lines_of(pair, ("atlas",))
    assert {name: (*texts_of(line), difference_text(line, 1)) for name, line in lines.items()} == {
        "calls": ("100", "120", "+20 (+20.0 %)"),
        "failed": ("10.0 %", "2.5 %", "-7.5 points better"),
        "prompt tokens": ("1,000", "900", "-100 (-10.0 %)"),
        "completion tokens": ("10", "10", "0"),
        "cost USD": ("2.0000", "1.5000", "-0.5000 (-25.0 %) better"),
        "p50 s": ("1.50", "2.00", "+0.500 (+33.3 %) worse"),
        "p95 s": ("1.50", "2.00", "+0.500 (+33.3 %) worse"),
    }


def test_a_model_that_a_run_does_not_have_is_absent(pair: Comparison) -> None:
    """It is not 0, and there is no difference."""
    lines = lines_of(pair, ("nova",))
    assert [texts_of(line)[0] for line in lines.values()] == ["-"] * 7
    assert [difference_text(line, 1) for line in lines.values()] == ["-"] * 7
    assert texts_of(lines["calls"])[1] == "5"
    pair.runs[0].table.note_partial("Incomplete: lines are missing.")
    lines = lines_of(pair, ("nova",))
    assert [texts_of(line)[0] for line in lines.values()] == ["?"] * 7
    assert difference_text(lines["calls"], 1) == "?"


def test_an_unknown_cost_stays_unknown(pair: Comparison) -> None:
    """A difference from it too."""
    line = lines_of(pair, ("nova",))["cost USD"]
    assert texts_of(line) == ["-", "?"]
    pair.runs[0].table.row(GroupKey("atlas", None, None, GENERATION)).cost = None
    line = lines_of(pair, ("atlas",))["cost USD"]
    assert (texts_of(line), difference_text(line, 1)) == (["?", "1.5000"], "?")


def test_tokens_of_calls_that_are_all_without_usage_are_unknown(pair: Comparison) -> None:
    """Those of some are partial."""
    row = pair.runs[0].table.row(GroupKey("atlas", None, None, GENERATION))
    row.calls_without_usage = 1
    lines = lines_of(pair, ("atlas",))
    assert texts_of(lines["prompt tokens"]) == ["1,000*", "900"]
    assert texts_of(lines["cost USD"]) == ["2.0000*", "1.5000"]
    assert difference_text(lines["cost USD"], 1) == "-0.5000 (-25.0 %)"
    assert texts_of(lines["p50 s"]) == ["1.50", "2.00"]
    row.total_tokens = row.prompt_tokens = row.completion_tokens = 0
    assert texts_of(lines_of(pair, ("atlas",))["prompt tokens"]) == ["?", "900"]


@pytest.mark.parametrize("doubt", ["unpriced", "estimated"])
def test_a_cost_that_lacks_a_model_is_partial(pair: Comparison, doubt: str) -> None:
    """Of its own group and in total only."""
    getattr(pair.runs[1].table, doubt).add("atlas")
    assert texts_of(lines_of(pair, ("atlas",))["cost USD"]) == ["2.0000", "1.5000*"]
    assert texts_of(lines_of(pair, None)["cost USD"]) == ["2.5000", "1.5000*"]
    assert texts_of(lines_of(pair, ("mini",))["cost USD"]) == ["0.5000", "-"]
    assert texts_of(lines_of(pair, ("nova",))["cost USD"]) == ["-", "?"]


def test_a_partial_or_repeated_run_has_no_better_and_no_worse(pair: Comparison) -> None:
    """Nor have estimated durations."""
    pair.runs[1].table.note_repeated("Counted twice: 3 calls.")
    for group in (("atlas",), None):
        for line in lines_of(pair, group).values():
            assert not any(word in difference_text(line, 1) for word in ("better", "worse"))
            assert texts_of(line)[1].endswith("*")
    row = UsageTable("endpoint").row(GroupKey("atlas", None, None, GENERATION))
    row.calls, row.duration_sum = 4, 4.0
    row.buckets.update({1.0: 4, math.inf: 4})
    endpoint = run("C", "endpoint")
    endpoint.table.rows[GroupKey("atlas", None, None, GENERATION)] = row
    lines = lines_of(Comparison([pair.runs[0], endpoint], ("model",)), ("atlas",))
    assert texts_of(lines["p50 s"]) == ["1.50", "0.500*"]
    assert difference_text(lines["p50 s"], 1) == "-1.00 (-66.7 %)"
    assert difference_text(lines["failed"], 1) == "-10.0 points better"


def test_a_group_of_evaluations_only_has_no_failures_and_durations(pair: Comparison) -> None:
    """Their tokens and cost are compared."""
    for each in pair.runs:
        row = each.table.row(GroupKey("judge", None, None, "evaluation"))
        row.total_tokens = row.prompt_tokens = 7
    lines = lines_of(pair, ("judge",))
    assert texts_of(lines["failed"]) == texts_of(lines["p50 s"]) == ["-", "-"]
    assert texts_of(lines["prompt tokens"]) == ["7", "7"]
    assert texts_of(lines["calls"]) == ["0", "0"]


@pytest.mark.parametrize(
    ("base", "value", "difference"),
    [
        (0.0, 2.0, Difference(2.0, None, "worse")),
        (2.0, 2.0, Difference(0.0, 0.0, "")),
        (10_000.0, 10_001.0, Difference(1.0, 0.0001, "")),
        (None, 2.0, None),
    ],
)
def test_a_difference_has_a_direction_if_it_is_visible(
    base: float | None, value: float, difference: Difference | None
) -> None:
    """Of 0 there is no ratio."""
    line = Line("cost USD", "usd", [Value(base), Value(value)], is_lower_better=True)
    assert line.difference(1) == difference


def test_scores_are_compared_by_their_mean_without_a_direction(pair: Comparison) -> None:
    """Those of files and endpoints together; one that a run lacks is absent, or unknown."""
    first, second = (each.details for each in pair.runs)
    first.scores_of("tone").values.extend([0.5, 0.7])
    second.scores_of("tone").values.extend([1.0])
    scaled = second.scaled_scores_of("tone")
    scaled.count, scaled.total = 1, 0.5
    first.scores_of("style").values.append(3.0)
    second.scores_of("depth")
    lines = lines_of(pair, None)
    assert texts_of(lines["tone mean"]) == ["0.6", "0.75"]
    assert difference_text(lines["tone mean"], 1) == "+0.15 (+25.0 %)"
    assert texts_of(lines["style mean"]) == ["3", "-"]
    assert texts_of(lines["depth mean"]) == ["-", "?"]
    second.kinds.add("prometheus")
    first.invalid_scores = 1
    lines = lines_of(pair, None)
    assert texts_of(lines["style mean"]) == ["3*", "?"]


def test_the_terminal_has_the_runs_side_by_side(pair: Comparison) -> None:
    """With what each of them is, and its notes below."""
    pair.runs[1].table.note_partial("Incomplete: \x1b lines.")
    text = to_text(pair)
    lines = text.splitlines()
    assert lines[0].startswith("A  runs/a: From 19")
    assert lines[1].startswith("B  runs/b: From 19")
    assert lines[3].split() == ["model", "A", "B", "B", "-", "A"]
    assert lines[5].split() == ["atlas", "calls", "100", "120*", "+20", "(+20.0", "%)"]
    assert lines[6].split() == ["failed", "10.0", "%", "2.5", "%*", "-7.5", "points"]
    assert "B: Incomplete: ? lines." in lines
    assert lines[-1].startswith("? is unknown, * partial or estimated")
    assert "total" in text


@pytest.mark.parametrize("width", [60, 80])
def test_runs_that_do_not_fit_are_in_tables_below_each_other(width: int) -> None:
    """A run stays beside its difference."""
    runs = [run(name, atlas=(10**6, 1, 10**9, 1.0, 1.0)) for name in "ABCDE"]
    text = to_text(Comparison(runs, ("model",)), width)
    assert max(map(len, text.splitlines())) <= width
    heads = [line for line in text.splitlines() if line.startswith("model")]
    assert len(heads) > 1
    for name in "BCDE":
        assert sum(f" {name}  " in head and f"{name} - A" in head for head in heads) == 1


def test_json_has_the_runs_and_each_difference(pair: Comparison) -> None:
    """Unknown is null, and so is a direction that is not known."""
    found = json.loads(to_json(pair))
    assert [each["run"] for each in found["runs"]] == ["A", "B"]
    assert found["runs"][0]["total"]["calls"] == 150
    assert found["baseline"] == "A"
    groups = {
        None if each["keys"] is None else each["keys"]["model"]: each["measures"]
        for each in found["groups"]
    }
    assert [*groups] == ["atlas", "mini", "nova", None]
    cost = groups["atlas"][4]
    assert (cost["name"], cost["values"], cost["exact"]) == ("cost USD", [2.0, 1.5], [True, True])
    assert cost["differences"] == [
        None,
        {"amount": -0.5, "ratio": -0.25, "direction": "better"},
    ]
    assert groups["atlas"][0]["differences"][1]["direction"] is None
    unknown = groups["nova"][4]
    assert (unknown["values"], unknown["exact"]) == ([None, None], [False, False])
    assert unknown["differences"] == [None, None]


def test_csv_has_the_groups_of_each_run(pair: Comparison) -> None:
    """A model that a run lacks has no row."""
    rows = [*csv.DictReader(io.StringIO(to_csv(pair)))]
    assert [(row["run"], row["model"], row["calls"]) for row in rows] == [
        ("A", "atlas", "100"),
        ("A", "mini", "50"),
        ("B", "atlas", "120"),
        ("B", "nova", "5"),
    ]


def page_of(comparison: Comparison) -> Page:
    """Return the page of a comparison."""
    return read(comparison_page(comparison, at=AT))


def test_the_page_has_the_runs_side_by_side(pair: Comparison) -> None:
    """In total, then by model; with plots of their durations and scores."""
    for each, values in zip(pair.runs, ([0.1, 0.2], [0.3]), strict=True):
        each.details.scores_of("tone").values.extend(values)
        each.details.first_chunks_of("atlas").values.extend(values)
    page = page_of(pair)
    assert [*page.sections] == [
        "",
        "In total",
        "What is partial or unknown",
        "Durations and scores",
        "By model",
    ]
    assert page.tables[0][0] == ["", "A", "B", "B - A"]
    assert ["cost USD", "2.5000", "1.5000", "-1.0000 (-40.0 %) better"] in page.tables[0]
    assert page.titles() == ["Duration of calls", "Time to the first chunk", "Score tone"]
    assert len(page.tables) == 4
    classes = [each.get("class") for tag, each in page.elements if tag == "span"]
    assert {"good", "bad", None} <= set(classes)
    assert "A: nothing is known to be missing." in page.sections["What is partial or unknown"]


def test_the_page_says_what_is_partial_in_which_run(pair: Comparison) -> None:
    """And what its source lacks."""
    pair.runs[1].table.note_partial("Incomplete: lines.")
    third = run("C", "prometheus")
    page = page_of(Comparison([*pair.runs, third], ("model", "step")))
    partial = page.sections["What is partial or unknown"]
    assert "B: the numbers are partial, or counted twice Incomplete: lines." in partial
    assert "Not in Prometheus: the scores of evaluations." in partial
    assert "atlas, no step" in page.sections["By model, step"]


def test_runs_without_calls_have_a_page() -> None:
    """It has no plots, and says why."""
    page = page_of(Comparison([run("A"), run("B")], ("model",)))
    assert page.titles() == []
    assert "No durations or scores are in the sources." in page.sections["Durations and scores"]


def test_no_name_is_markup_on_the_page_of_runs() -> None:
    """Of models, scores, sources and notes."""
    runs = [run(name, **{HOSTILE: (1, 1, 1, 1.0, 1.0)}) for name in "AB"]
    for each in runs:
        each.details.scores_of(HOSTILE).values.append(0.5)
        each.table.note_partial(f"Incomplete: {HOSTILE}")
    runs[0] = runs[0]._replace(sources=[HOSTILE])
    comparison = Comparison(runs, ("model",))
    page = page_of(comparison)
    assert page.count("script") == 0
    assert {"\x1b", "\u202e"}.isdisjoint(page.text)
    assert {"\x1b", "\u202e"}.isdisjoint(to_text(comparison))


def test_a_page_of_very_many_groups_and_scores_stays_small() -> None:
    """It says how many there are more."""
    models = {f"m{number:03}": (1, 0, 1, 1.0, 1.0) for number in range(110)}
    runs = [run(name, **models) for name in "AB"]
    for number in range(10):
        runs[0].details.scores_of(f"s{number}").values.append(0.5)
    page = page_of(Comparison(runs, ("model",)))
    assert len(page.tables) == 101
    assert "10 more groups are not shown." in page.sections[""]
    assert "2 more scores are not drawn." in page.sections["Durations and scores"]
