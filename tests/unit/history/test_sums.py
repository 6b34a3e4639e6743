"""Sums of counts by label."""

from __future__ import annotations

import numpy as np
import pytest

from genmeter.history._token_sums import sum_by_label


@pytest.mark.parametrize("largest", [1_000, 2**40])
def test_sums_are_exact_over_many_blocks_and_large_counts(largest: int) -> None:
    """Sums equal those of Python's integers, past one block and past what a float holds."""
    random = np.random.default_rng(7)
    rows, count = 100_000, 5
    labels = random.integers(0, count, rows).astype(np.uint16)
    columns = [random.integers(0, largest, rows, endpoint=True) for _ in range(2)]
    chosen = random.random(rows) < 0.7

    sums = sum_by_label(labels, columns, chosen, count)

    for label in range(count):
        picked = chosen & (labels == label)
        for column, totals in zip(columns, sums, strict=False):
            assert totals[label] == sum(column[picked].tolist())
        assert sums[-1][label] == picked.sum()


def test_no_rows_sum_to_zeros() -> None:
    """Nothing kept, or nothing chosen, gives a zero for each label."""
    nothing = np.empty(0, np.int64)
    empty = sum_by_label(nothing.astype(np.uint16), [nothing], nothing.astype(bool), 3)
    labels = np.array([0, 1, 2], np.uint16)
    unchosen = sum_by_label(labels, [np.array([5, 6, 7])], np.zeros(3, bool), 3)

    assert empty.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert unchosen.tolist() == empty.tolist()
