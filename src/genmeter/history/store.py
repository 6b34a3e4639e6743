"""The local history of one monitor: bounded rings for windows, and exact totals since the start.

Calls and evaluations share one ring (both cost tokens), scores and custom values another, samples
a third. Names are interned; labels are bounded, so names are too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from genmeter.config.monitor import METADATA_BYTES
from genmeter.events.afterimage import metric_data, score_data
from genmeter.events.jsonable import jsonable_text
from genmeter.events.model import RATE_LIMITED, Evaluation, Generation, Metric, Sample
from genmeter.history.ring import Flag, MetadataStore, Ring, StringTable, kept_since
from genmeter.history.samples import MetricReader
from genmeter.history.snapshot import CallRows, Snapshot, ValueRows
from genmeter.history.token_report import ModelTokenUsage, UsageTotals, report_of
from genmeter.history.windows import GroupSum, Minutes, WindowRows
from genmeter.schema.afterimage import SCORE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.events.model import Event
    from genmeter.history.samples import Samples
    from genmeter.history.token_report import TokenUsageReport
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import HistoryQuery

__all__ = ["History"]

_CALL_COLUMNS = (
    *(("time", "d"), ("duration", "d")),
    *(("input", "q"), ("output", "q"), ("total", "q")),
    *(("cache_read", "q"), ("cache_write", "q"), ("reasoning", "q")),
    *(("turns", "q"), ("model", "H"), ("step", "H"), ("provider", "H"), ("operation", "H")),
    *(("error_type", "H"), ("finish_reason", "H"), ("evaluator", "H"), ("flags", "H")),
    *(("rate_limited", "H"), ("response_model", "H"), ("unread", "H"), ("cost", "d")),
)
_VALUE_COLUMNS = (
    *(("event", "q"), ("time", "d"), ("value", "d")),
    *(("name", "H"), ("evaluator", "H")),
)
_SAMPLE_COLUMNS = (("time", "d"), ("accepted", "B"))
_NAN = float("nan")
_SUMS = len(fields(ModelTokenUsage)) - 1  # all but the model


class History:
    """The events of one monitor, for reports and windows; only the pipeline's owner may use it.

    Args:
        capacity: Capacity of each ring: calls and evaluations, scores and custom values, samples.
        metadata_bytes: Limit of the metadata and feedback kept with them, in bytes.
        scales: Lowest and highest value of each score that is not on 0..1.
    """

    def __init__(
        self,
        capacity: int,
        metadata_bytes: int = METADATA_BYTES,
        *,
        scales: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self._calls = Ring(_CALL_COLUMNS, capacity)
        self._values = Ring(_VALUE_COLUMNS, capacity)
        self._samples = Ring(_SAMPLE_COLUMNS, capacity)
        self._minutes = Minutes()
        self._scales = scales or {}
        self._last_call: float | None = None
        self._metadata = MetadataStore(metadata_bytes)
        self._names = StringTable()
        self._usage: dict[str, list[Any]] = {}
        self._reported: set[str] = set()
        self._without_usage: Counter[str] = Counter()
        self._metrics = MetricReader(self._calls, self._values, self._names)
        self._record: dict[type[Event], Callable[[Any], None]] = {
            Generation: self._generation,
            Evaluation: self._evaluation,
            Metric: self._metric,
            Sample: self._sample,
        }

    @property
    def size(self) -> int:
        """Number of rows kept in all rings."""
        return self._calls.size + self._values.size + self._samples.size

    @property
    def capacity(self) -> int:
        """Maximum number of rows in all rings."""
        return self._calls.capacity + self._values.capacity + self._samples.capacity

    @property
    def ring_capacity(self) -> int:
        """Maximum number of rows in each ring."""
        return self._calls.capacity

    @property
    def last_time(self) -> float | None:
        """Unix time of the newest call or evaluation that is kept."""
        (times,) = self._calls.columns("time")
        return float(times.max()) if len(times) else None

    @property
    def last_call(self) -> float | None:
        """Unix time of the newest call of a model since the start; None before the first."""
        return self._last_call

    def emptied(self) -> History:
        """Return an empty history with the same settings."""
        return History(
            self._calls.capacity,
            self._metadata.max_bytes,
            scales=self._scales,
        )

    def window(
        self, rows: HistoryQuery, by: Sequence[Label], since: float
    ) -> dict[tuple[str | None, ...], GroupSum]:
        """Sum rows since a time, by group.

        Args:
            rows: The rows and the column to sum.
            by: The labels to group by.
            since: Unix time in seconds. If the ring has overwritten rows since then, the result
                comes from the sums by minute if possible (the minute that contains the time then
                counts in full), else from the rows that are kept.

        Returns:
            Sums of the groups that have rows, by their values of ``by``. Sums by minute have a
            number of rows only if the query counts rows, and NaN as minimum and maximum.
        """
        ring = {"calls": self._calls, "scores": self._values, "samples": self._samples}[rows.ring]
        if rows.by_minute and not by and kept_since(ring, since) is not None:
            total = self._minutes.total(rows.by_minute, since)
            counted = int(total) if rows.column is None else 0
            return {(): GroupSum(counted, float(total), _NAN, _NAN)} if total else {}
        return self._since(ring, since).sums(rows, by)

    def _since(self, ring: Ring, since: float) -> WindowRows:
        return WindowRows(ring, self._names, since, scales=self._scales)

    def snapshot(self, since: float | None = None) -> Snapshot:
        """Copy the rows since a time (Unix time in seconds), or all rows."""
        calls = CallRows(*self._calls.rows(CallRows._fields[1:], since))
        values = ValueRows(*self._values.rows(ValueRows._fields[1:], since))
        starts = [kept_since(ring, since) for ring in (self._calls, self._values)]
        metadata = self._metadata
        return Snapshot(
            calls,
            values,
            tuple(self._names.names),
            metadata.texts(self._calls),
            metadata.texts(self._values),
            max((start for start in starts if start is not None), default=None),
            metadata.cut(self._calls, calls.serial) + metadata.cut(self._values, values.serial),
        )

    def record(self, event: Event) -> None:
        """Record an event; log records are ignored."""
        record = self._record.get(type(event))
        if record is not None:
            record(event)

    def token_usage(self, since: float | None = None) -> TokenUsageReport:
        """Sum the tokens by model.

        Args:
            since: Unix time in seconds; None means since the start, for which totals are exact.
        """
        if since is None:
            return report_of(
                [ModelTokenUsage(model, *self._usage[model]) for model in self._reported],
                without_usage=self._without_usage,
            )
        window = self._since(self._calls, since)
        return report_of(window.tokens(), kept_since(self._calls, since), window.without_usage())

    def totals(self) -> UsageTotals:
        """Return the usage of all models since the start; cheaper than `token_usage`."""
        tokens = calls = 0
        usd = 0.0
        unpriced: list[str] = []
        for model in self._reported:
            sums = self._usage[model]
            tokens += sums[2]
            calls += sums[6]
            if sums[7]:
                unpriced.append(model)
            usd += sums[8]
        without = self._without_usage.total() if self._without_usage else 0
        return UsageTotals(tokens, usd, calls + without, tuple(unpriced))

    def samples(self, name: str, since: float | None = None) -> Samples | None:
        """Return the samples of a metric; None if it was never recorded.

        Args:
            name: AfterImage's name, e.g. ``generation_time`` or ``model_usage:MODEL``, or a name
                of ``record_metric``.
            since: Unix time in seconds; None means all rows.
        """
        return self._metrics.samples(name, since)

    def _generation(self, event: Generation) -> None:  # noqa: C901 - field by field
        flags = Flag.GENERATION
        if event.success:
            flags |= Flag.SUCCESS
        elif event.cancelled:
            flags |= Flag.CANCELLED
        if event.model_given:
            flags |= Flag.MODEL_GIVEN
            self._metrics.labels["model"].add(event.call.model)
        if event.is_conversation:
            flags |= Flag.CONVERSATION
        if event.turns is not None:
            flags |= Flag.HAS_TURNS
        if event.finish_reason is not None:
            self._metrics.labels["finish_reason"].add(event.finish_reason)
        limited = 0
        if not event.is_conversation:
            if event.retries is not None:
                limited = event.retries.get(RATE_LIMITED, 0)
            if self._last_call is None or event.time > self._last_call:
                self._last_call = event.time
        if event.unread is not None:
            self._metrics.labels["unread"].add(event.unread)
        self._append(event, flags, event.turns or 0, limited, event.finish_reason, event.unread)
        self._keep_data(self._calls, event.extra)

    def _evaluation(self, event: Evaluation) -> None:
        flags = Flag.EVALUATION | (Flag.SUCCESS if event.success else 0)
        self._append(event, flags, 0, 0, evaluator=event.evaluator)
        self._keep_data(self._calls, event.extra)
        serial = self._calls.appended - 1
        for score in event.scores:
            name = SCORE_PREFIX + score.name
            self._value(event.time, name, score.value, serial, event.evaluator)
            self._keep_data(self._values, score_data(score) or {})

    def _metric(self, event: Metric) -> None:
        self._value(event.time, event.name, event.value, -1, None)
        self._keep_data(self._values, metric_data(event))

    def _sample(self, event: Sample) -> None:
        self._samples.append(event.time, event.accepted)

    def _value(
        self, time: float, name: str, value: float, event: int, evaluator: str | None
    ) -> None:
        self._metrics.values.add(name)
        numbers = self._names
        self._values.append(event, time, value, numbers[name], numbers[evaluator])

    def _keep_data(self, ring: Ring, data: dict[str, Any]) -> None:
        if data:
            self._metadata.put(ring, jsonable_text(data))

    def _append(
        self,
        event: Generation | Evaluation,
        flags: int,
        turns: int,
        rate_limited: int,
        finish_reason: str | None = None,
        unread: str | None = None,
        evaluator: str | None = None,
    ) -> None:
        if event.input_tokens is not None:
            flags |= Flag.HAS_INPUT
        if event.output_tokens is not None:
            flags |= Flag.HAS_OUTPUT
        if event.total_tokens is not None:
            flags |= Flag.HAS_TOTAL
        if event.cost is not None:
            flags |= Flag.HAS_COST
        if event.unpriced:
            flags |= Flag.UNPRICED
        self._metrics.flags |= flags
        call = event.call
        tokens = (
            event.input_tokens or 0,
            event.output_tokens or 0,
            event.total_tokens or 0,
            event.cache_read_tokens,
            event.cache_write_tokens,
            event.reasoning_tokens,
        )
        self._sum(event, flags, tokens, unread)
        numbers = self._names
        self._calls.append(
            event.time,
            _NAN if event.duration is None else event.duration,
            *tokens,
            turns,
            numbers[call.model],
            numbers[call.step],
            numbers[call.provider],
            numbers[call.operation],
            numbers[event.error_type],
            numbers[finish_reason],
            numbers[evaluator],
            flags,
            rate_limited,
            numbers[call.response_model],
            numbers[unread],
            _NAN if event.cost is None else event.cost,
        )

    def _sum(
        self,
        event: Generation | Evaluation,
        flags: int,
        tokens: tuple[int, ...],
        unread: str | None,
    ) -> None:
        """Add an event to the totals since the start and to the sums by minute."""
        call = event.call
        is_call = (flags & Flag.INFERENCE) == Flag.GENERATION
        is_cancelled = (flags & Flag.CANCELLED) != 0
        if flags & Flag.USAGE:
            self._reported.add(call.model)
        if unread is not None:
            self._without_usage[call.model] += 1
        cost = event.cost or 0.0
        if is_call or flags & Flag.USAGE:
            sums = self._usage.get(call.model)
            if sums is None:
                sums = self._usage[call.model] = [0] * _SUMS
            # One by one: a loop takes twice as long.
            sums[0] += tokens[0]
            sums[1] += tokens[1]
            sums[2] += tokens[2]
            sums[3] += tokens[3]
            sums[4] += tokens[4]
            sums[5] += tokens[5]
            sums[6] += 1
            sums[7] += event.unpriced or (event.cost is None and flags & Flag.ANY_TOKENS != 0)
            sums[8] += cost
        successes = is_call and event.success
        failures = is_call and not (event.success or is_cancelled)
        self._minutes.add(event.time, is_call, successes, failures, tokens[2], cost)
