"""Tokens by model: exact since the start, and summed over a ring's rows for a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genmeter.history.ring import ANY_TOKENS, GENERATION, INFERENCE, kept_since

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from genmeter.history.ring import Names, Ring

__all__ = ["TokenSums", "TokenTotals", "Tokens", "sum_by_label"]

# Rows that are summed at a time: fresh memory for whole columns takes longer than their sums.
_BLOCK = 32_768
# Up to here a sum of float64 weights is exact.
_EXACT_FLOAT = 2**53


def sum_by_label(
    labels: npt.NDArray[np.uint16],
    columns: Sequence[npt.NDArray[np.int64]],
    chosen: npt.NDArray[np.bool_],
    count: int,
) -> npt.NDArray[np.int64]:
    """Sum columns of counts over the chosen rows of each label.

    Args:
        labels: Each row's label, from 0 to ``count - 1``.
        columns: Counts of at least 0, each column as long as ``labels``; no sum may pass 64 bits.
        chosen: Which rows count.
        count: How many labels there are.

    Returns:
        A row of ``count`` sums for each column, and last a row of how many rows were summed.
    """
    sums = np.zeros((len(columns) + 1, count), np.int64)
    for start in range(0, len(labels), _BLOCK):
        block = slice(start, start + _BLOCK)
        kept = chosen[block]
        # As the type that bincount takes: it would convert them once for every column.
        kept_labels = labels[block][kept].astype(np.intp)
        for totals, column in zip(sums, columns, strict=False):
            counts = column[block]
            largest = int(counts.max())
            if largest:  # the parts of the tokens are mostly 0 throughout
                _add(totals, kept_labels, counts[kept], largest)
        sums[-1] += np.bincount(kept_labels, minlength=count)
    return sums


def _add(
    totals: npt.NDArray[np.int64],
    labels: npt.NDArray[np.intp],
    counts: npt.NDArray[np.int64],
    largest: int,
) -> None:
    """Add counts, none above ``largest``, to the totals of their labels.

    Where a sum of float64 weights might not be exact, the counts are summed in two halves of at
    most 30 and 34 bits.
    """
    halves = [(counts, 0)]
    if largest * len(counts) >= _EXACT_FLOAT:
        halves = [(counts & (2**30 - 1), 0), (counts >> 30, 30)]
    for half, shift in halves:
        sums = np.bincount(labels, weights=half, minlength=len(totals))
        totals += sums.astype(np.int64) << shift


_COLUMNS = ("input", "output", "total", "cache_read", "cache_write", "reasoning")


class Tokens(NamedTuple):
    """Tokens of one model; ``calls`` are its calls, failed ones too, and evaluations with tokens."""

    input: int = 0
    output: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    calls: int = 0


class TokenTotals(NamedTuple):
    """Tokens of each model that reported any.

    Attributes:
        by_model: By the model's name.
        kept_since: From when on (Unix time, seconds), where that is later than asked.
    """

    by_model: dict[str, Tokens]
    kept_since: float | None


class TokenSums:
    """The tokens of one history.

    Args:
        calls: The ring of calls and evaluations.
        names: What the numbers in its label columns stand for.
    """

    def __init__(self, calls: Ring, names: Names) -> None:
        self._calls = calls
        self._names = names
        self._totals: dict[str, list[int]] = {}
        self._reported: set[str] = set()

    def add(self, model: str, tokens: tuple[int, ...], flags: int) -> None:
        """Add a call, a conversation or an evaluation, if it counts.

        Args:
            model: Its model.
            tokens: Six counts, in the order of :class:`Tokens`.
            flags: Those of its row.
        """
        if flags & ANY_TOKENS:
            self._reported.add(model)
        elif (flags & INFERENCE) != GENERATION:
            return
        row = self._totals.get(model)
        if row is None:
            row = self._totals[model] = [0] * 7
        row[0] += tokens[0]
        row[1] += tokens[1]
        row[2] += tokens[2]
        row[3] += tokens[3]
        row[4] += tokens[4]
        row[5] += tokens[5]
        row[6] += 1

    def totals(self, since: float | None = None) -> TokenTotals:
        """Sum the tokens by model.

        Args:
            since: Unix time in seconds; None means since the start, which is exact for ever.
        """
        if since is None:
            totals = {model: Tokens(*self._totals[model]) for model in self._reported}
            return TokenTotals(totals, None)
        time, model, flags = self._calls.columns("time", "model", "flags")
        recent = time >= since
        has_tokens = recent & ((flags & ANY_TOKENS) != 0)
        chosen = has_tokens | (recent & ((flags & INFERENCE) == GENERATION))
        names = self._names.names
        sums = sum_by_label(model, self._calls.columns(*_COLUMNS), chosen, len(names))
        has_any: npt.NDArray[np.bool_] = sums[:-1].max(axis=0) > 0
        # Sums of 0 are rare: a failed call reports no tokens, and only some report that it took 0.
        if (~has_any & (sums[-1] > 0)).any():
            has_any = np.bincount(model[has_tokens], minlength=len(names)) > 0
        by_model = {
            names[number]: Tokens(*sums[:, number].tolist()) for number in np.flatnonzero(has_any)
        }
        return TokenTotals(by_model, kept_since(self._calls, since))
