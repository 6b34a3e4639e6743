"""Reads exports in JSON and Parquet as a frame."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.events.values import UNREADABLE, safe_repr, shown
from genmeter.files._formats import MANIFEST_KEY, gaps_in, gaps_path
from genmeter.history.frames import SAMPLE_METADATA, utc_index
from genmeter.history.metadata import add_to_fixed, empty_column, metadata_columns

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_export"]

_SPREADSHEETS = (".csv", ".xlsx")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOT_A_TIME = np.iinfo(np.int64).min  # NumPy's NaT
_MAX_TIME = (2**63 - 1) // 1_000  # microseconds since 1970 that fit into 64 bits of nanoseconds
_OWN = frozenset({"timestamp", "value"})


def read_export(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read an export in JSON or Parquet, or a JSON export of AfterImage's monitor.

    The frame equals ``to_frame("samples")`` of the same history: see
    :func:`genmeter.history.frames.to_frame` for its columns, dtypes and order. AfterImage's
    timestamps have no zone and are read as local time. A value that is not a number becomes NaN;
    a timestamp that is invalid or out of range becomes NaT.

    Args:
        path: The file.

    Returns:
        ``metric_name`` (string), ``timestamp`` (datetime64[ns, UTC]), ``value`` (float64) and the
        columns ``metadata_KEY``; ``attrs`` contain ``kept_since`` and ``data_cut`` if the history
        had gaps.

    Raises:
        ConfigError: The file does not exist.
        ExportError: The file is unreadable, not an export, or an export in CSV or Excel.
        MissingExtraError: Parquet needs pyarrow, which is not installed.
    """
    try:
        text = str.__str__(os.fspath(path))
        place = Path(text)
    except UNREADABLE:
        raise ConfigError(f"path must be the path of an export, got {safe_repr(path)}") from None
    try:
        return _read(place)
    except (ConfigError, ExportError, MissingExtraError):
        raise
    except OSError as error:
        raise ExportError(
            f"path {safe_repr(text)} cannot be read ({error.strerror or error}); make it readable"
        ) from error
    except Exception as error:  # readers raise anything for a damaged file
        raise ExportError(
            f"path {safe_repr(text)} is damaged or not an export ({shown(error)}); use a file that "
            "export_metrics() wrote as JSON or Parquet"
        ) from error


def _read(path: Path) -> pd.DataFrame:
    # Before opening it: a CSV export has no file at its output_path.
    if path.suffix.lower() in _SPREADSHEETS:
        raise _spreadsheet_error(path)
    if not path.exists():
        raise ConfigError(f"path must be an existing file, got {safe_repr(str(path))}")
    with path.open("rb") as file:
        beginning = file.read(4)
    if beginning == b"PAR1":
        return _read_parquet(path)
    if beginning.startswith(b"PK"):  # a workbook is a ZIP archive
        raise _spreadsheet_error(path)
    return _read_json(path)


def _spreadsheet_error(path: Path) -> ExportError:
    return ExportError(
        f"path must be an export in JSON or Parquet, got {str(path)!r}; read CSV with "
        "pandas.read_csv and Excel with pandas.read_excel, or export JSON or Parquet"
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="Reading Parquet") from None
    with path.open("rb") as file:
        table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    if MANIFEST_KEY.encode() not in metadata:
        raise ValueError("its schema has no manifest")
    frame: pd.DataFrame = table.to_pandas()
    frame.attrs.update(gaps_in(json.loads(metadata[MANIFEST_KEY.encode()])))
    return frame


def _read_json(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open(encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict):
        raise ValueError("it has no JSON object")  # noqa: TRY004 (about the file, not a type)
    if isinstance(found.get(MANIFEST_KEY), dict):  # the manifest of an export in CSV
        raise _spreadsheet_error(path)
    names: list[str] = []
    samples: list[dict[str, Any]] = []
    for name, rows in sorted(found.items()):
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and row.keys() >= _OWN for row in rows
        ):
            raise ValueError(f"{name!r} is not a list of samples with a timestamp and a value")
        names += [name] * len(rows)
        samples += rows
    times = [_time(sample["timestamp"]) for sample in samples]
    frame = pd.DataFrame(
        {
            "metric_name": pd.array(names, dtype="string"),
            "timestamp": utc_index(np.array(times, np.int64)),
            "value": np.array([_number(sample["value"]) for sample in samples], np.float64),
            **_metadata(samples),
        }
    )
    if gaps_path(path).is_file():
        manifest = json.loads(gaps_path(path).read_text(encoding="utf-8"))[MANIFEST_KEY]
        frame.attrs.update(gaps_in(manifest))
    return frame


def _metadata(samples: list[dict[str, Any]]) -> dict[str, Any]:
    fixed = {key: empty_column(dtype, len(samples)) for key, dtype in SAMPLE_METADATA.items()}
    records = [
        (row, {key: _without_nan(sample[key]) for key in sample if key not in _OWN})
        for row, sample in enumerate(samples)
    ]
    free = metadata_columns(add_to_fixed(fixed, records), len(samples))
    return {f"metadata_{key}": column for key, column in {**fixed, **free}.items()}


def _without_nan(value: Any) -> Any:
    # Python's json writes a missing value as NaN.
    return None if type(value) is float and math.isnan(value) else value


def _time(text: Any) -> int:
    try:
        time = datetime.fromisoformat(text)
        # AfterImage writes local times, without a zone.
        since = (time.astimezone(UTC) - _EPOCH) // _MICROSECOND
    except (TypeError, ValueError, OverflowError):
        return int(_NOT_A_TIME)
    return since if abs(since) <= _MAX_TIME else int(_NOT_A_TIME)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
