"""Formats a usage table as text, HTML, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from genmeter.history.token_report import unsplit_notes
from genmeter.tables.html import Column, html_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from rich.table import Table

    from genmeter.report.usage_table import Outcomes, UsageRow, UsageTable

__all__ = [
    "FIELDS",
    "all_notes",
    "draw_tables",
    "headline",
    "iso_time",
    "nothing_text",
    "numbers",
    "percent",
    "printable",
    "reader_notes",
    "records",
    "seconds",
    "table_columns",
    "to_csv",
    "to_html",
    "to_json",
    "to_record",
    "to_table",
    "usd",
]

FIELDS = {
    "calls": "calls, also failed and cancelled ones; no evaluations",
    "failures": "calls that failed",
    "success_share": "0 to 1, without cancelled calls",
    "prompt_tokens": "input, cached tokens included",
    "completion_tokens": "output, reasoning included",
    "total_tokens": "as reported by the provider",
    "cache_read_tokens": "part of the prompt tokens",
    "cache_write_tokens": "part of the prompt tokens",
    "reasoning_tokens": "part of the completion tokens",
    "cost_usd": "of the calls that have a price",
    "duration_mean_seconds": "of calls",
    "duration_p50_seconds": "of calls",
    "duration_p95_seconds": "of calls",
    "cancelled": "calls that were cancelled, no failures",
    "calls_without_usage": "calls whose tokens are unknown, and missing",
}
"""The fields of a row after its keys, with their help; empty means unknown."""


# --- for programs ------------------------------------------------------------------------------


def to_json(table: UsageTable, by: Sequence[str]) -> str:
    """Return a table as JSON, with rows grouped by some keys."""
    return json.dumps(to_record(table, by), indent=2, ensure_ascii=False)


def to_record(table: UsageTable, by: Sequence[str]) -> dict[str, Any]:
    """Return a table as plain data, with rows grouped by some keys."""
    return {
        "source": table.source,
        "complete": table.is_complete and not table.is_repeated,
        "unread_sources": table.unread,
        "since": iso_time(table.since),
        "until": iso_time(table.until),
        "window_seconds": None if table.window is None else table.window.total_seconds(),
        "quantiles": "estimated" if table.is_estimated else "exact",
        "rows": records(table, by),
        "total": numbers(table.total()),
        "conversations": _counts(table.conversations),
        "evaluations": _counts(table.evaluations),
        "unpriced_models": sorted(table.unpriced),
        "estimated_models": sorted(table.estimated),
        "skipped": table.skipped,
        "notes": table.notes,
    }


def to_csv(table: UsageTable, by: Sequence[str]) -> str:
    """Return a table as CSV, with rows grouped by some keys and without a total."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*by, *FIELDS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(table, by))
    return text.getvalue().removesuffix("\n")


def records(table: UsageTable, by: Sequence[str]) -> list[dict[str, Any]]:
    """Return the groups of a table: the values of the keys, then :data:`FIELDS`."""
    return [
        {**dict(zip(by, group, strict=True)), **numbers(row)}
        for group, row in table.group(by).items()
    ]


def numbers(row: UsageRow) -> dict[str, int | float | None]:
    """Return the numbers of a row, by :data:`FIELDS`; None is unknown."""
    values = (
        *(row.calls, row.failures, row.success_share()),
        *(row.prompt_tokens, row.completion_tokens, row.total_tokens),
        *(row.cache_read_tokens, row.cache_write_tokens, row.reasoning_tokens),
        *(row.cost, row.mean(), row.quantile(0.5), row.quantile(0.95)),
        *(row.cancelled, row.calls_without_usage),
    )
    return dict(zip(FIELDS, values, strict=True))


def _counts(outcomes: Outcomes) -> dict[str, int]:
    return {"count": outcomes.count, "failures": outcomes.failures}


def iso_time(when: float | None) -> str | None:
    """Return a Unix time in ISO 8601, in UTC; None if it is unknown."""
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat()


# --- for readers -------------------------------------------------------------------------------

_UNLIMITED = 10_000  # columns
# Columns of a name: at least, before numbers move to another table, and in a single table.
_MIN_NAME, _SPLIT_NAME, _SINGLE_NAME = 8, 14, 20
_GAP = 2
# A line of spaces or dashes for each part of a table, in rich's format.
_RULED = "    \n    \n -- \n    \n    \n -- \n    \n    \n"
_CENT = 0.01  # USD; smaller costs get more digits
_NONE = "-"


_Show = dict[str, "Callable[[UsageRow], str]"]
_OUTCOMES: _Show = {
    "calls": lambda row: f"{row.calls:,}",
    "failed": lambda row: f"{row.failures:,}",
    "cancelled": lambda row: f"{row.cancelled:,}",
    "success": lambda row: percent(row.success_share()),
    "mean s": lambda row: seconds(row.mean()),
    "p50 s": lambda row: seconds(row.quantile(0.5)),
    "p95 s": lambda row: seconds(row.quantile(0.95)),
}
_USAGE: _Show = {
    "prompt": lambda row: f"{row.prompt_tokens:,}",
    "completion": lambda row: f"{row.completion_tokens:,}",
    "total": lambda row: f"{row.total_tokens:,}",
    "USD": lambda row: usd(row.cost),
    "no usage": lambda row: f"{row.calls_without_usage:,}",
    "cache read": lambda row: f"{row.cache_read_tokens:,}",
    "cache write": lambda row: f"{row.cache_write_tokens:,}",
    "reasoning": lambda row: f"{row.reasoning_tokens:,}",
}
_OPTIONAL = {"USD", "cache read", "cache write", "reasoning", "no usage", "cancelled"}


def _width(column: Column) -> int:
    """Return the width of a column if nothing is folded."""
    from rich.cells import cell_len

    return max(map(cell_len, [column.title, *column.cells, column.total]))


def to_table(
    table: UsageTable, by: Sequence[str], width: int | None = None, *, is_terminal: bool = False
) -> str:
    """Return a table as text.

    If it does not fit the width, it is split into tables of outcomes and tables of tokens. Long
    names are folded, numbers are never cut.

    Args:
        table: The table.
        by: The keys to group by.
        width: Columns of the terminal; None means no limit.
        is_terminal: Emphasise headings by escape codes.
    """
    if table.is_empty():
        blocks: list[Any] = ["\n".join(map(printable, [nothing_text(table), *table.notes]))]
    else:
        notes = "\n".join(map(printable, reader_notes(table)))
        tables = _tables(table, by, width or _UNLIMITED)
        blocks = [headline(table), *tables, *([notes] if notes else [])]
    return _printed(blocks, width or _UNLIMITED, is_terminal=is_terminal)


def draw_tables(
    blocks: Sequence[str | tuple[Sequence[Column], Sequence[Sequence[Column]], Collection[int]]],
    width: int | None = None,
    *,
    is_terminal: bool = False,
) -> str:
    """Return texts and tables below each other as text.

    Args:
        blocks: Texts; and for a table the columns of its names, those of its numbers, and the rows
            after which a part of it ends. One that does not fit the width is split, but columns that
            belong together are not.
        width: Columns of the terminal; None means no limit.
        is_terminal: Emphasise headings by escape codes.
    """
    width = width or _UNLIMITED
    drawn: list[Any] = []
    for block in blocks:
        if isinstance(block, str):
            drawn.append(block)
            continue
        names, units, ends = block
        rows = range(len(names[0].cells))
        drawn += [_draw(names, part, rows, ends) for part in _split(names, units, width)]
    return _printed(drawn, width, is_terminal=is_terminal)


def _printed(blocks: Sequence[Any], width: int, *, is_terminal: bool) -> str:
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=is_terminal,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for number, block in enumerate(blocks):
        console.width = width if isinstance(block, str) else max(width, _min_width(block))
        if number:
            console.line()
        console.print(block)
    return "\n".join(map(str.rstrip, text.getvalue().splitlines()))


def _tables(table: UsageTable, by: Sequence[str], width: int) -> list[Table]:
    groups = table.group(by)
    if not groups:
        return []
    rows = list(groups.values())
    names, outcomes, usage = table_columns(table, by, groups)
    if _fits(names, [*outcomes, *usage], width, _SINGLE_NAME):
        return [_draw(names, [*outcomes, *usage], range(len(rows)))]
    called = [at for at, row in enumerate(rows) if row.calls]
    spent = [at for at, row in enumerate(rows) if row.total_tokens or row.calls_without_usage]
    return [
        *(
            _draw(names, part, called)
            for part in _split(names, [[each] for each in outcomes], width)
        ),
        *(_draw(names, part, spent) for part in _split(names, [[each] for each in usage], width)),
    ]


def table_columns(
    table: UsageTable, by: Sequence[str], groups: Mapping[tuple[str | None, ...], UsageRow]
) -> tuple[list[Column], list[Column], list[Column]]:
    """Return the columns of the names, of the outcomes and of the usage."""
    rows, total = list(groups.values()), table.total()
    outcomes, usage = (
        [Column(title, list(map(show, rows)), show(total)) for title, show in columns.items()]
        for columns in (_OUTCOMES, _USAGE)
    )
    kept = _USAGE.keys() - _OPTIONAL | ({"USD"} if table.unpriced else set())
    usage = [each for each in usage if each.title in kept or each.total not in {"0", _NONE}]
    outcomes = [each for each in outcomes if each.title != "cancelled" or each.total != "0"]
    return _name_columns(by, groups), outcomes, usage


def to_html(table: UsageTable, by: Sequence[str]) -> str:
    """Return a table as HTML, for notebooks."""
    groups = table.group(by)
    if not groups:
        return html_table([], notes=[nothing_text(table), *reader_notes(table)])
    names, outcomes, usage = table_columns(table, by, groups)
    return html_table([*names, *outcomes, *usage], title=headline(table), notes=reader_notes(table))


def _name_columns(by: Sequence[str], groups: Iterable[tuple[str | None, ...]]) -> list[Column]:
    """Return a column for each key with any value, at least for the first key."""
    columns = dict(zip(by, zip(*groups, strict=True), strict=True))
    used = [key for key, values in columns.items() if any(values)] or [*by[:1]]
    return [
        Column(
            key,
            [printable(name or _NONE) for name in columns[key]],
            "" if at else "total",
            is_name=True,
        )
        for at, key in enumerate(used)
    ]


def _fits(names: Sequence[Column], numbers: Sequence[Column], width: int, name_width: int) -> bool:
    widths = [min(name_width, _width(column)) for column in names]
    widths += [_width(column) for column in numbers]
    return sum(widths) + _GAP * (len(widths) - 1) <= width


def _split(
    names: Sequence[Column], units: Iterable[Sequence[Column]], width: int
) -> list[list[Column]]:
    """Split columns into as few tables as fit; those of a unit stay together."""
    parts: list[list[Column]] = [[]]
    for unit in units:
        if parts[-1] and not _fits(names, [*parts[-1], *unit], width, _SPLIT_NAME):
            parts.append([])
        parts[-1] += unit
    return parts


def _draw(
    names: Sequence[Column],
    numbers: Sequence[Column],
    rows: Iterable[int],
    ends: Collection[int] = (),
) -> Table:
    from rich.box import Box
    from rich.table import Table

    grid = Table(
        box=Box(_RULED, ascii=True),
        padding=(0, _GAP - 1, 0, 0),  # the box adds one
        pad_edge=False,
        show_edge=False,
        show_footer=any(column.total for column in [*names, *numbers]),
    )
    for name in names:
        min_width = min(_MIN_NAME, _width(name))
        grid.add_column(name.title, name.total, overflow="fold", min_width=min_width)
    for column in numbers:
        width = _width(column)
        grid.add_column(column.title, column.total, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        grid.add_row(*(column.cells[row] for column in [*names, *numbers]), end_section=row in ends)
    return grid


def _min_width(grid: Table) -> int:
    return sum(column.min_width or 0 for column in grid.columns) + _GAP * (len(grid.columns) - 1)


def nothing_text(table: UsageTable) -> str:
    """Return a sentence on a table without rows."""
    if table.window is not None:
        return "Nothing to report: no calls in the window."
    if table.source == "several":
        return "Nothing to report: the sources have no calls."
    return f"Nothing to report: the {table.source} has no calls."


def headline(table: UsageTable) -> str:
    """Return the time that a table covers."""
    if table.since is None or table.until is None:
        return "Since the job began"
    text = _times(table.since, table.until)
    return f"{text}, endpoints since their jobs began" if table.is_estimated else text


def _times(since: float, until: float) -> str:
    begin, end = (datetime.fromtimestamp(t).astimezone() for t in (since, until))
    shown = f"{end:%H:%M:%S %z}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S %z}"
    duration = timedelta(seconds=round(until - since))
    return f"From {begin:%Y-%m-%d %H:%M:%S} to {shown} ({duration})"


def reader_notes(table: UsageTable) -> list[str]:
    """Return the sentences below a table."""
    notes = []
    if table.conversations.count:
        notes.append(f"Conversations: {_outcomes(table.conversations)}.")
    if table.evaluations.count:
        notes.append(
            f"Evaluations: {_outcomes(table.evaluations)}; not counted as calls, but their tokens "
            "and cost are included."
        )
    notes += _missing_notes(table)
    if table.is_estimated and table.rows:
        notes.append("p50 and p95 are estimated from a histogram.")
    return [*notes, *table.notes]


def all_notes(table: UsageTable) -> list[str]:
    """Return the notes on what is missing in the sums or is not exact."""
    return [*table.notes, *_missing_notes(table)]


def _missing_notes(table: UsageTable) -> list[str]:
    notes = []
    if table.unpriced:
        models = ", ".join(sorted(table.unpriced))
        notes.append(f"Models without a price, not in the cost: {models}.")
    total = table.total()
    notes += unsplit_notes(total.total_tokens - total.prompt_tokens - total.completion_tokens)
    if without := total.calls_without_usage:
        notes.append(
            f"Calls without usage: {without:,}; their tokens and cost are unknown, and missing in the sums."
        )
    if table.estimated:
        models = ", ".join(sorted(table.estimated))
        notes.append(f"Estimated costs, since prices depend on the size of each call: {models}.")
    return notes


def _outcomes(outcomes: Outcomes) -> str:
    return f"{outcomes.count:,}, {outcomes.failures:,} failed"


def printable(text: str) -> str:
    """Replace the control characters of a text."""
    return "".join(char if char.isprintable() else "?" for char in text)


def percent(share: float | None) -> str:
    """Format a share, rounded down."""
    if share is None:
        return _NONE
    # Rounded down: 100 % means all calls.
    return f"{math.floor(round(share * 1_000, 6)) / 10:.1f} %"


def seconds(value: float | None) -> str:
    """Format a duration."""
    if value is None:
        return _NONE
    return f"{value:,.2f}" if value >= 1 else f"{value:.3f}"


def usd(value: float | None) -> str:
    """Format a cost."""
    if value is None:
        return _NONE
    return f"{value:,.4f}" if value == 0 or value >= _CENT else f"{value:.6f}"
