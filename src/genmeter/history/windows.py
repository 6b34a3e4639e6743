"""Sums over windows: exact over the rows that the rings keep, and by whole minutes beyond them.

A window that the rings still hold is answered by :class:`WindowRows`, exact to the event. Sums over
all calls go on as :class:`Minutes` when the ring has forgotten the calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.history.ring import (
    ANY_TOKENS,
    EVALUATION,
    GENERATION,
    HAS_INPUT,
    HAS_OUTPUT,
    HAS_TOTAL,
    HAS_TURNS,
    INFERENCE,
    SUCCESS,
)
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

__all__ = ["MINUTE_COLUMNS", "MOST_MINUTES", "TOKENS", "GroupSum", "Minutes", "WindowRows"]

TOKENS = ("input", "output", "total", "cache_read", "cache_write", "reasoning")
"""The columns of counts of tokens, in the order of :class:`ModelTokenUsage`."""
_COLUMN_OF: Mapping[Label, str] = {
    cat.MODEL: "model",
    cat.EVALUATOR: "evaluator",
    cat.SCORE_NAME: "name",
}
_NEEDS_ALL: Mapping[RowCondition, int] = {
    "success": SUCCESS,
    "evaluation": EVALUATION,
    "input_known": HAS_INPUT,
    "output_known": HAS_OUTPUT,
    "total_known": HAS_TOTAL,
    "turns_known": HAS_TURNS | GENERATION,
}


class GroupSum(NamedTuple):
    """A group of rows: how many, and the sum, the least and the most of their values."""

    rows: int
    sum: float
    least: float
    most: float


class WindowRows:
    """The rows of one ring since a time.

    Args:
        ring: The ring.
        names: What the numbers in its label columns stand for.
        since: Unix time in seconds.
        scales: Lowest and highest value of the scores that are not on 0..1, by name.
        has_prices: Whether the ring has a column ``cost``, NaN for a call without a price.
    """

    def __init__(
        self,
        ring: Ring,
        names: StringTable,
        since: float,
        *,
        scales: Mapping[str, tuple[float, float]],
        has_prices: bool,
    ) -> None:
        self._ring = ring
        self._names = names
        self._scales = scales
        self._has_prices = has_prices
        self._recent: Mask = self._column("time") >= since

    def sums(
        self, rows: HistoryQuery, by: Sequence[Label]
    ) -> dict[tuple[str | None, ...], GroupSum]:
        """Sum rows by group.

        Args:
            rows: Which, and what of them.
            by: The labels whose values make a group; a value is None if the label is absent.
        """
        chosen = self._recent
        for condition in rows.having:
            chosen = chosen & self._holds(condition)
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
        """Sum the tokens of each model that reported any; exact, as long as a sum fits 64 bits.

        Every call to such a model counts as a call of it, also one that failed.
        """
        has_tokens = (self._column("flags") & ANY_TOKENS) != 0
        chosen = self._recent & (has_tokens | self._holds("inference"))
        kept, starts = self._grouped(chosen, ["model"])
        if not len(kept):
            return []
        counts = [self._token_sums(name, kept, starts) for name in TOKENS]
        calls = np.diff(starts, append=len(kept)).tolist()
        models = self._column("model")[kept[starts]].tolist()
        reported = np.logical_or.reduceat(has_tokens[kept], starts).tolist()
        return [
            ModelTokenUsage(self._names.names[model], *sums)
            for is_reported, model, *sums in zip(reported, models, *counts, calls, strict=True)
            if is_reported
        ]

    def _token_sums(self, name: str, kept: Positions, starts: Positions) -> list[int]:
        column = self._column(name)
        if not column.any():  # most providers report no parts, and looking is cheaper than sorting
            return [0] * len(starts)
        sums: list[int] = np.add.reduceat(column[kept], starts).tolist()
        return sums

    def _grouped(self, chosen: Mask, columns: Sequence[str]) -> tuple[Positions, Positions]:
        """Sort the chosen rows by columns of labels.

        Returns:
            The rows' positions, group by group, and where among them each group begins.
        """
        kept = np.flatnonzero(chosen)
        labels = [self._column(name)[kept] for name in columns]
        # The last column first: a stable sort of 16-bit numbers takes no time.
        for index in reversed(range(len(labels))):
            order = np.argsort(labels[index], kind="stable")
            kept, labels = kept[order], [each[order] for each in labels]
        begins = np.zeros(len(kept), np.bool_)
        begins[:1] = True
        for each in labels:
            begins[1:] |= each[1:] != each[:-1]
        return kept, np.flatnonzero(begins)

    def _labels(self, label: Label, numbers: npt.NDArray[Any]) -> list[str | None]:
        texts = [self._names.names[number] or None for number in numbers.tolist()]
        if label is not cat.SCORE_NAME:
            return texts
        return [text and text.removeprefix(SCORE_PREFIX) for text in texts]

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._ring.columns(name)[0]

    def _holds(self, condition: RowCondition) -> Mask:
        found: Mask
        if condition == "rejected":
            found = self._column("accepted") == 0
        elif condition == "on_scale":
            found = self._on_scale()
        elif condition in ("finish_known", "truncated"):
            reason = self._column("finish_reason")
            cut = [self._names[each] for each in TRUNCATED if each in self._names]
            found = reason != 0 if condition == "finish_known" else np.isin(reason, cut)
        elif condition in ("priced", "unpriced"):
            found = self._priced(is_known=condition == "priced")
        elif condition == "duration_known":
            found = ~np.isnan(self._column("duration"))
        else:
            flags = self._column("flags")
            if condition == "inference":
                found = (flags & INFERENCE) == GENERATION
            elif condition == "failure":
                found = (flags & SUCCESS) == 0
            else:
                need = _NEEDS_ALL[condition]
                found = (flags & need) == need
        return found

    def _priced(self, *, is_known: bool) -> Mask:
        if not self._has_prices:
            return np.zeros_like(self._recent)
        found: Mask = np.isnan(self._column("cost")) != is_known
        return found

    def _on_scale(self) -> Mask:
        event, value = self._column("event"), self._column("value")
        low, high = self._bounds(self._column("name"))
        found: Mask = (event >= 0) & (value >= low) & (value <= high)
        return found

    def _bounds(self, names: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], ...]:
        """Return the lowest and the highest value on each row's scale."""
        low, high = np.zeros(len(names)), np.ones(len(names))
        for score, (least, most) in self._scales.items():
            number = self._names.get(SCORE_PREFIX + score)
            if number is not None:
                is_it = names == number
                low[is_it], high[is_it] = least, most
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
MOST_MINUTES = 3 * 24 * 60 + 1
"""Minutes that are kept, of those with any event.

As many as a window of three days, the longest of an alert, can touch.
"""


MINUTE_COLUMNS = ("calls", "successes", "failures", "tokens", "cost")
"""What is summed by the minute; ``cost`` is in USD."""


class Minutes:
    """Sums of the last minutes with any event, however many calls they had.

    Each time counts for its own minute, whatever came before it: a clock that is set back or forward
    neither loses nor moves anything. As in the rings, the events of a clock that ran ahead lie
    within every window until the clock is there again.
    """

    def __init__(self) -> None:
        # By the Unix time that they begin at, in the order of their first call.
        self._minutes: dict[float, list[float]] = {}
        self._start = self._end = float("-inf")
        self._current: list[float] = []

    def add(
        self, time: float, calls: int, successes: int, failures: int, tokens: int, cost: float
    ) -> None:
        """Add an event; see :data:`MINUTE_COLUMNS` for its amounts.

        Args:
            time: Unix time in seconds.
            calls: 1, or 0 for an evaluation.
            successes: 1 for a call that succeeded.
            failures: 1 for a call that failed.
            tokens: Its tokens.
            cost: USD.
        """
        if not self._start <= time < self._end:
            self._turn_to(time)
        current = self._current
        current[0] += calls
        current[1] += successes
        current[2] += failures
        current[3] += tokens
        current[4] += cost

    def total(self, column: str, since: float) -> float:
        """Sum the minutes that ended after a time; the one that it lies in counts whole.

        Args:
            column: One of :data:`MINUTE_COLUMNS`.
            since: Unix time in seconds.
        """
        index = MINUTE_COLUMNS.index(column)
        return sum(sums[index] for start, sums in self._minutes.items() if start + _MINUTE > since)

    def _turn_to(self, time: float) -> None:
        self._start = time // _MINUTE * _MINUTE
        self._end = self._start + _MINUTE
        self._current = self._minutes.setdefault(self._start, [0] * len(MINUTE_COLUMNS))
        if len(self._minutes) > MOST_MINUTES:
            del self._minutes[next(iter(self._minutes))]
