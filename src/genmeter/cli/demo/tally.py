"""The job's own count of what it told its monitor, for the live view and to check the monitor by."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmeter.cli.demo.actions import End, Told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.cli.demo.actions import Action

__all__ = ["ModelTally", "Tally"]

_KEPT_DURATIONS = 400
_PACE_SECONDS = 10.0


@dataclass(slots=True)
class ModelTally:
    """What one model did.

    Attributes:
        calls: Calls, evaluations by it among them.
        failed: Those of them that failed.
        input_tokens: Tokens of the prompts.
        output_tokens: Tokens of the completions.
        durations: Seconds of its latest calls.
    """

    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_DURATIONS))

    @property
    def failed_share(self) -> float:
        """Share of the calls that failed; 0 where there are none."""
        return self.failed / self.calls if self.calls else 0.0

    def quantile(self, share: float) -> float | None:
        """Give the duration, in seconds, that ``share`` of the latest calls stayed within.

        Args:
            share: From 0 to 1.

        Returns:
            None where there are no calls yet.
        """
        ordered = sorted(self.durations)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


@dataclass(slots=True)
class Tally:
    """What the job did so far.

    Attributes:
        models: By the model's name.
        accepted: Samples that are kept.
        rejected: Samples that are not, by reason.
    """

    models: dict[str, ModelTally] = field(default_factory=dict)
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    _latest: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def calls(self) -> int:
        """Calls of all models."""
        return sum(model.calls for model in self.models.values())

    @property
    def failed(self) -> int:
        """Calls of all models that failed."""
        return sum(model.failed for model in self.models.values())

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompts of all models."""
        return sum(model.input_tokens for model in self.models.values())

    @property
    def output_tokens(self) -> int:
        """Tokens of the completions of all models."""
        return sum(model.output_tokens for model in self.models.values())

    def add(self, action: Action) -> None:
        """Count what is told.

        Args:
            action: A step of the simulator's.
        """
        if isinstance(action, End):
            tokens, is_good = action.tokens, action.error is None
            self._call(action.at, action.model, action.duration, is_good, tokens)
        elif not isinstance(action, Told):
            return
        elif action.method == "record_sample":
            is_accepted, reason = action.args
            self.accepted += is_accepted
            if not is_accepted:
                self.rejected[reason] += 1
        elif model := action.kwargs.get("model_name"):
            duration, is_good = action.args[:2]
            self._call(action.at, model, duration, is_good, action.kwargs)

    def pace(self, now: float) -> tuple[float, float]:
        """Give calls and tokens a second, over the last ten seconds or since the job began.

        Args:
            now: Seconds since the job began.
        """
        self._forget(now)
        seconds = min(now, _PACE_SECONDS)
        if seconds <= 0:
            return 0.0, 0.0
        return len(self._latest) / seconds, sum(tokens for _, tokens in self._latest) / seconds

    def _call(
        self, at: float, name: str, duration: float, is_good: bool, tokens: Mapping[str, Any]
    ) -> None:
        model = self.models.setdefault(name, ModelTally())
        given, made = (tokens.get(f"{kind}_token_count") or 0 for kind in ("prompt", "completion"))
        model.calls += 1
        model.failed += not is_good
        model.input_tokens += given
        model.output_tokens += made
        model.durations.append(duration)
        self._forget(at)
        self._latest.append((at, given + made))

    def _forget(self, now: float) -> None:
        while self._latest and self._latest[0][0] <= now - _PACE_SECONDS:
            self._latest.popleft()
