"""Which objects are read, without any harm: methods, classes, streams and hostile ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock, Mock

import pytest
from _answers import CHAT, answer_of, tokens_of
from _hostile import VALUES

from genmeter.events.answers import Answer, TokenCounts
from genmeter.usage import _objects
from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading, is_stream

# ---- objects


def test_result_whose_usage_is_a_method_is_read() -> None:
    """Older versions of pydantic-ai have such results."""

    class AgentRunResult:
        def usage(self) -> Any:
            return SimpleNamespace(input_tokens=3, output_tokens=2)

    assert tokens_of(AgentRunResult()) == TokenCounts(3, 2)


def test_methods_of_other_classes_are_not_called() -> None:
    """What they do is unknown."""
    calls: list[Any] = []

    class Client:
        def usage(self) -> Any:
            calls.append(self)

    class RunResult:
        def usage(self, needed: int) -> Any:
            calls.append(needed)

        async def response(self) -> Any:
            calls.append(self)

        def message(self) -> Any:
            calls.append(self)

    for each in (Client(), RunResult()):
        assert tokens_of(each) == TokenCounts()
    assert calls == []


def test_method_of_a_result_that_raises_is_absent() -> None:
    """The job's own call of it will show why."""

    class AgentRunResult:
        def usage(self) -> Any:
            raise RuntimeError

    assert tokens_of(AgentRunResult()) == TokenCounts()


def test_subclasses_of_lists_are_read() -> None:
    """By the methods of the list itself."""

    class Answers(list[Any]):
        def __iter__(self) -> Any:
            raise RuntimeError

    class Pair(tuple[Any, ...]):
        __slots__ = ()

    assert tokens_of(Answers([CHAT, CHAT])) == TokenCounts(20, 8, 28)
    assert tokens_of(Pair([CHAT, CHAT])) == TokenCounts(20, 8, 28)


def test_classes_without_end_are_not_kept() -> None:
    """Memory is bounded."""
    for number in range(5_000):
        made = type(f"Answer{number}", (), {"prompt_tokens": number})()
        assert tokens_of(made) == TokenCounts(number)
    assert len(_objects._plans) <= 4_096


def test_named_tuple_and_dataclass_are_read() -> None:
    """The values of a class's fields."""

    class Usage(NamedTuple):
        prompt_tokens: int
        completion_tokens: int

    @dataclass(slots=True)
    class Response:
        usage: Usage
        model: str = "m"

    assert answer_of(Response(Usage(3, 2))) == Answer(TokenCounts(3, 2), "m")


def test_properties_that_raise_do_not_hide_others() -> None:
    """Each is read by itself."""

    class Response:
        @property
        def choices(self) -> Any:
            raise RuntimeError

        @property
        def usage(self) -> Any:
            return {"prompt_tokens": 3}

    assert tokens_of(Response()) == TokenCounts(3)


def test_mock_is_read_only_as_far_as_it_was_filled() -> None:
    """Asking it for more would change it."""
    mock = Mock()
    mock.usage.prompt_tokens = 3
    mock.model = "m"
    assert answer_of(mock) == Answer(TokenCounts(3), "m")
    assert set(mock._mock_children) == {"usage"}


def test_object_that_holds_itself_ends() -> None:
    """Depth and number of objects are limited."""

    class Endless:
        def __getattr__(self, name: str) -> Any:
            return Endless()

    assert tokens_of(Endless()) == TokenCounts()
    usage: dict[str, Any] = {"input_tokens": 1, "type": "other"}
    usage["iterations"] = usage["usage"] = [usage, usage, usage]
    usage["input_tokens_details"] = details = {"cached_tokens": 1}
    details["cached_tokens_details"] = details  # type: ignore[assignment]
    assert tokens_of(usage) == TokenCounts(3, cache_read=3)
    circular: dict[str, Any] = {"model": "m"}
    circular["response"] = circular["message"] = circular["body"] = circular
    assert answer_of(circular) == Answer(model="m")


def test_large_dict_is_asked_for_the_known_names() -> None:
    """It may hold anything."""
    values: dict[str, Any] = {f"key-{number}": number for number in range(10_000)}
    assert tokens_of({**values, "usage": {"prompt_tokens": 3}}) == TokenCounts(3)


def test_body_of_a_response_of_http_is_read_if_it_is_there() -> None:
    """Nothing is fetched."""

    class Response:
        def __init__(self, content: Any) -> None:
            self._content = content

        def iter_content(self) -> Any:
            raise AssertionError("read from the network")

        iter_bytes = json = iter_content

    assert tokens_of(Response(b'{"usage": {"prompt_tokens": 3}}')) == TokenCounts(3)
    for content in (False, b"<html>", b"[1]", None):
        assert tokens_of(Response(content)) == TokenCounts()


# ---- unread


@pytest.mark.parametrize(
    ("obj", "reason", "shown"),
    [
        ({**CHAT, "usage": None}, "no_usage", "dict"),
        ({"usage": {"type": "duration", "seconds": 4}}, "no_usage", "dict"),
        (SimpleNamespace(choices=[{}]), "no_usage", "types.SimpleNamespace"),
        (object(), "not_understood", "object"),
        ({}, "not_understood", "dict"),
        ("text", "not_understood", "str"),
        (None, "not_understood", "NoneType"),
        ((each for each in "ab"), "stream", "generator"),
        ({"stream": iter([])}, "stream", "dict"),
    ],
)
def test_reason_of_unread_usage(obj: Any, reason: str, shown: str) -> None:
    """It says what to look for."""
    reading = Reading()
    assert not reading.read(obj)
    assert reading.unread == (reason, shown)
    assert not reading.has_usage
    assert reading.answer().tokens == TokenCounts()


def test_usage_once_found_stays_found() -> None:
    """The other chunks need none."""
    reading = Reading()
    reading.read({"choices": []})
    assert reading.unread is not None
    reading.read(CHAT)
    reading.read({"choices": []})
    assert reading.unread is None


def test_new_reading_has_an_empty_answer() -> None:
    """Until anything is read."""
    reading = Reading()
    assert reading.answer() == Answer()
    assert reading.unread is None
    reading.read({"model": "m"})
    assert reading.model == "m"
    assert "'m'" not in repr(reading)
    assert "m, usage False" in repr(reading)


class RaisingMapping(Mapping[str, Any]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


class RaisingMeta(type):
    """A class of classes that cannot be examined."""

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


HOSTILE: dict[str, Any] = {
    **VALUES,
    "raising mapping": RaisingMapping(),
    "raising class": RaisingMeta("RaisingClass", (), {})(),
    "magic mock": MagicMock(),
    "mock of a dict": MagicMock(spec=dict),
    "class of this kind": SimpleNamespace,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_value_anywhere_is_read_without_harm(name: str) -> None:
    """Reading never raises, and what is beside the value is read."""
    value = HOSTILE[name]
    for obj in (
        value,
        [value, CHAT],
        {"usage": value, "choices": value, "model": value},
        {"response": value, "message": value, "_hidden_params": value, "raw": value},
        {"candidates": [value, {"finish_reason": value, "index": value}]},
        {"embeddings": value, "statistics": value, "details": value, "outputs": [value]},
        SimpleNamespace(usage=value, metadata=value, iterations=value, type=value),
    ):
        reading = Reading()
        reading.read(obj)
        reading.answer()
        ChunkReader(Reading()).read(obj)
        is_stream(obj)
    beside = {
        **CHAT,
        "service_tier": value,
        "id": value,
        "type": value,
        "usage": {
            **CHAT["usage"],
            "cost": value,
            "prompt_tokens_details": value,
            "iterations": value,
            "server_tool_use": value,
        },
    }
    assert tokens_of(beside)[:3] == (10, 4, 14)


# ---- streams


class VendorStream:
    """A stream that has no ``__next__``."""

    def __iter__(self) -> Any:
        raise AssertionError("consumed")


class AsyncStream:
    """An asynchronous stream."""

    def __aiter__(self) -> Any:
        raise AssertionError("consumed")


async def _async_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    "obj",
    [(each for each in "ab"), iter([1]), zip("a", "b", strict=True), VendorStream(), AsyncStream()],
)
def test_streams_are_recognized(obj: Any) -> None:
    """By their class."""
    assert is_stream(obj)


def test_asynchronous_generator_is_a_stream() -> None:
    """It is not started."""
    assert is_stream(_async_generator())


@pytest.mark.parametrize(
    "obj",
    [
        *(CHAT, [CHAT], (CHAT,), "text", b"x", {1}, None, 7, SimpleNamespace(), MagicMock()),
        *(object(), VendorStream, RaisingMapping(), range(3)),
    ],
)
def test_other_objects_are_no_streams(obj: Any) -> None:
    """Neither responses nor values."""
    assert not is_stream(obj)


def test_stream_is_not_consumed() -> None:
    """Reading it says that it is one."""
    chunks = iter([CHAT, CHAT])
    reading = Reading()
    assert not reading.read(chunks)
    assert list(chunks) == [CHAT, CHAT]


def test_place_holder_of_litellm_is_no_usage() -> None:
    """Its streams carry zeros beside the response if the provider reported nothing."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    chunk = {"choices": [{"index": 0}], "model": "m", "_hidden_params": {"usage": zeros}}
    reading = Reading()
    assert not reading.read(chunk)
    assert reading.unread is not None
    estimated = {"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}
    assert reading.read({**chunk, "_hidden_params": {"usage": estimated}})
    assert reading.answer().tokens[:3] == (8, 0, 8)
