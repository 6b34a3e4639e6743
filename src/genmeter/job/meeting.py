"""Where the processes of a job meet: a folder that belongs to the user.

It is below the temporary directory, ``genmeter-UID/JOB``, of mode 0700. The file system must be a
local one: SQLite's write-ahead log needs memory that the processes share.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
import stat
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.job._servers import server_of_worker
from genmeter.job.forks import Forks

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

__all__ = ["FAMILY", "Family", "FolderError", "family", "folder_of", "is_safe", "root"]

FAMILY = "_GENMETER_FAMILY"
"""The variable in which a process passes its family to the processes that it starts."""
FOLDER = "_GENMETER_FOLDER"
"""The variable in which it passes its process id, and the temporary folder of the family."""
USED = "_GENMETER_USED"
"""The variable in which the first process of a family passes that it has used or reserved something."""

# Modules that start children, but for those that fork. Those of loky have their parent's authkey.
_STARTERS = (
    "multiprocessing.popen_spawn_posix",
    "multiprocessing.popen_forkserver",
    "joblib.externals.loky.backend.popen_loky_posix",
    "loky.backend.popen_loky_posix",
)
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
    return Path(_Known.temporary or tempfile.gettempdir()) / f"genmeter-{os.getuid()}"


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
    temporary = ""  # folder of the family, once it is known
    has_earlier_children = False
    has_instance = False
    has_used = False


_DEFAULTS = {name: value for name, value in vars(_Known).items() if not name.startswith("__")}


def family() -> Family:
    """Return the family of this process, and pass it to the processes that it will start.

    Children that `multiprocessing` starts, by any method, have their parent's ``authkey``. Those
    whose parent does not use genmeter, or was asked before it did, share the key alone.
    """
    if _Known.family is None:
        _Known.family = _inherited() or _of_children() or _new(os.getpid())
        publish(_Known.family)
    return _Known.family


@contextlib.contextmanager
def fresh_family() -> Iterator[None]:
    """Let this process begin a family of its own within the block, for tests."""
    names = [name for name in vars(_Known) if not name.startswith("__")]
    before = {name: getattr(_Known, name) for name in names}
    variables = {name: os.environ.get(name) for name in (FAMILY, FOLDER, USED)}
    _set_used(None)
    for name in names:
        setattr(_Known, name, _DEFAULTS[name])
    _Known.family = _new(os.getpid())
    publish(_Known.family)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(_Known, name, value)
        for variable, text in variables.items():
            if text is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = text
        _set_used(variables[USED])


def after_fork_in_child() -> None:
    """Begin in a forked child, with the family of its parent if that was asked for it."""
    _Known.has_earlier_children = _Known.has_used = False
    if _Known.family is not None:
        publish(_Known.family)


def adopt_instance(instance: str) -> str:
    """Return the instance id of this family, the given one if this process is the first."""
    found = family()
    if found.root == os.getpid() and not _Known.has_instance:
        _Known.has_instance = True
        found = _Known.family = found._replace(instance=instance.replace("\0", ""))
        publish(found)
    return found.instance


def is_child() -> bool:
    """Return whether this process belongs to the family of another one that started it."""
    return family().root != os.getpid()


def note_used() -> None:
    """Let the children to come know that their family's first process has used something; repeatable."""
    if not _Known.has_used:
        _Known.has_used = True
        if not is_child():
            _set_used(str(os.getpid()))


def root_has_used() -> bool:
    """Return whether the family's first process had used something as it started this one."""
    known = (os.environ.get(USED), _config().get(USED))
    return bool(family().root) and str(family().root) in known


def _set_used(pid: str | None) -> None:
    # The environment of a fork server is that of its own start. What multiprocessing keeps of its
    # configuration reaches the children by any start method.
    for mapping in (os.environ, _config()):
        if pid is None:
            mapping.pop(USED, None)
        else:
            mapping[USED] = pid


def _config() -> MutableMapping[str, Any]:
    found: dict[str, Any] = getattr(multiprocessing.current_process(), "_config", {})
    return found


def _inherited() -> Family | None:
    mark = _mark()
    key, _, rest = os.environ.get(FAMILY, "").partition(":")
    instance, _, root_pid = rest.rpartition(":")  # host:port is a usual one
    starter, _, temporary = os.environ.get(FOLDER, "").partition(":")
    is_of_family = key.startswith(f"{_RUN}-") or (
        # The server of `forkserver` has another authkey, and its children have its family.
        is_started() and (mark in key or starter == str(os.getppid()))
    )
    if root_pid.isdigit() and is_of_family:
        _Known.temporary = temporary
        return Family(key, instance, int(root_pid))
    if (is_started() or Forks.is_forked) and server_of_worker() is None:
        return _without_root()
    return None


def is_started() -> bool:
    """Return whether `multiprocessing` has started this process, also while it imports the main module.

    A spawned child imports it before it knows its parent.
    """
    own = multiprocessing.current_process()
    return multiprocessing.parent_process() is not None or getattr(own, "_inheriting", False)


def _without_root() -> Family:
    return Family(f"family-{_mark()}-0", str(uuid.uuid4()), 0)


def _of_children() -> Family | None:
    """Return the family that children of this process have begun, or may begin; None without any."""
    if server_of_worker() is not None:
        return None
    # Not multiprocessing.active_children(), which would wait for those that have ended.
    children = list(getattr(multiprocessing.process, "_children", ()))
    own = os.getpid()
    if not Forks.has_forked and all(getattr(each, "_parent_pid", 0) != own for each in children):
        return None
    _Known.has_earlier_children = True
    return _without_root()


def eldest() -> int:
    """Return the id of the process with which the family ends; 0 if that is not known.

    It need not use genmeter: it may start further children that belong to the same job.
    """
    found = family()
    if found.root or _Known.has_earlier_children:
        return found.root or os.getpid()
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        return int(parent.pid)
    return os.getppid() if is_started() else Forks.forked_by


def folders_of_family() -> list[str]:
    """Return the names of the folders of families that end with this process."""
    own = _Known.family
    is_first = own is not None and own.root == os.getpid()
    return [_without_root().key, *([own.key] if own is not None and is_first else [])]


def has_earlier_children() -> bool:
    """Return whether this process has had children before it was asked for its family.

    They do not know of it, so their job would end with them, unless it takes part.
    """
    return family().root == 0 and _Known.has_earlier_children


def _new(pid: int) -> Family:
    return Family(f"family-{_mark()}-{uuid.uuid4().hex[:12]}-{pid}", str(uuid.uuid4()), pid)


def publish(found: Family) -> None:
    """Pass a family to the processes that this one will start."""
    os.environ[FAMILY] = f"{found.key}:{found.instance}:{found.root}"
    # The job may set another temporary folder at any time, here or in a child.
    with contextlib.suppress(OSError):
        _Known.temporary = _Known.temporary or tempfile.gettempdir()
        os.environ[FOLDER] = f"{os.getpid()}:{_Known.temporary}"


def mark_run(environ: MutableMapping[str, str], main: int) -> None:
    """Have every process below the main process of `genmeter run` belong to its family."""
    environ[FAMILY] = f"{_RUN}-{uuid.uuid4().hex[:16]}-{main}:{uuid.uuid4()}:{main}"
    with contextlib.suppress(OSError):
        environ[FOLDER] = f"{main}:{tempfile.gettempdir()}"


def _mark() -> str:
    authkey = bytes(multiprocessing.current_process().authkey)
    return hashlib.sha256(b"genmeter" + authkey).hexdigest()[:16]


def may_have_children() -> bool:
    """Return whether this process may have started others of its family."""
    if "subprocess" in sys.modules and family().key.startswith(f"{_RUN}-"):
        return True
    return any(name in sys.modules for name in _STARTERS)
