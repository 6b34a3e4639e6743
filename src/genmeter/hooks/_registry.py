"""The hooks whose modules are imported, by name: what can be asked of them without an import of genmeter's rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["connected", "hooks", "installed", "on_aside"]

hooks: dict[str, Any] = {}
"""Each a ``FrameworkHook``, which adds itself."""


def installed() -> tuple[str, ...]:
    """Return the frameworks whose hooks are installed, imported or not, in alphabetical order."""
    return tuple(sorted(name for name, hook in hooks.items() if hook.is_installed))


def connected() -> tuple[str, ...]:
    """Return the frameworks that the job has imported and whose hooks record, in that order."""
    return tuple(sorted(name for name, hook in hooks.items() if hook.is_active))


def on_aside(name: str, function: Callable[[str], object]) -> None:
    """Have a function called with the reason if a hook steps aside; at once if it has.

    Args:
        name: Of the hook, which was installed.
        function: Called once, on any thread; what it raises is dropped.

    Raises:
        ConfigError: No such hook was installed, or ``function`` is not callable.
    """
    from genmeter.config.checks import CALLABLE
    from genmeter.errors import ConfigError
    from genmeter.events.values import safe_repr

    CALLABLE("function", function)
    hook = hooks.get(name) if type(name) is str else None
    if hook is None:
        raise ConfigError(
            f"name must be of a hook that was installed ({', '.join(sorted(hooks)) or 'none is'}), "
            f"got {safe_repr(name)}"
        )
    hook.on_aside(function)
