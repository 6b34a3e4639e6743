"""Exports a history's samples to files."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmeter.config.checks import WINDOW
from genmeter.errors import ConfigError, ExportError
from genmeter.events.values import UNREADABLE, safe_repr
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
    name = str.__str__(format) if issubclass(type(format), str) else ""
    write = FORMATS.get(name)
    if write is None:
        raise ExportError(f"format must be one of {', '.join(FORMATS)}, got {safe_repr(format)}")
    window = WINDOW("window", window)
    manifest = _manifest(snapshot, name, window)
    path = ""
    try:
        path = _text_of(output_path)
        target = _checked(path)
        with AtomicFiles() as files:
            written = write(snapshot, target, manifest, files)
    except OSError as error:
        raise ExportError(
            f"output_path {safe_repr(path)} cannot be written ({error.strerror or error}); use "
            "a folder that is writable and has free space"
        ) from error
    if "kept_since" in manifest:
        _logger.warning(
            "%s is complete only since %s, because older rows were overwritten; raise "
            "history.capacity (GENMETER_HISTORY_CAPACITY) to export more",
            target,
            manifest["kept_since"],
        )
    if "data_cut" in manifest:
        _logger.warning(
            "%s lacks the metadata of %d rows, which exceeded the history's limit; raise "
            "history.metadata_bytes (GENMETER_HISTORY_METADATA_BYTES) to export more",
            target,
            manifest["data_cut"],
        )
    return written


def _text_of(output_path: Any) -> str:
    try:
        text = str.__str__(os.fspath(output_path))
        os.fsencode(text)
    except UNREADABLE:
        text = ""
    if not text.strip() or "\0" in text:
        raise ConfigError(f"output_path must be the path of a file, got {safe_repr(output_path)}")
    return text


def _checked(text: str) -> Path:
    # The target of a link is replaced, not the link.
    path = Path(os.path.realpath(text))
    if path.is_dir() or text.endswith(("/", os.sep)):
        raise ConfigError(f"output_path must be a file, got the folder {safe_repr(text)}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"output_path must be a regular file, got {safe_repr(text)}")
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
