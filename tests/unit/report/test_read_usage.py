"""`genmeter.read_usage`: the report in Python."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import genmeter
from _report import BEGIN, as_json, report, rows_of, write
from genmeter.report.formats import FIELDS

if TYPE_CHECKING:
    from pathlib import Path

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of two journals."""
    write(tmp_path / "a" / "metrics.jsonl", [*rows_of(0), *rows_of(60, "sprint")])
    write(tmp_path / "b" / "metrics.jsonl", rows_of(3600))
    return tmp_path


def test_it_is_the_report_of_the_command(runs: Path, capsys: Capsys) -> None:
    """Text, JSON and rows are the same."""
    usage = genmeter.read_usage(runs / "a", str(runs / "b"), by="model")
    assert f"{usage}\n" == report(capsys, runs, "--by", "model")[1]
    found = as_json(capsys, runs, "--by", "model")
    assert json.loads(usage.to_json()) == found
    assert usage.rows == found["rows"]
    assert usage.total == found["total"]
    assert (usage.complete, usage.notes, usage.unread) == (True, [], [])
    assert usage.since == BEGIN
    assert usage.until == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert repr(usage) == "<UsageReport: 3 calls, 330 tokens, complete>"


def test_the_frame_has_typed_columns(runs: Path, tmp_path: Path) -> None:
    """A column for each key and field, also without rows."""
    frame = genmeter.read_usage(runs, by=("model", "process")).to_frame()
    assert list(frame.columns) == ["model", "process", *FIELDS]
    assert frame["model"].tolist() == ["atlas-large", "sprint"]
    assert frame["process"].isna().all()
    assert frame["total_tokens"].tolist() == [220, 110]
    assert frame["cost_usd"].isna().all()
    empty = genmeter.read_usage(
        write(tmp_path / "none.jsonl", []), by=("model", "process")
    ).to_frame()
    assert list(empty.columns) == list(frame.columns)
    assert (empty.dtypes == frame.dtypes).all()
    assert {str(kind) for kind in frame.dtypes} == {"string", "int64", "float64"}


def test_window_and_prices_are_those_of_the_command(runs: Path) -> None:
    """A window counts back from the newest event, and prices may be any that a monitor takes."""
    usage = genmeter.read_usage(
        runs, window=timedelta(minutes=59.5), prices={"atlas-large": (100.0, 1000.0)}, by="model"
    )
    assert [(row["model"], row["calls"]) for row in usage.rows] == [
        ("atlas-large", 1),
        ("sprint", 1),
    ]
    assert usage.total["cost_usd"] == pytest.approx(0.02)
    assert usage.unpriced_models == ["sprint"]
    assert usage.notes == ["Models without a price, not in the cost: sprint."]
    assert usage.complete


def test_a_target_that_does_not_answer_is_an_error_unless_noted(runs: Path) -> None:
    """With `note` the report names it, and is not complete."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(genmeter.ConfigError, match="does not respond"):
            genmeter.read_usage(runs, address)
        usage = genmeter.read_usage(runs, address, on_error="note")
        with pytest.raises(genmeter.ConfigError, match="does not respond"):
            genmeter.read_usage(address, on_error="note")
    assert usage.unread == [address]
    assert not usage.complete
    assert f"the numbers of {address} are missing" in usage.notes[0]
    assert usage.total["calls"] == 3
    assert "incomplete" in repr(usage)


BROKEN = {
    "absent.jsonl": "must be a journal",
    "runs-*": "matches no file",
    "empty": "has no metrics.jsonl, nor has a folder in it",
    "notes.jsonl": "is not a journal: none of its lines is a metric",
    "cut.json": "is damaged or not an export",
    "closed/metrics.jsonl": "cannot be read: Permission denied",
    "table.csv": "must be an export in JSON or Parquet",
    "packed.jsonl": "is compressed",
}
"""Sources that cannot be read, and why."""


@pytest.fixture
def broken(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two journals of three calls, and broken sources beside it."""
    top = runs / "broken"
    (top / "empty").mkdir(parents=True)
    (top / "notes.jsonl").write_text("to do\n")
    (top / "cut.json").write_text('{"generation_time": [')
    (top / "table.csv").write_text("a,b\n")
    (top / "packed.jsonl").write_bytes(b"\x1f\x8b\x08")
    write(top / "closed" / "metrics.jsonl", rows_of(0))
    opened = type(top).open

    def refuse(path: Path, *args: Any, **keywords: Any) -> Any:
        if path.parent.name == "closed":  # root may open any file
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **keywords)

    monkeypatch.setattr(type(top), "open", refuse)
    return top


@pytest.mark.parametrize("window", [None, timedelta(days=1)])
@pytest.mark.parametrize("name", BROKEN)
def test_a_source_of_any_kind_that_cannot_be_read_is_noted(
    runs: Path, broken: Path, name: str, window: timedelta | None
) -> None:
    """The others are summed; by default it is an error, and so it is if nothing can be read."""
    source = str(broken / name)
    good = (runs / "a", runs / "b")
    with pytest.raises(genmeter.GenmeterError) as caught:
        genmeter.read_usage(*good, source, window=window)
    assert BROKEN[name] in str(caught.value)
    usage = genmeter.read_usage(source, *good, window=window, on_error="note")
    assert (usage.unread, usage.total["calls"], usage.complete) == ([source], 3, False)
    (note,) = usage.notes
    assert note.startswith("Incomplete: ")
    assert BROKEN[name] in note
    assert note.endswith(f"; the numbers of {source} are missing.")
    with pytest.raises(genmeter.GenmeterError) as again:
        genmeter.read_usage(source, window=window, on_error="note")
    assert str(again.value) == str(caught.value)


def test_a_journal_that_cannot_be_read_does_not_hide_the_others_of_its_folder(
    runs: Path, broken: Path
) -> None:
    """Only its own folder is missing."""
    usage = genmeter.read_usage(runs, on_error="note")
    assert (usage.unread, usage.total["calls"]) == ([str(broken / "closed")], 3)
    with pytest.raises(genmeter.ConfigError, match=r"closed' cannot be read: Permission denied"):
        genmeter.read_usage(runs)


def test_a_prometheus_that_does_not_answer_is_noted(runs: Path, capsys: Capsys) -> None:
    """Without its login; the command says so too, and its exit code is 3."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        source, shown = f"prometheus=http://me:secret@{host}", f"prometheus=http://{host}"
        day = timedelta(days=1)
        usage = genmeter.read_usage(source, runs, window=day, on_error="note")
        with pytest.raises(genmeter.ConfigError, match="does not respond"):
            genmeter.read_usage(source, runs, window=day)
        with pytest.raises(genmeter.ConfigError, match="does not respond"):
            genmeter.read_usage(source, window=day, on_error="note")
        code, out, _ = report(capsys, runs, source, "--window", "24h", "--format", "json")
    assert (usage.unread, usage.total["calls"], usage.complete) == ([shown], 3, False)
    assert f"the numbers of {shown} are missing" in usage.notes[0]
    assert "secret" not in str(usage)
    found = json.loads(out)
    assert (code, found["unread_sources"], found["complete"]) == (3, [shown], False)


def test_many_sources_that_cannot_be_read_have_few_notes(runs: Path) -> None:
    """All are in ``unread``, and the notes fit a screen."""
    many = [str(runs / f"absent-{number}.jsonl") for number in range(25)]
    usage = genmeter.read_usage(runs, *many, on_error="note")
    assert usage.unread == many
    assert len(usage.notes) == 11
    assert usage.notes[-1] == "Incomplete: 15 more sources could not be read."


@pytest.mark.parametrize("source", ["", "127.0.0.1:99999", "prometheus=ftp://host"])
def test_an_argument_that_is_no_source_is_always_an_error(runs: Path, source: str) -> None:
    """It is a mistake of the caller."""
    with pytest.raises(genmeter.ConfigError, match="must be"):
        genmeter.read_usage(runs, source, window=timedelta(1), on_error="note")


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ((), {}, "sources must be at least one"),
        ((3,), {}, r"sources\[0\] must be a path, an address or a pattern, got 3"),
        ((b"a",), {}, r"sources\[0\] must be a path, an address or a pattern, got b'a'"),
        (("",), {}, "source must be a journal"),
        (("127.0.0.1:1",), {"window": timedelta(1)}, "window must be omitted for an endpoint"),
        (("absent",), {"by": "colour"}, "by must be some of model, step, .*, got 'colour'"),
        (("absent",), {"by": ()}, "by must be some of"),
        (("absent",), {"by": 3}, "by must be some of .*, got 3"),
        (("absent",), {"by": ("model", "model")}, "each at most once"),
        (("absent",), {"window": 60}, "window must be a datetime.timedelta, or None"),
        (("absent",), {"prices": 3}, "prices must be"),
        (("absent",), {"on_error": "ignore"}, "on_error must be one of raise, note"),
        (("absent",), {}, "source must be a journal"),
    ],
)
def test_an_invalid_argument_is_an_error(
    sources: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    """It names the argument, the value and the requirement."""
    with pytest.raises(genmeter.ConfigError, match=message):
        genmeter.read_usage(*sources, **options)


def test_importing_genmeter_imports_no_reader() -> None:
    """The parser of pages, the tables and the formats come with the first report."""
    code = (
        "import sys; from genmeter import GenerationMonitor; "
        "print([m for m in sys.modules if m.startswith(('genmeter.report.', 'prometheus_client.parser'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
