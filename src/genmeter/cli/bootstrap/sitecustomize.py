"""Python imports this at its start in every process of a job under ``genmeter run``.

Any Python that a job starts finds it on ``PYTHONPATH``, also one without genmeter. So it imports the
standard library only until there is something to do, and whatever fails here is a warning.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any

_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib takes a while


class _PatchOnImport:
    """Patches AfterImage's monitor as soon as the process is about to import AfterImage."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Leave every module to the finders behind this one."""
        if name == "afterimage" and self in sys.meta_path:
            sys.meta_path.remove(self)
            try:
                from genmeter import patch

                patch.install()
            except Exception as error:
                _warn(error)


def _start() -> None:
    if os.environ.get("_GENMETER_MAIN_PID") != str(os.getpid()):
        sys.meta_path.insert(0, _PatchOnImport())
        return
    try:
        from genmeter.cli.bootstrap import start

        start()
    except KeyboardInterrupt:
        # Python calls it a fatal error of its own start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception as error:
        _warn(error)


def _run_shadowed() -> None:
    """Run the ``sitecustomize`` that Python would have found without this one."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


def _warn(error: Exception) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"genmeter run: AfterImage's monitor is not replaced: {error!r}\n")


if __name__ == "sitecustomize":
    sys.path[:] = [entry for entry in sys.path if entry != _FOLDER]
    try:
        _run_shadowed()
    finally:
        _start()
