"""The simulated data of the dashboards' pictures."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from _servers import ROOT

from genmeter.schema.metrics import INSTRUMENTS

if TYPE_CHECKING:
    from pathlib import Path

TOOL = ROOT / "tools" / "dashboards" / "backfill.py"
END = 1_769_860_800.0
LABELS = {"job": "genmeter", "instance": "127.0.0.1:9464"}
# The simulated job neither pushes nor exceeds a limit, and has one process.
NEVER = {
    "genmeter_job_last_death_timestamp_seconds",
    "genmeter_job_processes",
    "genmeter_monitor_export_failures_total",
    "genmeter_monitor_label_overflow_total",
    "genmeter_monitor_repetitions_total",
}


def recorded(scenario: str, seconds: float = 600.0) -> list[str]:
    """Simulate a scenario; return the lines of the file."""
    spec = importlib.util.spec_from_file_location("backfill", TOOL)
    assert spec is not None
    assert spec.loader is not None
    backfill: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = backfill
    spec.loader.exec_module(backfill)
    file = io.StringIO()
    backfill.record(file, scenario=scenario, end=END, seconds=seconds, labels=LABELS, rate=10.0)
    return file.getvalue().splitlines()


def at(line: str) -> float:
    """Return the time of a sample."""
    return float(line.rpartition(" ")[2])


def value(lines: list[str], name: str, *labels: str) -> float:
    """Sum the last samples of a name whose labels contain all texts."""
    return sum(
        float(line.split(" ")[-2])
        for line in lines
        if line.startswith(name) and at(line) == END and all(label in line for label in labels)
    )


def test_every_instrument_has_samples() -> None:
    """A failing job has samples of each instrument, except those in NEVER."""
    lines = recorded("failing")[:-1]
    suffixes = {"histogram": "_count"}
    wanted = {row.prometheus + suffixes.get(row.kind, "") for row in INSTRUMENTS} - NEVER
    assert wanted - {line.partition("{")[0] for line in lines} == set()


def test_a_model_fails_in_the_second_half() -> None:
    """Until then the failing scenario equals the normal one."""
    failed = ("genmeter_generations_total", 'genmeter_outcome="failure"', "atlas-large")
    normal, failing = recorded("normal")[:-1], recorded("failing")[:-1]
    before = [
        {line for line in lines if at(line) < END - 300.0 and line.startswith(failed[0])}
        for lines in (normal, failing)
    ]
    # Only the initial zero of a later series may be before.
    assert all(line.split(" ")[-2] == "0" for line in before[0] ^ before[1])
    assert value(failing, *failed) > 5 * value(normal, *failed) > 0


def test_an_idle_monitor_has_no_generations() -> None:
    """In the empty scenario the target is up, without calls."""
    lines = recorded("empty")[:-1]
    assert value(lines, "up") == 1
    assert not [line for line in lines if line.startswith("genmeter_generations_total")]


def test_each_series_starts_at_zero_and_is_in_order() -> None:
    """A late counter is zero one scrape before, and times never decrease."""
    times: dict[str, float] = {}
    firsts: dict[str, str] = {}
    for line in recorded("normal")[:-1]:
        series, number, _ = line.rsplit(" ", 2)
        assert times.get(series, 0.0) < at(line), line
        times[series] = at(line)
        firsts.setdefault(series, number)
    counters = {name: first for name, first in firsts.items() if "_total{" in name}
    assert counters
    assert {float(first) for first in counters.values()} == {0.0}


@pytest.mark.parametrize("scenario", ["normal", "empty"])
def test_promtool_reads_the_blocks(scenario: str, tmp_path: Path, promtool: str) -> None:
    """The command creates blocks for `promtool tsdb`, with the labels of the options."""
    command = [sys.executable, TOOL, tmp_path / "data", "--scenario", scenario]
    options = ["--end", str(END), "--seconds", "300", "--job", "tried"]
    subprocess.run([*command, *options], check=True, timeout=300)
    # Prometheus would have created it.
    (tmp_path / "data" / "wal").mkdir()
    dump = [promtool, "tsdb", "dump", "--match={__name__='up'}", tmp_path / "data"]
    done = subprocess.run(dump, check=True, capture_output=True, text=True, timeout=60)
    samples = [line for line in done.stdout.splitlines() if line]
    assert len(samples) == 21
    assert all('job="tried"' in line for line in samples)
