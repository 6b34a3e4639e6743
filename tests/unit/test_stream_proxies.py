"""What the proxy of a stream looks like to the code that gets it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from types import GeneratorType
from typing import Any

import pytest
from _recorder import FakeRecorder
from _streams import CHUNKS, Manager, Stream, chunk


@pytest.fixture
def recorder() -> FakeRecorder:
    """Return a recorder."""
    return FakeRecorder()


def test_proxy_has_the_attributes_and_class_of_its_stream(recorder: FakeRecorder) -> None:
    """It can be passed on in its place."""
    inner = Stream(CHUNKS)
    with recorder.generation("m") as call:
        stream = call.stream(inner)
        assert isinstance(stream, Stream)
        assert isinstance(stream, Iterator)
        assert not hasattr(stream, "__aiter__")
        assert stream.response == "the response"
        stream.response = "set"
        assert inner.response == "set"
        del stream.response
        assert not hasattr(inner, "response")
        assert "exits" in dir(stream)
        assert "Stream" in repr(stream)
        with pytest.raises(AttributeError, match="nothing"):
            stream.nothing  # type: ignore[attr-defined]  # noqa: B018
        with stream as entered:
            assert entered is stream
        assert inner.exits == [(None, None, None)]
        assert inner.is_closed
        assert isinstance(call.stream(each for each in CHUNKS), GeneratorType)


def test_proxy_can_be_copied(recorder: FakeRecorder) -> None:
    """As far as its stream can."""
    with recorder.generation("m") as call:
        stream = call.stream(Stream(CHUNKS))
        assert isinstance(copy.copy(stream), Stream)
        list(stream)
    assert recorder.last.counts == (10, 5, None)


def test_manager_is_entered_and_its_stream_is_read(recorder: FakeRecorder) -> None:
    """The helper's own block may end first."""
    manager = Manager(Stream(CHUNKS))
    with recorder.generation("m") as call:
        with call.stream(manager) as stream:
            assert isinstance(stream, Stream)
            assert list(stream) == CHUNKS
        assert manager.is_closed
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)


def test_manager_left_early_is_cancelled(recorder: FakeRecorder) -> None:
    """By the end of its block, though its stream is still held."""
    with recorder.generation("m") as call, ExitStack() as stack:
        stream = stack.enter_context(call.stream(Manager(Stream(CHUNKS))))
        next(stream)
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 1, None)


class Helper(Stream):
    """A helper that collects the answer and is read by its texts."""

    def __init__(self, chunks: list[Any]) -> None:
        super().__init__(chunks)
        self._snapshot: Any = None

    @property
    def current_message_snapshot(self) -> Any:
        """The answer so far."""
        assert self._snapshot is not None
        return self._snapshot

    @property
    def text_stream(self) -> Iterator[str]:
        """Yield texts."""
        for each in self:
            self._snapshot = Answer(each)
            yield "text"


class Answer:
    """An answer so far."""

    def __init__(self, last: Any) -> None:
        self.usage, self.model = last["usage"], last["model"]
        self.stop_reason = last.get("stop_reason")


def test_helper_read_by_its_texts_is_read_by_its_snapshot(recorder: FakeRecorder) -> None:
    """It is complete once it has a stop reason."""
    whole = [*CHUNKS, chunk(6, stop_reason="end_turn")]
    with recorder.generation("m") as call, call.stream(Manager(Helper(whole))) as stream:
        assert len(list(stream.text_stream)) == 6
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 6, None)
    with recorder.generation("m") as call, call.stream(Manager(Helper(whole))) as stream:
        next(iter(stream.text_stream))
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 1, None)


@pytest.mark.parametrize("is_late", [False, True])
def test_helper_whose_final_response_is_reported_is_complete(
    recorder: FakeRecorder, is_late: bool
) -> None:
    """No chunk came by the proxy, and the response says it all."""
    with recorder.generation("m") as call:
        with call.stream(Manager(Stream(CHUNKS))) as stream:
            response = list(stream._chunks)[-1]
            if not is_late:
                call.usage(response)
        if is_late:
            call.usage(response)
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)


def test_chunks_that_are_reported_too_count_once(recorder: FakeRecorder) -> None:
    """And a stream that is left stays so."""
    with recorder.generation("m") as call:
        for chunk_ in call.stream(Stream(CHUNKS)):
            call.usage(chunk_)
            if chunk_ is CHUNKS[2]:
                break
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 3, None)


def test_generator_gets_what_is_sent_and_thrown(recorder: FakeRecorder) -> None:
    """It returns its value too, through `yield from`."""
    got: list[Any] = []

    def talk() -> Any:
        got.append((yield CHUNKS[0]))
        try:
            yield CHUNKS[1]
        except KeyError:
            got.append("thrown")
        yield CHUNKS[2]
        return "value"

    def delegate(stream: Any) -> Any:
        got.append((yield from stream))

    with recorder.generation("m") as call:
        outer = delegate(call.stream(talk()))
        next(outer)
        assert outer.send("sent") is CHUNKS[1]
        assert outer.throw(KeyError("k")) is CHUNKS[2]
        assert list(outer) == []
    assert got == ["sent", "thrown", "value"]
    assert recorder.last.outcome == "success"
    with recorder.generation("m") as call:
        stream = call.stream(talk())
        next(stream)
        assert stream.send("again") is CHUNKS[1]
        assert stream.throw(KeyError("k")) is CHUNKS[2]
    assert recorder.last.counts == (10, 3, None)
