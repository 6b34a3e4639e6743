"""Sums the metric rows of journals and exports into a usage table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genmeter.report._pricing import PricedEvents, price_event
from genmeter.report.details import MOST
from genmeter.report.usage_table import EVALUATION, GENERATION, UNKNOWN_MODEL, GroupKey, UsageRow
from genmeter.schema.afterimage import (
    BILLING,
    CONVERSATION,
    FIRST_CHUNK,
    METRICS,
    SCORE_PREFIX,
    metric_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.config.prices import PriceTable
    from genmeter.report.details import Details, Outcome
    from genmeter.report.usage_table import UsageTable
    from genmeter.schema.afterimage import MetricSpec

__all__ = ["OPENING", "PHASES", "MetricRows", "is_afterimage_name"]

PHASES = frozenset({GENERATION, EVALUATION, CONVERSATION})
"""The phases of genmeter's rows; each row of an event has one."""
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_OWN = ("cancelled", "unread", "unpriced", "cost")  # genmeter's own rows
_COUNTED = frozenset({"call_duration", "call_outcome", "evaluation_outcome", *_TOKENS, *_OWN})
"""The usage that is summed from genmeter's rows; their other rows repeat it."""
OPENING = frozenset(metric.name for metric in METRICS if metric.field == "duration")
"""The first row of each event in AfterImage's journals."""
_MODEL = "model_name"
_NOT_A_MODEL = ("", "None")  # `model_name=None` in the name of a metric
_MAX_OPEN = 256  # timestamps with incomplete events
_UNNAMED = ""


def is_afterimage_name(name: str) -> bool:
    """Return whether AfterImage writes metrics of this name for its events."""
    metric, _ = metric_of(name)
    return metric is not None and metric.usage is not None


def _is_amount(value: Any) -> bool:
    return type(value) in (float, int) and 0 <= value < math.inf


class MetricRows:
    """Sums rows: genmeter's one by one, AfterImage's after joining those of an event.

    Args:
        table: The table to add to.
        cutoff: Unix time; older rows are ignored.
        prices: Prices that replace the recorded costs, except those that a provider reported.
        is_sorted: Whether the rows of an event follow each other, so that it can be priced soon.
        details: What to add each call, error and score to, if anything.
    """

    def __init__(
        self,
        table: UsageTable,
        cutoff: float = -math.inf,
        prices: PriceTable | None = None,
        *,
        is_sorted: bool = True,
        details: Details | None = None,
    ) -> None:
        self._table = table
        self._cutoff = cutoff
        self._details = details
        self._afterimage = _AfterImageEvents(table, prices, details)
        self._usage: dict[tuple[Any, ...], tuple[GroupKey, UsageRow]] = {}
        self._priced = None if prices is None else PricedEvents(table, prices, is_sorted=is_sorted)

    def matters(self, name: str, row: Mapping[str, Any]) -> bool:
        """Return whether a row may be summed or is an event's first, by its name and metadata."""
        if "seq" in row or self._is_summed(name, row):
            return True
        return self._details is not None and name.startswith(SCORE_PREFIX)

    def _is_summed(self, name: str, row: Mapping[str, Any]) -> bool:
        phase = row.get("phase")
        if phase is None:
            return is_afterimage_name(name)
        metric, _ = metric_of(name)
        if metric is None or phase not in PHASES:
            return False
        return metric.usage in _COUNTED or row.get(BILLING) is not None

    def add(
        self, name: str, value: Any, row: Mapping[str, Any], when: float, is_afterimage: bool
    ) -> bool:
        """Add a row that matters; return whether it is valid."""
        if "seq" in row:
            self._table.runs.add_event(row, when)
        if when < self._cutoff:
            return True
        if self._details is not None:
            _add_details(self._details, name, value, row, is_afterimage=is_afterimage)
        if not self._is_summed(name, row):
            return True
        if is_afterimage:
            return self._afterimage.add(name, value, row, when)
        return self._add_ours(name, value, row, when)

    def _add_ours(self, name: str, value: Any, row: Mapping[str, Any], when: float) -> bool:
        metric, _ = metric_of(name)
        if row.get("phase") is None or metric is None:  # from `record_metric`, whatever its name
            return True
        if not _is_amount(value):
            return False
        try:
            self._add(metric, value, row, when)
        except TypeError:  # a model, step or provider is not a text
            return False
        return True

    def _add(self, metric: MetricSpec, value: float, row: Mapping[str, Any], when: float) -> None:
        if metric.usage == "evaluation_outcome":
            self._table.evaluations.add(is_failure=bool(value))
            self._table.include_time(when)
        elif metric.usage in ("call_outcome", "cancelled"):
            self._add_outcome(row, metric, value, when)
            self._table.include_time(when)
        elif metric.usage in _TOKENS:
            self._add_tokens(metric, int(value), row, when)
        elif metric.usage == "unread":
            self._usage_of(row)[1].calls_without_usage += 1
        elif metric.usage == "call_duration" and row["phase"] == GENERATION:
            self._usage_of(row)[1].durations.append(value)
        if self._priced is not None:
            key, usage = self._usage_of(row)
            self._priced.add(metric, value, row, when, key, usage)
        elif metric.usage == "unpriced":
            self._table.unpriced.add(self._usage_of(row)[0].model)
        elif metric.usage == "cost":
            usage = self._usage_of(row)[1]
            usage.cost = (usage.cost or 0.0) + value

    def finish(self) -> None:
        """Add the events that are still incomplete; call it after the last row."""
        if self._priced is not None:
            self._priced.finish()
        # A row of which only a label was asked for.
        rows = self._table.rows
        for key in [key for key, row in rows.items() if row.is_empty() and row.cost is None]:
            del rows[key]
        self._afterimage.finish()

    def _add_outcome(
        self, row: Mapping[str, Any], metric: MetricSpec, value: float, when: float
    ) -> None:
        is_cancelled = metric.usage == "cancelled"
        is_failure = not (is_cancelled or value)
        if row["phase"] == GENERATION:
            usage = self._usage_of(row)[1]
            usage.calls += 1
            usage.failures += is_failure
            usage.cancelled += is_cancelled
            if self._details is not None:
                outcome: Outcome = (
                    "cancelled" if is_cancelled else "failed" if is_failure else "succeeded"
                )
                self._details.add_call(when, outcome)
        elif row["phase"] == CONVERSATION:
            self._table.conversations.add(is_failure=is_failure)

    def _add_tokens(
        self, metric: MetricSpec, count: int, row: Mapping[str, Any], when: float
    ) -> None:
        key, usage = self._usage_of(row)
        if self._details is not None and metric.usage == "total_tokens":
            self._details.add_tokens(key.model, when, count)
        parts = ((field, _part(row, key)) for key, field in metric.parts)
        for field, amount in ((str(metric.usage), count), *parts):
            setattr(usage, field, getattr(usage, field) + amount)
        usage.token_calls += metric.usage == "total_tokens"

    def _usage_of(self, row: Mapping[str, Any]) -> tuple[GroupKey, UsageRow]:
        run = row.get("run")
        run = run if self._table.runs.is_run(run) else None  # or metadata of an older journal
        labels = (
            *(row.get(_MODEL), row.get("step"), row.get("provider"), row["phase"]),
            *(row.get("response_model"), run),
        )
        usage = self._usage.get(labels)
        if usage is None:
            *texts, _ = labels
            if not all(each is None or isinstance(each, str) for each in texts):
                raise TypeError(f"labels must be texts, got {texts!r}")
            model, step, provider, phase, answered = texts
            key = GroupKey(
                model or UNKNOWN_MODEL,
                step or None,
                provider or None,
                phase,
                answered or None,
                process=run,
            )
            usage = self._usage[labels] = (key, self._table.row(key))
        return usage


def _part(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    return int(value) if value is not None and _is_amount(value) else 0


def _add_details(
    details: Details, name: str, value: Any, row: Mapping[str, Any], *, is_afterimage: bool
) -> None:
    """Add what a row says beside the sums: a score, the type of an error, a first-chunk time."""
    phase = row.get("phase")
    if name.startswith(SCORE_PREFIX):
        if phase == EVALUATION or is_afterimage:  # else it is from `record_metric`
            if type(value) in (float, int) and -MOST <= value <= MOST:
                details.scores_of(name.removeprefix(SCORE_PREFIX)).values.append(value)
            else:
                details.invalid_scores += 1
    elif phase == GENERATION and row.get("success") is not None:  # a call's first row
        error: Any = row.get("error_type")
        first_chunk: Any = row.get(FIRST_CHUNK)
        if isinstance(error, str):
            details.errors[error] += 1
        if _is_amount(first_chunk) and first_chunk <= MOST:
            model = row.get(_MODEL)
            known = model if isinstance(model, str) and model else UNKNOWN_MODEL
            details.first_chunks_of(known).values.append(first_chunk)


class _AfterImageEvents:
    """Joins rows by their timestamp, which all rows of an event share, and adds the events.

    Rows have no step, and only token rows have a model. Calls without a model, such as all failed
    ones, belong to the only model of the source, or to ``unknown`` if it has several.

    Among the rows of one timestamp, a row of :data:`OPENING` comes first.
    """

    def __init__(
        self, table: UsageTable, prices: PriceTable | None, details: Details | None
    ) -> None:
        self._table = table
        self._prices = prices
        self._details = details
        # By timestamp, oldest first; events of several threads may be interleaved.
        self._open: dict[float, list[dict[str, Any]]] = {}

    def add(self, name: str, value: Any, row: Mapping[str, Any], when: float) -> bool:
        """Add a row; return whether its value is valid."""
        metric, label = metric_of(name)
        part = None if metric is None else metric.usage
        if part is None:
            return True
        events = self._open.get(when, [])
        event = next((each for each in reversed(events) if part not in each), None)
        if name in OPENING or (event is None and row.get(_MODEL) is not None):
            # A second opening row of a timestamp begins a second event.
            event = self._begin(when)
        if event is None:
            return True  # from `record_metric`, with the name of a call's metric
        is_usable = _is_amount(value)
        event[part] = value if is_usable else None
        model = label if part == "model" else row.get(_MODEL)
        if isinstance(model, str) and model not in _NOT_A_MODEL:
            event[_MODEL] = model
        if "success" in row:
            event["success"] = row["success"]
        return is_usable

    def finish(self) -> None:
        """Add the open events, and assign the calls without a model."""
        for events in self._open.values():
            for event in events:
                self._count(event)
        self._open.clear()
        rows = self._table.rows
        named = {key.model for key in rows} - {_UNNAMED, UNKNOWN_MODEL}
        model = named.pop() if len(named) == 1 else UNKNOWN_MODEL
        for key in [key for key in rows if key.model == _UNNAMED]:
            named_key = key._replace(model=model)
            rows[named_key] = UsageRow.sum([self._table.row(named_key), rows.pop(key)])

    def _begin(self, when: float) -> dict[str, Any]:
        if when not in self._open and len(self._open) >= _MAX_OPEN:
            for event in self._open.pop(next(iter(self._open))):
                self._count(event)
        begun: dict[str, Any] = {"when": when}
        self._open.setdefault(when, []).append(begun)
        return begun

    def _count(self, event: Mapping[str, Any]) -> None:
        table = self._table
        has_tokens = any(event.get(name) is not None for name in _TOKENS)
        is_evaluation = "evaluation_duration" in event
        if not (is_evaluation or "call_outcome" in event or has_tokens):
            return
        table.include_time(event["when"])
        if self._details is not None:
            self._details.kinds.add("afterimage")
        model = event.get(_MODEL, _UNNAMED)
        key = GroupKey(model, None, None, EVALUATION if is_evaluation else GENERATION)
        if is_evaluation:
            success = event.get("success")
            failed = event.get("evaluation_outcome") if success is None else not success
            table.evaluations.add(is_failure=bool(failed))
        elif "call_outcome" in event:
            if "turns" in event and not model and not has_tokens:
                table.conversations.add(is_failure=not event["call_outcome"])
            else:
                _add_call(table.row(key), event, has_tokens=has_tokens)
                if self._details is not None:
                    outcome: Outcome = "succeeded" if event["call_outcome"] else "failed"
                    self._details.add_call(event["when"], outcome)
        if has_tokens:
            row = table.row(key)
            before = row.total_tokens
            _add_tokens(row, *(event.get(name) for name in _TOKENS))
            if self._details is not None:
                count = row.total_tokens - before
                self._details.add_tokens(model or UNKNOWN_MODEL, event["when"], count)
            if self._prices is not None:
                price_event(table, row, key, event, self._prices)


def _add_call(usage: UsageRow, event: Mapping[str, Any], *, has_tokens: bool) -> None:
    usage.calls += 1
    usage.failures += not event["call_outcome"]
    usage.calls_without_usage += bool(event["call_outcome"]) and not has_tokens
    if (duration := event.get("call_duration")) is not None:
        usage.durations.append(duration)


def _add_tokens(
    usage: UsageRow, prompt: float | None, completion: float | None, total: float | None
) -> None:
    if total is None:  # AfterImage omits it if the provider does
        total = int(prompt or 0) + int(completion or 0)
    usage.prompt_tokens += int(prompt or 0)
    usage.completion_tokens += int(completion or 0)
    usage.total_tokens += int(total)
    usage.token_calls += 1
