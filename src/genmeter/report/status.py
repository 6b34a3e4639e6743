"""The state of a job as its metrics have it at one time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from genmeter.report.endpoint import sum_families
from genmeter.report.usage_table import GENERATION, UsageRow, UsageTable
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric
    from prometheus_client.samples import Sample

__all__ = ["DIED", "PROCESSES", "Status", "failure_share", "share"]

PROCESSES = cat.JOB_PROCESSES.prometheus
"""Processes of the job by state; only a job of several processes has it."""
_STATE = cat.STATE.prometheus
DIED = "died"
"""The state of a process that ended without its last numbers."""
_CALLS = f"{cat.INFERENCE_DURATION.prometheus}_count"
_RESOURCE, _INSTANCE = "target_info", "service_instance_id"
_REJECTED = "rejected"
# By metric: the field of a status, the label that it is counted by, and the labels to select.
_COUNTERS: dict[str, tuple[str, str, dict[str, str]]] = {
    _CALLS: ("errors", cat.ERROR_TYPE.prometheus, {cat.PHASE.prometheus: GENERATION}),
    cat.ALERTS_FIRING.prometheus: ("firing", cat.ALERT.prometheus, {}),
    PROCESSES: ("processes", _STATE, {}),
    cat.MONITOR_EVENTS.prometheus: (
        *("dropped", cat.REJECT_REASON.prometheus),
        {cat.RESULT.prometheus: _REJECTED},
    ),
}


@dataclass
class Status:
    """The sums of a job since it began.

    Attributes:
        usage: Calls, tokens, cost and durations.
        accepted: Samples accepted.
        rejected: Samples rejected, by reason.
        expected: Samples that the job is expected to produce; None if unknown.
        active: Calls in progress.
        errors: Failed calls by type of error.
        firing: Alerts that fire.
        processes: Processes of the job by state; empty if unknown.
        dropped: Values that the monitor rejected, by reason.
        is_finished: Whether the job has shut down its monitors.
        instance: Identifies the life of the counters; empty if unknown.
    """

    usage: UsageTable
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    expected: float | None = None
    active: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    firing: Counter[str] = field(default_factory=Counter)
    processes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    is_finished: bool = False
    instance: str = ""

    @classmethod
    def of(cls, families: Iterable[Metric]) -> Status:
        """Sum the metrics of a job.

        Raises:
            ConfigError: None of them is genmeter's.
        """
        families = list(families)
        status = cls(sum_families(families))
        for family in families:
            for sample in family.samples:
                status._add(sample)
        return status

    @classmethod
    def sum(cls, parts: Iterable[Status]) -> Status:
        """Return the sum of some jobs; the expected samples are unknown if one of them is."""
        parts = list(parts)
        total = cls(UsageTable("endpoint"))
        rows: dict[object, list[UsageRow]] = {}
        for part in parts:
            for key, row in part.usage.rows.items():
                rows.setdefault(key, []).append(row)
            for name in ("conversations", "evaluations"):
                outcomes, added = getattr(total.usage, name), getattr(part.usage, name)
                outcomes.count += added.count
                outcomes.failures += added.failures
            total.usage.unpriced |= part.usage.unpriced
            total.usage.notes += [
                note for note in part.usage.notes if note not in total.usage.notes
            ]
            total.accepted += part.accepted
            total.active += part.active
            for name in ("rejected", "errors", "firing", "processes", "dropped"):
                getattr(total, name).update(getattr(part, name))
        total.usage.rows = {key: UsageRow.sum(same) for key, same in rows.items()}  # type: ignore[misc]
        expected = [part.expected for part in parts]
        known = [each for each in expected if each is not None]
        total.expected = sum(known) if known and len(known) == len(expected) else None
        total.is_finished = bool(parts) and all(part.is_finished for part in parts)
        return total

    def _add(self, sample: Sample) -> None:
        labels, value = sample.labels, sample.value
        counter = _COUNTERS.get(sample.name)
        if sample.name == cat.SAMPLES.prometheus:
            self._add_samples(labels, int(value))
        elif counter is not None:
            field_name, label, required = counter
            if value > 0 and required.items() <= labels.items() and (key := labels.get(label)):
                getattr(self, field_name)[key] += int(value)
        elif sample.name == cat.SAMPLES_EXPECTED.prometheus:
            self.expected = (self.expected or 0.0) + value
        elif sample.name == cat.ACTIVE.prometheus:
            self.active += int(value)
        elif sample.name == cat.JOB_FINISHED.prometheus:
            self.is_finished = value == 1
        elif sample.name == _RESOURCE:
            self.instance = labels.get(_INSTANCE, self.instance)

    def _add_samples(self, labels: Mapping[str, str], count: int) -> None:
        if labels.get(cat.VERDICT.prometheus) == _REJECTED:
            self.rejected[labels.get(cat.SAMPLE_REASON.prometheus, "")] += count
        else:
            self.accepted += count

    @cached_property
    def total(self) -> UsageRow:
        """The sum of the usage; computed once."""
        return self.usage.total()

    @property
    def samples(self) -> int:
        """The samples produced, accepted or rejected."""
        return self.accepted + self.rejected.total()

    @property
    def progress(self) -> float | None:
        """The share of the expected samples that was produced; None if unknown."""
        return self.samples / self.expected if self.expected else None

    @property
    def died(self) -> int:
        """The processes that died."""
        return self.processes[DIED]

    def notes(self) -> list[str]:
        """Return sentences on what is missing in the numbers, besides calls without usage."""
        notes = []
        if self.usage.unpriced:
            models = ", ".join(sorted(self.usage.unpriced))
            notes.append(f"Without a price, not in the cost: {models}.")
        if self.dropped:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.dropped.most_common())
            notes.append(f"{self.dropped.total():,} values rejected by the monitor: {reasons}.")
        return [*notes, *self.usage.notes]

    def __str__(self) -> str:
        total, evaluations = self.total, self.usage.evaluations
        return (
            f"{total.calls:,} generations, {failure_share(total)} failed, "
            f"{total.cancelled:,} cancelled, {total.calls_without_usage:,} without usage; "
            f"{evaluations.count:,} evaluations, "
            f"{share(evaluations.failures, evaluations.count)} failed; "
            f"samples: {self.accepted:,} accepted, {self.rejected.total():,} rejected"
        )


def share(part: int, whole: int) -> str:
    """Return a share in percent, such as ``1.2%``; ``-`` of nothing."""
    return f"{part / whole:.1%}" if whole else "-"


def failure_share(row: UsageRow) -> str:
    """Return the share of the calls that failed, without cancelled ones."""
    return share(row.failures, row.calls - row.cancelled)
