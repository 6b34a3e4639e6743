"""Handlers of metrics and logs: their protocols, and the two that write files.

Each handler runs on its own worker thread and is called in the order of the events. A handler that
blocks, raises or is slow affects neither the job nor other handlers. The events that it loses are
counted in ``genmeter_monitor_handler_errors_total``, and the first loss is logged.
"""

from __future__ import annotations

import time
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from genmeter.config.checks import PATH, TEXT, count, optional
from genmeter.errors import ConfigError
from genmeter.events.values import UNREADABLE, shown
from genmeter.handlers._journal_run import JournalRun
from genmeter.handlers._line_file import LineFile
from genmeter.handlers._lines import log_line, metric_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "FileLogHandler",
    "FileMetricHandler",
    "LogHandler",
    "MetricHandler",
    "check_handlers",
]


@runtime_checkable
class MetricHandler(Protocol):
    """Receives the metrics of a monitor."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Handle one value.

        Args:
            metric_name: The metric's name, e.g. ``generation_time``.
            value: The value.
            metadata: Its labels and the job's metadata; ``timestamp`` is the local time in ISO
                8601, with the offset from UTC.
        """


@runtime_checkable
class LogHandler(Protocol):
    """Receives the log records of a monitor."""

    def handle_log(self, message: dict[str, Any]) -> None:
        """Handle one record.

        Args:
            message: ``level`` (``info``, ``warning`` or ``error``), ``message`` and the job's data.
        """


class _FileHandler:
    """Appends lines to a file in a folder."""

    _NAME: str

    def __init__(self, log_dir: str | Path, *, max_bytes: int | None = None, keep: int = 5) -> None:
        self.log_dir = Path(PATH("log_dir", log_dir))
        max_bytes = optional(count(1))("max_bytes", max_bytes)
        keep = count(1)("keep", keep)
        self.log_file = self.log_dir / self._NAME
        self._lines = LineFile(self.log_file, max_bytes=max_bytes, keep=keep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.log_dir)!r})"

    def append_lines(self, lines: bytes) -> None:
        """Append whole, encoded lines in one write.

        Raises:
            OSError: The lines cannot be written; the file is unchanged.
        """
        if lines:
            self._lines.append(lines)

    def close(self) -> None:
        """Close the file; the next line reopens it."""
        self._lines.close()


class FileMetricHandler(_FileHandler):
    """Appends to the journal ``metrics.jsonl``, one JSON object a line.

    Each object has ``metric``, ``value`` and the metadata. The rows of calls and evaluations also have
    ``run``, the id of this process's run of the journal, and the first one its writer: the ``process``
    id, the ``host``, the ``job`` if it has a name, and ``seq``, the event's number in the run, by which
    a report knows what is missing. The first line creates the folder and the file. NaN and infinity,
    which JSON lacks, are written as text.

    Args:
        log_dir: The folder.
        max_bytes: Size at which the file is rotated to ``metrics.1.jsonl``, that one to
            ``metrics.2.jsonl`` and so on; None means no limit. Lines that are written together
            stay in one file.
        keep: Number of rotated files to keep.
        job: The job's name in the rows; None means ``GENMETER_JOB``, else ``OTEL_SERVICE_NAME``.

    Attributes:
        log_dir: The folder.
        log_file: The file.

    Raises:
        ConfigError: An argument is invalid.
    """

    _NAME = "metrics.jsonl"

    def __init__(
        self,
        log_dir: str | Path,
        *,
        max_bytes: int | None = None,
        keep: int = 5,
        job: str | None = None,
    ) -> None:
        super().__init__(log_dir, max_bytes=max_bytes, keep=keep)
        job = optional(TEXT)("job", job)
        self._run = JournalRun(self._lines.path, job)

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: The line cannot be written; the file is unchanged.
        """
        self.handle_metrics([(metric_name, value, metadata)])

    def handle_metrics(self, batch: Sequence[tuple[str, float, dict[str, Any]]]) -> None:
        """Write a line for each name, value and metadata, in one write.

        Raises:
            OSError: The lines cannot be written; the file is unchanged.
        """
        self.append_lines("".join(metric_lines(batch, self._run)).encode())


class FileLogHandler(_FileHandler):
    """Appends to ``afterimage.log``: on each line the local time and a record as JSON.

    The arguments, attributes and errors are those of :class:`FileMetricHandler`; rotated files are
    ``afterimage.1.log``, ``afterimage.2.log`` and so on.
    """

    _NAME = "afterimage.log"

    def handle_log(self, message: dict[str, Any]) -> None:
        """Write one line with the current time.

        Raises:
            OSError: The line cannot be written; the file is unchanged.
        """
        self.handle_logs([(time.time(), message)])

    def handle_logs(self, batch: Sequence[tuple[float, dict[str, Any]]]) -> None:
        """Write a line for each Unix time and record, in one write.

        Raises:
            OSError: The lines cannot be written; the file is unchanged.
        """
        self.append_lines("".join(log_line(when, record) for when, record in batch).encode())


def check_handlers(name: str, handlers: Sequence[Any], method: str) -> None:
    """Check that each handler has the method that will be called.

    Args:
        name: The argument's name, for the error.
        handlers: The handlers.
        method: ``handle_metric`` or ``handle_log``.

    Raises:
        ConfigError: A handler lacks the method, or it is a coroutine function, which would never be
            awaited.
    """
    for number, handler in enumerate(handlers):
        try:
            found = getattr(handler, method, None)
            is_coroutine = iscoroutinefunction(found)
            is_usable = callable(found) and not is_coroutine
        except UNREADABLE:
            is_coroutine = is_usable = False
        if not is_usable:
            problem = f"whose {method} is a coroutine" if is_coroutine else f"without {method}"
            raise ConfigError(
                f"{name}[{number}] must be an object with a plain method {method}, such as "
                f"{_EXAMPLES[method].__name__}(folder); got {shown(handler)}, {problem}"
            )


_EXAMPLES = {"handle_metric": FileMetricHandler, "handle_log": FileLogHandler}
