"""Labels: text that every encoder takes, and tables that bound it."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

import pytest
from _hostile import VALUES

from genmeter.events.values import MAX_LABEL, OTHER, LabelTable, label_text, safe_text


class Color(Enum):
    """An Enum of texts."""

    RED = "red"


class Shade(StrEnum):
    """A text Enum."""

    DARK = "dark"


def table(limit: int = 3) -> tuple[LabelTable, list[str]]:
    """Make a table and the list of what overflowed."""
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
def test_safe_text_reads_anything_as_text(value: Any, text: str) -> None:
    """An Enum is its value, lone surrogates become question marks, all else is its text."""
    assert safe_text(value) == text
    assert type(safe_text(value)) is str


def test_a_subclass_of_str_that_overrides_everything_is_read_as_a_true_str() -> None:
    """Whatever a class of the caller's does, what goes on is a str."""
    text = safe_text(VALUES["lying text"])
    assert text == "lie"
    assert type(text) is str


@pytest.mark.parametrize("name", ["raising", "5,000 digits", "exception that raises"])
def test_what_has_no_text_has_no_label(name: str) -> None:
    """A value whose text cannot be had is None, as a text and as a label."""
    assert safe_text(VALUES[name]) is None
    assert label_text(VALUES[name]) is None
    assert table()[0].clean(VALUES[name]) is None


def test_safe_text_keeps_no_more_than_its_limit() -> None:
    """A text of megabytes is cut before anything else looks at it."""
    assert safe_text("x" * 10_000_000, 10) == "x" * 10


@pytest.mark.parametrize("name", VALUES)
def test_every_text_that_is_read_can_be_encoded(name: str) -> None:
    """Whatever the value, what is read of it is a short, true str that UTF-8 takes."""
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
def test_a_label_is_trimmed_cut_and_free_of_control_characters(
    value: Any, text: str | None
) -> None:
    """A label is None or 1 to 128 characters, no control character and no space at its ends."""
    assert label_text(value) == text


def test_a_value_past_the_limit_becomes_other_and_is_counted_each_time() -> None:
    """The first values are kept for good, each further one is `other`, known ones still pass."""
    labels, overflows = table(limit=2)
    assert [labels.clean(name) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]
    assert labels.clean("c") == OTHER
    assert overflows == ["models", "models"]


def test_other_itself_takes_no_place() -> None:
    """A caller's own `other` is the same label, and neither a new value nor an overflow."""
    labels, overflows = table(limit=1)
    assert labels.clean(OTHER) == OTHER
    assert labels.clean("a") == "a"
    assert labels.clean(OTHER) == OTHER
    assert not overflows


def test_spellings_of_one_label_share_its_place() -> None:
    """A name with spaces around it, or as an Enum, is the same value."""
    labels, overflows = table(limit=1)
    assert {labels.clean(each) for each in ("red", " red ", Color.RED, "red\n")} == {"red"}
    assert not overflows


@pytest.mark.parametrize("value", [None, "", "  "], ids=repr)
def test_what_is_empty_has_no_label(value: Any) -> None:
    """A label is absent or non-empty, never empty."""
    labels, overflows = table(limit=1)
    assert labels.clean(value) is None
    assert labels.clean("a") == "a"
    assert not overflows


def test_a_reserved_value_has_a_place_whatever_the_limit() -> None:
    """Names known from the configuration are never `other`, though others took every place."""
    labels, overflows = table(limit=1)
    labels.clean("a")
    labels.reserve(["b", "c"])
    assert [labels.clean(name) for name in "bcd"] == ["b", "c", OTHER]
    assert overflows == ["models"]


def test_names_without_end_do_not_fill_the_memory() -> None:
    """Neither new names nor new spellings of a known one make the table grow past a bound."""
    labels, _ = table(limit=2)
    labels.clean("a")
    for number in range(1_000):
        labels.clean(f"name-{number}")
        labels.clean("a" + " " * number)
    assert len(labels._cache) <= 16
    assert len(labels._known) == 2
    assert labels.clean("a" + " " * 77) == "a"
