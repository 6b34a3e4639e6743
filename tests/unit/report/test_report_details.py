"""What sources have beside their sums: calls over time, errors, scores, first chunks, progress."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _fleet import NOW, StoredSamples
from prometheus_client.parser import text_string_to_metric_families

from _report import AFTERIMAGE, BEGIN, old_rows, record_a_job, rows_of, write
from genmeter.config.monitor import MonitorConfig
from genmeter.report._job_details import add_job
from genmeter.report.details import MOST, Details
from genmeter.report.distribution import Distribution
from genmeter.report.sources import read_sources, source_name
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path

    from genmeter.report.usage_table import UsageTable


def details_of(*sources: object, **arguments: Any) -> tuple[UsageTable, Details]:
    """Return the sums and the details of sources."""
    details = Details()
    return read_sources([*map(str, sources)], details=details, **arguments), details


def score_row(value: object, name: str = "tone", **changes: Any) -> dict[str, Any]:
    """Return a journal's row of a score."""
    stamp = {"timestamp": BEGIN.isoformat()}
    return (
        {"metric": f"evaluation_score_{name}", "value": value, "phase": "evaluation"}
        | stamp
        | changes
    )


def test_a_journal_an_export_and_an_endpoint_have_the_same_errors_and_scores(
    tmp_path: Path,
) -> None:
    """The mean of a score is exact at an endpoint too."""
    with isolated_monitor(log_dir=tmp_path / "journal") as monitor:
        record_a_job(monitor)
        monitor.export_metrics(tmp_path / "job.json", "json")
        monitor.flush()
        page = Details()
        add_job(page, "host:1", [*text_string_to_metric_families(monitor.page())])
    journal_sums, journal = details_of(tmp_path / "journal")
    _, export = details_of(tmp_path / "job.json")
    assert (journal.kinds, export.kinds, page.kinds) == ({"journal"}, {"export"}, {"endpoint"})
    assert journal.errors == export.errors == page.errors == {"TimeoutError": 3}
    assert list(journal.scores["coherence"].values) == [0.9]
    assert export.scores == journal.scores
    assert page.scaled_scores["coherence"].mean() == 0.9
    assert page.scaled_scores["coherence"].positions.count == 1
    assert page.scores == {}
    for found in (journal, export):
        assert {outcome: len(each.times) for outcome, each in found.calls.items()} == {
            "succeeded": 40,
            "failed": 3,
        }
        tokens = sum(sum(each.amounts) for each in found.tokens.values())
        assert tokens == journal_sums.total().total_tokens
    assert page.calls == page.tokens == {}


def test_details_change_no_sum(tmp_path: Path) -> None:
    """Notes and rows are those of a report without them."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        record_a_job(monitor)
        monitor.flush()
    found, _ = details_of(tmp_path)
    plain = read_sources([str(tmp_path)])
    assert found.rows == plain.rows
    assert (found.notes, found.skipped) == (plain.notes, plain.skipped)


def test_a_window_leaves_out_older_details(tmp_path: Path) -> None:
    """Of calls, tokens, errors and scores."""
    old = [{**row, "success": False, "error_type": "Old"} for row in rows_of(0)[:1]]
    rows = [*old, *rows_of(0)[1:], score_row(0.1), *rows_of(7200)]
    _, found = details_of(write(tmp_path / "metrics.jsonl", rows), window=timedelta(hours=1))
    assert len(found.calls["succeeded"].times) == 1
    assert (found.errors, found.scores) == ({}, {})
    assert found.tokens["atlas-large"].amounts.tolist() == [110]


def test_the_time_to_the_first_chunk_is_in_journals_and_at_endpoints(tmp_path: Path) -> None:
    """By model; a call that is no stream has none."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        for _ in range(3):
            with monitor.generation("atlas-large") as call:
                for _ in call.stream(iter(["a", "b"])):
                    pass
        monitor.track_generation(1.0, True, model_name="atlas-mini")
        monitor.flush()
        page = Details()
        add_job(page, "host:1", [*text_string_to_metric_families(monitor.page())])
    _, found = details_of(tmp_path)
    assert {name: each.count for name, each in found.first_chunks.items()} == {"atlas-large": 3}
    assert {name: each.count for name, each in page.first_chunks.items()} == {"atlas-large": 3}
    assert page.first_chunks["atlas-large"].mean() == pytest.approx(
        found.first_chunks["atlas-large"].mean()
    )


def test_the_callers_key_of_that_name_is_no_first_chunk_time(tmp_path: Path) -> None:
    """It gets an underscore in the journal."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.track_generation(1.0, True, model_name="a", metadata={"first_chunk_seconds": 7})
        monitor.flush()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["first_chunk_seconds_"] == 7
    assert details_of(tmp_path)[1].first_chunks == {}


def test_values_that_no_plot_can_show_are_left_out_or_cut(tmp_path: Path) -> None:
    """A score that is no number is counted, and the sums stay as they are."""
    first = {**rows_of(0)[0], "success": False, "error_type": 7, "first_chunk_seconds": 1e300}
    tokens = {**rows_of(0)[6], "value": 10**30}
    scores = [score_row(value) for value in ("high", None, math.nan, 1e16, 10**400, True, 0.5)]
    unnamed = {**rows_of(1)[0], "model_name": None, "success": True, "first_chunk_seconds": 2}
    path = write(tmp_path / "metrics.jsonl", [first, tokens, *scores, unnamed])
    sums, found = details_of(path)
    assert sums.total().total_tokens == 10**30
    assert found.tokens["atlas-large"].amounts.tolist() == [MOST]
    assert (found.invalid_scores, found.scores["tone"].values.tolist()) == (6, [0.5])
    assert found.errors == {}
    assert {name: each.values.tolist() for name, each in found.first_chunks.items()} == {
        "unknown": [2]
    }


def test_scores_of_record_metric_are_no_scores(tmp_path: Path) -> None:
    """Their rows have no phase."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.record_metric("evaluation_score_tone", 0.5)
        monitor.track_generation(1.0, True, model_name="a")
        monitor.flush()
    assert details_of(tmp_path)[1].scores == {}


def test_a_journal_of_afterimage_has_times_scores_and_no_types_of_errors(tmp_path: Path) -> None:
    """Its rows do not say more."""
    usage, found = details_of(AFTERIMAGE / "metrics.jsonl")
    assert found.kinds == {"journal", "afterimage"}
    calls = sum(len(series.times) for series in found.calls.values())
    assert calls == usage.total().calls > 0
    tokens = sum(sum(each.amounts) for each in found.tokens.values())
    assert tokens == usage.total().total_tokens > 0
    assert found.scores
    assert found.errors == {}
    rows = [*old_rows(0, "a", success_rate=0.0), *old_rows(1, None, total_token_count=5)]
    _, found = details_of(write(tmp_path / "metrics.jsonl", rows))
    assert len(found.calls["failed"].times) == 1


def test_an_endpoint_has_progress_and_alerts() -> None:
    """And the values that its monitor rejected."""
    with isolated_monitor(MonitorConfig(expected_samples=8)) as monitor:
        monitor.record_sample(accepted=True)
        monitor.record_sample(accepted=False, reason="duplicate")
        monitor.record_metric("speed", math.nan)
        text = monitor.page()
    text = text.replace("# EOF", "") + 'genmeter_alerts_firing{genmeter_alert="Slow"} 3\n'
    found = Details()
    for source in ("one:1", "two:1"):
        add_job(found, source, [*text_string_to_metric_families(text)])
    assert found.firing == {"Slow": 2}
    assert found.dropped.total() == 2
    samples = found.samples[1]
    assert (samples.source, samples.accepted, samples.rejected) == ("two:1", 1, {"duplicate": 1})
    assert (samples.expected, samples.is_finished) == (8, False)


def test_scores_outside_their_scale_count_in_the_mean_only() -> None:
    """As at the endpoint itself; two jobs are added."""
    with isolated_monitor() as monitor:
        for value in (0.5, 4.0):
            monitor.track_evaluation(0.1, True, "Judge", {"tone": value})
        families = [*text_string_to_metric_families(monitor.page())]
    found = Details()
    for source in ("one:1", "two:1"):
        add_job(found, source, families)
    tone = found.scaled_scores["tone"]
    assert (tone.count, tone.mean(), tone.positions.count) == (4, 2.25, 2)
    assert Details().scaled_scores_of("other").mean() is None


def test_a_fleet_has_errors_and_the_alerts_that_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed calls are those of the window."""
    stored = StoredSamples()
    labels = {
        "genmeter_phase": "generation",
        "gen_ai_request_model": "a",
        "error_type": "TimeoutError",
    }
    name = "gen_ai_client_inference_duration_seconds_bucket"
    times = [(NOW - 1200, 1.0), (NOW - 600, 3.0), (NOW, 6.0)]
    for bound in ("0.01", "+Inf"):
        stored.counter(name, times, le=bound, **labels)
    stored.counter(name, times, le="+Inf", **{**labels, "genmeter_phase": "evaluation"})
    stored.counter("genmeter_generations_total", times, **labels, genmeter_outcome="failure")
    stored.extra["max_over_time(genmeter_alerts_firing[900000ms]) > 0"] = [
        ({"genmeter_alert": "Slow", "instance": "one"}, 1.0),
        ({"genmeter_alert": "Slow", "instance": "two"}, 1.0),
    ]
    stored.replace_api(monkeypatch)
    usage, found = details_of("prometheus=http://127.0.0.1:1", window=timedelta(minutes=15))
    assert found.kinds == {"prometheus"}
    assert found.errors == {"TimeoutError": usage.total().failures}
    assert found.errors["TimeoutError"] == 5
    assert found.fired == {"Slow": 2}


def test_without_details_a_fleet_is_not_asked_for_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are errors counted."""
    stored = StoredSamples()
    labels = {"genmeter_phase": "generation", "gen_ai_request_model": "a", "error_type": "E"}
    stored.counter("genmeter_generations_total", [(NOW - 60, 1.0), (NOW, 2.0)], **labels)
    stored.replace_api(monkeypatch)
    read_sources(["prometheus=http://127.0.0.1:1"], window=timedelta(minutes=15))
    assert stored.queries
    assert not any("alerts_firing" in query for query in stored.queries)


def test_a_distribution_of_values_and_buckets_has_all_of_them() -> None:
    """Its mean is exact, and its quantiles are estimated."""
    values, histogram = Distribution(), Distribution()
    values.values.extend([1.0, 3.0])
    histogram.buckets.update({2.0: 1, math.inf: 2})
    histogram.bucket_sum = 6.0
    both = Distribution.sum([values, histogram])
    assert (both.count, both.mean(), both.is_estimated) == (4, 2.5, True)
    assert both.quantile(0.5) == 2.0
    assert (values.is_estimated, values.quantile(0.5)) == (False, 2.0)
    assert (Distribution().mean(), Distribution().quantile(0.5)) == (None, None)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("http://me:secret@Host:9464/metrics", "host:9464"),
        ("me:secret@host:9464", "host:9464"),
        ("prometheus=http://me:secret@host:9090", "prometheus=http://host:9090"),
        ("runs/*/metrics.jsonl", "runs/*/metrics.jsonl"),
    ],
)
def test_a_source_is_shown_without_its_login(source: str, name: str) -> None:
    """A path is shown as it is."""
    assert source_name(source) == name
