"""The usage of a process, as rows of the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport
from genmeter.job.store import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["report_of_totals", "totals_of"]


def totals_of(report: TokenUsageReport) -> list[Totals]:
    """Return a report as rows of the store."""
    rows: list[Totals] = []
    models = {usage.model_name: usage for usage in report.by_model}
    for model in dict.fromkeys([*models, *report.without_usage]):
        usage = models.get(model) or ModelTokenUsage(model, 0, 0, 0)
        rest = [
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
            usage.calls,
            usage.unpriced_calls,
            report.without_usage.get(model, 0),
        ]
        rows.append(Totals(model, usage.total_tokens, usage.cost_usd, json.dumps(rest)))
    return rows


def report_of_totals(rows: Sequence[Totals]) -> TokenUsageReport:
    """Return rows of the store as a report."""
    reports: list[TokenUsageReport] = []
    for model, tokens, usd, rest in rows:
        prompt, completion, read, write, reasoning, calls, unpriced, without = json.loads(rest)
        usage = ModelTokenUsage(
            model,
            prompt,
            completion,
            tokens,
            cache_read_tokens=read,
            cache_write_tokens=write,
            reasoning_tokens=reasoning,
            calls=calls,
            unpriced_calls=unpriced,
            cost_usd=usd,
        )
        reports.append(
            TokenUsageReport(
                by_model=[usage],
                total_prompt_tokens=prompt,
                total_completion_tokens=completion,
                total_tokens=tokens,
                without_usage={model: without} if without else {},
            )
        )
    return TokenUsageReport.merge(reports)
