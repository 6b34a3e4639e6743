"""Streams as vendors' clients return them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["CHUNKS", "AsyncStream", "Manager", "Stream", "async_chunks", "broken", "chunk"]


def chunk(n: int, **more: Any) -> dict[str, Any]:
    """Return a chunk with the running counts after n tokens."""
    return {"model": "answered", "usage": {"prompt_tokens": 10, "completion_tokens": n}, **more}


CHUNKS = [chunk(n) for n in range(1, 6)]


class Stream:
    """A stream as a vendor's client returns it.

    Args:
        chunks: The chunks.
        error: Raised after them.
    """

    def __init__(self, chunks: list[Any], error: BaseException | None = None) -> None:
        self._chunks = iter(chunks)
        self._error = error
        self.response = "the response"
        self.is_closed = False
        self.exits: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        for each in self._chunks:
            return each
        raise self._error or StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.exits.append(error)
        self.close()

    def close(self) -> None:
        """Close it."""
        self.is_closed = True


class Manager:
    """What opens a stream, as the helpers of vendors' clients do."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.is_closed = False

    def __enter__(self) -> Any:
        return self._stream

    def __exit__(self, *_error: object) -> None:
        self.is_closed = True


def broken(error: BaseException, after: int = 3) -> Iterator[Any]:
    """Yield chunks, then raise."""
    yield from CHUNKS[:after]
    raise error


async def async_chunks(error: BaseException | None = None) -> AsyncIterator[Any]:
    """Yield chunks, then raise the error if there is one."""
    for each in CHUNKS:
        yield each
    if error is not None:
        raise error


class AsyncStream:
    """An asynchronous stream as a vendor's client returns it."""

    def __init__(self, chunks: list[Any], error: BaseException | None = None) -> None:
        self._stream = Stream(chunks, error)
        self.response = "the response"
        self.is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._stream)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close it."""
        self.is_closed = True
