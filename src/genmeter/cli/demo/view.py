"""What the demo shows: a live view on a terminal, plain lines elsewhere, and a summary."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from genmeter.report.endpoint import sum_families
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.table import Table

    from genmeter.cli.demo.simulate import Job
    from genmeter.monitor import GenerationMonitor
    from genmeter.report.usage_table import UsageRow, UsageTable

__all__ = ["Status", "headline", "render", "say", "show_progress", "summary"]

_LINE_SECONDS = 10.0
_FRAMES_PER_SECOND = 4.0
_RATE_WINDOW = timedelta(seconds=10)
_HIGH_FAILURE_RATE = 0.1
_DUMB = ("dumb", "unknown")  # terminals without cursor movement


def say(text: str) -> None:
    """Write a line to standard output and flush it, for the reader of a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Status(NamedTuple):
    """What a scrape of the job returns now.

    Attributes:
        usage: Calls, tokens, cost and durations.
        accepted: Samples accepted.
        rejected: Samples rejected, by reason.
    """

    usage: UsageTable
    accepted: int
    rejected: Counter[str]

    @classmethod
    def of(cls, monitor: GenerationMonitor) -> Status:
        """Read the metrics of a monitor."""
        families = list(monitor.prometheus_collector().collect())
        samples: Counter[tuple[str, str]] = Counter()
        for sample in (sample for family in families for sample in family.samples):
            if sample.name == cat.SAMPLES.prometheus:
                labels = sample.labels
                reason = labels.get(cat.SAMPLE_REASON.prometheus, "")
                samples[labels[cat.VERDICT.prometheus], reason] += int(sample.value)
        rejected = {reason: n for (verdict, reason), n in samples.items() if verdict == "rejected"}
        return cls(sum_families(families), samples["accepted", ""], Counter(rejected))

    @property
    def calls(self) -> str:
        """The number of generations."""
        return f"{self.usage.total().calls:,}"

    @property
    def failed(self) -> str:
        """The share of the generations that failed."""
        return f"{_failure_share(self.usage.total())} failed"

    @property
    def incomplete(self) -> str:
        """The generations that were cancelled, and those whose usage is unknown."""
        total = self.usage.total()
        return f"{total.cancelled:,} cancelled, {total.calls_without_usage:,} without usage"

    def __str__(self) -> str:
        evaluations = self.usage.evaluations
        return (
            f"{self.calls} generations, {self.failed}, {self.incomplete}; "
            f"{evaluations.count:,} evaluations, "
            f"{_share(evaluations.failures, evaluations.count)} failed; "
            f"samples: {self.accepted:,} accepted, {self.rejected.total():,} rejected"
        )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _failure_share(row: UsageRow) -> str:
    return _share(row.failures, row.calls - row.cancelled)


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
    report, status = job.monitor.get_total_token_usage(), Status.of(job.monitor)
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
    elif not sys.stdout.isatty() or os.environ.get("TERM") in _DUMB:
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
            f"{report.cost().total:,.4f} USD; {Status.of(job.monitor)}"
        )

    return show


# --- the live view -----------------------------------------------------------------------------


def render(job: Job, width: int) -> RenderableType:
    """Return the live view of a job, for the width of the terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    duration, status = job.plan.duration, Status.of(job.monitor)
    progress = Table.grid(padding=(0, 1), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(no_wrap=True)
    now = min(job.now, duration)
    left = f"{timedelta(seconds=round(duration - now))} left"
    bar = ProgressBar(total=duration, completed=now)
    if now == duration:
        left = f"{job.in_progress} calls in progress" if job.in_progress else "done"
    progress.add_row(bar, f"{now / duration:4.0%}  {left}")
    evaluations = status.usage.evaluations
    recent = job.monitor.get_total_token_usage(_RATE_WINDOW)
    seconds = max(1.0, min(job.now, _RATE_WINDOW.total_seconds()))
    return Group(
        "",
        progress,
        f"samples      [green]{status.accepted:,} accepted[/]  "
        f"[yellow]{status.rejected.total():,} rejected[/]  of ~{job.plan.expected_samples:,}",
        f"generations  {status.calls}  {status.failed}",
        f"             {status.incomplete}",
        f"evaluations  {evaluations.count:,}  "
        f"{_share(evaluations.failures, evaluations.count)} failed",
        f"rate         {sum(usage.calls for usage in recent.by_model) / seconds:,.1f} calls/s  "
        f"{recent.total_tokens / seconds:,.0f} tokens/s",
        "",
        _by_model(status.usage, width),
    )


def _by_model(usage: UsageTable, width: int) -> Table:
    from rich import box
    from rich.table import Table

    columns = [(title, cell) for title, min_width, cell in _COLUMNS if width >= min_width]
    total = usage.total()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_footer=True)
    table.add_column("model", "total", no_wrap=True)
    for title, cell in columns:
        table.add_column(title, cell(total), justify="right", no_wrap=True)
    for (model,), row in usage.group(("model",)).items():
        table.add_row(model, *(cell(row) for _, cell in columns))
    return table


def _failed(row: UsageRow) -> str:
    is_high = row.failures > _HIGH_FAILURE_RATE * (row.calls - row.cancelled)
    return f"[red]{_failure_share(row)}[/]" if is_high else _failure_share(row)


def _usd(row: UsageRow) -> str:
    cost = row.cost
    return "-" if cost is None else f"{cost:,.{4 if cost < 100 else 2}f}"  # noqa: PLR2004 - dollars


def _seconds(row: UsageRow, quantile: float) -> str:
    value = row.quantile(quantile)
    return "-" if value is None else f"{value:,.1f} s"


# Title, width of the terminal from which on the column is shown, and cell.
_COLUMNS: tuple[tuple[str, int, Callable[[UsageRow], str]], ...] = (
    ("generations", 80, lambda row: f"{row.calls:,}"),
    ("failed", 0, _failed),
    ("tokens in", 60, lambda row: f"{row.prompt_tokens:,}"),
    ("out", 60, lambda row: f"{row.completion_tokens:,}"),
    ("USD", 0, _usd),
    ("p50", 90, lambda row: _seconds(row, 0.5)),
    ("p95", 80, lambda row: _seconds(row, 0.95)),
)
