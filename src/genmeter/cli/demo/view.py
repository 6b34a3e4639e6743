"""What the demo shows: a live view on a terminal, plain lines elsewhere, and a summary."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from genmeter.cli.live.draw import by_model, folded, overview, progress_bar
from genmeter.cli.live.rates import Rates
from genmeter.cli.live.terminal import can_move_cursor, say
from genmeter.report.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from genmeter.cli.demo.simulate import Job
    from genmeter.monitor import GenerationMonitor

__all__ = ["headline", "render", "show_progress", "status_of", "summary"]

_LINE_SECONDS = 10.0
_FRAMES_PER_SECOND = 4.0
_RATE_WINDOW = timedelta(seconds=10)


def status_of(monitor: GenerationMonitor) -> Status:
    """Return what a scrape of a monitor returns now."""
    return Status.of(monitor.prometheus_collector().collect())


# --- plain lines -------------------------------------------------------------------------------


def headline(job: Job) -> str:
    """Return what runs, and the address of its metrics."""
    plan = job.plan
    return (
        f"Simulating a job of {plan.duration:g} s at {plan.rate:g} calls per second, seed "
        f"{plan.seed}; Ctrl-C ends it.\nmetrics: {job.monitor.endpoint_url or 'not served'}"
    )


def summary(job: Job) -> str:
    """Return what the job used and produced."""
    report, status = job.monitor.get_total_token_usage(), status_of(job.monitor)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in status.rejected.most_common())
    return (
        f"\nTokens after {job.now:,.0f} s:\n\n{report}\n\nCost:\n\n{report.cost()}\n\n"
        f"{status}{f' ({reasons})' if reasons else ''}"
    )


@contextmanager
def show_progress(job: Job, *, is_quiet: bool) -> Iterator[Callable[[], object]]:
    """Show a job while it runs; yields a function to call after each of its steps."""
    if is_quiet:
        yield lambda: None
    elif not can_move_cursor():
        yield _plain_lines(job)
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        with Live(
            get_renderable=lambda: render(job, console.width),
            console=console,
            refresh_per_second=_FRAMES_PER_SECOND,
        ):
            yield lambda: None


def _plain_lines(job: Job) -> Callable[[], object]:
    due = _LINE_SECONDS

    def show() -> None:
        nonlocal due
        if not due <= job.now <= job.plan.duration:
            return
        due = job.now - job.now % _LINE_SECONDS + _LINE_SECONDS
        report = job.monitor.get_total_token_usage()
        say(
            f"{job.now:,.0f} s of {job.plan.duration:,.0f} s: {report.total_tokens:,} tokens, "
            f"{report.cost().total:,.4f} USD; {status_of(job.monitor)}"
        )

    return show


# --- the live view -----------------------------------------------------------------------------


def render(job: Job, width: int) -> RenderableType:
    """Return the live view of a job, for the width of the terminal."""
    from rich.console import Group

    duration, status = job.plan.duration, status_of(job.monitor)
    now = min(job.now, duration)
    left = f"{timedelta(seconds=round(duration - now))} left"
    if now == duration:
        left = f"{job.in_progress} calls in progress" if job.in_progress else "done"
    recent = job.monitor.get_total_token_usage(_RATE_WINDOW)
    seconds = max(1.0, min(job.now, _RATE_WINDOW.total_seconds()))
    rates = Rates(
        calls=sum(usage.calls for usage in recent.by_model) / seconds,
        tokens=recent.total_tokens / seconds,
    )
    return Group(
        "",
        progress_bar(now / duration, f"{now / duration:4.0%}  {left}"),
        *folded(overview(status, rates, f"~{job.plan.expected_samples:,}"), width),
        "",
        by_model(status.usage, width),
    )
