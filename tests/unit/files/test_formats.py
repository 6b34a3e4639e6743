"""The content of an export in each format."""

from __future__ import annotations

import csv
import json
import os
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import openpyxl
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from _exports import assert_read_back, assert_tables_hold, contents, place, tables
from _hostile import VALUES
from hypothesis import given
from hypothesis import strategies as st
from pandas.io.formats.excel import ExcelFormatter
from xlsxwriter.exceptions import FileSizeError

from genmeter.errors import ExportError
from genmeter.events.values import MAX_COUNT
from genmeter.files import _formats as formats
from genmeter.files._formats import FORMATS, safe_names
from genmeter.files.export import export
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
    from pathlib import Path

    from genmeter.events.model import Event

EXACT = ["json", "parquet"]
SPREADSHEETS = ["csv", "excel"]
HOSTILE = [
    *("org/model", "org:model", "ORG/model", "a" * 128, "a" * 127 + "b", "😀" * 40, "CON", "con"),
    *("a.", "it's'", "History", "manifest", "../up", "=1+1", "_x0041_", "ﬁ", "fi"),
]
TEXTS = {
    "formula": "=SUM(A1:A9)",
    "array": "{=1+1}",
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
KEYS = [
    "",
    "_x0041_",
    "<r></r>",
    "a\nb",
    "a,b",
    '"',
    "\x1b",
    "\r",
    "a\r\nb",
    "a\0b",
    "KEY",
    "key",
    "😀",
]


def hostile_events() -> list[Event]:
    """Return events with names, texts and keys that are hard to write."""
    names = [
        event
        for at, name in enumerate(HOSTILE)
        for event in (generation(at, model=name, step=name), metric(at, name, at / 3))
    ]
    passed = {"nested": {"a": [1, {"b": None}]}, "big": 2**62 + 1, "small": 1e-300, "flag": True}
    texts = [generation(100, raw_kwargs={**TEXTS, **passed}), metric(101, **TEXTS), evaluation(102)]
    keys = [metric(200 + at, **{key: at}) for at, key in enumerate(KEYS)]
    return [*names, *texts, *keys]


@pytest.mark.parametrize("format_", EXACT)
def test_hostile_names_texts_and_keys_are_read_back(format_: str, tmp_path: Path) -> None:
    """Names of models and metrics, texts and keys are read back unchanged."""
    snapshot = snapshot_of(hostile_events())
    export(snapshot, place(tmp_path, format_), format_)
    assert_read_back(snapshot, place(tmp_path, format_))


@pytest.mark.parametrize("format_", SPREADSHEETS)
def test_hostile_names_texts_and_keys_lose_no_row(format_: str, tmp_path: Path) -> None:
    """Pandas finds all rows of each metric."""
    snapshot = snapshot_of(hostile_events())
    export(snapshot, place(tmp_path, format_), format_)
    assert_tables_hold(to_frame(snapshot, "samples"), place(tmp_path, format_))


@pytest.mark.parametrize("format_", FORMATS)
def test_hostile_values_are_exported(format_: str, tmp_path: Path) -> None:
    """No object of a caller prevents an export."""
    path = place(tmp_path, format_)
    with isolated_monitor() as monitor:
        for name, value in VALUES.items():
            passed = {"value": value, name: value, "nested": [value]}
            monitor.track_generation(1.0, True, model_name="atlas", metadata=passed, odd=value)
            monitor.record_metric("queue", 1.0, passed)
        monitor.export_metrics(path, format_)
        samples = monitor.to_frame("samples")
    if format_ in SPREADSHEETS:
        assert_tables_hold(samples, path)
    else:
        pd.testing.assert_frame_equal(read_export(path), samples)


def test_hundred_thousand_calls_are_read_back(tmp_path: Path) -> None:
    """A full default history is one table of all its samples."""
    few = snapshot_of(
        [generation(at / 7, duration=at / 3, model=f"m{at % 5}") for at in range(999)]
    )
    numbers = np.arange(100_000)
    columns = [np.resize(column, len(numbers)) for column in few.calls]
    calls = CallRows(*columns)._replace(serial=numbers, time=START + numbers / 7)
    snapshot = few._replace(calls=calls)
    export(snapshot, place(tmp_path, "parquet"), "parquet")
    assert_read_back(snapshot, place(tmp_path, "parquet"))


def test_json_has_scores_without_their_evaluation(tmp_path: Path) -> None:
    """Their labels are those of the frame."""
    events = [evaluation(0), *(generation(at) for at in range(1, 4))]
    snapshot = snapshot_of(events, capacity=3)
    export(snapshot, tmp_path / "run.json")
    assert_read_back(snapshot, tmp_path / "run.json")
    found = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    (score,) = found["evaluation_score_coherence"]
    assert score["evaluator_type"] == "EmbeddingJudge"
    assert "evaluation_time" not in found


def test_json_has_afterimages_layout(tmp_path: Path) -> None:
    """By metric a list of flat dicts, with integers and with times that have an offset."""
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


def test_counts_in_json_are_integers(tmp_path: Path) -> None:
    """Even the largest count is written exactly, beside a float of the same metric."""
    snapshot = snapshot_of(
        [generation(0, total_tokens=MAX_COUNT), metric(1, "total_token_count", 0.5)]
    )
    (path,) = export(snapshot, tmp_path / "metrics.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["total_token_count"]
    assert [row["value"] for row in rows] == [MAX_COUNT, 0.5]


@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_json_written_in_pieces_is_one_document(
    rows_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a metric's rows within a piece makes no difference."""
    monkeypatch.setattr(formats, "_JSON_ROWS", rows_at_once)
    snapshot = snapshot_of([generation(at) for at in range(3)])
    export(snapshot, tmp_path / "metrics.json")
    assert_read_back(snapshot, tmp_path / "metrics.json")


def test_json_has_a_manifest_only_if_the_history_has_gaps(tmp_path: Path) -> None:
    """An export without gaps removes the previous manifest."""
    path = tmp_path / "run.json"
    export(snapshot_of([generation(at) for at in range(5)], capacity=3), path)
    assert sorted(contents(tmp_path)) == ["run.json", "run.json.manifest"]
    export(snapshot_of([generation()]), path)
    assert sorted(contents(tmp_path)) == ["run.json"]
    assert read_export(path).attrs == {}


def test_pandas_reads_parquet_as_the_frame(tmp_path: Path) -> None:
    """Columns and dtypes are those of the frame."""
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


def test_csv_has_a_file_for_each_metric(tmp_path: Path) -> None:
    """Each file has the columns with values, counts as integers."""
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


def test_csv_times_have_one_format(tmp_path: Path) -> None:
    """Whole seconds have a fraction too, so that pandas parses the column."""
    export(snapshot_of([metric(0), metric(0.25)]), tmp_path / "run.csv", "csv")
    times = tables(tmp_path / "run.csv")["queue"]["timestamp"]
    assert times.tolist() == [pd.Timestamp(START + at, unit="s", tz="UTC") for at in (0, 0.25)]


def test_csv_replaces_line_ends_and_nul(tmp_path: Path) -> None:
    """Readers would end the row or the text there; the manifest names the columns."""
    export(snapshot_of([metric(**TEXTS)]), tmp_path / "run.csv", "csv")
    (row,) = tables(tmp_path / "run.csv")["queue"].to_dict("records")
    lines = "one\ntwo\nthree\nfour"
    changed = {"lines": lines, "control": TEXTS["control"].replace("\0", "\ufffd")}
    for key, text in (TEXTS | changed).items():
        if text:
            assert row[f"metadata_{key}"] == text, key
    manifest = json.loads((tmp_path / "run_manifest.json").read_text())["genmeter"]
    assert manifest["changed"] == [f"metadata_{key}" for key in sorted(changed)]


def test_csv_removes_only_files_of_the_previous_export(tmp_path: Path) -> None:
    """A file is removed only if the previous manifest names it."""
    path = tmp_path / "run.csv"
    export(snapshot_of([metric(name="old"), metric(name="kept")]), path, "csv")
    (tmp_path / "run_notes.csv").write_text("mine")
    (tmp_path / "other_old.csv").write_text("mine")
    export(snapshot_of([metric(name="kept"), metric(name="new")]), path, "csv")
    names = {"run_kept.csv", "run_new.csv", "run_manifest.json", "run_notes.csv", "other_old.csv"}
    assert contents(tmp_path).keys() == names


@pytest.mark.parametrize(
    "manifest",
    [
        *("", "[]", '{"genmeter": []}', '{"genmeter": {"parts": [3]}}'),
        json.dumps({"genmeter": {"parts": [{"name": 3}, {}]}}),
        json.dumps({"genmeter": {"format": "csv", "parts": [{"name": "mine.csv"}]}}),
        json.dumps({"genmeter": {"format": "csv", "parts": [{"name": "run_/../mine.csv"}]}}),
    ],
)
def test_foreign_manifest_removes_nothing(manifest: str, tmp_path: Path) -> None:
    """No other file is removed because of it."""
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "run_").mkdir()
    (tmp_path / "run_manifest.json").write_text(manifest)
    export(snapshot_of([metric()]), tmp_path / "run.csv", "csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_csv_name_outside_utf_8_is_in_the_manifest(tmp_path: Path) -> None:
    """A later export can remove the file."""
    path = tmp_path / os.fsdecode(b"run\xff.csv")
    export(snapshot_of([metric(name="old")]), path, "csv")
    export(snapshot_of([metric(name="new")]), path, "csv")
    names = {os.fsencode(each) for each in contents(tmp_path)}
    assert names == {b"run\xff_new.csv", b"run\xff_manifest.json"}


def test_too_long_stem_is_rejected(tmp_path: Path) -> None:
    """The names of CSV files would be too long for the file system."""
    with pytest.raises(ExportError, match="must have a shorter file name"):
        export(snapshot_of([metric()]), tmp_path / f"{'s' * 250}.csv", "csv")
    assert contents(tmp_path) == {}


def test_excel_has_a_sheet_for_each_metric_and_a_manifest(tmp_path: Path) -> None:
    """Dates, numbers and text keep their types; no text becomes a formula."""
    snapshot = snapshot_of([generation(0.25, raw_kwargs=TEXTS), metric(1, "History", 2.5)])
    export(snapshot, tmp_path / "run.xlsx", "excel")
    book = openpyxl.load_workbook(tmp_path / "run.xlsx")
    assert "History" not in book.sheetnames
    rows = list(book["manifest"].iter_rows(min_row=2, values_only=True))
    listed = {metric: sheet for sheet, metric, *_ in rows}
    assert listed["generation_time"] == "generation_time"
    assert listed["History"] in book.sheetnames
    facts = {row[4]: row[5] for row in rows}
    assert (facts["format"], facts["timezone"]) == ("excel", "UTC")
    header, row = book["generation_time"].iter_rows()
    cells = {title.value: cell for title, cell in zip(header, row, strict=True)}
    assert cells["timestamp"].value == datetime(2023, 11, 14, 22, 13, 20, 250_000)  # noqa: DTZ001
    assert cells["timestamp"].is_date
    assert (cells["value"].value, cells["value"].data_type) == (1.5, "n")
    assert cells["metadata_success"].data_type == "b"
    for key in ("formula", "link", "apostrophe", "escape"):
        assert (cells[f"metadata_{key}"].value, cells[f"metadata_{key}"].data_type) == (
            TEXTS[key],
            "s",
        )
        assert cells[f"metadata_{key}"].hyperlink is None
    for key in ("array", "rich"):
        assert (cells[f"metadata_{key}"].value, cells[f"metadata_{key}"].data_type) == (
            f" {TEXTS[key]}",
            "s",
        )


def test_excel_manifest_has_the_gaps(tmp_path: Path) -> None:
    """The workbook shows since when it has all rows."""
    export(snapshot_of([metric(at) for at in range(5)], capacity=3), tmp_path / "run.xlsx", "excel")
    facts = pd.read_excel(tmp_path / "run.xlsx", sheet_name="manifest")
    kept = dict(zip(facts["key"], facts["value"], strict=True))["kept_since"]
    assert datetime.fromisoformat(kept).timestamp() == START + 2


def test_excel_has_large_integers_as_text(tmp_path: Path) -> None:
    """Excel would round them; smaller ones are numbers."""
    snapshot = snapshot_of([metric(big=2**62 + 1, small=-(2**53)), metric(1, big=-(2**63))])
    export(snapshot, tmp_path / "run.xlsx", "excel")
    sheet = openpyxl.load_workbook(tmp_path / "run.xlsx")["queue"]
    found = {column[0].value: [cell.value for cell in column[1:]] for column in sheet.columns}
    assert found["metadata_big"] == [str(2**62 + 1), str(-(2**63))]
    assert found["metadata_small"] == [-(2**53), None]


def test_excel_has_numbers_beyond_its_largest_as_text(tmp_path: Path) -> None:
    """In 15 digits some would be infinite, and no reader of pandas would open the file."""
    largest = sys.float_info.max
    snapshot = snapshot_of(
        [metric(0, "queue", -largest, big=largest), metric(1, "queue", 1e307, big=0.5), metric(2)]
    )
    export(snapshot, tmp_path / "run.xlsx", "excel")
    sheet = openpyxl.load_workbook(tmp_path / "run.xlsx")["queue"]
    found = {column[0].value: [cell.value for cell in column[1:]] for column in sheet.columns}
    assert found["value"] == [repr(-largest), 1e307, metric(2).value]
    assert found["metadata_big"] == [repr(largest), 0.5, None]
    assert_tables_hold(to_frame(snapshot, "samples"), tmp_path / "run.xlsx")


def test_excel_columns_fit_their_texts(tmp_path: Path) -> None:
    """The width has a limit, and the header row is frozen."""
    passed = {"note": "x" * 500, "short": 1}
    export(
        snapshot_of([generation(model="m" * 40, raw_kwargs=passed)]), tmp_path / "run.xlsx", "excel"
    )
    sheet = openpyxl.load_workbook(tmp_path / "run.xlsx")["generation_time"]
    (header,) = sheet.iter_rows(max_row=1)
    widths = {str(cell.value): sheet.column_dimensions[cell.column_letter].width for cell in header}
    assert sheet.freeze_panes == "A2"
    assert widths["timestamp"] > 23
    assert widths["metadata_model_name"] > 40
    assert widths["metadata_short"] > len("metadata_short")
    assert 60 < widths["metadata_note"] < 70


def test_too_many_rows_for_a_sheet_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file and the remedy; nothing is written."""
    monkeypatch.setattr(ExcelFormatter, "max_rows", 4)
    with pytest.raises(ExportError, match=r"run\.xlsx' .*too large.*shorter window, or Parquet"):
        export(snapshot_of([metric(at) for at in range(7)]), tmp_path / "run.xlsx", "excel")
    assert contents(tmp_path) == {}


def test_excel_cuts_a_text_longer_than_a_cell(tmp_path: Path) -> None:
    """Excel counts units of UTF-16; the manifest names the column."""
    long = {"parts": ["😀" * 4_000] * 5}
    snapshot = snapshot_of([metric(long=long), metric(1, long="short")])
    export(snapshot, tmp_path / "run.xlsx", "excel")
    whole = to_frame(snapshot, "samples")["metadata_long"]
    found = tables(tmp_path / "run.xlsx")["queue"]["metadata_long"]
    assert found[1] == whole[1] == '"short"'
    assert whole[0].startswith(found[0])
    assert 32_765 <= len(found[0].encode("utf-16-le")) // 2 <= 32_767
    facts = pd.read_excel(tmp_path / "run.xlsx", sheet_name="manifest")
    assert "metadata_long" in dict(zip(facts["key"], facts["value"], strict=True))["changed"]


def test_excel_requires_xlsx(tmp_path: Path) -> None:
    """Excel does not open a workbook with another suffix."""
    with pytest.raises(ExportError, match=r"must end in \.xlsx .*run\.xls'"):
        export(snapshot_of([]), tmp_path / "run.xls", "excel")
    assert contents(tmp_path) == {}


def test_error_of_the_excel_writer_is_an_export_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has xlsxwriter's reason; nothing is written."""

    def refuse(self: xlsxwriter.Workbook) -> None:
        raise FileSizeError("too large")

    monkeypatch.setattr(xlsxwriter.Workbook, "close", refuse)
    with pytest.raises(ExportError, match=r"run\.xlsx' .*too large; export a shorter window"):
        export(snapshot_of([metric()]), tmp_path / "run.xlsx", "excel")
    assert contents(tmp_path) == {}


NAMES = st.lists(
    st.sampled_from(
        [*HOSTILE, "", " ", "\0", "tab\tline\n", "..", "ß", "ss", "history", "[]:*?/\\"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    unique=True,
    max_size=12,
)


@given(NAMES)
def test_safe_names_are_short_printable_and_distinct(metrics: list[str]) -> None:
    """Names have no unsafe characters, and do not differ in case only."""
    found = safe_names(metrics, frozenset("/:"), 62, "utf-16-le", ["history"])
    assert found.keys() == set(metrics)
    assert len({name.casefold() for name in [*found.values(), "history"]}) == len(metrics) + 1
    for name in found.values():
        assert 0 < len(name.encode("utf-16-le")) <= 62
        assert name.isprintable()
        assert not {"/", ":"} & set(name)


def test_safe_name_is_unchanged_in_any_order() -> None:
    """Another name that would equal it has the same digest in any order."""
    found = safe_names(["a/b", "a:b", "a_b", "é"], frozenset("/:"), 20)
    assert found["a_b"] == "a_b"
    assert found["é"] == "é"
    assert len(set(found.values())) == 4
    assert safe_names(["a_b", "é", "a:b", "a/b"], frozenset("/:"), 20) == found
    assert safe_names(["a/b"], frozenset("/:"), 20) == {"a/b": "a_b"}
