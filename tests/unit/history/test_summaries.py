"""Sums of samples."""

from __future__ import annotations

import numpy as np

from genmeter.history.token_report import summarise


def test_values_are_summed_up_as_plain_numbers() -> None:
    """A summary holds Python's numbers, whatever the column's type, and so can be written as JSON."""
    summary = summarise(np.array([1, 2, 6], dtype=np.int64))
    assert summary == {"mean": 3.0, "min": 1, "max": 6, "count": 3}
    assert {type(each) for each in summary.values()} == {int, float}


def test_no_values_have_no_summary() -> None:
    """Where there is nothing to sum up the summary is empty, not zeros."""
    assert summarise(np.array([])) == {}
