"""Sums of counts by label: fast, and exact up to 64 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["sum_by_label"]

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
