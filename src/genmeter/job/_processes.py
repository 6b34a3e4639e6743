"""Other processes of this user, as the kernel shows them in ``/proc``; outside of Linux it has little."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Process", "ancestors", "children", "own_start", "python_processes", "variable"]

_PROC = Path("/proc")
_HELPERS = (b"resource_tracker", b"multiprocessing.forkserver")
_ENDED = "ended"
_PARENT, _SESSION, _TERMINAL, _BEGAN = 1, 3, 4, 19  # fields after the name, as of proc(5)


class Process(NamedTuple):
    """A process.

    Args:
        pid: Its id.
        began: When it began, in the kernel's units, since ids are used again; empty if not known.
    """

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has an id now."""
        return cls(pid, _began(pid))

    @property
    def is_running(self) -> bool:
        """Whether it runs; one that only waits for its parent does not."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it belongs to somebody else
        found = _began(self.pid)
        return found != _ENDED and (not self.began or not found or found == self.began)


def ancestors() -> Iterator[int]:
    """Yield the processes that have started this one, the nearest first.

    They end at the shell of a terminal: what a user starts there, one after the other, are runs of
    their own.
    """
    pid = os.getppid()
    while pid > 0 and not _is_prompt(pid):
        yield pid
        fields = _fields(pid)
        pid = int(fields[_PARENT]) if fields else 0


def children(pid: int) -> Iterator[int]:
    """Yield the children of a process that run; 0 if they cannot be listed, as outside of Linux."""
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        found = " ".join((task / "children").read_text() for task in tasks)
    except OSError:
        yield 0
        return
    for child in map(int, found.split()):
        if _began(child) != _ENDED and not _is_helper(child):
            yield child


def python_processes() -> Iterator[int]:
    """Yield the other Python processes of this user, without those that this one has started."""
    own = os.getpid()
    with suppress(OSError):
        for entry in _PROC.iterdir():
            if not entry.name.isdigit() or int(entry.name) == own:
                continue
            with suppress(OSError):
                pid = int(entry.name)
                program = (entry / "exe").readlink().name
                if "python" in program and not _is_helper(pid) and not _is_below(pid, own):
                    yield pid


def variable(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was started with; None without it."""
    try:
        text = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    mark = os.fsencode(name) + b"="
    found = (each for each in text.split(b"\0") if each.startswith(mark))
    value = next(found, None)
    return None if value is None else os.fsdecode(value.removeprefix(mark))


def own_start() -> float | None:
    """Return the Unix time at which this process had begun; None if it is not known.

    The kernel rounds it down to a tick, usually 10 ms, in which another process may have ended: so it is the
    end of that tick.
    """
    began = _began(os.getpid())
    try:
        seconds = (int(began) + 1) / os.sysconf("SC_CLK_TCK")
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - seconds)
    except (ValueError, OSError, AttributeError):
        return None


def _is_prompt(pid: int) -> bool:
    """Return whether a process is an interactive shell: it leads a terminal and runs no script."""
    fields = _fields(pid)
    leads = bool(fields) and fields[_SESSION] == str(pid) and fields[_TERMINAL] != "0"
    return leads and all(argument.startswith(b"-") for argument in _command(pid)[1:])


def _is_helper(pid: int) -> bool:
    command = b" ".join(_command(pid))
    return any(name in command for name in _HELPERS)


def _is_below(pid: int, root: int) -> bool:
    """Return whether a process descends from another one."""
    while pid > 1:
        fields = _fields(pid)
        pid = int(fields[_PARENT]) if fields else 0
        if pid == root:
            return True
    return False


def _command(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []


def _began(pid: int) -> str:
    """Return when a process began; ``ended`` if it only waits for its parent, empty if not known."""
    fields = _fields(pid)
    if not fields:
        return ""
    return _ENDED if fields[0] in ("Z", "X") else fields[_BEGAN]


def _fields(pid: int) -> list[str]:
    """Return the fields of a process after its name, which may contain anything; none if not known."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _BEGAN else []
