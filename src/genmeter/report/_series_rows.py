"""The series of a job's metrics as rows of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.report.usage_table import GENERATION, UNKNOWN_MODEL, GroupKey
from genmeter.schema import metrics as cat
from genmeter.schema.prom_names import label_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.report.usage_table import UsageRow, UsageTable

__all__ = ["CALL_SERIES", "JOB_SERIES", "OVERFLOW", "add_series"]

_NO_PROVIDER = "_OTHER"
_FAILURE, _CANCELLED = "failure", "cancelled"
_CONVERSATIONS = f"{cat.CONVERSATION_DURATION.prometheus}_count"
_BUCKET, _SUM = (f"{cat.INFERENCE_DURATION.prometheus}_{part}" for part in ("bucket", "sum"))

OVERFLOW = label_name("otel.metric.overflow")
"""The only label of the series of the calls beyond a limit of label combinations."""

_TOKENS = {
    cat.INPUT_TOKENS.prometheus: "prompt_tokens",
    cat.OUTPUT_TOKENS.prometheus: "completion_tokens",
    cat.TOTAL_TOKENS.prometheus: "total_tokens",
    cat.CACHE_READ_TOKENS.prometheus: "cache_read_tokens",
    cat.CACHE_WRITE_TOKENS.prometheus: "cache_write_tokens",
    cat.REASONING_TOKENS.prometheus: "reasoning_tokens",
}
"""The field of a row, by the name of its counter."""
_ROW_SERIES = frozenset(
    {
        *_TOKENS,
        *(row.prometheus for row in (cat.GENERATIONS, cat.COST, cat.USAGE_UNREAD)),
        *(_BUCKET, _SUM),
    }
)
CALL_SERIES = _ROW_SERIES | {cat.UNPRICED.prometheus}
"""Names of series that count calls; those without a phase are of other instrumentations."""
JOB_SERIES = frozenset({_CONVERSATIONS, cat.EVALUATIONS.prometheus})
"""Names of series that count for a whole job."""


def add_series(
    table: UsageTable,
    name: str,
    labels: Mapping[str, str],
    value: float,
    *,
    job: str | None = None,
    process: str | None = None,
) -> bool:
    """Add a series to a table.

    Args:
        table: The table.
        name: The name of the series, with its suffix.
        labels: Its labels.
        value: What it has counted.
        job: The job that it belongs to, for the key of its row.
        process: The process that it belongs to.

    Returns:
        Whether the report uses its metric.
    """
    is_failure = labels.get(cat.OUTCOME.prometheus) == _FAILURE
    if name in JOB_SERIES:
        outcomes = table.conversations if name == _CONVERSATIONS else table.evaluations
        outcomes.count += round(value)
        outcomes.failures += round(value) if is_failure else 0
    elif name in CALL_SERIES:
        if labels.get(cat.PHASE.prometheus):
            key = _key(labels, job, process)
            if name == cat.UNPRICED.prometheus:
                if value:
                    table.unpriced.add(key.model)
            else:
                _add_to_row(table.row(key), name, labels, value, is_failure=is_failure)
    else:
        return False
    return True


def _key(labels: Mapping[str, str], job: str | None, process: str | None) -> GroupKey:
    provider = labels.get(cat.PROVIDER.prometheus)
    return GroupKey(
        labels.get(cat.MODEL.prometheus) or UNKNOWN_MODEL,
        labels.get(cat.STEP.prometheus),
        None if provider == _NO_PROVIDER else provider,
        labels.get(cat.PHASE.prometheus, ""),
        labels.get(cat.RESPONSE_MODEL.prometheus),
        job,
        process,
    )


def _add_to_row(
    row: UsageRow, name: str, labels: Mapping[str, str], value: float, *, is_failure: bool
) -> None:
    if name in _TOKENS:
        setattr(row, _TOKENS[name], getattr(row, _TOKENS[name]) + round(value))
    elif name == cat.GENERATIONS.prometheus:
        row.calls += round(value)
        row.failures += round(value) if is_failure else 0
        if labels.get(cat.OUTCOME.prometheus) == _CANCELLED:
            row.cancelled += round(value)
    elif name == cat.USAGE_UNREAD.prometheus:
        row.calls_without_usage += round(value)
    elif name == cat.COST.prometheus:
        row.cost = (row.cost or 0.0) + value
    elif labels[cat.PHASE.prometheus] == GENERATION:
        if name == _SUM:
            row.duration_sum += value
        elif bound := labels.get("le"):  # VictoriaMetrics has none in exponential histograms
            row.buckets[float(bound)] += round(value)
