"""The journal of a process that forks, is killed, fills its disk or ends."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from _jobs import environment, run, started

from genmeter import read_usage

if TYPE_CHECKING:
    from pathlib import Path

LINES = 7
"""Lines of a call of ``record``, which has no finish reason."""


def read(path: Path) -> list[dict[str, Any]]:
    """Read a journal, whose lines must be whole, or empty where two processes met."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def durations(path: Path) -> int:
    """Count the calls of a journal, each of which must have all its lines together."""
    rows = read(path)
    for start in range(0, len(rows), LINES):
        event = rows[start : start + LINES]
        assert [row["metric"] for row in event] == [
            *("generation_time", "success_rate", "error_rate", "model_usage:m"),
            *("prompt_token_count", "completion_token_count", "total_token_count"),
        ]
        assert len({row["timestamp"] for row in event}) == 1
    return len(rows) // LINES


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "monitor.shutdown()"])
@pytest.mark.parametrize("count", [1, 20_000])
def test_the_journal_is_complete_at_the_end(tmp_path: Path, end: str, count: int) -> None:
    """Journal and log have every call, however the process ends by itself."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor("logs", shutdown_timeout=60)
record(monitor, {count})
{end}
""".replace('"logs"', repr(str(tmp_path / "logs"))),
    )
    assert ended.code == {"sys.exit(3)": 3, "raise ValueError": 1}.get(end, 0), ended.errors
    assert durations(tmp_path / "logs" / "metrics.jsonl") == count
    log = (tmp_path / "logs" / "afterimage.log").read_text().splitlines()
    assert len(log) == count
    assert all(json.loads(line.split(" - ", 1)[1])["level"] == "info" for line in log)
    assert "genmeter" not in ended.errors.replace(str(tmp_path), "")


def test_the_journal_is_complete_after_a_flush(tmp_path: Path) -> None:
    """Earlier events are on the disk when ``flush`` returns."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor({str(tmp_path)!r}, shutdown_timeout=60)
record(monitor, 2_000)
monitor.flush()
os._exit(0)
""",
    )
    assert ended.code == 0, ended.errors
    assert durations(tmp_path / "metrics.jsonl") == 2_000


def test_a_kill_spoils_at_most_the_last_line(tmp_path: Path) -> None:
    """The rest stays readable, and the next run appends to it."""
    path = tmp_path / "metrics.jsonl"
    source = f"""
monitor = GenerationMonitor({str(tmp_path)!r})
record(monitor, 500)
monitor.flush()
output(ready=True)
while True:
    record(monitor, 100)
"""
    broken = 0
    for _ in range(3):
        with started(tmp_path, source, environment()) as process:
            process.send_signal(signal.SIGKILL)
        *whole, last = path.read_text().split("\n")
        found = Counter(_is_json(line) for line in whole if line)
        assert found[True] >= 500 * LINES
        broken += bool(last)
        assert found[False] <= broken
    ended = run(tmp_path, f"record(GenerationMonitor({str(tmp_path)!r}, shutdown_timeout=60), 1)")
    assert ended.code == 0, ended.errors
    tail = path.read_text().splitlines()[-LINES:]
    assert [json.loads(line)["value"] for line in tail] == [0.1, 1.0, 0.0, 1.0, 2, 1, 3]


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_neither_repeats_nor_loses_lines(tmp_path: Path) -> None:
    """Parent and children write their own events to one journal."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor({str(tmp_path)!r}, shutdown_timeout=60)
codes = []
for _ in range(10):
    record(monitor, 300)
    pid = os.fork()
    if pid == 0:
        record(monitor, 20)
        monitor.shutdown()
        os._exit(0)
    codes.append(pid)
output(codes=[wait_for(pid) for pid in codes])
""",
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"codes": [0] * 10}]
    rows = read(tmp_path / "metrics.jsonl")
    assert len(rows) == LINES * (10 * 300 + 10 * 20)
    assert Counter(row["metric"] for row in rows)["generation_time"] == 3_200


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_multiprocessing_completes_its_journal(tmp_path: Path, method: str) -> None:
    """The events of a child are written although ``atexit`` does not run."""
    ended = run(
        tmp_path,
        f"""
import multiprocessing


def work(count):
    record(GenerationMonitor({str(tmp_path)!r}, shutdown_timeout=60), count)


if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    children = [context.Process(target=work, args=[count]) for count in (1, 500)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    output(codes=[child.exitcode for child in children])
""",
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"codes": [0, 0]}]
    rows = read(tmp_path / "metrics.jsonl")
    assert Counter(row["metric"] for row in rows)["generation_time"] == 501


def test_processes_that_rotate_one_journal_lose_no_line(tmp_path: Path) -> None:
    """Each line of four processes is in one of the files."""
    ended = run(
        tmp_path,
        f"""
from genmeter import FileMetricHandler

children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        handler = FileMetricHandler({str(tmp_path / "logs")!r}, max_bytes=2_000, keep=1_000)
        for number in range(500):
            handler.handle_metric(str(os.getpid()), number, {{"filler": "x" * 40}})
        os._exit(0)
    children.append(pid)
output(codes=[wait_for(pid) for pid in children])
""",
    )
    assert ended.output == [{"codes": [0] * 4}], ended.errors
    rows = [row for path in (tmp_path / "logs").iterdir() for row in read(path)]
    assert len(rows) == len({(row["metric"], row["value"]) for row in rows}) == 2_000


def test_a_full_disk_loses_only_the_lines_without_room(tmp_path: Path) -> None:
    """The journal stays valid, lost lines are counted, and one warning is logged."""
    ended = run(
        tmp_path,
        f"""
import resource

monitor = GenerationMonitor({str(tmp_path)!r}, log_handlers=[], shutdown_timeout=60)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, hard))
for _ in range(20):
    record(monitor, 50)
    monitor.flush()
errors = monitor._runtime.self_metrics.handler_errors
lost = errors["FileMetricHandler", "raised"]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
record(monitor, 10)
monitor.shutdown()
output(lost=lost, reasons=[reason for _, reason in errors])
""",
    )
    assert ended.code == 0, ended.errors
    (found,) = ended.output
    assert found["reasons"] == ["raised"]
    assert 0 < found["lost"] < 1_000
    assert durations(tmp_path / "metrics.jsonl") == 1_010 - found["lost"]
    assert ended.errors.count("\n") == 1, ended.errors
    assert f"{tmp_path / 'metrics.jsonl'} cannot be written: File too large" in ended.errors


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_as_the_log_folder_does_not_stop_the_job(tmp_path: Path, below: str) -> None:
    """Each of the two files is logged once."""
    (tmp_path / "file").write_text("")
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor({str(tmp_path / "file") + below!r})
record(monitor, 1_000)
monitor.flush()
record(monitor, 1_000)
monitor.shutdown()
output(tokens=monitor.get_total_token_usage().total_tokens)
""",
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"tokens": 6_000}]
    assert ended.errors.count("cannot be written") == 2
    assert ended.errors.count("\n") == 2
    assert ended.errors.count("set log_dir to a folder") == 2


@pytest.mark.parametrize("end", ["monitor.shutdown()", "sys.exit(0)"])
def test_a_blocked_handler_does_not_keep_the_process_alive(tmp_path: Path, end: str) -> None:
    """The process ends within the time-out, with a complete journal and one warning."""
    ended = run(
        tmp_path,
        f"""
class Stuck:
    def handle_metric(self, metric_name, value, metadata):
        threading.Event().wait()


monitor = GenerationMonitor({str(tmp_path)!r}, shutdown_timeout=2)
monitor.metric_handlers.append(Stuck())
record(monitor, 1_000)
{end}
""",
    )
    assert ended.code == 0, ended.errors
    assert durations(tmp_path / "metrics.jsonl") == 1_000
    assert ended.errors.count("\n") == 1, ended.errors
    assert "Stuck.handle_metric had 1000 events pending" in ended.errors


def test_a_handler_may_shut_its_monitor_down(tmp_path: Path) -> None:
    """It may also read and flush from its thread."""
    ended = run(
        tmp_path,
        """
class Ending:
    def __init__(self):
        self.taken = 0

    def handle_metric(self, metric_name, value, metadata):
        self.taken += 1
        recorded.wait(60)  # events after the shutdown below are rejected
        monitor.flush(60)
        monitor.get_metrics("generation_time")
        monitor.shutdown()


handler = Ending()
recorded = threading.Event()
monitor = GenerationMonitor(metric_handlers=[handler], shutdown_timeout=60)
record(monitor, 10)
recorded.set()
while handler.taken < 70:
    time.sleep(0.002)
output(taken=handler.taken, tokens=monitor.get_total_token_usage().total_tokens)
""",
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"taken": 70, "tokens": 30}]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shared_journal_is_reported_by_process(tmp_path: Path, method: str) -> None:
    """Each process's calls are its own, through rotation; the report counts what it deleted."""
    source = f"""
import multiprocessing
import os

from genmeter import JournalConfig, MonitorConfig


def work(folder, count, size):
    config = MonitorConfig(journal=JournalConfig(max_bytes=size, keep=2))
    monitor = GenerationMonitor(folder, config=config, shutdown_timeout=60)
    for _ in range(count):
        record(monitor, 10)
        monitor.flush()
    output(pid=os.getpid(), calls=10 * count)


if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    for name, size in (("whole", 10**9), ("rotated", 30_000)):
        folder = os.path.join({str(tmp_path)!r}, name)
        work(folder, 5, size)
        children = [context.Process(target=work, args=(folder, 10 + at, size)) for at in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 3
"""
    ended = run(tmp_path, source)
    assert ended.code == 0, ended.errors
    whole, rotated = ended.output[:4], ended.output[4:]
    usage = read_usage(tmp_path / "whole", by="process")
    host = socket.gethostname()
    assert {row["process"]: row["calls"] for row in usage.rows} == {
        f"{host}:{each['pid']}": each["calls"] for each in whole
    }
    assert (usage.complete, usage.notes) == (True, [])
    usage = read_usage(tmp_path / "rotated", by="process")
    calls = usage.total["calls"]
    assert 0 < calls < 380
    by_process = {f"{host}:{each['pid']}": each["calls"] for each in rotated}
    assert all(row["calls"] <= by_process[row["process"]] for row in usage.rows)
    known = sum(by_process[row["process"]] for row in usage.rows)
    assert not usage.complete
    assert usage.notes[0].startswith(f"Incomplete: {calls} of at least {known} calls, ")
