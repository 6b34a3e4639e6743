"""Streams that are read elsewhere: results of agents, managers, and what their blocks raise."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
from _hostile import Raising
from _recorder import FakeRecorder
from _streams import CHUNKS, Manager, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def recorder() -> FakeRecorder:
    """Return a recorder."""
    return FakeRecorder()


class Result:
    """What an agent returns for a run that streams: its usage grows while it is read."""

    def __init__(self) -> None:
        self.is_complete = False
        self.usage = {"input_tokens": 0, "output_tokens": 0}

    def stream_text(self) -> Iterator[str]:
        """Stream the texts, after which the usage is whole."""
        for n in range(1, 4):
            self.usage = {"input_tokens": 20, "output_tokens": n}
            yield "word"
        self.is_complete = True


def opening(obj: Any) -> Any:
    """Return a manager that opens an object."""

    @contextmanager
    def open_() -> Iterator[Any]:
        yield obj

    return open_()


def test_result_with_streams_of_its_own_is_read_at_the_end(recorder: FakeRecorder) -> None:
    """Not when it is passed, since nothing has been used by then."""
    with recorder.generation("m") as call:
        result = call.stream(Result())
        assert isinstance(result, Result)
        assert len(list(result.stream_text())) == 3
    assert recorder.last.counts[:2] == (20, 3)
    assert len(recorder.last.more.chunk_gaps) == 2
    assert recorder.last.outcome == "success"


def test_result_that_is_left_is_cancelled_with_its_tokens(recorder: FakeRecorder) -> None:
    """It says itself whether it is complete."""
    with recorder.generation("m") as call:
        texts = call.stream(Result()).stream_text()
        next(texts)
    assert recorder.last.counts[:2] == (20, 1)
    assert recorder.last.outcome == "cancelled"


def test_result_that_a_manager_opens_is_read(recorder: FakeRecorder) -> None:
    """The proxy of the manager sees no chunk of it."""
    with recorder.generation("m") as call, call.stream(opening(Result())) as result:
        assert isinstance(result, Result)
        list(result.stream_text())
    assert recorder.last.counts[:2] == (20, 3)
    assert recorder.last.outcome == "success"


async def test_decorated_manager_of_a_result_ends_the_call(recorder: FakeRecorder) -> None:
    """As `run_stream` of an agent, which is a function of contextlib."""

    @recorder.generation("m")
    @asynccontextmanager
    async def run_stream() -> AsyncIterator[Result]:
        yield Result()

    async with run_stream() as result:
        list(result.stream_text())
    assert recorder.last.counts[:2] == (20, 3)
    assert recorder.last.outcome == "success"
    assert recorder.open == 0


def test_decorated_function_that_returns_a_result_ends_with_it(recorder: FakeRecorder) -> None:
    """Or when the caller drops it."""

    class ResultStreaming(Result):
        pass

    ask = recorder.generation("m")(ResultStreaming)
    assert len(list(ask().stream_text())) == 3
    assert recorder.last.counts[:2] == (20, 3)
    assert recorder.last.outcome == "success"
    for _ in ask().stream_text():
        break
    assert recorder.last.counts[:2] == (20, 1)
    assert recorder.last.outcome == "cancelled"
    ask()
    assert recorder.last.outcome == "cancelled"
    assert recorder.open == 0


def test_opened_object_without_usage_is_named(recorder: FakeRecorder) -> None:
    """Such as a raw response: whether it was read to its end is unknown, and so are its tokens."""

    class RawResponse:
        pass

    with recorder.generation("m") as call, call.stream(opening(RawResponse())):
        pass
    assert recorder.last.outcome == "success"
    unread = recorder.last.more.unread
    assert unread is not None
    assert unread.reason == "not_understood"
    assert "RawResponse" in unread.shown


def test_iterator_that_knows_its_usage_is_read_at_its_end(recorder: FakeRecorder) -> None:
    """Its steps say nothing of tokens."""

    class Run:
        def __init__(self) -> None:
            self.usage: dict[str, int] | None = None

        def __iter__(self) -> Iterator[str]:
            yield "a step"
            self.usage = {"input_tokens": 20, "output_tokens": 3}

    with recorder.generation("m") as call:
        assert list(call.stream(Run())) == ["a step"]
    assert recorder.last.counts[:2] == (20, 3)


def test_list_of_chunks_is_only_read_by_its_chunks(recorder: FakeRecorder) -> None:
    """Those that were not taken do not count."""
    chunks: list[Any] = [{"choices": []}, *CHUNKS]

    class Chunks(list[Any]):
        pass

    for kind in (list, tuple, Chunks):
        with recorder.generation("m") as call:
            for _ in call.stream(kind(chunks)):
                break
        assert recorder.last.counts == (None, None, None)
        assert recorder.last.outcome == "cancelled"


class Refusing:
    """A manager that cannot open its stream."""

    def __enter__(self) -> Stream:
        raise ConnectionError

    def __exit__(self, *_error: object) -> None:
        pass

    async def __aenter__(self) -> Stream:
        raise ConnectionError

    async def __aexit__(self, *_error: object) -> None:
        pass


class RefusingStreamManager(Refusing):
    """As a client's helper is named."""


async def test_manager_that_cannot_open_its_stream_fails(recorder: FakeRecorder) -> None:
    """Also where the call ends with it: the server's refusal is no cancellation."""
    ask = recorder.generation("m")(RefusingStreamManager)
    with pytest.raises(ConnectionError), ask():
        pass
    assert recorder.last.outcome == "failure"
    with pytest.raises(ConnectionError):
        async with ask():
            pass
    assert recorder.last.outcome == "failure"
    assert len(recorder.calls) == 2
    assert recorder.open == 0


class TextManager:
    """A helper whose stream is read by its texts, which break."""

    def __init__(self) -> None:
        self.current_message_snapshot = {"usage": {"input_tokens": 20, "output_tokens": 1}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class TextStreamManager(TextManager):
    """As a client's helper is named."""


def test_error_of_a_stream_that_is_read_elsewhere_fails_the_call(recorder: FakeRecorder) -> None:
    """Only the helper's block sees it."""
    call = recorder.generation("m")
    with pytest.raises(ConnectionError), call, call.stream(Manager(TextManager())):
        raise ConnectionError
    assert recorder.last.outcome == "failure"
    ask = recorder.generation("m")(lambda: opening(TextManager()))
    with pytest.raises(ConnectionError), ask():
        raise ConnectionError
    assert recorder.last.outcome == "failure"
    assert len(recorder.calls) == 2


def test_error_of_the_consumer_of_a_decorated_stream_leaves_it(recorder: FakeRecorder) -> None:
    """The stream has not raised it, since its chunks came by."""
    ask = recorder.generation("m")(lambda: Stream(CHUNKS))
    with pytest.raises(ZeroDivisionError), ask() as stream:
        1 / (next(stream) is None)
    assert recorder.last.outcome == "cancelled"


def test_stream_that_is_passed_twice_is_one(recorder: FakeRecorder) -> None:
    """Not another billed attempt; a proxy of another call is read like any stream."""
    with recorder.generation("m") as call:
        stream = call.stream(Stream(CHUNKS))
        assert call.stream(stream) is stream
        list(call.stream(stream))
    assert recorder.last.counts[:2] == (10, 5)
    assert len(recorder.last.answers) == 1
    with recorder.generation("m") as outer, recorder.generation("m") as inner:
        list(outer.stream(inner.stream(Stream(CHUNKS))))
    assert [each.counts[:2] for each in recorder.calls[1:]] == [(10, 5), (10, 5)]


def test_hostile_source_harms_nothing(recorder: FakeRecorder) -> None:
    """Whatever it raises when it is asked for its usage."""

    class Hostile(Raising):
        stream_text = None

    with recorder.generation("m") as call:
        call.stream(Hostile())
    assert recorder.last.outcome in {"success", "cancelled"}
    with recorder.generation("m") as call, call.stream(opening(Raising())):
        pass
    assert len(recorder.calls) == 2
    assert not recorder.open
