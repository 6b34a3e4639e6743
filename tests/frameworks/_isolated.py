"""Runs a test in a process of its own: instrumentations patch for good what they patch."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

import pytest
from _model_server import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import ModelServer

__all__ = ["run_isolated", "warm_up"]

_warm: set[str] = set()


def warm_up(situation: Callable[[ModelServer], None]) -> None:
    """Run a module's situation once without instrumentation, so that forks need not import it again."""
    if situation.__module__ not in _warm:
        _warm.add(situation.__module__)
        importlib.import_module("genmeter.history.frames")  # brings pandas, on first use
        with serve() as server:
            situation(server)


def run_isolated(function: Callable[[], None]) -> None:
    """Run a function in a fork of this process, which has imported what is slow to import.

    Some uninstrument only in part: the next test would have their spans too. Fails with the child's
    traceback if the function raises.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            code = _run(function, writer)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            failure = pipe.read().decode(errors="replace")
    except BaseException:
        os.kill(child, 9)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        pytest.fail(failure or f"the process ended with status {status}", pytrace=False)


def _run(function: Callable[[], None], writer: int) -> int:
    try:
        function()
    except BaseException:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(traceback.format_exc().encode())
        return 1
    return 0
