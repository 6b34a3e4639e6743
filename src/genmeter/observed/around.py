"""Runs each call of a function in a context manager of its own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractContextManager

__all__ = ["run_in"]


def run_in(manager: Callable[[], AbstractContextManager[Any]], function: Any) -> Any:
    """Return a replacement of a function, which is entered when it is called, or when it is awaited.

    Args:
        manager: Makes the context manager of one call.
        function: A function, a method of a class, or an asynchronous one.
    """

    def plain(
        wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        with manager():
            return wrapped(*args, **kwargs)

    async def awaited(
        wrapped: Callable[..., Awaitable[Any]],
        _: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        # Many may be created at once, and awaited one by one.
        with manager():
            return await wrapped(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(function)
    return wrapt.FunctionWrapper(function, awaited if is_async else plain)
