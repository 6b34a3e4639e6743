"""The end of a job: its last process removes the folder, unless more processes may come."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from genmeter.job import meeting
from genmeter.job._ended import counted_in, note_ended
from genmeter.job._members import Members
from genmeter.job._starters import goes_on, note_others
from genmeter.job.amounts import StoreError
from genmeter.job.folders import LOCKS, STORE, is_running, remove
from genmeter.job.store import Store

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JobEnd"]


class JobEnd(NamedTuple):
    """How the job of a process ends.

    Args:
        name: The job's name; None for the processes that descend from one another.
        resume: Whether a later run goes on with its totals.
        serves: Whether this process is a worker of a server, which starts and ends its own.
    """

    name: str | None
    resume: bool
    serves: bool = False

    def remove_if_over(
        self, store: Store, members: Members, folder: Path, *, is_asked_to_end: bool = False
    ) -> bool | None:
        """Remove the folder of a job that is over; the caller has left it, and holds the gate.

        Args:
            store: Its store.
            members: Its locks.
            folder: Its folder.
            is_asked_to_end: Whether this process ends since it was asked to, and not to be replaced.

        Returns:
            Whether it was removed; None if the job has other processes.
        """
        if not members.is_empty():
            return None
        if not self._is_over(store, is_asked_to_end=is_asked_to_end):
            return False
        if self.name is not None:
            with contextlib.suppress(StoreError, OSError):
                found = counted_in(store)._replace(at=time.time())
                if found.calls:
                    note_ended(folder.parent, folder.name, found)
        store.close()
        remove(folder)
        return True

    def remove_unjoined(self, deadline: float) -> None:
        """Remove the folder of a job that went on for this process, which has recorded nothing.

        Args:
            deadline: On the clock of ``time.monotonic()``.
        """
        if self.name is None:
            return
        folder = meeting.top() / meeting.folder_of(self.name)
        with contextlib.suppress(OSError, TimeoutError):
            if not meeting.is_safe(folder) or not (folder / STORE).exists():
                return
            members = Members(folder / LOCKS)
            try:
                with members.gate(deadline):
                    if members.is_current:
                        self.remove_if_over(Store(folder / STORE), members, folder)
            finally:
                members.close()

    def _is_over(self, store: Store, *, is_asked_to_end: bool) -> bool:
        if self.resume:
            return False
        if self.name is not None:
            with contextlib.suppress(StoreError):
                if not self.serves:
                    note_others(store, self.name)
                return not goes_on(store, is_asked_to_end=self.serves and is_asked_to_end)
        eldest = meeting.eldest()
        return self.name is not None or eldest in (0, os.getpid()) or not is_running(eldest)
