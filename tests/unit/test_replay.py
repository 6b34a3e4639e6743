"""The replay of a trace: all totals equal the sums of the files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType  # noqa: TC003 - the fixture's type

import pytest

from genmeter.testing import fresh_runtime

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture(scope="module")
def replay() -> ModuleType:
    """Return the script as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "replay.py"
    spec = importlib.util.spec_from_file_location("replay", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a folder with a small trace of two models, whose times interleave."""
    for model, offset in (("code", 0), ("conv", 1)):
        rows = (
            f"2026-01-01 10:{second // 60:02}:{second % 60:02}.5000000,{second * 7},{second % 5}\n"
            for second in range(offset, 1_500, 2)
        )
        (tmp_path / f"{model}.csv").write_text(HEADER + "".join(rows).rstrip("\n"))
    return tmp_path


def test_all_totals_equal_the_sums_of_the_files(
    replay: ModuleType, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report, history and scrape equal the files to the token, and the script exits with 0."""
    with fresh_runtime():
        assert replay.main(["--data", str(trace)]) == 0
    printed = capsys.readouterr().out
    assert "1,500 requests" in printed
    assert "all totals are equal" in printed
    prompt = sum(second * 7 for second in range(0, 1_500, 2))
    completion = sum(second % 5 for second in range(0, 1_500, 2))
    rows = [line.split() for line in printed.splitlines() if line.startswith("code")]
    assert [row[1] for row in rows] == ["file", "report", "history", "scrape"]
    assert {tuple(row[2:]) for row in rows} == {
        ("750", f"{prompt:,}", f"{completion:,}", f"{prompt + completion:,}")
    }


def test_a_difference_of_one_token_is_an_error(
    replay: ModuleType,
    trace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The script names the differing source and exits with 1."""

    def lie(_: str) -> dict[str, object]:
        sums = replay.sums_of(
            each for file in trace.glob("*.csv") for each in replay.read_requests(file)
        )
        return {**sums, "code": sums["code"]._replace(total=sums["code"].total + 1)}

    monkeypatch.setattr(replay, "of_scrape", lie)
    with fresh_runtime():
        assert replay.main(["--data", str(trace)]) == 1
    assert "differs in: scrape" in capsys.readouterr().out


def test_a_generated_trace_is_replayed_without_data(
    replay: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script needs no trace."""
    monkeypatch.setattr(replay, "GENERATED_REQUESTS", 200)
    with fresh_runtime():
        assert replay.main([]) == 0
    assert "200 requests" in capsys.readouterr().out


def test_a_folder_without_a_trace_is_an_error(
    replay: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the argument and the value."""
    with pytest.raises(SystemExit) as caught:
        replay.main(["--data", str(tmp_path)])
    assert caught.value.code == 2
    assert "--data must be a folder with CSV files" in capsys.readouterr().err


def test_a_file_with_other_columns_is_an_error(replay: ModuleType, tmp_path: Path) -> None:
    """The message names the file and the required columns."""
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with fresh_runtime(), pytest.raises(SystemExit, match=r"other\.csv must have the columns"):
        replay.main(["--data", str(tmp_path)])
