"""The samples of AfterImage's metrics, read from a history's rings by their old names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmeter.history.ring import (
    EVALUATION,
    GENERATION,
    HAS_INPUT,
    HAS_OUTPUT,
    HAS_TOTAL,
    HAS_TURNS,
    MODEL_GIVEN,
    SUCCESS,
    kept_since,
    spelled,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from genmeter.history.ring import Names, Ring

__all__ = ["OldSeries", "Samples"]


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


class OldSeries:
    """Reads the rings by old names, and knows which of these were ever told.

    The history that fills the rings fills the attributes too: the rings forget.

    Args:
        calls: The ring of calls and evaluations.
        others: The ring of scores and custom values.
        numbers: What the numbers in their label columns stand for.

    Attributes:
        flags: All flags that any row of ``calls`` has had.
        models: The models that calls named.
        finish_reasons: The finish reasons of calls.
        values: The names in ``others``.
    """

    def __init__(self, calls: Ring, others: Ring, numbers: Names) -> None:
        self._calls = calls
        self._others = others
        self._names = numbers
        self.flags = 0
        self.models: set[str] = set()
        self.finish_reasons: set[str] = set()
        self.values: set[str] = set()

    def samples(self, name: str, since: float | None = None) -> Samples | None:
        """Give the samples of a metric by its old name.

        Args:
            name: Such as ``generation_time``, ``model_usage:MODEL`` or what ``record_metric``
                was given.
            since: Unix time in seconds; None means all that are kept.

        Returns:
            The samples; None where the name was never recorded.
        """
        if not self._was_told(name):
            name = spelled(name)
            if not self._was_told(name):
                return None
        parts, rings = [], []
        if name in _SERIES or name.startswith(("model_usage:", "finish_reason:")):
            parts.append(self._from_calls(name))
            rings.append(self._calls)
        if name in self.values:
            time, value, names = self._others.columns("time", "value", "name")
            chosen = names == self._names[name]
            rings.append(self._others)
            parts.append((time[chosen], value[chosen]))
        filled = [part for part in parts if len(part[0])] or parts[:1]
        time, value = (
            filled[0] if len(filled) == 1 else map(np.concatenate, zip(*filled, strict=True))
        )
        if since is not None:
            recent = time >= since
            time, value = time[recent], value[recent]
        starts = [start for ring in rings if (start := kept_since(ring, since)) is not None]
        return Samples(time, value, max(starts, default=None))

    def sampled_names(self) -> list[str]:
        """List the old names of all that was recorded, sorted."""
        calls = [name for name in _SERIES if self._was_told(name)]
        models = [f"model_usage:{model}" for model in self.models]
        reasons = [f"finish_reason:{reason}" for reason in self.finish_reasons]
        return sorted({*calls, *models, *reasons, *self.values})

    def _was_told(self, name: str) -> bool:
        series = _SERIES.get(name)
        if series is not None and (self.flags & series.need) == series.need:
            return True
        kind, _, value = name.partition(":")
        if kind == "model_usage" and value in self.models:
            return True
        if kind == "finish_reason" and value.lower() in self.finish_reasons:
            return True
        return name in self.values

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
