"""Numbers, texts and labels of any object, and the reasons of rejections."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _hostile import VALUES

from genmeter.events.model import Reason
from genmeter.events.values import (
    MAX_LABEL,
    OTHER,
    LabelTable,
    Rejected,
    Unusable,
    checked,
    label_text,
    safe_text,
    shown,
    to_number,
)


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
def test_numbers_of_any_library_are_converted(value: Any, number: float) -> None:
    """They become plain ints and floats, integers exactly."""
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
def test_invalid_number_is_rejected_with_a_reason(value: Any, reason: Reason) -> None:
    """Text, containers and too large values have different reasons."""
    with pytest.raises(Rejected) as caught:
        to_number(value)
    assert caught.value.reason is reason


def test_raising_object_is_unreadable() -> None:
    """It is rejected with its own reason."""
    with pytest.raises(Rejected) as caught:
        to_number(VALUES["raising"])
    assert caught.value.reason is Reason.UNREADABLE


def test_number_of_a_derived_class_is_read_by_its_base() -> None:
    """Overridden methods are not called."""
    assert to_number(VALUES["lying number"]) == 5


@pytest.mark.parametrize("name", VALUES)
def test_any_value_is_converted_or_rejected(name: str) -> None:
    """The result is a plain int or float, or the one exception."""
    with contextlib.suppress(Rejected):
        assert type(to_number(VALUES[name])) in (int, float)


@pytest.mark.parametrize(
    ("number", "min_", "reason"),
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
def test_number_out_of_range_is_rejected(number: float, min_: float, reason: Reason) -> None:
    """A number that is not finite, too small or too large is rejected for that reason."""
    with pytest.raises(Rejected) as caught:
        checked(number, 10, min_=min_)
    assert caught.value.reason is reason


@pytest.mark.parametrize("number", [0, -0.0, 10, 9.5, -10])
def test_number_in_range_is_unchanged(number: float) -> None:
    """The range includes its ends."""
    assert checked(number, 10, min_=-10) == number


@pytest.mark.parametrize("reason", [Reason.NOT_A_NUMBER, Reason.OUT_OF_RANGE, Reason.UNREADABLE])
def test_unusable_value_keeps_its_reason(reason: Reason) -> None:
    """The drain counts the reason found on the caller's thread."""
    unusable = Unusable(reason, "how it looked")
    with pytest.raises(Rejected) as caught:
        to_number(unusable)
    assert caught.value.reason is reason
    assert str(unusable) == "how it looked"


# --- texts and labels -----------------------------------------------------------------------------


class Color(Enum):
    """An Enum of texts."""

    RED = "red"


class Shade(StrEnum):
    """A text Enum."""

    DARK = "dark"


def table(limit: int = 3) -> tuple[LabelTable, list[str]]:
    """Create a table and the list of overflows."""
    overflows: list[str] = []
    return LabelTable("models", limit, overflows.append), overflows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (5, "5"),
        (Color.RED, "red"),
        (Shade.DARK, "dark"),
        ("a\ud800b", "a?b"),
        ("é\U0001f600", "é\U0001f600"),
        (None, "None"),
    ],
)
def test_safe_text_converts_any_value(value: Any, text: str) -> None:
    """An Enum becomes its value, lone surrogates become question marks."""
    assert safe_text(value) == text
    assert type(safe_text(value)) is str


def test_subclass_of_str_becomes_a_true_str() -> None:
    """Overridden methods are not called."""
    text = safe_text(VALUES["lying text"])
    assert text == "lie"
    assert type(text) is str


@pytest.mark.parametrize("name", ["raising", "5,000 digits", "exception that raises"])
def test_unreadable_value_has_no_label(name: str) -> None:
    """The text and the label are None."""
    assert safe_text(VALUES[name]) is None
    assert label_text(VALUES[name]) is None
    assert table()[0].clean(VALUES[name]) is None


def test_safe_text_is_cut() -> None:
    """A text of megabytes is cut first."""
    assert safe_text("x" * 10_000_000, 10) == "x" * 10


@pytest.mark.parametrize("name", VALUES)
def test_safe_text_can_be_encoded(name: str) -> None:
    """The result is a short, true str for UTF-8, whatever the value."""
    text = safe_text(VALUES[name], 100)
    assert text is None or (type(text) is str and len(text) <= 100 and text.encode() is not None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  gpt \n", "gpt"),
        ("a\0b\tc\x7fd", "a b c d"),
        ("", None),
        (" \r\n\t", None),
        ("x" * 500, "x" * MAX_LABEL),
        ("x" * (MAX_LABEL - 1) + " y", "x" * (MAX_LABEL - 1)),
    ],
    ids=repr,
)
def test_label_is_stripped_cut_and_without_control_characters(value: Any, text: str | None) -> None:
    """A label is None or has 1 to 128 characters."""
    assert label_text(value) == text


def test_value_beyond_the_limit_becomes_other() -> None:
    """Each one is counted, and known values are unchanged."""
    labels, overflows = table(limit=2)
    assert [labels.clean(name) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]
    assert labels.clean("c") == OTHER
    assert overflows == ["models", "models"]


def test_other_does_not_count_against_the_limit() -> None:
    """A caller's own `other` is neither a new value nor an overflow."""
    labels, overflows = table(limit=1)
    assert labels.clean(OTHER) == OTHER
    assert labels.clean("a") == "a"
    assert labels.clean(OTHER) == OTHER
    assert not overflows


def test_spellings_of_one_label_count_once() -> None:
    """A name with spaces around it, or as an Enum, is the same value."""
    labels, overflows = table(limit=1)
    assert {labels.clean(each) for each in ("red", " red ", Color.RED, "red\n")} == {"red"}
    assert not overflows


@pytest.mark.parametrize("value", [None, "", "  "], ids=repr)
def test_empty_value_has_no_label(value: Any) -> None:
    """A label is absent or non-empty."""
    labels, overflows = table(limit=1)
    assert labels.clean(value) is None
    assert labels.clean("a") == "a"
    assert not overflows


def test_reserved_value_is_known_regardless_of_the_limit() -> None:
    """Configured names never become `other`."""
    labels, overflows = table(limit=1)
    labels.clean("a")
    labels.reserve(["b", "c"])
    assert [labels.clean(name) for name in "bcd"] == ["b", "c", OTHER]
    assert overflows == ["models"]


def test_table_is_bounded() -> None:
    """Neither new names nor new spellings make it grow beyond its limit."""
    labels, _ = table(limit=2)
    labels.clean("a")
    for number in range(1_000):
        labels.clean(f"name-{number}")
        labels.clean("a" + " " * number)
    assert len(labels._cache) <= 16
    assert len(labels._known) == 2
    assert labels.clean("a" + " " * 77) == "a"


def test_message_has_the_start_of_a_value() -> None:
    """A long text is cut, and an unreadable object is mentioned."""
    assert shown("x" * 1_000) == "x" * 200
    assert shown(VALUES["raising"]) == "an object that cannot be shown"
    assert shown("") == ""


def test_message_has_a_value_in_one_line() -> None:
    """A caller's text can neither begin a line of a log nor change a terminal's colours."""
    assert shown("9\nERROR:root:\r\x1b[31mx") == "9 ERROR:root:  [31mx"
