"""CSV, Excel and Parquet exports read back by their manifests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.errors import MissingExtraError
from genmeter.files.as_csv import read_manifest
from genmeter.files.as_excel import MANIFEST_SHEET
from genmeter.files.manifest import KEY, VERSION, decode, gaps_in
from genmeter.history.frames import utc_index
from genmeter.history.metadata import empty_column, typed_array

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from genmeter.files.manifest import Manifest, Part

__all__ = ["read_csv", "read_excel", "read_parquet"]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (Excel's times have no zone)


def read_csv(path: Path) -> pd.DataFrame:
    """Read the files that a manifest names.

    Raises:
        OSError: A file cannot be read.
        ValueError: The file is no manifest.
    """
    import pandas as pd

    manifest = _checked(read_manifest(path))

    def cells(part: Part) -> list[list[Any]]:
        # As text, since pandas would turn integers with gaps into floats.
        frame = pd.read_csv(
            path.with_name(part["name"]), dtype=object, na_filter=False, encoding="utf-8"
        )
        return [
            [None if cell == "" else cell for cell in frame.iloc[:, number].tolist()]
            for number in range(len(part["columns"]))
        ]

    return _joined(manifest, cells)


def read_excel(path: Path) -> pd.DataFrame:
    """Read a workbook.

    Raises:
        MissingExtraError: openpyxl is not installed.
        OSError: The file cannot be read.
        Exception: It is no workbook that an export wrote; openpyxl raises many kinds.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise MissingExtraError("openpyxl", extra="excel", purpose="Reading Excel") from None
    with path.open("rb") as file:
        book = load_workbook(file, read_only=True, data_only=True)
        pieces = [
            row[0]
            for row in book[MANIFEST_SHEET].iter_rows(
                min_row=2, min_col=4, max_col=4, values_only=True
            )
        ]
        manifest = _checked(
            json.loads("".join(str(piece) for piece in pieces if piece is not None))
        )

        def cells(part: Part) -> list[list[Any]]:
            width = len(part["columns"])
            rows = book[part["name"]].iter_rows(min_row=2, max_col=width, values_only=True)
            return [list(column) for column in zip(*rows, strict=True)]

        return _joined(manifest, cells)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: The file cannot be read.
        ValueError: It is no table that an export wrote.
    """
    import pandas as pd

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="Reading Parquet") from None
    with path.open("rb") as file:
        metadata = pq.read_schema(file).metadata or {}
        manifest = _checked(json.loads(metadata.get(KEY.encode(), b"null")))
        file.seek(0)
        table = pq.read_table(file)
    nullable = {
        pa.bool_(): pd.BooleanDtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.string(): pd.StringDtype(),
    }
    # By numbers, since pandas 1.5 takes names for one that differ only after a NUL.
    numbered = table.rename_columns([str(number) for number in range(table.num_columns)])
    frame: pd.DataFrame = numbered.to_pandas(ignore_metadata=True, types_mapper=nullable.get)
    frame.columns = table.column_names
    typed = frame.astype(manifest["dtypes"])
    typed.attrs.update(gaps_in(manifest))
    return typed


def _checked(manifest: Any) -> Manifest:
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise ValueError("it has no manifest of this version of genmeter")
    found: Manifest = manifest  # type: ignore[assignment]
    return found


def _joined(manifest: Manifest, cells: Callable[[Part], list[list[Any]]]) -> pd.DataFrame:
    import pandas as pd

    dtypes, length = manifest["dtypes"], manifest["rows"]
    parts = manifest["parts"]
    columns: dict[str, list[Any]] = {name: [None] * length for name in dtypes}
    start = 0
    for part in parts:
        stop = start + part["rows"]
        columns["metric_name"][start:stop] = [part["metric"]] * part["rows"]
        for name, found in zip(part["columns"], cells(part), strict=True):
            if len(found) != part["rows"]:
                raise ValueError(f"{part['name']!r} has {len(found)} rows, not {part['rows']}")
            columns[name][start:stop] = (
                [None if cell is None else decode(cell) for cell in found]
                if name in part["encoded"]
                else found
            )
        start = stop
    frame = pd.DataFrame({name: _typed(columns[name], dtypes[name]) for name in dtypes})
    frame.attrs.update(gaps_in(manifest))
    return frame


def _typed(cells: list[Any], dtype: str) -> Any:
    if dtype.startswith("datetime64"):
        return utc_index(np.array([_microseconds(cell) for cell in cells], np.int64))
    if dtype == "float64":
        return np.array([np.nan if cell is None else float(cell) for cell in cells])
    if not any(cell is not None for cell in cells):
        return empty_column(dtype, len(cells))
    convert = _CONVERT[dtype]
    return typed_array([None if cell is None else convert(cell) for cell in cells], dtype)


def _microseconds(cell: str | datetime) -> int:
    time = datetime.fromisoformat(cell) if isinstance(cell, str) else cell
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    gap = time - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "Int64": int,
    "Float64": float,
    # A CSV has its words, Excel the booleans themselves.
    "boolean": lambda cell: cell in (True, "True"),
}
