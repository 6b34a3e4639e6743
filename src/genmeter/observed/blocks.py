"""The block of ours that is open around the code that runs: the handle of a call, or a hook's.

What an instrumentation observes inside of such a block is the block's call. Blocks are marked only while
something observes calls (:func:`start_marking`), so that a job without it does not pay for it.

A block may begin and end in different contexts, as a generator's does that another task closes. So a
mark is set back to the one before it, rather than reset by a token, and a block that has ended is none.
"""

from __future__ import annotations

from contextvars import ContextVar

from genmeter.fork_lock import ForkLock
from genmeter.observed.model import Block

__all__ = [
    "Block",
    "current",
    "enter",
    "entered",
    "is_marking",
    "leave",
    "start_marking",
    "stop_marking",
]


_current: ContextVar[Block | None] = ContextVar("genmeter_block", default=None)
_lock = ForkLock()
markers = 0
"""How many observe calls: blocks are marked if any does."""


def start_marking() -> None:
    """Mark the blocks that begin from now on; as many calls of :func:`stop_marking` end it."""
    global markers  # noqa: PLW0603 - a count of the process
    with _lock:
        markers += 1


def stop_marking() -> None:
    """Undo one call of :func:`start_marking`."""
    global markers  # noqa: PLW0603 - a count of the process
    with _lock:
        markers = max(0, markers - 1)


def is_marking() -> bool:
    """Return whether blocks are marked."""
    return markers > 0


def enter(block: Block) -> Block | None:
    """Mark a block that begins; returns the open one around it, for :func:`leave`."""
    before = _current.get()
    while before is not None and not before.is_open:
        before = before.outer
    _current.set(block)
    return before


def leave(block: Block, before: Block | None) -> None:
    """Unmark a block that ends."""
    if _current.get() is block:
        _current.set(before)


def current() -> Block | None:
    """Return the block that is open here; None without one."""
    block = _current.get()
    return block if block is not None and block.is_open else None


def entered(monitor: object = None) -> Block | None:
    """Return the innermost block that was entered here, which may have ended since.

    Args:
        monitor: Only its blocks; None means those of any monitor.
    """
    block = _current.get()
    while block is not None and monitor is not None and not block.belongs_to(monitor):
        block = block.outer
    return block
