"""Whether this process has forked, or was forked; known from the first import of genmeter on.

The processes of a job may fork before one of them uses genmeter, so this imports next to nothing.
"""

from __future__ import annotations

import importlib
import os

__all__ = ["Forks"]


class Forks:
    """The forks of this process since genmeter was imported.

    Attributes:
        has_forked: Whether it has forked.
        is_forked: Whether it was forked.
        forked_by: Id of the process that did so; 0 if none has.
    """

    has_forked = False
    is_forked = False
    forked_by = 0


def _before() -> None:
    Forks.has_forked = True
    # Which makes the key by which the children know each other.
    importlib.import_module("multiprocessing.process")


def _after_in_child() -> None:
    Forks.has_forked, Forks.is_forked, Forks.forked_by = False, True, os.getppid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
