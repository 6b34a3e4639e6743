"""Parts that the pages of a report share: tables, figures, cards, and names that are safe to show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from genmeter.tables.markup import Markup, element, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from genmeter.files.page_plots import Drawing
    from genmeter.tables.html import Column

__all__ = ["card", "figure", "figures", "items", "listed", "paragraph", "section", "shown", "table"]

_MAX_TEXT = 160  # characters of a name
_AFTER_SIGN = re.compile(r"(?<=[_/.:-])")  # where a name may wrap
_WRAP = element("wbr")


def shown(text: str) -> str:
    """Return a name; a very long one without its middle."""
    half = _MAX_TEXT // 2
    return text if len(text) <= _MAX_TEXT else f"{text[:half]}…{text[half + 1 - _MAX_TEXT :]}"


def section(title: str, *content: str | None) -> Markup:
    """Return a part of a page with a heading."""
    return element("section", element("h2", title), *content)


def paragraph(text: str, class_: str | None = None) -> Markup:
    """Return a paragraph."""
    return element("p", text, class_=class_)


def items(texts: Iterable[str], class_: str | None = None) -> Markup:
    """Return a list; nothing without texts."""
    entries = [element("li", text) for text in texts]
    return element("ul", *entries, class_=class_) if entries else Markup()


def card(name: str, value: str, note: str = "") -> Markup:
    """Return a large number with its name."""
    return element("div", name, element("b", value), element("small", note), class_="card")


def table(columns: Sequence[Column]) -> Markup:
    """Return a table whose rows are lists on a narrow screen."""
    head = element("tr", *(_cell("th", each.title, each, label=False) for each in columns))
    rows = [
        element("tr", *(_cell("td", text, each) for text, each in zip(row, columns, strict=True)))
        for row in zip(*(each.cells for each in columns), strict=True)
    ]
    foot = Markup()
    if any(each.total for each in columns):
        total = element("tr", *(_cell("th", each.total, each) for each in columns))
        foot = element("tfoot", total)
    parts = (element("thead", head), element("tbody", join(rows, "\n")), foot)
    return element("div", element("table", *parts), class_="scroll")


def figures(drawn: Iterable[Markup | None]) -> Markup:
    """Return figures beside each other; nothing without any."""
    known = [each for each in drawn if each is not None]
    return element("div", *known, class_="plots") if known else Markup()


def figure(title: str, drawing: Drawing | None, note: str = "") -> Markup | None:
    """Return a plot with its caption and legend; None without a plot."""
    if drawing is None:
        return None
    texts = "; ".join(text for text in (note, drawing.note) if text)
    caption = element("figcaption", element("b", title), texts)
    legend = [
        element("li", element("i", style=f"background:var({colour})"), shown(name))
        for name, colour in drawing.legend
    ]
    below = element("ul", *legend, class_="legend") if legend else None
    return element("figure", caption, Markup(drawing.svg), below)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names as a list in a sentence; the number of those beyond some."""
    names = list(names)
    more = len(names) - most
    return f"{', '.join(map(shown, names[:most]))}{f' and {more:,} more' if more > 0 else ''}"


def _cell(tag: str, text: str, column: Column, *, label: bool = True) -> Markup:
    content: str = text
    if not isinstance(text, Markup):
        content = shown(text)
        if column.is_name:
            content = join(_AFTER_SIGN.split(content), _WRAP)
    return element(
        tag,
        content,
        class_="name" if column.is_name else None,
        data_label=column.title if label else None,
    )
