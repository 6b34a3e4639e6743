"""A function that is called when the process exits, whatever started the process."""

from __future__ import annotations

import atexit
import multiprocessing
from multiprocessing import util as mp_util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ExitHook"]


class ExitHook:
    """Calls a function when the process exits, and in forked children when they exit.

    Args:
        function: The function; it is called again if a signal handler's SystemExit interrupts it.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._is_set = False

    def set(self) -> None:
        """Register the hook; a second call does nothing."""
        if self._is_set:
            return
        self._is_set = True
        atexit.register(self._call)
        mp_util.register_after_fork(self, ExitHook._set_in_child)
        if multiprocessing.parent_process() is not None:
            self._set_in_child()

    def _set_in_child(self) -> None:
        # atexit does not run in children that multiprocessing forked; its own finalizers do.
        mp_util.Finalize(None, self._call, exitpriority=0)

    def _call(self) -> None:
        try:
            self._function()
        except SystemExit:
            # From a signal handler: the process is exiting anyway, so resume what was interrupted.
            self._function()
            raise
