"""Sums over the recent rows of a history's rings, by label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.history.ring import (
    EVALUATION,
    GENERATION,
    HAS_INPUT,
    HAS_OUTPUT,
    HAS_TOTAL,
    HAS_TURNS,
    INFERENCE,
    SUCCESS,
)
from genmeter.schema import metrics as cat
from genmeter.schema.query import TRUNCATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from genmeter.history.ring import Names, Ring
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import HistoryQuery, RowCondition

    Mask = npt.NDArray[np.bool_]

__all__ = ["GroupSum", "WindowRows"]

SCORE_PREFIX = "evaluation_score_"

_COLUMN_OF: Mapping[Label, str] = {
    cat.MODEL: "model",
    cat.EVALUATOR: "evaluator",
    cat.SCORE_NAME: "name",
}
_SUMMARY = (np.add, np.minimum, np.maximum)
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
        has_prices: Whether the ring has a column ``cost``, NaN where a call has no price.
    """

    def __init__(
        self,
        ring: Ring,
        names: Names,
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
            by: The labels whose values make a group; a value is None where the label is absent.
        """
        chosen = self._recent
        for condition in rows.having:
            chosen = chosen & self._holds(condition)
        kept = np.flatnonzero(chosen)
        if not len(kept):
            return {}
        # Label after label, the last one first: a stable sort of 16-bit numbers takes no time.
        for label in reversed(by):
            kept = kept[np.argsort(self._column(_COLUMN_OF[label])[kept], kind="stable")]
        labels = [self._column(_COLUMN_OF[label])[kept] for label in by]
        changes = np.zeros(len(kept), np.bool_)
        changes[0] = True
        for numbers in labels:
            changes[1:] |= numbers[1:] != numbers[:-1]
        starts = np.flatnonzero(changes)
        values = self._values(rows.column, kept)
        columns = (
            np.diff(starts, append=len(kept)),
            np.add.reduceat(values, starts),
            np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts),
        )
        groups = zip(*(each.tolist() for each in columns), strict=True)
        keys = zip(*(numbers[starts].tolist() for numbers in labels), strict=True) if by else [()]
        return {
            self._spelled(by, key): GroupSum(*group)
            for key, group in zip(keys, groups, strict=True)
        }

    def _spelled(self, by: Sequence[Label], key: Sequence[int]) -> tuple[str | None, ...]:
        texts = [self._names.names[number] or None for number in key]
        return tuple(
            text.removeprefix(SCORE_PREFIX) if text and label is cat.SCORE_NAME else text
            for label, text in zip(by, texts, strict=True)
        )

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
        """Give the lowest and the highest value on each row's scale."""
        low, high = np.zeros(len(names)), np.ones(len(names))
        for score, (least, most) in self._scales.items():
            number = self._names.get(SCORE_PREFIX + score)
            if number is not None:
                is_it = names == number
                low[is_it], high[is_it] = least, most
        return low, high

    def _values(self, column: str | None, kept: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        if column is None:
            return np.ones(len(kept))
        if column == "share":
            low, high = self._bounds(self._column("name")[kept])
            share: npt.NDArray[np.float64] = (self._column("value")[kept] - low) / (high - low)
            return share
        return self._column(column)[kept].astype(np.float64)
