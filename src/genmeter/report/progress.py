"""A progress bar on standard error while a large source is read."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

__all__ = ["reading"]

_LARGE = 8 * 2**20  # bytes; what is smaller is read in a moment
_DUMB = ("dumb", "unknown")  # terminals that cannot draw over a line


@contextmanager
def reading(size: int) -> Iterator[Callable[[int], None]]:
    """Show how much is read, on a terminal and with rich; nothing elsewhere.

    Args:
        size: Bytes in all.

    Yields:
        What is told the bytes that were read since it was last told.
    """
    is_seen = sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB
    progress = _progress() if size >= _LARGE and is_seen else None
    if progress is None:
        yield _advance_nothing
        return
    with progress:
        task = progress.add_task("reading", total=size)
        yield lambda count: progress.advance(task, count)


def _progress() -> Progress | None:
    """Make a bar that is gone at the end; None without rich."""
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _advance_nothing(_count: int) -> None:
    """Show nothing."""
