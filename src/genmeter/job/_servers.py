"""Recognize the worker processes of web servers, which have one job only if they are given one."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["ServerWorker", "server_of_worker"]


class ServerWorker(NamedTuple):
    """A worker process of a web server.

    Args:
        server: The server's name.
        workers: Number of its workers; None if it is not known.
    """

    server: str
    workers: int | None


# Functions of servers that a worker process is inside of: the module, the function, the server.
_WORKERS = (
    ("gunicorn.arbiter", "spawn_worker", "gunicorn"),
    ("uvicorn._subprocess", "subprocess_started", "uvicorn"),
    ("hypercorn.asyncio.run", "asyncio_worker", "hypercorn"),
    ("hypercorn.asyncio.run", "uvloop_worker", "hypercorn"),
    ("hypercorn.trio.run", "trio_worker", "hypercorn"),
    ("granian.server.mp", "_spawn_asgi_worker", "granian"),
    ("granian.server.mp", "_spawn_wsgi_worker", "granian"),
)


def server_of_worker() -> ServerWorker | None:
    """Return what this process is a worker of; None if it is no worker of a web server.

    The main thread of a worker is inside of the server's function from the start to the end. Gunicorn's
    master is inside of it too while it forks a worker.
    """
    if "uwsgi" in sys.modules:
        return ServerWorker("uwsgi", None)
    if not any(module in sys.modules for module, _, _ in _WORKERS):
        return None
    # Not the current thread's: an app may create its monitor on any thread.
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    while frame is not None:
        for module, function, server in _WORKERS:
            if frame.f_code.co_name == function and frame.f_globals.get("__name__") == module:
                return None if _is_masters(frame) else ServerWorker(server, _count(frame))
        frame = frame.f_back
    return None


def _is_masters(frame: FrameType) -> bool:
    """Return whether a function runs in the process that starts the workers, as its object says."""
    return getattr(frame.f_locals.get("self"), "pid", None) == os.getpid()


def _count(frame: FrameType) -> int | None:
    """Return the number of workers, from the arguments of the server's function."""
    config = frame.f_locals.get("config")  # of uvicorn
    config = getattr(frame.f_locals.get("self"), "cfg", config)  # of gunicorn
    count = getattr(config, "workers", None)
    return count if isinstance(count, int) else None
