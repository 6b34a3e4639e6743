"""Replaces methods of clients' classes while a client is watched, and puts them back.

A method of a class is replaced, rather than one of an object: resources keep bound methods of their
client, a copied object would go on calling for the original, and nothing is left on the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.observed import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Replacement", "apply", "own_method"]


class Replacement(NamedTuple):
    """A method to replace.

    Attributes:
        owner: The class that defines it.
        name: Its name.
        make: Returns the replacement for the original.
    """

    owner: type
    name: str
    make: Callable[[Callable[..., Any]], Callable[..., Any]]


class _Patch(NamedTuple):
    original: Any
    replacement: Any


_patches: dict[tuple[type, str], _Patch] = {}


def own_method(kind: type, name: str) -> type | None:
    """Return the first class of ``kind`` and its bases that defines a method; None without one."""
    for owner in kind.__mro__:
        if name in vars(owner):
            return owner if callable(vars(owner)[name]) else None
    return None


def apply(replacements: Iterable[Replacement]) -> None:
    """Replace these methods and no others; the caller holds the lock of the watches.

    A method that something else has replaced since is left alone: its replacement then only calls the
    original, and is found again by the next watch.
    """
    wanted = {(each.owner, each.name): each for each in replacements}
    was_marking = bool(_patches)
    for key, patch in list(_patches.items()):
        owner, name = key
        if key not in wanted and vars(owner).get(name) is patch.replacement:
            setattr(owner, name, patch.original)
            del _patches[key]
    for key, each in wanted.items():
        found = vars(each.owner)[each.name]
        known = _patches.get(key)
        if known is not None and found is not known.original:
            continue  # in place, perhaps below another's
        replacement = each.make(found)
        setattr(each.owner, each.name, replacement)
        _patches[key] = _Patch(found, replacement)
    if bool(_patches) != was_marking:
        if _patches:
            blocks.start_marking()
        else:
            blocks.stop_marking()
