"""Sums that are added up for good."""

from __future__ import annotations

import math

import pytest

from genmeter.job._exact import add


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_all_floats_is_infinite(sign: int) -> None:
    """A process that counted so much can be folded, like any other."""
    found = add(sign * 1.7e308, sign * 1.7e308)
    assert found == sign * math.inf
    assert add(found, 1) == sign * math.inf
