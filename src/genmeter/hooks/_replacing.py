"""Replaces attributes of a framework, and puts them back."""

from __future__ import annotations

from typing import Any

__all__ = ["Replaced"]


class Replaced:
    """The attributes that a hook has replaced, with what was there."""

    def __init__(self) -> None:
        self._all: list[tuple[Any, str, Any, Any]] = []
        self.is_undone = False

    def set(self, owner: Any, name: str, replacement: Any) -> None:
        """Replace an attribute of a class or module, of which there is one of its own."""
        if not self.is_undone:
            self._all.append((owner, name, vars(owner)[name], replacement))
            setattr(owner, name, replacement)

    def undo(self) -> None:
        """Restore what was there, unless something else is there now; from then on nothing is replaced."""
        self.is_undone = True
        for owner, name, original, replacement in self._all:
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)
