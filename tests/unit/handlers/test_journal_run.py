"""The fields by which a journal's rows name their writer."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.errors import ConfigError
from genmeter.events.afterimage import RESERVED
from genmeter.handlers._journal_run import RUN_KEYS, JournalRun
from genmeter.handlers._lines import JournalLines
from genmeter.handlers.base import FileMetricHandler
from genmeter.testing import isolated_monitor
from history_events import evaluation, generation, metric

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the environment names a job."""
    monkeypatch.delenv("GENMETER_JOB", raising=False)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)


def rows_of(lines: JournalLines, *events: Any) -> list[dict[str, Any]]:
    """Encode events, and parse their lines."""
    return [json.loads(line) for line in lines.encode(events).decode().splitlines()]


def test_the_first_row_of_an_event_names_its_writer(tmp_path: Path) -> None:
    """The other rows have the run only, and the caller's own metrics nothing."""
    lines = JournalLines(JournalRun(tmp_path / "metrics.jsonl"))
    rows = rows_of(lines, generation(), metric(), evaluation(duration=None, total_tokens=None))
    firsts = [row for row in rows if "seq" in row]
    assert [row["seq"] for row in firsts] == [1, 2]
    assert {(row["process"], row["host"]) for row in firsts} == {
        (os.getpid(), socket.gethostname())
    }
    assert len({row["run"] for row in rows if "phase" in row}) == 1
    assert all("success" in row for row in firsts)
    assert not any(RUN_KEYS & row.keys() for row in rows if "phase" not in row)
    assert all(
        RUN_KEYS & row.keys() == {"run"} for row in rows if "phase" in row and row not in firsts
    )


def test_handlers_of_one_journal_share_its_numbers(tmp_path: Path) -> None:
    """Monitors that a notebook makes again continue the run; another journal is another run."""
    for _ in range(3):
        with isolated_monitor(log_dir=tmp_path / "a") as monitor:
            monitor.track_generation(1.0, True)
    with isolated_monitor(log_dir=tmp_path / "b") as monitor:
        monitor.track_generation(1.0, True)
    first, other = (
        [
            row
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            if "seq" in (row := json.loads(line))
        ]
        for name in ("a", "b")
    )
    assert [row["seq"] for row in first] == [1, 2, 3]
    assert [row["seq"] for row in other] == [1]
    assert len({row["run"] for row in first}) == 1
    assert first[0]["run"].partition("-")[0] == other[0]["run"].partition("-")[0]
    assert first[0]["run"] != other[0]["run"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_run_of_its_own(tmp_path: Path) -> None:
    """Its numbers begin again, and its rows name its process."""
    lines = JournalLines(JournalRun(tmp_path / "metrics.jsonl"))
    (before,) = (row for row in rows_of(lines, generation()) if "seq" in row)
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writing, lines.encode([generation()]))
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        rows = [json.loads(line) for line in pipe]
    assert (rows[0]["process"], rows[0]["seq"]) == (pid, 1)
    assert {row["run"] for row in rows} == {rows[0]["run"]}
    assert rows[0]["run"].partition("-")[0] != before["run"].partition("-")[0]
    after = rows_of(lines, generation())[0]
    assert (after["run"], after["seq"]) == (before["run"], 2)


@pytest.mark.parametrize(
    ("variables", "given", "job"),
    [
        ({}, None, None),
        ({"OTEL_SERVICE_NAME": "nightly"}, None, "nightly"),
        ({"OTEL_SERVICE_NAME": "nightly", "GENMETER_JOB": "mine"}, None, "mine"),
        ({"GENMETER_JOB": "mine"}, "über", "über"),
        ({"GENMETER_JOB": ""}, None, None),
    ],
)
def test_rows_name_the_job_if_it_has_a_name(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str],
    given: str | None,
    job: str | None,
) -> None:
    """The argument wins, then genmeter's variable, then OpenTelemetry's."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    handler = FileMetricHandler(tmp_path, job=given)
    handler.handle_metric("generation_time", 1.0, {"phase": "generation", "success": True})
    row = json.loads(handler.log_file.read_text())
    assert row.get("job") == job
    with pytest.raises(ConfigError, match="job must be a text, or None, got 3"):
        FileMetricHandler(tmp_path, job=3)  # type: ignore[arg-type]


def test_keys_of_the_caller_get_an_underscore(tmp_path: Path) -> None:
    """Neither the caller's data nor the writer is lost, and no key comes twice."""
    own = {"run": "mine", "run_": "too", "seq": -1, "host": "other", "process": "p", "job": "j"}
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.track_generation(1.0, True, metadata=own)
        monitor.record_metric("room", 1.0, metadata={"run": "mine"})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    pairs = json.loads(lines[0], object_pairs_hook=lambda each: each)
    row = dict(pairs)
    assert len(row) == len(pairs)
    assert (row["run__"], row["run_"], row["host_"]) == ("mine", "too", "other")
    assert (row["seq_"], row["process_"], row["job_"]) == (-1, "p", "j")
    assert (row["seq"], row["process"]) == (1, os.getpid())
    assert json.loads(lines[-1])["run"] == "mine"


def test_the_fields_of_the_writer_are_free_in_metadata() -> None:
    """Handlers and exports have a caller's ``run`` as it is; only the journal renames it."""
    assert not RUN_KEYS & RESERVED


def test_a_subclass_without_the_constructor_fails_by_line(tmp_path: Path) -> None:
    """Its lines are lost and counted; the monitor goes on."""

    class Lazy(FileMetricHandler):
        def __init__(self) -> None:
            """Open nothing."""

        def close(self) -> None:
            """Close nothing."""

    handler = Lazy()
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.metric_handlers = [*monitor.metric_handlers, handler]
        monitor.track_generation(1.0, True, total_token_count=3)
        assert monitor.get_total_token_usage().total_tokens == 3
    assert "total_token_count" in (tmp_path / "metrics.jsonl").read_text()
