"""Exports a history's samples to files."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError, ExportError
from genmeter.files._formats import FORMATS
from genmeter.files.atomic import AtomicFiles
from genmeter.history.frames import iso_time

if TYPE_CHECKING:
    from genmeter.files._formats import Manifest
    from genmeter.history.snapshot import Snapshot

__all__ = ["export"]

_logger = logging.getLogger("genmeter")


def export(
    snapshot: Snapshot,
    output_path: str | os.PathLike[str],
    format: str = "json",  # noqa: A002 (AfterImage's own name)
    window: timedelta | None = None,
) -> list[Path]:
    """Write all samples of a snapshot.

    - ``json``: one object; by metric, a list of ``{"timestamp": ..., "value": ..., **metadata}``.
    - ``csv``: a file for each metric, ``STEM_METRIC.csv`` in the folder of ``output_path``, and
      ``STEM_manifest.json`` with the metric of each file.
    - ``excel``: a workbook with a sheet for each metric and the sheet ``manifest``.
    - ``parquet``: one table of all metrics, with the manifest in its schema's metadata.

    The files appear when all are complete; a failed export leaves existing files unchanged. A
    missing folder is created.

    Args:
        snapshot: The rows of the history.
        output_path: The file; for ``csv`` the folder and the stem of the files' names.
        format: One of the above.
        window: The window of the snapshot, for the manifest; None for the whole history.

    Returns:
        The written files.

    Raises:
        ExportError: The format is unknown, or a file cannot be written.
        ConfigError: ``output_path`` or ``window`` is invalid.
        MissingExtraError: ``excel`` or ``parquet`` needs a package that is not installed.
    """
    write = FORMATS.get(format) if isinstance(format, str) else None
    if write is None:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if window is not None and not isinstance(window, timedelta):
        raise ConfigError(f"window must be a datetime.timedelta or None, got {window!r}")
    manifest = _manifest(snapshot, format, window)
    try:
        path = _checked(output_path)
        with AtomicFiles() as files:
            written = write(snapshot, path, manifest, files)
    except OSError as error:
        raise ExportError(
            f"output_path {str(output_path)!r} cannot be written ({error.strerror or error}); use "
            "a folder that is writable and has free space"
        ) from error
    if "kept_since" in manifest:
        _logger.warning(
            "%s is complete only since %s, because older rows were overwritten; raise "
            "history.capacity (GENMETER_HISTORY_CAPACITY) to export more",
            path,
            manifest["kept_since"],
        )
    if "data_cut" in manifest:
        _logger.warning(
            "%s lacks the metadata of %d rows, which exceeded the history's limit; raise "
            "history.metadata_bytes (GENMETER_HISTORY_METADATA_BYTES) to export more",
            path,
            manifest["data_cut"],
        )
    return written


def _checked(output_path: Any) -> Path:
    try:
        text = os.fspath(output_path)
        os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        text = None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigError(f"output_path must be the path of a file, got {output_path!r}")
    # The target of a link is replaced, not the link.
    path = Path(os.path.realpath(text))
    if path.is_dir() or text.endswith(("/", os.sep)):
        raise ConfigError(f"output_path must be a file, got the folder {text!r}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"output_path must be a regular file, got {text!r}")
    return path


def _manifest(snapshot: Snapshot, format_: str, window: timedelta | None) -> Manifest:
    manifest: Manifest = {
        "version": 1,
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
