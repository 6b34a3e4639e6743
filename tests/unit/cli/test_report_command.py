"""`genmeter report`: arguments, prices and output."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _report import BEGIN, as_json, report, rows_of, write
from genmeter import cli
from genmeter.cli import report as command
from genmeter.report import journal
from genmeter.report.formats import FIELDS

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the environment affects the output."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A journal of two models."""
    rows = [*rows_of(0), *rows_of(60, "org/sprint-mini"), *rows_of(3600)]
    return write(tmp_path / "metrics.jsonl", rows)


# --- prices ------------------------------------------------------------------------------------


def test_prices_give_every_row_and_the_total_a_cost(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """A model is also found by its name after the slash."""
    prices = tmp_path / "prices.toml"
    prices.write_text('"atlas-large" = [100, 1000]\nsprint-mini = { input = 10, output = 20 }\n')
    found = as_json(capsys, source, "--prices", prices)
    assert [row["cost_usd"] for row in found["rows"]] == pytest.approx([0.04, 0.0012])
    assert found["total"]["cost_usd"] == pytest.approx(0.0412)
    assert found["unpriced_models"] == []


def test_a_model_without_a_price_has_no_cost(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Its cost is unknown, and a note says so."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"atlas-large": [100, 1000]}')
    found = as_json(capsys, source, "--prices", prices)
    assert [row["cost_usd"] for row in found["rows"]] == [pytest.approx(0.04), None]
    assert found["total"]["cost_usd"] == pytest.approx(0.04)
    assert found["unpriced_models"] == ["org/sprint-mini"]
    note = "Models without a price, not in the cost: org/sprint-mini."
    _, out, err = report(capsys, source, "--prices", prices, "--format", "csv")
    assert [row["cost_usd"] for row in csv.DictReader(io.StringIO(out))] == ["0.04", ""]
    assert err == f"genmeter report: {note}\n"
    _, out, err = report(capsys, source, "--prices", prices)
    assert out.splitlines()[5].split()[-1] == "-"
    assert out.splitlines()[-1] == note
    assert err == ""


def test_prices_of_other_models_give_no_cost(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The total is unknown too."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"another": [1, 1]}')
    assert as_json(capsys, source, "--prices", prices)["total"]["cost_usd"] is None


def test_genai_prices_can_be_used(tmp_path: Path, capsys: Capsys) -> None:
    """`--prices genai-prices` uses the list of the package."""
    path = write(tmp_path / "metrics.jsonl", rows_of(0, "gpt-4o"))
    assert as_json(capsys, path, "--prices", "genai-prices")["total"]["cost_usd"] > 0


def test_of_several_prices_the_first_with_a_price_wins(
    tmp_path: Path, source: Path, capsys: Capsys
) -> None:
    """One's own table, and the list for the rest."""
    (tmp_path / "own.json").write_text('{"atlas-large": [100, 1000]}')
    (tmp_path / "all.json").write_text('{"atlas-large": [1, 1], "sprint-mini": [10, 20]}')
    prices = ("--prices", tmp_path / "own.json", "--prices", tmp_path / "all.json")
    found = as_json(capsys, source, *prices)
    assert [row["cost_usd"] for row in found["rows"]] == pytest.approx([0.04, 0.0012])
    code, _, err = report(capsys, source, *prices, "--prices", "absent.json")
    assert code == 2
    assert err.startswith("genmeter report: error: prices[2]: prices file 'absent.json'")


def test_a_missing_price_file_is_an_error(source: Path, capsys: Capsys) -> None:
    """The error names the file."""
    code, out, err = report(capsys, source, "--prices", "absent.json")
    assert (code, out) == (2, "")
    assert err.startswith("genmeter report: error: prices file 'absent.json' cannot be read")


# --- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--by", "model,colour", "must be comma-separated keys of model, step, provider, phase"),
        ("--by", "model,model", "each at most once"),
        ("--by", "", "must be comma-separated keys"),
        ("--window", "1 hour", "such as 30s, 15m, 1h or 7d"),
        ("--window", "0s", "such as"),
        ("--window", "-1h", "such as"),
        ("--window", "99999999999999d", "at most 100 years"),
        ("--format", "xml", "invalid choice: 'xml'"),
    ],
)
def test_an_invalid_argument_is_an_error_with_a_remedy(
    source: Path, capsys: Capsys, option: str, value: str, remedy: str
) -> None:
    """The error names the argument, the value and the requirement."""
    with pytest.raises(SystemExit) as end:
        cli.main(["report", str(source), f"{option}={value}"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert f"argument {option}" in err
    assert remedy in err


@pytest.mark.parametrize("name", ["absent", "x" * 5_000, "metrics.jsonl.gz"])
def test_a_missing_source_is_an_error(tmp_path: Path, capsys: Capsys, name: str) -> None:
    """The error names the source, of a path that no system has only the beginning and the end."""
    code, out, err = report(capsys, tmp_path / name)
    assert (code, out) == (2, "")
    assert str(tmp_path / name)[:400] in err
    assert len(err) < 3_000


def test_an_empty_source_is_an_error(capsys: Capsys) -> None:
    """An unset shell variable does not mean the working directory."""
    code, out, err = report(capsys, "")
    assert (code, out) == (2, "")
    assert "source must be " in err
    assert "got ''" in err


def test_help_documents_every_field(capsys: Capsys) -> None:
    """Help explains every column, in 80 columns."""
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in FIELDS)
    assert max(map(len, out.splitlines())) <= 80


# --- formats -----------------------------------------------------------------------------------


def test_csv_and_json_have_the_same_raw_numbers(source: Path, capsys: Capsys) -> None:
    """Fields are equal, unrounded and without separators."""
    found = as_json(capsys, source)["rows"]
    _, out, err = report(capsys, source, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert err == ""
    assert list(rows[0]) == ["model", "step", *FIELDS] == list(found[0])
    for row, expected in zip(rows, found, strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in expected.items()}


def test_a_pipe_gets_a_single_table(source: Path, capsys: Capsys) -> None:
    """A pipe has no width limit."""
    _, out, _ = report(capsys, source, "--by", "model")
    begin, end = BEGIN.astimezone(), BEGIN.replace(hour=13).astimezone()
    until = f"{end:%H:%M:%S %z}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S %z}"
    assert out == (
        f"From {begin:%Y-%m-%d %H:%M:%S} to {until} (1:00:00)\n"
        "\n"
        "model            calls  failed  success  mean s  p50 s  p95 s  prompt  completion  total\n"
        "----------------------------------------------------------------------------------------\n"
        "atlas-large          2       0  100.0 %    1.50   1.50   1.50     200          20    220\n"
        "org/sprint-mini      1       0  100.0 %    1.50   1.50   1.50     100          10    110\n"
        "----------------------------------------------------------------------------------------\n"
        "total                3       0  100.0 %    1.50   1.50   1.50     300          30    330\n"
    )


def test_the_table_fits_the_terminal(
    source: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The width of the terminal and COLUMNS are limits."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = report(capsys, source)
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("\ntotal ") == 2
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(command.shutil, "get_terminal_size", lambda: os.terminal_size((60, 24)))
    _, out, _ = report(capsys, source)
    plain = re.sub(r"\x1b\[\d+m", "", out)
    assert plain != out
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 60


@pytest.mark.parametrize("variable", [("TERM", "dumb"), ("COLUMNS", "200")])
def test_pipes_and_dumb_terminals_get_no_escape_codes(
    source: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    """Output is plain text, even if FORCE_COLOR is set."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(*variable)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: variable[0] == "TERM")
    assert "\x1b" not in report(capsys, source)[1]


def test_characters_that_the_encoding_lacks_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name must not fail the report."""
    path = write(tmp_path / "metrics.jsonl", rows_of(0, "modèle"))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["report", str(path)]) == 0
    assert b"mod?le" in stream.buffer.getvalue()  # type: ignore[attr-defined]


# --- the output file ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_the_output_file_equals_the_printed_report(
    source: Path, tmp_path: Path, capsys: Capsys, form: str
) -> None:
    """No other file is left in the folder."""
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "report"
    target.write_text("old")
    _, printed, _ = report(capsys, source, "--format", form)
    assert report(capsys, source, "--format", form, "--output", target) == (0, "", "")
    assert target.read_text(encoding="utf-8") == printed
    assert list(target.parent.iterdir()) == [target]


def test_an_unwritable_output_is_an_error(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The error names the path, which is unchanged."""
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for target in (tmp_path, link, Path()):
        code, out, err = report(capsys, source, "--output", target)
        assert (code, out) == (2, "")
        assert f"--output must be a regular file, got {str(target)!r}" in err
    target = source / "report.csv"
    code, out, err = report(capsys, source, "--output", target)
    assert (code, out) == (2, "")
    assert f"--output {str(target)!r} cannot be written: " in err
    assert link.resolve().is_char_device()


def test_a_linked_output_is_followed(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The target of the link is written, and its folder created."""
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "new" / "report.csv")
    assert report(capsys, source, "--output", link, "--format", "csv")[0] == 0
    assert link.is_symlink()
    assert link.read_text().startswith("model,step,calls,")


def test_an_unreadable_journal_is_an_error(
    source: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the reason of the operating system."""

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("genmeter.report.journal.Journal._paths", refuse)
    code, out, err = report(capsys, source)
    assert (code, out) == (2, "")
    assert "cannot be read: Permission denied" in err


# --- progress ----------------------------------------------------------------------------------


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("seen", ["large", "small", "piped", "dumb"])
def test_a_large_journal_shows_its_progress_on_a_terminal(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys, seen: str
) -> None:
    """Progress is shown on standard error only."""
    monkeypatch.setenv("TERM", "dumb" if seen == "dumb" else "xterm")
    monkeypatch.setattr(command, "_LARGE", 2**30 if seen == "small" else 1)
    monkeypatch.setattr(journal, "_PROGRESS_LINES", 1)
    stream = io.StringIO() if seen == "piped" else _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.main(["report", str(source), "--format", "json"]) == 0
    assert capsys.readouterr().out.startswith("{")
    assert ("reading" in stream.getvalue()) == (seen == "large")
    assert ("100%" in stream.getvalue()) == (seen == "large")
    assert not stream.getvalue().strip() or seen in {"large", "small"}


def test_options_may_stand_between_sources(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Their order does not matter, and a source is required."""
    other = write(tmp_path / "other.jsonl", rows_of(0))
    found = as_json(capsys, "--by", "model", source, "--window", "2h", other)
    assert found["total"]["calls"] == 4
    with pytest.raises(SystemExit):
        cli.main(["report", "--by", "model"])
    assert "required: SOURCE" in capsys.readouterr().err


def test_a_source_may_begin_with_a_dash(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two dashes, as for other programs."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "-odd.jsonl", rows_of(0))
    assert as_json(capsys, "./-odd.jsonl")["total"]["calls"] == 1
    code, out, _ = report(capsys, "--format", "csv", "--", "-odd.jsonl")
    assert code == 0
    assert out.count("atlas-large") == 1


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "code", "lines"),
    [
        (("--fail-over-tokens", "330"), 0, []),
        (
            ("--fail-over-tokens", "329"),
            4,
            ["330 tokens are over --fail-over-tokens 329"],
        ),
        (("--fail-over-cost", "0.04"), 0, []),
        (
            ("--fail-over-cost", "0.039", "--fail-over-tokens", "0"),
            4,
            [
                "330 tokens are over --fail-over-tokens 0",
                "0.04 USD are over --fail-over-cost 0.039",
            ],
        ),
    ],
)
def test_a_sum_over_a_limit_fails(
    source: Path,
    tmp_path: Path,
    capsys: Capsys,
    limits: tuple[str, ...],
    code: int,
    lines: list[str],
) -> None:
    """The report is written, and the exit code is that of the limit."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"atlas-large": [100, 1000], "sprint-mini": [0, 0]}')
    found, out, err = report(capsys, source, "--prices", prices, *limits)
    assert found == code
    assert out.startswith("From ")
    assert err.splitlines() == [f"genmeter report: {line}" for line in lines]


def test_a_limit_says_that_the_real_number_is_higher(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """If usage or prices are unknown or rows are invalid, whether or not the sum is over."""
    unread = [{**rows_of(0)[0], "metric": "usage_unread:no usage"}]
    path = write(tmp_path / "unread.jsonl", [*rows_of(0), *unread])
    _, _, err = report(capsys, path, "--fail-over-tokens", "10")
    assert err.endswith(
        "--fail-over-tokens 10; the real number is higher (calls without usage: 1)\n"
    )
    code, _, err = report(capsys, path, "--fail-over-tokens", "1000")
    assert code == 0
    assert "110 tokens are not over --fail-over-tokens 1,000; the real number is higher" in err
    prices = tmp_path / "prices.json"
    prices.write_text('{"atlas-large": [100, 1000]}')
    limits = ("--prices", prices, "--fail-over-tokens", "1000", "--fail-over-cost", "9")
    _, _, err = report(capsys, source, *limits)
    assert err == (
        "genmeter report: 0.04 USD are not over --fail-over-cost 9; the real number is higher "
        "(models without a price: 1)\n"
    )
    source.write_text(source.read_text() + '{"metric": "gener')
    _, _, err = report(capsys, source, "--fail-over-tokens", "9")
    assert "the real number may be higher (the numbers are incomplete)" in err
    assert report(capsys, source, "--fail-over-tokens", "9", "--window", "1s")[0] == 4


def test_a_limit_of_an_unknown_cost_is_an_error(
    source: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """A missing price is no cost of 0; without calls the cost is 0."""
    code, out, err = report(capsys, source, "--fail-over-cost", "1")
    assert (code, out) == (2, "")
    assert "--fail-over-cost 1 cannot be checked, because no call has a cost; add --prices" in err
    empty = write(tmp_path / "empty.jsonl", [])
    assert report(capsys, empty, "--fail-over-cost", "0", "--fail-over-tokens", "0")[0] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--fail-over-tokens", "-1"),
        ("--fail-over-tokens", "many"),
        ("--fail-over-cost", "-0.1"),
        ("--fail-over-cost", "nan"),
    ],
)
def test_an_invalid_limit_is_an_error(
    source: Path, capsys: Capsys, option: str, value: str
) -> None:
    """A limit is a number of at least 0."""
    with pytest.raises(SystemExit) as end:
        cli.main(["report", str(source), f"{option}={value}"])
    assert end.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err


_MAIN = "import sys; from genmeter.cli import main; sys.exit(main())"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [("report",), ("report", "--format", "csv"), ("report", "--format=json"), ("render", "rules")],
)
def test_an_output_that_is_full_is_an_error(source: Path, arguments: tuple[str, ...]) -> None:
    """One line names the reason, without a traceback at exit."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                _MAIN,
                *arguments,
                *([str(source)] * (arguments[0] == "report")),
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    command = arguments[0]
    assert done.stderr == (
        f"genmeter {command}: error: standard output cannot be written: No space left on device; use "
        "another file\n"
    )
