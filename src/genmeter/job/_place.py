"""Where the processes of a job meet: a folder that belongs to the user.

It is below the temporary directory, ``genmeter-UID/JOB``, of mode 0700. The file system must be a
local one: SQLite's write-ahead log needs memory that the processes share.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import stat
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from genmeter.job._servers import server_of_worker

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["FAMILY", "Family", "FolderError", "family", "folder_of", "is_safe", "root"]

FAMILY = "_GENMETER_FAMILY"
"""The variable in which a process passes its family to the processes that it starts."""

_RUN = "run"  # of `genmeter run`: every process below belongs to its job
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PLAIN = re.compile(r"[a-z0-9._-]*")  # no capitals: some file systems take them for small letters
_MAX_NAME = 60


class FolderError(Exception):
    """The folder of jobs cannot be used; the text says why, and what to do."""


class Family(NamedTuple):
    """The processes that descend from one another.

    Args:
        key: The name of their folder.
        instance: The ``service.instance.id`` of their metrics.
        root: Process id of the first one; 0 if it does not use genmeter.
    """

    key: str
    instance: str
    root: int


def root() -> Path:
    """Return the folder of all jobs of this user; it is created if it is missing.

    Raises:
        FolderError: It is a symbolic link, belongs to another user, or cannot be created.
    """
    folder = top()
    make_private(folder)
    return folder


def top() -> Path:
    """Return the path of the folder of all jobs, which may not exist."""
    return Path(tempfile.gettempdir()) / f"genmeter-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Create a folder that only this user can read, unless it exists as such.

    Raises:
        FolderError: It is something else, or cannot be created.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise FolderError(
            f"the folder {str(folder)!r} cannot be created: {error.strerror}; set TMPDIR to a "
            "folder that can be written, on a local disk"
        ) from error
    if not is_safe(folder):
        raise FolderError(
            f"the folder {str(folder)!r} must belong to this user alone, mode 0700, and be no "
            "symbolic link; remove it, or set TMPDIR to another folder"
        )


def is_safe(folder: Path) -> bool:
    """Return whether a path is a folder that belongs to this user alone."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    is_private = not stat.S_IMODE(found.st_mode) & 0o077
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and is_private


def folder_of(name: str) -> str:
    """Return the name of a named job's folder; different names have different folders."""
    if len(name) <= _MAX_NAME and _PLAIN.fullmatch(name):
        return f"job-{name}"
    text = _UNSAFE.sub("_", name)[:_MAX_NAME]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"job~{text}-{digest}"  # no plain name begins so


class _Known:
    """The family of this process, once it was asked for; a forked child has its parent's."""

    family: Family | None = None
    is_forked = False  # before its parent was asked
    has_forked = False  # before it was asked itself
    has_instance = False


def family() -> Family:
    """Return the family of this process, and pass it to the processes that it will start.

    Children that `multiprocessing` starts, by any method, have their parent's ``authkey``. Those
    whose parent does not use genmeter, or was asked before it did, share the key alone.
    """
    if _Known.family is None:
        _Known.family = _inherited() or _new(os.getpid())
    return _Known.family


def after_fork_in_child() -> None:
    """Note that this process was forked, maybe before its parent was asked for its family."""
    _Known.is_forked = _Known.family is None
    _Known.has_forked = False


def before_fork() -> None:
    """Note that this process has children, maybe before it was asked for its family."""
    _Known.has_forked = _Known.has_forked or _Known.family is None


def adopt_instance(instance: str) -> str:
    """Return the instance id of this family, the given one if this process is the first."""
    found = family()
    if found.root == os.getpid() and not _Known.has_instance:
        _Known.has_instance = True
        found = _Known.family = found._replace(instance=instance.replace("\0", ""))
        publish(found)
    return found.instance


def is_child() -> bool:
    """Return whether others of this process's family may have begun a job before it.

    That is so if one of them started it, and if it started them before it was asked.
    """
    found = family()
    return found.root != os.getpid() or found.key == _shared_key()


def _inherited() -> Family | None:
    mark = _mark()
    key, _, rest = os.environ.get(FAMILY, "").partition(":")
    instance, _, root_pid = rest.rpartition(":")  # host:port is a usual one
    is_child_of = multiprocessing.parent_process() is not None
    if root_pid.isdigit() and (key.startswith(f"{_RUN}-") or (is_child_of and mark in key)):
        return Family(key, instance, int(root_pid))
    if (is_child_of or _Known.is_forked) and server_of_worker() is None:
        return Family(_shared_key(), str(uuid.uuid4()), 0)
    return None


def _new(pid: int) -> Family:
    key = f"family-{_mark()}-{uuid.uuid4().hex[:12]}-{pid}"
    if _Known.has_forked or _has_children():
        key = _shared_key()
    found = Family(key, str(uuid.uuid4()), pid)
    publish(found)
    return found


def _shared_key() -> str:
    """Return the key of those that were started before their parent was asked."""
    return f"family-{_mark()}-0"


def _has_children() -> bool:
    """Return whether `multiprocessing` has started children that run."""
    # Not active_children(), which would wait for those that have ended in the application's place.
    children = getattr(multiprocessing.process, "_children", ())
    return any(getattr(each, "_parent_pid", None) == os.getpid() for each in tuple(children))


def publish(found: Family) -> None:
    """Pass a family to the processes that this one will start."""
    os.environ[FAMILY] = f"{found.key}:{found.instance}:{found.root}"


def mark_run(environ: MutableMapping[str, str], main: int) -> None:
    """Have every process below the main process of `genmeter run` belong to its family."""
    environ[FAMILY] = f"{_RUN}-{uuid.uuid4().hex[:16]}-{main}:{uuid.uuid4()}:{main}"


def _mark() -> str:
    authkey = bytes(multiprocessing.current_process().authkey)
    return hashlib.sha256(b"genmeter" + authkey).hexdigest()[:16]


def may_have_children() -> bool:
    """Return whether this process may have started others of its family."""
    if "subprocess" in sys.modules and family().key.startswith(f"{_RUN}-"):
        return True
    return any(
        name in sys.modules
        for name in ("multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver")
    )
