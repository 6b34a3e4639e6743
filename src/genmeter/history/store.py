"""The local history of one monitor: bounded rings for windows, exact totals for ever.

Calls and evaluations share one ring (both cost tokens), scores and custom values another, samples
a third. Names are interned; labels are bounded, so the names are too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.config.monitor import METADATA_BYTES
from genmeter.events.afterimage import free_data, metric_data, score_data
from genmeter.events.jsonable import jsonable_text
from genmeter.events.model import RATE_LIMITED, Evaluation, Generation, Metric, Sample
from genmeter.history import snapshot
from genmeter.history._token_sums import TokenSums
from genmeter.history.ring import (
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
    Names,
    Ring,
    SideTable,
    kept_since,
)
from genmeter.history.series import OldSeries
from genmeter.history.windows import GroupSum, WindowRows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.config.prices import PriceTable
    from genmeter.events.model import Event
    from genmeter.history._token_sums import TokenTotals
    from genmeter.history.series import Samples
    from genmeter.history.snapshot import Snapshot
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import HistoryQuery

__all__ = ["MOST", "History", "Minute", "Minutes"]

_MINUTE = 60.0
MOST = 3 * 24 * 60 + 1
"""Minutes that are kept, of those in which anything was told.

As many as a window of three days, the longest of an alert, can touch.
"""


class Minute(NamedTuple):
    """What was told in a minute, or in several; ``cost`` is in USD."""

    calls: int = 0
    failures: int = 0
    tokens: int = 0
    cost: float = 0.0

    @property
    def successes(self) -> int:
        """Calls that succeeded."""
        return self.calls - self.failures


class Minutes:
    """Sums of the last minutes in which anything was told, however many calls they had.

    Each time counts for the minute that it lies in, whatever came before it: a clock that is set
    back or forward neither loses nor moves anything. As in the rings, what was told by a clock that
    ran ahead lies within every window until the clock is there again.
    """

    def __init__(self) -> None:
        # By the Unix time that they begin at, in the order of their first call.
        self._minutes: dict[float, list[float]] = {}
        self._start = self._end = float("-inf")
        self._current: list[float] = []

    def add(self, time: float, calls: int, failures: int, tokens: int, cost: float) -> None:
        """Add a call.

        Args:
            time: Unix time in seconds.
            calls: 1, or 0 for what only cost tokens.
            failures: 1 where it failed.
            tokens: What it took.
            cost: USD.
        """
        if not self._start <= time < self._end:
            self._turn_to(time)
        current = self._current
        current[0] += calls
        current[1] += failures
        current[2] += tokens
        current[3] += cost

    def total(self, since: float) -> Minute:
        """Sum the minutes that ended after a time; the one that it lies in counts whole.

        Args:
            since: Unix time in seconds.
        """
        kept = [sums for start, sums in self._minutes.items() if start + _MINUTE > since]
        if not kept:
            return Minute()
        calls, failures, tokens, cost = (sum(column) for column in zip(*kept, strict=True))
        return Minute(int(calls), int(failures), int(tokens), float(cost))

    def _turn_to(self, time: float) -> None:
        self._start = time // _MINUTE * _MINUTE
        self._end = self._start + _MINUTE
        self._current = self._minutes.setdefault(self._start, [0, 0, 0, 0.0])
        if len(self._minutes) > MOST:
            del self._minutes[next(iter(self._minutes))]


_CALL_COLUMNS = (
    *(("time", "d"), ("duration", "d")),
    *(("input", "q"), ("output", "q"), ("total", "q")),
    *(("cache_read", "q"), ("cache_write", "q"), ("reasoning", "q")),
    *(("turns", "q"), ("model", "H"), ("step", "H"), ("provider", "H"), ("operation", "H")),
    *(("error_type", "H"), ("finish_reason", "H"), ("evaluator", "H"), ("flags", "H")),
    ("rate_limited", "H"),
)
_COST_COLUMN = ("cost", "d")  # 8 bytes a call, which nobody pays who gave no prices
_VALUE_COLUMNS = (
    *(("event", "q"), ("time", "d"), ("value", "d")),
    *(("name", "H"), ("evaluator", "H")),
)
_SAMPLE_COLUMNS = (("time", "d"), ("accepted", "B"))
_NAN = float("nan")


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
        columns = _CALL_COLUMNS if prices is None else (*_CALL_COLUMNS, _COST_COLUMN)
        self._calls = Ring(columns, capacity)
        self._values = Ring(_VALUE_COLUMNS, capacity)
        self._samples = Ring(_SAMPLE_COLUMNS, capacity)
        self._minutes = Minutes()
        self._prices = prices
        self._scales = scales or {}
        self._last_call: float | None = None
        self._data = SideTable(metadata_bytes)
        self._names = Names()
        self._tokens = TokenSums(self._calls, self._names)
        self._old = OldSeries(self._calls, self._values, self._names)
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
    def ring_capacity(self) -> int:
        """Rows that each ring can keep."""
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
        """Make a history like this one that holds nothing."""
        return History(
            self._calls.capacity, self._data.max_bytes, prices=self._prices, scales=self._scales
        )

    def window(
        self, rows: HistoryQuery, by: Sequence[Label], since: float
    ) -> dict[tuple[str | None, ...], GroupSum]:
        """Sum rows since a time, by group.

        Args:
            rows: Which rows, and what of them.
            by: The labels whose values make a group.
            since: Unix time in seconds. Where it is earlier than what the ring keeps, the sums by
                the minute answer, if they have what is asked for (the minute that it lies in is
                then counted whole), else what is kept.

        Returns:
            Sums by the values of ``by``, of groups that have any rows. What comes from the sums by
            the minute has the number of rows only where that is what was asked for, and neither
            the least nor the most value (NaN).
        """
        ring = {"calls": self._calls, "scores": self._values, "samples": self._samples}[rows.ring]
        if rows.by_minute and not by and kept_since(ring, since) is not None:
            total = getattr(self._minutes.total(since), rows.by_minute)
            counted = total if rows.column is None else 0
            return {(): GroupSum(counted, float(total), _NAN, _NAN)} if total else {}
        recent = WindowRows(
            ring, self._names, since, scales=self._scales, has_prices=self._prices is not None
        )
        return recent.sums(rows, by)

    def snapshot(self, since: float | None = None) -> Snapshot:
        """Copy what is kept.

        Args:
            since: Unix time in seconds; None means all that is kept.
        """
        starts = [kept_since(ring, since) for ring in (self._calls, self._values)]
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
        return self._tokens.totals(since)

    def samples(self, name: str, since: float | None = None) -> Samples | None:
        """Give the samples of a metric by its old name; None where it was never recorded.

        Args:
            name: Such as ``generation_time``, ``model_usage:MODEL`` or what ``record_metric``
                was given.
            since: Unix time in seconds; None means all that are kept.
        """
        return self._old.samples(name, since)

    def sampled_names(self) -> list[str]:
        """List the old names of all that was recorded, sorted."""
        return self._old.sampled_names()

    def _generation(self, event: Generation) -> None:
        flags = GENERATION
        if event.success:
            flags |= SUCCESS
        if event.model_given:
            flags |= MODEL_GIVEN
            self._old.models.add(event.call.model)
        if event.is_conversation:
            flags |= CONVERSATION
        if event.turns is not None:
            flags |= HAS_TURNS
        if event.finish_reason is not None:
            self._old.finish_reasons.add(event.finish_reason)
        limited = 0
        if not event.is_conversation:
            if event.retries is not None:
                limited = event.retries.get(RATE_LIMITED, 0)
            if self._last_call is None or event.time > self._last_call:
                self._last_call = event.time
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
        self._old.values.add(name)
        numbers = self._names
        self._values.append(event, time, value, numbers[name], numbers[evaluator])

    def _keep_data(self, ring: Ring, data: dict[str, Any]) -> None:
        if data:
            self._data.put(ring, jsonable_text(data))

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
        self._old.flags |= flags
        call = event.call
        tokens = (
            event.input_tokens or 0,
            event.output_tokens or 0,
            event.total_tokens or 0,
            event.cache_read_tokens,
            event.cache_write_tokens,
            event.reasoning_tokens,
        )
        self._tokens.add(call.model, tokens, flags)
        prices = self._prices
        cost = None
        if prices is not None and event.total_tokens is not None:
            cost = prices.cost(call.model, tokens[0], tokens[1], tokens[3])
        is_call = (flags & INFERENCE) == GENERATION
        self._minutes.add(
            event.time, is_call, is_call and not event.success, tokens[2], cost or 0.0
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
            *(() if prices is None else (_NAN if cost is None else cost,)),
        )
