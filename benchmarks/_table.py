"""What a benchmark measured, and the table of ratios that it prints."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Row", "print_table"]

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


class Row(NamedTuple):
    """One figure.

    Attributes:
        group: What was measured; the rows of a group stand together and are compared.
        subject: Whose figure it is; the first of a group is what the others are compared with.
        seconds: The least time of several runs.
    """

    group: str
    subject: str
    seconds: float


def print_table(rows: Iterable[Row]) -> None:
    """Print each group, with every figure's ratio to the first one's."""
    for group, members in groupby(rows, key=lambda row: row.group):
        print(f"\n{group}")
        first: float | None = None
        for row in members:
            first = first or row.seconds
            print(f"  {row.subject:<52}{_spell(row.seconds):>12}{row.seconds / first:>9.2f}x")


def _spell(seconds: float) -> str:
    scale, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"
