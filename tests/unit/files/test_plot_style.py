"""Lines, axes, numbers and names in plots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.files._plot_style import Picture, printable, printable_all


def series(values: Any) -> pd.Series[float]:
    """Return a series with one value a second."""
    start = np.datetime64("2026-03-09T08:30", "us")
    seconds = np.arange(len(values)).astype("m8[s]")
    return pd.Series(np.asarray(values, float), index=start + seconds)


@given(st.integers(1, 20_000), st.integers(0, 2**32 - 1))
def test_long_line_keeps_its_ends_and_peaks(length: int, seed: int) -> None:
    """A line has at most a thousand points, in order, with all extremes."""
    values = np.random.default_rng(seed).normal(size=length)
    picture = Picture((6, 3))
    line: Any = picture.line(picture.panels()[0], series(values), "main")
    drawn = line.get_ydata()
    assert len(drawn) <= 1_002
    assert (drawn[0], drawn[-1]) == (values[0], values[-1])
    assert (drawn.min(), drawn.max()) == (values.min(), values.max())
    assert (np.diff(line.get_xdata()) > 0).all()


def test_short_line_is_not_thinned() -> None:
    """Up to a thousand points are all drawn."""
    values = np.random.default_rng(1).normal(size=1_000)
    picture = Picture((6, 3))
    line: Any = picture.line(picture.panels()[0], series(values), 3)
    assert line.get_ydata().tolist() == values.tolist()


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
        (2e15, "2000T"),
    ],
)
def test_counts_are_short(value: float, text: str) -> None:
    """Small counts are exact, large ones have three digits and a unit."""
    assert Picture.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (0.0351, "35.1 ms"), (0.9999, "1 s"), (1.25, "1.25 s"), (4_001, "4000 s")],
)
def test_durations_have_three_digits_and_a_unit(value: float, text: str) -> None:
    """Below a second they are milliseconds."""
    assert Picture.seconds(value) == text


@pytest.mark.parametrize(
    ("form", "low", "high", "texts"),
    [
        ("count", 0, 100_000, ["0", "20k", "40k", "60k", "80k", "100k"]),
        ("count", 0, 2, ["0", "1", "2"]),
        ("share", 0, 0.1, ["0%", "2%", "4%", "6%", "8%", "10%"]),
        ("number", -0.29, 0.29, ["-0.2", "-0.1", "0", "0.1", "0.2"]),
        ("number", 1e6, 1.5e6, ["1,000,000", "1,100,000", "1,200,000", "1,300,000"]),
    ],
)
def test_ticks_are_short_numbers(form: Any, low: float, high: float, texts: list[str]) -> None:
    """Ticks have no needless digits and no floating-point errors."""
    picture = Picture((6, 3))
    (axes,) = picture.panels()
    axes.set_ylim(low, high)
    picture.number_axis(axes.yaxis, "things", form)
    labels = [text.get_text() for text in axes.get_yticklabels()]
    inside = [
        label for label, at in zip(labels, axes.get_yticks(), strict=True) if low <= at <= high
    ]
    assert inside[: len(texts)] == texts


def test_logarithmic_axis_has_plain_numbers() -> None:
    """Decades are not powers of ten."""
    picture = Picture((6, 3))
    (axes,) = picture.panels()
    picture.log_axis(axes, "x", "seconds", 0.01, 2_000)
    assert axes.get_xlabel() == "seconds, logarithmic"
    assert {"0.01", "1", "1,000"} <= {text.get_text() for text in axes.get_xticklabels()}


def test_ticks_of_seconds_have_their_minute() -> None:
    """A tick has the full time of day if a plot spans seconds."""
    picture = Picture((6, 3))
    (axes,) = picture.panels()
    times = series(range(7)).index.to_numpy()
    picture.time_axis(times)
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert all(label.count(":") >= 1 for label in labels if label)
    assert any(label.count(":") == 2 for label in labels)


def test_texts_of_bars_do_not_overlap_the_legend() -> None:
    """The legend of bars is below the axes, since their texts are on the right."""
    picture = Picture((5, 3))
    (axes,) = picture.panels()
    table = pd.DataFrame({"Succeeded": [0.9, 1.0], "Failed": [0.1, 0.0]})
    picture.bars(axes, table, ("good", "bad"), ["7 of 70 failed (10.0%)", "none of 70 failed"])
    picture.name_axis(axes, ["x" * 300, "b"])
    picture.head("Outcomes", "140 calls")
    figure = picture.finish()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    texts = [text.get_window_extent() for text in axes.texts]
    assert not any(legend.get_window_extent().overlaps(each) for each in texts)
    assert all(each.x1 <= figure.bbox.x1 for each in texts)


def test_long_name_keeps_both_ends() -> None:
    """Names of models differ at their ends, so the middle is cut."""
    name = printable("organisation/" + "x" * 200 + "-instruct-v2")
    assert len(name) == 32
    assert name.startswith("organisation/")
    assert name.endswith("-instruct-v2")


def test_unprintable_characters_are_replaced() -> None:
    """A line feed becomes a space; a character without a glyph, or of text direction, its number."""
    assert printable("a\nb") == "a b"
    assert printable("x\ud800y\x00") == "x\\ud800y\\u0"
    assert printable("gpt\u202e4") == "gpt\\u202e4"
    assert printable("Модель $x_1$") == "Модель $x_1$"
    assert printable("") == "(empty)"


def test_equal_looking_names_are_numbered() -> None:
    """Two names stay distinct."""
    assert printable_all(["a\nb", "a b", "c"]) == ["a b (1)", "a b (2)", "c"]
