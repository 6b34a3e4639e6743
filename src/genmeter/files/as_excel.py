"""An export as an Excel workbook: a sheet for each metric, and one that says which is which."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.errors import ExportError, MissingExtraError
from genmeter.files.manifest import encode, tables_of
from genmeter.files.safe_names import sheet_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd
    from xlsxwriter import Workbook
    from xlsxwriter.worksheet import Worksheet

    from genmeter.files.atomic import AtomicFiles
    from genmeter.files.manifest import Manifest, MetricTable, Part
    from genmeter.history.snapshot import Snapshot

    Write = Callable[[Worksheet, int, int, Any], object]

__all__ = ["MANIFEST_SHEET", "MAX_ROWS", "write_excel"]

MANIFEST_SHEET = "manifest"
"""The sheet that holds the manifest, as JSON in pieces down its last column."""
MAX_ROWS = 1_048_576
"""Rows that a sheet holds, its header among them."""
_MAX_TEXT = 32_767
_PIECE = 30_000
_EXACT = 2**53
_LOOKED_AT = 100  # cells that a column's width is chosen by
_MAX_WIDTH = 60  # characters
_DAY = 86_400_000  # milliseconds, the finest that readers give back
_EPOCH = np.datetime64("1899-12-30")
# Empty texts read as missing ones, control characters and U+FFFE are no XML, a carriage return
# becomes a line feed there, and both Excel and xlsxwriter have escapes of their own.
_UNFIT = re.compile(r"^$|[\0-\x08\x0b-\x1f\x7f\ufffe\uffff]|_x[0-9A-Fa-f]{4}_|^<r>")
_TIME_FORMAT = "yyyy-mm-dd hh:mm:ss.000"


def write_excel(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write the workbook; a metric of more rows than a sheet holds gets several.

    Raises:
        MissingExtraError: xlsxwriter is not installed.
        ExportError: The path does not end in ``.xlsx``, or the workbook cannot be made.
        OSError: The file cannot be written.
    """
    try:
        from xlsxwriter import Workbook
        from xlsxwriter.exceptions import XlsxWriterException
    except ImportError:
        raise MissingExtraError("xlsxwriter", extra="excel", purpose="Writing Excel") from None
    if path.suffix.lower() != ".xlsx":
        raise ExportError(f"output_path is {str(path)!r}; give Excel's format a path in .xlsx")
    tables = list(tables_of(snapshot, manifest))
    # In memory, compressed: after an error xlsxwriter leaves its archive open, and closing that
    # would then fail where no one can catch it.
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="genmeter-") as folder:
        book = Workbook(archive, {"constant_memory": True, "tmpdir": folder})
        try:
            _write_book(book, tables, manifest)
            book.close()
        except XlsxWriterException as error:
            raise ExportError(
                f"output_path is {str(path)!r}: {error}; export a shorter window, or Parquet"
            ) from error
        finally:
            for sheet in book.worksheets():  # whose rows stay open after an error
                with contextlib.suppress(OSError):
                    sheet.row_data_fh.close()
    with files.stage(path).open("xb") as file:
        file.write(archive.getbuffer())
    return [path]


def _write_book(book: Workbook, tables: list[MetricTable], manifest: Manifest) -> None:
    time_format = book.add_format({"num_format": _TIME_FORMAT})
    title_format = book.add_format({"bold": True})
    room = MAX_ROWS - 1
    counts = {table.metric: -(-len(table.frame) // room) for table in tables}
    names = sheet_names(counts, taken=[MANIFEST_SHEET])
    parts = manifest["parts"] = []
    for metric, frame in tables:
        for number, name in enumerate(names[metric]):
            rows = frame.iloc[number * room : (number + 1) * room]
            part: Part = {
                "name": name,
                "metric": metric,
                "rows": len(rows),
                "columns": [str(column) for column in rows],
                "encoded": [],
            }
            parts.append(part)
            sheet = book.add_worksheet(name)
            sheet.freeze_panes(1, 0)
            _write_rows(sheet, rows, part, title_format, time_format)
    _write_manifest(book.add_worksheet(MANIFEST_SHEET), manifest, title_format)


def _write_rows(
    sheet: Worksheet, rows: pd.DataFrame, part: Part, title_format: Any, time_format: Any
) -> None:
    columns = [_cells(rows[name], part) for name in part["columns"]]
    for number, (name, (_, cells)) in enumerate(zip(part["columns"], columns, strict=True)):
        title = _shortened(encode(name) if _is_unfit(name) else name)
        sheet.write_string(0, number, title, title_format)
        first = (str(cell) for cell in cells[:_LOOKED_AT] if cell is not None)
        longest = max(len(title), *map(len, first)) if number else len(_TIME_FORMAT)
        sheet.set_column(number, number, min(longest, _MAX_WIDTH) + 2)
    (_, times), *others = columns
    for row, (time, *cells) in enumerate(zip(times, *(c for _, c in others), strict=True), 1):
        sheet.write_number(row, 0, time, time_format)
        for number, cell in enumerate(cells):
            if cell is not None:
                others[number][0](sheet, row, number + 1, cell)


def _write_manifest(sheet: Worksheet, manifest: Manifest, title_format: Any) -> None:
    text = json.dumps(manifest).replace("_x", "\\u005fx").replace("\x7f", "\\u007f")
    pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    header = ("sheet", "metric", "rows", "manifest")
    for number, title in enumerate(header):
        sheet.write_string(0, number, title, title_format)
    sheet.set_column(0, 1, 32)
    lines = itertools.zip_longest(manifest["parts"], pieces)
    for row, (part, piece) in enumerate(lines, 1):
        if part is not None:
            metric = part["metric"]
            sheet.write_string(row, 0, part["name"])
            sheet.write_string(row, 1, encode(metric) if _is_unfit(metric) else metric)
            sheet.write_number(row, 2, part["rows"])
        if piece is not None:
            sheet.write_string(row, 3, piece)


def _cells(column: pd.Series[Any], part: Part) -> tuple[Write, list[Any]]:
    """Give a column's cells, None for those that stay empty, and what writes them."""
    name, dtype = str(column.name), str(column.dtype)
    if name == "timestamp":
        times = column.dt.tz_localize(None).to_numpy().astype("M8[us]")
        days = np.round((times - _EPOCH) / np.timedelta64(1, "ms")) / _DAY
        return _number, days.tolist()
    cells = column.astype(object).where(column.notna(), None).tolist()
    if dtype == "boolean":
        return _boolean, cells
    if dtype == "string":
        if any(cell is not None and _is_unfit(cell) for cell in cells):
            part["encoded"].append(name)
            cells = [None if cell is None else encode(cell) for cell in cells]
        return _text, [cell if cell is None else _cut(cell, part, name) for cell in cells]
    if name != "value" and any(
        cell is not None and not -_EXACT <= cell <= _EXACT for cell in cells
    ):
        # Excel would round these integers, and has no infinity.
        return _text, [None if cell is None else repr(cell) for cell in cells]
    return _number, cells


def _number(sheet: Worksheet, row: int, column: int, cell: float) -> None:
    sheet.write_number(row, column, cell)


def _boolean(sheet: Worksheet, row: int, column: int, cell: bool) -> None:
    sheet.write_boolean(row, column, cell)


def _text(sheet: Worksheet, row: int, column: int, cell: str) -> None:
    # By its kind, so that no text becomes a formula or a link.
    sheet.write_string(row, column, cell)


def _is_unfit(text: str) -> bool:
    return _UNFIT.search(text) is not None


def _cut(text: str, part: Part, column: str) -> str:
    short = _shortened(text)
    if short != text:
        cut = part.setdefault("cut", {})
        cut[column] = cut.get(column, 0) + 1
    return short


def _shortened(text: str) -> str:
    if len(text) <= _MAX_TEXT // 2:
        return text
    # Excel counts units of UTF-16.
    return text.encode("utf-16-le")[: 2 * _MAX_TEXT].decode("utf-16-le", errors="ignore")
