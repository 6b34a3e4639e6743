"""Exports read back to the frame that they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.files._read_json import read_json
from genmeter.files._read_tables import read_csv, read_excel, read_parquet

if TYPE_CHECKING:
    import os

    import pandas as pd

__all__ = ["read_export"]


def read_export(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read an export of any format, or a JSON export of AfterImage's monitor.

    The frame equals ``to_frame("samples")`` of the same history: its columns, dtypes and order are
    told at :func:`genmeter.history.frames.to_frame`. Excel keeps times to the millisecond and
    numbers to 16 digits. AfterImage's time stamps have no zone and are taken for local; a value
    that is no number is NaN; a time stamp that is none, or that no frame can hold, is NaT.

    Args:
        path: The file; of CSV the path that was exported to, or its manifest.

    Returns:
        ``metric_name`` (string), ``timestamp`` (datetime64[ns, UTC]), ``value`` (float64) and the
        columns ``metadata_KEY``; ``attrs`` hold ``kept_since`` and ``data_cut`` where the manifest
        does.

    Raises:
        ConfigError: There is no such file.
        ExportError: The file cannot be read, or is no export.
        MissingExtraError: The format needs a package that is not installed.
    """
    try:
        place = Path(path)
    except TypeError:
        raise ConfigError(f"path is {path!r}; give the path of an export") from None
    try:
        return _read(place)
    except (ConfigError, ExportError, MissingExtraError):
        raise
    except OSError as error:
        raise ExportError(
            f"path is {str(path)!r}, which cannot be read ({error.strerror or error}); give a "
            "file that this process may read"
        ) from error
    except Exception as error:  # a damaged file makes its reader raise anything
        raise ExportError(
            f"path is {str(path)!r}, which is damaged or no export ({error}); give a file that "
            "export_metrics() wrote"
        ) from error


def _read(path: Path) -> pd.DataFrame:
    manifest = path.with_name(f"{path.stem}_manifest.json")
    if not path.exists():
        if manifest.is_file():
            return read_csv(manifest)
        raise ConfigError(
            f"path is {str(path)!r}, which does not exist; give the path of an export"
        )
    with path.open("rb") as file:
        begin = file.read(4)
    if begin == b"PAR1":
        return read_parquet(path)
    if begin.startswith(b"PK"):
        return read_excel(path)
    if path.suffix.lower() == ".csv":
        if manifest.is_file():
            return read_csv(manifest)
        raise ExportError(
            f"path is {str(path)!r}, one of several files; give the path that was exported to, or "
            "the file whose name ends in _manifest.json"
        )
    found = read_json(path)
    return read_csv(path) if found is None else found
