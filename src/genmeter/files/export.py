"""The history's samples as files: JSON, CSV, Excel and Parquet."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError, ExportError
from genmeter.files.as_csv import write_csv
from genmeter.files.as_excel import write_excel
from genmeter.files.as_json import write_json
from genmeter.files.as_parquet import write_parquet
from genmeter.files.atomic import AtomicFiles
from genmeter.files.manifest import VERSION
from genmeter.history.frames import iso_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.files.manifest import Manifest
    from genmeter.history.snapshot import Snapshot

    Writer = Callable[[Snapshot, Path, Manifest, AtomicFiles], list[Path]]

__all__ = ["FORMATS", "export"]

_logger = logging.getLogger("genmeter")

FORMATS: dict[str, Writer] = {
    "json": write_json,
    "csv": write_csv,
    "excel": write_excel,
    "parquet": write_parquet,
}
"""What writes each format."""


def export(
    snapshot: Snapshot,
    output_path: str | os.PathLike[str],
    format: str = "json",  # noqa: A002 (AfterImage's own name)
    window: timedelta | None = None,
) -> list[Path]:
    """Write all samples of a snapshot.

    - ``json``: one object, by metric a list of ``{"timestamp": ..., "value": ..., **metadata}``.
    - ``csv``: a file for each metric, ``STEM_METRIC.csv`` beside ``output_path``, and
      ``STEM_manifest.json``, which says which file is which metric.
    - ``excel``: a workbook with a sheet for each metric and the sheet ``manifest``.
    - ``parquet``: one table of all metrics, the manifest in its schema's metadata.

    Files are written beside their place and renamed into it, so that an export that fails leaves
    the old ones. The folder is made where it is missing.

    Args:
        snapshot: What the history keeps.
        output_path: The file; of ``csv`` its folder and the stem of its files' names.
        format: One of the above.
        window: What the snapshot was limited to, for the manifest; None means all.

    Returns:
        The files.

    Raises:
        ExportError: There is no such format, or a file cannot be written.
        ConfigError: ``output_path`` or ``window`` cannot be used.
        MissingExtraError: ``excel`` or ``parquet`` needs a package that is not installed.
    """
    write = FORMATS.get(format) if isinstance(format, str) else None
    if write is None:
        raise ExportError(f"format is {format!r}; give one of {', '.join(FORMATS)}")
    if window is not None and not isinstance(window, timedelta):
        raise ConfigError(f"window is {window!r}; give a datetime.timedelta, or None for all")
    manifest = _manifest(snapshot, format, window)
    try:
        path = _checked(output_path)
        with AtomicFiles() as files:
            written = write(snapshot, path, manifest, files)
    except OSError as error:
        raise ExportError(
            f"output_path is {str(output_path)!r}, which cannot be written "
            f"({error.strerror or error}); give a path in a folder that this process may write to "
            "and that has room"
        ) from error
    if snapshot.kept_since is not None:
        _logger.warning(
            "%s is whole from %s on only, because the history keeps no more; raise "
            "history.capacity (GENMETER_HISTORY_CAPACITY) to export all",
            path,
            iso_time(snapshot.kept_since),
        )
    if snapshot.data_cut:
        _logger.warning(
            "%s lacks the metadata of %d rows, because the history has no room for more; raise "
            "history.metadata_bytes (GENMETER_HISTORY_METADATA_BYTES) to export all",
            path,
            snapshot.data_cut,
        )
    return written


def _checked(output_path: Any) -> Path:
    try:
        text = os.fspath(output_path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigError(f"output_path is {output_path!r}; give the path of a file")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ConfigError(
            f"output_path is {text!r}, which no file can be called; give another path"
        ) from None
    # A link stays one: what it points to is written.
    path = Path(os.path.realpath(text))
    if path.is_dir() or text.endswith(("/", os.sep)):
        raise ConfigError(f"output_path is {text!r}, a directory; give the path of a file in it")
    if path.exists() and not path.is_file():
        raise ConfigError(f"output_path is {text!r}, which is no regular file; give another path")
    return path


def _manifest(snapshot: Snapshot, format_: str, window: timedelta | None) -> Manifest:
    manifest: Manifest = {
        "version": VERSION,
        "format": format_,
        "exported_at": datetime.now(UTC).isoformat(),
        "timezone": "UTC",
        "window_seconds": None if window is None else window.total_seconds(),
    }
    if snapshot.kept_since is not None:
        manifest["kept_since"] = iso_time(snapshot.kept_since)
    if snapshot.data_cut:
        manifest["data_cut"] = snapshot.data_cut
    return manifest
