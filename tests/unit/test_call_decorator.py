"""Decorated functions that return or yield streams: the call ends with the stream."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from _recorder import FakeRecorder
from _streams import CHUNKS, AsyncStream, Stream, async_chunks, broken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


@pytest.fixture
def recorder() -> FakeRecorder:
    """Return a recorder."""
    return FakeRecorder()


def test_call_ends_with_the_returned_stream(recorder: FakeRecorder) -> None:
    """It is active until then."""

    @recorder.generation("m")
    def ask() -> Stream:
        return Stream(CHUNKS)

    stream = ask()
    assert (recorder.open, recorder.calls) == (1, [])
    assert isinstance(stream, Stream)
    found = list(stream)
    assert all(a is b for a, b in zip(found, CHUNKS, strict=True))
    assert recorder.open == 0
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)
    assert recorder.last.more.first_chunk is not None
    stream.close()
    del stream
    assert len(recorder.calls) == 1


def test_returned_stream_that_breaks_is_a_failure(recorder: FakeRecorder) -> None:
    """With the tokens until then."""
    error = TimeoutError()
    ask = recorder.generation("m")(lambda: broken(error))
    with pytest.raises(TimeoutError):
        list(ask())
    assert recorder.last.outcome == "failure"
    assert recorder.last.keywords["error"] is error
    assert recorder.last.counts == (10, 3, None)


def test_returned_stream_that_is_left_is_cancelled(recorder: FakeRecorder) -> None:
    """Closed, dropped, or left by its block, once each."""
    ask = recorder.generation("m")(lambda: Stream(CHUNKS))
    for n, _ in enumerate(ask(), 1):
        if n == 2:
            break
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 2, None)
    stream = ask()
    next(stream)
    stream.close()
    with ask() as stream:
        next(stream)
    ask()
    assert [each.outcome for each in recorder.calls] == ["cancelled"] * 4
    assert recorder.open == 0


def test_error_of_the_reader_is_not_the_calls(recorder: FakeRecorder) -> None:
    """The stream did not break; its reader left."""
    ask = recorder.generation("m")(lambda: Stream(CHUNKS))
    with pytest.raises(ValueError, match="mine"), ask() as stream:  # noqa: PT012
        next(stream)
        raise ValueError("mine")
    assert recorder.last.outcome == "cancelled"


def test_stream_in_a_cycle_is_recorded_when_it_is_collected(recorder: FakeRecorder) -> None:
    """By the garbage collector."""
    ask = recorder.generation("m")(lambda: Stream(CHUNKS))
    holder: dict[str, Any] = {"stream": ask()}
    holder["self"] = holder
    next(holder["stream"])
    del holder
    gc.collect()
    assert recorder.last.outcome == "cancelled"
    assert recorder.open == 0


async def test_async_call_ends_with_the_returned_stream(recorder: FakeRecorder) -> None:
    """Also if a plain function returns it, or a callable returns a coroutine."""

    @recorder.generation("m")
    async def ask() -> AsyncStream:
        await asyncio.sleep(0)
        return AsyncStream(CHUNKS)

    class Asker:
        async def __call__(self) -> AsyncStream:
            return AsyncStream(CHUNKS)

    for stream in (
        await ask(),
        recorder.generation("m")(lambda: AsyncStream(CHUNKS))(),
        recorder.generation("m")(async_chunks)(),
        await recorder.generation("m")(Asker())(),
    ):
        found = [each async for each in stream]
        assert all(a is b for a, b in zip(found, CHUNKS, strict=True))
        assert recorder.last.outcome == "success"
        assert recorder.last.counts == (10, 5, None)
    assert len(recorder.calls) == 4
    stream = await ask()
    await anext(stream)
    await stream.close()
    assert recorder.last.outcome == "cancelled"
    async for _ in await ask():
        break
    assert recorder.last.outcome == "cancelled"
    assert recorder.open == 0


class StreamManager:
    """What a client's helper returns."""

    def __enter__(self) -> Stream:
        return Stream(CHUNKS)

    def __exit__(self, *_error: object) -> None:
        pass


def test_returned_manager_of_a_stream_ends_the_call(recorder: FakeRecorder) -> None:
    """With its block."""
    ask = recorder.generation("m")(StreamManager)
    with ask() as stream:
        assert list(stream) == CHUNKS
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)
    with ask() as stream:
        pass
    assert recorder.last.outcome == "cancelled"
    ask()
    assert recorder.last.outcome == "cancelled"
    assert recorder.open == 0


def test_returned_mapping_of_a_stream_has_a_proxy(recorder: FakeRecorder) -> None:
    """As of Bedrock's converse_stream."""
    ask = recorder.generation("m")(lambda: {"stream": Stream(CHUNKS), "ResponseMetadata": 1})
    found = ask()
    assert found["ResponseMetadata"] == 1
    assert list(found["stream"]) == CHUNKS
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)


class Response:
    """A response that is a context manager, but no stream."""

    usage = CHUNKS[4]["usage"]

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_error: object) -> None:
        pass


def test_other_results_are_returned_as_they_are(recorder: FakeRecorder) -> None:
    """They end the call at once."""
    response = Response()
    assert recorder.generation("m")(lambda: response)() is response
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)


# --- generators ---------------------------------------------------------------------------------


def test_decorated_generator_yields_its_chunks(recorder: FakeRecorder) -> None:
    """The call begins with the first chunk's request and ends with the generator."""

    @recorder.generation("m")
    def ask(question: str) -> Generator[Any, None, str]:
        """Ask."""
        yield from CHUNKS
        return question

    assert inspect.isgeneratorfunction(ask)
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    generator = ask("why")
    assert recorder.open == 0
    found = [next(generator) for _ in CHUNKS]
    assert recorder.open == 1
    with pytest.raises(StopIteration, match="why"):
        next(generator)
    assert all(a is b for a, b in zip(found, CHUNKS, strict=True))
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)
    assert recorder.open == 0


def test_decorated_generator_is_talked_to(recorder: FakeRecorder) -> None:
    """Sent values, exceptions and closing reach it."""
    got: list[Any] = []

    @recorder.generation("m")
    def talk() -> Generator[Any, Any, None]:
        try:
            got.append((yield CHUNKS[0]))
            try:
                yield CHUNKS[1]
            except KeyError:
                got.append("thrown")
            yield CHUNKS[2]
        finally:
            got.append("closed")

    generator = talk()
    next(generator)
    assert generator.send("sent") is CHUNKS[1]
    assert generator.throw(KeyError("k")) is CHUNKS[2]
    generator.close()
    assert got == ["sent", "thrown", "closed"]
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 3, None)
    generator = talk()
    next(generator)
    with pytest.raises(ValueError, match="x"):
        generator.throw(ValueError("x"))
    assert recorder.last.outcome == "failure"
    partial: Any = functools.partial(talk)
    assert len(list(recorder.generation("m")(partial)())) == 3


def test_decorated_generator_that_raises_is_a_failure(recorder: FakeRecorder) -> None:
    """The exception propagates."""
    error = TimeoutError()
    ask = recorder.generation("m")(broken)
    with pytest.raises(TimeoutError) as raised:
        list(ask(error))
    assert raised.value is error
    assert recorder.last.outcome == "failure"
    assert recorder.last.counts == (10, 3, None)


async def test_decorated_async_generator_yields_its_chunks(recorder: FakeRecorder) -> None:
    """The call ends with it: exhausted, broken, closed."""
    ask = recorder.generation("m")(async_chunks)
    assert inspect.isasyncgenfunction(ask)
    found = [each async for each in ask()]
    assert all(a is b for a, b in zip(found, CHUNKS, strict=True))
    assert recorder.last.outcome == "success"
    error = TimeoutError()
    with pytest.raises(TimeoutError) as raised:
        _ = [each async for each in ask(error)]
    assert raised.value is error
    assert recorder.last.outcome == "failure"
    generator: Any = ask()
    await anext(generator)
    await generator.aclose()
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 1, None)
    assert recorder.open == 0


async def test_decorated_async_generator_is_talked_to(recorder: FakeRecorder) -> None:
    """Sent values, exceptions and closing reach it."""
    got: list[Any] = []

    @recorder.generation("m")
    async def talk() -> AsyncGenerator[Any, Any]:
        try:
            got.append((yield CHUNKS[0]))
            try:
                yield CHUNKS[1]
            except KeyError:
                got.append("thrown")
            yield CHUNKS[2]
        finally:
            await asyncio.sleep(0)
            got.append("closed")

    generator = talk()
    await anext(generator)
    assert await generator.asend("sent") is CHUNKS[1]
    assert await generator.athrow(KeyError("k")) is CHUNKS[2]
    await generator.aclose()
    assert got == ["sent", "thrown", "closed"]
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 3, None)


def test_each_generator_is_a_call_of_its_own(recorder: FakeRecorder) -> None:
    """Several may be read in turns."""

    @recorder.generation("m")
    def ask(n: int) -> Generator[Any, None, None]:
        yield from CHUNKS[:n]

    generators = [ask(n) for n in range(1, 6)]
    while generators:
        generators = [each for each in generators if next(each, None) is not None]
    assert [each.counts[1] for each in recorder.calls] == [1, 2, 3, 4, 5]
    assert recorder.warnings == {}
