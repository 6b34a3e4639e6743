"""Reads a source: a journal, an export or an endpoint."""

from __future__ import annotations

import math
import os
import re
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError
from genmeter.report._metric_rows import OPENING, PHASES, MetricRows, is_afterimage_name
from genmeter.report.endpoint import read_endpoint
from genmeter.report.fleet import read_fleet
from genmeter.report.journal import journal_files, read_journal
from genmeter.report.usage_table import UsageTable
from genmeter.schema.afterimage import BILLING, PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    import pandas as pd

    from genmeter.config.prices import PriceTable

__all__ = ["read_source"]

_ADDRESS = re.compile(r"(?:[^/@]*@)?(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}(?:/\S*)?")
_HAS_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_JOURNAL_LINE = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"metric"')
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_JOURNAL_SUFFIX = ".jsonl"
_PROMETHEUS = "prometheus="


def read_source(
    source: str,
    window: timedelta | None = None,
    progress: Callable[[int, int], object] | None = None,
    prices: PriceTable | None = None,
) -> UsageTable:
    """Read a source.

    Args:
        source: The path of a journal, its folder or an export, or the address of an endpoint.
        window: Time before the newest event to include; None includes all.
        progress: Called with the bytes read and the bytes in total of a journal.
        prices: Prices that replace the recorded costs. Each call of a journal or an export is
            priced by itself, the sums of an endpoint as such.

    Raises:
        ConfigError: The source is invalid, or an endpoint with a window.
        ExportError: An export cannot be read.
        MissingExtraError: The export's format needs a package that is not installed.
    """
    if not source:
        raise ConfigError("source must be a journal, an export or an address, got ''")
    if source.startswith(_PROMETHEUS):
        if window is None:
            raise ConfigError("--window must be given for prometheus=, such as 24h")
        url = source.removeprefix(_PROMETHEUS)
        return read_fleet(url, window=window, progress=progress, prices=prices)
    path = Path(source)
    if _HAS_SCHEME.match(source) or (_ADDRESS.fullmatch(source) and not os.path.lexists(path)):
        if window is not None:
            raise ConfigError(
                "--window must be omitted for an endpoint, which only has totals since the job "
                "began; or use the job's journal"
            )
        table = read_endpoint(source)
        if prices is not None:
            table.price_sums(prices)
        return table
    try:
        files = _journal_at(path)
    except OSError as error:
        raise ConfigError(
            f"source={source!r} cannot be read: {error.strerror or error}; check the file and its "
            "path"
        ) from error
    if files is not None:
        return read_journal(files, window, progress, prices)
    from genmeter.files.read import read_export

    return _sum_frame(read_export(path), window, prices)


def _journal_at(path: Path) -> list[Path] | None:
    """Return the files of a journal; None for an export."""
    if path.is_dir():
        return _files_of(path)
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(64)
        if beginning.startswith(_COMPRESSED):
            raise ConfigError(f"source={str(path)!r} is compressed; unpack it first")
        is_journal = path.suffix == _JOURNAL_SUFFIX or _JOURNAL_LINE.match(beginning)
        return [path] if is_journal else None
    if path.suffix.lower() == ".csv":  # the export reader's error has the remedy
        return None
    raise ConfigError(
        f"source must be a journal (metrics.jsonl or its folder), an export, or the address of an "
        f"endpoint such as http://127.0.0.1:9464/metrics, got {str(path)!r}"
    )


def _files_of(folder: Path) -> list[Path]:
    files = journal_files(folder)
    if files:
        return files
    below = sorted(folder.glob("*/metrics.jsonl"))
    remedy = (
        f"use one of its {len(below)} folders with one, such as {str(below[-1].parent)!r}"
        if below
        else "use another folder, or the path of an export"
    )
    raise ConfigError(f"source={str(folder)!r} has no metrics.jsonl; {remedy}")


# --- exports -----------------------------------------------------------------------------------

_METADATA = "metadata_"
_PHASE = "metadata_phase"
_KEYS = (
    *("phase", "model_name", "step", "provider", "success"),
    *("response_model", BILLING),
    *PARTS,
)


def _sum_frame(
    frame: pd.DataFrame, window: timedelta | None, prices: PriceTable | None
) -> UsageTable:
    """Sum a frame of ``metric_name``, ``timestamp`` (UTC), ``value`` and ``metadata_*``."""
    table = UsageTable("export", window)
    if (since := frame.attrs.get("kept_since")) is not None:
        table.notes.append(f"Incomplete: the job kept no events before {since}.")
    frame, is_afterimage = _events(frame)
    if frame.empty:
        return table
    times = [stamp.timestamp() for stamp in frame["timestamp"]]
    cutoff = -math.inf if window is None else max(times) - window.total_seconds()
    rows = MetricRows(table, cutoff, prices, is_sorted=False)
    names, values = frame["metric_name"].tolist(), _plain(frame["value"])
    for name, value, when, row in zip(names, values, times, _metadata(frame), strict=True):
        if rows.matters(name, row) and not rows.add(name, value, row, when, is_afterimage):
            table.skipped += 1
    rows.finish()
    if table.skipped:
        table.note_skipped("value")
    return table


def _events(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Return the rows of events, and whether AfterImage wrote them."""
    frame = frame[frame["timestamp"].notna()]
    # Each row of an event of genmeter has a phase.
    if _PHASE in frame and (is_ours := frame[_PHASE].isin(PHASES)).any():
        return frame[is_ours], False
    events = frame[frame["metric_name"].map(is_afterimage_name).astype(bool)]
    # Rows are joined by timestamp; the opening row must come first.
    order = events.assign(is_later=~events["metric_name"].isin(list(OPENING)))
    return order.sort_values(["timestamp", "is_later"], kind="stable"), True


def _metadata(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    keys = [key for key in _KEYS if f"{_METADATA}{key}" in frame]
    columns = [_plain(frame[f"{_METADATA}{key}"]) for key in keys]
    rows = zip(*columns, strict=True) if columns else repeat((), len(frame))
    return (dict(zip(keys, values, strict=True)) for values in rows)


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Return a column's values, None for missing ones."""
    values: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return values
