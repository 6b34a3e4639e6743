"""How a worker process of a web server is recognised, by the functions that its main thread is in."""

from __future__ import annotations

import os
import sys
import threading
import types
from types import SimpleNamespace
from typing import Any

import pytest

from genmeter.job._servers import ServerWorker, server_of_worker

ARBITER = """
class Arbiter:
    def __init__(self, pid, workers):
        self.pid, self.cfg = pid, SimpleNamespace(workers=workers)

    def spawn_worker(self, function):
        return function()

    def murder_workers(self, function):
        return function()
"""
UVICORN = "def subprocess_started(config, function):\n    return function()\n"


def _module(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> Any:
    module = types.ModuleType(name)
    vars(module)["SimpleNamespace"] = SimpleNamespace
    exec(source, vars(module))  # noqa: S102 - a function of that module
    monkeypatch.setitem(sys.modules, name, module)
    return module


def _elsewhere() -> ServerWorker | None:
    """Ask on another thread, as the job's does."""
    found: list[ServerWorker | None] = []
    thread = threading.Thread(target=lambda: found.append(server_of_worker()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("ask", [server_of_worker, _elsewhere])
def test_a_worker_of_gunicorn_is_one_but_not_its_master_as_it_forks(
    monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    """Both are inside of the same function; the master's object has its process id in both."""
    module = _module(monkeypatch, "gunicorn.arbiter", ARBITER)
    worker, master = module.Arbiter(os.getpid() + 1, 3), module.Arbiter(os.getpid(), 3)
    assert worker.spawn_worker(ask) == ServerWorker("gunicorn", 3)
    assert master.spawn_worker(ask) is None
    assert worker.murder_workers(ask) is None
    assert ask() is None


def test_a_worker_of_uvicorn_has_the_number_of_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is unknown if they do not say it."""
    module = _module(monkeypatch, "uvicorn._subprocess", UVICORN)
    for workers, expected in ((2, 2), ("two", None)):
        config = SimpleNamespace(workers=workers)
        found = module.subprocess_started(config, server_of_worker)
        assert found == ServerWorker("uvicorn", expected)
    assert server_of_worker() is None
