"""The page of a report: what it says, what it says is missing, and that no name is markup."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from _report import AFTERIMAGE, record_a_job, rows_of, write
from _written_pages import Page, read
from genmeter.config.monitor import MonitorConfig
from genmeter.report._job_details import add_job
from genmeter.report._page_parts import listed, shown
from genmeter.report.comparison import Run
from genmeter.report.details import Details, Samples
from genmeter.report.endpoint import sum_families
from genmeter.report.page import Limit, usage_page
from genmeter.report.sources import read_sources
from genmeter.report.usage_table import GENERATION, GroupKey, UsageTable
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AT = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></svg><b>",
    "--><!--",
    "a\x00\x1b[31m\u202e\ud800b",
    "&lt;",
    "模型" * 200,
    "x" * 100_000,
)


def page_of(*sources: object, by: Sequence[str] = ("model", "step"), **arguments: Any) -> Page:
    """Return the page of sources."""
    details = Details()
    table = read_sources([*map(str, sources)], details=details)
    run = Run("", [*map(str, sources)], table, details)
    return read(usage_page(run, by, at=AT, **arguments))


def page_of_table(table: UsageTable, details: Details | None = None, **arguments: Any) -> Page:
    """Return the page of sums."""
    run = Run("", ["runs"], table, details or Details({table.source}))
    return read(usage_page(run, ("model",), at=AT, **arguments))


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a job that records everything."""
    folder = tmp_path_factory.mktemp("job")
    with isolated_monitor(
        MonitorConfig(prices={"atlas-large": (2.0, 10.0)}), log_dir=folder
    ) as monitor:
        record_a_job(monitor)
        monitor.track_evaluation(0.1, True, "Judge", {"style": 4.0})
        monitor.flush()
    return folder


def test_a_page_of_a_journal_has_each_part(journal: Path) -> None:
    """In this order, with the same numbers as the table of the terminal."""
    page = page_of(journal)
    assert list(page.sections) == [
        "",
        "What is partial or unknown",
        "The job",
        "Progress",
        "Tokens and cost",
        "Outcomes and errors",
        "Durations",
        "Scores",
        "Budgets",
        "Alerts",
    ]
    head, *rows = page.tables[0]
    assert head[:5] == ["model", "step", "prompt", "completion", "total"]
    assert rows[-1][0] == "total"
    usage = read_sources([str(journal)]).total()
    assert rows[-1][2:5] == [
        f"{each:,}" for each in (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    ]
    assert page.titles() == [
        "Calls over time",
        "Tokens by model",
        "Cost by model",
        "Tokens by step",
        "Cost by step",
        "Tokens over time by model",
        "Failed calls by type of error",
        "Duration of calls",
        "Duration of calls by model",
        "Scores between 0 and 1",
        "Scores beyond 0 to 1",
    ]
    assert ["TimeoutError", "3"] in page.tables[2]
    assert "Written by genmeter" in page.sections[""]


def test_what_is_missing_in_the_sums_is_said_first(journal: Path) -> None:
    """The notes of the terminal's report, and beside the numbers that they are partial."""
    page = page_of(journal)
    partial = page.sections["What is partial or unknown"]
    assert "Models without a price, not in the cost: judge, sprint-mini." in partial
    assert "without 2 models that have no price" in page.sections[""]
    assert "The numbers are partial" not in partial
    table = UsageTable("journal")
    table.row(GroupKey("a", None, None, GENERATION)).calls = 2
    table.row(GroupKey("a", None, None, GENERATION)).calls_without_usage = 1
    table.estimated.add("a")
    table.note_partial("Incomplete: <something>.")
    details = Details({"journal"}, invalid_scores=3)
    details.dropped["not_finite"] = 4
    page = page_of_table(table, details)
    partial = page.sections["What is partial or unknown"]
    assert "The numbers are partial, or counted twice." in partial
    for text in (
        "Incomplete: <something>.",
        "Scores that are not numbers, and missing: 3.",
        "Values that monitors rejected: 4 (not_finite 4).",
        "Calls without usage: 1; their tokens and cost are unknown, and missing in the sums.",
        "Estimated costs",
    ):
        assert text in partial
    assert "partial: see below" in page.sections[""]
    assert "without 1 calls of unknown usage" in page.sections[""]
    whole = UsageTable("journal")
    whole.row(GroupKey("a", None, None, GENERATION)).calls = 1
    text = page_of_table(whole).sections["What is partial or unknown"]
    assert text.strip() == "Nothing is known to be missing."


def test_what_a_source_lacks_is_said_in_its_part(journal: Path) -> None:
    """A journal has neither progress nor alerts, and its job had no stream."""
    page = page_of(journal)
    assert "Not in journals: the samples produced" in page.sections["Progress"]
    assert "These are in endpoints." in page.sections["Progress"]
    assert "No first chunk of a streamed call is in the sources." in page.sections["Durations"]
    assert "Not in" not in page.sections["Durations"]
    assert "Not in journals: the alerts that fired" in page.sections["Alerts"]
    assert "budgets that a job itself ran under are in no source" in page.sections["Budgets"]
    assert "This report checked no limit" in page.sections["Budgets"]
    old = page_of(AFTERIMAGE / "metrics.jsonl")
    assert "of AfterImage's monitor: the types of errors" in old.sections["Outcomes and errors"]
    assert "of AfterImage's monitor: the times to the first" in old.sections["Durations"]
    assert ["type unknown"] in [row[:1] for table in old.tables for row in table]


def test_a_page_of_an_endpoint_has_progress_alerts_and_estimates() -> None:
    """It lacks the time of each call."""
    with isolated_monitor(MonitorConfig(expected_samples=4)) as monitor:
        record_a_job(monitor)
        with monitor.generation("atlas-large") as call:
            for _ in call.stream(iter(["a", "b"])):
                pass
        monitor.record_sample(accepted=True)
        monitor.record_sample(accepted=False, reason="<duplicate>")
        text = monitor.page()
    text = text.replace("# EOF", "") + 'genmeter_alerts_firing{genmeter_alert="<Slow>"} 1\n'
    families = [*text_string_to_metric_families(text)]
    details = Details()
    add_job(details, "host:9464", families)
    page = page_of_table(sum_families(families), details)
    progress = page.sections["Progress"]
    assert "host:9464: 2 of 4 samples (50.0 %); 1 accepted, 1 rejected (<duplicate> 1)" in progress
    assert "Not in endpoints: the time of each call." in progress
    assert ("div", {"style": "width:50.0%"}) in page.elements
    assert "<Slow>: in 1 job" in page.sections["Alerts"]
    assert "Time to the first chunk by model" in page.titles()
    assert "Scores of endpoints, in their scale" in page.titles()
    assert "Calls over time" not in page.titles()
    assert ["coherence", "1", "0.9"] in [row[:3] for table in page.tables for row in table]
    partial = page.sections["What is partial or unknown"]
    assert "Quantiles of durations are estimated from histograms." in partial
    assert page.sections[""].count("estimated from a histogram") == 2


def test_a_page_of_prometheus_has_the_alerts_that_fired() -> None:
    """And says that it lacks the scores."""
    details = Details({"prometheus"})
    details.fired.update({"Slow": 2, "Late": 1})
    table = UsageTable("prometheus", timedelta(hours=1), since=0.0, until=3600.0)
    table.row(GroupKey("a", None, None, GENERATION)).calls = 1
    page = page_of_table(table, details)
    assert (
        "Fired within the window Late: in 1 process Slow: in 2 processes" in page.sections["Alerts"]
    )
    assert "Not in Prometheus: the scores of evaluations." in page.sections["Scores"]
    assert "the last 1:00:00" in page.sections["The job"]
    details.fired.clear()
    assert "None, as the jobs evaluate" in page_of_table(table, details).sections["Alerts"]


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (Samples("h:1", is_finished=True), "h:1: finished; it records no samples."),
        (
            Samples("h:1", 3),
            "h:1: 3 samples of an unknown number; 3 accepted, 0 rejected; running.",
        ),
        (Samples("h:1", 9, expected=4.0), "h:1: 9 of 4 samples (225.0 %); 9 accepted"),
    ],
)
def test_progress_is_unknown_or_beyond_the_end(samples: Samples, text: str) -> None:
    """As far as the job says how many samples there will be."""
    page = page_of_table(UsageTable("endpoint"), Details({"endpoint"}, samples=[samples]))
    assert text in page.sections["Progress"]
    widths = [each["style"] for tag, each in page.elements if tag == "div" and "style" in each]
    assert widths == (["width:100.0%"] if samples.expected else [])


def test_limits_are_shown_with_what_is_wrong_with_their_sums() -> None:
    """And how much of each is used."""
    limits = [
        Limit("--fail-over-tokens", "10 tokens", "15", 1.5, is_over=True),
        Limit("--fail-over-cost", "0 USD", "1", None, is_over=True, doubt="; <doubt>"),
        Limit("--other", "4", "1", 0.25, is_over=False),
    ]
    page = page_of_table(UsageTable("journal"), limits=limits)
    assert [row[3] for row in page.tables[-1]] == ["share", "150.0 %, over", "-, over", "25.0 %"]
    assert "--fail-over-cost: <doubt>." in page.sections["Budgets"]


def test_a_page_without_calls_says_so(tmp_path: Path) -> None:
    """Of an empty journal, and of a window without calls."""
    page = page_of(write(tmp_path / "metrics.jsonl", []))
    assert "Nothing to report: the journal has no calls." in page.sections[""]
    assert page.titles() == []
    assert "The durations of calls are not in the sources." in page.sections["Durations"]
    assert "No scores are in the sources." in page.sections["Scores"]
    assert "No call failed." in page.sections["Outcomes and errors"]
    assert "Not in journals: the time" not in page.sections["Progress"]


def test_an_unknown_cost_is_not_0() -> None:
    """Neither is that of no tokens."""
    table = UsageTable("journal")
    row = table.row(GroupKey("a", None, None, GENERATION))
    row.calls = 1
    assert "Cost in USD -" in " ".join(page_of_table(table).sections[""].split())
    row.total_tokens = 5
    assert "Cost in USD unknown" in " ".join(page_of_table(table).sections[""].split())


def test_several_sources_are_one_page(journal: Path, tmp_path: Path) -> None:
    """Their processes have a table."""
    others = []
    for number in (1, 2):
        run = {"run": f"0123abc{number}-1", "host": "node", "process": number, "job": "nightly"}
        rows = [{**row, "run": run["run"]} for row in rows_of(0, f"other-{number}")]
        rows[0] |= {**run, "seq": 1}
        others.append(write(tmp_path / f"{number}.jsonl", rows))
    page = page_of(journal, *others)
    assert "atlas-large, judge, other-1, other-2, sprint-mini" in page.sections["The job"]
    assert "Usage report: nightly" in page.sections[""]
    head, *rows_shown = page.tables[0]
    assert head[:3] == ["job", "process", "calls"]
    assert [row[:3] for row in rows_shown[:2]] == [
        ["nightly", "node:1", "1"],
        ["nightly", "node:2", "1"],
    ]
    assert len(rows_shown) == 4  # this process, and the total


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_is_markup(tmp_path: Path, name: str) -> None:
    """Of models, steps, errors, scores, processes, sources and notes; long ones are cut."""
    name = name.encode("utf-8", "replace").decode() if "\ud800" not in name else name
    first = {"success": False, "error_type": name, "run": "0123abcd-1", "seq": 1, "process": 1}
    first |= {"host": name, "job": name}
    changes = {"step": name, "provider": name, "response_model": f"{name}2", "run": "0123abcd-1"}
    rows = rows_of(0, name, **changes)
    rows[0] |= first
    rows[1]["value"] = 0.0
    score = {"metric": f"evaluation_score_{name}", "value": 0.5, "phase": "evaluation"}
    rows += [score | {"timestamp": rows[0]["timestamp"]}, *rows_of(5, "second")]
    details = Details()
    table = read_sources([str(write(tmp_path / "metrics.jsonl", rows))], details=details)
    table.note_partial(f"Incomplete: {name}")
    table.unpriced.add(name)
    table.row(GroupKey(name, None, None, GENERATION)).cost = 1.0
    details.kinds |= {"endpoint", "prometheus"}
    details.firing[name] = details.fired[name] = details.dropped[name] = 1
    details.samples.append(Samples(name, 1, expected=2.0))
    details.samples[0].rejected[name] = 1
    details.scaled_scores_of(name).count = 1
    limits = [Limit(name, name, name, 0.5, is_over=False, doubt=name)]
    run = Run("", [name], table, details)
    text = usage_page(run, ("model", "step", "job", "process"), limits=limits, at=AT)
    page = read(text)
    assert page.count("b") == 6 + len(page.titles())  # the cards, and the captions
    assert {"\x00", "\x1b", "\u202e"}.isdisjoint(text)
    text.encode()
    assert len(text) < 1_000_000


def test_a_page_of_very_many_groups_stays_small() -> None:
    """It has the largest ones, and says how many there are more."""
    table, details = UsageTable("journal"), Details({"journal"})
    for number in range(1_000):
        row = table.row(GroupKey(f"model-{number:04}", None, None, GENERATION))
        row.calls = row.total_tokens = row.prompt_tokens = number + 1
        row.failures, row.cost = 1, 1.0
        row.durations.append(1.0)
        details.errors[f"Error{number}"] += 1
        details.scores_of(f"score-{number:04}").values.append(0.5)
        details.scaled_scores_of(f"score-{number:04}").count += 1
        details.first_chunks_of(f"model-{number:04}").values.append(0.5)
    page = page_of_table(table, details)
    assert {len(rows) for rows in page.tables} == {201, 202}  # a head, 200 rows, and a total
    assert page.tables[0][1][0] == "model-0800"
    assert page.tables[0][-1][1] == f"{sum(range(1_001)):,}"
    assert "800 more rows are not shown; sums include them." in page.sections["Tokens and cost"]
    assert "and 980 more" in page.sections["The job"]
    assert "988 smaller ones are not shown" in page.sections["Scores"]


def test_numbers_beyond_what_is_real_can_be_shown() -> None:
    """A damaged journal has a page too."""
    table, details = UsageTable("journal", since=0.0, until=2e11), Details({"journal"})
    row = table.row(GroupKey("a", "b", None, GENERATION))
    row.calls = row.total_tokens = row.prompt_tokens = 10**30
    row.durations.extend([0.0, 1e300])
    row.cost = 1e200
    details.add_tokens("a", 2e11, 1e200)
    details.add_call(0.0, "cancelled")
    details.add_tokens("b", 1.0, 0.0)
    page = page_of_table(table, details)
    assert f"{10**30:,}" in page.sections["Tokens and cost"]
    assert "Tokens over time by model" in page.titles()


def test_durations_beyond_all_buckets_have_no_histogram() -> None:
    """Nothing is known of them but that they are long."""
    table = UsageTable("endpoint")
    row = table.row(GroupKey("a", None, None, GENERATION))
    row.calls, row.duration_sum = 3, 600.0
    row.buckets.update({81.92: 0, math.inf: 3})
    page = page_of_table(table)
    assert page.titles() == ["Duration of calls by model"]
    assert ["a", "3", "0", "100.0 %", "200.00"] in [row[:5] for row in page.tables[-1]]


def test_names_are_shown_within_limits() -> None:
    """Long ones without their middle, long lists without their end."""
    assert shown("a" * 160) == "a" * 160
    cut = shown("a" * 100 + "b" * 100)
    assert (len(cut), cut[0], cut[-1], "…" in cut) == (160, "a", "b", True)
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed([]) == ""


def test_colours_are_for_light_dark_and_print(journal: Path) -> None:
    """By the style alone; the page has a width for phones."""
    page = page_of(journal)
    assert "@media screen and (prefers-color-scheme: dark)" in page.text
    assert "@media print" in page.text
    assert "width=device-width" in page.text
