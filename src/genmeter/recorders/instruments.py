"""Maps events to OpenTelemetry instruments.

A record of the SDK with three attributes costs 6 to 8 µs and copies its attributes each time, so
counters are summed by label set while a batch is drained and added once at its end; only
histograms take a record an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from genmeter import catalogue as cat
from genmeter.catalogue import Instrument, Kind
from genmeter.events import Active, Call, Evaluation, Generation, Log, Metric, Sample
from genmeter.recorders.cells import NO_SPAN, OVERFLOW, Batch, LabelSets
from genmeter.recorders.custom import CustomInstruments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from genmeter.config import MonitorConfig
    from genmeter.events import Event, Reason
    from genmeter.recorders.cells import Attributes, Cell

    Observe = Callable[[CallbackOptions], Iterable[Observation]]

__all__ = ["InstrumentRecorder"]

_COUNTERS = tuple(
    row for row in cat.INSTRUMENTS if row.kind in (Kind.COUNTER, Kind.UP_DOWN_COUNTER)
)


class _CallSeries:
    """The label sets that the calls of one model, step and so on share."""

    __slots__ = (
        *("_base", "_batch", "_errors", "_finish_reasons", "_parts", "_retries", "_sets"),
        *("_tokens", "histogram"),
        *("active", "cost", "failure", "input", "output", "success", "total", "unpriced"),
    )

    def __init__(self, call: Call, phase: str, batch: Batch, sets: LabelSets) -> None:
        base = {
            cat.OPERATION.key: call.operation,
            cat.PROVIDER.key: call.provider,
            cat.MODEL.key: call.model,
            cat.PHASE.key: phase,
        }
        if call.step is not None:
            base[cat.STEP.key] = call.step
        self._base = base
        self._tokens = {**base, cat.MODALITY.key: call.modality}
        self._batch = batch
        self._sets = sets
        self._errors: dict[str | None, Attributes] = {}
        self._finish_reasons: dict[str, Cell] = {}
        self._parts: dict[str, Cell] = {}
        self._retries: dict[str, Cell] = {}
        # Both histograms of tokens have the same label sets, so one count stands for both.
        self.histogram = sets.admit(cat.INPUT_TOKENS_PER_CALL.name, base)
        cell = batch.cell
        self.success = cell(cat.GENERATIONS.name, {**base, cat.OUTCOME.key: "success"})
        self.failure = cell(cat.GENERATIONS.name, {**base, cat.OUTCOME.key: "failure"})
        self.input = cell(cat.INPUT_TOKENS.name, self._tokens)
        self.output = cell(cat.OUTPUT_TOKENS.name, self._tokens)
        self.total = cell(cat.TOTAL_TOKENS.name, base)
        self.active = cell(cat.ACTIVE.name, base)
        self.cost = cell(cat.COST.name, base)
        self.unpriced = cell(cat.UNPRICED.name, base)

    def duration(self, error_type: str | None) -> Attributes:
        """Give the labels of the duration, with the error's type where there is one."""
        attributes = self._errors.get(error_type)
        if attributes is None:
            labels = {} if error_type is None else {cat.ERROR_TYPE.key: error_type}
            attributes = self._sets.admit(cat.INFERENCE_DURATION.name, {**self._base, **labels})
            self._errors[error_type] = attributes
        return attributes

    def part(self, row: Instrument) -> Cell:
        """Give the cell of a part of the tokens, such as those that came from a cache."""
        cell = self._parts.get(row.name)
        if cell is None:
            cell = self._parts[row.name] = self._batch.cell(row.name, self._tokens)
        return cell

    def finish_reason(self, reason: str) -> Cell:
        """Give the cell that counts calls that ended for this reason."""
        return self._labelled(self._finish_reasons, cat.FINISH_REASONS, cat.FINISH_REASON, reason)

    def retry(self, error_type: str) -> Cell:
        """Give the cell that counts retries after errors of this type."""
        return self._labelled(self._retries, cat.RETRIES, cat.ERROR_TYPE, error_type)

    def _labelled(
        self, cells: dict[str, Cell], row: Instrument, label: cat.Label, value: str
    ) -> Cell:
        cell = cells.get(value)
        if cell is None:
            cell = cells[value] = self._batch.cell(row.name, {**self._base, label.key: value})
        return cell


class InstrumentRecorder:
    """Feeds the instruments of one meter. The drain's lock guards it.

    Args:
        meter: The meter to make the instruments of; all of them are made here, since making an
            observable one while a collection runs deadlocks the SDK.
        config: The prices, score scales, custom metrics and limits to use.
        observe: What each observable instrument of the catalogue reads at a collection, by name.
        on_reject: Told the reason, a name and the value that was left out.
    """

    def __init__(
        self,
        meter: Meter,
        config: MonitorConfig,
        *,
        observe: Mapping[str, Observe],
        on_reject: Callable[[Reason, str, object], None],
    ) -> None:
        self._prices = config.prices
        self._scales = dict(config.score_scales)
        self._limit = config.limits.combinations
        self._sets = LabelSets(config.limits.combinations)
        self._batch = Batch(config.limits.combinations, on_reject)
        self._calls: dict[tuple[Call, str], _CallSeries] = {}
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._last: dict[str, float] = {}
        self._touched = False
        for row in _COUNTERS:
            self._batch.register(row.name, _counter(meter, row))
        self._custom = CustomInstruments(config, self._batch, on_reject)
        # Gauges are observed: a synchronous one of an SDK before 1.45 is gone at the next collection.
        observed = {
            **observe,
            cat.LAST_GENERATION.name: self._observe_last,
            cat.CUSTOM_VALUE.name: self._custom.observe_values,
        }
        for row in cat.INSTRUMENTS:
            if row.name in observed:
                _observable(meter, row, observed[row.name])
        self._custom.create(meter)
        histograms = {
            row.name: _histogram(meter, row)
            for row in cat.INSTRUMENTS
            if row.kind is Kind.HISTOGRAM
        }
        self._duration = histograms[cat.INFERENCE_DURATION.name].record
        self._input = histograms[cat.INPUT_TOKENS_PER_CALL.name].record
        self._output = histograms[cat.OUTPUT_TOKENS_PER_CALL.name].record
        self._conversation_duration = histograms[cat.CONVERSATION_DURATION.name].record
        self._conversation_length = histograms[cat.CONVERSATION_LENGTH.name].record
        self._evaluation_duration = histograms[cat.EVALUATION_DURATION.name].record
        self._score = histograms[cat.SCORE.name].record
        self._record: dict[type[Event], Callable[[Any], None]] = {
            Generation: self._generation,
            Evaluation: self._evaluation,
            Metric: self._custom.record,
            Sample: self._sample,
            Log: self._log,
            Active: self._active,
        }

    def announce(self, calls: Iterable[Call]) -> None:
        """Make both outcomes of calls known at 0."""
        for call in calls:
            self._series(call, "generation")
        self._touched = True

    def record(self, event: Event) -> None:
        """Feed an event to its instruments; counters wait for :meth:`flush`."""
        self._touched = True
        self._record[type(event)](event)

    def flush(self) -> None:
        """Hand what waits to the SDK."""
        if not self._touched:
            return
        self._touched = False
        self._batch.flush()

    @property
    def last_call(self) -> float | None:
        """Unix time of the newest call of a model; None before the first."""
        return max(self._last.values(), default=None)

    def _observe_last(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(time, {cat.MODEL.key: model}) for model, time in self._last.copy().items()
        ]

    def _generation(self, event: Generation) -> None:
        context = event.context or NO_SPAN
        if event.turns is not None:
            self._conversation_length(event.turns, {}, context)
        if event.is_conversation:
            self._conversation(event, context)
            return
        series = self._series(event.call, "generation")
        (series.success if event.success else series.failure).add(1)
        if event.duration is not None:
            self._duration(event.duration, series.duration(event.error_type), context)
        if event.total_tokens is not None:
            if event.input_tokens is not None:
                self._input(event.input_tokens, series.histogram, context)
            if event.output_tokens is not None:
                self._output(event.output_tokens, series.histogram, context)
            self._tokens(series, event)
        self._ending(series, event)

    def _ending(self, series: _CallSeries, event: Generation) -> None:
        if event.finish_reason is not None:
            series.finish_reason(event.finish_reason).add(1)
        if event.retries is not None:
            for error_type, count in event.retries.items():
                series.retry(error_type).add(count)
        model = event.call.model
        if event.time > self._last.get(model, 0.0):
            self._last[model] = event.time

    def _conversation(self, event: Generation, context: Context) -> None:
        if event.duration is not None:
            attributes = {cat.OUTCOME.key: "success" if event.success else "failure"}
            if event.error_type is not None:
                attributes[cat.ERROR_TYPE.key] = event.error_type
            admitted = self._sets.admit(cat.CONVERSATION_DURATION.name, attributes)
            self._conversation_duration(event.duration, admitted, context)

    def _tokens(self, series: _CallSeries, event: Generation | Evaluation) -> None:
        series.input.add(event.input_tokens or 0)
        series.output.add(event.output_tokens or 0)
        series.total.add(event.total_tokens or 0)
        if event.cache_read_tokens:
            series.part(cat.CACHE_READ_TOKENS).add(event.cache_read_tokens)
        if event.cache_write_tokens:
            series.part(cat.CACHE_WRITE_TOKENS).add(event.cache_write_tokens)
        if event.reasoning_tokens:
            series.part(cat.REASONING_TOKENS).add(event.reasoning_tokens)
        if self._prices is not None:
            cost = self._prices.cost(
                event.call.model,
                event.input_tokens or 0,
                event.output_tokens or 0,
                event.cache_read_tokens,
            )
            if cost is None:
                series.unpriced.add(1)
            else:
                series.cost.add(cost)

    def _evaluation(self, event: Evaluation) -> None:
        context = event.context or NO_SPAN
        evaluator = event.evaluator
        outcome = "success" if event.success else "failure"
        self._cell(cat.EVALUATIONS, (cat.EVALUATOR, evaluator), (cat.OUTCOME, outcome)).add(1)
        if event.duration is not None:
            attributes = {cat.EVALUATOR.key: evaluator}
            if event.error_type is not None:
                attributes[cat.ERROR_TYPE.key] = event.error_type
            admitted = self._sets.admit(cat.EVALUATION_DURATION.name, attributes)
            self._evaluation_duration(event.duration, admitted, context)
        for score in event.scores:
            labels = (cat.SCORE_NAME, score.name), (cat.EVALUATOR, evaluator)
            self._cell(cat.SCORES_TOTAL, *labels).add(1)
            self._cell(cat.SCORE_ACCUMULATED, *labels).add(score.value)
            low, high = self._scales.get(score.name, (0.0, 1.0))
            # The SDK's histograms drop what is negative with a warning each time.
            if low <= score.value <= high:
                share = (score.value - low) / (high - low)
                attributes = {label.key: value for label, value in labels}
                self._score(share, self._sets.admit(cat.SCORE.name, attributes), context)
        if event.total_tokens is not None:
            self._tokens(self._series(event.call, "evaluation"), event)

    def _sample(self, event: Sample) -> None:
        labels = [(cat.VERDICT, "accepted" if event.accepted else "rejected")]
        if event.reason is not None:
            labels.append((cat.SAMPLE_REASON, event.reason))
        self._cell(cat.SAMPLES, *labels).add(1)

    def _log(self, event: Log) -> None:
        self._cell(cat.LOGS, (cat.LEVEL, event.level)).add(1)

    def _active(self, event: Active) -> None:
        self._series(event.call, "generation").active.add(event.delta)

    def _series(self, call: Call, phase: str) -> _CallSeries:
        series = self._calls.get((call, phase))
        if series is None:
            series = _CallSeries(call, phase, self._batch, self._sets)
            if len(self._calls) < self._limit:
                self._calls[(call, phase)] = series
            # Known at 0 from the first call on, so that rates see the first increase.
            for cell in (series.input, series.output, series.total):
                cell.add(0)
            if phase == "generation":
                series.success.add(0)
                series.failure.add(0)
        return series

    def _cell(self, row: Instrument, *labels: tuple[cat.Label, str]) -> Cell:
        key = (row.name, *(value for _, value in labels))
        cell = self._cells.get(key)
        if cell is None:
            cell = self._batch.cell(row.name, {label.key: value for label, value in labels})
            if cell.attributes is not OVERFLOW:
                self._cells[key] = cell
        return cell


def _observable(meter: Meter, row: Instrument, observe: Observe) -> None:
    make = (
        meter.create_observable_counter
        if row.kind is Kind.OBSERVABLE_COUNTER
        else meter.create_observable_gauge
    )
    make(row.name, [observe], row.unit, row.help)


def _counter(meter: Meter, row: Instrument) -> Any:
    if row.kind is Kind.COUNTER:
        return meter.create_counter(row.name, row.unit, row.help)
    return meter.create_up_down_counter(row.name, row.unit, row.help)


def _histogram(meter: Meter, row: Instrument) -> Histogram:
    return meter.create_histogram(
        row.name, row.unit, row.help, explicit_bucket_boundaries_advisory=row.bounds
    )
