"""From rows of metrics, as handlers and exports have them, to sums."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genmeter.report.ledger import EVALUATION, GENERATION, Key
from genmeter.report.old_events import OldEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter.report.ledger import Ledger, Tally

__all__ = ["PHASES", "UNKNOWN_MODEL", "MetricRows"]

UNKNOWN_MODEL = "unknown"
_CONVERSATION = "conversation"
PHASES = frozenset({GENERATION, EVALUATION, _CONVERSATION})
"""What ours say of each row of an event."""


class MetricRows:
    """Counts rows, each of which says whose it is; those of AfterImage's monitor are joined first.

    Args:
        ledger: What to add to.
        cutoff: Unix time; what is older does not count. None counts all.
    """

    def __init__(self, ledger: Ledger, cutoff: float | None = None) -> None:
        self._ledger = ledger
        self._cutoff = -math.inf if cutoff is None else cutoff
        self._old = OldEvents(ledger)
        self._tallies: dict[tuple[Any, ...], Tally] = {}
        self._count: dict[str, Callable[[Any, Mapping[str, Any], float], None]] = {
            "generation_time": self._duration,
            "success_rate": self._outcome,
            "evaluation_error_rate": self._evaluation,
            "prompt_token_count": self._prompt,
            "completion_token_count": self._completion,
            "total_token_count": self._total,
        }

    def matters(self, name: str, row: Mapping[str, Any]) -> bool:
        """Say whether a row may count, before its time is read.

        Args:
            name: The metric's name.
            row: Its metadata.
        """
        phase = row.get("phase")
        if phase is None:
            return self._old.knows(name)
        return name in self._count and phase in PHASES

    def add(self, name: str, value: Any, row: Mapping[str, Any], when: float, is_old: bool) -> bool:
        """Count a row that matters.

        Args:
            name: The metric's name.
            value: Its value, as it was read.
            row: Its metadata.
            when: Unix time in seconds.
            is_old: AfterImage's monitor wrote it. A row of ours without a phase is a sample of
                ``record_metric``, which counts as no call whatever its name.

        Returns:
            Whether the row can be used (or is none that counts).

        Raises:
            TypeError: A model, step or provider that is no text.
        """
        if when < self._cutoff:
            return True
        if is_old:
            return self._old.add(name, value, row, when)
        if row.get("phase") is None:
            return True
        if type(value) not in (float, int) or not 0 <= value < math.inf:
            return False
        self._count[name](value, row, when)
        return True

    def finish(self) -> None:
        """Count what still waits for further rows; call it after the last one."""
        self._old.finish()

    def _tally(self, row: Mapping[str, Any]) -> Tally:
        get = row.get
        key = (get("model_name"), get("step"), get("provider"), get("phase"))
        tally = self._tallies.get(key)
        if tally is None:
            if not all(each is None or isinstance(each, str) for each in key):
                raise TypeError(f"{key!r} holds what is no text")
            model, step, provider, phase = key
            tally = self._ledger.tally(
                Key(model or UNKNOWN_MODEL, step or None, provider or None, phase or GENERATION)
            )
            self._tallies[key] = tally
        return tally

    def _outcome(self, value: float, row: Mapping[str, Any], when: float) -> None:
        if row["phase"] == GENERATION:
            tally = self._tally(row)
            tally.calls += 1
            tally.failures += not value
        elif row["phase"] == _CONVERSATION:
            self._ledger.conversations.add(is_failure=not value)
        self._ledger.happened(when)

    def _evaluation(self, value: float, _row: Mapping[str, Any], when: float) -> None:
        self._ledger.evaluations.add(is_failure=bool(value))
        self._ledger.happened(when)

    def _duration(self, value: float, row: Mapping[str, Any], _when: float) -> None:
        if row["phase"] == GENERATION:
            self._tally(row).durations.add(value)

    def _prompt(self, value: float, row: Mapping[str, Any], _when: float) -> None:
        tally = self._tally(row)
        tally.prompt_tokens += int(value)
        tally.cache_read_tokens += _part(row, "cache_read_token_count")
        tally.cache_write_tokens += _part(row, "cache_write_token_count")

    def _completion(self, value: float, row: Mapping[str, Any], _when: float) -> None:
        tally = self._tally(row)
        tally.completion_tokens += int(value)
        tally.reasoning_tokens += _part(row, "reasoning_token_count")

    def _total(self, value: float, row: Mapping[str, Any], _when: float) -> None:
        tally = self._tally(row)
        tally.total_tokens += int(value)
        tally.token_calls += 1


def _part(row: Mapping[str, Any], name: str) -> int:
    value: Any = row.get(name)
    if type(value) in (float, int) and 0 <= value < math.inf:
        return int(value)
    return 0
