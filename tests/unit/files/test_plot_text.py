"""Numbers and names as plots show them."""

from __future__ import annotations

import pytest

from genmeter.files.plotting.text import (
    compact,
    percent,
    percent_tick,
    plain,
    seconds,
    shown,
    shown_all,
    span,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (950, "950"),
        (98_700, "98,700"),
        (123_456, "123k"),
        (999_700, "1M"),
        (1_250_000, "1.25M"),
        (3.4e9, "3.4B"),
        (5e12, "5T"),
        (2e15, "2,000T"),
        (-250_000, "-250k"),
    ],
)
def test_counts_take_few_characters(value: float, text: str) -> None:
    """Small counts are exact, large ones have three digits and a unit."""
    assert compact(value) == text


def test_counts_beside_one_another_have_one_unit() -> None:
    """Ticks of one axis do not change from figures to thousands midway."""
    counts = [compact(value, beside=100_000) for value in (0, 20_000, 100_000)]
    assert counts == ["0", "20k", "100k"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.123"), (2.0, "2"), (1_234.5, "1,234"), (1e18, "1e+18"), (0, "0")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """No number on an axis is longer than it need be."""
    assert plain(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 s"), (0.0351, "35.1 ms"), (1.25, "1.25 s"), (4_000, "4,000 s")]
)
def test_durations_have_the_unit_that_fits(value: float, text: str) -> None:
    """Below a second they are milliseconds."""
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (1, "100%"), (0.0002, "<0.1%"), (0.9999, ">99.9%"), (0.123, "12.3%")],
)
def test_a_share_that_is_not_all_is_never_told_as_all(share: float, text: str) -> None:
    """One failed call among thousands is not rounded away."""
    assert percent(share) == text


def test_ticks_of_shares_have_no_needless_decimals() -> None:
    """An axis of shares has percents."""
    assert [percent_tick(share) for share in (0, 0.025, 1)] == ["0%", "2.5%", "100%"]


@pytest.mark.parametrize(
    ("width", "text"),
    [(1, "second"), (10, "10 seconds"), (60, "minute"), (7200, "2 hours"), (86_400, "day")],
)
def test_a_slice_of_time_is_named(width: int, text: str) -> None:
    """The largest unit that divides it names a slice's width."""
    assert span(width) == text


def test_a_long_name_keeps_both_ends() -> None:
    """Names of models differ at their ends, so the middle goes."""
    name = shown("organisation/" + "x" * 200 + "-instruct-v2")
    assert len(name) == 32
    assert name.startswith("organisation/")
    assert name.endswith("-instruct-v2")


def test_a_name_is_one_line_of_what_a_font_has() -> None:
    """A line feed becomes a space, and what no font has becomes its number."""
    assert shown("a\nb") == "a b"
    assert shown("x\ud800y\x00") == "x\\ud800y\\u0"
    assert shown("Модель $x_1$") == "Модель $x_1$"
    assert shown("") == "(empty)"


def test_names_that_look_the_same_are_numbered() -> None:
    """Two names stay two."""
    assert shown_all(["a\nb", "a b", "c"]) == ["a b (1)", "a b (2)", "c"]
