"""Exports: four formats, each file in its place only when it is whole."""

from __future__ import annotations

import builtins
import csv
import itertools
import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openpyxl
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from _hostile import VALUES
from xlsxwriter.exceptions import FileSizeError

from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.files import as_csv as export_csv
from genmeter.files import as_excel as export_excel
from genmeter.files import as_json as export_json
from genmeter.files.export import FORMATS, export
from genmeter.files.read import read_export
from genmeter.history.frames import to_frame
from genmeter.history.snapshot import CallRows
from genmeter.testing import isolated_monitor
from history_events import (
    START,
    evaluation,
    expected_rows,
    generation,
    json_rows,
    metric,
    snapshot_of,
)

if TYPE_CHECKING:
    from genmeter.history.snapshot import Snapshot

SUFFIXES = {"json": "json", "csv": "csv", "excel": "xlsx", "parquet": "parquet"}
HOSTILE = [
    *("org/model", "org:model", "ORG/model", "a" * 128, "a" * 127 + "b", "😀" * 40, "CON", "con"),
    *("a.", "it's'", "History", "manifest", "../up", "=1+1", "_x0041_", "ﬁ", "fi"),
]
TEXTS = {
    "formula": "=SUM(A1:A9)",
    "link": "https://example.com",
    "empty": "",
    "na": "NA",
    "control": "\x00\x1b[31mred\x1b[0m",
    "escape": "_x0041_",
    "rich": "<r><t>x</t></r>",
    "lines": "one\r\ntwo\nthree\rfour",
    "quote": 'say "hi", twice',
    "space": "  two  ",
    "none": None,
    "emoji": "😀",
    "not_xml": "\ufffe\uffff",
    "apostrophe": "'1",
    "tab": "\t",
}


def place(folder: Path, format_: str) -> Path:
    """Give a path for a format."""
    return folder / f"metrics.{SUFFIXES[format_]}"


def files(folder: Path) -> dict[str, bytes]:
    """Give all files of a folder and what is in them."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def assert_reads_back(snapshot: Snapshot, path: Path, format_: str) -> None:
    """Check that an export gives the frame again, row by row and type by type."""
    wanted = to_frame(snapshot, "samples")
    if format_ == "excel":  # holds milliseconds and 16 digits
        wanted = wanted.assign(timestamp=wanted["timestamp"].dt.round("ms"))
    found = read_export(path)
    pd.testing.assert_frame_equal(found, wanted, check_exact=format_ != "excel", rtol=1e-15)


@pytest.mark.parametrize("format_", FORMATS)
def test_hostile_names_and_metadata_read_back(format_: str, tmp_path: Path) -> None:
    """Whatever a model, a metric or a text is called, it comes back as it was."""
    names = [
        event
        for at, name in enumerate(HOSTILE)
        for event in (generation(at, model=name, step=name), metric(at, name, at / 3))
    ]
    told = {"nested": {"a": [1, {"b": None}]}, "big": 2**62 + 1, "small": 1e-300, "flag": True}
    texts = [generation(100, raw_kwargs={**TEXTS, **told}), metric(101, **TEXTS)]
    snapshot = snapshot_of([*names, *texts, evaluation(102)])
    export(snapshot, place(tmp_path, format_), format_)
    assert_reads_back(snapshot, place(tmp_path, format_), format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_hostile_keys_read_back(format_: str, tmp_path: Path) -> None:
    """Keys become columns whatever stands in them, and none takes another's place."""
    keys = [
        "",
        "_x0041_",
        "<r></r>",
        "a\nb",
        "a,b",
        '"',
        "\x1b",
        "\r",
        "a\r\nb",
        "\0",
        "KEY",
        "key",
        "😀",
        "timestamp_",
    ]
    snapshot = snapshot_of([metric(at, **{key: at}) for at, key in enumerate(keys)])
    export(snapshot, place(tmp_path, format_), format_)
    assert_reads_back(snapshot, place(tmp_path, format_), format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_texts_that_differ_after_a_nul_read_back(format_: str, tmp_path: Path) -> None:
    """They are two texts, though pandas 1.5 finds one where it looks for the different ones."""
    snapshot = snapshot_of([metric(0, note="a"), metric(1, note="a\0b")])
    export(snapshot, place(tmp_path, format_), format_)
    assert_reads_back(snapshot, place(tmp_path, format_), format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_what_a_caller_should_never_hand_in_is_exported(format_: str, tmp_path: Path) -> None:
    """No object, however odd, keeps a monitor from exporting, and all reads back."""
    with isolated_monitor() as monitor:
        for name, value in VALUES.items():
            told = {"value": value, name: value, "nested": [value]}
            monitor.track_generation(1.0, True, model_name="atlas", metadata=told, odd=value)
            monitor.record_metric("queue", 1.0, told)
        monitor.export_metrics(place(tmp_path, format_), format_)
        wanted = monitor.to_frame("samples")
    if format_ == "excel":
        wanted = wanted.assign(timestamp=wanted["timestamp"].dt.round("ms"))
    found = read_export(place(tmp_path, format_))
    pd.testing.assert_frame_equal(found, wanted, check_exact=format_ != "excel", rtol=1e-15)


@pytest.mark.parametrize("format_", FORMATS)
def test_an_empty_history_is_a_whole_export(format_: str, tmp_path: Path) -> None:
    """A job that told nothing yet has files that read back as no rows."""
    snapshot = snapshot_of([])
    written = export(snapshot, place(tmp_path, format_), format_)
    assert all(each.stat().st_size for each in written)
    assert_reads_back(snapshot, place(tmp_path, format_), format_)


@pytest.mark.parametrize("format_", ["json", "csv", "parquet"])
def test_many_events_read_back(format_: str, tmp_path: Path) -> None:
    """A long job's export is as exact as a short one's."""
    snapshot = snapshot_of(
        [
            generation(at / 7, duration=at / 3, total_tokens=at, model=f"m{at % 5}")
            for at in range(3_000)
        ],
        capacity=3_000,
    )
    export(snapshot, place(tmp_path, format_), format_)
    assert_reads_back(snapshot, place(tmp_path, format_), format_)


def test_a_hundred_thousand_calls_read_back(tmp_path: Path) -> None:
    """The default history, when full, is one table of all its samples."""
    few = snapshot_of(
        [generation(at / 7, duration=at / 3, model=f"m{at % 5}") for at in range(999)]
    )
    numbers = np.arange(100_000)
    columns = [np.resize(column, len(numbers)) for column in few.calls]
    calls = CallRows(*columns)._replace(serial=numbers, time=START + numbers / 7)
    snapshot = few._replace(calls=calls)
    export(snapshot, place(tmp_path, "parquet"), "parquet")
    assert len(read_export(place(tmp_path, "parquet"))) == 800_000
    assert_reads_back(snapshot, place(tmp_path, "parquet"), "parquet")


def test_json_has_a_score_that_outlived_its_evaluation(tmp_path: Path) -> None:
    """Its labels are those that the frame has."""
    events = [evaluation(0), *(generation(at) for at in range(1, 4))]
    snapshot = snapshot_of(events, capacity=3)
    export(snapshot, tmp_path / "run.json")
    assert_reads_back(snapshot, tmp_path / "run.json", "json")
    found = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    (score,) = found["evaluation_score_coherence"]
    assert score["evaluator_type"] == "EmbeddingJudge"
    assert "evaluation_time" not in found


def test_json_is_what_afterimage_wrote_with_zones_and_all_metadata(tmp_path: Path) -> None:
    """By metric a list of flat dicts, integers as integers, times with their offset."""
    events = [
        generation(0.5, raw_kwargs={"id": "a", "tags": ["x"]}),
        evaluation(1),
        metric(2, value=3),
    ]
    (path,) = export(snapshot_of(events), tmp_path / "metrics.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["generation_time"] == [
        {
            "timestamp": "2023-11-14T22:13:20.500000+00:00",
            "value": 1.5,
            "phase": "generation",
            "model_name": "atlas",
            "step": "answer_generation",
            "provider": "openai",
            "success": True,
            "id": "a",
            "tags": ["x"],
        }
    ]
    assert type(found["prompt_token_count"][0]["value"]) is int
    assert [row[0] for row in json_rows(path.read_text())] == [
        row[0] for row in expected_rows(events)
    ]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.json"]


def test_counts_in_json_are_exact(tmp_path: Path) -> None:
    """An integer that no float holds is written whole, beside a float of the same metric."""
    snapshot = snapshot_of(
        [generation(0, total_tokens=2**60 + 1), metric(1, "total_token_count", 0.5)]
    )
    (path,) = export(snapshot, tmp_path / "metrics.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["total_token_count"]
    assert [row["value"] for row in rows] == [2**60 + 1, 0.5]


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_json_written_in_pieces_is_one_document(
    rows_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a metric's rows end within a piece makes no difference."""
    monkeypatch.setattr(export_json, "_ROWS_AT_ONCE", rows_at_once)
    snapshot = snapshot_of([generation(at) for at in range(3)])
    export(snapshot, tmp_path / "metrics.json")
    assert_reads_back(snapshot, tmp_path / "metrics.json", "json")


def test_pandas_reads_parquet_as_the_frame(tmp_path: Path) -> None:
    """Parquet needs no recipe: pandas gives columns and dtypes as they were."""
    snapshot = snapshot_of(
        [generation(0, raw_kwargs={"id": 1}), evaluation(1), metric(2, ratio=0.5)]
    )
    export(snapshot, tmp_path / "metrics.parquet", "parquet", timedelta(hours=1))
    found = pd.read_parquet(tmp_path / "metrics.parquet")
    pd.testing.assert_frame_equal(found, to_frame(snapshot, "samples"))
    manifest = json.loads(pq.read_schema(tmp_path / "metrics.parquet").metadata[b"genmeter"])
    assert (manifest["rows"], manifest["window_seconds"]) == (len(found), 3600)
    assert manifest["timezone"] == "UTC"
    assert datetime.fromisoformat(manifest["exported_at"]).tzinfo is not None


def test_csv_is_a_file_for_each_metric_with_its_own_columns(tmp_path: Path) -> None:
    """Each file has the columns that its metric has values in, counts as integers."""
    snapshot = snapshot_of([generation(model="org/model", cache_read_tokens=7, step=None)])
    written = export(snapshot, tmp_path / "run.csv", "csv")
    assert {each.name for each in written} == {each.name for each in tmp_path.iterdir()}
    assert not (tmp_path / "run.csv").exists()
    assert (tmp_path / "run_model_usage_org_model.csv").exists()
    with (tmp_path / "run_prompt_token_count.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {
                "timestamp": "2023-11-14T22:13:20.000000+00:00",
                "value": "100",
                "metadata_phase": "generation",
                "metadata_model_name": "org/model",
                "metadata_provider": "openai",
                "metadata_cache_read_token_count": "7",
            }
        ]
    manifest = json.loads((tmp_path / "run_manifest.json").read_text(encoding="utf-8"))["genmeter"]
    assert {part["metric"]: part["name"] for part in manifest["parts"]}[
        "model_usage:org/model"
    ] == "run_model_usage_org_model.csv"


def test_a_csv_export_removes_files_of_the_one_before_and_no_others(tmp_path: Path) -> None:
    """What the last manifest named and the new one does not is gone, a stranger's file is not."""
    path = tmp_path / "run.csv"
    export(snapshot_of([metric(name="old"), metric(name="kept")]), path, "csv")
    (tmp_path / "run_notes.csv").write_text("mine")
    (tmp_path / "other_old.csv").write_text("mine")
    export(snapshot_of([metric(name="kept"), metric(name="new")]), path, "csv")
    names = {"run_kept.csv", "run_new.csv", "run_manifest.json", "run_notes.csv", "other_old.csv"}
    assert set(files(tmp_path)) == names


@pytest.mark.parametrize(
    "manifest",
    [
        *("", "[]", '{"genmeter": []}', '{"genmeter": {"format": "json", "parts": []}}'),
        json.dumps({"genmeter": {"format": "csv", "parts": [{"name": "mine.csv"}]}}),
        json.dumps({"genmeter": {"format": "csv", "parts": [{"name": "run_/../mine.csv"}]}}),
    ],
)
def test_a_manifest_that_is_not_ours_removes_nothing(manifest: str, tmp_path: Path) -> None:
    """A file of somebody else's is not removed because a file says so."""
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "run_").mkdir()
    (tmp_path / "run_manifest.json").write_text(manifest)
    export(snapshot_of([metric()]), tmp_path / "run.csv", "csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_a_stale_file_that_cannot_be_removed_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The new export stands, and one line says which file is old."""
    export(snapshot_of([metric(name="old")]), tmp_path / "run.csv", "csv")
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.name == "run_old.csv":
            raise PermissionError(13, "Permission denied")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    snapshot = snapshot_of([metric(name="new")])
    export(snapshot, tmp_path / "run.csv", "csv")
    assert "run_old.csv is of an older export" in caplog.text
    assert_reads_back(snapshot, tmp_path / "run.csv", "csv")


def test_excel_has_a_sheet_for_each_metric_and_a_manifest(tmp_path: Path) -> None:
    """Sheets hold dates, numbers and text as what they are; no text becomes a formula."""
    snapshot = snapshot_of([generation(0.25, raw_kwargs=TEXTS), metric(1, "History", 2.5)])
    export(snapshot, tmp_path / "run.xlsx", "excel")
    book = openpyxl.load_workbook(tmp_path / "run.xlsx")
    assert "History" not in book.sheetnames
    listed = {row[0].value: row[1].value for row in book["manifest"].iter_rows(min_row=2)}
    assert listed["generation_time"] == "generation_time"
    assert "History" in listed.values()
    header, row = book["generation_time"].iter_rows()
    cells = {title.value: cell for title, cell in zip(header, row, strict=True)}
    assert cells["timestamp"].value == datetime(2023, 11, 14, 22, 13, 20, 250_000)  # noqa: DTZ001
    assert cells["timestamp"].is_date
    assert (cells["value"].value, cells["value"].data_type) == (1.5, "n")
    assert cells["metadata_success"].data_type == "b"
    for key in ("formula", "link", "apostrophe"):
        assert (cells[f"metadata_{key}"].value, cells[f"metadata_{key}"].data_type) == (
            TEXTS[key],
            "s",
        )
        assert cells[f"metadata_{key}"].hyperlink is None
    assert cells["metadata_control"].value == json.dumps(TEXTS["control"])


def test_excel_can_be_read_without_dragging_columns(tmp_path: Path) -> None:
    """Titles are bold, and a column is as wide as what it holds, up to a limit."""
    told = {"note": "x" * 500, "short": 1}
    export(
        snapshot_of([generation(model="m" * 40, raw_kwargs=told)]), tmp_path / "run.xlsx", "excel"
    )
    sheet = openpyxl.load_workbook(tmp_path / "run.xlsx")["generation_time"]
    (header,) = sheet.iter_rows(max_row=1)
    widths = {str(cell.value): sheet.column_dimensions[cell.column_letter].width for cell in header}
    assert all(cell.font.b for cell in header)
    assert widths["timestamp"] > 23
    assert widths["metadata_model_name"] > 40
    assert widths["metadata_short"] > len("metadata_short")
    assert 60 < widths["metadata_note"] < 70


def test_excel_splits_what_a_sheet_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric of more rows than a sheet holds goes on in numbered ones, which read as one."""
    monkeypatch.setattr(export_excel, "MAX_ROWS", 4)
    snapshot = snapshot_of([metric(at, value=at) for at in range(7)])
    export(snapshot, tmp_path / "run.xlsx", "excel")
    names = openpyxl.load_workbook(tmp_path / "run.xlsx", read_only=True).sheetnames
    assert names == ["queue", "queue (2)", "queue (3)", "manifest"]
    assert_reads_back(snapshot, tmp_path / "run.xlsx", "excel")


def test_excel_cuts_what_a_cell_does_not_hold_and_says_so(tmp_path: Path) -> None:
    """A text beyond Excel's limit is cut there and counted in the manifest."""
    long = {"parts": ["😀" * 4_000] * 5}
    snapshot = snapshot_of([metric(long=long), metric(1, long="short")])
    export(snapshot, tmp_path / "run.xlsx", "excel")
    whole = to_frame(snapshot, "samples")["metadata_long"]
    found = read_export(tmp_path / "run.xlsx")["metadata_long"]
    assert found.iloc[1] == whole.iloc[1] == '"short"'
    assert whole.iloc[0].startswith(found.iloc[0])
    assert 32_765 <= len(found.iloc[0].encode("utf-16-le")) // 2 <= 32_767
    book = openpyxl.load_workbook(tmp_path / "run.xlsx", read_only=True)
    pieces = [row[3] for row in book["manifest"].iter_rows(min_row=2, values_only=True)]
    manifest = json.loads("".join(piece for piece in pieces if piece))
    assert manifest["parts"][0]["cut"] == {"metadata_long": 1}


def test_excel_takes_paths_of_its_own_kind_only(tmp_path: Path) -> None:
    """A workbook under another suffix would not open."""
    with pytest.raises(ExportError, match=r"'.*run\.xls'; give .*\.xlsx"):
        export(snapshot_of([]), tmp_path / "run.xls", "excel")
    assert files(tmp_path) == {}


def test_a_workbook_that_cannot_be_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What xlsxwriter refuses is told with the path, and leaves nothing."""

    def refuse(self: xlsxwriter.Workbook) -> None:
        raise FileSizeError("too large")

    monkeypatch.setattr(xlsxwriter.Workbook, "close", refuse)
    with pytest.raises(ExportError, match=r"run\.xlsx': too large; export a shorter window"):
        export(snapshot_of([metric()]), tmp_path / "run.xlsx", "excel")
    assert files(tmp_path) == {}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_partial_export_says_so(
    format_: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning and the manifest tell from when on rows are kept."""
    events = [generation(at, raw_kwargs={"note": "x" * 400}) for at in range(5)]
    snapshot = snapshot_of(events, capacity=3, metadata_bytes=1_200)
    with caplog.at_level(logging.WARNING, "genmeter"):
        export(snapshot, place(tmp_path, format_), format_)
    assert "GENMETER_HISTORY_CAPACITY" in caplog.text
    assert "lacks the metadata of 1 rows" in caplog.text
    assert "GENMETER_HISTORY_METADATA_BYTES" in caplog.text
    expected = to_frame(snapshot, "samples").attrs
    assert read_export(place(tmp_path, format_)).attrs == expected
    assert expected.keys() == {"kept_since", "data_cut"}


def test_a_json_export_that_is_whole_again_has_no_manifest(tmp_path: Path) -> None:
    """What the one before had left out is not said of the next."""
    path = tmp_path / "run.json"
    export(snapshot_of([generation(at) for at in range(5)], capacity=3), path)
    assert sorted(files(tmp_path)) == ["run.json", "run.json.manifest"]
    export(snapshot_of([generation()]), path)
    assert sorted(files(tmp_path)) == ["run.json"]
    assert read_export(path).attrs == {}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_failure_midway_leaves_the_old_files_and_no_others(
    format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full in the middle of a write, nothing has changed."""
    export(snapshot_of([generation(0)]), place(tmp_path, format_), format_)
    before = files(tmp_path)
    opened = Path.open

    class Full:
        """A file on a disk that takes a little and then no more."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 200

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return int(self.file.write(data))

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def open_full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opened(self, mode, *args, **options)
        return Full(file) if "x" in mode else file

    monkeypatch.setattr(Path, "open", open_full)
    events = [generation(at, raw_kwargs={"id": "b" * at}) for at in range(30)]
    with pytest.raises(ExportError, match=r"output_path is '.*No space left.*room"):
        export(snapshot_of(events), place(tmp_path, format_), format_)
    assert files(tmp_path) == before


@pytest.mark.parametrize("format_", FORMATS)
def test_a_failed_rename_leaves_no_temporary_file(
    format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written beside is removed where it cannot be brought to its place."""

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ExportError, match="Permission denied"):
        export(snapshot_of([generation()]), place(tmp_path, format_), format_)
    assert files(tmp_path) == {}


def test_an_error_of_our_own_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, half a file never stays."""

    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(export_csv, "manifest_path", fail)
    with pytest.raises(RuntimeError):
        export(snapshot_of([generation()]), tmp_path / "run.csv", "csv")
    assert files(tmp_path) == {}


def test_a_parent_that_is_a_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    """The message names the argument and says what to do."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ExportError, match=r"output_path is '.*taken/run\.json'.*give a path"):
        export(snapshot_of([]), tmp_path / "taken" / "run.json")
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_folder_is_made(tmp_path: Path) -> None:
    """A path in a folder that does not exist yet is fine."""
    export(snapshot_of([]), tmp_path / "a" / "b" / "run.json")
    assert (tmp_path / "a" / "b" / "run.json").is_file()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What a link points to is written, in its own folder."""
    (tmp_path / "there").mkdir()
    (tmp_path / "run.json").symlink_to(tmp_path / "there" / "run.json")
    export(snapshot_of([]), tmp_path / "run.json")
    assert (tmp_path / "run.json").is_symlink()
    assert (tmp_path / "there" / "run.json").is_file()


def test_a_path_as_text_is_relative_to_where_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    assert export(snapshot_of([]), "run.json") == [Path(os.path.realpath(tmp_path)) / "run.json"]


@pytest.mark.parametrize("path", ["", "  ", None, 3, b"run.json", "a\0b", "folder/", "\ud800"])
def test_a_path_that_is_none_is_an_error(path: Any) -> None:
    """The message has the argument, its value and the remedy."""
    with pytest.raises(ConfigError, match=r"output_path is .*; give (the|a)"):
        export(snapshot_of([]), path)


def test_a_csv_stem_that_no_manifest_can_hold_is_an_error(tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8 cannot be written down."""
    path = tmp_path / os.fsdecode(b"run\xff.csv")
    with pytest.raises(ExportError, match="whose name is no UTF-8"):
        export(snapshot_of([generation()]), path, "csv")
    assert files(tmp_path) == {}


def test_two_exports_to_one_place_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one export come to their places together, whatever other threads export there."""
    renamed: list[int] = []
    rename = Path.replace

    def note(self: Path, target: Path) -> Path:
        renamed.append(threading.get_ident())
        time.sleep(0.002)  # so that the other thread's turn would come
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", note)
    both = threading.Barrier(2)

    def write(events: int) -> None:
        snapshot = snapshot_of([generation(at) for at in range(events)])
        both.wait()
        export(snapshot, tmp_path / "run.csv", "csv")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, (3, 5)))
    assert len(list(itertools.groupby(renamed))) == 2
    assert set(read_export(tmp_path / "run.csv").groupby("metric_name").size()) in ({3}, {5})


def test_the_recipe_for_csv_gives_the_frame_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/exports.md tells to do with pandas alone works for hostile texts and keys."""
    monkeypatch.chdir(tmp_path)
    keys = {"\r": "a", "\0": "", "a,b": 1, "KEY": True, "key": 1.5, '"': None, "=1": {"b": [1]}}
    events = [generation(raw_kwargs={**TEXTS, **keys}), generation(1), metric(2, "org/a", **keys)]
    snapshot = snapshot_of(events)
    export(snapshot, "run.csv", "csv")
    page = (Path(__file__).parents[3] / "docs" / "exports.md").read_text(encoding="utf-8")
    recipe = page.split("Of CSV:\n")[1].split("```")[1]
    recipe = recipe[recipe.index("with open(") :]
    frames: dict[str, pd.DataFrame] = {}
    last = 'print(part["metric"], len(frame))'
    assert last in recipe
    code = recipe.replace(last, 'frames[part["metric"]] = frame')
    exec(code, {"json": json, "pd": pd, "frames": frames})  # noqa: S102 (the page's own code)
    samples = to_frame(snapshot, "samples")
    assert frames.keys() == set(samples["metric_name"])
    for name, frame in frames.items():
        wanted = samples[samples["metric_name"] == name].reset_index(drop=True)
        assert (
            frame.columns.tolist()
            == [each for each in wanted if each in frame or wanted[each].notna().any()][1:]
        )
        pd.testing.assert_frame_equal(
            frame, wanted[frame.columns.tolist()], check_dtype=False, check_index_type=False
        )
        told = [each for each in frame if each.startswith("metadata_")]
        assert frame[told].dtypes.equals(wanted[told].dtypes)


def test_a_directory_and_a_device_are_no_files(tmp_path: Path) -> None:
    """Neither is replaced by an export."""
    with pytest.raises(ConfigError, match="a directory; give the path of a file in it"):
        export(snapshot_of([]), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        export(snapshot_of([]), tmp_path / "pipe")


@pytest.mark.parametrize("format_", ["xml", "JSON", "", None, ["json"]])
def test_an_unknown_format_is_an_error_that_names_the_formats(format_: Any, tmp_path: Path) -> None:
    """The error is a ``ValueError``, as in AfterImage, and nothing is written."""
    with pytest.raises(ValueError, match=r"format is .*; give one of json, csv, excel, parquet"):
        export(snapshot_of([]), tmp_path / "run.json", format_)
    assert files(tmp_path) == {}


def test_a_window_that_is_no_timedelta_is_an_error(tmp_path: Path) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigError, match=r"window is 60; give a datetime.timedelta"):
        export(snapshot_of([]), tmp_path / "run.json", "json", 60)  # type: ignore[arg-type]


def test_a_stem_that_leaves_no_room_is_an_error(tmp_path: Path) -> None:
    """The names of CSV files would be too long for the folder."""
    with pytest.raises(ExportError, match="name is too long; shorten it"):
        export(snapshot_of([metric()]), tmp_path / f"{'s' * 250}.csv", "csv")
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [("excel", "xlsxwriter", "excel"), ("parquet", "pyarrow", "parquet")],
)
def test_a_missing_package_is_an_error_with_the_pip_command(
    format_: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, not even the folder."""
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == package:
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=rf'pip install "genmeter\[{extra}\]"'):
        export(snapshot_of([metric()]), place(tmp_path / "new", format_), format_)
    assert files(tmp_path) == {}
