"""`genmeter report --html` and `--compare`: arguments, files and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from _report import report, rows_of, write
from _written_pages import read
from genmeter import cli

if TYPE_CHECKING:
    from pathlib import Path

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the environment affects the output."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A journal of two models."""
    return write(tmp_path / "a" / "metrics.jsonl", [*rows_of(0), *rows_of(60, "mini")])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A journal of one of them."""
    return write(tmp_path / "b" / "metrics.jsonl", [*rows_of(0), *rows_of(9)])


# --- the page ----------------------------------------------------------------------------------


def test_a_page_is_written_beside_the_report(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The table is printed as without it."""
    page = tmp_path / "new" / "page.html"
    _, plain, _ = report(capsys, source)
    code, out, err = report(capsys, source, "--html", page)
    assert (code, out, err) == (0, plain, "")
    found = read(page.read_text(encoding="utf-8"))
    assert "Calls 2" in " ".join(found.sections[""].split())
    assert str(source) in found.sections["The job"]
    assert [each.name for each in page.parent.iterdir()] == ["page.html"]


def test_a_page_groups_and_prices_as_the_report_does(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """With its limits, which are checked as ever."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"mini": [100, 1000]}')
    page = tmp_path / "page.html"
    options = ["--by", "step", "--prices", prices, "--html", page, "--format", "json"]
    code, out, err = report(
        capsys, source, *options, "--fail-over-tokens", "100", "--fail-over-cost", "0"
    )
    assert code == 4
    assert json.loads(out)["total"]["cost_usd"] == pytest.approx(0.02)
    assert "are over --fail-over-tokens 100" in err
    found = read(page.read_text())
    assert found.tables[0][0][0] == "step"
    assert ["--fail-over-tokens", "100 tokens", "220", "220.0 %, over"] in found.tables[-1]
    assert found.tables[-1][-1][3] == "-, over"
    assert "models without a price: 1" in found.sections["Budgets"]


def test_a_source_on_the_page_has_no_login(tmp_path: Path, capsys: Capsys, source: Path) -> None:
    """The endpoint does not answer, and the page says so."""
    page = tmp_path / "page.html"
    address = "http://me:secret@127.0.0.1:9"
    code, _, _ = report(capsys, source, address, "--html", page)
    assert code == 3
    text = page.read_text()
    assert "secret" not in text
    assert "the numbers of 127.0.0.1:9 are missing" in text
    assert "partial, or counted twice" in text


@pytest.mark.parametrize("name", ["metrics.jsonl", "page", "page.html.gz", ""])
def test_a_page_must_end_in_html(source: Path, capsys: Capsys, name: str) -> None:
    """A journal is not overwritten if the name of the page was forgotten."""
    before = source.read_bytes()
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(source), "--html", str(source.parent / name)])
    assert ended.value.code == 2
    assert "--html: must be a file that ends in .html, got" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_page_that_cannot_be_written_is_an_error(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """Nothing is printed, and there is no half of a file."""
    page = tmp_path / "a" / "metrics.jsonl" / "page.html"
    code, out, err = report(capsys, source, "--html", page)
    assert (code, out) == (2, "")
    assert f"error: --html '{page}' cannot be written: " in err
    assert "choose another path" in err


def test_a_page_is_not_the_file_of_the_output(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Also if the paths are spelled differently."""
    page = tmp_path / "page.html"
    output = tmp_path / "a" / ".." / "page.html"
    code, _, err = report(capsys, source, "--html", page, "--output", output)
    assert code == 2
    assert "--html and --output must be different files" in err
    assert not page.exists()
    code, out, _ = report(capsys, source, "--html", page, "--output", tmp_path / "table.txt")
    assert (code, out) == (0, "")
    assert page.exists()


def test_a_page_without_matplotlib_is_an_error_and_a_report_is_not(source: Path) -> None:
    """It is loaded for a page only."""
    program = (
        "import sys\nsys.modules['matplotlib'] = None\nfrom genmeter.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}

    def ran(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "report", str(source), *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert ran().returncode == 0
    page = source.parent / "page.html"
    ended = ran("--html", str(page))
    assert ended.returncode == 2
    assert 'pip install "genmeter[plots]"' in ended.stderr
    assert not page.exists()


# --- runs side by side -------------------------------------------------------------------------


def test_runs_are_side_by_side(source: Path, other: Path, capsys: Capsys) -> None:
    """By model, with each source as a run; the option may be before them."""
    code, out, err = report(capsys, "--compare", source, other)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"A  {source}: From ")
    assert lines[3].split() == ["model", "A", "B", "B", "-", "A"]
    assert lines[5].split() == ["atlas-large", "calls", "1", "2", "+1", "(+100.0", "%)"]
    assert any(line.split() == ["mini", "calls", "1", "-", "-"] for line in lines)
    assert report(capsys, source, other, "--compare")[1] == out


def test_runs_can_be_grouped_and_written(
    source: Path, other: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """As JSON and CSV, into files, and as a page."""
    page, output = tmp_path / "page.html", tmp_path / "runs.csv"
    both = (source, other, "--compare", "--by", "step")
    code, out, err = report(capsys, *both, "--format", "csv", "--output", output, "--html", page)
    assert (code, out, err) == (0, "", "")
    assert [line.split(",")[:3] for line in output.read_text().splitlines()] == [
        ["run", "step", "calls"],
        ["A", "answer_generation", "2"],
        ["B", "answer_generation", "2"],
    ]
    assert [*read(page.read_text()).sections][-1] == "By step"
    found = json.loads(report(capsys, *both, "--format", "json")[1])
    assert [each["sources"] for each in found["runs"]] == [[str(source)], [str(other)]]
    table = tmp_path / "runs.txt"
    assert report(capsys, *both, "--output", table)[0] == 0
    assert table.read_text().startswith("A  ")


def test_the_table_of_runs_fits_the_terminal(
    source: Path, other: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its width is that of the report's table."""
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = report(capsys, source, other, source, "--compare")
    rows = [line for line in out.splitlines() if not line.startswith(("A  ", "B  ", "C  "))]
    assert max(map(len, rows)) <= 60


def test_a_window_is_counted_back_for_each_run(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """A run of another day has one too."""
    later = write(tmp_path / "c" / "metrics.jsonl", [*rows_of(0), *rows_of(90_000)])
    options = ("--compare", "--window", "30s", "--format", "json")
    found = json.loads(report(capsys, source, later, *options)[1])
    assert [each["total"]["calls"] for each in found["runs"]] == [1, 1]


def test_runs_that_cannot_be_read_are_errors_or_partial(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """As in a report: a file ends the command, and so does the only endpoint of a run."""
    code, out, err = report(capsys, "--compare", source, tmp_path / "absent.jsonl")
    assert (code, out) == (2, "")
    assert "absent.jsonl" in err
    code, out, err = report(capsys, "--compare", source, "127.0.0.1:9")
    assert (code, out) == (2, "")
    assert "does not respond" in err


def test_notes_of_runs_are_on_standard_error_if_the_output_is_for_programs(
    source: Path, other: Path, capsys: Capsys
) -> None:
    """Each with the name of its run."""
    with source.open("a") as file:
        file.write("{torn\n")
    _, out, err = report(capsys, source, other, "--compare", "--format", "csv")
    assert "Skipped" not in out
    assert err.startswith("genmeter report: A: Skipped 1 invalid line; the first is line ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "--compare needs at least two SOURCEs, each a run, got "),
        (
            ("SECOND", "--fail-over-tokens", "5"),
            "--fail-over-tokens must be omitted with --compare, got 5",
        ),
        (
            ("SECOND", "--fail-over-cost", "0.5"),
            "--fail-over-cost must be omitted with --compare, got 0.5",
        ),
    ],
)
def test_arguments_that_do_not_suit_a_comparison_are_errors(
    source: Path, other: Path, capsys: Capsys, options: tuple[str, ...], text: str
) -> None:
    """The error names the argument, its value and the remedy."""
    given = [str(other) if each == "SECOND" else each for each in options]
    code, out, err = report(capsys, "--compare", source, *given)
    assert (code, out) == (2, "")
    assert f"genmeter report: error: {text}" in err


def test_very_many_runs_have_names(source: Path, capsys: Capsys) -> None:
    """After Z comes A1."""
    found = json.loads(report(capsys, *[source] * 28, "--compare", "--format", "json")[1])
    names = [each["run"] for each in found["runs"]]
    assert names[:2] + names[25:] == ["A", "B", "Z", "A1", "B1"]


def test_the_help_names_the_options(capsys: Capsys) -> None:
    """With what a page needs."""
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    text = capsys.readouterr().out
    for part in ("--html FILE", "--compare", "genmeter[plots]", "no texts of errors"):
        assert part in text
