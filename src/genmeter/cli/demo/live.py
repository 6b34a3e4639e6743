"""The live view in a terminal; needs rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from rich.console import RenderableType

    from genmeter.cli.demo.job import Job
    from genmeter.cli.demo.tally import ModelTally

__all__ = ["LiveView", "render"]

_FRAME_SECONDS = 0.25
_MANY_FAILURES = 0.1


class LiveView:
    """Draws the job four times a second while it is open; the last picture stays.

    Args:
        job: The job.
        console: Where to; standard output by default.
    """

    def __init__(self, job: Job, console: Console | None = None) -> None:
        self._job = job
        self._console = Console() if console is None else console
        self._live = Live(console=self._console, auto_refresh=False)
        self._next = 0.0
        self._elapsed = 0.0

    def __enter__(self) -> Self:
        """Take the terminal's last lines."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Draw what is not drawn yet, and give the terminal back."""
        self._draw(refresh=False)  # stop() does
        self._live.stop()

    def __call__(self, elapsed: float, /) -> None:
        """Draw, if it is time."""
        self._elapsed = elapsed
        if elapsed >= self._next:
            self._next = elapsed + _FRAME_SECONDS
            self._draw(refresh=True)

    def _draw(self, *, refresh: bool) -> None:
        width = self._console.width
        self._live.update(render(self._job, self._elapsed, width), refresh=refresh)


def render(job: Job, elapsed: float, width: int) -> RenderableType:
    """Make the picture of the job.

    Args:
        job: The job.
        elapsed: Seconds since it began.
        width: Columns of the terminal.
    """
    return Group(
        Text(),
        _progress(job, elapsed),
        _samples(job),
        _pace(job, elapsed),
        Text(),
        _models(job, width),
    )


def _progress(job: Job, elapsed: float) -> RenderableType:
    duration = job.plan.duration
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


def _samples(job: Job) -> Text:
    tally = job.tally
    return Text.assemble(
        "samples  ",
        (f"{tally.accepted:,} accepted", "green"),
        "  ",
        (f"{tally.rejected.total():,} rejected", "yellow"),
        f"  of ~{job.plan.expected_samples:,}",
    )


def _pace(job: Job, elapsed: float) -> Text:
    calls, tokens = job.tally.pace(elapsed)
    return Text(f"pace     {calls:,.1f} calls/s  {tokens:,.0f} tokens/s")


# Title, least width of the terminal that has room for it, and what a row says.
_Column = tuple[str, int, "Callable[[ModelTally, float | None], str | Text]"]
_COLUMNS: tuple[_Column, ...] = (
    ("calls", 0, lambda model, _: f"{model.calls:,}"),
    ("failed", 0, lambda model, _: _share(model)),
    ("tokens in", 60, lambda model, _: _tokens(model.input_tokens)),
    ("out", 60, lambda model, _: _tokens(model.output_tokens)),
    ("USD", 0, lambda _, usd: "-" if usd is None else _usd(usd)),
    ("p50", 80, lambda model, _: _seconds(model.quantile(0.5))),
    ("p95", 70, lambda model, _: _seconds(model.quantile(0.95))),
)


def _models(job: Job, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_footer=True)
    tally, cost = job.tally, job.cost()
    columns = [column for column in _COLUMNS if width >= column[1]]
    totals = {
        "calls": f"{tally.calls:,}",
        "failed": f"{tally.failed / tally.calls:.1%}" if tally.calls else "-",
        "tokens in": _tokens(tally.input_tokens),
        "out": _tokens(tally.output_tokens),
        "USD": _usd(cost.total),
    }
    table.add_column("model", "all", no_wrap=True, overflow="ellipsis")
    for title, _, _ in columns:
        table.add_column(title, totals.get(title, ""), justify="right", no_wrap=True)
    for name, model in sorted(tally.models.items()):
        cells: Iterable[str | Text] = (
            write(model, cost.by_model.get(name)) for _, _, write in columns
        )
        table.add_row(name, *cells)
    return table


def _share(model: ModelTally) -> Text:
    style = "red" if model.failed_share > _MANY_FAILURES else ""
    return Text(f"{model.failed_share:.1%}", style=style)


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
