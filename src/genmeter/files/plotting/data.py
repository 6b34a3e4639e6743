"""What plots show, computed from the history's frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.history.frames import to_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd

    from genmeter.history.snapshot import Snapshot
    from genmeter.schema.signals import Signal

    Floats = npt.NDArray[np.float64]
    Times = npt.NDArray[np.datetime64]

__all__ = ["MOST_GROUPS", "Frames", "Groups", "Series", "Slices"]

MOST_GROUPS = 8
"""Groups that a plot tells apart, the largest ones; the rest are one more."""
_NOUNS = {
    "generations": ("call", "calls"),
    "conversations": ("conversation", "conversations"),
    "evaluations": ("evaluation", "evaluations"),
    "metrics": ("recorded value", "recorded values"),
}
_WIDTHS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200, 86400),
)
_UNKNOWN, _NOT_TOLD = "unknown", "_OTHER"  # the latter is OpenTelemetry's
_MOST_SLICES = 60


class Series(NamedTuple):
    """Samples in the order of their times.

    Attributes:
        time: datetime64, UTC.
        value: As many.
        of: How many of what, for a reader: ``12 calls and 1 conversation``.
    """

    time: Times
    value: Floats
    of: str


class Groups(NamedTuple):
    """Rows of a frame by group, the largest group first, the pooled rest last.

    Attributes:
        labels: The groups' names; the rest's is like ``12 others``.
        code: For each row the index of its group.
        value: For each row, by column, the signals' values.
        time: For each row its time.
        of: How many of what, for a reader.
    """

    labels: list[str]
    code: npt.NDArray[np.intp]
    value: Floats
    time: Times
    of: str

    def sums(self) -> Floats:
        """Sum the values: a row for each group, a column for each signal."""
        return _sum_by(self.code, np.nan_to_num(self.value), len(self.labels))

    def counts(self) -> npt.NDArray[np.intp]:
        """Count the rows of each group."""
        return np.bincount(self.code, minlength=len(self.labels))

    def slices(self) -> Slices:
        """Sum the first signal by slices of time and group."""
        seconds = self.time.astype("M8[us]").astype(np.int64) / 1e6
        first, last = seconds.min(), seconds.max()
        width = _slice_width(last - first)
        start = math.floor(first / width) * width
        number = ((seconds - start) // width).astype(np.intp)
        length = int(number.max()) + 1
        place = number * len(self.labels) + self.code
        table = _sum_by(place, np.nan_to_num(self.value[:, :1]), length * len(self.labels))
        starts = np.round((start + width * np.arange(length)) * 1e6).astype(np.int64)
        return Slices(starts.astype("M8[us]"), width, table.reshape(length, len(self.labels)))


class Slices(NamedTuple):
    """Sums by slice of time (rows) and group (columns); ``width`` in seconds."""

    start: Times
    width: int
    sums: Floats

    @property
    def step(self) -> np.timedelta64:
        """The width as a difference of times."""
        return np.timedelta64(self.width, "s")


class Frames:
    """The frames of a snapshot, each made when it is first asked for.

    Args:
        snapshot: What the history keeps.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        # What callers told freely is not plotted, and parsing it takes most of a frame's time.
        self._snapshot = snapshot._replace(call_data={}, value_data={})
        self._frames: dict[str, pd.DataFrame] = {}

    def __getitem__(self, kind: str) -> pd.DataFrame:
        if kind not in self._frames:
            self._frames[kind] = to_frame(self._snapshot, kind)
        return self._frames[kind]

    def series(self, signal: Signal) -> dict[str, Series]:
        """Give the series of a signal that have samples, by name.

        Returns:
            One series under the signal's title; or, where its column is a pattern, one for each
            column, under what stands for the ``*``.
        """
        parts: dict[str, list[tuple[str, Times, Floats]]] = {}
        stem = signal.column.removesuffix("*")
        is_pattern = stem != signal.column
        for kind in signal.frames:
            frame = self[kind]
            for column in frame.columns:
                if column == signal.column or (is_pattern and column.startswith(stem)):
                    name = column[len(stem) :] if is_pattern else signal.title
                    value = _value(frame, signal, column)
                    parts.setdefault(name, []).append((kind, _times(frame), value))
        for name, time, value in self._recorded(signal, is_pattern=is_pattern):
            parts.setdefault(name, []).append(("metrics", time, value))
        joined = {name: _join(found) for name, found in parts.items()}
        return {name: series for name, series in joined.items() if len(series.value)}

    def groups(self, signals: Sequence[Signal], by: str) -> Groups | None:
        """Give the rows of the signals' frame by group.

        Rows of which no signal is known are left out; where signals are summed, so are rows that
        add nothing, and with them groups of nothing else.

        Args:
            signals: Of one frame.
            by: The column whose values are the groups; an unknown one is ``unknown``.

        Returns:
            The groups; None where there is no row.
        """
        (kind,) = {frame for signal in signals for frame in signal.frames}
        frame = self[kind]
        value = np.column_stack([_value(frame, signal, signal.column) for signal in signals])
        is_summed = all(signal.aggregation == "sum" for signal in signals)
        counts = np.nan_to_num(value) != 0 if is_summed else ~np.isnan(value)
        chosen = counts.any(axis=1)
        if not chosen.any():
            return None
        names = frame[by].to_numpy(object, na_value=_UNKNOWN)[chosen]
        names = np.where(names == _NOT_TOLD, _UNKNOWN, names)
        value = value[chosen]
        weight = np.nan_to_num(value).sum(axis=1) if is_summed else np.ones(len(value))
        labels, code = _ranked(names, weight)
        of = _counted({kind: len(frame)})
        if len(value) < len(frame):
            of = f"{len(value):,} of {of}"
        return Groups(labels, code, value, _times(frame)[chosen], of)

    def _recorded(self, signal: Signal, *, is_pattern: bool) -> list[tuple[str, Times, Floats]]:
        if signal.recorded_as is None:
            return []
        frame = self["metrics"]
        found = []
        for name in frame["name"].unique():
            if not signal.stands_for(name):
                continue
            rows = frame.loc[(frame["name"] == name).to_numpy(bool)]
            label = name[len(signal.recorded_as) :] if is_pattern else signal.title
            found.append((label, _times(rows), rows["value"].to_numpy(np.float64)))
        return found


def _times(frame: pd.DataFrame) -> Times:
    times: Times = frame["time"].dt.tz_convert(None).to_numpy()
    return times


def _value(frame: pd.DataFrame, signal: Signal, column: str) -> Floats:
    value = _floats(frame[column])
    if signal.is_complement:
        value = 1 - value
    if signal.less:
        # A total that a caller tells smaller than its parts leaves nothing, not less than that.
        parts = [np.nan_to_num(_floats(frame[other])) for other in signal.less]
        value = np.maximum(value - np.sum(parts, axis=0), 0)
    return value


def _floats(column: pd.Series[Any]) -> Floats:
    return column.to_numpy(np.float64, na_value=np.nan)


def _join(parts: list[tuple[str, Times, Floats]]) -> Series:
    parts = [
        (kind, time[is_known], value[is_known])
        for kind, time, value in parts
        if (is_known := ~np.isnan(value)).any()
    ]
    if not parts:
        return Series(np.empty(0, "M8[ns]"), np.empty(0), "")
    time = np.concatenate([time for _, time, _ in parts])
    value = np.concatenate([value for _, _, value in parts])
    order = np.argsort(time, kind="stable")
    return Series(time[order], value[order], _counted({kind: len(v) for kind, _, v in parts}))


def _counted(numbers: dict[str, int]) -> str:
    return " and ".join(f"{n:,} {_NOUNS[kind][n != 1]}" for kind, n in numbers.items())


def _ranked(names: npt.NDArray[Any], weight: Floats) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Give the labels of groups and each row's index among them, by falling sum of the weights."""
    import pandas as pd

    code, found = pd.factorize(names)
    sums = np.bincount(code, weights=weight)
    order = sorted(range(len(found)), key=lambda number: (-sums[number], found[number]))
    # A rest of one takes no less room than its own name.
    most = MOST_GROUPS if len(order) > MOST_GROUPS + 1 else len(order)
    labels = [str(found[number]) for number in order[:most]]
    if most < len(order):
        labels.append(f"{len(order) - most} others")
    rank = np.empty(len(order), np.intp)
    rank[order] = np.minimum(np.arange(len(order)), most)
    return labels, rank[code]


def _sum_by(code: npt.NDArray[np.intp], value: Floats, length: int) -> Floats:
    return np.column_stack(
        [np.bincount(code, weights=column, minlength=length) for column in value.T]
    )


def _slice_width(span: float) -> int:
    """Choose a width, in seconds, that cuts a span into 60 slices at most."""
    for width in _WIDTHS:
        if span / width <= _MOST_SLICES:
            return width
    day = _WIDTHS[-1]
    return math.ceil(span / _MOST_SLICES / day) * day
