"""Log lines that wait until logging them can do no harm.

A logging handler may take its time, hold a lock that another thread waits for, or call the
monitor. So nothing is logged under a lock of ours, nor on the pipeline's thread, for which the main
thread waits whenever it reads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import NamedTuple

__all__ = ["Notices"]

_logger = logging.getLogger("genmeter")


class _Notice(NamedTuple):
    level: int
    message: str
    arguments: tuple[object, ...]
    error: BaseException | None


class Notices:
    """The log lines of a process that wait, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[_Notice] = deque()
        self._telling: set[int] = set()
        self._teller: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, level: int, message: str, *arguments: object, error: BaseException | None = None
    ) -> None:
        """Keep a line until it is told.

        Args:
            level: As ``logging`` numbers it.
            message: What happened, with ``%s`` for each of the arguments.
            *arguments: What the message names.
            error: Its traceback is logged too.
        """
        self._waiting.append(_Notice(level, message, arguments, error))

    def tell(self) -> None:
        """Log what waits, in the caller's thread, which must hold no lock of ours; never raises."""
        me = threading.get_ident()
        if me in self._telling:  # a logging handler brought us here; the loop below goes on
            return
        self._telling.add(me)
        try:
            while self._waiting:
                with contextlib.suppress(Exception):  # another thread was faster; a broken handler
                    notice = self._waiting.popleft()
                    _logger.log(
                        notice.level, notice.message, *notice.arguments, exc_info=notice.error
                    )
        finally:
            self._telling.discard(me)

    def tell_aside(self) -> None:
        """Log what waits on a thread of its own; where none is to be had it waits on."""
        if not self._waiting or (self._teller is not None and self._teller.is_alive()):
            return
        self._teller = threading.Thread(target=self.tell, name="genmeter-log", daemon=True)
        with contextlib.suppress(RuntimeError):
            self._teller.start()

    def finish(self, timeout: float) -> None:
        """Log what is left; never raises.

        A logging handler that blocks must not hold up a shutdown, so this is done aside too. Where
        no thread is to be had, as at the end of the interpreter, the caller's does it.

        Args:
            timeout: Seconds to wait at most.
        """
        if threading.get_ident() in self._telling:
            return
        self.tell_aside()
        teller = self._teller
        if teller is not None:
            with contextlib.suppress(RuntimeError):  # it was not started
                teller.join(timeout)
            if teller.is_alive():
                return
        self.tell()

    def clear(self) -> None:
        """Forget what waits and who tells it, in a forked child."""
        self._waiting.clear()
        self._telling.clear()
        self._teller = None
