"""What the demo shows: plain lines, or a live view where there is a terminal and rich."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from genmeter.errors import MissingExtraError

if TYPE_CHECKING:
    from genmeter.cli.demo.job import Job
    from genmeter.cli.demo.tally import Tally

__all__ = ["Show", "choose_view", "final_report", "headline", "samples_line", "say"]

_LINE_SECONDS = 10.0
_DUMB = ("dumb", "unknown")  # terminals that cannot draw over a line


class Show(Protocol):
    """What is told the seconds since the job began, over and over."""

    def __call__(self, elapsed: float, /) -> None:
        """Show the job as it stands."""


def say(text: str) -> None:
    """Write a line to standard output at once, so that who reads a pipe has it.

    Args:
        text: The line.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def choose_view(job: Job, *, is_quiet: bool) -> AbstractContextManager[Show]:
    """Choose what to show while the job runs.

    Args:
        job: The job.
        is_quiet: Show nothing.

    Returns:
        A context manager; on a terminal it holds the live view while it is open.
    """
    if is_quiet:
        return nullcontext(_show_nothing)
    if sys.stdout.isatty() and os.environ.get("TERM") not in _DUMB:
        try:
            return _live_view(job)
        except MissingExtraError as error:
            say(f"{error}")
    return nullcontext(_PlainLines(job))


def _live_view(job: Job) -> AbstractContextManager[Show]:
    try:
        from genmeter.cli.demo.live import LiveView
    except ImportError as error:
        raise MissingExtraError("rich", extra="demo", purpose="the live view") from error
    return LiveView(job)


def _show_nothing(_elapsed: float, /) -> None:
    """Show nothing."""


class _PlainLines:
    """A line every ten seconds."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._next = _LINE_SECONDS

    def __call__(self, elapsed: float, /) -> None:
        if elapsed < self._next:
            return
        self._next = elapsed - elapsed % _LINE_SECONDS + _LINE_SECONDS
        tally = self._job.tally
        share = tally.failed / tally.calls if tally.calls else 0.0
        say(
            f"{elapsed:,.0f} s of {self._job.plan.duration:,.0f} s: {tally.calls:,} calls, "
            f"{share:.1%} failed; {tally.input_tokens + tally.output_tokens:,} tokens, "
            f"{self._job.cost().total:,.4f} USD; {samples_line(tally)}"
        )


def headline(job: Job) -> str:
    """Say what runs and where its metrics are.

    Args:
        job: The job.
    """
    plan = job.plan
    return (
        f"A made-up job of {plan.duration:g} s at {plan.rate:g} calls a second, seed {plan.seed}; "
        f"Ctrl-C ends it.\nmetrics: {job.url or 'not served'}"
    )


def samples_line(tally: Tally) -> str:
    """Count the samples in words.

    Args:
        tally: The job's count.
    """
    return f"samples: {tally.accepted:,} accepted, {tally.rejected.total():,} rejected"


def final_report(job: Job, elapsed: float) -> str:
    """Say what the job used, as its monitor knows it.

    Args:
        job: The job.
        elapsed: Seconds that it lasted.
    """
    tally = job.tally
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in tally.rejected.most_common())
    return (
        f"\nTokens, after {elapsed:,.0f} s:\n\n{job.report()}\n\n"
        f"Cost:\n\n{job.cost()}\n\n"
        f"{tally.calls:,} calls, {tally.failed:,} failed; {samples_line(tally)}"
        f"{f' ({reasons})' if reasons else ''}"
    )
