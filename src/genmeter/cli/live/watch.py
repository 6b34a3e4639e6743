"""Reads sources again and again, and keeps the last numbers of those that stop answering."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from genmeter.cli.live.rates import RateMeter, Rates
from genmeter.clock import seconds_left
from genmeter.errors import ConfigError
from genmeter.report.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.cli.live.sources import Reading, Source

__all__ = ["ENDED", "PARTIAL", "RUNNING", "TOTAL", "Row", "Watcher", "same_jobs"]

_AGED = 10.0  # seconds after which the age of numbers is shown
_OLD = 90.0  # seconds after which they are not those of now; Prometheus scrapes every 60 s at most
_SLOW = 0.2  # seconds of a read after which the source has time off
_LATE_SECONDS = 3.0  # of a request in progress, after which the source does not answer

TOTAL = "total"
WAITING, RUNNING, ENDED, GONE, PARTIAL = "waiting", "running", "ended", "gone", "partial"
SILENT, BAD_ANSWER = "no answer", "bad answer"
_NO_JOBS = (
    "has no current series of genmeter; check that the job runs, and that it pushes or is scraped "
    "(the server's page /targets)"
)
_LATE = "has not answered yet; the request is in progress"


class Row(NamedTuple):
    """A job in the view.

    Attributes:
        name: Its name.
        state: One of ``waiting``, ``running``, ``ended``, ``no answer``, ``bad answer``,
            ``gone`` (no longer in Prometheus) and ``partial`` (only of a total).
        since: Seconds since the last answer, or since the begin without any; 0 while it answers.
        age: Age of the numbers in seconds.
        reason: Why there is no answer, and what to do, or what is odd in the answers; may be empty.
        status: The last numbers; None before the first answer.
        rates: The rates; unknown while there is no answer.
        left: Seconds until the expected samples are produced; None if unknown.
    """

    name: str
    state: str
    since: float
    age: float
    reason: str
    status: Status | None = None
    rates: Rates = Rates()
    left: float | None = None

    @classmethod
    def total(cls, rows: Sequence[Row]) -> Row:
        """Return the sum of some jobs, of the last numbers of those that do not answer.

        It is ``partial`` if numbers are missing or not of now. A job that is there twice, as
        `same_jobs` says, is counted once.
        """
        rows = _distinct(rows)
        known = [row.status for row in rows if row.status is not None]
        state = RUNNING if any(row.state == RUNNING for row in rows) else ENDED
        if not all(row.is_current for row in rows):
            state = PARTIAL
        left = [0.0 if row.state == ENDED else row.left for row in rows]
        return cls(
            TOTAL,
            state,
            max((row.since for row in rows), default=0.0),
            max((row.age for row in rows if row.status is not None), default=0.0),
            "",
            Status.sum(known) if known else None,
            Rates.sum(row.rates for row in rows),
            None if None in left else max((each for each in left if each is not None), default=0.0),
        )

    @property
    def is_current(self) -> bool:
        """Whether the numbers are those of now, or final."""
        return self.state in (RUNNING, ENDED) and self.age < _OLD

    def state_text(self) -> str:
        """Return the state with its time, such as ``no answer for 12 s``."""
        if self.state in (SILENT, BAD_ANSWER, GONE):
            return f"{self.state} for {_duration(self.since)}"
        if self.state == RUNNING and self.age >= _AGED:
            return f"{self.state}, {_duration(self.age)} ago"
        return self.state


def _duration(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004 - two digits
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"  # noqa: PLR2004


@dataclass
class _Job:
    """One job of a source."""

    status: Status
    age: float
    answered: float
    meter: RateMeter = field(default_factory=RateMeter)


class _Watched:
    """One source, read by one thread at a time."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._began = self._answered = clock()
        self._asked: float | None = None  # when the read in progress began
        self._rested = 0.0  # when the next read may begin
        self._failure: tuple[str, str] | None = None  # state and reason
        self._has_answered = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start to read, unless the last read is in progress or was slow."""
        if self._clock() < self._rested:
            return
        if self._thread is None or not self._thread.is_alive():
            self._asked = self._clock()
            self._thread = threading.Thread(target=self.read, name="genmeter-top", daemon=True)
            self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the read in progress; return whether it has ended."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def read(self) -> None:
        """Read the source, and keep what it has."""
        try:
            readings = self._source.read()
        except ConfigError as error:
            self._fail(_state_of(error), str(error))
        except Exception as error:  # the thread's end would not be seen
            self._fail(BAD_ANSWER, f"cannot be read: {type(error).__name__}: {error}")
        else:
            self._keep(readings)
            if self._asked is not None and (took := self._clock() - self._asked) > _SLOW:
                # A page of thousands of series: use a third of a processor at most.
                self._rested = self._clock() + 2 * took
        self._asked = None

    def _fail(self, state: str, reason: str) -> None:
        with self._lock:
            self._failure = state, reason

    def _keep(self, readings: Sequence[Reading]) -> None:
        now = self._clock()
        with self._lock:
            self._failure, self._answered, self._has_answered = None, now, True
            for reading in readings:
                job = self._jobs.get(reading.name)
                if job is None:
                    job = self._jobs[reading.name] = _Job(reading.status, reading.age, now)
                job.status, job.age, job.answered = reading.status, reading.age, now
                job.meter.add(reading.at, reading.status)

    def rows(self) -> list[Row]:
        """Return its jobs, or itself before it has answered."""
        now = self._clock()
        with self._lock:
            failure = self._failure
            asked = self._asked
            if failure is None and asked is not None and now - asked > _LATE_SECONDS:
                failure = SILENT, _LATE
            if not self._jobs:
                state, reason = failure or (WAITING, _NO_JOBS * self._has_answered)
                return [Row(self._source.name, state, now - self._began, 0.0, reason)]
            return [self._row(name, job, failure, now) for name, job in self._jobs.items()]

    def _row(self, name: str, job: _Job, failure: tuple[str, str] | None, now: float) -> Row:
        since = now - job.answered
        state, reason = failure or (RUNNING, "")
        if failure is None and job.answered < self._answered:
            state, reason = GONE, "is no longer in Prometheus: it ended, or is not scraped"
        if job.status.is_finished:  # its endpoint ends with it
            state, reason = ENDED, ""
        if state == RUNNING:
            rates = job.meter.rates()
            left = rates.seconds_left(job.status)
            reason = _reset_note(job.meter.resets)
            return Row(name, state, 0.0, job.age + since, reason, job.status, rates, left)
        return Row(name, state, since, job.age + since, reason, job.status)


def _reset_note(resets: int) -> str:
    if not resets:
        return ""
    times = "once" if resets == 1 else f"{resets} times"
    return (
        f"began again {times} in the last minute: it restarted, or another process answers at its "
        "address; its numbers are those of the last answer"
    )


def same_jobs(rows: Sequence[Row]) -> list[str]:
    """Return sentences on jobs that are there twice, as their metrics identify them."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.status is not None and row.status.instance:
            names.setdefault(row.status.instance, []).append(row.name)
    return [
        f"{same[0]}{_others(same[1:])} are the same job (service.instance.id {instance}), counted once "
        "in the total"
        for instance, same in names.items()
        if len(same) > 1
    ]


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without all but the newest of each job."""
    best: dict[str, Row] = {}
    for at, row in enumerate(rows):
        key = (row.status.instance if row.status is not None else "") or f"row {at}"
        other = best.get(key)
        if other is None or (row.is_current, -row.age) > (other.is_current, -other.age):
            best[key] = row
    return [*best.values()]


def _others(names: Sequence[str]) -> str:
    return f" and {names[0]}" if len(names) == 1 else f", {names[0]} and {len(names) - 1} more"


def _state_of(error: ConfigError) -> str:
    cause = error.__cause__
    is_status = isinstance(cause, urllib.error.HTTPError)
    is_silent = isinstance(cause, OSError | http.client.HTTPException) and not is_status
    return SILENT if is_silent else BAD_ANSWER


class Watcher:
    """Reads some sources, each on a thread of its own, so that none waits for another.

    Args:
        sources: The sources.
        clock: A monotonic clock.
    """

    def __init__(
        self, sources: Sequence[Source], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._watched = [_Watched(source, clock) for source in sources]

    def begin_round(self) -> None:
        """Start to read every source whose last read has ended."""
        for watched in self._watched:
            watched.begin()

    def wait(self, timeout: float) -> bool:
        """Wait until every read has ended, for some seconds at most; return whether they have."""
        deadline = time.monotonic() + timeout
        ended = [watched.join(seconds_left(deadline)) for watched in self._watched]
        return all(ended)

    def rows(self) -> list[Row]:
        """Return the jobs as they are known now."""
        return [row for watched in self._watched for row in watched.rows()]
