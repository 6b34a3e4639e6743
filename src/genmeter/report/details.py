"""What a page shows of jobs beside their sums: times of calls, errors, scores, progress, alerts."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from genmeter.report.distribution import Distribution

__all__ = ["MOST", "OUTCOMES", "Details", "Outcome", "Samples", "ScaledScores", "Series"]

MOST = 1e15
"""The largest amount that a plot can show; none that is real comes near."""
Outcome = Literal["succeeded", "failed", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed", "cancelled")


@dataclass(slots=True)
class Series:
    """Amounts at Unix times, in any order.

    Attributes:
        times: The times.
        amounts: The amounts.
    """

    times: array[float] = field(default_factory=lambda: array("d"))
    amounts: array[float] = field(default_factory=lambda: array("d"))

    def add(self, when: float, amount: float) -> None:
        """Add an amount."""
        self.times.append(when)
        self.amounts.append(min(amount, MOST))


@dataclass(slots=True)
class Samples:
    """The samples of a data set that a running job produced.

    Attributes:
        source: The job's endpoint.
        accepted: Samples accepted.
        rejected: Samples rejected, by reason.
        expected: Samples that the job is expected to produce; None if unknown.
        is_finished: Whether the job has shut down its monitors.
    """

    source: str
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    expected: float | None = None
    is_finished: bool = False


@dataclass(slots=True)
class ScaledScores:
    """The scores of a name as an endpoint has them.

    Attributes:
        count: Their number.
        total: Their sum.
        positions: The histogram of those within their scale, each as its place in it, 0 to 1.
    """

    count: int = 0
    total: float = 0.0
    positions: Distribution = field(default_factory=Distribution)

    def mean(self) -> float | None:
        """Return the mean of the scores; None without any."""
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Details:
    """What sources have beside their sums. A reader adds what its source has.

    Attributes:
        kinds: The kinds of the sources that were read: those of ``UsageTable.source``, and
            ``afterimage`` for files of AfterImage's monitor.
        errors: Failed calls by type of error; those without a type are missing.
        calls: The calls of each outcome over time, each 1; without those of endpoints and Prometheus.
        tokens: The tokens of each model over time; without those of endpoints and Prometheus.
        first_chunks: Seconds until the first chunk of streamed calls, by model.
        scores: Scores of evaluations by name, without those of endpoints and Prometheus.
        scaled_scores: Those of endpoints, by name.
        invalid_scores: Scores that are not numbers, which are missing.
        samples: The samples of each running job.
        firing: Alerts that fire, as the jobs evaluate them, with the number of jobs.
        fired: Alerts that fired within the window of a Prometheus, with the number of processes.
        dropped: Values that the monitors of running jobs rejected, by reason.
    """

    kinds: set[str] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    calls: dict[Outcome, Series] = field(default_factory=dict)
    tokens: dict[str, Series] = field(default_factory=dict)
    first_chunks: dict[str, Distribution] = field(default_factory=dict)
    scores: dict[str, Distribution] = field(default_factory=dict)
    scaled_scores: dict[str, ScaledScores] = field(default_factory=dict)
    invalid_scores: int = 0
    samples: list[Samples] = field(default_factory=list)
    firing: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def add_call(self, when: float, outcome: Outcome) -> None:
        """Add a call that ended at a Unix time."""
        self.calls.setdefault(outcome, Series()).add(when, 1.0)

    def add_tokens(self, model: str, when: float, count: float) -> None:
        """Add the tokens of a call or an evaluation."""
        self.tokens.setdefault(model, Series()).add(when, count)

    def first_chunks_of(self, model: str) -> Distribution:
        """Return the first-chunk times of a model, to add to."""
        return self.first_chunks.setdefault(model, Distribution())

    def scores_of(self, name: str) -> Distribution:
        """Return the scores of a name, to add to."""
        return self.scores.setdefault(name, Distribution())

    def scaled_scores_of(self, name: str) -> ScaledScores:
        """Return the scores of a name at endpoints, to add to."""
        return self.scaled_scores.setdefault(name, ScaledScores())
