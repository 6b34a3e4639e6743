"""The figures of a benchmark, the table of ratios, and the aims."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Aim",
    "Row",
    "at_most",
    "figure_of",
    "formatted",
    "markdown_of",
    "ours_to",
    "print_aims",
    "print_table",
]

_UNITS = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "/s": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
}


class Row(NamedTuple):
    """One figure.

    Attributes:
        group: What was measured; the rows of a group are compared.
        subject: The subject; the others of a group are compared with the first.
        figure: The figure, such as the minimum time of several runs.
        unit: ``s``, ``B`` (bytes), ``/s`` or ``count``.
        ratio: The ratio to the first; None computes it from the figures.
    """

    group: str
    subject: str
    figure: float
    unit: str = "s"
    ratio: float | None = None


class Aim(NamedTuple):
    """An aim of the project.

    Attributes:
        promise: The aim, with its number.
        reached: The figure.
        holds: Whether the aim is reached.
    """

    promise: str
    reached: str
    holds: bool


def figure_of(rows: Iterable[Row], group: str, subject: str) -> float:
    """Return the figure of a row."""
    return next(row.figure for row in rows if (row.group, row.subject) == (group, subject))


def ours_to(rows: Iterable[Row], group: str, subject: str) -> float:
    """Return the ratio of a group's first figure to another."""
    members = [row for row in rows if row.group == group]
    other = next(row for row in members if row.subject == subject)
    return 1 / _ratio(other, members[0].figure)


def at_most(promise: str, figure: float, limit: float, unit: str = "") -> Aim:
    """Return the aim that a figure is not larger than a limit.

    Args:
        promise: The aim.
        figure: The figure.
        limit: The limit, in the same unit.
        unit: As in :class:`Row`; empty for a plain number.
    """
    return Aim(promise, formatted(figure, unit), figure <= limit)


def print_table(rows: Iterable[Row]) -> None:
    """Print each group, with ratios to its first figure."""
    for group, members in groupby(rows, key=lambda row: row.group):
        print(f"\n{group}")
        first: float | None = None
        for row in members:
            first = first or row.figure
            text = formatted(row.figure, row.unit)
            print(f"  {row.subject:<52}{text:>12}{_ratio(row, first):>9.2f}x", flush=True)


def print_aims(aims: Iterable[Aim]) -> None:
    """Print each aim, the figure, and whether it is reached."""
    print("\nAims")
    for aim in aims:
        print(f"  {aim.promise:<76}{aim.reached:>10}  {'reached' if aim.holds else 'NOT reached'}")


def markdown_of(rows: Iterable[Row], aims: Iterable[Aim]) -> str:
    """Return a table of all groups, and one of the aims, as Markdown."""
    lines = ["| | | | to the first |", "| --- | --- | ---: | ---: |"]
    for group, members in groupby(rows, key=lambda row: row.group):
        first: float | None = None
        for row in members:
            title = group if first is None else ""
            first = first or row.figure
            cells = (
                title,
                row.subject,
                formatted(row.figure, row.unit),
                f"{_ratio(row, first):.2f}x",
            )
            lines.append(f"| {' | '.join(cells)} |")
    judged = [
        f"| {each.promise} | {each.reached} | {'yes' if each.holds else 'no'} |" for each in aims
    ]
    if judged:
        lines += ["", "| aim | | reached |", "| --- | ---: | --- |", *judged]
    return "\n".join(lines)


def _ratio(row: Row, first: float) -> float:
    if row.ratio is not None:
        return row.ratio
    return row.figure / first if first else 1.0


def formatted(figure: float, unit: str) -> str:
    """Return a figure as text, in a unit of :class:`Row`."""
    if unit == "count":
        return f"{figure:,.0f}"
    if unit not in _UNITS:
        return f"{figure:.3g}"
    units = _UNITS[unit]
    scale, name = next((pair for pair in units if figure >= pair[0]), units[-1])
    return f"{figure / scale:.3g} {name}"
