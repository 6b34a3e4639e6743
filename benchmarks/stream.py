"""Time that ``call.stream()`` adds to a chunk, with its clock and the reading of its usage."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from _measure import side_by_side
from _table import Row, at_most, figure_of, print_aims, print_table
from openai.types.chat import ChatCompletionChunk  # AfterImage needs it too

from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from _table import Aim

    from genmeter import GenerationMonitor

CHUNKS = 4_000
ROUNDS = 60
BARE = "the bare stream"
READ = "through call.stream()"
SYNC = f"A chunk of an iterator, {CHUNKS:,} chunks of OpenAI's client: minimum of {ROUNDS} rounds"
GENERATOR = "The same of a generator"
ASYNC = "The same of an asynchronous iterator"
DICTS = "The same of an iterator of dicts"
_GROUPS = (SYNC, GENERATOR, ASYNC, DICTS)


def _objects() -> list[Any]:
    return [ChatCompletionChunk.model_validate(each) for each in _dicts()]


def _dicts() -> list[Any]:
    choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    names = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return [{**names, "choices": [choice], "usage": None} for _ in range(CHUNKS)]


class _Stream:
    """A stream of a client, without its network and its parser."""

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)


class _AsyncStream(_Stream):
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration

    __iter__ = None  # type: ignore[assignment]


def run() -> list[Row]:
    """Measure each kind of stream, bare and read."""
    objects, dicts = _objects(), _dicts()
    kinds: dict[str, tuple[Callable[..., float], Callable[[], Any]]] = {
        SYNC: (_of_a_chunk, lambda: _Stream(objects)),
        GENERATOR: (_of_a_chunk, lambda: (chunk for chunk in objects)),
        ASYNC: (_of_an_async_chunk, lambda: _AsyncStream(objects)),
        DICTS: (_of_a_chunk, lambda: _Stream(dicts)),
    }
    rows = []
    with isolated_monitor() as monitor:
        for group, (measure, make) in kinds.items():
            ways = {
                name: partial(measure, monitor, make, is_read=name == READ) for name in (BARE, READ)
            }
            spreads = side_by_side(ways, ROUNDS)
            rows += [Row(group, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
    return rows


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aim."""
    added = max(figure_of(rows, group, READ) - figure_of(rows, group, BARE) for group in _GROUPS)
    return [at_most("call.stream() adds at most 1 µs to a chunk", added, 1e-6, "s")]


def _of_a_chunk(monitor: GenerationMonitor, make: Callable[[], Any], *, is_read: bool) -> float:
    with monitor.generation("m") as call:
        stream = call.stream(make()) if is_read else make()
        start = time.perf_counter()
        for _ in stream:
            pass
        return (time.perf_counter() - start) / CHUNKS


def _of_an_async_chunk(
    monitor: GenerationMonitor, make: Callable[[], Any], *, is_read: bool
) -> float:
    async def read() -> float:
        with monitor.generation("m") as call:
            stream = call.stream(make()) if is_read else make()
            start = time.perf_counter()
            async for _ in stream:
                pass
            return (time.perf_counter() - start) / CHUNKS

    return asyncio.run(read())


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
