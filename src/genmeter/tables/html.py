"""A table as HTML, for notebooks: plain, so that it has the colours of the page it is on."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Column", "html_table"]


class Column(NamedTuple):
    """A column of text that is ready to be shown.

    Attributes:
        title: Its head.
        cells: A text for each row.
        total: Of the last row, absent if no column has one.
        is_name: Whether it is at the left, as names are; else at the right.
    """

    title: str
    cells: Sequence[str]
    total: str = ""
    is_name: bool = False


def html_table(columns: Sequence[Column], *, title: str = "", notes: Iterable[str] = ()) -> str:
    """Return a table as a ``div`` without scripts, and without styles of the page.

    Args:
        columns: Equally long.
        title: A line above it.
        notes: A line each below it.
    """
    parts = [f"<p><b>{escape(title)}</b></p>"] if title else []
    if columns:
        head = "".join(_cell("th", each.title, each) for each in columns)
        rows = zip(*(each.cells for each in columns), strict=True)
        body = [
            "".join(_cell("td", text, each) for text, each in zip(row, columns, strict=True))
            for row in rows
        ]
        parts.append(f"<table><thead><tr>{head}</tr></thead>")
        parts.append("<tbody>" + "\n".join(f"<tr>{row}</tr>" for row in body) + "</tbody>")
        if any(each.total for each in columns):
            total = "".join(_cell("th", each.total, each) for each in columns)
            parts.append(f"<tfoot><tr>{total}</tr></tfoot>")
        parts.append("</table>")
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    return "\n".join(["<div>", *parts, "</div>"])


def _cell(tag: str, text: str, column: Column) -> str:
    side = "left" if column.is_name else "right"
    return f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>'
