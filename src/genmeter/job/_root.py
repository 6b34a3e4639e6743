"""A process's wait for the one that started it: what that one has used or reserved before counts too.

The first process of a family joins only when it has seen a child, which it looks for once a second. Until
then the store lacks what it has used.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from genmeter.job import meeting
from genmeter.job.amounts import JobError, StoreError
from genmeter.job.folders import is_running

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.job.store import Store

__all__ = ["RootWait"]

_WAIT = 3.0  # seconds for the family's first process, which may have used nothing
_USED_WAIT = 10.0  # the same, if that one has
_POLL = 0.02


class RootWait:
    """What a process knows of the first process of its family.

    Args:
        log: Called like ``Logger.log``; must not wait.
    """

    def __init__(self, log: Callable[..., None]) -> None:
        self._log = log
        self.begin()

    def begin(self, *, forked_by: int = 0, parent_has_used: bool = False) -> None:
        """Begin as a process that knows nothing; takes no lock.

        Args:
            forked_by: Id of the process that has forked this one; 0 if none has.
            parent_has_used: Whether that one has recorded anything.
        """
        self._forked_by = forked_by
        self._parent_has_used = parent_has_used
        self._has_warned = False
        self.is_over = False

    def wait(self, store: Store, joined_at: float) -> None:
        """Wait until the first process has joined; if it does not in time, look again at the next call.

        Args:
            store: The store, which this process has joined.
            joined_at: When it did, on the clock of ``time.monotonic()``.

        Raises:
            JobError: The store cannot be read.
        """
        has_used = self._has_used
        if self._forked_by and not (has_used or self._parent_has_used):
            self.is_over = True
            return
        deadline = joined_at + (_USED_WAIT if has_used else _WAIT)
        while self._is_missing(store):
            if time.monotonic() < deadline:
                time.sleep(_POLL)
            elif has_used:
                self._warn()
                return
            else:
                break
        self.is_over = True

    def is_complete(self, store: Store) -> bool:
        """Return whether a store has what the first process had used as it started this one.

        Args:
            store: The store, which this process has joined.

        Raises:
            JobError: The store cannot be read.
        """
        if not self.is_over and self._has_used:
            self.is_over = not self._is_missing(store)
            return self.is_over
        return True

    @property
    def _has_used(self) -> bool:
        by_fork = self._parent_has_used and self._forked_by == meeting.family().root
        return by_fork or meeting.root_has_used()

    def _is_missing(self, store: Store) -> bool:
        root = meeting.family().root
        if root in (0, os.getpid()):
            return False
        try:
            has_entered = store.has_entered(root)
        except StoreError as error:
            raise JobError(str(error)) from error
        return not has_entered and is_running(root)

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._log(
                logging.WARNING,
                "process %d, which started this one, has used or reserved tokens and has not joined "
                "the job yet: until it has, the job's budgets and totals here lack that; is it "
                "stopped, or the machine too busy?",
                meeting.family().root,
            )
