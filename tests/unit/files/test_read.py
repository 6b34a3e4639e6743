"""Exports read back, ours and AfterImage's; what is none is an error with its path."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.files.export import export
from genmeter.files.read import read_export
from genmeter.history.frames import to_frame
from history_events import generation, metric, rows_of, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What AfterImage 0.18.1 writes: local times without a zone, str() of what JSON does not know.
OLD = {
    "generation_time": [
        {
            "timestamp": "2024-07-01 12:00:00.250000",
            "value": 1.5,
            "success": True,
            "metadata": {"a": 1},
        },
        {"timestamp": "2024-01-01 12:00:00", "value": 2, "success": False, "metadata": {}},
    ],
    "evaluation_score_x": [
        {"timestamp": "2024-07-01 12:00:01", "value": "0.9", "evaluator_type": "Judge"},
        {"timestamp": "2024-07-01 12:00:02", "value": None, "step": 3},
        {"timestamp": None, "value": 10**400},
    ],
    "custom": [{"timestamp": "2024-07-01 12:00:03", "value": float("nan"), "share": float("nan")}],
}


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in Berlin, where summer and winter differ."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_an_export_of_afterimage_is_read_as_ours(tmp_path: Path) -> None:
    """Local times become UTC by the zone's own rules, numbers stay and the rest is NaN."""
    path = tmp_path / "metrics_20240701_120000.json"
    path.write_text(json.dumps(OLD))
    frame = read_export(path)
    assert frame.dtypes["timestamp"] == "datetime64[ns, UTC]"
    assert frame["metric_name"].tolist() == [
        "custom",
        *["evaluation_score_x"] * 3,
        *["generation_time"] * 2,
    ]
    assert frame["value"].isna().tolist() == [True] * 4 + [False] * 2
    assert frame["value"].tolist()[4:] == [1.5, 2.0]
    times = [None if pd.isna(each) else each.isoformat() for each in frame["timestamp"]]
    assert times[3:] == [None, "2024-07-01T10:00:00.250000+00:00", "2024-01-01T11:00:00+00:00"]
    told = [row[3] for row in rows_of(frame.fillna({"timestamp": pd.Timestamp(0, tz="UTC")}))]
    assert told == [
        {},
        {"evaluator_type": "Judge"},
        {"step_": 3},
        {},
        {"success": True, "metadata": '{"a":1}'},
        {"success": False, "metadata": "{}"},
    ]


def test_a_csv_export_is_read_by_its_path_its_manifest_or_any_name_of_its_stem(
    tmp_path: Path,
) -> None:
    """The path that was exported to need not exist."""
    snapshot = snapshot_of([generation(0), metric(1, host="a")])
    export(snapshot, tmp_path / "run.csv", "csv")
    wanted = to_frame(snapshot, "samples")
    for path in (tmp_path / "run.csv", tmp_path / "run_manifest.json", str(tmp_path / "run")):
        pd.testing.assert_frame_equal(read_export(path), wanted)


def test_one_csv_file_of_many_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    """A part is not taken for the whole."""
    export(snapshot_of([metric()]), tmp_path / "run.csv", "csv")
    with pytest.raises(ExportError, match=r"run_queue\.csv'.*_manifest\.json"):
        read_export(tmp_path / "run_queue.csv")


def test_a_file_of_the_exported_name_beside_a_manifest_is_not_taken_for_it(tmp_path: Path) -> None:
    """A CSV of somebody else's at the path that was exported to changes nothing."""
    snapshot = snapshot_of([metric()])
    export(snapshot, tmp_path / "run.csv", "csv")
    (tmp_path / "run.csv").write_text("mine")
    pd.testing.assert_frame_equal(read_export(tmp_path / "run.csv"), to_frame(snapshot, "samples"))


def test_the_content_tells_the_format_and_not_the_name(tmp_path: Path) -> None:
    """A file that was renamed is read all the same."""
    snapshot = snapshot_of([generation()])
    for format_, suffix in (("parquet", "parquet"), ("excel", "xlsx"), ("json", "json")):
        export(snapshot, tmp_path / f"run.{suffix}", format_)
        (tmp_path / f"run.{suffix}").rename(tmp_path / "export.bin")
        found = read_export(tmp_path / "export.bin")
        pd.testing.assert_frame_equal(found, to_frame(snapshot, "samples"))


@pytest.mark.parametrize("path", ["missing.json", "missing.csv", "missing"])
def test_a_missing_file_is_an_error_with_its_path(path: str, tmp_path: Path) -> None:
    """The message names the path and says what to give."""
    with pytest.raises(ConfigError, match=rf"path is '.*{path}', which does not exist; give"):
        read_export(tmp_path / path)


@pytest.mark.parametrize("path", [None, 3, b"run.json"])
def test_what_is_no_path_is_an_error(path: Any) -> None:
    """The message names the argument and its value."""
    with pytest.raises(ConfigError, match=r"path is .*; give the path of an export"):
        read_export(path)


def damaged_book(path: Path) -> None:
    """Write a workbook that no export wrote."""
    pd.DataFrame({"a": [1]}).to_excel(path)


def damaged_table(path: Path) -> None:
    """Write a Parquet file that no export wrote."""
    pd.DataFrame({"a": [1]}).to_parquet(path)


def archive(path: Path) -> None:
    """Write a ZIP file that is no workbook."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")


@pytest.mark.parametrize("write", [damaged_book, damaged_table, archive])
def test_tables_of_other_programs_are_an_error(write: Any, tmp_path: Path) -> None:
    """A workbook, a table or an archive of other things is no export."""
    path = tmp_path / "run.xlsx"
    write(path)
    with pytest.raises(ExportError, match=r"path is '.*run\.xlsx', which is damaged or no export"):
        read_export(path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b'{"a": 1}', b'{"a": [1]}', b'{"a": [{"value": 1}]}'),
        *(b"PK\x03\x04", b"PAR1", b"\xff\xfe", b'{"genmeter": {"format": "csv", "version": 1}}'),
        *(b'{"genmeter": {"format": "csv"}}', b'{"genmeter": {"format": "xml", "version": 1}}'),
    ],
)
def test_files_that_are_no_exports_are_an_error(content: bytes, tmp_path: Path) -> None:
    """Whatever a file holds, the error is ours and names it."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"path is '.*run\.json', which .*; give a file"):
        read_export(path)


def test_a_csv_set_that_lost_a_file_or_rows_is_an_error(tmp_path: Path) -> None:
    """An export is read whole or not at all."""
    export(snapshot_of([metric(0), metric(1)]), tmp_path / "run.csv", "csv")
    part = tmp_path / "run_queue.csv"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ExportError, match=r"'run_queue\.csv' has 1 rows, not 2"):
        read_export(tmp_path / "run.csv")
    part.unlink()
    with pytest.raises(ExportError, match="No such file"):
        read_export(tmp_path / "run.csv")


def test_a_csv_file_that_lost_a_column_is_an_error(tmp_path: Path) -> None:
    """What a spreadsheet saved back without a column is not read as half an export."""
    export(snapshot_of([metric(host="a")]), tmp_path / "run.csv", "csv")
    part = tmp_path / "run_queue.csv"
    part.write_text(
        "".join(line.rsplit(",", 1)[0] + "\n" for line in part.read_text().splitlines())
    )
    with pytest.raises(ExportError, match="damaged"):
        read_export(tmp_path / "run.csv")


def test_a_workbook_with_damaged_bytes_is_an_error(tmp_path: Path) -> None:
    """Whatever its reader raises, the error is ours and names the file."""
    path = tmp_path / "run.xlsx"
    export(snapshot_of([generation(at) for at in range(50)]), path, "excel")
    whole = path.read_bytes()
    for start in range(100, len(whole), len(whole) // 20):
        path.write_bytes(whole[:start] + b"\x00" * 16 + whole[start + 16 :])
        with contextlib.suppress(ExportError):
            read_export(path)


def test_a_file_of_nothing_but_brackets_is_an_error(tmp_path: Path) -> None:
    """Nesting that the parser cannot follow is damage like any other."""
    path = tmp_path / "run.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ExportError, match="damaged or no export"):
        read_export(path)


@pytest.mark.parametrize("year", ["0001", "1600", "2400", "9999"])
def test_a_time_that_no_frame_can_hold_is_missing(year: str, tmp_path: Path) -> None:
    """It is not taken for a time of another century."""
    path = tmp_path / "run.json"
    path.write_text(
        json.dumps({"queue": [{"timestamp": f"{year}-06-01T00:00:00+00:00", "value": 1}]})
    )
    assert read_export(path)["timestamp"].isna().all()


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    """A directory cannot be read as a file."""
    with pytest.raises(ExportError, match="cannot be read"):
        read_export(tmp_path)


@pytest.mark.parametrize(
    ("format_", "suffix", "package", "extra"),
    [("excel", "xlsx", "openpyxl", "excel"), ("parquet", "parquet", "pyarrow", "parquet")],
)
def test_a_missing_package_is_an_error_with_the_pip_command(
    format_: str,
    suffix: str,
    package: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading says which package it lacks."""
    path = tmp_path / f"run.{suffix}"
    export(snapshot_of([metric()]), path, format_)
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == package:
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=rf'pip install "genmeter\[{extra}\]"'):
        read_export(os.fspath(path))
