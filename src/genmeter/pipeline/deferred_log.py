"""Log lines that wait until logging them can do no harm.

A logging handler may take its time, hold a lock that another thread waits for, or call the
monitor. So nothing is logged under a lock of ours, nor on the pipeline's thread, for which the main
thread waits whenever it reads.
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
    """The log lines of a process that wait, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[_Line] = deque()
        self._flushing: set[int] = set()
        self._worker = self._new_worker()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, level: int, message: str, *arguments: object, error: BaseException | None = None
    ) -> None:
        """Keep a line until it is logged; only appends, so it may be called anywhere.

        Args:
            level: As ``logging`` numbers it.
            message: What happened, with ``%s`` for each of the arguments.
            *arguments: What the message names.
            error: Its traceback is logged too.
        """
        self._waiting.append(_Line(level, message, arguments, error))

    def flush(self) -> None:
        """Log what waits, in the caller's thread, which must hold no lock of ours; never raises."""
        me = threading.get_ident()
        if me in self._flushing:  # a logging handler brought us here; the loop below goes on
            return
        self._flushing.add(me)
        try:
            while self._waiting:
                with catch_all():  # another thread was faster; a broken handler
                    line = self._waiting.popleft()
                    _logger.log(line.level, line.message, *line.arguments, exc_info=line.error)
        finally:
            self._flushing.discard(me)

    def flush_in_background(self) -> None:
        """Log what waits on a worker's thread, which ends afterwards.

        Where no thread can be started, the lines wait for :meth:`flush` or :meth:`finish`.
        """
        if self._waiting and not self._worker.is_running:
            self._worker = self._new_worker()
            self._worker.put(None)
            self._worker.close()

    def finish(self, timeout: float) -> None:
        """Log what is left; never raises.

        A logging handler that blocks must not hold up a shutdown, so this is done on a worker's
        thread too. Where no thread can be started, as at the end of the interpreter, the caller's
        logs.

        Args:
            timeout: Seconds to wait at most.
        """
        if threading.get_ident() in self._flushing:
            return
        self.flush_in_background()
        self._worker.join(time.monotonic() + timeout)
        if not self._worker.is_running:
            self.flush()

    def clear(self) -> None:
        """Forget what waits, in a forked child."""
        self._waiting.clear()
        self._flushing.clear()
        self._worker = self._new_worker()

    def _new_worker(self) -> Worker[None]:
        return Worker(lambda _: self.flush(), name="genmeter-log")
