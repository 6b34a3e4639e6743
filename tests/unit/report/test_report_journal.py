"""The report of journals of genmeter and AfterImage."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from _report import AFTERIMAGE, as_json, old_rows, record_a_job, report, rows_of, write
from genmeter.report import journal
from genmeter.report.sources import read_sources
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path

Capsys = pytest.CaptureFixture[str]


# --- ours --------------------------------------------------------------------------------------


def test_the_report_equals_the_totals_of_the_job(tmp_path: Path, capsys: Capsys) -> None:
    """Tokens, calls and outcomes equal the job's own report."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        record_a_job(monitor)
        usage = monitor.get_total_token_usage()
    found = as_json(capsys, tmp_path)
    total = found["total"]
    assert (total["calls"], total["failures"]) == (43, 3)
    assert total["success_share"] == pytest.approx(40 / 43)
    assert total["prompt_tokens"] == usage.total_prompt_tokens
    assert total["completion_tokens"] == usage.total_completion_tokens
    assert total["total_tokens"] == usage.total_tokens
    assert total["cache_read_tokens"] == sum(range(40))
    assert total["reasoning_tokens"] == sum(number % 3 for number in range(40))
    assert found["conversations"] == {"count": 2, "failures": 1}
    assert found["evaluations"] == {"count": 2, "failures": 1}
    assert (found["source"], found["quantiles"], found["skipped"]) == ("journal", "exact", 0)


def test_by_chooses_the_keys_of_the_rows(tmp_path: Path, capsys: Capsys) -> None:
    """`--by` groups by any of the four keys, and every grouping sums to the same total."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        record_a_job(monitor)
    found = as_json(capsys, tmp_path)
    assert [(row["model"], row["step"], row["calls"]) for row in found["rows"]] == [
        ("atlas-large", "answer_generation", 10),
        ("atlas-large", "question_generation", 10),
        ("judge", None, 0),
        ("sprint-mini", "answer_generation", 13),  # the failed calls name no model: the step's last
        ("sprint-mini", "question_generation", 10),
    ]
    by = as_json(capsys, tmp_path, "--by", "phase,provider")
    assert [(row["phase"], row["provider"], row["total_tokens"]) for row in by["rows"]] == [
        ("evaluation", None, 300),
        ("generation", "openai", sum(110 + 2 * n for n in range(40) if n % 4)),
        ("generation", None, sum(110 + 2 * n for n in range(40) if not n % 4)),
    ]
    assert by["total"] == found["total"]


def test_durations_are_exact(tmp_path: Path, capsys: Capsys) -> None:
    """Mean, p50 and p95 are computed from all durations."""
    rows = []
    for number in range(11):
        each = rows_of(number)
        each[0]["value"] = float(number)
        rows += each
    total = as_json(capsys, write(tmp_path / "metrics.jsonl", rows))["total"]
    assert total["duration_mean_seconds"] == 5.0
    assert total["duration_p50_seconds"] == 5.0
    assert total["duration_p95_seconds"] == pytest.approx(9.5)


def test_a_folder_includes_its_rotated_files(tmp_path: Path, capsys: Capsys) -> None:
    """A folder stands for the whole journal, a file for itself."""
    for second, name in enumerate(("metrics.2.jsonl", "metrics.1.jsonl", "metrics.jsonl")):
        write(tmp_path / name, rows_of(second))
    write(tmp_path / "metrics.old.jsonl", rows_of(9))
    assert [path.name for path in journal.journal_files(tmp_path)] == [
        "metrics.2.jsonl",
        "metrics.1.jsonl",
        "metrics.jsonl",
    ]
    assert as_json(capsys, tmp_path)["total"]["calls"] == 3
    assert as_json(capsys, tmp_path / "metrics.jsonl")["total"]["calls"] == 1
    assert as_json(capsys, tmp_path, "--window", "1s")["total"]["calls"] == 2


def test_a_file_rotated_meanwhile_counts_once(tmp_path: Path, capsys: Capsys) -> None:
    """Two names of one file are read once."""
    current = write(tmp_path / "metrics.jsonl", rows_of(0))
    (tmp_path / "metrics.1.jsonl").hardlink_to(current)
    assert as_json(capsys, tmp_path)["total"]["calls"] == 1


def test_invalid_lines_are_counted_and_reported(tmp_path: Path, capsys: Capsys) -> None:
    """Other lines are summed, and a note has the number and the first of the invalid lines."""
    path = write(tmp_path / "metrics.jsonl", [*rows_of(0), *rows_of(1)])
    lines = path.read_text().splitlines(keepends=True)
    broken = [
        '{"metric": "generation_time", "val{"metric": "generation_time", "value": 1.0}\n',
        "\0\0\0\n",
        '["metric", "value"]\n',
        '{"metric": "prompt_token_count", "value": 1} {"metric": "x", "value": 1}\n',
        lines[4].replace("100", "NaN"),
        lines[4].replace("100", '"many"'),
        lines[4].replace("100", "-1"),
        lines[4].replace('"atlas-large"', "[]"),
        lines[4].replace('"answer_generation"', "7"),
        lines[4].replace("2026-03-01", "yesterday"),
        "[" * 100_000 + "\n",
    ]
    end = '{"metric": "generation_time", "value": 0.'  # an incomplete last line after a kill
    path.write_text("".join([*lines[:7], "\n", *broken, *lines[7:], end]))
    code, out, err = report(capsys, path, "--format", "csv")
    assert code == 0
    assert out.splitlines()[1].startswith("atlas-large,answer_generation,2,0,1.0,200,20,220,")
    assert f"{len(broken) + 1} invalid lines; the first is line 9 of {path}" in err
    assert as_json(capsys, path)["skipped"] == len(broken) + 1


def test_custom_metrics_with_names_of_call_metrics_are_not_calls(
    tmp_path: Path, capsys: Capsys
) -> None:
    """Neither name nor metadata of `record_metric` matter."""
    given = [
        {"metric": "success_rate", "value": 0.0, "timestamp": "2026-03-01T12:00:00+00:00"},
        {**rows_of(0)[1], "phase": "warm-up"},
        {"metric": "generation_time", "value": -5, "timestamp": "2030-03-01T12:00:00+00:00"},
    ]
    path = write(tmp_path / "metrics.jsonl", [*rows_of(0), *given])
    assert as_json(capsys, path)["total"]["calls"] == 1
    assert as_json(capsys, path, "--window", "1s")["total"]["calls"] == 1


@pytest.mark.parametrize(
    ("window", "calls"),
    [("30s", 1), ("60s", 2), ("1.5m", 2), ("1h", 3), ("0.5d", 4), ("7d", 4)],
)
def test_a_window_counts_back_from_the_newest_event(
    tmp_path: Path, capsys: Capsys, window: str, calls: int
) -> None:
    """The current time does not matter."""
    seconds = (-7200, -3600, -60, 0)
    path = write(tmp_path / "metrics.jsonl", [row for each in seconds for row in rows_of(each)])
    found = as_json(capsys, path, "--window", window)
    assert found["total"]["calls"] == calls
    assert found["until"] == "2026-03-01T12:00:00+00:00"


def test_the_newest_event_is_found_before_custom_metrics(tmp_path: Path, capsys: Capsys) -> None:
    """The newest lines and the newest file may have only custom metrics."""
    later = {"metric": "room", "value": 1, "timestamp": "2026-03-02T12:00:00+00:00"}
    rows = [*rows_of(-100), *rows_of(0), *[later] * 50]
    write(tmp_path / "metrics.1.jsonl", rows)
    write(tmp_path / "metrics.jsonl", [later])
    assert as_json(capsys, tmp_path, "--window", "10s")["total"]["calls"] == 1
    assert as_json(capsys, tmp_path)["total"]["calls"] == 2


# --- AfterImage's ------------------------------------------------------------------------------


def test_a_journal_of_afterimage_is_read(capsys: Capsys) -> None:
    """Rows are joined to calls, conversations and evaluations; missing totals are summed."""
    found = as_json(capsys, AFTERIMAGE / "metrics.jsonl", "--by", "model,phase")
    shown = [
        (row["model"], row["phase"], row["calls"], row["failures"], row["total_tokens"])
        for row in found["rows"]
    ]
    assert shown == [
        ("judge-1", "evaluation", 0, 0, 33),
        ("org/atlas-large", "generation", 4, 0, 446),
        ("sprint", "generation", 1, 0, 55),
        ("unknown", "generation", 1, 1, 0),
    ]
    assert found["total"]["duration_mean_seconds"] == pytest.approx(13 / 6)
    assert found["conversations"] == {"count": 1, "failures": 0}
    assert found["evaluations"] == {"count": 2, "failures": 1}
    assert found["skipped"] == 0


def test_calls_without_a_model_belong_to_the_only_model(tmp_path: Path, capsys: Capsys) -> None:
    """AfterImage records no model for failed calls."""
    rows = [*old_rows(0, None, success_rate=0.0), *old_rows(1, "atlas-large")]
    (row,) = as_json(capsys, write(tmp_path / "metrics.jsonl", rows))["rows"]
    assert (row["model"], row["calls"], row["failures"]) == ("atlas-large", 2, 1)


def test_a_model_named_none_is_unknown(tmp_path: Path, capsys: Capsys) -> None:
    """`model_name=None` becomes `unknown`."""
    rows = old_rows(0, "None", prompt_token_count=5)
    rows[-1]["model_name"] = None
    (row,) = as_json(capsys, write(tmp_path / "metrics.jsonl", rows))["rows"]
    assert (row["model"], row["calls"], row["total_tokens"]) == ("unknown", 1, 5)


def test_rows_of_several_threads_may_mix(tmp_path: Path, capsys: Capsys) -> None:
    """Rows are joined by timestamp."""
    calls = [
        old_rows(second / 7, f"model-{second % 5}", prompt_token_count=second)
        for second in range(600)
    ]
    mixed = [row for at in range(0, 600, 6) for rows in zip(*calls[at : at + 6]) for row in rows]  # noqa: B905
    found = as_json(capsys, write(tmp_path / "metrics.jsonl", mixed))
    assert [(row["calls"], row["prompt_tokens"]) for row in found["rows"]] == [
        (120, sum(range(rest, 600, 5))) for rest in range(5)
    ]


def test_two_calls_of_one_timestamp_are_two(tmp_path: Path, capsys: Capsys) -> None:
    """A coarse clock does not join calls."""
    rows = [*old_rows(0, "a", prompt_token_count=1), *old_rows(0, "b", prompt_token_count=2)]
    found = as_json(capsys, write(tmp_path / "metrics.jsonl", rows))
    assert [(row["model"], row["calls"], row["prompt_tokens"]) for row in found["rows"]] == [
        ("a", 1, 1),
        ("b", 1, 2),
    ]


def test_custom_metrics_of_afterimage_are_not_calls(tmp_path: Path, capsys: Capsys) -> None:
    """Neither is AfterImage's own `error_rate`."""
    rows = [
        *old_rows(0, "a"),
        *old_rows(1, None, error_rate=1.0)[2:],
        *old_rows(2, None)[:1],
        *old_rows(3, None)[1:],
    ]
    assert as_json(capsys, write(tmp_path / "metrics.jsonl", rows))["total"]["calls"] == 1


def test_a_journal_may_switch_from_afterimage_to_genmeter(tmp_path: Path, capsys: Capsys) -> None:
    """A job may change its monitor and keep its journal."""
    rows = [*old_rows(-60, "atlas-large", total_token_count=7), *rows_of(0)]
    path = write(tmp_path / "metrics.jsonl", rows)
    found = as_json(capsys, path, "--by", "model")
    assert [(row["model"], row["calls"], row["total_tokens"]) for row in found["rows"]] == [
        ("atlas-large", 2, 117)
    ]
    assert as_json(capsys, path, "--window", "59s")["total"]["calls"] == 1


def test_an_invalid_value_of_afterimage_keeps_its_call(tmp_path: Path, capsys: Capsys) -> None:
    """The call and its valid values are counted."""
    rows = old_rows(0, "a", prompt_token_count="12", completion_token_count=3)
    rows[0]["value"] = float("nan")
    found = as_json(capsys, write(tmp_path / "metrics.jsonl", rows))
    total = found["total"]
    assert (total["calls"], total["total_tokens"], total["duration_p50_seconds"]) == (1, 3, None)
    assert found["skipped"] == 2


# --- what is no journal, and large ones --------------------------------------------------------


def test_an_empty_journal_is_an_empty_report(tmp_path: Path, capsys: Capsys) -> None:
    """It is not an error."""
    path = write(tmp_path / "metrics.jsonl", [])
    assert report(capsys, path) == (0, "Nothing to report: the journal has no calls.\n", "")
    code, out, err = report(capsys, path, "--format", "csv")
    assert (code, out.count("\n")) == (0, 1)
    assert err == "genmeter report: Nothing to report: the source has no calls.\n"
    assert as_json(capsys, path)["rows"] == []
    write(path, rows_of(0)[2:4])
    assert report(capsys, path, "--window", "1h")[1].startswith("Nothing to report")


def test_a_file_without_metrics_is_an_error(tmp_path: Path, capsys: Capsys) -> None:
    """The error has the file and the remedy."""
    path = tmp_path / "notes.jsonl"
    path.write_text('{"question": "Why?"}\n')
    code, out, err = report(capsys, path)
    assert (code, out) == (2, "")
    assert str(path) in err
    assert "use a metrics.jsonl" in err


@pytest.mark.parametrize("name", ["metrics.jsonl", "saved.txt"])
def test_a_byte_order_mark_and_carriage_returns_are_accepted(
    tmp_path: Path, capsys: Capsys, name: str
) -> None:
    """An editor may have saved the journal."""
    path = write(tmp_path / name, rows_of(0))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = as_json(capsys, path)
    assert (found["total"]["duration_mean_seconds"], found["total"]["total_tokens"]) == (1.5, 110)
    assert found["skipped"] == 0


@pytest.mark.parametrize(
    "stamp",
    ["0001-01-01T00:00:00+12:00", "1969-12-31T00:00:00+00:00", "9999-12-31T23:59:59-12:00"],
)
def test_lines_with_an_impossible_time_are_skipped(
    tmp_path: Path, capsys: Capsys, stamp: str
) -> None:
    """Times outside of all time zones are invalid, with and without a window."""
    odd = [{**row, "timestamp": stamp} for row in rows_of(0)[:1]]
    path = write(tmp_path / "metrics.jsonl", rows_of(0) + odd)
    for window in ((), ("--window", "1h")):
        code, out, _ = report(capsys, path, *window)
        assert code == 0
        assert "Skipped 1 invalid line;" in out
        assert as_json(capsys, path, *window)["total"]["calls"] == 1


@pytest.mark.parametrize("name", ["metrics.jsonl.gz", "metrics.jsonl", "metrics.json"])
def test_a_compressed_journal_is_an_error(tmp_path: Path, capsys: Capsys, name: str) -> None:
    """The error says that the file is compressed."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(b'{"metric": "success_rate"}\n'))
    code, out, err = report(capsys, path)
    assert (code, out) == (2, "")
    assert f"source={str(path)!r} is compressed; unpack it" in err


def test_a_folder_without_a_journal_is_an_error(tmp_path: Path, capsys: Capsys) -> None:
    """AfterImage creates a folder for each run, so the journals may be below it."""
    code, _, err = report(capsys, tmp_path)
    assert code == 2
    assert "has no metrics.jsonl, nor has a folder in it; use another folder" in err
    write(tmp_path / "2026-01-01" / "metrics.jsonl", rows_of(0))
    write(tmp_path / "2026-01-02" / "metrics.jsonl", rows_of(0))
    assert as_json(capsys, tmp_path)["total"]["calls"] == 2


def test_progress_reaches_the_size_of_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts the bytes of all files and never decreases."""
    monkeypatch.setattr(journal, "_PROGRESS_LINES", 10)
    paths = [
        write(tmp_path / name, [row for n in range(50) for row in rows_of(n)])
        for name in ("metrics.1.jsonl", "metrics.jsonl")
    ]
    steps: list[tuple[int, int]] = []
    table = read_sources([str(tmp_path)], progress=lambda *step: steps.append(step))
    assert table.total().calls == 100
    size = sum(path.stat().st_size for path in paths)
    assert {total for _, total in steps} == {size}
    assert len(steps) > 50
    assert sorted(steps) == steps
    assert steps[-1] == (size, size)
