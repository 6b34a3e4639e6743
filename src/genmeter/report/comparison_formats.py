"""Formats a comparison of runs as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from genmeter.report.formats import (
    FIELDS,
    all_notes,
    draw_tables,
    headline,
    printable,
    records,
    seconds,
    to_record,
    usd,
)
from genmeter.tables.html import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.report.comparison import Block, Comparison, Difference, Kind, Line, Value

__all__ = [
    "LEGEND",
    "block_name",
    "difference_text",
    "to_csv",
    "to_json",
    "to_text",
    "value_text",
]

ABSENT, UNKNOWN, INEXACT = "-", "?", "*"
TOTAL = "total"
LEGEND = (
    f"{UNKNOWN} is unknown, {INEXACT} partial or estimated, {ABSENT} absent: the run has none. "
    "Better and worse are said of cost, failures and durations, where both numbers are exact; "
    "no difference is tested for chance."
)


def value_text(value: Value, kind: Kind) -> str:
    """Return a number as it is shown."""
    if value.is_absent:
        return ABSENT
    if value.number is None:
        return UNKNOWN
    return f"{_number(value.number, kind)}{'' if value.is_exact else INEXACT}"


def difference_text(line: Line, run: int) -> str:
    """Return how a run differs from the first, with its direction where that is known."""
    difference = line.difference(run)
    if difference is None:
        is_absent = line.values[0].is_absent or line.values[run].is_absent
        return ABSENT if is_absent else UNKNOWN
    verdict = f" {difference.verdict}" if difference.verdict else ""
    return f"{_amount(difference, line.kind)}{verdict}"


def block_name(block: Block, by: Sequence[str]) -> str:
    """Return the name of a group."""
    if block.group is None:
        return TOTAL
    values = zip(by, block.group, strict=True)
    return ", ".join(printable(value) if value else f"no {key}" for key, value in values)


def to_text(comparison: Comparison, width: int | None = None, *, is_terminal: bool = False) -> str:
    """Return the runs side by side as text.

    Args:
        comparison: The runs.
        width: Columns of the terminal; None means no limit.
        is_terminal: Emphasise headings by escape codes.
    """
    runs, by = comparison.runs, comparison.by
    names, measures = [], []
    values: list[list[str]] = [[] for _ in runs]
    differences: list[list[str]] = [[] for _ in runs]
    ends = set()
    for block in comparison.blocks():
        for place, line in enumerate(block.lines):
            names.append("" if place else block_name(block, by))
            measures.append(printable(line.name))
            for run, value in enumerate(line.values):
                values[run].append(value_text(value, line.kind))
                differences[run].append(difference_text(line, run) if run else "")
        ends.add(len(names) - 1)
    units = [[Column(runs[0].name, values[0])]]
    for at, other in enumerate(runs[1:], 1):
        difference = Column(f"{other.name} - {runs[0].name}", differences[at])
        units.append([Column(other.name, values[at]), difference])
    heads = [Column(",".join(by), names, is_name=True), Column("", measures, is_name=True)]
    listed = "\n".join(
        f"{run.name}  {printable(', '.join(run.sources))}: {headline(run.table)}" for run in runs
    )
    notes = [f"{run.name}: {printable(note)}" for run in runs for note in all_notes(run.table)]
    below = "\n".join([*notes, LEGEND])
    return draw_tables([listed, (heads, units, ends), below], width, is_terminal=is_terminal)


def to_json(comparison: Comparison) -> str:
    """Return the runs, and each difference from the first, as JSON."""
    runs, by = comparison.runs, comparison.by
    return json.dumps(
        {
            "runs": [
                {"run": run.name, "sources": list(run.sources), **to_record(run.table, by)}
                for run in runs
            ],
            "baseline": runs[0].name,
            "groups": [
                {
                    "keys": None
                    if block.group is None
                    else dict(zip(by, block.group, strict=True)),
                    "measures": [_measure(line) for line in block.lines],
                }
                for block in comparison.blocks()
            ],
        },
        indent=2,
        ensure_ascii=False,
    )


def to_csv(comparison: Comparison) -> str:
    """Return the groups of each run as CSV, without totals and differences."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["run", *comparison.by, *FIELDS], lineterminator="\n")
    writer.writeheader()
    for run in comparison.runs:
        for record in records(run.table, comparison.by):
            writer.writerow({"run": run.name, **record})
    return text.getvalue().removesuffix("\n")


def _measure(line: Line) -> dict[str, Any]:
    differences = [line.difference(run) for run in range(len(line.values))]
    return {
        "name": line.name,
        "unit": line.kind,
        "values": [value.number for value in line.values],
        "exact": [value.number is not None and value.is_exact for value in line.values],
        "differences": [
            None
            if difference is None or not run
            else {
                "amount": difference.amount,
                "ratio": difference.ratio,
                "direction": difference.verdict or None,
            }
            for run, difference in enumerate(differences)
        ],
    }


def _number(number: float, kind: Kind) -> str:
    if kind == "count":
        return f"{number:,.0f}"
    if kind == "share":
        return f"{number:.1%}".replace("%", " %")
    if kind == "usd":
        return usd(number)
    return seconds(number) if kind == "seconds" else f"{number:,.4g}"


def _amount(difference: Difference, kind: Kind) -> str:
    amount, ratio = difference.amount, difference.ratio
    if not amount:
        return "0"
    sign = "+" if amount > 0 else "-"
    if kind == "share":
        return f"{sign}{100 * abs(amount):.1f} points"
    part = "" if ratio is None else f" ({100 * ratio:+,.1f} %)"
    return f"{sign}{_number(abs(amount), kind)}{part}"
