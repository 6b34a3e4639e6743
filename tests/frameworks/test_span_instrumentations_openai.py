"""Every instrumentation of OpenAI's client: its spans give each call once, as the server's books have it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _books import assert_equal_books
from _isolated import run_isolated, warm_up
from _model_server import serve
from _sight import as_seen_by
from _watching import import_emitters, watch

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import ModelServer

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
pytest.importorskip("opentelemetry.instrumentation.genai.openai")

MODEL = "gpt-4o-mini"
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def _client(server: ModelServer, **keywords: Any) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", **keywords)


def _async_client(server: ModelServer, **keywords: Any) -> Any:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", **keywords)


def _chat(client: Any, text: str, **keywords: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages, **keywords)


def _whole(server: ModelServer) -> None:
    _chat(_client(server), "hi [[cached]] [[reasoning]]")
    _chat(_client(server), "hi", n=2)


def _tools(server: ModelServer) -> None:
    answer = _chat(_client(server), "hi [[tool]]", tools=[WEATHER])
    message = answer.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    messages = [{"role": "user", "content": "hi"}, message.model_dump(exclude_none=True), result]
    _client(server).chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])


def _length(server: ModelServer) -> None:
    _chat(_client(server), "hi [[length]]")


def _stream(server: ModelServer) -> None:
    list(_chat(_client(server), "hi [[cached]] [[reasoning]]", **WITH_USAGE))
    with _chat(_client(server), "hi [[tool]]", tools=[WEATHER], **WITH_USAGE) as stream:
        list(stream)


def _stream_without_usage(server: ModelServer) -> None:
    list(_chat(_client(server), "hi", stream=True))


def _stream_left(server: ModelServer) -> None:
    stream = _chat(_client(server), "hi [[pause 0.02]]", **WITH_USAGE)
    next(iter(stream))
    stream.close()


def _stream_broken(server: ModelServer) -> None:
    # openai 2 passes on the error of its transport.
    with pytest.raises((openai.APIConnectionError, httpx.HTTPError)):
        list(_chat(_client(server, max_retries=0), "hi [[break]]", **WITH_USAGE))


def _stream_with_error(server: ModelServer) -> None:
    with pytest.raises(openai.APIError):
        list(_chat(_client(server, max_retries=0), "hi [[stream error]]", **WITH_USAGE))


def _errors(server: ModelServer) -> None:
    for order in ("hi [[400]]", "hi [[401]]", "hi [[500]]"):
        with pytest.raises(openai.APIStatusError):
            _chat(_client(server), order)


def _retries(server: ModelServer) -> None:
    _chat(_client(server), "hi [[429 then ok]]")
    _chat(_client(server), "hi [[429 500 then ok]]")
    list(_chat(_client(server), "hi again [[503 then ok]]", **WITH_USAGE))


def _timeout(server: ModelServer) -> None:
    with pytest.raises(openai.APITimeoutError):
        _chat(_client(server, timeout=0.1, max_retries=0), "hi [[slow 60]]")


def _asynchronous(server: ModelServer) -> None:
    async def run() -> None:
        async with _async_client(server) as client:
            await asyncio.gather(*(_chat(client, "equal [[slow 0.05]]") for _ in range(5)))
            async for _ in await _chat(client, "hi", **WITH_USAGE):
                pass
            with pytest.raises(openai.BadRequestError):
                await _chat(client, "hi [[400]]")
            await _chat(client, "hi [[429 then ok]]")

    asyncio.run(run())


def _cancelled(server: ModelServer) -> None:
    async def run() -> None:
        async with _async_client(server) as client:
            slow = asyncio.ensure_future(_chat(client, "hi [[slow 60]]"))
            await asyncio.to_thread(eventually, lambda: server.books)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow

    asyncio.run(run())


def _responses(server: ModelServer) -> None:
    responses = _client(server).responses
    responses.create(model=MODEL, input="hi [[cached]] [[reasoning]]")
    list(responses.create(model=MODEL, input="hi", stream=True))
    with pytest.raises(openai.BadRequestError):
        responses.create(model=MODEL, input="hi [[400]]")


def _responses_truncated(server: ModelServer) -> None:
    _client(server).responses.create(model=MODEL, input="hi [[length]]")


def _embeddings(server: ModelServer) -> None:
    embeddings = _client(server).embeddings
    embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    with pytest.raises(openai.BadRequestError):
        embeddings.create(model="text-embedding-3-small", input="a [[400]]")


def _raw(server: ModelServer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    raw = _client(server).chat.completions.with_raw_response
    assert raw.create(model=MODEL, messages=messages).parse().choices


SITUATIONS: dict[str, Callable[[ModelServer], None]] = {
    "whole": _whole,
    "tools": _tools,
    "length": _length,
    "stream": _stream,
    "stream without usage": _stream_without_usage,
    "stream left": _stream_left,
    "stream broken": _stream_broken,
    "stream with error": _stream_with_error,
    "errors": _errors,
    "retries": _retries,
    "timeout": _timeout,
    "asynchronous": _asynchronous,
    "cancelled": _cancelled,
    "responses": _responses,
    "responses truncated": _responses_truncated,
    "embeddings": _embeddings,
    "raw": _raw,
}
EMITTERS = [
    ("genai-openai",),
    ("openllmetry-openai",),
    ("openinference-openai",),
    ("logfire-openai",),
    ("genai-openai", "openinference-openai"),
    ("openinference-openai", "genai-openai"),
    ("openllmetry-openai", "openinference-openai"),
    ("genai-openai", "openllmetry-openai", "openinference-openai", "httpx"),
]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
def test_each_call_is_recorded_once_as_the_books_have_it(
    emitters: tuple[str, ...], situation: str
) -> None:
    """Whatever observes it, and however many."""
    import_emitters(emitters)
    warm_up(_whole)

    def run() -> None:
        with serve() as server:
            with watch(*emitters) as watched:
                SITUATIONS[situation](server)
                server.settle()
            as_seen = as_seen_by(emitters, situation)
            assert_equal_books(watched.monitor, server, as_seen=as_seen)

    run_isolated(run)
