"""Numbers: what is read as one, and what is refused for which reason."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _hostile import VALUES

from genmeter.events.model import Reason
from genmeter.events.values import Rejected, Unusable, checked, to_number


class Level(IntEnum):
    """A number Enum."""

    HIGH = 3


class Share(Enum):
    """An Enum of floats."""

    HALF = 0.5


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        (2.5, 2.5),
        (True, 1),
        (Decimal("1.5"), 1.5),
        (Fraction(1, 4), 0.25),
        (np.int32(9), 9),
        (np.uint64(2**63), 2**63),
        (np.float32(0.5), 0.5),
        (np.array(4), 4),
        (np.True_, 1.0),
        (Level.HIGH, 3),
        (Share.HALF, 0.5),
        (2**70, 2**70),
    ],
    ids=repr,
)
def test_what_converts_without_loss_is_a_number(value: Any, number: float) -> None:
    """Numbers of any library become plain ints and floats, whole ones exactly."""
    found = to_number(value)
    assert found == number
    assert type(found) in (int, float)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("12", Reason.NOT_A_NUMBER),
        (b"12", Reason.NOT_A_NUMBER),
        (bytearray(b"1"), Reason.NOT_A_NUMBER),
        (memoryview(b"1"), Reason.NOT_A_NUMBER),
        (None, Reason.NOT_A_NUMBER),
        (1j, Reason.NOT_A_NUMBER),
        ([1], Reason.NOT_A_NUMBER),
        (np.array([1]), Reason.NOT_A_NUMBER),
        (np.array([1, 2]), Reason.NOT_A_NUMBER),
        (pd.NA, Reason.NOT_A_NUMBER),
        (pd.Series([1]), Reason.NOT_A_NUMBER),
        (Decimal("sNaN"), Reason.NOT_A_NUMBER),
        (Fraction(10**400), Reason.OUT_OF_RANGE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_refused_for_its_reason(value: Any, reason: Reason) -> None:
    """Text, containers and what is too large are refused, each for a reason of its own."""
    with pytest.raises(Rejected) as caught:
        to_number(value)
    assert caught.value.reason is reason


@pytest.mark.parametrize("name", ["raising", "lying number"])
def test_what_cannot_answer_is_unreadable(name: str) -> None:
    """An object that raises when it is asked for its number is refused as unreadable."""
    with pytest.raises(Rejected) as caught:
        to_number(VALUES[name])
    assert caught.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("name", VALUES)
def test_any_value_is_a_plain_number_or_refused(name: str) -> None:
    """Nothing but a plain int or float, or the one exception, ever comes out."""
    with contextlib.suppress(Rejected):
        assert type(to_number(VALUES[name])) in (int, float)


@pytest.mark.parametrize(
    ("number", "least", "reason"),
    [
        (float("nan"), 0, Reason.NOT_FINITE),
        (float("inf"), 0, Reason.NOT_FINITE),
        (float("-inf"), -10, Reason.NOT_FINITE),
        (-1, 0, Reason.NEGATIVE),
        (-1e-300, 0, Reason.NEGATIVE),
        (-11, -10, Reason.OUT_OF_RANGE),
        (11, 0, Reason.OUT_OF_RANGE),
        (10**400, 0, Reason.OUT_OF_RANGE),
    ],
)
def test_a_number_out_of_its_range_is_refused(number: float, least: float, reason: Reason) -> None:
    """What is not finite, below the least or above the most is refused for that reason."""
    with pytest.raises(Rejected) as caught:
        checked(number, 10, least=least)
    assert caught.value.reason is reason


@pytest.mark.parametrize("number", [0, -0.0, 10, 9.5, -10])
def test_a_number_within_its_range_passes_unchanged(number: float) -> None:
    """The ends of the range belong to it."""
    assert checked(number, 10, least=-10) == number


@pytest.mark.parametrize("reason", [Reason.NOT_A_NUMBER, Reason.OUT_OF_RANGE, Reason.UNREADABLE])
def test_a_value_that_the_call_could_not_use_keeps_its_reason(reason: Reason) -> None:
    """What was found out on the caller's thread is what the drain counts."""
    unusable = Unusable(reason, "how it looked")
    with pytest.raises(Rejected) as caught:
        to_number(unusable)
    assert caught.value.reason is reason
    assert str(unusable) == "how it looked"
