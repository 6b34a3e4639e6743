"""Reading exports of genmeter and AfterImage; other files are errors with their path."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import shutil
import sys
import time
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
    """Set the zone to Berlin, with its daylight saving time."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_export_of_afterimage_is_read(tmp_path: Path) -> None:
    """Local times become UTC by the zone's rules; what is not a number becomes NaN."""
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
    passed = [row[3] for row in rows_of(frame.fillna({"timestamp": pd.Timestamp(0, tz="UTC")}))]
    assert passed == [
        {},
        {"evaluator_type": "Judge"},
        {"step_": 3},
        {},
        {"success": True, "metadata": '{"a":1}'},
        {"success": False, "metadata": "{}"},
    ]


@pytest.mark.parametrize(
    "name", ["run.csv", "run_queue.csv", "run_manifest.json", "run.xlsx", "renamed", "missing.csv"]
)
def test_csv_and_excel_are_rejected(name: str, tmp_path: Path) -> None:
    """The message names the file and how to read it."""
    export(snapshot_of([metric()]), tmp_path / "run.csv", "csv")
    export(snapshot_of([metric()]), tmp_path / "run.xlsx", "excel")
    shutil.copy(tmp_path / "run.xlsx", tmp_path / "renamed")
    with pytest.raises(ExportError, match=rf"{name}'.*pandas\.read_csv.*pandas\.read_excel.*JSON"):
        read_export(tmp_path / name)


def test_format_is_detected_by_content(tmp_path: Path) -> None:
    """A renamed file is read too."""
    snapshot = snapshot_of([generation()])
    for format_, suffix in (("parquet", "parquet"), ("json", "json")):
        export(snapshot, tmp_path / f"run.{suffix}", format_)
        (tmp_path / f"run.{suffix}").rename(tmp_path / "export.bin")
        found = read_export(tmp_path / "export.bin")
        pd.testing.assert_frame_equal(found, to_frame(snapshot, "samples"))


@pytest.mark.parametrize("path", ["missing.json", "missing"])
def test_missing_file_is_an_error(path: str, tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(ConfigError, match=rf"path must be an existing file, got '.*{path}'"):
        read_export(tmp_path / path)


@pytest.mark.parametrize("path", [None, 3, b"run.json"])
def test_invalid_path_is_rejected(path: Any) -> None:
    """The message names the argument and its value."""
    with pytest.raises(ConfigError, match=r"path must be the path of an export, got"):
        read_export(path)


def test_foreign_parquet_file_is_rejected(tmp_path: Path) -> None:
    """A Parquet file without a manifest is not an export."""
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "run.parquet")
    with pytest.raises(ExportError, match=r"path '.*run\.parquet' is damaged or not an export"):
        read_export(tmp_path / "run.parquet")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b'{"a": 1}', b'{"a": [1]}', b'{"a": [{"value": 1}]}'),
        *(b"PAR1", b"\xff\xfe", b'{"genmeter": 3}'),
    ],
)
def test_file_that_is_not_an_export_is_rejected(content: bytes, tmp_path: Path) -> None:
    """Whatever is in the file, the ExportError names it."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"path '.*run\.json' is damaged .*; use a file"):
        read_export(path)


def test_damaged_parquet_file_is_an_export_error(tmp_path: Path) -> None:
    """Whatever the reader of Parquet raises."""
    path = tmp_path / "run.parquet"
    export(snapshot_of([generation(at) for at in range(50)]), path, "parquet")
    whole = path.read_bytes()
    for start in range(100, len(whole), len(whole) // 20):
        path.write_bytes(whole[:start] + b"\x00" * 16 + whole[start + 16 :])
        with contextlib.suppress(ExportError):
            read_export(path)


def test_too_deep_nesting_is_an_error(tmp_path: Path) -> None:
    """Nesting beyond the parser's limit counts as damage."""
    path = tmp_path / "run.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ExportError, match="damaged or not an export"):
        read_export(path)


@pytest.mark.parametrize("year", ["0001", "1600", "2400", "9999"])
def test_time_out_of_range_is_missing(year: str, tmp_path: Path) -> None:
    """It is not wrapped to another century."""
    path = tmp_path / "run.json"
    path.write_text(
        json.dumps({"queue": [{"timestamp": f"{year}-06-01T00:00:00+00:00", "value": 1}]})
    )
    assert read_export(path)["timestamp"].isna().all()


def test_folder_is_rejected(tmp_path: Path) -> None:
    """A directory cannot be read as a file."""
    with pytest.raises(ExportError, match="cannot be read"):
        read_export(tmp_path)


def test_missing_package_is_an_error_with_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the package."""
    path = tmp_path / "run.parquet"
    export(snapshot_of([metric()]), path, "parquet")
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "pyarrow":
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r'pip install "genmeter\[parquet\]"'):
        read_export(os.fspath(path))
