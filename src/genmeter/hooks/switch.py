"""Which hooks the entry points of frameworks install: none unless it is asked for.

inspect_ai and vLLM load the entry points of every package that is installed. Genmeter beside them must change
no run, so its entry points install a hook only if the variable ``GENMETER_HOOKS`` names it, in a list with
commas: ``inspect_ai,vllm``, or ``all``. That is for commands whose code nobody writes, such as
``inspect eval``; in code, ``genmeter.hooks.install`` does the same.
"""

from __future__ import annotations

import os

__all__ = ["VARIABLE", "is_wanted"]

VARIABLE = "GENMETER_HOOKS"
"""The variable that names the hooks."""


def is_wanted(name: str) -> bool:
    """Return whether the variable names a hook."""
    names = {each.strip() for each in os.environ.get(VARIABLE, "").split(",")}
    return name in names or "all" in names
