"""Random jobs for tests of alerts: phases of calls, conversations, evaluations and samples.

A real monitor with a fake clock records a job, so its history and its instruments have the same
events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import SearchStrategy

    from genmeter import GenerationMonitor

PRICES = {"atlas": (2.0, 8.0), "birch": (1.0, 4.0)}
"""USD per million tokens; cedar has no price."""
SCALES = {"grade": (1.0, 5.0)}
MODELS = ("atlas", "birch", "cedar")


@dataclass(frozen=True)
class Calls:
    """A phase of a job: similar calls of a model at regular intervals.

    Attributes:
        count: The number of calls.
        gap: Seconds between two calls.
        pause: Seconds before the first call.
        failing: Every n-th call fails; 0 for none.
        seconds: The duration of each; None for an invalid one, which is rejected.
    """

    count: int = 10
    gap: int = 10
    pause: int = 0
    model: str | None = "atlas"
    step: str | None = None
    failing: int = 0
    seconds: float | None = 1.0
    prompt: int | None = 100
    completion: int | None = 50
    unitemised: int = 0
    finish_reason: str | None = "stop"
    rate_limited: int = 0
    turns: int | None = None

    def record(self, monitor: GenerationMonitor, number: int) -> None:
        """Record one call, and a conversation if there are turns."""
        total = None
        if self.unitemised:
            total = (self.prompt or 0) + (self.completion or 0) + self.unitemised
        fails = bool(self.failing) and number % self.failing == 0
        keywords: dict[str, Any] = {
            "model_name": self.model,
            "step": self.step,
            "prompt_token_count": self.prompt,
            "completion_token_count": None if fails else self.completion,
            "total_token_count": total,
            "finish_reason": None if fails else self.finish_reason,
            "retries": ["rate_limited"] * self.rate_limited,
            "error": TimeoutError("late") if fails else None,
        }
        monitor.track_generation(
            float("nan") if self.seconds is None else self.seconds, not fails, **keywords
        )
        if self.turns is not None:
            monitor.track_generation(60.0, not fails, conversation_length=self.turns)


@dataclass(frozen=True)
class Evaluations:
    """A phase of similar evaluations; see :class:`Calls`."""

    count: int = 10
    gap: int = 10
    pause: int = 0
    evaluator: str = "judge"
    failing: int = 0
    scores: tuple[tuple[str, float], ...] = (("coherence", 0.9),)
    tokens: int | None = None

    def record(self, monitor: GenerationMonitor, number: int) -> None:
        """Record one evaluation."""
        fails = bool(self.failing) and number % self.failing == 0
        monitor.track_evaluation(
            0.5,
            not fails,
            self.evaluator,
            {} if fails else dict(self.scores),
            model_name="birch",
            prompt_token_count=self.tokens,
        )


@dataclass(frozen=True)
class Samples:
    """A phase of samples, of which every n-th is rejected; see :class:`Calls`."""

    count: int = 10
    gap: int = 10
    pause: int = 0
    rejected: int = 0

    def record(self, monitor: GenerationMonitor, number: int) -> None:
        """Record one sample."""
        monitor.record_sample(not self.rejected or number % self.rejected != 0, "too_short")


@dataclass(frozen=True)
class FailedExports:
    """A phase of failed pushes; see :class:`Calls`."""

    count: int = 1
    gap: int = 10
    pause: int = 0

    def record(self, monitor: GenerationMonitor, _number: int) -> None:
        """Count one, as the exporter does."""
        monitor._pipeline.self_metrics.count_export_failure("OTLPMetricExporter")


Phase = Calls | Evaluations | Samples | FailedExports


@dataclass(frozen=True)
class Job:
    """Lists of phases that start together; the phases of one list run one after the other."""

    lanes: tuple[tuple[Phase, ...], ...]

    def events(self, end: float, slowness: int) -> list[tuple[float, Phase, int]]:
        """Return the events in order: time (half a second past a whole one), phase and number.

        Args:
            end: Seconds of the end.
            slowness: A factor for every gap and pause.
        """
        found = [event for lane in self.lanes for event in _lane(lane, slowness)]
        return sorted((each for each in found if each[0] < end), key=lambda event: event[0])


def _lane(phases: tuple[Phase, ...], slowness: int) -> Iterator[tuple[float, Phase, int]]:
    # No event is at a whole second, so none is at the edge of a window or at a scrape.
    at = 0.5
    for phase in phases:
        at += phase.pause * slowness
        for number in range(1, phase.count + 1):
            yield at, phase, number
            at += phase.gap * slowness


def _timing() -> dict[str, SearchStrategy[int]]:
    return {
        "count": st.integers(1, 60),
        "gap": st.sampled_from([2, 7, 20, 45]),
        "pause": st.sampled_from([0, 0, 30, 100, 400, 800]),
    }


_shares = st.sampled_from([0, 0, 1, 2, 3, 5, 7, 20])
_calls = st.builds(
    Calls,
    **_timing(),
    model=st.sampled_from([*MODELS, None]),
    step=st.sampled_from([None, "draft", "judge"]),
    failing=_shares,
    seconds=st.sampled_from([0.0, 1.0, 29.0, 33.0, 90.0, None]),
    prompt=st.sampled_from([None, 0, 100, 4_000, 4_500, 20_000]),
    completion=st.sampled_from([None, 0, 50, 4_000, 4_500, 9_000]),
    unitemised=st.sampled_from([0, 0, 5_000]),
    finish_reason=st.sampled_from([None, "stop", "stop", "length", "max_tokens"]),
    rate_limited=st.sampled_from([0, 0, 1, 3]),
    turns=st.sampled_from([None, 1, 2, 3, 5]),
)
_evaluations = st.builds(
    Evaluations,
    **_timing(),
    evaluator=st.sampled_from(["judge", "embedding"]),
    failing=_shares,
    scores=st.lists(
        st.tuples(
            st.sampled_from(["coherence", "grade"]),
            st.sampled_from([-1.0, 0.0, 0.2, 0.5, 0.9, 1.0, 2.0, 4.5, 7.0]),
        ),
        max_size=2,
    ).map(tuple),
    tokens=st.sampled_from([None, 100, 20_000]),
)
_failed_exports = st.builds(FailedExports, st.just(1), pause=st.integers(0, 900))
_samples = st.builds(Samples, **_timing(), rejected=st.sampled_from([0, 1, 2, 3]))

jobs = st.builds(
    Job,
    st.tuples(
        st.lists(_calls, max_size=4).map(tuple),
        st.lists(_calls, max_size=2).map(tuple),
        st.lists(_evaluations, max_size=4).map(tuple),
        st.lists(_samples, max_size=2).map(tuple),
        st.lists(_failed_exports, max_size=1).map(tuple),
    ),
)
"""Generates jobs of any kind."""
