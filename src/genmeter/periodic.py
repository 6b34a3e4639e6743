"""A callback that a thread of its own calls again and again."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Periodic"]

_logger = logging.getLogger("genmeter")


class Periodic:
    """Calls a function every so often, on a daemon thread.

    Args:
        function: What to call; where it raises, that is told to ``on_error`` and it is called
            again at the next turn.
        interval: Seconds from one call's end to the next one's begin.
        name: The thread's name.
        on_error: Told of each failure.
    """

    def __init__(
        self,
        function: Callable[[], None],
        interval: float,
        *,
        name: str,
        on_error: Callable[[], None],
    ) -> None:
        self._function = function
        self._interval = interval
        self._on_error = on_error
        # A bare lock, whose release ends the thread: an Event has a lock inside, which a signal
        # handler could find taken, and a forked child too.
        self._running = threading.Lock()
        self._running.acquire()
        self._has_warned = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Make no further calls; wait at most ``timeout`` seconds for one under way.

        It may be called again, to wait longer.

        Returns:
            Whether none is under way any more, but for one that calls this.
        """
        with suppress(RuntimeError):  # it was stopped before
            self._running.release()
        if threading.current_thread() is not self._thread:
            self._thread.join(min(timeout, threading.TIMEOUT_MAX))
            return not self._thread.is_alive()
        return True

    def _loop(self) -> None:
        while not self._running.acquire(timeout=min(self._interval, threading.TIMEOUT_MAX)):
            try:
                self._function()
            except Exception:
                self._on_error()
                if not self._has_warned:
                    self._has_warned = True
                    _logger.exception(
                        "%s failed; further failures are only counted", self._thread.name
                    )
