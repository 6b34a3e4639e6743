"""Reads pages: their texts, tables and figures, and what they would load or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["Page", "assert_self_contained", "read"]

_VOID = {"meta", "wbr"}
_LOADING = {"src", "srcset", "action", "data", "poster", "background", "formaction", "ping"}
_KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "div", "h1", "h2", "h3"),
    *(
        "p",
        "b",
        "i",
        "small",
        "wbr",
        "span",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "footer",
        "figure",
        "figcaption",
    ),
    *("table", "thead", "tbody", "tfoot", "tr", "th", "td"),
    *("svg", "g", "defs", "path", "use", "rect", "clippath"),
}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        elements: Each element's name and attributes, in order.
        sections: The text of each section by its heading, the rest by "".
        tables: The cells of each table, row by row.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self._heading = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "h2":
            self._heading = ""
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close an element, which must be the last opened one."""
        assert self._open.pop() == tag
        if tag == "h2":
            self.sections[self._heading] = ""
        elif tag == "section":
            self._heading = ""

    def handle_data(self, data: str) -> None:
        """Take text."""
        if self._open[-1:] == ["h2"]:
            self._heading += data
        elif "style" not in self._open:
            self.sections[self._heading] = self.sections.get(self._heading, "") + f"{data} "
            if self._open and self._open[-1] in ("td", "th", "span") and "table" in self._open:
                self.tables[-1][-1][-1] += data

    def count(self, tag: str) -> int:
        """Return the number of elements of a name."""
        return sum(each == tag for each, _ in self.elements)

    def titles(self) -> list[str]:
        """Return the labels of the plots."""
        return [str(attrs["aria-label"]) for tag, attrs in self.elements if tag == "svg"]


def read(text: str) -> Page:
    """Parse a page, which must be self-contained."""
    page = Page(text)
    assert_self_contained(page)
    return page


def assert_self_contained(page: Page) -> None:
    """Check that a page neither loads nor runs anything, and that its ids are unique."""
    ids = []
    for tag, attributes in page.elements:
        assert tag in _KNOWN, tag
        for name, value in attributes.items():
            assert name not in _LOADING, (tag, name)
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href"):
                assert value is not None
                assert value.startswith("#"), (tag, value)
            if name == "id":
                ids.append(value)
            assert not re.search(r"url\((?!#)|expression|javascript:", value or ""), (tag, value)
    assert len(set(ids)) == len(ids)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles
    assert "<!--" not in page.text
    assert "default-src 'none'" in page.text.replace("&#x27;", "'")
