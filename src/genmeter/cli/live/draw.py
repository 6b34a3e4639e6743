"""Draws the live view: one screen, whatever the terminal's size."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from genmeter.cli.live.watch import ENDED, PARTIAL, RUNNING, Row, same_jobs
from genmeter.report.formats import printable
from genmeter.report.status import DIED, failure_share, share

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from genmeter.cli.live.rates import Rates
    from genmeter.report.status import Status
    from genmeter.report.usage_table import UsageRow, UsageTable

__all__ = ["by_model", "folded", "overview", "progress_bar", "screen"]

_HIGH_FAILURE_RATE = 0.1
_LABEL = 13  # columns of the labels of lines
_GAP = "  "
_LISTED = 5
_Part = tuple[str, str]  # text and style
_BAD, _GOOD, _DIM, _WARN = "red", "green", "dim", "yellow"


def screen(rows: Sequence[Row], width: int, height: int, note: str) -> RenderableType:
    """Return a screen of some jobs.

    Args:
        rows: The jobs; at least one.
        width: Columns of the terminal.
        height: Lines of the terminal; what does not fit is counted.
        note: The right part of the first line.
    """
    from rich.console import Group

    is_only = len(rows) == 1
    total = rows[0] if is_only else Row.total(rows)
    top: list[RenderableType] = [_headline(total, len(rows), width, note)]
    if total.status is not None and (done := total.status.progress) is not None:
        top.append(progress_bar(done, f"{done:4.0%}{_GAP}{_left_text(total)}"))
    notes = same_jobs(rows) + [text for row in rows for text in _problems(row, is_only=is_only)]
    lines: list[Text] = []
    if total.status is not None:
        lines = folded(overview(total.status, total.rates), width)
        notes += total.status.notes()
    limit = len(lines) + max(2, height // 4)  # or many notes would leave no room for models
    lines = _cut(lines + _notes(notes, width), limit)
    room = height - len(top)
    tables: list[RenderableType] = []
    if not is_only:
        # The lines may take half of the screen, the rest is for the jobs.
        fitting = _rows_that_fit(len(rows), max(room - len(lines) - 1, room - height // 2))
        if fitting:
            tables = ["", _by_job(rows, total, width, fitting), ""]
            room -= _FRAME + fitting + (fitting < len(rows)) + 1
        else:
            top.append(_remark(f"{len(rows):,} jobs do not fit"))
            room -= 1
    count = 0 if total.status is None else len(total.status.usage.group(("model",)))
    lines = _cut(lines, max(1, room - (count > 0)))
    models: list[RenderableType] = []
    if total.status is not None and count:
        if fitting := _rows_that_fit(count, room - len(lines)):
            models = ["", by_model(total.status.usage, width, fitting)]
        else:
            models = [_remark(f"{count:,} {'model does' if count == 1 else 'models do'} not fit")]
    parts = [*top, *tables, *lines, *models]
    return Group(*parts if tables else parts[:height])


def _remark(text: str) -> Text:
    from rich.text import Text

    return Text(text, style=_DIM, no_wrap=True, overflow="ellipsis")


_FRAME = 5  # lines of a table without its rows, and the empty one above


def _rows_that_fit(count: int, room: int) -> int:
    """Return how many rows fit, with a line that counts the others."""
    room -= _FRAME
    return count if count <= room else max(0, room - 1)


def _cut(lines: list[Text], limit: int) -> list[Text]:

    if len(lines) <= limit:
        return lines
    more = len(lines) - limit + 1
    return [*lines[: max(0, limit - 1)], _remark(f"and {more:,} more lines")]


def _headline(total: Row, count: int, width: int, note: str) -> Text:
    from rich.text import Text

    style = {RUNNING: _GOOD, ENDED: "bold"}.get(total.state, _BAD)
    state = total.state_text()
    if total.state == PARTIAL:
        state = "partial numbers"
    name = printable(total.name) if count == 1 else f"{count} jobs"
    text = Text(name, style="bold", no_wrap=True, overflow="ellipsis")
    text.truncate(max(_MIN_NAME, width - len(_GAP) - len(state)), overflow="ellipsis")
    text.append(f"{_GAP}{state}", style=style)
    if (left := width - text.cell_len - len(note)) >= len(_GAP):
        text.append(f"{' ' * left}{note}", style=_DIM)
    text.truncate(width, overflow="ellipsis")
    return text


def _left_text(total: Row) -> str:
    if total.state == ENDED:
        return "ended"
    if total.left is None:
        return "time left unknown"
    return f"{timedelta(seconds=round(total.left))} left"


def _problems(row: Row, *, is_only: bool) -> list[str]:
    name = "" if is_only else f"{row.name} "
    last = "" if row.status is None or row.is_current else "; the numbers are its last ones"
    return [f"{name}{row.reason}{last}"] if row.reason else []


def _notes(notes: Sequence[str], width: int) -> list[Text]:
    from rich.console import Console
    from rich.text import Text

    console = Console(width=width)
    return [
        line
        for note in notes
        for line in Text(f"! {printable(note)}", style=_WARN).wrap(console, width)
    ]


# --- lines -------------------------------------------------------------------------------------


def progress_bar(done: float, text: str) -> Table:
    """Return a progress bar.

    Args:
        done: The share that is done.
        text: The text after the bar.
    """
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(ProgressBar(total=1.0, completed=min(done, 1.0)), text)
    return grid


def overview(
    status: Status, rates: Rates, expected: str | None = None
) -> list[tuple[str, list[_Part]]]:
    """Return labels and parts of the lines on a job.

    Args:
        status: Its numbers.
        rates: Its rates.
        expected: The number of samples expected, as text; by default the job's own.
    """
    total, evaluations = status.total, status.usage.evaluations
    lines: list[tuple[str, list[_Part]]] = []
    if expected is None and status.expected is not None:
        expected = f"{status.expected:,.0f}"
    if expected is not None or status.samples:
        samples = [
            (f"{status.accepted:,} accepted", _GOOD),
            (f"{status.rejected.total():,} rejected", _WARN),
        ]
        lines.append(("samples", [*samples, *_optional(expected, f"of {expected}")]))
    failed = f"{failure_share(total)} failed", _BAD if _is_failing(total) else ""
    generations = [
        (f"{total.calls:,}", ""),
        failed,
        *_optional(total.cancelled, f"{total.cancelled:,} cancelled"),
        (f"{status.active:,} active", ""),
    ]
    lines.append(("generations", generations))
    rate = [f"{_rate(rates.calls, 1)} calls/s", f"{_rate(rates.tokens, 0)} tokens/s"]
    lines.append(("rate", [(text, "") for text in rate]))
    without = total.calls_without_usage
    used = [
        (f"{total.total_tokens:,} tokens", ""),
        (f"{_usd(total)} USD", ""),
        *_optional(without, f"{without:,} without usage: not included", _WARN),
    ]
    lines.append(("used", used))
    if status.firing:
        parts = [
            (name if n == 1 else f"{name} ({n:,})", f"bold {_BAD}")
            for name, n in _sorted(status.firing)
        ]
        lines.append(("firing", _listed(parts)))
    if status.errors:
        parts = [(f"{name} {n:,}", "") for name, n in status.errors.most_common()]
        lines.append(("errors", _listed(parts)))
    if status.processes:
        parts = [
            (f"{n:,} {state}", _BAD * (state == DIED)) for state, n in _sorted(status.processes)
        ]
        lost = "up to a second of work is missing"
        lines.append(("processes", [*parts, *_optional(status.died, lost, _WARN)]))
    if evaluations.count:
        failures = share(evaluations.failures, evaluations.count)
        lines.append(("evaluations", [(f"{evaluations.count:,}", ""), (f"{failures} failed", "")]))
    return lines


def _optional(condition: object, text: str, style: str = "") -> list[_Part]:
    return [(text, style)] if condition else []


def _sorted(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items())


def _listed(parts: list[_Part]) -> list[_Part]:
    more = len(parts) - _LISTED
    return [*parts[:_LISTED], *_optional(more > 0, f"and {more} more", _DIM)]


def folded(lines: Iterable[tuple[str, list[_Part]]], width: int) -> list[Text]:
    """Return lines with their labels, folded between parts."""
    from rich.text import Text

    drawn = []
    for label, parts in lines:
        line = Text(f"{label:<{_LABEL}}", no_wrap=True, overflow="ellipsis")
        is_first = True
        for text, style in parts:
            shown = printable(text)
            if not is_first and line.cell_len + len(_GAP) + len(shown) > width:
                drawn.append(line)
                line = Text(" " * _LABEL, no_wrap=True, overflow="ellipsis")
                is_first = True
            line.append("" if is_first else _GAP)
            line.append(shown, style=style)
            is_first = False
        drawn.append(line)
    return drawn


# --- tables ------------------------------------------------------------------------------------


def by_model(usage: UsageTable, width: int, limit: int | None = None) -> Table:
    """Return the table of models.

    Args:
        usage: The usage.
        width: Columns of the terminal; a narrow one has fewer columns of numbers.
        limit: Rows to show at most; those with the most tokens.
    """
    groups = [(str(model), row) for (model,), row in usage.group(("model",)).items()]
    hidden = 0 if limit is None else len(groups) - limit
    if hidden > 0:
        most = sorted(groups, key=lambda group: (-group[1].total_tokens, group[0]))[:limit]
        groups = sorted(most)
    return _table("model", groups, usage.total(), _COLUMNS, width, hidden)


def _by_job(rows: Sequence[Row], total: Row, width: int, limit: int) -> Table:
    hidden = rows[limit:]
    named = [(row.name, row) for row in rows[:limit]]
    stale = sum(not row.is_current for row in hidden)
    remark = f"{stale:,} not current" if stale else ""
    return _table("job", named, total, _JOB_COLUMNS, width, len(hidden), remark)


_T = TypeVar("_T")
_Columns = tuple[tuple[str, int, "Callable[[_T], _Part]"], ...]
_MIN_NAME = 14  # columns of a name before numbers are omitted
_SEPARATOR = 2  # columns between columns


def _table(
    title: str,
    rows: Sequence[tuple[str, _T]],
    total: _T,
    columns: _Columns[_T],
    width: int,
    hidden: int,
    remark: str = "",
) -> Table:
    """Return a table with a total; names are cut rather than numbers.

    Args:
        title: The title of the names.
        rows: Names and what they name.
        total: What the last line is of.
        columns: The other columns.
        width: Columns of the terminal.
        hidden: Rows that are omitted.
        remark: On the omitted rows, in the second column.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [Text(printable(name)) for name, _ in rows]
    if hidden > 0:
        names.append(Text(f"and {hidden:,} more", style=_DIM))
    drawn: dict[tuple[str, int], tuple[list[Text], Text]] = {}
    for heading, min_width, cell in columns:
        if width >= min_width:
            cells = [Text(*cell(row)) for _, row in rows]
            if hidden > 0:
                cells.append(Text("" if drawn else remark, style=_BAD))
            drawn[heading, min_width] = cells, Text(*cell(total))
    widths = {
        key: max(Text(key[0]).cell_len, footer.cell_len, *(each.cell_len for each in cells))
        for key, (cells, footer) in drawn.items()
    }
    longest = max(Text(title).cell_len, len("total"), *(name.cell_len for name in names))

    def room() -> int:
        return width - 1 - sum(each + _SEPARATOR for each in widths.values())

    while room() < min(longest, _MIN_NAME) and len(widths) > 1:
        del widths[max(reversed(widths), key=lambda key: key[1])]  # the last of those
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_footer=True)
    name_width = max(1, min(longest, room()))
    table.add_column(title, "total", no_wrap=True, overflow="ellipsis", width=name_width)
    for key, least in widths.items():
        footer = drawn[key][1]
        table.add_column(key[0], footer, justify="right", no_wrap=True, min_width=least)
    for at, name in enumerate(names):
        table.add_row(name, *(drawn[key][0][at] for key in widths))
    return table


def _is_failing(row: UsageRow) -> bool:
    return row.failures > _HIGH_FAILURE_RATE * (row.calls - row.cancelled)


def _failed(row: UsageRow) -> _Part:
    return failure_share(row), _BAD if _is_failing(row) else ""


def _usd(row: UsageRow) -> str:
    cost = row.cost
    return "-" if cost is None else f"{cost:,.{4 if cost < 100 else 2}f}"  # noqa: PLR2004 - dollars


def _seconds(row: UsageRow, quantile: float) -> str:
    value = row.quantile(quantile)
    return "-" if value is None else f"{value:,.1f} s"


def _rate(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


# Title, width of the terminal from which on the column is shown, and cell.
_COLUMNS: _Columns[UsageRow] = (
    ("generations", 80, lambda row: (f"{row.calls:,}", "")),
    ("failed", 0, _failed),
    ("tokens in", 60, lambda row: (f"{row.prompt_tokens:,}", "")),
    ("out", 60, lambda row: (f"{row.completion_tokens:,}", "")),
    ("USD", 0, lambda row: (_usd(row), "")),
    ("p50", 90, lambda row: (_seconds(row, 0.5), "")),
    ("p95", 80, lambda row: (_seconds(row, 0.95), "")),
)


def _of_status(cell: Callable[[Status], _Part]) -> Callable[[Row], _Part]:
    return lambda row: ("-", "") if row.status is None else cell(row.status)


def _of_usage(cell: Callable[[UsageRow], _Part]) -> Callable[[Row], _Part]:
    return _of_status(lambda status: cell(status.total))


def _state(row: Row) -> _Part:
    return row.state_text(), "" if row.is_current else _BAD


def _done(status: Status) -> _Part:
    return ("-" if status.progress is None else f"{status.progress:.0%}"), ""


def _left(row: Row) -> _Part:
    if row.left is None:
        return "-", ""
    return str(timedelta(seconds=round(row.left))), ""


_JOB_COLUMNS: _Columns[Row] = (
    ("state", 0, _state),
    ("done", 0, _of_status(_done)),
    ("left", 90, _left),
    ("generations", 110, _of_usage(lambda row: (f"{row.calls:,}", ""))),
    ("failed", 0, _of_usage(_failed)),
    ("active", 110, _of_status(lambda status: (f"{status.active:,}", ""))),
    ("calls/s", 76, lambda row: (_rate(row.rates.calls, 1), "")),
    ("tokens/s", 100, lambda row: (_rate(row.rates.tokens, 0), "")),
    ("tokens", 120, _of_usage(lambda row: (f"{row.total_tokens:,}", ""))),
    ("USD", 60, _of_usage(lambda row: (_usd(row), ""))),
)
