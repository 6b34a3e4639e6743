"""Handlers of metrics and logs: their protocols, and the two that write files.

Each handler runs on its own worker thread and is called in the order of the events. One that
blocks, raises or is slow harms neither the job nor the others. The events that it lost are counted
in ``genmeter_monitor_handler_errors_total``, and logged once.
"""

from __future__ import annotations

import time
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from genmeter.config.checks import PATH, count, optional
from genmeter.errors import ConfigError
from genmeter.events.jsonable import to_jsonable
from genmeter.events.values import UNREADABLE, shown
from genmeter.handlers._line_file import LineFile
from genmeter.handlers._line_text import log_time, object_text, value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
            metric_name: Its name, such as ``generation_time``.
            value: Its value.
            metadata: Its labels, and what the job recorded with it; ``timestamp`` is the local time
                in ISO 8601, with its offset from UTC.
        """


@runtime_checkable
class LogHandler(Protocol):
    """Receives the log records of a monitor."""

    def handle_log(self, message: dict[str, Any]) -> None:
        """Handle one record.

        Args:
            message: ``level`` (``info``, ``warning`` or ``error``), ``message``, and what the job
                recorded with it.
        """


class _FileHandler:
    """Appends to a file in a folder; see :class:`FileMetricHandler` for the arguments."""

    _NAME: str

    def __init__(self, log_dir: str | Path, *, max_bytes: int | None = None, keep: int = 5) -> None:
        self.log_dir = Path(PATH("log_dir", log_dir))
        optional(count(1))("max_bytes", max_bytes)
        count(1)("keep", keep)
        self.log_file = self.log_dir / self._NAME
        self._lines = LineFile(self.log_file, max_bytes=max_bytes, keep=keep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.log_dir)!r})"

    def append_lines(self, lines: bytes) -> None:
        """Append lines that are encoded already, all at once; the system has them on return.

        Args:
            lines: Whole lines, each with its end.

        Raises:
            OSError: They cannot be written; the file has the whole lines that it had.
        """
        if lines:
            self._lines.append(lines)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        self._lines.close()


class FileMetricHandler(_FileHandler):
    """Appends to ``metrics.jsonl``, one JSON object a line: the journal.

    Each has ``metric``, ``value`` and the metadata. The folder is made and the file opened at the
    first line. NaN and infinity, which JSON does not have, are written as text.

    Args:
        log_dir: The folder.
        max_bytes: Size from which on the file is put aside as ``metrics.1.jsonl``, an older one as
            ``metrics.2.jsonl`` and so on; None means that it grows. Lines that are written together
            stay together.
        keep: How many files that were put aside are kept.

    Attributes:
        log_dir: The folder.
        log_file: The file.

    Raises:
        ConfigError: An argument is invalid.
    """

    _NAME = "metrics.jsonl"

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Write one line; the system has it on return.

        Raises:
            OSError: It cannot be written; the file has the whole lines that it had.
        """
        self.handle_metrics([(metric_name, value, metadata)])

    def handle_metrics(self, batch: Sequence[tuple[str, float, dict[str, Any]]]) -> None:
        """Write a line for each name, value and metadata, all at once.

        Raises:
            OSError: They cannot be written; the file has the whole lines that it had.
        """
        self.append_lines("".join(_metric_lines(batch)).encode())


class FileLogHandler(_FileHandler):
    """Appends to ``afterimage.log``, the local time and the record as JSON on each line.

    The folder is made and the file opened at the first line.

    Args:
        log_dir: The folder.
        max_bytes: Size from which on the file is put aside as ``afterimage.1.log``, an older one as
            ``afterimage.2.log`` and so on; None means that it grows. Lines that are written
            together stay together.
        keep: How many files that were put aside are kept.

    Attributes:
        log_dir: The folder.
        log_file: The file.

    Raises:
        ConfigError: An argument is invalid.
    """

    _NAME = "afterimage.log"

    def handle_log(self, message: dict[str, Any]) -> None:
        """Write one line, of now; the system has it on return.

        Raises:
            OSError: It cannot be written; the file has the whole lines that it had.
        """
        self.handle_logs([(time.time(), message)])

    def handle_logs(self, batch: Sequence[tuple[float, dict[str, Any]]]) -> None:
        """Write a line for each Unix time and record, all at once.

        Raises:
            OSError: They cannot be written; the file has the whole lines that it had.
        """
        lines = [f"{log_time(when)} - {object_text(record)}\n" for when, record in batch]
        self.append_lines("".join(lines).encode())


def check_handlers(name: str, handlers: Sequence[Any], method: str) -> None:
    """Check that each handler has the method that will be called.

    Args:
        name: The argument that the handlers were passed as.
        handlers: The handlers.
        method: ``handle_metric`` or ``handle_log``.

    Raises:
        ConfigError: A handler has no such method, or a coroutine function, which nobody would await.
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


def _metric_lines(batch: Iterable[tuple[str, float, dict[str, Any]]]) -> Iterable[str]:
    """Return the lines of a journal; metadata that neighbours share is encoded once."""
    shared: dict[str, Any] = {}
    tail = ""
    for name, value, metadata in batch:
        if metadata is not shared:
            plain = to_jsonable(dict(metadata))
            if "metric" in plain or "value" in plain:  # as AfterImage has it, these win
                row = {"metric": to_jsonable(name), "value": to_jsonable(value), **plain}
                yield object_text(row) + "\n"
                continue
            shared = metadata
            tail = (f", {object_text(plain)[1:]}" if plain else "}") + "\n"
        yield f'{{"metric": {value_text(name)}, "value": {value_text(value)}{tail}'
