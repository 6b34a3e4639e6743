"""What the demo shows, as its monitor knows it: plain lines, or a live view on a terminal."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Self

from genmeter.cli.demo.simulate import PRICES
from genmeter.errors import MissingExtraError
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.samples import Sample
    from rich.console import Console, RenderableType
    from rich.table import Table

    from genmeter.cli.demo.simulate import Job
    from genmeter.history.token_report import ModelTokenUsage
    from genmeter.monitor import GenerationMonitor

__all__ = [
    "LiveView",
    "Outcomes",
    "Reading",
    "choose_view",
    "final_report",
    "headline",
    "quantile",
    "read",
    "render",
    "say",
]

_LINE_SECONDS = 10.0
_FRAME_SECONDS = 0.25
_PACE_SECONDS = 10.0
_MANY_FAILURES = 0.1
_DUMB = ("dumb", "unknown")  # terminals that cannot draw over a line


def say(text: str) -> None:
    """Write a line to standard output at once, so that a reader of a pipe has it.

    Args:
        text: The line.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- what the monitor knows -----------------------------------------------------------------------


class Outcomes(NamedTuple):
    """How many succeeded and how many failed."""

    good: int = 0
    failed: int = 0

    @property
    def all(self) -> int:
        """Both together."""
        return self.good + self.failed

    def __str__(self) -> str:
        return f"{self.failed / self.all:.1%}" if self.all else "-"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the monitor's page says of the job: what a scrape would get now.

    Attributes:
        generations: Calls by model, evaluations left out.
        evaluations: The evaluations.
        buckets: Calls that took so long at most, by model and upper bound in seconds.
        accepted: Samples that are kept.
        rejected: Samples that are not, by reason.
    """

    generations: Mapping[str, Outcomes]
    evaluations: Outcomes
    buckets: Mapping[str, Mapping[float, float]]
    accepted: int
    rejected: Counter[str]

    def counts(self) -> str:
        """Count generations, evaluations and samples in words."""
        generations = _sum(self.generations.values())
        return (
            f"{generations.all:,} generations, {generations} failed; "
            f"{self.evaluations.all:,} evaluations, {self.evaluations} failed; "
            f"samples: {self.accepted:,} accepted, {self.rejected.total():,} rejected"
        )


def read(monitor: GenerationMonitor) -> Reading:
    """Read the monitor's metrics.

    Args:
        monitor: A monitor on genmeter's own meter provider, whose page exists.
    """
    found: dict[str, list[Sample]] = {}
    for family in monitor.prometheus_collector().collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)

    def samples(instrument: cat.Instrument, suffix: str = "") -> list[Sample]:
        return found.get(instrument.prometheus + suffix, [])

    def count(instrument: cat.Instrument, *labels: cat.Label) -> Counter[tuple[str, ...]]:
        counts: Counter[tuple[str, ...]] = Counter()
        for sample in samples(instrument):
            key = tuple(sample.labels.get(label.prometheus, "") for label in labels)
            counts[key] += int(sample.value)
        return counts

    buckets: dict[str, Counter[float]] = {}
    for sample in samples(cat.INFERENCE_DURATION, "_bucket"):
        of_model = buckets.setdefault(sample.labels.get(cat.MODEL.prometheus, ""), Counter())
        of_model[float(sample.labels["le"])] += int(sample.value)
    calls = count(cat.GENERATIONS, cat.MODEL, cat.OUTCOME)
    evaluations = count(cat.EVALUATIONS, cat.OUTCOME)
    verdicts = count(cat.SAMPLES, cat.VERDICT, cat.SAMPLE_REASON)
    return Reading(
        generations={
            model: Outcomes(calls[model, "success"], calls[model, "failure"]) for model, _ in calls
        },
        evaluations=Outcomes(evaluations["success",], evaluations["failure",]),
        buckets=buckets,
        accepted=verdicts["accepted", ""],
        rejected=Counter(
            {why: n for (verdict, why), n in verdicts.items() if verdict == "rejected"}
        ),
    )


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Estimate within how many seconds a share of the calls ended, as Prometheus does.

    Args:
        share: From 0 to 1.
        buckets: Calls by upper bound; each holds those of the lower ones too.

    Returns:
        Seconds, at most the highest finite bound; None where there are no calls.
    """
    wanted = share * max(buckets.values(), default=0)
    below, lower = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    return None


def _sum(outcomes: Iterable[Outcomes]) -> Outcomes:
    each = list(outcomes)
    return Outcomes(sum(one.good for one in each), sum(one.failed for one in each))


# --- plain lines ------------------------------------------------------------------------------------


def headline(job: Job) -> str:
    """Say what runs and where its metrics are.

    Args:
        job: The job.
    """
    plan = job.plan
    return (
        f"A made-up job of {plan.duration:g} s at {plan.rate:g} calls a second, seed {plan.seed}; "
        f"Ctrl-C ends it.\nmetrics: {job.monitor.endpoint_url or 'not served'}"
    )


def final_report(job: Job, elapsed: float) -> str:
    """Say what the job used.

    Args:
        job: The job.
        elapsed: Seconds that it lasted.
    """
    report, reading = job.monitor.get_total_token_usage(), read(job.monitor)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in reading.rejected.most_common())
    return (
        f"\nTokens, after {elapsed:,.0f} s:\n\n{report}\n\nCost:\n\n{report.cost(PRICES)}\n\n"
        f"{reading.counts()}{f' ({reasons})' if reasons else ''}"
    )


class _PlainLines:
    """A line every ten seconds."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._next = _LINE_SECONDS

    def __call__(self, elapsed: float, /) -> None:
        if elapsed < self._next:
            return
        self._next = elapsed - elapsed % _LINE_SECONDS + _LINE_SECONDS
        report = self._job.monitor.get_total_token_usage()
        say(
            f"{elapsed:,.0f} s of {self._job.plan.duration:,.0f} s: "
            f"{report.total_tokens:,} tokens, {report.cost(PRICES).total:,.4f} USD; "
            f"{read(self._job.monitor).counts()}"
        )


def choose_view(job: Job, *, is_quiet: bool) -> AbstractContextManager[Callable[[float], None]]:
    """Choose what to show while the job runs.

    Args:
        job: The job.
        is_quiet: Show nothing.

    Returns:
        A context manager of what is to be called with the seconds since the job began.
    """
    if is_quiet:
        return nullcontext(lambda _elapsed: None)
    if sys.stdout.isatty() and os.environ.get("TERM") not in _DUMB:
        try:
            return LiveView(job)
        except MissingExtraError as error:
            say(f"{error}")
    return nullcontext(_PlainLines(job))


# --- the live view; needs rich ------------------------------------------------------------------------


class LiveView:
    """Draws the job four times a second while it is open; the last picture stays.

    Args:
        job: The job.
        console: Where to; standard output by default.

    Raises:
        MissingExtraError: rich is not installed.
    """

    def __init__(self, job: Job, console: Console | None = None) -> None:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError as error:
            raise MissingExtraError("rich", extra="demo", purpose="the live view") from error
        self._job = job
        self._console = Console(highlight=False) if console is None else console
        self._live = Live(console=self._console, auto_refresh=False)
        self._next = 0.0
        self._elapsed = 0.0

    def __enter__(self) -> Self:
        """Take the terminal's last lines."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the last picture, and return the terminal."""
        self._draw(refresh=False)  # stop() does
        self._live.stop()

    def __call__(self, elapsed: float, /) -> None:
        """Draw, if it is time."""
        self._elapsed = elapsed
        if elapsed >= self._next:
            self._next = elapsed + _FRAME_SECONDS
            self._draw(refresh=True)

    def _draw(self, *, refresh: bool) -> None:
        picture = render(self._job, self._elapsed, self._console.width)
        self._live.update(picture, refresh=refresh)


def render(job: Job, elapsed: float, width: int) -> RenderableType:
    """Make the picture of the job.

    Args:
        job: The job.
        elapsed: Seconds since it began.
        width: Columns of the terminal.
    """
    from rich.console import Group

    reading = read(job.monitor)
    recent = job.monitor.get_total_token_usage(timedelta(seconds=_PACE_SECONDS))
    seconds = max(1.0, min(elapsed, _PACE_SECONDS))
    calls = sum(usage.calls for usage in recent.by_model)
    return Group(
        "",
        _progress(job.plan.duration, elapsed),
        f"samples      [green]{reading.accepted:,} accepted[/]  "
        f"[yellow]{reading.rejected.total():,} rejected[/]  of ~{job.plan.expected_samples:,}",
        f"evaluations  {reading.evaluations.all:,}  {reading.evaluations} failed",
        f"pace         {calls / seconds:,.1f} calls/s  "
        f"{recent.total_tokens / seconds:,.0f} tokens/s",
        "",
        _models(job, reading, width),
    )


def _progress(duration: float, elapsed: float) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    left = f"{elapsed / duration:4.0%}  {_clock(duration - elapsed)} left"
    row.add_row(ProgressBar(total=duration, completed=elapsed), left)
    return row


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# Title of a column, and the least width of the terminal that has room for it.
_COLUMNS = (
    ("calls", 0),
    ("failed", 0),
    ("tokens in", 60),
    ("out", 60),
    ("USD", 0),
    ("p50", 80),
    ("p95", 70),
)


def _models(job: Job, reading: Reading, width: int) -> Table:
    from rich import box
    from rich.table import Table

    report = job.monitor.get_total_token_usage()
    cost = report.cost(PRICES)
    totals = (
        f"{sum(usage.calls for usage in report.by_model):,}",
        f"{_sum(reading.generations.values())}",
        _tokens(report.total_prompt_tokens),
        _tokens(report.total_completion_tokens),
        _usd(cost.total),
        "",
        "",
    )
    shown = [number for number, (_, least) in enumerate(_COLUMNS) if width >= least]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_footer=True)
    table.add_column("model", "all", no_wrap=True, overflow="ellipsis")
    for number in shown:
        table.add_column(_COLUMNS[number][0], totals[number], justify="right", no_wrap=True)
    usages = {usage.model_name: usage for usage in report.by_model}
    called = {model for model, outcomes in reading.generations.items() if outcomes.all}
    for model in sorted({*usages, *called}):
        cells = _cells(usages.get(model), cost.by_model.get(model), reading, model)
        table.add_row(model, *(cells[number] for number in shown))
    return table


def _cells(
    usage: ModelTokenUsage | None, usd: float | None, reading: Reading, model: str
) -> list[str]:
    outcomes = reading.generations.get(model, Outcomes())
    is_bad = outcomes.failed > _MANY_FAILURES * outcomes.all
    buckets = reading.buckets.get(model, {})
    return [
        f"{usage.calls if usage else outcomes.all:,}",
        f"[red]{outcomes}[/]" if is_bad else f"{outcomes}",
        _tokens(usage.prompt_tokens if usage else 0),
        _tokens(usage.completion_tokens if usage else 0),
        "-" if usd is None else _usd(usd),
        *(_seconds(quantile(share, buckets)) for share in (0.5, 0.95)),
    ]


def _tokens(count: int) -> str:
    """Shorten a count, so that the table keeps its width however long the job lasts."""
    for size, letter in ((10**9, "G"), (10**6, "M")):
        if count >= size:
            return f"{count / size:,.2f} {letter}"
    return f"{count:,}"


def _usd(value: float) -> str:
    return f"{value:,.4f}" if value < 100 else f"{value:,.2f}"  # noqa: PLR2004 - dollars


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} s"
