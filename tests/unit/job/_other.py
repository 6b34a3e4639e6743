"""Another process, which evaluates expressions."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Other"]

_SOURCE = """
import os, sys, time
from pathlib import Path
from genmeter.job._members import Members
from genmeter.job.store import Store, Totals

path = Path(sys.argv[1])
space = dict(globals())
space["space"] = space
for line in sys.stdin:
    print(repr(eval(line, space)), flush=True)
"""


class Other:
    """Another process; it ends with the block.

    Args:
        path: What its expressions know as ``path``.
    """

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SOURCE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, expression: str) -> Any:
        """Return the value of an expression there; ``space`` has what was set there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(expression, file=self.process.stdin, flush=True)
        return ast.literal_eval(self.process.stdout.readline())

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
