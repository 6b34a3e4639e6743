"""The handle as a decorator: every call of the function is one model call."""

from __future__ import annotations

import functools
import inspect
import sys
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from genmeter.call.streams import is_manager
from genmeter.errors import ConfigError
from genmeter.events.capture import lookup
from genmeter.events.values import safe_repr
from genmeter.usage.reading import is_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import TracebackType

__all__ = ["Call", "decorated"]

_T = TypeVar("_T")


class Call(Protocol):
    """What the decorator needs of a handle."""

    def __enter__(self) -> Any:
        """Start the call."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the call."""

    def usage(self, response: Any = None, /) -> None:
        """Read a response."""

    def stream(self, stream: _T, /) -> _T:
        """Return a proxy of a stream that is read in the block."""

    def stream_to_end(self, stream: Any, /) -> Any:
        """Return a proxy whose end is the end of the call."""

    def pause(self) -> bool:
        """Unmark the call's block; returns whether it was marked."""

    def resume(self) -> None:
        """Mark it again."""


def decorated(function: Callable[..., Any], begin: Callable[[], Call]) -> Callable[..., Any]:
    """Return the function, recorded.

    Args:
        function: Returns the model's response or a stream of it, or is a generator of its chunks.
        begin: Makes the handle of a call.

    Raises:
        ConfigError: ``function`` is not callable, such as a ``classmethod`` object.
    """
    if not callable(function):
        raise ConfigError(
            f"monitor.generation() cannot decorate {safe_repr(function)}, which is not callable; "
            "put @classmethod above @monitor.generation(...)"
        )
    if inspect.isgeneratorfunction(function):
        return _of_generator(function, begin)
    if inspect.isasyncgenfunction(function):
        return _of_async_generator(function, begin)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def record_async(*args: Any, **kwargs: Any) -> Any:
            call = begin()
            call.__enter__()
            try:
                result = await function(*args, **kwargs)
            except BaseException:
                call.__exit__(*sys.exc_info())
                raise
            return _end_with(result, call)

        return record_async

    @functools.wraps(function)
    def record(*args: Any, **kwargs: Any) -> Any:
        call = begin()
        call.__enter__()
        try:
            result = function(*args, **kwargs)
        except BaseException:
            call.__exit__(*sys.exc_info())
            raise
        # By type(), since a result may raise if it is asked for its class.
        if issubclass(type(result), CoroutineType):
            # A callable that returns a coroutine without being an async function.
            return _end_when_awaited(result, call)
        return _end_with(result, call)

    return record


def _end_with(result: Any, call: Call) -> Any:
    """Read a result and end the call, or let it end with the stream that is returned."""
    if is_stream(result) or is_manager(result):
        return call.stream_to_end(result)
    if type(result) is dict and is_stream(stream := lookup(result, "stream")):  # Bedrock's
        return {**result, "stream": call.stream_to_end(stream)}
    call.usage(result)
    call.__exit__(None, None, None)
    return result


async def _end_when_awaited(result: Awaitable[Any], call: Call) -> Any:
    try:
        answer = await result
    except BaseException:
        call.__exit__(*sys.exc_info())
        raise
    return _end_with(answer, call)


# A generator runs in its consumer's context, whose own calls between the chunks are no part of this one. So
# its block is marked only while it advances.


def _of_generator(
    function: Callable[..., Generator[Any, Any, Any]], begin: Callable[[], Call]
) -> Callable[..., Generator[Any, Any, Any]]:
    @functools.wraps(function)
    def record_generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with begin() as call:
            is_marked = call.pause()
            chunks = function(*args, **kwargs)
            stream = call.stream(chunks)
            try:
                if is_marked:
                    return (yield from _marked(stream, call))
                return (yield from stream)
            finally:
                chunks.close()

    return record_generator


def _marked(stream: Generator[Any, Any, Any], call: Call) -> Generator[Any, Any, Any]:
    """Do what ``yield from`` does, with the call's block marked while the stream advances."""
    advance: Callable[[Any], Any] = stream.send
    argument = None
    while True:
        call.resume()
        try:
            chunk = advance(argument)
        except StopIteration as end:
            return end.value
        finally:
            call.pause()
        try:
            argument = yield chunk
            advance = stream.send
        except GeneratorExit:
            stream.close()
            raise
        except BaseException as error:
            advance, argument = stream.throw, error


def _of_async_generator(
    function: Callable[..., AsyncGenerator[Any, Any]], begin: Callable[[], Call]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    @functools.wraps(function)
    async def record_async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with begin() as call:
            is_marked = call.pause()
            chunks = function(*args, **kwargs)
            stream = call.stream(chunks)
            # What `yield from` does in a generator.
            advance: Callable[[Any], Awaitable[Any]] = stream.asend
            argument = None
            try:
                while True:
                    if is_marked:
                        call.resume()
                    try:
                        chunk = await advance(argument)
                    except StopAsyncIteration:
                        return
                    finally:
                        if is_marked:
                            call.pause()
                    try:
                        argument = yield chunk
                        advance = stream.asend
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        advance, argument = stream.athrow, error
            finally:
                await chunks.aclose()

    return record_async_generator
