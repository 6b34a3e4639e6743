"""Numbers and names as a plot shows them.

A name is whatever a caller gave: of any length, in any script, with characters that no font has.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from matplotlib import font_manager

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SANS",
    "UNITS",
    "compact",
    "families",
    "percent",
    "percent_tick",
    "plain",
    "seconds",
    "shown",
    "shown_all",
    "span",
]

UNITS = {
    "s": "seconds",
    "1": "share",
    "{token}": "tokens",
    "{score}": "score",
    "{call}": "calls",
    "{turn}": "turns",
}
"""What a signal's unit is called on an axis."""

SANS = "DejaVu Sans"
"""The font that matplotlib brings along."""
_LONGEST = 32
# For the scripts that it lacks, those that systems come with; only installed ones are asked for.
_FURTHER = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei"),
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Arial Unicode MS"),
)
_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_TIMES = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_EXACT_BELOW = 100_000


@cache
def families() -> tuple[str, ...]:
    """Name the fonts to draw with, in the order in which a character is looked for."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return (SANS, *(name for name in _FURTHER if name in installed))


def compact(value: float, *, beside: float | None = None) -> str:
    """Give a count in few characters: ``98,700``, ``123k``, ``1.2M``, ``3.4B``.

    Args:
        value: The count.
        beside: The largest of those that it stands with, whose unit it takes; None for itself.
    """
    largest = abs(value if beside is None else beside)
    for step, unit in _STEPS if largest >= _EXACT_BELOW else ():
        # What rounds up to 1000 of a unit reads better as 1 of the next.
        if largest >= 0.9995 * step:
            return f"{plain(value / step)}{unit if value else ''}"
    return f"{value:,.0f}"


def plain(value: float) -> str:
    """Give a number in three digits, without an exponent where it can be helped."""
    if abs(value) >= 1e15:  # noqa: PLR2004 - fifteen digits are too many to read
        return f"{value:.3g}"
    if abs(value) >= 1000:  # noqa: PLR2004 - from here on the digits need their comma
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """Give a share in percent; what is not all of it is never ``100%``, nor a little ``0%``."""
    if share in (0, 1):
        return f"{share:.0%}"
    text = f"{share:.1%}"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(text, text)


def percent_tick(share: float) -> str:
    """Give a share as a tick's text."""
    return f"{100 * share:.3g}%"


def seconds(value: float) -> str:
    """Give a duration: ``0 s``, ``35 ms``, ``1.25 s``, ``1,250 s``."""
    if 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    return f"{plain(value)} s"


def span(width: int) -> str:
    """Name a stretch of time, in seconds, as it stands after "per"."""
    length, name = next(unit for unit in _TIMES if width % unit[0] == 0)
    number = width // length
    return name if number == 1 else f"{number} {name}s"


def shown(name: str) -> str:
    """Give a name as it can be drawn: one line, not long, only characters that a font has.

    A long name loses its middle, since names of models differ at their ends; a character that no
    font has is shown by its number, so that two names stay two.
    """
    text = "".join(_drawable(char) for char in name)
    if len(text) <= _LONGEST:
        return text or "(empty)"
    head = _LONGEST // 2
    return f"{text[:head]}…{text[head + 1 - _LONGEST :]}"


def shown_all(names: Sequence[str]) -> list[str]:
    """Give names as :func:`shown`, with a number where two would look the same."""
    texts = [shown(name) for name in names]
    return [
        f"{text} ({texts[:place].count(text) + 1})" if texts.count(text) > 1 else text
        for place, text in enumerate(texts)
    ]


@cache
def _characters() -> frozenset[int]:
    found: set[int] = set()
    for family in families():
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        found.update(font_manager.get_font(path).get_charmap())
    return frozenset(found)


def _drawable(char: str) -> str:
    if char.isprintable() and ord(char) in _characters():
        return char
    return " " if char.isspace() else f"\\u{ord(char):x}"
