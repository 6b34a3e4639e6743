"""Log lines that are logged later, when logging cannot block the job.

A logging handler may be slow, wait for a lock of another thread, or call the monitor. So nothing is
logged under a lock of genmeter, nor on the pipeline's thread, which the main thread waits for when
it reads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import NamedTuple

from genmeter.pipeline.worker import Worker, catch_all

__all__ = ["DeferredLog"]

_logger = logging.getLogger("genmeter")


class _Line(NamedTuple):
    level: int
    message: str
    arguments: tuple[object, ...]
    error: BaseException | None


class DeferredLog:
    """The pending log lines of a process, in order."""

    def __init__(self) -> None:
        self._waiting: deque[_Line] = deque()
        self._flushing: set[int] = set()
        self._worker = self._new_worker()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, level: int, message: str, *arguments: object, error: BaseException | None = None
    ) -> None:
        """Add a line; it only appends, so it may be called anywhere.

        Args:
            level: A level of ``logging``.
            message: The message, with ``%s`` for each argument.
            *arguments: The arguments of the message.
            error: An exception whose traceback is logged too.
        """
        self._waiting.append(_Line(level, message, arguments, error))

    def flush(self) -> None:
        """Log all lines on the caller's thread, which must hold no lock of genmeter; never raises."""
        me = threading.get_ident()
        if me in self._flushing:  # called by a logging handler; the loop below goes on
            return
        self._flushing.add(me)
        try:
            while self._waiting:
                with catch_all():  # taken by another thread; a broken handler
                    line = self._waiting.popleft()
                    _logger.log(line.level, line.message, *line.arguments, exc_info=line.error)
        finally:
            self._flushing.discard(me)

    def flush_in_background(self) -> None:
        """Log all lines on a worker's thread, which ends afterwards.

        If no thread can be started, they stay until :meth:`flush` or :meth:`finish`.
        """
        if self._waiting and not self._worker.is_running:
            self._worker = self._new_worker()
            self._worker.put(None)
            self._worker.close()

    def finish(self, timeout: float) -> None:
        """Log the remaining lines, waiting ``timeout`` seconds at most; never raises.

        A worker's thread does this, since a logging handler that blocks must not delay a shutdown;
        or the caller, if no thread can be started, as at the end of the interpreter.
        """
        if threading.get_ident() in self._flushing:
            return
        self.flush_in_background()
        self._worker.join(time.monotonic() + timeout)
        if not self._worker.is_running:
            self.flush()

    def clear(self) -> None:
        """Drop the parent's lines, in a forked child."""
        self._waiting.clear()
        self._flushing.clear()
        self._worker = self._new_worker()

    def _new_worker(self) -> Worker[None]:
        return Worker(lambda _: self.flush(), name="genmeter-log")
