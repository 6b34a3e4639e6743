"""Exports, ours and those that AfterImage's monitor wrote."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from genmeter.report.ledger import Ledger
from genmeter.report.old_events import OPENING, OldEvents
from genmeter.report.rows import PHASES, MetricRows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from pathlib import Path

    import pandas as pd

__all__ = ["read_exported"]

_METADATA = "metadata_"
_PHASE = "metadata_phase"
_KEYS = (
    *("phase", "model_name", "step", "provider", "success"),
    *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
)


def read_exported(path: Path, window: timedelta | None = None) -> Ledger:
    """Sum an export.

    Args:
        path: An export in JSON or Parquet.
        window: How long before the newest event to begin; None reads all.

    Raises:
        ConfigError: It cannot be read, or is no export.
        ExportError: The same, as the reader of exports tells it.
        MissingExtraError: The format needs a package that is not installed.
    """
    from genmeter.files.read import read_export

    return sum_frame(read_export(path), window)


def sum_frame(frame: pd.DataFrame, window: timedelta | None = None) -> Ledger:
    """Sum a frame of an export.

    Args:
        frame: The columns ``metric_name``, ``timestamp`` (UTC), ``value`` and ``metadata_KEY``.
        window: How long before the newest event to begin; None takes all.
    """
    ledger = Ledger("export", notes=_words_on_completeness(frame))
    frame, is_old = _events(frame)
    if frame.empty:
        return ledger
    times = _unix_times(frame["timestamp"])
    cutoff = None if window is None else max(times) - window.total_seconds()
    rows = MetricRows(ledger, cutoff)
    for name, value, when, row in zip(
        frame["metric_name"].tolist(), _plain(frame["value"]), times, _metadata(frame), strict=True
    ):
        if rows.matters(name, row) and not rows.add(name, value, row, when, is_old):
            ledger.skipped += 1
    rows.finish()
    if ledger.skipped:
        ledger.notes.append(
            f"{ledger.skipped:,} {'value' if ledger.skipped == 1 else 'values'} could not be used "
            "and count for nothing."
        )
    return ledger


def _events(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Give the rows of events, and whether AfterImage's monitor wrote them."""
    frame = frame[frame["timestamp"].notna()]
    # Ours have a phase on every row of an event.
    if _PHASE in frame and (is_ours := frame[_PHASE].isin(PHASES)).any():
        return frame[is_ours], False
    knows = OldEvents(Ledger("export")).knows
    known = [name for name in frame["metric_name"].unique() if knows(name)]
    events = frame[frame["metric_name"].isin(known)]
    # The rows of an event are found by their time, from its first one on.
    order = events.assign(is_later=~events["metric_name"].isin(list(OPENING)))
    return order.sort_values(["timestamp", "is_later"], kind="stable"), True


def _words_on_completeness(frame: pd.DataFrame) -> list[str]:
    since = frame.attrs.get("kept_since")
    if since is None:
        return []
    return [f"Incomplete: the history of the job kept no event before {since}."]


def _unix_times(column: pd.Series[Any]) -> list[float]:
    import pandas as pd

    epoch = pd.Timestamp(0, tz="UTC")
    seconds: list[float] = ((column - epoch) / pd.Timedelta(seconds=1)).tolist()
    return seconds


def _metadata(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    keys = [key for key in _KEYS if f"{_METADATA}{key}" in frame]
    columns = [_plain(frame[f"{_METADATA}{key}"]) for key in keys]
    rows = zip(*columns, strict=True) if columns else repeat((), len(frame))
    return (dict(zip(keys, values, strict=True)) for values in rows)


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Give a column's values, None where there are none."""
    plain: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return plain
