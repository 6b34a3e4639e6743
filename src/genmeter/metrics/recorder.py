"""Records events in OpenTelemetry instruments, of any meter provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from genmeter.events.model import Call, Evaluation, Generation, Log, Metric, Reason, Sample
from genmeter.metrics._custom import CustomInstruments
from genmeter.metrics._older import OlderInstruments
from genmeter.metrics.binding import cells_of
from genmeter.schema import metrics as cat
from genmeter.schema.metrics import Instrument, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter

    from genmeter.config.monitor import MonitorConfig
    from genmeter.events.model import Event
    from genmeter.metrics.binding import BoundHistogram, BoundSum, Cells

    Observe = Callable[[CallbackOptions], Iterable[Observation]]

__all__ = ["MetricsRecorder", "call_attributes"]

_NONE: dict[str, int] = {}
_SUMS = {Kind.COUNTER: "create_counter", Kind.UP_DOWN_COUNTER: "create_up_down_counter"}
_OBSERVABLES = {
    Kind.OBSERVABLE_COUNTER: "create_observable_counter",
    Kind.OBSERVABLE_UP_DOWN_COUNTER: "create_observable_up_down_counter",
    Kind.OBSERVABLE_GAUGE: "create_observable_gauge",
    Kind.GAUGE: "create_observable_gauge",
}


def call_attributes(call: Call, phase: str) -> dict[str, str]:
    """Return the labels that all instruments share for a call in a ``phase`` of the schema."""
    attributes = {
        cat.OPERATION.key: call.operation,
        cat.PROVIDER.key: call.provider,
        cat.MODEL.key: call.model,
        cat.PHASE.key: phase,
    }
    if call.step is not None:
        attributes[cat.STEP.key] = call.step
    if call.response_model is not None:
        attributes[cat.RESPONSE_MODEL.key] = call.response_model
    return attributes


class _CallSeries:
    """The cells of all calls with the same labels.

    Both outcomes and the sums of tokens start at 0 with the first call, so that rates include the
    first increase. Other cells are created when they are needed: Prometheus ignores the start of a
    series that is an hour older than its first sample, and an empty histogram has no sample.
    """

    __slots__ = (
        *("_base", "_cells", "_instruments", "modality"),
        *("failure", "input", "input_size", "output", "output_size", "success", "total"),
        *("durations", "finish_reasons", "first_chunk", "output_chunk"),
    )

    def __init__(
        self, call: Call, phase: str, instruments: Mapping[str, Cells], time: float
    ) -> None:
        self._base = call_attributes(call, phase)
        self._instruments = instruments
        self._cells: dict[tuple[str, str | None], BoundSum] = {}
        self.modality = call.modality
        # Cells of most events, without the cost of a look-up in _cells.
        self.durations: dict[str | None, BoundHistogram] = {}
        self.finish_reasons: dict[str, BoundSum] = {}
        self.input_size: BoundHistogram | None = None
        self.output_size: BoundHistogram | None = None
        self.first_chunk: BoundHistogram | None = None
        self.output_chunk: BoundHistogram | None = None
        self.input = self.cell(cat.INPUT_TOKENS, time, cat.MODALITY, call.modality)
        self.output = self.cell(cat.OUTPUT_TOKENS, time, cat.MODALITY, call.modality)
        self.total: BoundSum = self.new_cell(cat.TOTAL_TOKENS, time)
        at_zero = [self.input, self.output, self.total]
        if phase == "generation":
            self.success: BoundSum = self.new_cell(cat.GENERATIONS, time, cat.OUTCOME, "success")
            self.failure: BoundSum = self.new_cell(cat.GENERATIONS, time, cat.OUTCOME, "failure")
            at_zero += [self.success, self.failure]
        for cell in at_zero:
            cell.add(0)

    def new_cell(
        self, row: Instrument, time: float, label: cat.Label | None = None, value: str | None = None
    ) -> Any:
        """Return an instrument's cell for these calls, with one more label if it has a value."""
        attributes = (
            self._base if label is None or value is None else {**self._base, label.key: value}
        )
        return self._instruments[row.name].cell(attributes, time)

    def cell(
        self, row: Instrument, time: float, label: cat.Label | None = None, value: str | None = None
    ) -> BoundSum:
        """Return the cell of a counter, as :meth:`new_cell` does, from the cache if possible."""
        key = (row.name, value)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = self.new_cell(row, time, label, value)
        return found


class MetricsRecorder:
    """Records events in the instruments of one meter; only the owner of the pipeline uses it.

    Args:
        meter: The meter. All instruments are created here, since creating an observable one during
            a collection deadlocks the SDK.
        config: The score scales, custom metrics, limits and ``older_metric_names``.
        observe: The callbacks of the catalogue's observable instruments, by name.
        on_reject: Called with the reason, a name and a dropped value.
    """

    def __init__(
        self,
        meter: Meter,
        config: MonitorConfig,
        *,
        observe: Mapping[str, Observe],
        on_reject: Callable[[Reason, str, object], None],
    ) -> None:
        self._scales = dict(config.score_scales)
        self._limit = config.limits.combinations
        self._on_reject = on_reject
        self._instruments: dict[str, Cells] = {}
        self._custom = CustomInstruments(config, self._instruments, on_reject)
        # Gauges are observed: the SDK before 1.45 exports a synchronous one only once.
        observed = {
            **observe,
            cat.LAST_GENERATION.name: self._observe_last,
            cat.CUSTOM_VALUE.name: self._custom.observe_values,
        }
        for row in cat.INSTRUMENTS:
            if row.name in observed:
                create = getattr(meter, _OBSERVABLES[row.kind])
                create(row.name, [observed[row.name]], row.unit, row.help)
        for row in cat.INSTRUMENTS:
            if row.kind in _SUMS:
                counter = getattr(meter, _SUMS[row.kind])(row.name, row.unit, row.help)
                self._instruments[row.name] = cells_of(counter, self._limit)
        self._custom.create(meter)
        for row in cat.INSTRUMENTS:
            if row.kind is Kind.HISTOGRAM:
                histogram = meter.create_histogram(
                    row.name, row.unit, row.help, explicit_bucket_boundaries_advisory=row.bounds
                )
                self._instruments[row.name] = cells_of(histogram, self._limit)
        self._older = OlderInstruments(meter, self._limit) if config.older_metric_names else None
        self._record: dict[type[Event], Callable[[Any], None]] = {
            Generation: self._generation,
            Evaluation: self._evaluation,
            Metric: self._custom.record,
            Sample: self._sample,
            Log: self._log,
        }
        self.reset()

    def reset(self) -> None:
        """Forget every cell, in a forked child."""
        self._generations: dict[Call, _CallSeries] = {}
        self._evaluations: dict[Call, _CallSeries] = {}
        self._others: dict[tuple[str, ...], Any] = {}
        self._last: dict[str, float] = {}
        self._custom.reset()
        if self._older is not None:
            self._older.reset()

    def preregister(self, calls: Iterable[Call], time: float) -> None:
        """Expose both outcomes of calls at 0, from a Unix time on."""
        for call in calls:
            self._series(call, "generation", time)

    def record(self, event: Event) -> None:
        """Record an event."""
        self._record[type(event)](event)

    @property
    def last_call(self) -> float | None:
        """Unix time of the newest model call; None before the first."""
        return max(self._last.values(), default=None)

    def _observe_last(self, _options: CallbackOptions) -> Iterable[Observation]:
        last = self._last.copy()
        return [Observation(time, {cat.MODEL.key: model}) for model, time in last.items()]

    def _generation(self, event: Generation) -> None:  # noqa: C901, PLR0912 - field by field
        time, span, call = event.time, event.span, event.call
        if event.turns is not None:
            self._cell(cat.CONVERSATION_LENGTH, time).record(event.turns, time, span)
        error_type = event.error_type
        if event.is_conversation:
            if event.duration is not None:
                labels = [(cat.OUTCOME, "success" if event.success else "failure")]
                if error_type is not None:
                    labels.append((cat.ERROR_TYPE, error_type))
                cell = self._cell(cat.CONVERSATION_DURATION, time, *labels)
                cell.record(event.duration, time, span)
            return
        series = self._generations.get(call) or self._series(call, "generation", time)
        if event.cancelled:
            series.cell(cat.GENERATIONS, time, cat.OUTCOME, "cancelled").add(1)
        else:
            (series.success if event.success else series.failure).add(1)
        if event.duration is not None:
            cell = series.durations.get(error_type)
            if cell is None:
                cell = series.new_cell(cat.INFERENCE_DURATION, time, cat.ERROR_TYPE, error_type)
                series.durations[error_type] = cell
            cell.record(event.duration, time, span)
        if event.total_tokens is not None:
            if event.input_tokens is not None:
                if series.input_size is None:
                    series.input_size = series.new_cell(cat.INPUT_TOKENS_PER_CALL, time)
                series.input_size.record(event.input_tokens, time, span)
            if event.output_tokens is not None:
                if series.output_size is None:
                    series.output_size = series.new_cell(cat.OUTPUT_TOKENS_PER_CALL, time)
                series.output_size.record(event.output_tokens, time, span)
        self._usage(series, event)
        if event.unread is not None:
            series.cell(cat.USAGE_UNREAD, time, cat.UNREAD_REASON, event.unread).add(1)
        if event.first_chunk is not None:
            self._chunks(series, event, event.first_chunk)
        reason = event.finish_reason
        if reason is not None:
            cell = series.finish_reasons.get(reason)
            if cell is None:
                cell = series.new_cell(cat.FINISH_REASONS, time, cat.FINISH_REASON, reason)
                series.finish_reasons[reason] = cell
            cell.add(1)
        for cause, count in (event.retries or _NONE).items():
            series.cell(cat.RETRIES, time, cat.ERROR_TYPE, cause).add(count)
        if self._older is not None:
            self._older.record(event)
        model = call.model
        if time > self._last.get(model, 0.0):
            self._last[model] = time

    def _chunks(self, series: _CallSeries, event: Generation, first_chunk: float) -> None:
        time, span = event.time, event.span
        if series.first_chunk is None:
            series.first_chunk = series.new_cell(cat.FIRST_CHUNK, time)
        series.first_chunk.record(first_chunk, time, span)
        if not len(event.chunk_gaps):
            return
        if series.output_chunk is None:
            series.output_chunk = series.new_cell(cat.OUTPUT_CHUNK, time)
        for seconds in event.chunk_gaps:
            series.output_chunk.record(seconds, time, span)

    def _usage(self, series: _CallSeries, event: Generation | Evaluation) -> None:
        time = event.time
        inputs, outputs, read = event.input_tokens, event.output_tokens, event.cache_read_tokens
        if event.by_modality is not None:
            inputs = self._parts(series, cat.INPUT_TOKENS, inputs, event.by_modality.input, time)
            outputs = self._parts(
                series, cat.OUTPUT_TOKENS, outputs, event.by_modality.output, time
            )
            read = self._parts(
                series, cat.CACHE_READ_TOKENS, read, event.by_modality.cache_read, time
            )
        if inputs:
            self._add(series.input, inputs, cat.INPUT_TOKENS)
        if outputs:
            self._add(series.output, outputs, cat.OUTPUT_TOKENS)
        if event.total_tokens:
            self._add(series.total, event.total_tokens, cat.TOTAL_TOKENS)
        for count, row in (
            (read, cat.CACHE_READ_TOKENS),
            (event.cache_write_tokens, cat.CACHE_WRITE_TOKENS),
            (event.reasoning_tokens, cat.REASONING_TOKENS),
        ):
            if count:
                self._add(series.cell(row, time, cat.MODALITY, series.modality), count, row)
        if event.unpriced:
            series.cell(cat.UNPRICED, time).add(1)
        if event.cost is not None:
            source = "reported" if event.cost_reported else "prices"
            self._add(series.cell(cat.COST, time, cat.COST_SOURCE, source), event.cost, cat.COST)

    def _parts(
        self,
        series: _CallSeries,
        row: Instrument,
        count: int | None,
        parts: tuple[tuple[str, int], ...],
        time: float,
    ) -> int:
        """Count tokens whose modality is known; return how many are left."""
        left = count or 0
        for modality, part in parts:
            if part:
                self._add(series.cell(row, time, cat.MODALITY, modality), part, row)
                left -= part
        return left

    def _add(self, cell: BoundSum, amount: float, row: Instrument) -> None:
        if not cell.add(amount):
            self._on_reject(Reason.OVERFLOW, row.name, amount)

    def _evaluation(self, event: Evaluation) -> None:
        time, span = event.time, event.span
        evaluator = (cat.EVALUATOR, event.evaluator)
        outcome = "success" if event.success else "failure"
        self._cell(cat.EVALUATIONS, time, evaluator, (cat.OUTCOME, outcome)).add(1)
        if event.duration is not None:
            labels = [evaluator]
            if event.error_type is not None:
                labels.append((cat.ERROR_TYPE, event.error_type))
            cell = self._cell(cat.EVALUATION_DURATION, time, *labels)
            cell.record(event.duration, time, span)
        for score in event.scores:
            name = (cat.SCORE_NAME, score.name)
            self._cell(cat.SCORES_TOTAL, time, name, evaluator).add(1)
            accumulated = self._cell(cat.SCORE_ACCUMULATED, time, name, evaluator)
            self._add(accumulated, score.value, cat.SCORE_ACCUMULATED)
            low, high = self._scales.get(score.name, (0.0, 1.0))
            # The SDK would log a warning for each negative value.
            if low <= score.value <= high:
                share = (score.value - low) / (high - low)
                self._cell(cat.SCORE, time, name, evaluator).record(share, time, span)
        if event.total_tokens is not None or event.cost is not None:
            self._usage(self._series(event.call, "evaluation", time), event)
        if self._older is not None:
            self._older.record(event)

    def _sample(self, event: Sample) -> None:
        labels = [(cat.VERDICT, "accepted" if event.accepted else "rejected")]
        if event.reason is not None:
            labels.append((cat.SAMPLE_REASON, event.reason))
        self._cell(cat.SAMPLES, event.time, *labels).add(1)

    def _log(self, event: Log) -> None:
        self._cell(cat.LOGS, event.time, (cat.LEVEL, event.level)).add(1)

    def _series(self, call: Call, phase: str, time: float) -> _CallSeries:
        known = self._generations if phase == "generation" else self._evaluations
        series = known.get(call)
        if series is None:
            series = _CallSeries(call, phase, self._instruments, time)
            if len(known) < self._limit:
                known[call] = series
        return series

    def _cell(self, row: Instrument, time: float, *labels: tuple[cat.Label, str]) -> Any:
        key = (row.name, *(value for _, value in labels))
        cell = self._others.get(key)
        if cell is None:
            attributes = {label.key: value for label, value in labels}
            cell = self._instruments[row.name].cell(attributes, time)
            if len(self._others) < self._limit:
                self._others[key] = cell
        return cell
