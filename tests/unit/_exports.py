"""Paths and contents for the tests of exports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from genmeter.files.read import read_export
from genmeter.history.frames import to_frame

if TYPE_CHECKING:
    from pathlib import Path

    from genmeter.history.snapshot import Snapshot

SUFFIXES = {"json": "json", "csv": "csv", "excel": "xlsx", "parquet": "parquet"}


def place(folder: Path, format_: str) -> Path:
    """Return a path for a format."""
    return folder / f"metrics.{SUFFIXES[format_]}"


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder and their bytes."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def tables(path: Path) -> dict[str, pd.DataFrame]:
    """Read a CSV or Excel export with pandas: a table for each metric."""
    missing = {"keep_default_na": False, "na_values": [""]}
    if path.suffix == ".xlsx":
        sheets = pd.read_excel(path, sheet_name=None, **missing)
        listed = sheets.pop("manifest")[["sheet", "metric"]].dropna().itertuples(index=False)
        return {str(metric): sheets[sheet] for sheet, metric in listed}
    manifest = json.loads(path.with_name(f"{path.stem}_manifest.json").read_text())["genmeter"]
    return {
        part["metric"]: pd.read_csv(
            path.with_name(part["name"]),
            parse_dates=["timestamp"],
            low_memory=False,
            **missing,
        )
        for part in manifest["parts"]
    }


def assert_read_back(snapshot: Snapshot, path: Path) -> None:
    """Check that a JSON or Parquet export is read back as the frame, with its rows and types."""
    pd.testing.assert_frame_equal(read_export(path), to_frame(snapshot, "samples"))


def assert_tables_hold(samples: pd.DataFrame, path: Path) -> None:
    """Check that a CSV or Excel export has the times and values of a frame of samples."""
    found = tables(path)
    assert found.keys() == set(samples["metric_name"])
    for metric, table in found.items():
        wanted = samples[samples["metric_name"] == metric]
        times = wanted["timestamp"].dt.tz_localize(None).reset_index(drop=True)
        read = table["timestamp"].dt.tz_localize(None).astype("M8[ns]")
        # Excel's times are read in milliseconds, rounded either way near the half of one.
        tolerance = pd.Timedelta(milliseconds=1 if path.suffix == ".xlsx" else 0)
        assert ((read - times).abs() <= tolerance).all()
        pd.testing.assert_series_equal(
            table["value"].astype(float),
            wanted["value"].reset_index(drop=True),
            rtol=1e-14,
            atol=0,
        )
