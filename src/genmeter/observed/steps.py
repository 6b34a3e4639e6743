"""The step of the pipeline that the running code is in: ``with genmeter.step("judge")``."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Self, TypeVar, overload

from genmeter.errors import ConfigError
from genmeter.events.capture import lookup
from genmeter.events.values import safe_repr

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

__all__ = ["Step", "current_step", "inside", "step", "step_or_current"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Inside(NamedTuple):
    """A step that was entered, and the one around it."""

    name: str
    step: Step
    outer: _Inside | None


_current: ContextVar[_Inside | None] = ContextVar("genmeter_step", default=None)
inside = _current.get
"""Return the step that the running code is in, None without one: without a function of Python's, for speed."""


def current_step() -> str | None:
    """Return the name of the innermost step that the running code is in; None without one."""
    found = _current.get()
    return None if found is None else found.name


def step_or_current(given: Any, metadata: Any) -> Any:
    """Return the step of a call: as given, else the current one.

    Args:
        given: The step that the caller passed.
        metadata: The caller's metadata, whose ``operation`` names a step in AfterImage's calls.
    """
    found = _current.get()
    if found is None or given is not None:
        return given
    if type(metadata) is dict and lookup(metadata, "operation") is not None:
        return None
    return found.name


def step(name: str) -> Step:
    """Name the step of the pipeline that a block, or a function, is.

    ``with genmeter.step("judge"):`` (also ``async with``) or ``@genmeter.step("judge")``. The name labels
    every call and evaluation that is recorded inside and has no step of its own, whoever records it: a span of
    an instrumentation, a framework's hook or the job itself. Inside of another step the inner one
    counts. As a context variable it is inherited by tasks, and by threads only with a copied context
    (``asyncio.to_thread`` copies it, ``ThreadPoolExecutor.submit`` does not).

    Args:
        name: A short word, since it becomes a label.

    Raises:
        ConfigError: ``name`` is not a text, or empty.
    """
    # By type(), since a value may raise if it is asked for its class.
    text = str.__str__(name) if issubclass(type(name), str) else ""
    if not text.strip():
        raise ConfigError(f'name must be a text such as "judge", got {safe_repr(name)}')
    return Step(text)


class Step:
    """A context manager and decorator; see :func:`step`. May be entered again, and by several tasks.

    Args:
        name: The name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"genmeter.step({self.name!r})"

    def __enter__(self) -> Self:
        """Enter the step."""
        _current.set(_Inside(self.name, self, _current.get()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the step."""
        # Not by a token: a block in a generator may end in another context than it began in.
        found = _current.get()
        if found is not None and found.step is self:
            _current.set(found.outer)

    async def __aenter__(self) -> Self:
        """Enter the step."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the step."""
        self.__exit__(kind, error, traceback)

    @overload
    def __call__(self, function: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]: ...
    @overload
    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]: ...
    def __call__(self, function: Callable[_P, Any]) -> Callable[_P, Any]:
        """Decorate a function, plain or ``async``, or a generator of either kind.

        Raises:
            ConfigError: ``function`` is not callable.
        """
        if not callable(function):
            raise ConfigError(
                f"genmeter.step() cannot decorate {safe_repr(function)}, which is not callable; put "
                "@classmethod above @genmeter.step(...)"
            )
        if inspect.isgeneratorfunction(function):
            return _of_generator(self, function)
        if inspect.isasyncgenfunction(function):
            return _of_async_generator(self, function)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return run_async

        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            with self:
                return function(*args, **kwargs)

        return run


# A generator runs in its consumer's context: it is in the step only while it advances.


def _of_generator(step: Step, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        chunks = function(*args, **kwargs)
        advance, argument = chunks.send, None
        try:
            while True:
                try:
                    with step:
                        chunk = advance(argument)
                except StopIteration as end:
                    return end.value
                try:
                    argument = yield chunk
                    advance = chunks.send
                except GeneratorExit:
                    raise
                except BaseException as error:
                    advance, argument = chunks.throw, error
        finally:
            with step:
                chunks.close()

    return run


def _of_async_generator(step: Step, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        chunks = function(*args, **kwargs)
        advance, argument = chunks.asend, None
        try:
            while True:
                try:
                    with step:
                        chunk = await advance(argument)
                except StopAsyncIteration:
                    return
                try:
                    argument = yield chunk
                    advance = chunks.asend
                except GeneratorExit:
                    raise
                except BaseException as error:
                    advance, argument = chunks.athrow, error
        finally:
            with step:
                await chunks.aclose()

    return run
