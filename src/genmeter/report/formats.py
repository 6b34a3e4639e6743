"""The report as JSON and as CSV: raw numbers under documented names."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmeter.report.aggregate import Report, Row
    from genmeter.report.ledger import Outcomes

__all__ = ["FIELDS", "to_csv", "to_json"]

FIELDS = {
    "calls": "calls of a model, also failed ones; no evaluations",
    "failures": "calls that failed",
    "success_share": "0 to 1",
    "prompt_tokens": "input, cached tokens among them",
    "completion_tokens": "output, reasoning among it",
    "total_tokens": "as the provider totals them",
    "cache_read_tokens": "part of the prompt tokens",
    "cache_write_tokens": "part of the prompt tokens",
    "reasoning_tokens": "part of the completion tokens",
    "cost_usd": "of the models that have a price",
    "duration_mean_seconds": "of calls",
    "duration_p50_seconds": "of calls",
    "duration_p95_seconds": "of calls",
}
"""The fields of a row after its keys, and what they are; empty is unknown, never 0."""


def to_json(report: Report) -> str:
    """Give the report as JSON, all of it.

    Args:
        report: The report.
    """
    return json.dumps(
        {
            "source": report.source,
            "since": _iso(report.since),
            "until": _iso(report.until),
            "window_seconds": None if report.window is None else report.window.total_seconds(),
            "quantiles": "estimated" if report.is_estimated else "exact",
            "rows": [{**row.group, **_numbers(row)} for row in report.rows],
            "total": _numbers(report.total),
            "conversations": _counts(report.conversations),
            "evaluations": _counts(report.evaluations),
            "unpriced_models": list(report.unpriced),
            "skipped": report.skipped,
            "notes": report.notes,
        },
        indent=2,
        ensure_ascii=False,
    )


def to_csv(report: Report) -> str:
    """Give the rows of the report as CSV, without a total.

    Args:
        report: The report.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [*report.by, *FIELDS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row.group, **_numbers(row)} for row in report.rows)
    return text.getvalue().removesuffix("\n")


def _numbers(row: Row) -> dict[str, int | float | None]:
    sums = row.sums
    values = (
        *(sums.calls, sums.failures, row.success_share),
        *(sums.prompt_tokens, sums.completion_tokens, sums.total_tokens),
        *(sums.cache_read_tokens, sums.cache_write_tokens, sums.reasoning_tokens),
        *(row.cost, row.mean, row.p50, row.p95),
    )
    return dict(zip(FIELDS, values, strict=True))


def _counts(outcomes: Outcomes) -> dict[str, Any]:
    return {"count": outcomes.count, "failures": outcomes.failures}


def _iso(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat()
