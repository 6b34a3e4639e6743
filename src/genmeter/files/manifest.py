"""The manifest of an export: what its files or sheets hold, and how to read them back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

from genmeter.history.frames import samples_frame
from genmeter.history.samples import sample_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from genmeter.history.samples import SampleTable
    from genmeter.history.snapshot import Snapshot

__all__ = [
    "KEY",
    "VERSION",
    "Manifest",
    "MetricTable",
    "Part",
    "decode",
    "encode",
    "gaps_in",
    "manifest_text",
    "tables_of",
]

VERSION = 1
"""Version of the manifest's own form."""
KEY = "genmeter"
"""Where a manifest stands: the key of Parquet's metadata, and of the JSON object in a file."""


class Part(TypedDict):
    """One file or sheet.

    Attributes:
        name: Its name.
        metric: The metric that it holds.
        rows: Its rows, without the header.
        columns: Its columns, as the frame of samples calls them; those without a value are left
            out.
        encoded: Columns whose texts stand as JSON strings, because one of them is empty or has
            characters that the format cannot hold.
        cut: By column, how many texts were too long for the format and were cut.
    """

    name: str
    metric: str
    rows: int
    columns: list[str]
    encoded: list[str]
    cut: NotRequired[dict[str, int]]


class Manifest(TypedDict):
    """What an export holds.

    Attributes:
        version: :data:`VERSION`.
        format: One of the formats of an export.
        exported_at: ISO 8601.
        timezone: Of the time stamps: ``UTC``.
        window_seconds: How far the export looks back; None means as far as the history goes.
        kept_since: ISO 8601; from when on all rows are kept, where earlier ones were overwritten.
        data_cut: Rows whose metadata had to make room, where there are any.
        rows: Of all metrics.
        dtypes: By column of the frame of samples its dtype, in the frame's order.
        parts: The files or sheets; of Parquet none.
    """

    version: int
    format: str
    exported_at: str
    timezone: str
    window_seconds: float | None
    kept_since: NotRequired[str]
    data_cut: NotRequired[int]
    rows: NotRequired[int]
    dtypes: NotRequired[dict[str, str]]
    parts: NotRequired[list[Part]]


class MetricTable(NamedTuple):
    """Rows of one metric: ``frame`` has no column ``metric_name`` and none without a value."""

    metric: str
    frame: pd.DataFrame


def tables_of(snapshot: Snapshot, manifest: Manifest) -> Iterator[MetricTable]:
    """Give a table of each metric, and tell the manifest what they have in common."""
    table = sample_table(snapshot)
    frame = samples_frame(snapshot, table)
    describe(frame, manifest)
    counts = _metrics_of_counts(table)
    # The iterator is made at once, so that the manifest is complete before the first table.
    return (_metric_table(name, frame.iloc[rows], name in counts) for name, rows in table.slices())


def describe(frame: pd.DataFrame, manifest: Manifest) -> None:
    """Tell the manifest the frame's rows and dtypes."""
    manifest["rows"] = len(frame)
    manifest["dtypes"] = {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def gaps_in(manifest: Manifest) -> dict[str, Any]:
    """Give what a manifest says is missing: ``kept_since`` and ``data_cut``, where they are."""
    return {key: manifest[key] for key in ("kept_since", "data_cut") if key in manifest}


def manifest_text(manifest: Manifest) -> str:
    """Write a manifest as the text of a file of its own."""
    return json.dumps({KEY: manifest}, indent=1, ensure_ascii=False) + "\n"


def encode(text: str) -> str:
    """Give a text as a JSON string that any format can hold: printable ASCII."""
    # Excel reads _xHHHH_ as an escape of its own.
    return json.dumps(text).replace("_x", "\\u005fx").replace("\x7f", "\\u007f")


def decode(text: str) -> str:
    """Undo :func:`encode`."""
    return str(json.loads(text))


def _metrics_of_counts(table: SampleTable) -> set[str]:
    return {name for name, rows in table.slices() if table.rows.is_count[rows].all()}


def _metric_table(metric: str, rows: pd.DataFrame, is_count: bool) -> MetricTable:
    has_value = rows.notna().any()
    has_value["value"] = True
    frame = rows.loc[:, has_value].drop(columns="metric_name")
    if is_count:
        frame["value"] = frame["value"].astype("int64")
    return MetricTable(metric, frame)
