"""The local history of one monitor: bounded rings for windows, exact totals for ever.

Calls and evaluations share one ring (both cost tokens), scores and custom values another. Names
are interned; labels are bounded, so the names are too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.config_parts import METADATA_BYTES
from genmeter.events import RATE_LIMITED, Evaluation, Generation, Metric, Sample
from genmeter.plain import plain_text
from genmeter.recorders import snapshot
from genmeter.recorders.columns import Ring
from genmeter.recorders.flags import (
    ANY_TOKENS,
    CONVERSATION,
    EVALUATION,
    GENERATION,
    HAS_INPUT,
    HAS_OUTPUT,
    HAS_TOTAL,
    HAS_TURNS,
    INFERENCE,
    MODEL_GIVEN,
    SUCCESS,
)
from genmeter.recorders.minutes import Minutes
from genmeter.recorders.names import Names, spelled
from genmeter.recorders.old_metrics import free_data, metric_data, score_data
from genmeter.recorders.side_table import SideTable
from genmeter.recorders.sums import sum_by_label
from genmeter.recorders.windows import GroupSum, WindowRows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from genmeter.catalogue import Label
    from genmeter.events import Event
    from genmeter.prices import PriceTable
    from genmeter.recorders.snapshot import Snapshot
    from genmeter.terms import RowSum

__all__ = ["History", "Samples", "TokenTotals", "Tokens"]

_CALL_COLUMNS = (
    *(("time", "d"), ("duration", "d")),
    *(("input", "q"), ("output", "q"), ("total", "q")),
    *(("cache_read", "q"), ("cache_write", "q"), ("reasoning", "q")),
    *(("turns", "q"), ("model", "H"), ("step", "H"), ("provider", "H"), ("operation", "H")),
    *(("error_type", "H"), ("finish_reason", "H"), ("evaluator", "H"), ("flags", "H")),
    *(("rate_limited", "H"), ("cost", "d")),
)
_VALUE_COLUMNS = (
    *(("event", "q"), ("time", "d"), ("value", "d")),
    *(("name", "H"), ("evaluator", "H")),
)
_SAMPLE_COLUMNS = (("time", "d"), ("accepted", "B"))
_TOKEN_COLUMNS = ("input", "output", "total", "cache_read", "cache_write", "reasoning")
_NAN = float("nan")


class _Series(NamedTuple):
    """How the calls' ring gives an old metric: flags that must be set, and a column.

    Without a column the value is 1 where ``success`` equals the outcome, else 0.
    """

    need: int
    column: str | None
    success: bool = True


_SERIES = {
    "generation_time": _Series(GENERATION, "duration"),
    "success_rate": _Series(GENERATION, None),
    "error_rate": _Series(GENERATION, None, success=False),
    "prompt_token_count": _Series(HAS_INPUT, "input"),
    "completion_token_count": _Series(HAS_OUTPUT, "output"),
    "total_token_count": _Series(HAS_TOTAL, "total"),
    "conversation_length": _Series(HAS_TURNS, "turns"),
    "evaluation_time": _Series(EVALUATION, "duration"),
    "evaluation_error_rate": _Series(EVALUATION, None, success=False),
}


class Tokens(NamedTuple):
    """Tokens of one model; ``calls`` are its calls, failed ones too, and evaluations with tokens."""

    input: int = 0
    output: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    calls: int = 0


class TokenTotals(NamedTuple):
    """Tokens of each model that reported any.

    Attributes:
        by_model: By the model's name.
        kept_since: From when on (Unix time, seconds), where that is later than asked.
    """

    by_model: dict[str, Tokens]
    kept_since: float | None


class Samples(NamedTuple):
    """Samples of one metric, in no certain order.

    Attributes:
        time: Unix times in seconds.
        value: The values, as many.
        kept_since: From when on (Unix time) they are kept, where that is later than asked.
    """

    time: npt.NDArray[np.float64]
    value: npt.NDArray[Any]
    kept_since: float | None


class History:
    """What one monitor was told, for reports and windows. The drain's lock guards it.

    Args:
        capacity: Calls and evaluations that are kept, as many scores and custom values, and as
            many samples.
        metadata_bytes: Most bytes of free metadata and feedback that are kept with them.
        prices: What calls cost; None where nobody asked.
        scales: Lowest and highest value of each score that is not on 0..1.
    """

    def __init__(
        self,
        capacity: int,
        metadata_bytes: int = METADATA_BYTES,
        *,
        prices: PriceTable | None = None,
        scales: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self._calls = Ring(_CALL_COLUMNS, capacity)
        self._values = Ring(_VALUE_COLUMNS, capacity)
        self._samples = Ring(_SAMPLE_COLUMNS, capacity)
        self._minutes = Minutes()
        self._prices = prices
        self._scales = scales or {}
        self._last_call: float | None = None
        self._data = SideTable(metadata_bytes)
        self._names = Names()
        self._totals: dict[str, list[int]] = {}
        self._token_models: set[str] = set()
        self._flags_seen = 0
        self._models_given: set[str] = set()
        self._finish_reasons: set[str] = set()
        self._value_names: set[str] = set()
        self._record: dict[type[Event], Callable[[Any], None]] = {
            Generation: self._generation,
            Evaluation: self._evaluation,
            Metric: self._metric,
            Sample: self._sample,
        }

    @property
    def size(self) -> int:
        """Rows that are kept, in all rings."""
        return self._calls.size + self._values.size + self._samples.size

    @property
    def capacity(self) -> int:
        """Rows that can be kept, in all rings."""
        return self._calls.capacity + self._values.capacity + self._samples.capacity

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
        """Make a history like this one that holds nothing."""
        return History(
            self._calls.capacity, self._data.max_bytes, prices=self._prices, scales=self._scales
        )

    def window(
        self, rows: RowSum, by: Sequence[Label], since: float
    ) -> dict[tuple[str | None, ...], GroupSum]:
        """Sum rows since a time, by group.

        Args:
            rows: Which rows, and what of them.
            by: The labels whose values make a group.
            since: Unix time in seconds. Where it is earlier than what the ring keeps, the sums by
                the minute answer, if they have what is asked for, else what is kept.
        """
        ring = {"calls": self._calls, "scores": self._values, "samples": self._samples}[rows.ring]
        if rows.by_minute and not by and self._kept_since(ring, since) is not None:
            total = getattr(self._minutes.total(since), rows.by_minute)
            counted = int(total) if rows.column is None else 0
            return {(): GroupSum(counted, total, float("nan"), float("nan"))}
        recent = WindowRows(
            ring, self._names, since, scales=self._scales, has_prices=self._prices is not None
        )
        return recent.sums(rows, by)

    def snapshot(self, since: float | None = None) -> Snapshot:
        """Copy what is kept.

        Args:
            since: Unix time in seconds; None means all that is kept.
        """
        starts = [self._kept_since(ring, since) for ring in (self._calls, self._values)]
        return snapshot.take(
            self._calls,
            self._values,
            self._names.names,
            self._data,
            since=since,
            kept_since=max((start for start in starts if start is not None), default=None),
        )

    def record(self, event: Event) -> None:
        """Keep an event, if it is of a kind that the history keeps."""
        keep = self._record.get(type(event))
        if keep is not None:
            keep(event)

    def token_totals(self, since: float | None = None) -> TokenTotals:
        """Sum the tokens by model.

        Args:
            since: Unix time in seconds; None means since the start, which is exact for ever.
        """
        if since is None:
            totals = {model: Tokens(*self._totals[model]) for model in self._token_models}
            return TokenTotals(totals, None)
        time, model, flags = self._calls.columns("time", "model", "flags")
        recent = time >= since
        has_tokens = recent & ((flags & ANY_TOKENS) != 0)
        chosen = has_tokens | (recent & ((flags & INFERENCE) == GENERATION))
        names = self._names.names
        sums = sum_by_label(model, self._calls.columns(*_TOKEN_COLUMNS), chosen, len(names))
        has_any: npt.NDArray[np.bool_] = sums[:-1].max(axis=0) > 0
        # Sums of 0 are rare: a failed call reports no tokens, and only some report that it took 0.
        if (~has_any & (sums[-1] > 0)).any():
            has_any = np.bincount(model[has_tokens], minlength=len(names)) > 0
        by_model = {
            names[number]: Tokens(*sums[:, number].tolist()) for number in np.flatnonzero(has_any)
        }
        return TokenTotals(by_model, self._kept_since(self._calls, since))

    def samples(self, name: str, since: float | None = None) -> Samples | None:
        """Give the samples of a metric by its old name.

        Args:
            name: Such as ``generation_time``, ``model_usage:MODEL`` or what ``record_metric``
                was given.
            since: Unix time in seconds; None means all that are kept.

        Returns:
            The samples; None where the name was never recorded.
        """
        if not self._was_recorded(name):
            name = spelled(name)
            if not self._was_recorded(name):
                return None
        parts, rings = [], []
        if name in _SERIES or name.startswith(("model_usage:", "finish_reason:")):
            parts.append(self._from_calls(name))
            rings.append(self._calls)
        if name in self._value_names:
            time, value, names = self._values.columns("time", "value", "name")
            chosen = names == self._names[name]
            rings.append(self._values)
            parts.append((time[chosen], value[chosen]))
        filled = [part for part in parts if len(part[0])] or parts[:1]
        time, value = (
            filled[0] if len(filled) == 1 else map(np.concatenate, zip(*filled, strict=True))
        )
        if since is not None:
            recent = time >= since
            time, value = time[recent], value[recent]
        kept_since = [
            start for ring in rings if (start := self._kept_since(ring, since)) is not None
        ]
        return Samples(time, value, max(kept_since, default=None))

    def sampled_names(self) -> list[str]:
        """List the old names of all that was recorded, sorted."""
        calls = [name for name in _SERIES if self._was_recorded(name)]
        models = [f"model_usage:{model}" for model in self._models_given]
        reasons = [f"finish_reason:{reason}" for reason in self._finish_reasons]
        return sorted({*calls, *models, *reasons, *self._value_names})

    def _was_recorded(self, name: str) -> bool:
        series = _SERIES.get(name)
        if series is not None and (self._flags_seen & series.need) == series.need:
            return True
        kind, _, value = name.partition(":")
        if kind == "model_usage" and value in self._models_given:
            return True
        if kind == "finish_reason" and value.lower() in self._finish_reasons:
            return True
        return name in self._value_names

    def _from_calls(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        time, flags = self._calls.columns("time", "flags")
        series = _SERIES.get(name)
        if series is None:
            kind, _, value = name.partition(":")
            is_model = kind == "model_usage"
            number = self._names.get(value if is_model else value.lower(), -1)
            (labels,) = self._calls.columns("model" if is_model else "finish_reason")
            need = GENERATION | (MODEL_GIVEN if is_model else 0)
            chosen = (labels == number) & ((flags & need) == need)
            column = np.ones(len(time))
        else:
            chosen = (flags & series.need) == series.need
            if series.column is None:
                column = ((flags & SUCCESS) == series.success).astype(float)
            else:
                (column,) = self._calls.columns(series.column)
                if series.column == "duration":
                    chosen &= ~np.isnan(column)
        return time[chosen], column[chosen]

    def _kept_since(self, ring: Ring, since: float | None) -> float | None:
        if ring.appended <= ring.capacity:
            return None
        (time,) = ring.columns("time")
        oldest = float(time[ring.in_order()[0]])
        return None if since is not None and since >= oldest else oldest

    def _generation(self, event: Generation) -> None:
        flags = GENERATION
        if event.success:
            flags |= SUCCESS
        if event.model_given:
            flags |= MODEL_GIVEN
            self._models_given.add(event.call.model)
        if event.is_conversation:
            flags |= CONVERSATION
        if event.turns is not None:
            flags |= HAS_TURNS
        if event.finish_reason is not None:
            self._finish_reasons.add(event.finish_reason)
        limited = 0
        if not event.is_conversation:
            limited = (event.retries or {}).get(RATE_LIMITED, 0)
            self._last_call = max(event.time, self._last_call or event.time)
        self._append(event, flags, event.finish_reason, None, event.turns or 0, limited)
        self._keep_data(self._calls, free_data(event))

    def _evaluation(self, event: Evaluation) -> None:
        flags = EVALUATION | (SUCCESS if event.success else 0)
        self._append(event, flags, None, event.evaluator, 0, 0)
        self._keep_data(self._calls, free_data(event))
        serial = self._calls.appended - 1
        for score in event.scores:
            name = f"evaluation_score_{score.name}"
            self._value(event.time, name, score.value, serial, event.evaluator)
            self._keep_data(self._values, score_data(score.feedback))

    def _metric(self, event: Metric) -> None:
        self._value(event.time, event.name, event.value, -1, None)
        self._keep_data(self._values, metric_data(event))

    def _sample(self, event: Sample) -> None:
        self._samples.append(event.time, event.accepted)

    def _value(
        self, time: float, name: str, value: float, event: int, evaluator: str | None
    ) -> None:
        self._value_names.add(name)
        numbers = self._names
        self._values.append(event, time, value, numbers[name], numbers[evaluator])

    def _keep_data(self, ring: Ring, data: dict[str, Any]) -> None:
        if data:
            self._data.put(ring, plain_text(data))

    def _append(
        self,
        event: Generation | Evaluation,
        flags: int,
        finish_reason: str | None,
        evaluator: str | None,
        turns: int,
        rate_limited: int,
    ) -> None:
        if event.input_tokens is not None:
            flags |= HAS_INPUT
        if event.output_tokens is not None:
            flags |= HAS_OUTPUT
        if event.total_tokens is not None:
            flags |= HAS_TOTAL
        self._flags_seen |= flags
        call = event.call
        tokens = (
            event.input_tokens or 0,
            event.output_tokens or 0,
            event.total_tokens or 0,
            event.cache_read_tokens,
            event.cache_write_tokens,
            event.reasoning_tokens,
        )
        if flags & ANY_TOKENS:
            self._token_models.add(call.model)
            self._add_totals(call.model, tokens)
        elif (flags & INFERENCE) == GENERATION:
            self._add_totals(call.model, tokens)
        cost = self._cost(event, tokens)
        is_call = (flags & INFERENCE) == GENERATION
        self._minutes.add(
            event.time,
            is_call,
            is_call and not event.success,
            tokens[2],
            0.0 if cost is None else cost,
        )
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
            _NAN if cost is None else cost,
        )

    def _cost(self, event: Generation | Evaluation, tokens: tuple[int, ...]) -> float | None:
        if self._prices is None or event.total_tokens is None:
            return None
        return self._prices.cost(event.call.model, tokens[0], tokens[1], tokens[3])

    def _add_totals(self, model: str, tokens: tuple[int, ...]) -> None:
        row = self._totals.get(model)
        if row is None:
            row = self._totals[model] = [0] * 7
        row[0] += tokens[0]
        row[1] += tokens[1]
        row[2] += tokens[2]
        row[3] += tokens[3]
        row[4] += tokens[4]
        row[5] += tokens[5]
        row[6] += 1
