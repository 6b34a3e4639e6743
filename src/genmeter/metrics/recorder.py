"""Records events in OpenTelemetry instruments, whoever made the meter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from genmeter.events.model import Call, Evaluation, Generation, Log, Metric, Reason, Sample
from genmeter.metrics.binding import cells_of
from genmeter.metrics.custom import CustomInstruments
from genmeter.schema import metrics as cat
from genmeter.schema.metrics import Instrument, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter

    from genmeter.config.monitor import MonitorConfig
    from genmeter.events.model import Event
    from genmeter.metrics.binding import Attributes, BoundHistogram, BoundSum, Cells

    Observe = Callable[[CallbackOptions], Iterable[Observation]]

__all__ = ["MetricsRecorder", "call_attributes"]

_NONE: dict[str, int] = {}
_SUMS = (Kind.COUNTER, Kind.UP_DOWN_COUNTER)
_MAKERS = {
    Kind.OBSERVABLE_COUNTER: "create_observable_counter",
    Kind.OBSERVABLE_UP_DOWN_COUNTER: "create_observable_up_down_counter",
    Kind.OBSERVABLE_GAUGE: "create_observable_gauge",
    Kind.GAUGE: "create_observable_gauge",
}


def call_attributes(call: Call, phase: str) -> dict[str, str]:
    """Return the labels that all instruments of a call share.

    Args:
        call: The call.
        phase: ``generation`` or ``evaluation``.
    """
    attributes = {
        cat.OPERATION.key: call.operation,
        cat.PROVIDER.key: call.provider,
        cat.MODEL.key: call.model,
        cat.PHASE.key: phase,
    }
    if call.step is not None:
        attributes[cat.STEP.key] = call.step
    return attributes


class _CallSeries:
    """The cells of the calls of one model, step and so on.

    Both outcomes and the sums of tokens are there at 0 from the first call on, so that rates see
    the first increase; what only some calls have is made when it is used.
    """

    __slots__ = (
        *("_base", "_cells", "_instruments", "_time", "_tokens"),
        *("failure", "input", "input_size", "output", "output_size", "success", "total"),
        *("durations", "finish_reasons"),
    )

    def __init__(
        self, call: Call, phase: str, instruments: Mapping[str, Cells], time: float
    ) -> None:
        self._base = base = call_attributes(call, phase)
        self._tokens = tokens = {**base, cat.MODALITY.key: call.modality}
        self._instruments = instruments
        self._time = time
        self._cells: dict[tuple[str, str], BoundSum] = {}
        self.durations: dict[str | None, BoundHistogram] = {}
        self.finish_reasons: dict[str, BoundSum] = {}

        def cell(row: Instrument, attributes: Attributes) -> Any:
            return instruments[row.name].cell(attributes, time)

        self.input: BoundSum = cell(cat.INPUT_TOKENS, tokens)
        self.output: BoundSum = cell(cat.OUTPUT_TOKENS, tokens)
        self.total: BoundSum = cell(cat.TOTAL_TOKENS, base)
        at_zero = [self.input, self.output, self.total]
        self.input_size: BoundHistogram | None = None
        self.output_size: BoundHistogram | None = None
        self.success: BoundSum | None = None
        self.failure: BoundSum | None = None
        if phase == "generation":
            self.success = cell(cat.GENERATIONS, {**base, cat.OUTCOME.key: "success"})
            self.failure = cell(cat.GENERATIONS, {**base, cat.OUTCOME.key: "failure"})
            at_zero += [self.success, self.failure]
        for each in at_zero:
            each.add(0)

    def duration(self, error_type: str | None, time: float) -> BoundHistogram:
        """Return the cell of the duration, with the error's type where there is one."""
        found = self.durations.get(error_type)
        if found is None:
            labels = {} if error_type is None else {cat.ERROR_TYPE.key: error_type}
            row = self._instruments[cat.INFERENCE_DURATION.name]
            found = self.durations[error_type] = row.cell({**self._base, **labels}, time)
        return found

    def size(self, row: Instrument, time: float) -> BoundHistogram:
        """Return the cell of the tokens by call, of the input or of the output.

        It is made when the first tokens come: a histogram is not exposed before, and Prometheus
        takes no birth that is an hour older than the first sample.
        """
        found: BoundHistogram = self._instruments[row.name].cell(self._base, time)
        if row is cat.INPUT_TOKENS_PER_CALL:
            self.input_size = found
        else:
            self.output_size = found
        return found

    def finish_reason(self, reason: str, time: float) -> BoundSum:
        """Return the cell that counts calls that ended for this reason."""
        found = self.finish_reasons.get(reason)
        if found is None:
            attributes = {**self._base, cat.FINISH_REASON.key: reason}
            row = self._instruments[cat.FINISH_REASONS.name]
            found = self.finish_reasons[reason] = row.cell(attributes, time)
        return found

    def retry(self, error_type: str, time: float) -> BoundSum:
        """Return the cell that counts retries after errors of this type."""
        return self._cell(
            cat.RETRIES, error_type, {**self._base, cat.ERROR_TYPE.key: error_type}, time
        )

    def part(self, row: Instrument, time: float) -> BoundSum:
        """Return the cell of a part of the tokens, such as those that came from a cache."""
        return self._cell(row, "", self._tokens, time)

    def once(self, row: Instrument, time: float) -> BoundSum:
        """Return the cell of a counter that only has the labels of the call."""
        return self._cell(row, "", self._base, time)

    def _cell(self, row: Instrument, value: str, attributes: Attributes, time: float) -> BoundSum:
        key = (row.name, value)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = self._instruments[row.name].cell(attributes, time)
        return found


class MetricsRecorder:
    """Feeds the instruments of one meter; the pipeline's owner alone uses it.

    Args:
        meter: The meter to make the instruments of; all of them are made here, since making an
            observable one while a collection runs deadlocks the SDK.
        config: The score scales, custom metrics and limits to use.
        observe: What each observable instrument of the catalogue reads at a collection, by name.
        on_reject: Called with the reason, a name and the value that was dropped.
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
        # Gauges are observed: a synchronous one of an SDK before 1.45 is gone at the next collection.
        observed = {
            **observe,
            cat.LAST_GENERATION.name: self._observe_last,
            cat.CUSTOM_VALUE.name: self._custom.observe_values,
        }
        for row in cat.INSTRUMENTS:
            if row.name in observed:
                make = getattr(meter, _MAKERS[row.kind])
                make(row.name, [observed[row.name]], row.unit, row.help)
        for row in cat.INSTRUMENTS:
            if row.kind in _SUMS:
                self._instruments[row.name] = self._sum(meter, row)
        self._custom.create(meter)
        for row in cat.INSTRUMENTS:
            if row.kind is Kind.HISTOGRAM:
                self._instruments[row.name] = self._histogram(meter, row)
        self._record: dict[type[Event], Callable[[Any], None]] = {
            Generation: self._generation,
            Evaluation: self._evaluation,
            Metric: self._custom.record,
            Sample: self._sample,
            Log: self._log,
        }
        self.reset()

    def reset(self) -> None:
        """Forget every cell, in a forked child, whose provider starts at 0."""
        self._calls: dict[tuple[Call, str], _CallSeries] = {}
        self._generations: dict[Call, _CallSeries] = {}
        self._others: dict[tuple[str, ...], Any] = {}
        self._last: dict[str, float] = {}
        self._custom.reset()

    def preregister(self, calls: Iterable[Call], time: float) -> None:
        """Make both outcomes of calls known at 0.

        Args:
            calls: The calls.
            time: Since when, in Unix seconds.
        """
        for call in calls:
            self._series(call, "generation", time)

    def record(self, event: Event) -> None:
        """Feed an event to its instruments."""
        self._record[type(event)](event)

    @property
    def last_call(self) -> float | None:
        """Unix time of the newest call of a model; None before the first."""
        return max(self._last.values(), default=None)

    def _observe_last(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(time, {cat.MODEL.key: model}) for model, time in self._last.copy().items()
        ]

    def _generation(self, event: Generation) -> None:  # noqa: C901 - one event, field by field
        time, span, call = event.time, event.span, event.call
        if event.turns is not None:
            self._other(cat.CONVERSATION_LENGTH, time).record(event.turns, time, span)
        if event.is_conversation:
            self._conversation(event)
            return
        series = self._generations.get(call)
        if series is None:
            series = self._generations_of(call, time)
        (series.success if event.success else series.failure).add(1)  # type: ignore[union-attr]
        if event.duration is not None:
            cell = series.durations.get(event.error_type)
            if cell is None:
                cell = series.duration(event.error_type, time)
            cell.record(event.duration, time, span)
        if event.total_tokens is not None:
            if event.input_tokens is not None:
                size = series.input_size or series.size(cat.INPUT_TOKENS_PER_CALL, time)
                size.record(event.input_tokens, time, span)
            if event.output_tokens is not None:
                size = series.output_size or series.size(cat.OUTPUT_TOKENS_PER_CALL, time)
                size.record(event.output_tokens, time, span)
            self._tokens(series, event)
        reason = event.finish_reason
        if reason is not None:
            ended = series.finish_reasons.get(reason)
            (series.finish_reason(reason, time) if ended is None else ended).add(1)
        for error_type, count in (event.retries or _NONE).items():
            series.retry(error_type, time).add(count)
        model = call.model
        if time > self._last.get(model, 0.0):
            self._last[model] = time

    def _conversation(self, event: Generation) -> None:
        if event.duration is not None:
            labels = [(cat.OUTCOME, "success" if event.success else "failure")]
            if event.error_type is not None:
                labels.append((cat.ERROR_TYPE, event.error_type))
            cell = self._other(cat.CONVERSATION_DURATION, event.time, *labels)
            cell.record(event.duration, event.time, event.span)

    def _tokens(self, series: _CallSeries, event: Generation | Evaluation) -> None:
        if event.input_tokens:
            self._add(series.input, event.input_tokens, cat.INPUT_TOKENS)
        if event.output_tokens:
            self._add(series.output, event.output_tokens, cat.OUTPUT_TOKENS)
        if event.total_tokens:
            self._add(series.total, event.total_tokens, cat.TOTAL_TOKENS)
        time = event.time
        for count, row in (
            (event.cache_read_tokens, cat.CACHE_READ_TOKENS),
            (event.cache_write_tokens, cat.CACHE_WRITE_TOKENS),
            (event.reasoning_tokens, cat.REASONING_TOKENS),
        ):
            if count:
                self._add(series.part(row, time), count, row)
        cost = event.cost
        if cost is not None:
            if math.isnan(cost):
                series.once(cat.UNPRICED, time).add(1)
            else:
                self._add(series.once(cat.COST, time), cost, cat.COST)

    def _add(self, cell: BoundSum, amount: float, row: Instrument) -> None:
        if not cell.add(amount):
            self._on_reject(Reason.OVERFLOW, row.name, amount)

    def _evaluation(self, event: Evaluation) -> None:
        time, span = event.time, event.span
        evaluator = (cat.EVALUATOR, event.evaluator)
        outcome = "success" if event.success else "failure"
        self._other(cat.EVALUATIONS, time, evaluator, (cat.OUTCOME, outcome)).add(1)
        if event.duration is not None:
            labels = [evaluator]
            if event.error_type is not None:
                labels.append((cat.ERROR_TYPE, event.error_type))
            cell = self._other(cat.EVALUATION_DURATION, time, *labels)
            cell.record(event.duration, time, span)
        for score in event.scores:
            name = (cat.SCORE_NAME, score.name)
            self._other(cat.SCORES_TOTAL, time, name, evaluator).add(1)
            accumulated = self._other(cat.SCORE_ACCUMULATED, time, name, evaluator)
            self._add(accumulated, score.value, cat.SCORE_ACCUMULATED)
            low, high = self._scales.get(score.name, (0.0, 1.0))
            # The SDK's histograms drop negative values with a warning each time.
            if low <= score.value <= high:
                share = (score.value - low) / (high - low)
                self._other(cat.SCORE, time, name, evaluator).record(share, time, span)
        if event.total_tokens is not None:
            self._tokens(self._series(event.call, "evaluation", time), event)

    def _sample(self, event: Sample) -> None:
        labels = [(cat.VERDICT, "accepted" if event.accepted else "rejected")]
        if event.reason is not None:
            labels.append((cat.SAMPLE_REASON, event.reason))
        self._other(cat.SAMPLES, event.time, *labels).add(1)

    def _log(self, event: Log) -> None:
        self._other(cat.LOGS, event.time, (cat.LEVEL, event.level)).add(1)

    def _generations_of(self, call: Call, time: float) -> _CallSeries:
        series = self._series(call, "generation", time)
        if len(self._generations) < self._limit:
            self._generations[call] = series
        return series

    def _series(self, call: Call, phase: str, time: float) -> _CallSeries:
        series = self._calls.get((call, phase))
        if series is None:
            series = _CallSeries(call, phase, self._instruments, time)
            if len(self._calls) < self._limit:
                self._calls[(call, phase)] = series
        return series

    def _other(self, row: Instrument, time: float, *labels: tuple[cat.Label, str]) -> Any:
        key = (row.name, *(value for _, value in labels))
        cell = self._others.get(key)
        if cell is None:
            attributes = {label.key: value for label, value in labels}
            cell = self._instruments[row.name].cell(attributes, time)
            if len(self._others) < self._limit:
                self._others[key] = cell
        return cell

    def _sum(self, meter: Meter, row: Instrument) -> Cells:
        make = meter.create_counter
        if row.kind is Kind.UP_DOWN_COUNTER:
            make = meter.create_up_down_counter  # type: ignore[assignment]
        return cells_of(make(row.name, row.unit, row.help), self._limit)

    def _histogram(self, meter: Meter, row: Instrument) -> Cells:
        made = meter.create_histogram(
            row.name, row.unit, row.help, explicit_bucket_boundaries_advisory=row.bounds
        )
        return cells_of(made, self._limit)
