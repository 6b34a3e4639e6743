"""What a benchmark measured, the table of ratios that it prints, and the aims it is held to."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Aim", "Row", "at_most", "figure_of", "ours_to", "print_aims", "print_table"]

_UNITS = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "/s": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
}


class Row(NamedTuple):
    """One figure.

    Attributes:
        group: What was measured; the rows of a group stand together and are compared.
        subject: Whose figure it is; the first of a group is what the others are compared with.
        figure: What was measured, such as the least time of several runs.
        unit: ``s``, ``B`` (bytes), ``/s`` or ``count``.
        ratio: How many times the first one's it is; None where that follows from the figures.
    """

    group: str
    subject: str
    figure: float
    unit: str = "s"
    ratio: float | None = None


class Aim(NamedTuple):
    """Something that the project set out to reach.

    Attributes:
        promise: What was to be reached, with its number.
        reached: What was measured.
        holds: Whether that is as good as promised.
    """

    promise: str
    reached: str
    holds: bool


def figure_of(rows: Iterable[Row], group: str, subject: str) -> float:
    """Look up the figure of one row."""
    return next(row.figure for row in rows if (row.group, row.subject) == (group, subject))


def ours_to(rows: Iterable[Row], group: str, subject: str) -> float:
    """Give the ratio of the group's first figure to another one."""
    members = [row for row in rows if row.group == group]
    other = next(row for row in members if row.subject == subject)
    return 1 / _ratio(other, members[0].figure)


def at_most(promise: str, figure: float, limit: float, unit: str = "") -> Aim:
    """Judge a figure that must not be larger than a limit.

    Args:
        promise: What was to be reached.
        figure: What was measured.
        limit: In the same unit.
        unit: As :class:`Row` has it; empty for a plain number.
    """
    return Aim(promise, _spell(figure, unit), figure <= limit)


def print_table(rows: Iterable[Row]) -> None:
    """Print each group, with every figure's ratio to the first one's."""
    for group, members in groupby(rows, key=lambda row: row.group):
        print(f"\n{group}")
        first: float | None = None
        for row in members:
            first = first or row.figure
            spelt = _spell(row.figure, row.unit)
            print(f"  {row.subject:<52}{spelt:>12}{_ratio(row, first):>9.2f}x", flush=True)


def print_aims(aims: Iterable[Aim]) -> None:
    """Print each aim, what was measured, and whether that reaches it."""
    print("\nAims")
    for aim in aims:
        print(f"  {aim.promise:<76}{aim.reached:>10}  {'reached' if aim.holds else 'NOT reached'}")


def _ratio(row: Row, first: float) -> float:
    if row.ratio is not None:
        return row.ratio
    return row.figure / first if first else 1.0


def _spell(figure: float, unit: str) -> str:
    if unit == "count":
        return f"{figure:,.0f}"
    if unit not in _UNITS:
        return f"{figure:.3g}"
    units = _UNITS[unit]
    scale, name = next((pair for pair in units if figure >= pair[0]), units[-1])
    return f"{figure / scale:.3g} {name}"
