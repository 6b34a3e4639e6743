"""The report over several sources: their sums, what counts once, and what is missing."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from _report import AFTERIMAGE, as_json, old_rows, report, rows_of, write
from genmeter.config.monitor import JournalConfig, MonitorConfig
from genmeter.exporters._http import ScrapeServer
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

Capsys = pytest.CaptureFixture[str]
JOB = "service_name"


def run_rows(
    run: str, numbers: range, *, host: str = "node-1", pid: int = 41, **changes: Any
) -> list[dict[str, Any]]:
    """Return the rows of the calls of one run, one each second by their number."""
    rows = []
    for number in numbers:
        first, *others = ({**row, "run": run} for row in rows_of(number))
        writer = {"success": True, "seq": number, "process": pid, "host": host, **changes}
        rows += [{**first, **writer}, *others]
    return rows


def page_of(calls: int, **target: str) -> str:
    """Return the page of a job with some calls of 5 tokens."""
    labels = ",".join(f'{name}="{value}"' for name, value in target.items())
    call = 'gen_ai_request_model="atlas-large",genmeter_phase="generation"'
    return (
        f"# TYPE target_info gauge\ntarget_info{{{labels}}} 1\n"
        '# TYPE genmeter_build_info gauge\ngenmeter_build_info{version="1"} 1\n'
        "# TYPE genmeter_generations_total counter\n"
        f'genmeter_generations_total{{{call},genmeter_outcome="success"}} {calls}\n'
        "# TYPE genmeter_tokens_total counter\n"
        f"genmeter_tokens_total{{{call}}} {5 * calls}\n"
    )


@contextmanager
def serving(*pages: str) -> Iterator[list[str]]:
    """Serve pages; yield their addresses."""
    servers = [ScrapeServer(lambda _, page=page: page.encode(), port=0) for page in pages]
    for server in servers:
        server.start()
    try:
        yield [server.url.removeprefix("http://").removesuffix("/metrics") for server in servers]
    finally:
        for server in servers:
            server.close()


@contextmanager
def nobody() -> Iterator[str]:
    """Yield an address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


# --- sums --------------------------------------------------------------------------------------


def test_sources_of_all_kinds_are_summed(tmp_path: Path, capsys: Capsys) -> None:
    """Two journals, an export and an endpoint are one report."""
    write(tmp_path / "a" / "metrics.jsonl", rows_of(0))
    write(tmp_path / "b" / "metrics.jsonl", [*rows_of(60, "sprint"), *old_rows(90, "sprint")])
    with isolated_monitor() as monitor:
        monitor.track_generation(2.0, True, model_name="sprint", total_token_count=7)
        monitor.track_evaluation(0.5, False, "Judge", {})
        monitor.export_metrics(tmp_path / "job.json")
    with serving(page_of(4)) as (address,):
        found = as_json(
            capsys, tmp_path / "a", tmp_path / "b", tmp_path / "job.json", address, "--by", "model"
        )
    assert [(row["model"], row["calls"], row["total_tokens"]) for row in found["rows"]] == [
        ("atlas-large", 5, 130),
        ("sprint", 3, 117),
    ]
    assert found["evaluations"] == {"count": 1, "failures": 1}
    assert (found["source"], found["complete"]) == ("several", True)


def test_a_folder_has_the_journals_of_all_folders_below(tmp_path: Path, capsys: Capsys) -> None:
    """Its own journal too, with rotated files."""
    for at, place in enumerate((".", "runs/a", "runs/deep/er/.hidden", "only-rotated")):
        name = "metrics.3.jsonl" if place == "only-rotated" else "metrics.jsonl"
        write(tmp_path / place / name, rows_of(at))
    write(tmp_path / "runs" / "a" / "metrics.1.jsonl", rows_of(9))
    write(tmp_path / "runs" / "a" / "other.jsonl", rows_of(9))
    assert as_json(capsys, tmp_path)["total"]["calls"] == 5


def test_linked_folders_are_followed_once(tmp_path: Path, capsys: Capsys) -> None:
    """A run may be elsewhere, another name may stand for the latest, and links may be circular."""
    write(tmp_path / "elsewhere" / "metrics.jsonl", rows_of(0))
    write(tmp_path / "runs" / "b" / "metrics.jsonl", rows_of(1))
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "latest").symlink_to(tmp_path / "runs" / "b")
    (tmp_path / "runs" / "b" / "up").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "absent")
    found = as_json(capsys, tmp_path / "runs")
    assert (found["total"]["calls"], found["notes"]) == (2, [])


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journals are not left out in silence."""
    write(tmp_path / "a" / "metrics.jsonl", rows_of(0))
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(folder: Path) -> Any:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("genmeter.report.journal.os.scandir", refuse)
    code, out, err = report(capsys, tmp_path)
    assert (code, out) == (2, "")
    assert f"source={str(tmp_path)!r} cannot be read: Permission denied" in err


@pytest.mark.parametrize("pattern", ["*/metrics.jsonl", "**/metrics.jsonl", "?", "[ab]/*"])
def test_a_pattern_stands_for_what_it_matches(tmp_path: Path, capsys: Capsys, pattern: str) -> None:
    """Files and folders, as a shell would expand it."""
    for at, name in enumerate("ab"):
        write(tmp_path / name / "metrics.jsonl", rows_of(at))
    assert as_json(capsys, tmp_path / pattern)["total"]["calls"] == 2


def test_a_file_named_like_a_pattern_is_itself(tmp_path: Path, capsys: Capsys) -> None:
    """A folder of a run may have brackets in its name."""
    write(tmp_path / "run [1]" / "metrics.jsonl", rows_of(0))
    write(tmp_path / "run 1" / "metrics.jsonl", [*rows_of(0), *rows_of(1)])
    assert as_json(capsys, tmp_path / "run [1]")["total"]["calls"] == 1


def test_a_window_counts_back_from_the_newest_event_of_all(tmp_path: Path, capsys: Capsys) -> None:
    """A journal that ended before the window has nothing in it."""
    write(tmp_path / "old" / "metrics.jsonl", [*rows_of(0), *rows_of(3500)])
    write(tmp_path / "new" / "metrics.jsonl", rows_of(7000))
    export = tmp_path / "last.json"
    stamp = {"timestamp": "2026-03-01T14:00:00+00:00", "phase": "generation", "model_name": "m"}
    export.write_text(json.dumps({"success_rate": [{"value": 1.0, **stamp}]}))
    sources = (tmp_path / "old", tmp_path / "new", export)
    for window, calls in (("150s", 1), ("300s", 2), ("1h", 2), ("3700s", 3), ("2h", 4)):
        assert as_json(capsys, *sources, "--window", window)["total"]["calls"] == calls, window


def test_durations_of_files_and_endpoints_are_joined(tmp_path: Path, capsys: Capsys) -> None:
    """The mean is exact, and quantiles of histograms with other bounds stay in their bounds."""

    def page(bounds: dict[str, int], total: float) -> str:
        name = "gen_ai_client_inference_duration_seconds"
        call = 'gen_ai_request_model="atlas-large",genmeter_phase="generation"'
        lines = [f'{name}_bucket{{{call},le="{le}"}} {count}' for le, count in bounds.items()]
        count = bounds["+Inf"]
        lines += [f"{name}_count{{{call}}} {count}", f"{name}_sum{{{call}}} {total}"]
        return "\n".join([page_of(count), f"# TYPE {name} histogram", *lines, ""])

    rows = [row for number in range(10) for row in rows_of(number)]  # each of 1.5 s
    journal = write(tmp_path / "metrics.jsonl", rows)
    one = page({"1": 0, "2": 10, "+Inf": 10}, 15.0)
    two = page({"1.5": 10, "4": 10, "+Inf": 10}, 12.0)
    with serving(one, two) as addresses:
        total = as_json(capsys, journal, *addresses)["total"]
    assert total["calls"] == 30
    assert total["duration_mean_seconds"] == pytest.approx(42 / 30)
    assert 1.0 <= total["duration_p50_seconds"] <= 1.5
    assert 1.5 <= total["duration_p95_seconds"] <= 2.0


# --- what counts once --------------------------------------------------------------------------


def test_a_file_that_is_given_twice_counts_once(tmp_path: Path, capsys: Capsys) -> None:
    """By its folder, by name, by a pattern, by a link: a note says so."""
    path = write(tmp_path / "a" / "metrics.jsonl", rows_of(0))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    (tmp_path / "hard.jsonl").hardlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path / "a")
    with isolated_monitor() as monitor:
        monitor.track_generation(2.0, True)
        monitor.export_metrics(tmp_path / "job.json")
    export = tmp_path / "job.json"
    for again in (path, tmp_path / "a", tmp_path / "*" / "*", link, tmp_path / "hard.jsonl"):
        found = as_json(capsys, path, again)
        assert found["total"]["calls"] == 1
        (note,) = found["notes"]
        assert note.startswith("Given more than once, and counted once: ")
        assert found["complete"]
    found = as_json(capsys, tmp_path / "a", tmp_path / "folder", export, path, export, link)
    assert found["total"]["calls"] == 2
    assert "job.json" in found["notes"][0]


def test_an_endpoint_that_is_given_twice_counts_once(capsys: Capsys) -> None:
    """By its address, or because another address has the page of the same job."""
    same = {JOB: "nightly", "service_instance_id": "1"}
    pages = (page_of(4, **same), page_of(5, **same), page_of(7, **{**same, JOB: "other"}))
    with serving(*pages, page_of(2), page_of(3)) as addresses:
        first = addresses[0]
        found = as_json(capsys, *addresses, f"http://{first}/metrics/", f"me:secret@{first}")
    assert found["total"]["calls"] == 4 + 7 + 2 + 3
    (note,) = found["notes"]
    assert note == (
        f"Given more than once, and counted once: {first}, {addresses[1]} (the same job as "
        f"{first})."
    )


def test_a_copied_journal_is_reported(tmp_path: Path, capsys: Capsys) -> None:
    """Its events have the same run and number; they are in the sums twice."""
    path = write(tmp_path / "a" / "metrics.jsonl", run_rows("0123abcd-1", range(1, 9)))
    copy = write(tmp_path / "b" / "metrics.jsonl", run_rows("0123abcd-1", range(1, 6)))
    found = as_json(capsys, path, copy)
    assert not found["complete"]
    assert found["notes"][0].startswith("Counted twice: 5 calls, conversations and evaluations")


@pytest.mark.parametrize(
    ("job", "name", "start", "complete"),
    [
        ("nightly", "nightly", "Perhaps counted twice: the job nightly is both", False),
        ("nightly", "other", "A job that is both at an endpoint", True),
        (None, "nightly", "A job that is both at an endpoint", True),
        ("nightly", "unknown_service:python", "A job that is both at an endpoint", True),
    ],
)
def test_a_job_at_an_endpoint_and_in_a_journal_is_reported(
    tmp_path: Path, capsys: Capsys, job: str | None, name: str, start: str, complete: bool
) -> None:
    """Two names may be of one job, since they come from different variables."""
    own = {} if job is None else {"job": job}
    path = write(tmp_path / "metrics.jsonl", run_rows("0123abcd-1", range(1, 4), **own))
    with serving(page_of(4, **{JOB: name})) as (address,):
        found = as_json(capsys, path, address)
    assert found["total"]["calls"] == 7
    (note,) = found["notes"]
    assert note.startswith(start)
    assert found["complete"] == complete


# --- keys --------------------------------------------------------------------------------------


def test_rows_of_a_shared_journal_are_grouped_by_process(tmp_path: Path, capsys: Capsys) -> None:
    """Two runs with one process id are two processes, two journals of a process are one."""
    shared = [
        *run_rows("0123abcd-1", range(1, 4)),
        *run_rows("89abcdef-1", range(1, 6), pid=42, job="nightly"),
        *run_rows("0123abcd-1", range(4, 5)),
    ]
    write(tmp_path / "a" / "metrics.jsonl", [*shared, *rows_of(0)])
    write(tmp_path / "b" / "metrics.jsonl", run_rows("0123abcd-2", range(1, 3)))
    write(tmp_path / "c" / "metrics.jsonl", run_rows("89abcdef-2", range(1, 3), pid=42))
    write(tmp_path / "d" / "metrics.jsonl", run_rows("00000000-1", range(1, 3), pid=43))
    write(tmp_path / "e" / "metrics.jsonl", run_rows("ffffffff-1", range(1, 5), pid=43))
    found = as_json(capsys, tmp_path, "--by", "process")
    assert [(row["process"], row["calls"]) for row in found["rows"]] == [
        ("node-1:41", 6),
        ("node-1:42", 7),
        ("node-1:43 (00000000)", 2),
        ("node-1:43 (ffffffff)", 4),
        (None, 1),
    ]
    found = as_json(capsys, tmp_path, "--by", "job")
    assert [(row["job"], row["calls"]) for row in found["rows"]] == [("nightly", 5), (None, 15)]


def test_an_endpoint_is_a_process_by_its_address(capsys: Capsys) -> None:
    """Its job is the name of its service, with its namespace."""
    named = page_of(2, service_name="nightly", service_namespace="team")
    with serving(page_of(1, service_name="unknown_service"), named) as addresses:
        found = as_json(capsys, *addresses, "--by", "process,job")
    rows = {row["process"]: (row["job"], row["calls"]) for row in found["rows"]}
    assert rows == {addresses[0]: (None, 1), addresses[1]: ("team/nightly", 2)}


def test_metadata_of_an_older_journal_is_no_run(tmp_path: Path, capsys: Capsys) -> None:
    """A caller's own `run`, `seq` and `host` neither group nor count, whatever they are."""
    rows: list[dict[str, Any]] = []
    for at, value in enumerate(("exp-7", 7, ["x"], {"a": 1}, None, "0123abcd-0")):
        first, *others = rows_of(at)
        rows += [{**first, "run": value, "seq": value, "host": value, "process": value}, *others]
    found = as_json(capsys, write(tmp_path / "metrics.jsonl", rows), "--by", "process")
    assert [(row["process"], row["calls"]) for row in found["rows"]] == [(None, 6)]
    assert found["notes"] == []


# --- what is missing ---------------------------------------------------------------------------


def test_rows_that_rotation_deleted_are_counted(tmp_path: Path, capsys: Capsys) -> None:
    """The numbers of the rows that are left say how many there were."""
    config = MonitorConfig(journal=JournalConfig(max_bytes=40_000, keep=2))
    with isolated_monitor(config, log_dir=tmp_path) as monitor:
        for _ in range(40):
            for _ in range(10):
                monitor.track_generation(1.0, True, model_name="a", total_token_count=5)
            monitor.flush()
    found = as_json(capsys, tmp_path)
    calls = found["total"]["calls"]
    assert 10 <= calls < 400
    assert found["notes"] == [
        (
            f"Incomplete: {calls} of at least 400 calls, conversations and evaluations are here; the "
            "others were in rotated files that were deleted, or could not be written."
        )
    ]
    assert not found["complete"]
    # Nothing that is newer than the oldest row is missing.
    newest = as_json(capsys, tmp_path, "--window", "1s")
    write(tmp_path / "late" / "metrics.jsonl", rows_of(10**9))
    late = as_json(capsys, tmp_path, "--window", "1s")
    assert (late["total"]["calls"], late["complete"]) == (1, True)
    assert newest["complete"] == (newest["total"]["calls"] < calls)


def test_rows_that_are_missing_in_the_middle_are_counted(tmp_path: Path, capsys: Capsys) -> None:
    """Such as those of a file that was removed, or while the disk was full."""
    rows = [*run_rows("0123abcd-1", range(1, 4)), *run_rows("0123abcd-1", range(8, 11))]
    path = write(tmp_path / "metrics.jsonl", rows)
    assert as_json(capsys, path)["notes"][0].startswith("Incomplete: 6 of at least 10 ")
    (note,) = as_json(capsys, path, "--window", "3s")["notes"]
    assert "of the window are missing, up to 4 of the processes" in note
    assert as_json(capsys, path, "--window", "1s")["notes"] == []


def test_files_beside_a_single_one_are_named(tmp_path: Path, capsys: Capsys) -> None:
    """A rotated journal has more than its current file."""
    for second, name in enumerate(("metrics.1.jsonl", "metrics.jsonl")):
        write(tmp_path / name, rows_of(second))
    found = as_json(capsys, tmp_path / "metrics.jsonl")
    assert not found["complete"]
    assert str(tmp_path / "metrics.1.jsonl") in found["notes"][0]
    assert f"use the folder ({tmp_path})" in found["notes"][0]
    both = as_json(capsys, tmp_path / "metrics.jsonl", tmp_path / "metrics.1.jsonl")
    assert "not included" not in "".join(both["notes"])


def test_a_rotated_journal_without_numbers_is_perhaps_incomplete(
    tmp_path: Path, capsys: Capsys
) -> None:
    """Nobody can know whether an older version deleted a file."""
    for second, name in enumerate(("metrics.1.jsonl", "metrics.jsonl")):
        write(tmp_path / name, rows_of(second))
    found = as_json(capsys, tmp_path)
    assert not found["complete"]
    assert found["notes"][0].startswith("Perhaps incomplete: ")


def test_a_target_that_does_not_answer_is_named(tmp_path: Path, capsys: Capsys) -> None:
    """The others are reported, and the exit code is 3."""
    write(tmp_path / "metrics.jsonl", rows_of(0))
    with serving(page_of(4)) as (address,), nobody() as silent:
        code, out, err = report(capsys, tmp_path, address, f"me:secret@{silent}")
        assert (code, err) == (3, "")
        note = " ".join(out.split("Incomplete: ")[1].split())
        assert f"the numbers of {silent} are missing" in note
        assert "secret" not in out
        code, out, err = report(capsys, address, silent, "--format", "json")
        assert (code, json.loads(out)["total"]["calls"]) == (3, 4)
        assert json.loads(out)["unread_sources"] == [silent]
        assert f"the numbers of {silent} are missing" in err
        with nobody() as other:
            code, out, err = report(capsys, silent, other)
        assert (code, out) == (2, "")


def test_an_endpoint_of_something_else_is_named(tmp_path: Path, capsys: Capsys) -> None:
    """Such as another exporter's page: its numbers are missing too."""
    write(tmp_path / "metrics.jsonl", rows_of(0))
    with serving("up 1\n") as (address,):
        code, out, _ = report(capsys, tmp_path, address)
    assert code == 3
    assert "without metrics of genmeter" in " ".join(out.split())


def test_an_endpoint_says_that_processes_died(capsys: Capsys) -> None:
    """The job's page has the states of its processes."""
    states = (
        "# TYPE genmeter_job_processes gauge\n"
        'genmeter_job_processes{genmeter_state="running"} 4\n'
        'genmeter_job_processes{genmeter_state="ended"} 1\n'
        'genmeter_job_processes{genmeter_state="died"} {}\n'
    )
    with serving(*(page_of(4) + states.replace("{}", died) for died in ("3", "0"))) as addresses:
        dead, well = (as_json(capsys, address) for address in addresses)
    assert dead["notes"] == [
        (
            f"Incomplete: 3 of 8 processes of the job at {addresses[0]} died; what they had not "
            "published, at most about a second each, is missing."
        )
    ]
    assert (dead["complete"], well["complete"], well["notes"]) == (False, True, [])


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("*.absent", "matches no file"),
        ("absent", "source must be a journal"),
        ("empty", "has no metrics.jsonl, nor has a folder in it"),
        ("notes.txt", "is damaged or not an export"),
        ("*.txt", "is damaged or not an export"),
        ("", "source must be a journal"),
        ("127.0.0.1:99999", "source must be an address"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(
    tmp_path: Path,
    capsys: Capsys,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    problem: str,
) -> None:
    """It is named, and nothing is printed."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "metrics.jsonl", rows_of(0))
    Path("empty").mkdir()
    Path("notes.txt").write_text("to do")
    code, out, err = report(capsys, "metrics.jsonl", source)
    assert (code, out) == (2, "")
    assert problem in err
    assert source.replace("*.txt", "notes.txt") in err


def test_a_journal_of_afterimage_keeps_its_own_model(tmp_path: Path, capsys: Capsys) -> None:
    """Its failed calls belong to the only model of their source, not of all sources."""
    rows = [*old_rows(0, None, success_rate=0.0), *old_rows(1, "atlas-large")]
    write(tmp_path / "a" / "metrics.jsonl", rows)
    found = as_json(capsys, tmp_path, AFTERIMAGE / "metrics.jsonl", "--by", "model")
    calls = {row["model"]: row["calls"] for row in found["rows"]}
    assert calls["atlas-large"] == 2
    assert calls["unknown"] == 1
