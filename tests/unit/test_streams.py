"""Plain streams: chunks pass as they are, and each ending is recorded."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import Raising
from _recorder import FakeRecorder
from _streams import CHUNKS, Stream, broken, chunk

from genmeter.call import streams
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def recorder() -> FakeRecorder:
    """Return a recorder."""
    return FakeRecorder()


KINDS: dict[str, Any] = {
    "generator": lambda: (each for each in CHUNKS),
    "iterator": lambda: iter(CHUNKS),
    "list": lambda: CHUNKS,
    "stream": lambda: Stream(CHUNKS),
    "of Bedrock": lambda: {"stream": Stream(CHUNKS), "ResponseMetadata": {}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_exhausted_stream_is_a_success(recorder: FakeRecorder, kind: str) -> None:
    """The chunks are the same objects, and the last counts are recorded."""
    with recorder.generation("m") as call:
        found = list(call.stream(KINDS[kind]()))
    assert all(a is b for a, b in zip(found, CHUNKS, strict=True))
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)
    assert [each.model for each in recorder.last.answers] == ["answered"]


def test_times_of_the_chunks_are_recorded(
    recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first from the call's start, the others from the one before."""
    ticks = iter([0.5, 1.0, 1.75, 2.0])
    monkeypatch.setattr(streams, "perf_counter", lambda: next(ticks))
    with recorder.generation("m") as call:
        monkeypatch.setattr(call, "_started", 0.125)
        stream = call.stream(Stream(CHUNKS[:4]))
        next(stream)
        next(stream)
        assert len(list(stream)) == 2
    more = recorder.last.more
    assert more.first_chunk == 0.375
    assert list(more.chunk_gaps) == [0.5, 0.75, 0.25]


def test_gaps_are_bounded(recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless stream needs no more memory."""
    monkeypatch.setattr(streams, "MAX_TIMES", 11)
    with recorder.generation("m") as call:
        stream = call.stream(Stream(CHUNKS * 10))
        for _ in range(20):
            next(stream)
        list(stream)
    assert len(recorder.last.more.chunk_gaps) == 10


def test_stream_without_chunks_has_no_times(recorder: FakeRecorder) -> None:
    """Nothing came."""
    with recorder.generation("m") as call:
        assert list(call.stream(iter([]))) == []
    assert recorder.last.more.first_chunk is None
    assert recorder.last.outcome == "success"


@pytest.mark.parametrize("is_loop", [True, False])
def test_broken_stream_is_a_failure_with_its_tokens(recorder: FakeRecorder, is_loop: bool) -> None:
    """The exception is the stream's own."""
    error = TimeoutError("gone")
    with pytest.raises(TimeoutError) as raised, recorder.generation("m") as call:  # noqa: PT012
        stream = call.stream(broken(error))
        while not is_loop:
            next(stream)
        for _ in stream:
            pass
    assert raised.value is error
    assert recorder.last.outcome == "failure"
    assert recorder.last.keywords["error"] is error
    assert recorder.last.counts == (10, 3, None)


def test_broken_stream_is_a_failure_although_the_block_goes_on(recorder: FakeRecorder) -> None:
    """Unless an answer follows, by another stream or a response."""
    with recorder.generation("m") as call, pytest.raises(TimeoutError):
        list(call.stream(broken(TimeoutError())))
    assert recorder.last.outcome == "failure"
    with recorder.generation("m") as call:
        with pytest.raises(TimeoutError):
            list(call.stream(broken(TimeoutError())))
        call.usage(chunk(7), add=True)
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (20, 10, None)


def test_another_answer_after_a_stream_left_early_is_a_success(recorder: FakeRecorder) -> None:
    """The call got what it wanted; a chunk that is reported once more is no other answer."""
    for is_another, outcome in ((True, "success"), (False, "cancelled")):
        with recorder.generation("m") as call:
            leave_by_break(call.stream(iter(CHUNKS)))
            call.usage(CHUNKS[1], add=is_another)
        assert recorder.last.outcome == outcome


def test_second_stream_is_another_billed_attempt(recorder: FakeRecorder) -> None:
    """What the broken one had used is billed too."""
    with recorder.generation("m") as call:
        with pytest.raises(TimeoutError):
            list(call.stream(broken(TimeoutError())))
        call.retry("TimeoutError")
        list(call.stream(iter(CHUNKS)))
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (20, 8, None)
    assert [each.tokens.output for each in recorder.last.answers] == [3, 5]
    assert len(recorder.last.more.chunk_gaps) == 2 + 4


def test_stream_without_usage_is_not_hidden_by_another(recorder: FakeRecorder) -> None:
    """Unless it broke: an attempt that failed need not have a usage."""
    silent = [{"choices": [{"delta": {"content": "Hello"}}]}] * 3

    def silent_then_broken() -> Iterator[Any]:
        yield from silent
        raise ValueError("broken")

    with recorder.generation("m") as call:
        list(call.stream(silent))
        list(call.stream(CHUNKS))
    assert recorder.last.counts == (10, 5, None)
    assert recorder.last.more.unread is not None
    assert recorder.last.more.unread.reason == "no_usage"
    with recorder.generation("m") as call:
        with pytest.raises(ValueError, match="broken"):
            list(call.stream(silent_then_broken()))
        list(call.stream(CHUNKS))
    assert (recorder.last.outcome, recorder.last.more.unread) == ("success", None)


def test_streams_read_in_turns_are_kept_apart(recorder: FakeRecorder) -> None:
    """Each has its own running counts."""
    with recorder.generation("m") as call:
        for _ in zip(call.stream(iter(CHUNKS)), call.stream(iter(CHUNKS)), strict=True):
            pass
    assert recorder.last.counts == (20, 10, None)


# --- left early ---------------------------------------------------------------------------------


def leave_by_break(stream: Any) -> None:
    """Leave the loop."""
    for n, _ in enumerate(stream, 1):
        if n == 2:
            break


def leave_by_close(stream: Any) -> None:
    """Close the stream."""
    next(stream)
    next(stream)
    stream.close()


def leave_by_exit(stream: Any) -> None:
    """Leave the stream's own block."""
    with stream as chunks:
        next(chunks)
        next(chunks)


def leave_by_del(stream: Any) -> None:
    """Drop it."""
    next(iter(stream))
    next(iter(stream))


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_exit, leave_by_del])
@pytest.mark.parametrize("kind", ["generator", "stream", "iterator"])
def test_stream_left_early_is_cancelled(recorder: FakeRecorder, kind: str, leave: Any) -> None:
    """The tokens so far are kept."""
    with recorder.generation("m") as call:
        leave(call.stream(KINDS[kind]()))
        assert recorder.calls == []
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 2, None)


def test_stream_that_no_one_finished_is_cancelled(recorder: FakeRecorder) -> None:
    """The block's end leaves it, whether it was begun or not."""
    with recorder.generation("m") as call:
        stream = call.stream(iter(CHUNKS))
        next(stream)
    assert recorder.last.outcome == "cancelled"
    with recorder.generation("m") as call:
        stream = call.stream(iter(CHUNKS))
    assert recorder.last.outcome == "cancelled"
    assert recorder.warnings == {}


def test_loop_can_be_taken_up_again(recorder: FakeRecorder) -> None:
    """A stream that is still held is not left by `break`."""
    with recorder.generation("m") as call:
        stream = call.stream(Stream(CHUNKS))
        leave_by_break(stream)
        assert len(list(stream)) == 3
    assert recorder.last.outcome == "success"
    assert recorder.last.counts == (10, 5, None)


def test_iterator_may_go_on_after_an_exception(recorder: FakeRecorder) -> None:
    """The proxy neither ends it nor hides what comes."""

    class Resuming:
        turns = 0

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            self.turns += 1
            if self.turns == 2:
                raise TimeoutError
            return CHUNKS[self.turns]

    with recorder.generation("m") as call:
        stream = call.stream(Resuming())
        assert next(stream) is CHUNKS[1]
        with pytest.raises(TimeoutError):
            next(stream)
        assert next(stream) is CHUNKS[3]


def test_error_of_the_consumer_is_the_failure(recorder: FakeRecorder) -> None:
    """The stream was left because of it."""
    with pytest.raises(ValueError, match="mine"), recorder.generation("m") as call:  # noqa: PT012
        for _ in call.stream(iter(CHUNKS)):
            raise ValueError("mine")
    assert recorder.last.outcome == "failure"
    assert isinstance(recorder.last.keywords["error"], ValueError)


def test_stream_read_after_its_block_is_named_once(recorder: FakeRecorder) -> None:
    """The call ended with the block; the chunks still pass."""

    def ask() -> Any:
        with recorder.generation("m") as call:
            return call.stream(Stream(CHUNKS))

    for _ in range(2):
        assert list(ask()) == CHUNKS
    assert len(recorder.calls) == 2
    (warning,) = recorder.warnings.values()
    assert "decorate the function" in warning


def test_recorded_gaps_do_not_change_with_the_stream(recorder: FakeRecorder) -> None:
    """Chunks after the block are not the call's."""
    with recorder.generation("m") as call:
        stream = call.stream(Stream(CHUNKS))
        next(stream)
        next(stream)
    list(stream)
    assert len(recorder.last.more.chunk_gaps) == 1


def test_stream_outside_of_a_block_is_returned_as_it_is(recorder: FakeRecorder) -> None:
    """There is no call that it could belong to."""
    stream = Stream(CHUNKS)
    assert recorder.generation("m").stream(stream) is stream
    assert list(recorder.warnings) == ["stream_without_block"]


# --- hostile streams ----------------------------------------------------------------------------


class Unopenable:
    """A stream that cannot be iterated over."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no iterator")


def test_errors_of_a_stream_are_its_own(recorder: FakeRecorder) -> None:
    """They propagate as without a proxy."""
    with pytest.raises(RuntimeError, match="no iterator"), recorder.generation("m") as call:
        list(call.stream(Unopenable()))
    assert recorder.last.outcome == "failure"
    with pytest.raises(RuntimeError, match="asked of"), recorder.generation("m") as call:
        list(call.stream(Raising()))
    assert recorder.last.outcome == "failure"


def test_chunks_of_any_kind_pass(recorder: FakeRecorder) -> None:
    """Reading them never raises."""
    odd = [None, Raising(), 3, "text", object(), [CHUNKS[0]], CHUNKS[4]]
    with recorder.generation("m") as call:
        found = list(call.stream(iter(odd)))
    assert all(a is b for a, b in zip(found, odd, strict=True))
    assert recorder.last.counts == (10, 5, None)


@pytest.mark.parametrize("thing", [object(), 3, {"messages": []}])
def test_what_is_no_stream_is_returned_with_a_warning(recorder: FakeRecorder, thing: Any) -> None:
    """The call goes on."""
    with recorder.generation("m") as call:
        assert call.stream(thing) is thing
    assert len(recorder.warnings) == 1
    assert recorder.last.outcome == "success"


def test_response_in_the_place_of_a_stream_is_read(recorder: FakeRecorder) -> None:
    """Such as Bedrock's mapping without a stream."""
    with recorder.generation("m") as call:
        call.stream(chunk(5))
    assert recorder.last.counts == (10, 5, None)


def test_closing_what_has_no_close_does_nothing(recorder: FakeRecorder) -> None:
    """The call is cancelled all the same."""
    with recorder.generation("m") as call:
        call.stream(iter(CHUNKS)).close()  # type: ignore[attr-defined]
    assert recorder.last.outcome == "cancelled"


def test_streams_of_many_threads_are_kept_apart() -> None:
    """Totals are those of all, each by its end."""

    def work() -> None:
        for n in range(50):
            with monitor.generation("m") as call:
                stream = call.stream(Stream(CHUNKS))
                if n % 5:
                    list(stream)
                else:
                    leave_by_break(stream)

    with isolated_monitor() as monitor:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report = monitor.get_total_token_usage()
        assert report.total_completion_tokens == 8 * (40 * 5 + 10 * 2)
        assert monitor.value("genmeter_generations_active") == 0


def test_proxies_leave_no_cycles(recorder: FakeRecorder) -> None:
    """A stream is freed as soon as it is dropped."""
    gc.disable()
    try:
        freed: list[bool] = []

        class Freed(Stream):
            def __del__(self) -> None:
                freed.append(True)

        with recorder.generation("m") as call:
            list(call.stream(Freed(CHUNKS)))
            leave_by_break(call.stream(Freed(CHUNKS)))
            assert freed == [True, True]
    finally:
        gc.enable()


def test_stream_left_after_its_answer_is_whole_is_a_success(recorder: FakeRecorder) -> None:
    """Many loops end at the finish reason; nothing is missing if the usage is known by then."""
    last: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": "stop"}]}
    last["usage"] = {"prompt_tokens": 5}
    with recorder.generation("m") as call:
        for _ in call.stream(iter([{"choices": [{"index": 0}]}, last, {"type": "end"}])):
            if call.finish_reason:
                break
    assert recorder.last.outcome == "success"
    del last["usage"]
    with recorder.generation("m") as call:
        for _ in call.stream(iter([last, {"type": "end"}])):
            break
    assert recorder.last.outcome == "cancelled"
