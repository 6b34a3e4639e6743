"""Blocks of code in whose middle a signal handler must not do the work of an exit.

A handler runs on the main thread, between any two of its bytecodes. If that thread holds a lock there,
the work of the exit, which needs the lock on another thread, could never end.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deferral", "deferral"]


class Deferral:
    """A context that puts off a function while the main thread is in it; it may be nested.

    Other threads may be in it, too: nothing is put off because of them. An instance takes no lock.
    """

    def __init__(self) -> None:
        self._depth = 0  # of the main thread
        self._waiting: Callable[[], object] | None = None

    def __enter__(self) -> None:
        """Put off what comes from now on, if this is the main thread."""
        if _is_main():
            self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        """Call what was put off, at the end of the outermost block."""
        if not _is_main():
            return
        self._depth = max(self._depth - 1, 0)  # 0 in a child that a signal handler has forked
        if self._depth == 0 and self._waiting is not None:
            function, self._waiting = self._waiting, None
            function()

    def put_off(self, function: Callable[[], object]) -> bool:
        """Have a function called at the end of the block; return whether this thread is in one."""
        if self._depth == 0 or not _is_main():
            return False
        self._waiting = function
        return True

    def reset(self) -> None:
        """Forget what was put off, and the blocks, in a forked child."""
        self._depth = 0
        self._waiting = None


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


deferral = Deferral()
"""The one of this process."""
