"""Plots within a page: SVG that loads nothing, in colours that the page names."""

from __future__ import annotations

import math
import re
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from _written_pages import read
from genmeter.errors import MissingExtraError
from genmeter.files import page_plots
from genmeter.files.page_plots import COLOUR_PREFIX, Drawing, PagePlots
from genmeter.report._page_style import document
from genmeter.tables.markup import Markup

HOSTILE = '</svg><script>alert(1)</script>--><b a="\x00'
BUCKETS = {0.1: 0, 0.5: 4, 1.0: 10, math.inf: 12}


@pytest.fixture
def draw() -> PagePlots:
    """The plots of one page."""
    return PagePlots()


def all_of(draw: PagePlots, name: str = "a") -> list[Drawing]:
    """Draw one of each kind."""
    histogram = draw.histogram("Times", "seconds", [0.2, 3.0], {}, {"median": 1.0})
    assert histogram is not None
    return [
        draw.over_time("Calls", "calls", {name: ([0.0, 5.0], [1.0, 1.0]), "b": ([9.0], [2.0])}),
        draw.bars(
            "Tokens",
            "tokens",
            [name],
            {"prompt": [3], "completion": [4]},
            ["main", "second"],
            ["7"],
        ),
        draw.boxes("Durations", "seconds", [name], [[0.1, 0.2, 0.3, 0.4, 90.0]], ["300 ms"]),
        histogram,
    ]


def test_a_plot_is_an_element_that_loads_nothing(draw: PagePlots) -> None:
    """All of one page together have unique ids, and each says what it shows."""
    drawn = all_of(draw)
    page = read(document("Plots", Markup("".join(each.svg for each in drawn))))
    assert page.titles() == ["Calls", "Tokens", "Durations", "Times"]
    assert "://" not in page.text
    assert 'width="' not in drawn[0].svg.split(">")[0]
    for each in drawn:
        ET.fromstring(each.svg)  # noqa: S314 - our own; well-formed, so that nothing leaks out


def test_equal_numbers_are_equal_plots() -> None:
    """A page can be compared with the one before."""
    first, second = ([each.svg for each in all_of(PagePlots())] for _ in range(2))
    assert first == second


def test_no_name_becomes_markup(draw: PagePlots) -> None:
    """Names within a plot are shapes; the legend is the page's."""
    for each in all_of(draw, HOSTILE):
        assert "script" not in each.svg
        assert "alert" not in each.svg
    label = draw.bars(HOSTILE, "calls", ["a"], {"a": [1]}, ["bad"], ["1"])
    assert "<script" not in label.svg
    assert draw.over_time("a", "calls", {HOSTILE: ([0], [1]), "b": ([0], [1])}).legend[0] == (
        HOSTILE,
        f"{COLOUR_PREFIX}group-0",
    )


def test_each_colour_is_one_of_the_page(draw: PagePlots) -> None:
    """So that the dark page has other ones; no colour is left as a number."""
    parts = {str(n): ([float(n)], [1.0]) for n in range(12)}
    drawn = [*all_of(draw), draw.over_time("Many", "tokens", parts)]
    style = document("", "")
    for each in drawn:
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", each.svg)
        used = set(re.findall(r"var\((--[\w-]+)\)", each.svg)) | {name for _, name in each.legend}
        assert used
        for name in used:
            assert style.count(f"{name}:") == 2, name  # light and dark


def test_of_many_groups_the_smaller_ones_are_one(draw: PagePlots) -> None:
    """Each colour is that of one group; of one group there is no legend."""
    parts = {f"m{n}": ([0.0, 60.0], [float(n), 1.0]) for n in range(12)}
    names = [name for name, _ in draw.over_time("Tokens", "tokens", parts).legend]
    assert names == [*(f"m{n}" for n in range(11, 3, -1)), "4 others"]
    assert len(draw.over_time("Tokens", "tokens", dict([*parts.items()][:9])).legend) == 9
    assert draw.over_time("Tokens", "tokens", {"a": ([0.0], [1.0])}).legend == ()


def test_of_many_rows_the_smaller_ones_are_not_shown(draw: PagePlots) -> None:
    """The caption says so."""
    names = [f"m{n}" for n in range(15)]
    bars = draw.bars("Tokens", "tokens", names, {"prompt": [1.0] * 15}, ["main"], names)
    assert bars.note == "3 smaller ones are not shown"
    boxes = draw.boxes("Scores", "score", names, [[0.0, 0.1, 0.2, 0.3, 0.4]] * 15, names)
    assert boxes.note.endswith("; 3 smaller ones are not shown")


def test_a_meaning_has_its_colour(draw: PagePlots) -> None:
    """Failed calls are drawn in the colour of failure."""
    parts = {"succeeded": ([0.0], [1.0]), "failed": ([1.0], [1.0])}
    drawn = draw.over_time("Calls", "calls", parts, ["good", "bad"])
    assert [name for _, name in drawn.legend] == ["--plot-good", "--plot-bad"]
    assert "var(--plot-bad)" in drawn.svg


def test_a_histogram_of_buckets_says_what_is_beyond_the_last() -> None:
    """Values are counted into the same buckets."""
    edges, counts, beyond = page_plots._counts(np.array([0.4, 0.7, 9.0]), BUCKETS)
    assert (edges.tolist(), counts.tolist(), beyond) == ([0.1, 0.5, 1.0], [5, 7], 3)
    drawn = PagePlots().histogram("Times", "seconds", [], BUCKETS, {"median": 0.6, "p95": 40.0})
    assert drawn is not None
    assert drawn.note == "2 beyond the last bucket are not shown"


@pytest.mark.parametrize(
    ("buckets", "edges", "counts"),
    [
        ({0.0: 1, 0.5: 2, math.inf: 2}, [0.0, 0.5], [2]),
        ({0.01: 1, 1.0: 2, math.inf: 2}, [0.005, 0.01, 1.0], [1, 1]),
        ({0.5: 4, 1.0: 3, math.inf: 4}, [0.0, 0.5], [4]),  # read while it changed
    ],
)
def test_buckets_become_edges(
    buckets: dict[float, int], edges: list[float], counts: list[float]
) -> None:
    """From 0, or from half of the first bound if the axis is logarithmic."""
    found = page_plots._counts(np.empty(0), buckets)
    assert (found[0].tolist(), found[1].tolist()) == (edges, counts)
    assert PagePlots().histogram("Times", "seconds", [], buckets, {}) is not None


@pytest.mark.parametrize("buckets", [{math.inf: 3}, {1.0: 0, math.inf: 3}])
def test_a_histogram_without_finite_bounds_is_not_drawn(
    draw: PagePlots, buckets: dict[float, int]
) -> None:
    """Nothing is known of its values."""
    assert draw.histogram("Times", "seconds", [], buckets, {}) is None


@pytest.mark.parametrize(
    "values", [[0.0], [0.0, 0.0], [1.5, 1.5], [0.0, 20.0], [1e-9, 1e-8], [5.0, 1e12, 1e15]]
)
def test_any_values_can_be_drawn(draw: PagePlots, values: list[float]) -> None:
    """Equal ones, 0, and some that are not real."""
    drawn = draw.histogram("Times", "seconds", values, {}, {"median": values[0]})
    assert drawn is not None
    five = [values[0]] * 4 + [values[-1]]
    for unit in ("seconds", "score"):
        assert draw.boxes("Times", unit, ["a"], [five], ["a"]).svg
    assert draw.over_time("Times", "calls", {"a": (values, values)}).svg
    assert draw.over_time("Times", "calls", {"a": ([-1e11, 1e13], [1.0, 1.0])}).svg


def test_the_style_of_the_caller_does_not_matter(draw: PagePlots) -> None:
    """Nor does it change."""
    plain = [each.svg for each in all_of(PagePlots())]
    with mpl.rc_context({"axes.facecolor": "black", "text.color": "red", "lines.linewidth": 9}):
        styled = [each.svg for each in all_of(draw)]
    assert styled == plain


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is the pip command."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"genmeter\[plots\]"):
        PagePlots()
