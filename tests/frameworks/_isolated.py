"""Runs a test in a process of its own: instrumentations patch for good what they patch."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_isolated"]


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
