"""The benchmarks run, at a small size, and docs/performance.md has each row that they declare."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
# Constants of each benchmark, so that it ends in seconds.
SMALL: dict[str, dict[str, Any]] = {
    "job": {"ROUNDS": 1, "CALLS": 10, "LABEL_SETS": 20, "CELLS": 20, "PROCESSES": 2},
    "pages": {},
    "scrape": {"ROUNDS": 1, "LABEL_SETS": (10,)},
    "spans": {"ROUNDS": 1, "BURST": 10, "KEPT": 500},
    "usage": {"ROUNDS": 1, "READS": 2, "CHUNKS": 4},
    "watch": {"ROUNDS": 1, "CALLS": 2},
}
# Which AfterImage needs too.
SMALL_WITH_OPENAI: dict[str, dict[str, Any]] = {"stream": {"ROUNDS": 1, "CHUNKS": 20}}
SMALL_WITH_AFTERIMAGE: dict[str, dict[str, Any]] = {
    "call": {"ROUNDS": 2, "STREAM": 20},
    "cpu": {"ROUNDS": 1, "STREAM": 50},
    "export": {
        "ROUNDS": 1,
        "KEPT": 200,
        "KEPT_FOR_EXCEL": 20,
        "MEASURED": 100,
        "MEASURED_AS": ["json"],
    },
    "journal": {"STREAM": 50, "STREAM_ROUNDS": 1, "BURST_ROUNDS": 1, "OPENED": 10},
    "memory": {"KEPT": 1_000, "TRACED": 1_000},
    "report": {"ROUNDS": 1, "KEPT": 1_000},
}
ALL = {**SMALL, **SMALL_WITH_OPENAI, **SMALL_WITH_AFTERIMAGE}
RUN = """
import json, sys
sys.path.insert(0, {folder!r})
import {name}
from _table import markdown_of
for constant, value in json.loads(sys.argv[1]).items():
    assert hasattr({name}, constant), constant
    setattr({name}, constant, value)
rows = {name}.run(*json.loads(sys.argv[2]))
print(markdown_of(rows, {name}.aims(rows) if rows else ()))
"""


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    """Return the benchmarks' modules that need nothing else."""
    sys.path.insert(0, str(FOLDER))
    try:
        import _page
        import _peers_specs
        import _peers_table
        import peers

        yield {
            "page": _page,
            "specs": _peers_specs,
            "table": _peers_table,
            "peers": peers,
        }
    finally:
        sys.path.remove(str(FOLDER))


def run_small(name: str, constants: dict[str, Any]) -> str:
    """Run a benchmark in a process of its own; returns its tables as Markdown."""
    arguments = [5] if name == "pages" else []
    code = RUN.format(folder=str(FOLDER), name=name)
    return run("-c", code, json.dumps(constants), json.dumps(arguments))


def run(*arguments: str) -> str:
    """Run Python with the path of this process; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name: str) -> None:
    """Its figures are a table; one that lacks its client says so."""
    printed = run_small(name, SMALL[name])
    assert "is not installed" in printed or len(rows_of(printed)) > 1


@pytest.mark.example
@pytest.mark.parametrize("name", SMALL_WITH_OPENAI)
def test_a_benchmark_of_a_client_runs(name: str) -> None:
    """Its figures are a table."""
    assert len(rows_of(run_small(name, SMALL_WITH_OPENAI[name]))) > 1


@pytest.mark.example
@pytest.mark.parametrize("name", SMALL_WITH_AFTERIMAGE)
def test_a_benchmark_beside_afterimage_runs(name: str) -> None:
    """Its figures are a table, with a row for AfterImage's monitor."""
    printed = run_small(name, SMALL_WITH_AFTERIMAGE[name])
    assert any("AfterImage's monitor" in row for row in rows_of(printed))


def test_every_benchmark_is_tried() -> None:
    """Those that `make bench` runs, in the order in which it does."""
    text = (FOLDER / "__main__.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^BENCHMARKS = \((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"[a-z]+", listed))
    assert names == {*ALL}


def test_the_page_has_a_place_for_the_figures_of_each_benchmark(modules: dict[str, Any]) -> None:
    """Between its two markers, once, and never empty."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("peers", *ALL):
        begin, end = modules["page"].markers(name)
        assert text.count(begin) == text.count(end) == 1
        assert text.partition(begin)[2].partition(end)[0].strip()


def test_the_page_has_each_row_that_the_peers_declare(modules: dict[str, Any]) -> None:
    """Below the title of its table, in the order of the tables."""
    begin, end = modules["page"].markers("peers")
    text = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert titles_of(text) == {(row.table, row.subject) for row in modules["table"].ROWS}
    assert len(modules["table"].ROWS) > 100


def test_the_peers_run_and_write_each_row(modules: dict[str, Any], tmp_path: Path) -> None:
    """Every figure of the subjects that are here is measured, kept as JSON, and written to the page."""
    chosen = ["loop", "limit", "genmeter", "upstream", "multiprocess"]
    page, figures = tmp_path / "performance.md", tmp_path / "peers.json"
    begin, end = modules["page"].markers("peers")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    run(
        *(str(FOLDER / "peers.py"), "--subjects", *chosen, "--no-sizes"),
        *("--rounds", "1", "--share", "0.001", "--kept", "1000", "--json", str(figures)),
    )
    result = json.loads(figures.read_text(encoding="utf-8"))
    modules["page"].write_figures("peers", modules["table"].tables_of(result), page)
    written = page.read_text(encoding="utf-8")
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    wanted = {modules["specs"].SUBJECTS[name].title for name in chosen}
    wanted.add(modules["table"].ALONE)
    assert titles_of(written) == {
        (row.table, row.subject) for row in modules["table"].ROWS if row.subject in wanted
    }
    ours = result["loads"]["threads-4"]["genmeter"]
    assert 0 < ours["median"] <= ours["p99"] <= ours["p999"]
    assert result["kept"]["genmeter"]["report"] > 0
    assert result["kept"]["upstream"]["report"] is None


def test_a_subject_that_does_not_record_is_an_error(modules: dict[str, Any]) -> None:
    """A ratio to something that does nothing would be no comparison."""
    workers = {"loop": None, "genmeter": None}
    modules["peers"]._check(workers, {"loop": 200, "genmeter": 0})
    with pytest.raises(RuntimeError, match="genmeter"):
        modules["peers"]._check(workers, {"loop": 200, "genmeter": 1})


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0), (0.0, 1.0)]
)
def test_a_percentile_is_a_measured_figure(
    modules: dict[str, Any], share: float, expected: float
) -> None:
    """The smallest that at least the share of them does not exceed."""
    assert modules["peers"].at([float(each) for each in range(1, 101)], share) == expected


def test_a_page_without_markers_is_an_error(modules: dict[str, Any], tmp_path: Path) -> None:
    """The message has the line that is missing."""
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="begin of the figures of peers"):
        modules["page"].write_figures("peers", "text", page)


def rows_of(text: str) -> list[str]:
    """Return the rows of the tables in a text."""
    return [line for line in text.splitlines() if line.startswith("|") and "---" not in line]


def titles_of(text: str) -> set[tuple[str, str]]:
    """Return the table and the first cell of each row with figures."""
    found = set()
    table = ""
    for line in text.splitlines():
        if title := re.fullmatch(r"\*\*(.*)\*\*", line):
            table = title[1]
        elif line.startswith("| ") and not line.startswith(("| |", "| ---")):
            found.add((table, line.split("|")[1].strip()))
    return found
