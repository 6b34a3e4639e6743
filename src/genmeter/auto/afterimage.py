"""AfterImage's calls: its monitor records them, so what else watches the clients inside adds nothing.

AfterImage reports a call after its end, so no block of ours is open around it. Here the methods of its
providers become such blocks. They check the gate first, since the monitor hears of a call too late for that.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import wrapt

from genmeter import clock, gate
from genmeter.observed import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from genmeter.observed.model import ObservedCall

__all__ = ["install"]

_MODULES = ("afterimage.providers.llm_providers", "afterimage.providers.local_provider")
_METHODS = frozenset(
    {
        *("generate_content", "agenerate_content", "generate_structured", "agenerate_structured"),
        *("send_message", "asend_message"),
    }
)


class _Reported:
    """The block of a call that AfterImage reports itself.

    Args:
        outer: The block of ours around it.
    """

    def __init__(self, outer: blocks.Block | None) -> None:
        self.outer = outer
        self.is_open = True
        self._began = clock.now()
        self._ended: float | None = None

    def end(self) -> None:
        """End it."""
        self._ended = clock.now()
        self.is_open = False

    @property
    def period(self) -> tuple[float, float] | None:
        """Unix times of the beginning and the end, in seconds; None while the call goes on."""
        return None if self._ended is None else (self._began, self._ended)

    def belongs_to(self, monitor: object) -> bool:
        """Return True: nobody else is to count it."""
        del monitor
        return True

    def observe(self, call: ObservedCall) -> bool:
        """Drop what others observed of it."""
        del call
        return self.is_open


def install() -> None:
    """Have AfterImage's calls counted once, and refused by the gate, once it is imported."""
    for module in _MODULES:
        wrapt.register_post_import_hook(_wrap, module)


def _wrap(module: ModuleType) -> None:
    for kind in list(vars(module).values()):
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        for name in _METHODS & vars(kind).keys():
            method = vars(kind)[name]
            if inspect.isfunction(method):
                setattr(kind, name, _reported(method))


def _reported(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            gate.check()
            with _block():
                return await method(*args, **kwargs)

        return call_async

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        gate.check()
        with _block():
            return method(*args, **kwargs)

    return call


@contextmanager
def _block() -> Iterator[None]:
    block = _Reported(blocks.current())
    before = blocks.enter(block)
    try:
        yield
    finally:
        block.end()
        blocks.leave(block, before)
