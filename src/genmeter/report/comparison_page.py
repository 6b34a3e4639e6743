"""Runs side by side as one page to pass around."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.report import _page_plots as plots
from genmeter.report._page_parts import figures, items, listed, paragraph, section, shown, table
from genmeter.report._page_style import document
from genmeter.report.comparison_formats import (
    LEGEND,
    block_name,
    difference_text,
    value_text,
)
from genmeter.report.distribution import Distribution
from genmeter.report.formats import headline
from genmeter.report.page import footer, missing_parts, run_notes
from genmeter.tables.html import Column
from genmeter.tables.markup import Markup, element

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from genmeter.files.page_plots import PagePlots
    from genmeter.report.comparison import Block, Comparison, Line, Run

__all__ = ["comparison_page"]

_MAX_BLOCKS = 100
_MAX_SCORES = 8


def comparison_page(comparison: Comparison, *, at: datetime | None = None) -> str:
    """Return a page.

    Args:
        comparison: The runs.
        at: When it is written; None is now.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from genmeter.files.page_plots import PagePlots

    draw = PagePlots()
    runs = comparison.runs
    *blocks, total = comparison.blocks()
    kept = blocks[:_MAX_BLOCKS]
    more = len(blocks) - len(kept)
    title = f"Comparison of {len(runs):,} runs"
    parts = [
        element("h1", title),
        paragraph(f"Differences are against {runs[0].name}.", "quiet"),
        _legend(runs),
        section("In total", _block(comparison, total), paragraph(LEGEND, "quiet")),
        section("What is partial or unknown", *(_notes(run) for run in runs)),
        section("Durations and scores", _drawn(runs, draw)),
        section(f"By {', '.join(comparison.by)}", *(_part(comparison, each) for each in kept)),
        paragraph(f"{more:,} more groups are not shown.", "quiet") if more > 0 else Markup(),
        footer(at),
    ]
    return document(title, element("main", *parts))


def _legend(runs: Sequence[Run]) -> Markup:
    terms = [
        part
        for run in runs
        for part in (
            element("dt", element("b", run.name)),
            element("dd", f"{listed(run.sources)}: {headline(run.table)}"),
        )
    ]
    return element("dl", *terms)


def _part(comparison: Comparison, block: Block) -> Markup:
    heading = element("h3", shown(block_name(block, comparison.by)))
    return element("div", heading, _block(comparison, block), class_="part")


def _block(comparison: Comparison, block: Block) -> Markup:
    runs = comparison.runs
    columns = [
        Column("", [line.name for line in block.lines], is_name=True),
        Column(runs[0].name, [value_text(line.values[0], line.kind) for line in block.lines]),
    ]
    for at in range(1, len(runs)):
        name = runs[at].name
        cells = [value_text(line.values[at], line.kind) for line in block.lines]
        columns.append(Column(name, cells))
        differences = [_difference(line, at) for line in block.lines]
        columns.append(Column(f"{name} - {runs[0].name}", differences))
    return table(columns)


def _difference(line: Line, run: int) -> Markup:
    difference = line.difference(run)
    colours = {"better": "good", "worse": "bad"}
    class_ = None if difference is None else colours.get(difference.verdict)
    return element("span", difference_text(line, run), class_=class_)


def _notes(run: Run) -> Markup:
    notes = [
        *run_notes(run),
        *missing_parts(run.details, "first chunks", "scores"),
    ]
    if not notes:
        return paragraph(f"{run.name}: nothing is known to be missing.")
    state = (
        ""
        if run.table.is_complete and not run.table.is_repeated
        else ": the numbers are partial, or counted twice"
    )
    return element("div", element("b", f"{run.name}{state}"), items(notes), class_="notes")


def _drawn(runs: Sequence[Run], draw: PagePlots) -> Markup:
    durations = {run.name: run.table.total().distribution() for run in runs}
    chunks = {run.name: Distribution.sum(run.details.first_chunks.values()) for run in runs}
    drawn = [
        plots.distributions(draw, "Duration of calls", durations, is_sorted=False),
        plots.distributions(draw, "Time to the first chunk", chunks, is_sorted=False),
    ]
    names = sorted({name for run in runs for name in run.details.scores})
    for name in names[:_MAX_SCORES]:
        scores = {run.name: run.details.scores[name] for run in runs if name in run.details.scores}
        title = f"Score {shown(name)}"
        drawn.append(plots.distributions(draw, title, scores, "score", is_sorted=False))
    more = len(names) - _MAX_SCORES
    rest = paragraph(f"{more:,} more scores are not drawn.", "quiet") if more > 0 else Markup()
    known = figures(drawn) or paragraph("No durations or scores are in the sources.")
    return Markup(known + rest)
