"""Who wrote a journal's rows: an id for each process and journal, and a number for each event.

Several processes may append to one journal, and rotation deletes old files. By the id a report groups
the rows by process; by the numbers it knows how many events are missing.
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING, Any

from genmeter.events.jsonable import to_jsonable
from genmeter.schema.afterimage import FIRST_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["RUN_KEYS", "JournalRun", "without_run_keys"]

RUN_KEYS = frozenset({"run", "seq", "process", "host", "job", FIRST_CHUNK})
"""The fields that only a journal's rows have: those that name their writer, and the time to the first
chunk. A caller's key of that name gets a ``_``."""
_ID_BYTES = 4


class _Process:
    """The journals that one process writes. Without a lock, which a fork could leave locked."""

    def __init__(self) -> None:
        self._id = os.urandom(_ID_BYTES).hex()
        self._journal_numbers = itertools.count(1)
        self._journals: dict[Path, tuple[str, Iterator[int]]] = {}

    def journal(self, path: Path) -> tuple[str, Iterator[int]]:
        """Return the id of this process's run of a journal, and the numbers of its events."""
        found = self._journals.get(path)
        if found is None:  # two threads may come here with handlers of one journal
            new = (f"{self._id}-{next(self._journal_numbers)}", itertools.count(1))
            found = self._journals.setdefault(path, new)
        return found


_processes: dict[int, _Process] = {}  # of one process, by its id
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_processes.clear)


class JournalRun:
    """The fields by which the rows of one handler name their writer.

    Each row of a call or an evaluation has ``run``, the id of a process and of one of its journals.
    The first row also has ``seq``, its number in the run from 1 on, the ``process`` id, the
    ``host`` and, if it is known, the ``job``. Handlers of one journal in a process share the run.

    Args:
        path: The journal.
        job: The name of the job; None means ``GENMETER_JOB``, else ``OTEL_SERVICE_NAME``, if set.
    """

    def __init__(self, path: Path, job: str | None = None) -> None:
        self._path = path
        job = job or os.environ.get("GENMETER_JOB") or os.environ.get("OTEL_SERVICE_NAME")
        self._writer: dict[str, Any] = {"process": 0, "host": to_jsonable(_host_name())}
        if job:
            self._writer["job"] = to_jsonable(job)
        self._pid = 0
        self._id = ""
        self._numbers: Iterator[int] = itertools.count()

    def refresh(self) -> tuple[str, Mapping[str, Any]]:
        """Return the id, and the fields of a first row that are the same for all events.

        Both change in a forked child; call it before each batch.
        """
        pid = os.getpid()
        if pid != self._pid:
            process = _processes.get(pid) or _processes.setdefault(pid, _Process())
            self._id, self._numbers = process.journal(self._path)
            self._writer = {**self._writer, "process": pid}
            self._pid = pid  # last, for other threads
        return self._id, self._writer

    def skip_event(self) -> None:
        """Number an event that is lost before it is encoded, so that a report knows of it."""
        self.refresh()
        self.next_number()

    def next_number(self) -> int:
        """Return the number of the next event."""
        return next(self._numbers)


def without_run_keys(data: dict[str, Any]) -> dict[str, Any]:
    """Return a caller's metadata, in which no key is one of :data:`RUN_KEYS`."""
    if RUN_KEYS.isdisjoint(data):
        return data
    free: dict[str, Any] = {}
    for key, value in data.items():
        name = key
        while name in RUN_KEYS or (name != key and name in data):
            name += "_"
        free[name] = value
    return free


def _host_name() -> str:
    try:
        return socket.gethostname()
    except OSError:
        return "unknown"
