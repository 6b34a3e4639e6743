"""The writers of a journal's rows, and which of their events are missing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MissingEvents", "Runs"]

_ID = re.compile(r"[0-9a-f]{8}-[1-9]\d{0,8}")
_MAX_SPANS = 4_096  # of a run, before adjacent ones are joined
_MAX_NUMBER = 2**53


class MissingEvents(NamedTuple):
    """The events that the runs numbered, and those that are not there.

    Attributes:
        present: Events that were read, each once.
        missing: Events that other rows of their run prove.
        repeated: Events that were read again, such as those of a copied journal.
    """

    present: int
    missing: int
    repeated: int


@dataclass(slots=True)
class _Run:
    """The events of one process in one journal.

    Attributes:
        host: The host; None if unknown.
        pid: The process id; None if unknown.
        job: The name of the job; None if it has none.
        spans: First and last number of consecutive events, and the Unix time of the first.
    """

    host: str | None = None
    pid: int | None = None
    job: str | None = None
    spans: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, number: int, when: float) -> None:
        if self.spans and self.spans[-1][1] == number - 1:
            first, _, begin = self.spans[-1]
            self.spans[-1] = (first, number, begin)
            return
        self.spans.append((number, number, when))
        if len(self.spans) > _MAX_SPANS:
            self._join()

    def _join(self) -> None:
        """Join adjacent spans; repeated numbers stay in spans of their own."""
        joined: list[tuple[int, int, float]] = []
        for span in sorted(self.spans):
            if joined and joined[-1][1] == span[0] - 1:
                joined[-1] = (joined[-1][0], span[1], joined[-1][2])
            else:
                joined.append(span)
        self.spans = joined

    def count(self, cutoff: float) -> MissingEvents:
        """Count the events; a gap counts if the event after it is not before the cutoff."""
        last = present = missing = repeated = 0
        for first, end, when in sorted(self.spans):
            if first > last + 1 and when >= cutoff:
                missing += first - last - 1
            new = max(0, end - max(last, first - 1))
            present += new
            repeated += end - first + 1 - new
            last = max(last, end)
        return MissingEvents(present, missing, repeated)


class Runs:
    """The runs of some journals, by the field ``run`` of their rows."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def is_run(self, run: Any) -> bool:
        """Return whether a value is the id of a run, which it is from now on."""
        if type(run) is not str:
            return False
        if run not in self._runs:
            if not _ID.fullmatch(run):
                return False
            self._runs[run] = _Run()
        return True

    def add_event(self, row: Mapping[str, Any], when: float) -> None:
        """Add the first row of an event, at a Unix time."""
        run, number = row.get("run"), row.get("seq")
        if type(number) is not int or not 0 < number < _MAX_NUMBER or not self.is_run(run):
            return
        known = self._runs[str(run)]
        known.add(number, when)
        if known.pid is None:
            host, pid, job = (row.get(name) for name in ("host", "process", "job"))
            known.host = host if isinstance(host, str) else None
            known.pid = pid if type(pid) is int else None
            known.job = job if isinstance(job, str) and job else None

    def update(self, other: Runs) -> None:
        """Add the runs of another journal."""
        for name, run in other._runs.items():
            known = self._runs.setdefault(name, _Run())
            if known.pid is None:
                known.host, known.pid, known.job = run.host, run.pid, run.job
            known.spans += run.spans

    def count(self, cutoff: float = -math.inf) -> MissingEvents:
        """Count the events of all runs, and those missing from a Unix time on."""
        counts = [run.count(cutoff) for run in self._runs.values()]
        return MissingEvents(*map(sum, zip(*counts, strict=True))) if counts else _NO_EVENTS

    def jobs(self) -> set[str | None]:
        """Return the names of the jobs; None stands for those without one."""
        return {run.job for run in self._runs.values()}

    def names(self) -> dict[str, tuple[str | None, str]]:
        """Return the job and the process of each run.

        A process is ``HOST:PID``. Two with the same host and id, at different times, get the id
        of their life too.
        """
        shown = {
            name: f"{run.host or '?'}:{run.pid}" if run.pid is not None else name.partition("-")[0]
            for name, run in self._runs.items()
        }
        lives: dict[str, set[str]] = {}
        for name, process in shown.items():
            lives.setdefault(process, set()).add(name.partition("-")[0])
        return {
            name: (
                self._runs[name].job,
                process if len(lives[process]) == 1 else f"{process} ({name.partition('-')[0]})",
            )
            for name, process in shown.items()
        }


_NO_EVENTS = MissingEvents(0, 0, 0)
