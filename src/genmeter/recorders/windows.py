"""Sums over the recent rows of a history's rings, by label."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genmeter import catalogue as cat
from genmeter.recorders.flags import (
    EVALUATION,
    GENERATION,
    HAS_INPUT,
    HAS_OUTPUT,
    HAS_TOTAL,
    HAS_TURNS,
    INFERENCE,
    SUCCESS,
)
from genmeter.terms import TRUNCATED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from genmeter.catalogue import Label
    from genmeter.recorders.columns import Ring
    from genmeter.recorders.names import Names
    from genmeter.terms import Condition, RowSum

    Mask = npt.NDArray[np.bool_]

__all__ = ["GroupSum", "WindowRows"]

SCORE_PREFIX = "evaluation_score_"

_COLUMN_OF: Mapping[Label, str] = {
    cat.MODEL: "model",
    cat.EVALUATOR: "evaluator",
    cat.SCORE_NAME: "name",
}
_NEEDS_ALL: Mapping[Condition, int] = {
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
        has_prices: Whether calls without a cost are without a price.
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
        (time,) = ring.columns("time")
        self._recent = np.flatnonzero(time >= since)

    def sums(self, rows: RowSum, by: Sequence[Label]) -> dict[tuple[str | None, ...], GroupSum]:
        """Sum rows by group.

        Args:
            rows: Which, and what of them.
            by: The labels whose values make a group; a value is None where the label is absent.
        """
        chosen = np.ones(len(self._recent), np.bool_)
        for condition in rows.having:
            chosen &= self._holds(condition)
        kept = self._recent[chosen]
        if not len(kept):
            return {}
        values = self._values(rows.column, kept)
        if not by:
            return {(): _group(values)}
        labels = [self._ring.columns(_COLUMN_OF[label])[0][kept] for label in by]
        found, inverse = np.unique(np.column_stack(labels), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)  # NumPy 2.0 gave it the rows' shape
        return {
            self._spelled(by, key): _group(values[inverse == number])
            for number, key in enumerate(found.tolist())
        }

    def _spelled(self, by: Sequence[Label], key: Sequence[int]) -> tuple[str | None, ...]:
        texts = [self._names.names[number] or None for number in key]
        return tuple(
            text.removeprefix(SCORE_PREFIX) if text and label is cat.SCORE_NAME else text
            for label, text in zip(by, texts, strict=True)
        )

    def _column(self, name: str) -> npt.NDArray[np.generic]:
        return self._ring.columns(name)[0][self._recent]

    def _holds(self, condition: Condition) -> Mask:
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
            is_priced = ~np.isnan(self._column("cost").astype(float))
            found = is_priced if condition == "priced" else ~is_priced & self._has_prices
        elif condition == "duration_known":
            found = ~np.isnan(self._column("duration").astype(float))
        else:
            flags = self._column("flags").astype(np.uint16)
            if condition == "inference":
                found = (flags & INFERENCE) == GENERATION
            elif condition == "failure":
                found = (flags & SUCCESS) == 0
            else:
                need = _NEEDS_ALL[condition]
                found = (flags & need) == need
        return found

    def _on_scale(self) -> Mask:
        event, value, low, high = self._scored(self._recent)
        found: Mask = (event >= 0) & (value >= low) & (value <= high)
        return found

    def _scored(self, kept: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.float64], ...]:
        event, value, name = (each[kept] for each in self._ring.columns("event", "value", "name"))
        low, high = np.zeros(len(kept)), np.ones(len(kept))
        for score, (least, most) in self._scales.items():
            number = self._names.get(SCORE_PREFIX + score)
            if number is not None:
                low[name == number], high[name == number] = least, most
        return event, value, low, high

    def _values(self, column: str | None, kept: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        if column is None:
            return np.ones(len(kept))
        if column == "share":
            _, value, low, high = self._scored(kept)
            share: npt.NDArray[np.float64] = (value - low) / (high - low)
            return share
        return self._ring.columns(column)[0][kept].astype(np.float64)


def _group(values: npt.NDArray[np.float64]) -> GroupSum:
    return GroupSum(len(values), float(values.sum()), float(values.min()), float(values.max()))
