"""The report as plain text, aligned, and no wider than the terminal where that is possible."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.report.aggregate import Report, Row
    from genmeter.report.ledger import Outcomes

__all__ = ["to_table"]

_LEAST_NAME = 8  # columns that a name keeps, however narrow the terminal is
_GOOD_NAME = 20  # a single table is no good where names would get less
_FAIR_NAME = 14  # and neither is one of several
_MOST_NAME = 60
_GAP = "  "
_CENT = 0.01  # USD; smaller costs get more digits
_CUT = ".."
_NONE = "-"


class _Column(NamedTuple):
    title: str
    show: Callable[[Row], str]
    is_used: Callable[[Report], bool] = lambda _report: True


def _count(name: str) -> Callable[[Row], str]:
    return lambda row: f"{getattr(row.sums, name):,}"


def _any(name: str) -> Callable[[Report], bool]:
    return lambda report: bool(getattr(report.total.sums, name))


def _has_cost(report: Report) -> bool:
    return report.total.cost is not None or bool(report.unpriced)


_OUTCOMES = (
    _Column("calls", _count("calls")),
    _Column("failed", _count("failures")),
    _Column("success", lambda row: _percent(row.success_share)),
    _Column("mean s", lambda row: _seconds(row.mean)),
    _Column("p50 s", lambda row: _seconds(row.p50)),
    _Column("p95 s", lambda row: _seconds(row.p95)),
)
_USAGE = (
    _Column("prompt", _count("prompt_tokens")),
    _Column("completion", _count("completion_tokens")),
    _Column("total", _count("total_tokens")),
    _Column("USD", lambda row: _usd(row.cost), _has_cost),
    _Column("cache read", _count("cache_read_tokens"), _any("cache_read_tokens")),
    _Column("cache write", _count("cache_write_tokens"), _any("cache_write_tokens")),
    _Column("reasoning", _count("reasoning_tokens"), _any("reasoning_tokens")),
)


def to_table(report: Report, width: int | None) -> str:
    """Give the report as text.

    One table where it fits; else some of outcomes and durations, and some of tokens and cost.
    Names are shortened in their middle where they have to be, numbers never.

    Args:
        report: The report.
        width: Columns of the terminal; None means no limit.
    """
    if report.is_empty():
        return "\n".join([_nothing(report), *report.notes])
    return "\n\n".join(
        [_filled(_headline(report), width), *_tables(report, width), *_paragraph(report, width)]
    )


def _tables(report: Report, width: int | None) -> list[str]:
    usage = [column for column in _USAGE if column.is_used(report)]
    whole = _Layout(report, report.rows, [*_OUTCOMES, *usage])
    if not report.rows:
        return []
    if width is None or whole.least_width(_GOOD_NAME) <= width:
        return [whole.text(width)]
    called = [row for row in report.rows if row.sums.calls]
    spent = [row for row in report.rows if row.sums.total_tokens]
    return [
        _Layout(report, rows, part).text(width)
        for rows, columns in ((called, _OUTCOMES), (spent, usage))
        for part in _parts(report, rows, columns, width)
    ]


def _parts(
    report: Report, rows: Sequence[Row], columns: Sequence[_Column], width: int
) -> list[list[_Column]]:
    """Spread columns over as few tables as have room for them."""
    parts: list[list[_Column]] = [[]]
    for column in columns:
        longer = [*parts[-1], column]
        if parts[-1] and _Layout(report, rows, longer).least_width(_FAIR_NAME) > width:
            parts.append([column])
        else:
            parts[-1] = longer
    return parts


def _nothing(report: Report) -> str:
    if report.window is not None:
        return "Nothing to report: no call in the window."
    return f"Nothing to report: the {report.source} has no call."


def _headline(report: Report) -> str:
    if report.since is None or report.until is None:
        return "Since the job began"
    begin, end = (datetime.fromtimestamp(t).astimezone() for t in (report.since, report.until))
    until = f"{end:%H:%M:%S %z}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S %z}"
    lasting = _lasting(report.until - report.since)
    return f"From {begin:%Y-%m-%d %H:%M:%S} to {until} ({lasting})"


def _lasting(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004 - a minute and a half reads best in seconds
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if hours >= 48:  # noqa: PLR2004 - two days
        return f"{hours // 24:,} d {hours % 24} h"
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def _paragraph(report: Report, width: int | None) -> list[str]:
    lines = []
    if report.conversations.count:
        lines.append(f"Conversations: {_outcomes(report.conversations)}.")
    if report.evaluations.count:
        lines.append(
            f"Evaluations: {_outcomes(report.evaluations)}; not among the calls, but their tokens "
            "are in the table."
        )
    if report.unpriced:
        names = ", ".join(_shown(name, _MOST_NAME) for name in report.unpriced)
        lines.append(f"Without a price, so not in the cost: {names}.")
    if report.is_estimated and report.rows:
        lines.append("p50 and p95 are estimated from the buckets of a histogram.")
    lines += report.notes
    return ["\n".join(_filled(line, width) for line in lines)] if lines else []


def _filled(line: str, width: int | None) -> str:
    return line if width is None else textwrap.fill(line, width, break_on_hyphens=False)


def _outcomes(outcomes: Outcomes) -> str:
    return f"{outcomes.count:,}, {outcomes.failures:,} failed"


class _Layout:
    """One table: its rows with a total, and the columns of numbers beside those of the keys.

    Args:
        report: The report, whose keys and total the table has. A key of which no row says anything
            is left out.
        rows: Which of its rows.
        columns: The columns of numbers.
    """

    def __init__(self, report: Report, rows: Sequence[Row], columns: Sequence[_Column]) -> None:
        keys = [key for key in report.by if any(row.group[key] for row in report.rows)]
        keys = keys or [*report.by[:1]]
        self._names = [
            keys,
            *([row.group[key] or _NONE for key in keys] for row in rows),
            ["total", *[""] * (len(keys) - 1)],
        ]
        self._cells = [
            [column.title for column in columns],
            *([column.show(row) for column in columns] for row in [*rows, report.total]),
        ]
        self._widths = [max(map(len, column)) for column in zip(*self._cells, strict=True)]

    def least_width(self, most_name: int) -> int:
        """Give the columns that it takes where no name takes more than ``most_name``."""
        return self._width([min(most_name, width) for width in self._name_widths()])

    def text(self, width: int | None) -> str:
        """Give it as text, with rules around the body.

        Args:
            width: The columns that it may take; None means no limit.
        """
        most = self._name_widths()
        while width is not None and self._width(most) > width and max(most) > _LEAST_NAME:
            most[most.index(max(most))] -= 1
        lines = [
            _GAP.join(
                [
                    *(
                        _padded(_shown(name, size), size)
                        for name, size in zip(names, most, strict=True)
                    ),
                    *map(str.rjust, cells, self._widths),
                ]
            )
            for names, cells in zip(self._names, self._cells, strict=True)
        ]
        rule = "-" * self._width(most)
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _name_widths(self) -> list[int]:
        columns = zip(*self._names, strict=True)
        return [max(_width(_shown(name, _MOST_NAME)) for name in column) for column in columns]

    def _width(self, name_widths: Sequence[int]) -> int:
        widths = [*name_widths, *self._widths]
        return sum(widths) + len(_GAP) * (len(widths) - 1)


def _shown(name: str, most: int) -> str:
    """Give a name on one line, without its middle where it is too long."""
    name = "".join(char if char.isprintable() else "?" for char in name)
    shown, kept = name, min(len(name), most)
    while _width(shown) > most:
        kept -= 1
        tail = kept // 2
        shown = f"{name[: kept - tail]}{_CUT}{name[len(name) - tail :]}"
    return shown


def _width(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _percent(share: float | None) -> str:
    if share is None:
        return _NONE
    # Rounded down, so that 100 % means all of them.
    return f"{math.floor(round(share * 1_000, 6)) / 10:.1f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.2f}" if value >= 1 else f"{value:.3f}"


def _usd(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.4f}" if value == 0 or value >= _CENT else f"{value:.6f}"
