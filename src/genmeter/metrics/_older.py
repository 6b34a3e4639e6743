"""Records calls under the older names too; see :mod:`genmeter.schema.older_metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.events.model import Generation
from genmeter.metrics.binding import cells_of
from genmeter.schema import metrics as cat
from genmeter.schema import older_metrics as older

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from genmeter.events.model import Call, Evaluation
    from genmeter.metrics.binding import BoundHistogram
    from genmeter.schema.metrics import Instrument, Label

__all__ = ["OlderInstruments"]


class OlderInstruments:
    """Records calls in the instruments of the older names; only the owner of the pipeline uses it.

    Args:
        meter: The meter in which the instruments are created.
        limit: Maximum number of label sets of each.
    """

    def __init__(self, meter: Meter, limit: int) -> None:
        self._limit = limit
        self._instruments = {
            row.name: cells_of(
                meter.create_histogram(
                    row.name, row.unit, row.help, explicit_bucket_boundaries_advisory=row.bounds
                ),
                limit,
            )
            for row in older.OLDER_INSTRUMENTS
        }
        self.reset()

    def reset(self) -> None:
        """Forget every cell, in a forked child."""
        self._cells: dict[tuple[str, Call, str | None], BoundHistogram] = {}

    def record(self, event: Generation | Evaluation) -> None:
        """Record the tokens of a call or an evaluation, and the duration of a call."""
        time, span, call = event.time, event.span, event.call
        for count, kind in ((event.input_tokens, "input"), (event.output_tokens, "output")):
            if count is not None:
                cell = self._cell(older.TOKEN_USAGE, call, time, older.TOKEN_TYPE, kind)
                cell.record(count, time, span)
        # The duration of an evaluation is not that of a call: it may make several, or none.
        if isinstance(event, Generation) and event.duration is not None:
            error = event.error_type
            cell = self._cell(older.OPERATION_DURATION, call, time, cat.ERROR_TYPE, error)
            cell.record(event.duration, time, span)

    def _cell(
        self, row: Instrument, call: Call, time: float, label: Label, value: str | None
    ) -> BoundHistogram:
        key = (row.name, call, value)
        found = self._cells.get(key)
        if found is None:
            attributes = {
                cat.OPERATION.key: call.operation,
                cat.PROVIDER.key: call.provider,
                older.SYSTEM.key: older.OLDER_SYSTEMS.get(call.provider, call.provider),
                cat.MODEL.key: call.model,
            }
            if call.response_model is not None:
                attributes[cat.RESPONSE_MODEL.key] = call.response_model
            if value is not None:
                attributes[label.key] = value
            found = self._instruments[row.name].cell(attributes, time)
            if len(self._cells) < self._limit:
                self._cells[key] = found
        return found
