"""The folders of jobs: which one is over, and its removal."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

from genmeter.job import meeting
from genmeter.job._members import Members
from genmeter.job._starters import goes_on
from genmeter.job.store import Store, StoreError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ELDEST", "LOCKS", "STORE", "clean", "is_running", "remove", "remove_at_exit"]

LOCKS: Final = "members.lock"
STORE: Final = "job.sqlite"
ELDEST: Final = "eldest"
_GATE = 5.0  # seconds that joining and leaving may wait
_RESUMABLE = 30 * 86_400.0  # seconds that the totals of a job that may be resumed are kept


def is_running(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def clean(top: Path, but: str) -> None:
    """Remove the folders of jobs that are over, and whose last process could not do it."""
    for folder in list(top.iterdir()):
        if folder.name == but or not meeting.is_safe(folder):
            continue
        with contextlib.suppress(OSError, TimeoutError, StoreError):
            if folder.name.startswith("."):  # half removed
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if not (folder / LOCKS).exists():
                _remove_if_old(folder)
                continue
            members = Members(folder / LOCKS)
            try:
                with members.gate(time.monotonic()):
                    if not members.is_current or not members.is_empty():
                        continue
                    if _is_kept(folder, Store(folder / STORE)):
                        continue
                    remove(folder)
            finally:
                members.close()


def _is_kept(folder: Path, store: Store) -> bool:
    """Return whether a job without processes may go on."""
    root = folder.name.rpartition("-")[2]
    is_of_family = folder.name.startswith(("family-", "run-")) and root.isdigit()
    if is_of_family and int(root) and is_running(int(root)):
        return True
    if not (folder / STORE).exists():
        return False
    try:
        eldest = int(store.value(ELDEST) or 0)
        if goes_on(store) or (eldest and is_running(eldest)):
            return True
        is_resumable = store.value("resume") is not None
    except StoreError:  # damaged: nobody can go on with it
        is_resumable = False
    finally:
        store.close()
    # The store's own time is that of the last move of its log into it.
    newest = max(each.stat().st_mtime for each in folder.iterdir())
    return is_resumable and time.time() - newest < _RESUMABLE


def _remove_if_old(folder: Path) -> None:
    # A process that joins has created it, and not yet its lock.
    if time.time() - folder.stat().st_mtime > _GATE * 2:
        shutil.rmtree(folder, ignore_errors=True)


def remove_at_exit() -> None:
    """Remove the folder of this process's family if its last process has ended.

    The first process may have none of its own in there, or may have left before its children.
    """
    with contextlib.suppress(Exception):  # the folder stays for the next job
        for key in meeting.folders_of_family():
            folder = meeting.top() / key
            if not (folder / LOCKS).exists():
                continue
            members = Members(folder / LOCKS)
            try:
                with members.gate(time.monotonic() + 1.0):
                    if members.is_current and members.is_empty():
                        remove(folder)
            finally:
                members.close()


def remove(folder: Path) -> None:
    """Remove a folder; its new name shows that the removal has begun."""
    gone = folder.with_name(f".{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
