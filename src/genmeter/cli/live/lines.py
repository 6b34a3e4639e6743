"""Plain lines for programs: a line a job and time, of ``field=value``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.cli.live.watch import Row, same_jobs
from genmeter.report.formats import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from genmeter.report.status import Status

__all__ = ["FIELDS", "lines", "remarks"]

FIELDS = {
    "source": "the source, job/instance of Prometheus, or total",
    "state": "running, ended, no-answer, bad-answer, gone or waiting; partial: a total that is "
    "not all of now",
    "silent_s": "time since the last answer; 0 while it answers",
    "age_s": "age of the numbers",
    "calls": "calls, also failed and cancelled ones",
    "failed": "calls that failed",
    "failed_share": "0 to 1, without cancelled calls",
    "cancelled": "calls that were cancelled",
    "active": "calls in progress",
    "calls_per_s": "over the last 10 s",
    "tokens_per_s": "over the last 10 s",
    "tokens": "total tokens",
    "prompt_tokens": "input",
    "completion_tokens": "output",
    "usd": "cost of the calls that have a price",
    "unpriced": "models without a price, not in the cost",
    "no_usage": "calls whose tokens are unknown, and missing",
    "samples": "samples, accepted or rejected",
    "rejected": "samples rejected",
    "expected": "samples expected",
    "left_s": "time left, by the rate of the last minute",
    "died": "processes that died",
    "errors": "TYPE:COUNT of failed calls",
    "firing": "alerts that fire",
}
"""The fields after the time, with their help; ``-`` means unknown or none."""
_NONE = "-"
_LISTED = 5
_NEEDS_QUOTES = frozenset(" =\"'")


def lines(rows: Sequence[Row], now: datetime) -> list[str]:
    """Return a line for each job, and one for the total of several."""
    return [_line(row, now) for row in (*rows, *([Row.total(rows)] if len(rows) > 1 else ()))]


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return sentences on what is missing in the lines, or may be wrong."""
    found = same_jobs(rows)
    for row in rows:
        notes = row.status.usage.notes if row.status is not None else []
        found += [f"{row.name}: {text}" for text in (row.reason, *notes) if text]
    return [printable(text) for text in found]


def _line(row: Row, now: datetime) -> str:
    values = dict.fromkeys(FIELDS, _NONE) | {
        "source": row.name,
        "state": row.state.replace(" ", "-"),
        "silent_s": f"{row.since:.1f}",
    }
    if row.status is not None:
        values |= _numbers(row, row.status)
    fields = (f"{field}={_quoted(value)}" for field, value in values.items())
    return f"{now.isoformat(timespec='seconds')} {' '.join(fields)}"


def _numbers(row: Row, status: Status) -> dict[str, str]:
    total = status.total
    done = total.success_share()
    return {
        "age_s": f"{row.age:.1f}",
        "calls": str(total.calls),
        "failed": str(total.failures),
        "failed_share": _number(None if done is None else 1 - done, 4),
        "cancelled": str(total.cancelled),
        "active": str(status.active),
        "calls_per_s": _number(row.rates.calls, 2),
        "tokens_per_s": _number(row.rates.tokens, 1),
        "tokens": str(total.total_tokens),
        "prompt_tokens": str(total.prompt_tokens),
        "completion_tokens": str(total.completion_tokens),
        "usd": _number(total.cost, 6),
        "unpriced": ",".join(sorted(status.usage.unpriced)) or _NONE,
        "no_usage": str(total.calls_without_usage),
        "samples": str(status.samples),
        "rejected": str(status.rejected.total()),
        "expected": _number(status.expected, 0),
        "left_s": _number(row.left, 0),
        "died": str(status.died) if status.processes else _NONE,
        "errors": ",".join(f"{name}:{n}" for name, n in status.errors.most_common(_LISTED))
        or _NONE,
        "firing": ",".join(sorted(status.firing)) or _NONE,
    }


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _quoted(value: str) -> str:
    text = printable(value)
    return f'"{text.replace(chr(34), chr(39))}"' if _NEEDS_QUOTES & set(text) else text
