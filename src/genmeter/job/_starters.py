"""The processes that start those of a named job, such as the master of a web server.

A server replaces its workers, and a pool does so with ``maxtasksperchild``. For a moment none of them may
run that has recorded anything. The job goes on then, since the process that starts them runs on, though
it may not use genmeter itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from genmeter.job import meeting
from genmeter.job._servers import server_of_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.job.store import Store

__all__ = ["goes_on", "note_end", "note_starter"]

_STARTERS, _ENDING = "starters", "ending"
_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")


class _Process(NamedTuple):
    """A process.

    Args:
        pid: Its id.
        began: When it began, in the kernel's units, since ids are used again; empty if not known.
    """

    pid: int
    began: str

    @property
    def is_running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it belongs to somebody else
        found = _began(self.pid)
        return found != _ENDED and (not self.began or not found or found == self.began)


_ENDED = "ended"


def _began(pid: int) -> str:
    """Return when a process began; ``ended`` if it only waits for its parent, empty if not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before may contain anything
    if len(fields) < 20:  # noqa: PLR2004 - the start is the 20th after the name, in proc(5)
        return ""
    return _ENDED if fields[0] in ("Z", "X") else fields[19]


def note_starter(store: Store) -> None:
    """Have the job go on as long as the process runs that starts this one and others; at the gate."""
    pid = _starter()
    if pid is not None:
        _add(store, _STARTERS, pid)


def note_end(store: Store) -> None:
    """Note that this process is no part of the job any more; at the gate."""
    if _read(store, _STARTERS):
        _add(store, _ENDING, os.getpid())


def goes_on(store: Store, *, is_asked_to_end: bool = False) -> bool:
    """Return whether more processes of a job without any may come; at the gate.

    Args:
        store: The job's store.
        is_asked_to_end: Whether this process ends because it was asked to, and not to be replaced:
            then its starter ends too, if it has no other process.

    Raises:
        StoreError: The store cannot be read.
    """
    own = os.getpid()
    starters = [each for each in _read(store, _STARTERS) if each.pid != own and each.is_running]
    if not is_asked_to_end:
        return bool(starters)
    gone = {each.pid for each in _read(store, _ENDING)} | {own}
    return any(child not in gone for each in starters for child in _children(each.pid))


def _starter() -> int | None:
    if server_of_worker() is not None:
        uwsgi = sys.modules.get("uwsgi")
        if uwsgi is None:
            return os.getppid()
        with suppress(Exception):  # without a master its parent is a shell
            return int(uwsgi.masterpid()) or None
        return None
    root = meeting.family().root
    if root not in (0, os.getpid()):
        return root
    parent = multiprocessing.parent_process()
    return None if parent is None else parent.pid


def _read(store: Store, key: str) -> list[_Process]:
    found = store.value(key)
    return [] if found is None else [_Process(pid, began) for pid, began in json.loads(found)]


def _add(store: Store, key: str, pid: int) -> None:
    before = _read(store, key)
    new = _Process(pid, _began(pid))
    after = [each for each in before if each.is_running and each != new]
    after.append(new)
    if after != before:
        store.set_value(key, json.dumps(after))


def _children(pid: int) -> Iterator[int]:
    """Yield the children of a process that run; 0 if they cannot be listed, as outside of Linux."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = " ".join((task / "children").read_text() for task in tasks)
    except OSError:
        yield 0
        return
    for child in map(int, found.split()):
        with suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if _began(child) != _ENDED and not any(name in command for name in _HELPERS):
                yield child
