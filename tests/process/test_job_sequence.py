"""Processes of a named job of which the first ends before the next one begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from _jobs import PATIENCE, environment, folders, job, run
from _ranks import Live

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
from genmeter import job_token_usage

named = {"job": os.environ["NAME"]} if "NAME" in os.environ else {}
monitor = GenerationMonitor(config=MonitorConfig.from_env(**named))
budget = monitor.budget(tokens=1_000, scope="job")
left = budget.left.tokens
record(monitor, int(sys.argv[1]))
monitor.flush(30)
output(tokens=job_token_usage().total_tokens, left=left)
"""
BEGINS = "the job 'night' begins at 0: its earlier processes, the last of which ended "


def named(**variables: str) -> dict[str, str]:
    """Return the environment of a process of the job."""
    return environment(GENMETER_JOB="night", **variables)


def loop(tmp_path: Path, shell: str, env: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """Run a shell script to its end, in which ``"$@" N`` is a process with N calls of 3 tokens."""
    done = subprocess.run(
        ["sh", "-c", shell, "loop", *job(tmp_path, SOURCE)],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what runs")
def test_a_script_that_has_the_name_runs_one_job(tmp_path: Path, jobs: Path) -> None:
    """One process after the other: each goes on, with the totals and the budget."""
    script = '"$@" 10; "$@" 20; "$@" 5'
    found, errors = loop(tmp_path, script, named())
    assert found == [
        {"tokens": 30, "left": 1_000},
        {"tokens": 90, "left": 970},
        {"tokens": 105, "left": 910},
    ]
    assert errors == ""
    # The next run of the script is one of its own, and so is another job: it removes the folder.
    found, errors = loop(tmp_path, script, named())
    assert [each["tokens"] for each in found] == [30, 90, 105]
    assert BEGINS in errors
    assert [each.name for each in folders(jobs)] == ["job-night"]
    loop(tmp_path, '"$@" 1', environment(GENMETER_JOB="other"))
    assert [each.name for each in folders(jobs)] == ["job-other"]
    assert run(tmp_path, SOURCE, named(), "1").code == 0
    assert folders(jobs) == []


@pytest.mark.parametrize("by", ["variable", "config"])
def test_runs_of_their_own_begin_at_0_with_a_warning(tmp_path: Path, jobs: Path, by: str) -> None:
    """One that follows another within a minute says what it does not count, and how to go on."""
    env = named() if by == "variable" else environment(NAME="night")
    first = run(tmp_path, SOURCE, env, "10")
    assert (first.output, first.errors) == ([{"tokens": 30, "left": 1_000}], "")
    assert folders(jobs) == []
    second = run(tmp_path, SOURCE, env, "20")
    assert second.output == [{"tokens": 60, "left": 1_000}]
    (line,) = second.errors.splitlines()
    assert BEGINS in line
    assert "and their 10 calls (30 tokens) count as a run of their own" in line
    assert "GENMETER_RESUME=1" in line
    other = run(tmp_path, SOURCE, {**env, "GENMETER_JOB": "other", "NAME": "other"}, "1")
    assert other.errors == ""
    assert folders(jobs) == []


def test_resumed_runs_go_on_without_a_word(tmp_path: Path) -> None:
    """That is what the warning proposes."""
    found = [run(tmp_path, SOURCE, named(GENMETER_RESUME="1"), "10") for _ in range(3)]
    assert [each.output[0]["tokens"] for each in found] == [30, 60, 90]
    assert [each.errors for each in found] == [""] * 3


def test_a_killed_run_is_not_silently_gone(tmp_path: Path) -> None:
    """Its folder is still there, and the next run begins anew."""
    killed = run(tmp_path, f"{SOURCE}\nos.kill(os.getpid(), signal.SIGKILL)", named(), "10")
    assert killed.code == -9
    second = run(tmp_path, SOURCE, named(), "20")
    assert second.output == [{"tokens": 60, "left": 1_000}]
    assert BEGINS in second.errors


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what runs")
@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_process_that_has_not_recorded_yet_goes_on_with_the_job(
    tmp_path: Path, jobs: Path, end: str
) -> None:
    """It was started beside the first one, as by a launcher on a busy machine."""
    with (
        Live(tmp_path, "late", named(), start="import time") as late,
        Live(tmp_path, "first", named()) as first,
    ):
        first.do("record(monitor, 10)")
        first.do("monitor.flush()")
        if end == "ends":
            assert first.end() == 0
        else:
            first.kill()
        assert [each.name for each in folders(jobs)] == ["job-night"]
        late.do("monitor = GenerationMonitor()")
        late.do("record(monitor, 1)")
        late.do("monitor.flush()")
        assert late.do("job_token_usage().total_tokens") == 33
        assert late.end() == 0
        assert late.errors == ""
    assert folders(jobs) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what runs")
def test_the_last_process_removes_the_folder_also_if_it_recorded_nothing(
    tmp_path: Path, jobs: Path
) -> None:
    """It has kept the job going, though it was no part of it."""
    with Live(tmp_path, "idle", named()) as idle, Live(tmp_path, "first", named()) as first:
        first.do("record(monitor, 10)")
        assert first.end() == 0
        assert [each.name for each in folders(jobs)] == ["job-night"]
        assert idle.end() == 0
    assert folders(jobs) == []


def test_processes_that_end_together_leave_no_folder(tmp_path: Path, jobs: Path) -> None:
    """Those that have left the job do not keep it going while they end."""
    start = (
        "import atexit\natexit.register(time.sleep, 1.0)  # after it has left\n"
        "monitor = GenerationMonitor()\nrecord(monitor, 1)\nmonitor.flush()"
    )
    with Live(tmp_path, "a", named(), start) as a, Live(tmp_path, "b", named(), start) as b:
        for live in (a, b):
            assert live.process.stdin is not None
            live.process.stdin.close()
        assert [live.process.wait(PATIENCE) for live in (a, b)] == [0, 0]
    assert folders(jobs) == []
    assert [path.name for path in jobs.iterdir() if path.is_file()] == [
        f"genmeter-{os.getuid()}.ended"
    ]
