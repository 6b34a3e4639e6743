"""Reads exports of genmeter and AfterImage."""

from __future__ import annotations

import math
from datetime import datetime
from itertools import repeat
from typing import TYPE_CHECKING, Any

from genmeter.report._metric_rows import OPENING, PHASES, MetricRows, is_afterimage_name
from genmeter.report.usage_table import UsageTable
from genmeter.schema.afterimage import BILLING, PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from pathlib import Path

    import pandas as pd

    from genmeter.config.prices import PriceTable
    from genmeter.report.details import Details

__all__ = ["Export"]

_METADATA = "metadata_"
_PHASE = "metadata_phase"
_KEYS = (
    *("phase", "model_name", "step", "provider", "success", "error_type"),
    *("response_model", BILLING),
    *PARTS,
)


class Export:
    """An export.

    Args:
        path: Its file.

    Attributes:
        path: As passed.

    Raises:
        ExportError: It cannot be read.
        MissingExtraError: Its format needs a package that is not installed.
    """

    def __init__(self, path: Path) -> None:
        from genmeter.files.read import read_export

        self.path = path
        frame = read_export(path)
        self._kept_since = frame.attrs.get("kept_since")
        self._frame, self._is_afterimage = _events(frame)
        self._times = [stamp.timestamp() for stamp in self._frame["timestamp"]]

    def newest(self) -> float:
        """Return the Unix time of the newest event; minus infinity without any."""
        return max(self._times, default=-math.inf)

    def read(
        self,
        window: timedelta | None = None,
        cutoff: float = -math.inf,
        prices: PriceTable | None = None,
        details: Details | None = None,
    ) -> UsageTable:
        """Sum the events from a Unix time on, and add to the details."""
        table = UsageTable("export", window)
        if self._kept_since is not None and not _is_before(self._kept_since, cutoff):
            table.note_partial(f"Incomplete: the job kept no events before {self._kept_since}.")
        frame = self._frame
        if details is not None:
            details.kinds.add("export")
        rows = MetricRows(table, cutoff, prices, is_sorted=False, details=details)
        names, values = frame["metric_name"].tolist(), _plain(frame["value"])
        for name, value, when, row in zip(
            names, values, self._times, _metadata(frame), strict=True
        ):
            is_valid = not rows.matters(name, row) or rows.add(
                name, value, row, when, self._is_afterimage
            )
            table.skipped += not is_valid
        rows.finish()
        if table.skipped:
            table.note_skipped("value", f" of {self.path}")
        return table


def _is_before(stamp: str, cutoff: float) -> bool:
    try:
        return datetime.fromisoformat(stamp).timestamp() <= cutoff
    except (TypeError, ValueError):
        return False


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
