"""Lets the gate refuse calls of frameworks whose hooks cannot: what a callback raises is caught there.

LiteLLM and DSPy catch it and send the request all the same, or raise an error of their own in its place. So
their functions that make a call are replaced while the job has a budget. What they let in is not refused by
the client below, whose error they would catch too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import wrapt

from genmeter.events.values import UNREADABLE
from genmeter.hooks import FRAMEWORKS
from genmeter.observed import gate
from genmeter.observed.around import run_in

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["install"]


def install(module: ModuleType) -> None:
    """Have the calls of a framework pass the gate, if its hook cannot."""
    framework = FRAMEWORKS.get(module.__name__)
    for path in () if framework is None else framework.functions:
        try:
            owner, name, original = wrapt.resolve_path(module, path)
            setattr(owner, name, run_in(gate.let_in, original))
        except UNREADABLE:  # this version has no such function
            continue
