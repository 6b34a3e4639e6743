"""Lets the gate refuse calls of frameworks whose hooks cannot: what a callback raises is caught there.

LiteLLM and DSPy catch it and send the request all the same, or raise an error of their own in its place. So
their functions that make a call are replaced while the job has a budget. What they let in is not refused by
the client below, whose error they would catch too.
"""

from __future__ import annotations

import inspect
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import wrapt

from genmeter.events.values import UNREADABLE
from genmeter.observed import gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import ModuleType

__all__ = ["install"]

_CALLS = {
    "litellm": (
        *("completion", "acompletion", "text_completion", "atext_completion"),
        *("embedding", "aembedding", "responses", "aresponses"),
    ),
    "dspy": ("BaseLM.__call__", "BaseLM.acall", "Embedder.__call__", "Embedder.acall"),
}


def install(module: ModuleType) -> None:
    """Have the calls of a framework pass the gate, if it is one of these."""
    for path in _CALLS.get(module.__name__, ()):
        try:
            original = attrgetter(path)(module)
            wrapper = _async if inspect.iscoroutinefunction(original) else _plain
            wrapt.wrap_function_wrapper(module, path, wrapper)
        except UNREADABLE:  # this version has no such function
            continue


def _plain(
    wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    with gate.let_in():
        return wrapped(*args, **kwargs)


async def _async(
    wrapped: Callable[..., Awaitable[Any]],
    _instance: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    # When it is awaited: many may be created at once.
    with gate.let_in():
        return await wrapped(*args, **kwargs)
