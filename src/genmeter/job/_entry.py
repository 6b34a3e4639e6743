"""How a process enters the folder of its job, which it may have to make.

The gate is held meanwhile: of several processes that begin at once, one creates the store, and none
enters a folder that the last process of an earlier run is about to remove.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.resources import PROCESS_PID, Resource

from genmeter.job import meeting
from genmeter.job._ended import counted_in, ended_of_late
from genmeter.job._members import Members
from genmeter.job._processes import own_start
from genmeter.job._servers import server_of_worker
from genmeter.job._starters import goes_on, note_starters
from genmeter.job.amounts import JobError, StoreError
from genmeter.job.folders import ELDEST, LOCKS, STORE, clean
from genmeter.job.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from genmeter.job._ended import Ended

__all__ = ["Entered", "Entry"]


class Entered(NamedTuple):
    """What a process has that has entered.

    Args:
        folder: The folder of the job.
        members: Its locks.
        store: Its store.
        number: The number of this process in the store.
        resource: The resource of the job; None if its first process has none.
    """

    folder: Path
    members: Members
    store: Store
    number: int
    resource: Resource | None


class Entry:
    """Enters the folder of a job.

    Args:
        name: The job's name; None for the processes that descend from one another.
        resource: The resource of this process, which is the job's if this is its first process.
        resume: Whether to go on with an earlier run of the named job.
        log: Called like ``Logger.log``; must not wait.
    """

    def __init__(
        self,
        name: str | None,
        resource: Resource | None,
        *,
        resume: bool,
        log: Callable[..., None],
    ) -> None:
        self._name = name
        self._resource = resource
        self._resume = resume
        self._log = log

    def enter(self, deadline: float, *, may_be_alone: bool) -> Entered | None:
        """Become one of the processes of the job.

        Args:
            deadline: On the clock of ``time.monotonic()``.
            may_be_alone: Whether not to make the folder, if there is none.

        Returns:
            None if there is no other process.

        Raises:
            TimeoutError: Another process was at the gate, or in the store, for too long.
            JobError: The store cannot be used.
            FolderError: The folder is not safe.
            OSError: A file cannot be made.
        """
        key = meeting.family().key if self._name is None else meeting.folder_of(self._name)
        if may_be_alone and not (meeting.top() / key / LOCKS).exists():
            return None  # no child has recorded anything
        top = meeting.root()
        folder = top / key
        clean(top, but=key)
        meeting.make_private(folder)
        while (entered := self._enter_folder(folder, deadline)) is None:
            meeting.make_private(folder)
        members, store, number = entered
        try:
            found = store.value("resource")
            if found is None and self._resource is not None:
                store.set_value("resource", self._shared_resource())
        except StoreError as error:
            members.close()
            raise (TimeoutError if error.is_busy else JobError)(str(error)) from error
        resource = self._resource if found is None else Resource(json.loads(found))
        return Entered(folder, members, store, number, resource)

    def _enter_folder(self, folder: Path, deadline: float) -> tuple[Members, Store, int] | None:
        """Become one of the processes of a folder; None if the last one has just removed it."""
        members = Members(folder / LOCKS)
        try:
            with members.gate(deadline):
                if not members.is_current:
                    members.close()
                    return None
                store = Store(folder / STORE)
                if members.is_empty() or not (folder / STORE).exists():
                    self._create(store, folder)
                else:
                    store.check_version()
                if self._name is not None:
                    note_starters(store, self._name)
                return members, store, store.add_process(os.getpid(), members.enter())
        except StoreError as error:
            members.close()
            raise (TimeoutError if error.is_busy else JobError)(str(error)) from error
        except BaseException:
            members.close()
            raise

    def _create(self, store: Store, folder: Path) -> None:
        goes_on = self._goes_on(store)
        if goes_on and self._name is not None and not self._resume and store.exists:
            self._log(
                logging.INFO,
                "the job %r goes on with what its earlier processes have counted, since a process "
                "that was started with its name has run since then",
                self._name,
            )
        is_kept = goes_on or self._resume
        before = None if is_kept else self._counted_before(store, folder)
        lost = store.create(self._description(), keep=is_kept)
        if not goes_on:
            store.forget_refusals()  # of an earlier run, which has said so
        if lost is not None:
            self._log(
                logging.WARNING,
                "what the job has counted so far is lost, and it begins at 0: %s",
                lost,
            )
        elif before is not None and before.calls and before.is_recent:
            self._log(
                logging.WARNING,
                "the job %r begins at 0: its earlier processes, the last of which ended %.1f s ago "
                "before this one had joined, and their %d calls (%d tokens) count as a run of their "
                "own. To go on with them set GENMETER_RESUME=1, or start all processes from a "
                "script or launcher that itself is started with GENMETER_JOB",
                self._name,
                time.time() - before.at,
                before.calls,
                before.tokens,
            )

    def _goes_on(self, store: Store) -> bool:
        """Return whether processes that are gone were of this run, and what they counted is kept."""
        if self._name is None:
            return True
        try:
            if not store.exists:
                return False
            began = own_start()
            # The earlier processes may have been killed, after this one was started.
            ran_beside = began is not None and began < store.last_change()
            return ran_beside or goes_on(store, is_leaving=False)
        except StoreError:
            return True  # what is lost is reported

    def _counted_before(self, store: Store, folder: Path) -> Ended | None:
        """Return what an earlier run has counted that has ended; None if that is no surprise.

        A server that is started again begins at 0, as all do.
        """
        if server_of_worker() is not None:
            return None
        try:
            if store.exists:
                return counted_in(store)
        except StoreError:
            return None
        return ended_of_late(folder.parent, folder.name)

    def _description(self) -> dict[str, str]:
        found = {} if self._resource is None else {"resource": self._shared_resource()}
        if self._name is None:
            found[ELDEST] = str(meeting.eldest())
        return {**found, "resume": "1"} if self._resume else found

    def _shared_resource(self) -> str:
        assert self._resource is not None  # noqa: S101 - checked before
        attributes = dict(self._resource.attributes)
        attributes.pop(PROCESS_PID, None)
        return json.dumps(attributes)
