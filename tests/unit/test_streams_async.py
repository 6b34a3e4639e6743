"""Asynchronous streams: chunks pass as they are, and each ending is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from types import AsyncGeneratorType
from typing import Any, Self

import pytest
from _recorder import FakeRecorder
from _streams import CHUNKS, AsyncStream, Stream, async_chunks

from genmeter.call import streams
from genmeter.testing import isolated_monitor


@pytest.fixture
def recorder() -> FakeRecorder:
    """Return a recorder."""
    return FakeRecorder()


KINDS: dict[str, Any] = {
    "generator": async_chunks,
    "stream": lambda: AsyncStream(CHUNKS),
    "of aioboto3": lambda: {"stream": AsyncStream(CHUNKS)},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_exhausted_async_stream_is_a_success(recorder: FakeRecorder, kind: str) -> None:
    """The chunks are the same objects, and the last counts are recorded."""
    async with recorder.generation("m") as call:
        found = [each async for each in call.stream(KINDS[kind]())]
    assert all(a is b for a, b in zip(found, CHUNKS, strict=True))
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)


async def test_times_of_async_chunks_are_recorded(
    recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of plain ones, with `anext` too."""
    ticks = iter([0.5, 1.0, 1.75, 2.0, 2.5])
    monkeypatch.setattr(streams, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(streams, "MAX_TIMES", 4)
    with recorder.generation("m") as call:
        monkeypatch.setattr(call, "_started", 0.125)
        stream = call.stream(AsyncStream(CHUNKS))
        assert await anext(stream) is CHUNKS[0]
        assert len([each async for each in stream]) == 4
    assert recorder.last.more.first_chunk == 0.375
    assert list(recorder.last.more.chunk_gaps) == [0.5, 0.75, 0.25]


async def test_broken_async_stream_is_a_failure_with_its_tokens(recorder: FakeRecorder) -> None:
    """The exception is the stream's own."""
    error = TimeoutError("gone")
    with pytest.raises(TimeoutError) as raised:  # noqa: PT012
        async with recorder.generation("m") as call:
            async for _ in call.stream(async_chunks(error)):
                pass
    assert raised.value is error
    assert recorder.last.outcome == "failure"
    assert recorder.last.counts == (10, 5, None)


async def leave_by_break(stream: Any) -> None:
    """Leave the loop."""
    n = 0
    async for _ in stream:
        n += 1
        if n == 2:
            break


async def leave_by_aclose(stream: Any) -> None:
    """Close the stream."""
    await anext(stream)
    await anext(stream)
    await stream.aclose()


async def leave_by_exit(stream: Any) -> None:
    """Leave the stream's own block."""
    async with stream as chunks:
        await anext(chunks)
        await anext(chunks)


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_aclose, leave_by_exit])
@pytest.mark.parametrize("kind", ["generator", "stream"])
async def test_async_stream_left_early_is_cancelled(
    recorder: FakeRecorder, kind: str, leave: Any
) -> None:
    """The tokens so far are kept."""
    async with recorder.generation("m") as call:
        await leave(call.stream(KINDS[kind]()))
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 2, None)


async def test_task_cancelled_in_a_stream_is_cancelled(recorder: FakeRecorder) -> None:
    """While it waits for a chunk."""

    async def slow() -> AsyncIterator[Any]:
        yield CHUNKS[0]
        await asyncio.sleep(60)
        yield CHUNKS[1]

    async def read() -> None:
        async with recorder.generation("m") as call:
            async for _ in call.stream(slow()):
                pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 1, None)


async def test_async_proxy_stands_in_for_its_stream(recorder: FakeRecorder) -> None:
    """By class, attributes, and closing."""
    inner = AsyncStream(CHUNKS)
    async with recorder.generation("m") as call:
        stream = call.stream(inner)
        assert isinstance(stream, AsyncStream)
        assert isinstance(stream, AsyncIterator)
        assert not hasattr(stream, "__iter__")
        assert stream.response == "the response"
        async with stream as entered:
            assert entered is stream
        assert inner.is_closed
        inner.is_closed = False
        await stream.close()
        assert inner.is_closed
        generator = call.stream(async_chunks())
        assert isinstance(generator, AsyncGeneratorType)
        async with generator as same:  # type: ignore[attr-defined]
            assert same is generator


async def test_async_manager_is_entered_and_its_stream_is_read(recorder: FakeRecorder) -> None:
    """The stream of its block is the proxy."""

    class Manager:
        async def __aenter__(self) -> Any:
            return AsyncStream(CHUNKS)

        async def __aexit__(self, *_error: object) -> None:
            pass

    async with recorder.generation("m") as call, call.stream(Manager()) as stream:
        assert len([each async for each in stream]) == 5
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)
    async with recorder.generation("m") as call, AsyncExitStack() as stack:
        stream = await stack.enter_async_context(call.stream(Manager()))
        await anext(stream)
    assert recorder.last.outcome == "cancelled"


async def test_stream_for_both_loops_keeps_both(recorder: FakeRecorder) -> None:
    """As LiteLLM's."""

    class Both(Stream):
        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> Any:
            try:
                return next(self)
            except StopIteration:
                raise StopAsyncIteration from None

    with recorder.generation("m") as call:
        stream = call.stream(Both(CHUNKS))
        assert next(stream) is CHUNKS[0]
        assert await anext(stream) is CHUNKS[1]
        assert next(stream) is CHUNKS[2]
    assert recorder.last.counts == (10, 3, None)
    for is_async in (True, False):
        with recorder.generation("m") as call:
            stream = call.stream(Both(CHUNKS))
            assert isinstance(stream, Iterator)
            found = [each async for each in stream] if is_async else list(stream)
        assert found == CHUNKS
        assert recorder.last.outcome == "success"
        assert recorder.last.counts == (10, 5, None)


async def test_async_generator_gets_what_is_sent_and_thrown(recorder: FakeRecorder) -> None:
    """Its chunks are read all the same."""
    got: list[Any] = []

    async def talk() -> Any:
        got.append((yield CHUNKS[0]))
        try:
            yield CHUNKS[1]
        except KeyError:
            got.append("thrown")
        yield CHUNKS[2]

    async with recorder.generation("m") as call:
        stream = call.stream(talk())
        assert await anext(stream) is CHUNKS[0]
        assert await stream.asend("sent") is CHUNKS[1]
        assert await stream.athrow(KeyError("k")) is CHUNKS[2]
        with pytest.raises(StopAsyncIteration):
            await stream.asend(None)
    assert got == ["sent", "thrown"]
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 3, None)
    with pytest.raises(KeyError):
        async with recorder.generation("m") as call:
            await call.stream(talk()).athrow(KeyError("at once"))
    assert recorder.last.outcome == "failure"


async def test_errors_of_an_async_stream_are_its_own(recorder: FakeRecorder) -> None:
    """They propagate as without a proxy."""

    class Unopenable:
        def __aiter__(self) -> Any:
            raise RuntimeError("no iterator")

    for read in (anext, leave_by_break):
        with pytest.raises(RuntimeError, match="no iterator"):
            async with recorder.generation("m") as call:
                await read(call.stream(Unopenable()))  # type: ignore[call-overload]
        assert recorder.last.outcome == "failure"


async def test_fifty_tasks_have_their_own_streams() -> None:
    """Totals and active calls are right whatever the order and the endings."""

    async def slowly(n: int) -> AsyncIterator[Any]:
        for each in CHUNKS:
            await asyncio.sleep(0)
            yield each
        if n % 10 == 0:
            raise TimeoutError(n)

    async def ask(n: int) -> None:
        async with monitor.generation("m") as call:
            stream = call.stream(slowly(n))
            if n % 10 == 5:
                await leave_by_break(stream)
                return
            async for _ in stream:
                pass

    with isolated_monitor() as monitor:
        tasks = [asyncio.create_task(ask(n)) for n in range(50)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        report = monitor.get_total_token_usage()
        assert sum(isinstance(each, TimeoutError) for each in done) == 5
        assert report.total_prompt_tokens == 500
        assert report.total_completion_tokens == 45 * 5 + 5 * 2
        assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 40
        assert monitor.value("genmeter_generations_active") == 0
