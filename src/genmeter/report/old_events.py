"""Rows of AfterImage's monitor, joined to the events that they were."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genmeter.report.ledger import EVALUATION, GENERATION, Key, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.report.ledger import Ledger

__all__ = ["OPENING", "OldEvents"]

_TOKENS = ("prompt_token_count", "completion_token_count", "total_token_count")
OPENING = frozenset({"generation_time", "evaluation_time"})
"""The first row of an event."""
_NAMES = frozenset({*OPENING, *_TOKENS, "success_rate", "conversation_length"}).union(
    {"evaluation_error_rate"}
)
_MODEL_USAGE = "model_usage:"
_MODEL = "model_name"
_NOT_A_MODEL = ("", "None")  # what a `model_name=None` leaves in the name of a metric
_MOST_OPEN = 256
_UNNAMED = ""


class OldEvents:
    """Joins rows by their time, which all rows of an event share, and counts the events.

    A row says neither the step nor, but for tokens, the model. A call that names no model (as all
    that failed) counts for the only model of the source, and for ``unknown`` where it has several.

    Of the rows of one time, one of :data:`OPENING` has to come first.

    Args:
        ledger: What to add to.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # By time, oldest first; rows of several threads may lie between those of one event.
        self._open: dict[float, list[dict[str, Any]]] = {}

    def knows(self, name: str) -> bool:
        """Say whether a metric of this name may be part of an event."""
        return name in _NAMES or name.startswith(_MODEL_USAGE)

    def add(self, name: str, value: Any, row: Mapping[str, Any], when: float) -> bool:
        """Take a row.

        Args:
            name: The metric's name.
            value: Its value, as it was read.
            row: Its metadata.
            when: Unix time in seconds.

        Returns:
            Whether its value can be used.
        """
        part = _MODEL_USAGE if name.startswith(_MODEL_USAGE) else name
        events = self._open.get(when, [])
        event = next((each for each in reversed(events) if part not in each), None)
        if part in OPENING or (event is None and row.get(_MODEL) is not None):
            # Two opening rows of one time are two events, whatever else the first one has.
            event = self._begin(when)
        if event is None:
            return True  # a sample of `record_metric` under an old name
        is_usable = type(value) in (float, int) and 0 <= value < math.inf
        event[part] = value if is_usable else None
        model = name.removeprefix(_MODEL_USAGE) if part is _MODEL_USAGE else row.get(_MODEL)
        if isinstance(model, str) and model not in _NOT_A_MODEL:
            event[_MODEL] = model
        if "success" in row:
            event["success"] = row["success"]
        return is_usable

    def finish(self) -> None:
        """Count the events that are still open, and name the models of those without."""
        for events in self._open.values():
            for event in events:
                self._close(event)
        self._open.clear()
        named = {key.model for key in self._ledger.tallies} - {_UNNAMED, "unknown"}
        model = named.pop() if len(named) == 1 else "unknown"
        for key in [key for key in self._ledger.tallies if key.model == _UNNAMED]:
            tally = self._ledger.tallies.pop(key)
            self._ledger.tally(key._replace(model=model)).merge(tally)

    def _begin(self, when: float) -> dict[str, Any]:
        if when not in self._open and len(self._open) >= _MOST_OPEN:
            for event in self._open.pop(next(iter(self._open))):
                self._close(event)
        begun: dict[str, Any] = {"when": when}
        self._open.setdefault(when, []).append(begun)
        return begun

    def _close(self, event: dict[str, Any]) -> None:
        ledger = self._ledger
        has_tokens = any(event.get(name) is not None for name in _TOKENS)
        model = event.get(_MODEL, _UNNAMED)
        phase = EVALUATION if "evaluation_time" in event else GENERATION
        is_told = phase == EVALUATION or "success_rate" in event
        if is_told or has_tokens:
            ledger.happened(event["when"])
        if phase == EVALUATION:
            ledger.evaluations.add(is_failure=_evaluation_failed(event))
        elif is_told and "conversation_length" in event and not model and not has_tokens:
            ledger.conversations.add(is_failure=not event["success_rate"])
        elif is_told:
            _add_call(ledger.tally(Key(model, None, None, phase)), event)
        if has_tokens:
            _add_tokens(ledger.tally(Key(model, None, None, phase)), event)


def _evaluation_failed(event: Mapping[str, Any]) -> bool:
    success = event.get("success")
    return bool(event.get("evaluation_error_rate")) if success is None else not success


def _add_call(tally: Tally, event: Mapping[str, Any]) -> None:
    tally.calls += 1
    tally.failures += not event["success_rate"]
    if (duration := event.get("generation_time")) is not None:
        tally.durations.add(duration)


def _add_tokens(tally: Tally, event: Mapping[str, Any]) -> None:
    prompt, completion, total = (event.get(name) for name in _TOKENS)
    if total is None:  # AfterImage leaves it out where the provider did
        total = int(prompt or 0) + int(completion or 0)
    tally.prompt_tokens += int(prompt or 0)
    tally.completion_tokens += int(completion or 0)
    tally.total_tokens += int(total)
    tally.token_calls += 1
