"""Hooks of frameworks: their calls are recorded without a change of the job.

::

    import genmeter.hooks

    genmeter.hooks.install("langchain", "litellm")

A hook uses its framework's public interface, and connects itself when the job has imported the framework.
If the framework is not as the hook expects, it logs that once and steps aside. What several hooks or
instrumentations observe is one call.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError
from genmeter.events.values import shown
from genmeter.hooks._registry import connected, installed, on_aside
from genmeter.hooks.frameworks import FRAMEWORKS, Framework

if TYPE_CHECKING:
    from genmeter.monitor import GenerationMonitor

__all__ = [
    "FRAMEWORKS",
    "Framework",
    "connected",
    "install",
    "installed",
    "on_aside",
    "uninstall",
]


def install(*names: str, monitor: GenerationMonitor | None = None) -> None:
    """Record the calls of frameworks.

    Installing again replaces the monitor. A framework need not be installed or imported yet.

    Args:
        *names: Of :data:`FRAMEWORKS`; none means all.
        monitor: Where the calls are recorded; None means the process's monitor.

    Raises:
        ConfigError: A name or the monitor is invalid; no hook is installed then.
    """
    for hook in _modules(names):
        hook.install(monitor)


def uninstall(*names: str) -> None:
    """Stop recording the calls of frameworks, and restore what was there.

    Args:
        *names: Of :data:`FRAMEWORKS`; none means all.

    Raises:
        ConfigError: A name is invalid.
    """
    for hook in _modules(names):
        hook.uninstall()


def _modules(names: tuple[str, ...]) -> list[Any]:
    for name in names:
        if type(name) is not str or name not in FRAMEWORKS:
            raise ConfigError(
                f"names must be frameworks with a hook ({', '.join(FRAMEWORKS)}), got {shown(name)}"
            )
    return [importlib.import_module(FRAMEWORKS[name].hook) for name in names or FRAMEWORKS]
