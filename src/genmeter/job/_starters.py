"""The processes that keep a named job going though none of its own may run for a moment.

These are the processes that start others: the master of a web server, or the first process of a pool,
which replaces its workers; a launcher or a script that was started with the job's name, which starts its
processes one after the other. They may not use genmeter themselves. And these are the processes that
were started with the job's name and have not recorded anything yet: on a busy machine the first of
several may end before the next one begins.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from genmeter.job import meeting
from genmeter.job._processes import Process, ancestors, children, python_processes, variable
from genmeter.job._servers import server_of_worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genmeter.job.store import Store

__all__ = ["goes_on", "note_end", "note_others", "note_starters"]

_STARTERS, _ENDING = "starters", "ending"
_NAME = "GENMETER_JOB"
_FOLDERS = ("TMPDIR", "TEMP", "TMP")  # which tempfile.gettempdir() reads


def note_starters(store: Store, name: str) -> None:
    """Have the job go on as long as the processes run that start this one and others; at the gate.

    Args:
        store: The job's store.
        name: The job's name.
    """
    found = [pid for pid in (_starter(),) if pid is not None]
    if server_of_worker() is None:
        found += [pid for pid in ancestors() if _has_name(pid, name)]
    _add(store, _STARTERS, found)


def note_end(store: Store) -> None:
    """Note that this process is no part of the job any more; at the gate."""
    _add(store, _ENDING, [os.getpid()])


def note_others(store: Store, name: str) -> None:
    """Have the job go on as long as the processes run that may still join it; at the gate.

    Those are the Python processes that were started with its name and this process's temporary folder,
    without those that have left it.

    Args:
        store: The job's store.
        name: The job's name.
    """
    gone = {each.pid for each in _read(store, _ENDING)}
    others = (
        pid
        for pid in python_processes()
        if pid not in gone and _has_name(pid, name) and _has_our_folder(pid)
    )
    _add(store, _STARTERS, others)


def goes_on(store: Store, *, is_asked_to_end: bool = False, is_leaving: bool = True) -> bool:
    """Return whether more processes of a job without any may come; at the gate.

    Args:
        store: The job's store.
        is_asked_to_end: Whether this process ends because it was asked to, and not to be replaced:
            then its starter ends too, if it has no other process.
        is_leaving: Whether this process is not one of those that may come.

    Raises:
        StoreError: The store cannot be read.
    """
    own = os.getpid() if is_leaving else 0
    starters = [each for each in _read(store, _STARTERS) if each.pid != own and each.is_running]
    if not is_asked_to_end:
        return bool(starters)
    gone = {each.pid for each in _read(store, _ENDING)} | {own}
    return any(child not in gone for each in starters for child in children(each.pid))


def _has_name(pid: int, name: str) -> bool:
    return (variable(pid, _NAME) or "").strip() == name


def _has_our_folder(pid: int) -> bool:
    """Return whether a process was started with our temporary folder; another has another job."""
    own = os.getpid()
    return all((variable(pid, each) or "") == (variable(own, each) or "") for each in _FOLDERS)


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


def _read(store: Store, key: str) -> list[Process]:
    found = store.value(key)
    return [] if found is None else [Process(pid, began) for pid, began in json.loads(found)]


def _add(store: Store, key: str, pids: Iterable[int]) -> None:
    before = _read(store, key)
    new = list(dict.fromkeys(Process.of(pid) for pid in pids))
    after = [each for each in before if each.is_running and each not in new]
    after += new
    if after != before:
        store.set_value(key, json.dumps(after))
