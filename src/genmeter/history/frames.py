"""A snapshot of the history as frames."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.config.checks import one_of
from genmeter.history.metadata import (
    add_to_fixed,
    empty_column,
    metadata_columns,
    parse_objects,
    typed_array,
)
from genmeter.history.ring import Flag
from genmeter.history.samples import (
    PHASES,
    free_records,
    microseconds,
    records_of,
    row_labels,
    sample_table,
    token_parts,
)
from genmeter.schema.afterimage import METADATA, SCORE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import pandas as pd
    from pandas.api.extensions import ExtensionArray

    from genmeter.history.samples import Codes, SampleTable
    from genmeter.history.snapshot import Snapshot

    Mask = npt.NDArray[np.bool_]

__all__ = ["KINDS", "SAMPLE_METADATA", "iso_time", "samples_frame", "to_frame", "utc_index"]

_OUTCOMES = ("", "success", "failure", "cancelled")
SAMPLE_METADATA = METADATA
"""The metadata columns of every frame of samples, with their dtypes."""


def to_frame(snapshot: Snapshot, kind: str) -> pd.DataFrame:
    """Return a history's rows as a frame, oldest row first.

    Every kind except ``samples`` begins with ``time`` (datetime64[ns, UTC]) and ends with a column
    ``metadata_KEY`` for each key that callers recorded beyond the columns below: the entries of
    ``metadata``, unknown keywords, ``error`` and ``retries``. Their dtype is ``boolean``, ``Int64``,
    ``Float64`` or ``string`` if all values of a key have one such type; otherwise it is ``string``
    and each cell is JSON text. Beyond 250 keys, the rarer ones share the column
    ``metadata_other_keys`` as JSON objects. Durations are seconds (float64, NaN if unknown),
    counts are Int64 and names ``string`` (<NA> if unknown or absent).

    - ``generations``: ``time``, ``duration_seconds``, ``success`` (bool), ``model``, ``step``,
      ``provider``, ``operation``, ``response_model`` (that answered), ``outcome`` (``success``,
      ``failure`` or ``cancelled``), ``input_tokens``, ``output_tokens``, ``total_tokens``,
      ``cache_read_tokens``, ``cache_write_tokens``, ``reasoning_tokens``, ``cost_usd`` (float64,
      NaN if unknown), ``finish_reason``, ``error_type``, ``usage_unread`` (why the usage is
      unknown). A row is a call of a model.
    - ``conversations``: ``time``, ``duration_seconds``, ``success`` (bool), ``turns``, ``step``,
      ``error_type``. A row is a conversation; its calls have their own rows.
    - ``evaluations``: ``time``, ``duration_seconds``, ``success`` (bool), ``evaluator``, ``model``
      (if tokens are known), ``step``, ``provider``, the six counts of tokens, ``error_type``,
      then ``score_NAME`` (float64) and ``feedback_NAME`` for each score.
    - ``metrics``: ``time``, ``name``, ``value`` (float64). A row is a value of ``record_metric``.
    - ``samples``: ``metric_name``, ``timestamp`` (datetime64[ns, UTC]), ``value`` (float64), then
      ``metadata_KEY``: always the keys of :data:`SAMPLE_METADATA`, then the callers'. These are the
      rows of an export: one for each sample of each of AfterImage's metrics, sorted by metric and
      age. ``success``, ``error_type`` and the callers' keys are set on an event's first row only.

    Args:
        snapshot: The history's rows.
        kind: One of the above.

    Returns:
        The frame. If older rows were overwritten, its ``attrs`` contain ``kept_since`` (ISO 8601),
        the time since which all rows are kept; if rows lost their metadata for lack of room,
        ``data_cut``, their number.

    Raises:
        ConfigError: ``kind`` is unknown.
    """
    frame = KINDS[one_of(*KINDS)("kind", kind)](snapshot)
    if snapshot.kept_since is not None:
        frame.attrs["kept_since"] = iso_time(snapshot.kept_since)
    if snapshot.data_cut:
        frame.attrs["data_cut"] = snapshot.data_cut
    return frame


def samples_frame(snapshot: Snapshot, table: SampleTable) -> pd.DataFrame:
    """Return the frame of kind ``samples`` from a table of the same snapshot."""
    import pandas as pd

    rows = table.rows
    length = len(rows.time)
    # A score outlives its evaluation if only the evaluations' ring is full.
    without_call = np.flatnonzero((rows.own >= 0) & (rows.call < 0))
    values = snapshot.values  # noqa: PD011 (not a frame)
    orphan = without_call[values.event[rows.own[without_call]] >= 0]
    labels = row_labels(snapshot)
    phase, evaluator = labels.phase[rows.call], labels.evaluator[rows.call]
    phase[orphan] = PHASES.index("evaluation")
    evaluator[orphan] = values.evaluator[rows.own[orphan]]
    error = np.append(snapshot.calls.error_type, 0)[rows.call]
    success = np.append((snapshot.calls.flags & Flag.SUCCESS) != 0, np.False_)[rows.call]
    names = snapshot.names
    fixed: dict[str, ExtensionArray] = {
        "phase": _texts(PHASES, phase),
        "model_name": _texts(names, labels.model[rows.call]),
        "step": _texts(names, labels.step[rows.call]),
        "provider": _texts(names, labels.provider[rows.call]),
        "response_model": _texts(names, labels.response_model[rows.call]),
        "evaluator_type": _texts(names, evaluator),
        "feedback": empty_column("string", length),
        "score_label": empty_column("string", length),
        **_parts_of_tokens(snapshot, table),
        "success": pd.arrays.BooleanArray(success, ~rows.is_first),
        "error_type": _texts(names, np.where(rows.is_first, error, 0)),
    }
    of_calls, of_values = free_records(snapshot, table)
    # A score that is the first row of its evaluation has the metadata of both.
    recorded = dict(of_calls)
    for row, data in add_to_fixed(fixed, of_values):
        recorded[row] = {**recorded.get(row, {}), **data}
    free = metadata_columns(list(recorded.items()), length)
    metric = np.repeat(np.arange(len(table.names)), np.diff(table.starts))
    return pd.DataFrame(
        {
            "metric_name": _texts(("", *table.names), metric + 1),
            "timestamp": utc_index(rows.time),
            "value": rows.value,
            **{f"metadata_{key}": column for key, column in {**fixed, **free}.items()},
        }
    )


def utc_index(times: npt.NDArray[np.int64]) -> pd.DatetimeIndex:
    """Convert microseconds since 1970 to times of dtype datetime64[ns, UTC]."""
    import pandas as pd

    return pd.DatetimeIndex(times.astype("M8[us]").astype("M8[ns]"), tz="UTC")


def iso_time(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _parts_of_tokens(snapshot: Snapshot, table: SampleTable) -> dict[str, ExtensionArray]:
    import pandas as pd

    slices = dict(table.slices())
    columns: dict[str, ExtensionArray] = {}
    for key, metric, counts in token_parts(snapshot.calls):
        values = np.zeros(len(table.rows.time), np.int64)
        at = slices.get(metric, slice(0, 0))
        values[at] = np.append(counts, 0)[table.rows.call[at]]
        columns[key] = pd.arrays.IntegerArray(values, values <= 0)
    return columns


def _generations(snapshot: Snapshot) -> pd.DataFrame:
    calls = snapshot.calls
    rows = _Rows(snapshot, (calls.flags & Flag.INFERENCE) == Flag.GENERATION)
    return rows.frame(
        {
            "model": rows.names(calls.model),
            "step": rows.names(calls.step),
            "provider": rows.names(rows.labels.provider),
            "operation": rows.names(calls.operation),
            "response_model": rows.names(calls.response_model),
            "outcome": rows.outcomes(),
            **rows.tokens(),
            "cost_usd": rows.values(calls.cost),
            "finish_reason": rows.names(calls.finish_reason),
            "error_type": rows.names(calls.error_type),
            "usage_unread": rows.names(calls.unread),
        }
    )


def _conversations(snapshot: Snapshot) -> pd.DataFrame:
    calls = snapshot.calls
    rows = _Rows(snapshot, (calls.flags & Flag.CONVERSATION) != 0)
    return rows.frame(
        {
            "turns": rows.counts(calls.turns, Flag.HAS_TURNS),
            "step": rows.names(calls.step),
            "error_type": rows.names(calls.error_type),
        }
    )


def _evaluations(snapshot: Snapshot) -> pd.DataFrame:
    calls, values = snapshot.calls, snapshot.values  # noqa: PD011 (not a frame)
    rows = _Rows(snapshot, (calls.flags & Flag.EVALUATION) != 0)
    serials = calls.serial[rows.at]
    position = np.searchsorted(serials, values.event)
    kept = np.append(serials, -2)[position] == values.event  # -1: a value without an evaluation
    scores: dict[str, Any] = {}
    feedback: dict[str, Any] = {}
    for number in sorted(np.unique(values.name[kept]), key=snapshot.names.__getitem__):
        name = snapshot.names[number].removeprefix(SCORE_PREFIX)
        chosen = np.flatnonzero(kept & (values.name == number))
        score = np.full(len(serials), np.nan)
        score[position[chosen]] = values.value[chosen]
        data = [snapshot.value_data.get(serial, "{}") for serial in values.serial[chosen].tolist()]
        texts = np.full(len(serials), None, object)
        texts[position[chosen]] = [each.get("feedback") for each in parse_objects(data)]
        scores[f"score_{name}"] = score
        feedback[f"feedback_{name}"] = typed_array(list(texts), "string")
    return rows.frame(
        {
            "evaluator": rows.names(calls.evaluator),
            "model": rows.names(rows.labels.model),
            "step": rows.names(calls.step),
            "provider": rows.names(rows.labels.provider),
            **rows.tokens(),
            "error_type": rows.names(calls.error_type),
            **scores,
            **feedback,
        }
    )


def _metrics(snapshot: Snapshot) -> pd.DataFrame:
    import pandas as pd

    values = snapshot.values  # noqa: PD011 (not a frame)
    at = np.flatnonzero(values.event < 0)
    return pd.DataFrame(
        {
            "time": utc_index(microseconds(values.time[at])),
            "name": _texts(snapshot.names, values.name[at]),
            "value": values.value[at],
            **_free(snapshot.value_data, values.serial[at]),
        }
    )


class _Rows:
    """The calls in a wide frame, and its columns."""

    def __init__(self, snapshot: Snapshot, chosen: Mask) -> None:
        self._snapshot = snapshot
        self._flags = snapshot.calls.flags[chosen]
        self.at = np.flatnonzero(chosen)
        self.labels = row_labels(snapshot)

    def frame(self, columns: dict[str, Any]) -> pd.DataFrame:
        import pandas as pd

        calls = self._snapshot.calls
        return pd.DataFrame(
            {
                "time": utc_index(microseconds(calls.time[self.at])),
                "duration_seconds": calls.duration[self.at],
                "success": (self._flags & Flag.SUCCESS) != 0,
                **columns,
                **_free(self._snapshot.call_data, calls.serial[self.at]),
            }
        )

    def names(self, codes: Codes) -> ExtensionArray:
        return _texts(self._snapshot.names, codes[self.at])

    def values(self, column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return column[self.at]

    def outcomes(self) -> ExtensionArray:
        is_success = (self._flags & Flag.SUCCESS) != 0
        is_cancelled = (self._flags & Flag.CANCELLED) != 0
        return _texts(_OUTCOMES, np.where(is_success, 1, np.where(is_cancelled, 3, 2)))

    def counts(
        self, column: npt.NDArray[np.int64], flag: int, *, is_part: bool = False
    ) -> ExtensionArray:
        import pandas as pd

        values = column[self.at]
        is_unknown = (self._flags & flag) == 0
        return pd.arrays.IntegerArray(values, is_unknown & (values == 0) if is_part else is_unknown)

    def tokens(self) -> dict[str, ExtensionArray]:
        calls = self._snapshot.calls
        return {
            "input_tokens": self.counts(calls.input, Flag.HAS_INPUT),
            "output_tokens": self.counts(calls.output, Flag.HAS_OUTPUT),
            "total_tokens": self.counts(calls.total, Flag.HAS_TOTAL),
            "cache_read_tokens": self.counts(calls.cache_read, Flag.HAS_INPUT, is_part=True),
            "cache_write_tokens": self.counts(calls.cache_write, Flag.HAS_INPUT, is_part=True),
            "reasoning_tokens": self.counts(calls.reasoning, Flag.HAS_OUTPUT, is_part=True),
        }


def _free(texts: dict[int, str], serials: npt.NDArray[np.int64]) -> dict[str, ExtensionArray]:
    records = records_of(texts, serials, np.arange(len(serials)))
    columns = metadata_columns(records, len(serials))
    return {f"metadata_{key}": column for key, column in columns.items()}


def _texts(names: tuple[str, ...], codes: npt.NDArray[Any]) -> ExtensionArray:
    """Return names by index; index 0 is <NA>."""
    positions = np.where(codes == 0, -1, codes.astype(np.intp))
    return typed_array(list(names), "string").take(positions, allow_fill=True)


KINDS: dict[str, Callable[[Snapshot], pd.DataFrame]] = {
    "generations": _generations,
    "conversations": _conversations,
    "evaluations": _evaluations,
    "metrics": _metrics,
    "samples": lambda snapshot: samples_frame(snapshot, sample_table(snapshot)),
}
"""The function that creates each kind of frame."""
