"""Sums over windows: exact over the rows that the rings keep, by whole minutes beyond them.

:class:`WindowRows` sums a window that the rings still cover, exact to the event. For longer windows
:class:`Minutes` has sums over all calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.history.ring import Flag
from genmeter.history.token_report import ModelTokenUsage
from genmeter.schema import metrics as cat
from genmeter.schema.afterimage import SCORE_PREFIX
from genmeter.schema.query import TRUNCATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from genmeter.history.ring import Ring, StringTable
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import HistoryQuery, RowCondition

    Mask = npt.NDArray[np.bool_]
    Positions = npt.NDArray[np.intp]

__all__ = ["MAX_MINUTES", "MINUTE_COLUMNS", "TOKENS", "GroupSum", "Minutes", "WindowRows"]

TOKENS = ("input", "output", "total", "cache_read", "cache_write", "reasoning")
"""The columns of token counts, in the order of :class:`ModelTokenUsage`."""
_COLUMN_OF: Mapping[Label, str] = {
    cat.MODEL: "model",
    cat.EVALUATOR: "evaluator",
    cat.SCORE_NAME: "name",
}
_NEEDS_ALL: Mapping[RowCondition, int] = {
    "success": Flag.SUCCESS,
    "evaluation": Flag.EVALUATION,
    "priced": Flag.HAS_COST,
    "unpriced": Flag.UNPRICED,
    "input_known": Flag.HAS_INPUT,
    "output_known": Flag.HAS_OUTPUT,
    "total_known": Flag.HAS_TOTAL,
    "turns_known": Flag.HAS_TURNS | Flag.GENERATION,
}


class GroupSum(NamedTuple):
    """A group of rows: their number, and the sum, minimum and maximum of their values."""

    rows: int
    sum: float
    min: float
    max: float


class WindowRows:
    """The rows of one ring since a time.

    Args:
        ring: The ring.
        names: The table that the numbers in its label columns index.
        since: Unix time in seconds.
        scales: Lowest and highest value of each score that is not on 0..1.
    """

    def __init__(
        self,
        ring: Ring,
        names: StringTable,
        since: float,
        *,
        scales: Mapping[str, tuple[float, float]],
    ) -> None:
        self._ring = ring
        self._names = names
        self._scales = scales
        self._recent: Mask = self._column("time") >= since

    def sums(
        self, rows: HistoryQuery, by: Sequence[Label]
    ) -> dict[tuple[str | None, ...], GroupSum]:
        """Sum rows by group.

        Args:
            rows: The rows and the column to sum.
            by: The labels to group by; the value of an absent label is None.
        """
        chosen = self._recent
        for condition in rows.having:
            chosen = chosen & self._matches(condition)
        columns = [_COLUMN_OF[label] for label in by]
        kept, starts = self._grouped(chosen, columns)
        if not len(kept):
            return {}
        values = self._values(rows.column, kept)
        sums = (
            np.diff(starts, append=len(kept)),
            np.add.reduceat(values, starts),
            np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts),
        )
        firsts = kept[starts]
        labels = [self._labels(label, self._column(_COLUMN_OF[label])[firsts]) for label in by]
        groups = zip(*(each.tolist() for each in sums), strict=True)
        keys = zip(*labels, strict=True) if by else [()]
        return {key: GroupSum(*group) for key, group in zip(keys, groups, strict=True)}

    def tokens(self) -> list[ModelTokenUsage]:
        """Sum the tokens of each model that reported any; ``calls`` includes failed calls."""
        has_usage = (self._column("flags") & Flag.USAGE) != 0
        chosen = self._recent & (has_usage | self._matches("inference"))
        kept, starts = self._grouped(chosen, ["model"])
        if not len(kept):
            return []
        counts = [self._token_sums(name, kept, starts) for name in TOKENS]
        calls = np.diff(starts, append=len(kept)).tolist()
        flags = self._column("flags")
        has_no_cost = ((flags & Flag.ANY_TOKENS) != 0) & ((flags & Flag.HAS_COST) == 0)
        is_unpriced = (has_no_cost | self._matches("unpriced"))[kept]
        unpriced = np.add.reduceat(is_unpriced.astype(np.int64), starts).tolist()
        costs = np.add.reduceat(np.nan_to_num(self._column("cost")[kept]), starts).tolist()
        models = self._column("model")[kept[starts]].tolist()
        reported = np.logical_or.reduceat(has_usage[kept], starts).tolist()
        rows = zip(reported, models, *counts, calls, unpriced, costs, strict=True)
        return [
            ModelTokenUsage(self._names.names[model], *sums)
            for is_reported, model, *sums in rows
            if is_reported
        ]

    def without_usage(self) -> dict[str, int]:
        """Count the calls of each model whose usage is unknown."""
        chosen = self._recent & self._matches("unread")
        models, counts = np.unique(self._column("model")[chosen], return_counts=True)
        names = self._names.names
        return {names[m]: n for m, n in zip(models.tolist(), counts.tolist(), strict=True)}

    def _token_sums(self, name: str, kept: Positions, starts: Positions) -> list[int]:
        column = self._column(name)
        if not column.any():  # most providers report no parts, and looking is cheaper than sorting
            return [0] * len(starts)
        sums: list[int] = np.add.reduceat(column[kept], starts).tolist()
        return sums

    def _grouped(self, chosen: Mask, columns: Sequence[str]) -> tuple[Positions, Positions]:
        """Return the chosen rows' positions, sorted by group, and the start of each group."""
        kept = np.flatnonzero(chosen)
        # The last column first; a stable sort of 16-bit numbers is cheap.
        for name in reversed(columns):
            kept = kept[np.argsort(self._column(name)[kept], kind="stable")]
        begins = np.zeros(len(kept), np.bool_)
        begins[:1] = True
        for name in columns:
            numbers = self._column(name)[kept]
            begins[1:] |= numbers[1:] != numbers[:-1]
        return kept, np.flatnonzero(begins)

    def _labels(self, label: Label, numbers: npt.NDArray[Any]) -> list[str | None]:
        texts = [self._names.names[number] or None for number in numbers.tolist()]
        if label is not cat.SCORE_NAME:
            return texts
        return [text and text.removeprefix(SCORE_PREFIX) for text in texts]

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._ring.columns(name)[0]

    def _matches(self, condition: RowCondition) -> Mask:
        found: Mask
        if condition == "rejected":
            found = self._column("accepted") == 0
        elif condition == "on_scale":
            value = self._column("value")
            low, high = self._bounds(self._column("name"))
            found = (self._column("event") >= 0) & (value >= low) & (value <= high)
        elif condition in ("finish_known", "truncated"):
            reason = self._column("finish_reason")
            cut = [self._names[each] for each in TRUNCATED if each in self._names]
            found = reason != 0 if condition == "finish_known" else np.isin(reason, cut)
        elif condition == "unread":
            found = self._column("unread") != 0
        elif condition == "duration_known":
            found = ~np.isnan(self._column("duration"))
        else:
            flags = self._column("flags")
            if condition == "inference":
                found = (flags & Flag.INFERENCE) == Flag.GENERATION
            elif condition == "failure":
                found = (flags & (Flag.SUCCESS | Flag.CANCELLED)) == 0
            elif condition == "ended":
                found = (flags & Flag.CANCELLED) == 0
            else:
                need = _NEEDS_ALL[condition]
                found = (flags & need) == need
        return found

    def _bounds(self, names: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], ...]:
        """Return the lowest and the highest value on each row's scale."""
        low, high = np.zeros(len(names)), np.ones(len(names))
        for score, bounds in self._scales.items():
            number = self._names.get(SCORE_PREFIX + score)
            if number is not None:
                low[names == number], high[names == number] = bounds
        return low, high

    def _values(self, column: str | None, kept: Positions) -> npt.NDArray[np.float64]:
        if column is None:
            return np.ones(len(kept))
        if column == "share":
            low, high = self._bounds(self._column("name")[kept])
            share: npt.NDArray[np.float64] = (self._column("value")[kept] - low) / (high - low)
            return share
        return self._column(column)[kept].astype(np.float64)


_MINUTE = 60.0
MAX_MINUTES = 3 * 24 * 60 + 1
"""Number of minutes with events that are kept: an alert's longest window is three days."""

MINUTE_COLUMNS = ("calls", "successes", "failures", "tokens", "cost", "ended")
"""The amounts that are summed by minute; ``cost`` is in USD, ``ended`` are not cancelled."""


class Minutes:
    """Sums over the last minutes that had events, whatever the number of calls.

    An event counts for the minute of its own time, so a clock that is set back or forward neither
    loses nor moves events. As in the rings, events of a clock that ran ahead are inside every window
    until the clock reaches them.
    """

    def __init__(self) -> None:
        # By the Unix time at which each minute starts, in the order of their first event.
        self._minutes: dict[float, list[float]] = {}
        self._start = self._end = float("-inf")
        self._current: list[float] = []

    def add(
        self, time: float, calls: int, successes: int, failures: int, tokens: int, cost: float
    ) -> None:
        """Add the amounts of an event, see :data:`MINUTE_COLUMNS`; ``time`` is Unix time."""
        if not self._start <= time < self._end:
            self._turn_to(time)
        current = self._current
        current[0] += calls
        current[1] += successes
        current[2] += failures
        current[3] += tokens
        current[4] += cost
        current[5] += successes + failures

    def total(self, column: str, since: float) -> float:
        """Sum one of :data:`MINUTE_COLUMNS` over the minutes that ended after a Unix time."""
        index = MINUTE_COLUMNS.index(column)
        return sum(sums[index] for start, sums in self._minutes.items() if start + _MINUTE > since)

    def _turn_to(self, time: float) -> None:
        self._start = time // _MINUTE * _MINUTE
        self._end = self._start + _MINUTE
        self._current = self._minutes.setdefault(self._start, [0] * len(MINUTE_COLUMNS))
        if len(self._minutes) > MAX_MINUTES:
            del self._minutes[next(iter(self._minutes))]
