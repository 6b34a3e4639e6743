"""HTML that is escaped by construction: what is not markup already becomes text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Markup", "element", "escaped", "join"]

_VOID = frozenset({"meta", "wbr"})


class Markup(str):
    """Text that is HTML. Only :func:`element`, :func:`join` and constants of the code make it."""

    __slots__ = ()

    @classmethod
    def of(cls, content: str | None) -> Self:
        """Return content as HTML: markup as it is, other text escaped, its control characters ``?``."""
        if content is None:
            return cls()
        return content if isinstance(content, cls) else cls(escaped(content))


def element(_name: str, *content: str | None, **attributes: str | None) -> Markup:
    """Return an element.

    Args:
        content: Markup, or text, which is escaped; None is nothing.
        attributes: Text, which is escaped; None leaves one out. Of ``class_`` and ``data_label`` the
            names are ``class`` and ``data-label``.
    """
    shown = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if _name in _VOID:
        return Markup(f"<{_name}{shown}>")
    return Markup(f"<{_name}{shown}>{join(content)}</{_name}>")


def join(content: Iterable[str | None], between: str = "") -> Markup:
    """Return pieces of content, one after the other."""
    return Markup(Markup.of(between).join(map(Markup.of, content)))


def escaped(text: str) -> str:
    """Return text as HTML, its control characters as ``?``."""
    return escape("".join(char if char.isprintable() or char == "\n" else "?" for char in text))
