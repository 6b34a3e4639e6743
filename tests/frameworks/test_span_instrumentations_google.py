"""Every instrumentation of Google's client: its spans give each call once, as the server's books have it."""

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

genai = pytest.importorskip("google.genai")

MODEL = "gemini-2.5-flash"


def _client(server: ModelServer) -> Any:
    retries = genai.types.HttpRetryOptions(attempts=2, initial_delay=0.01, max_delay=0.01)
    options = genai.types.HttpOptions(base_url=server.url, retry_options=retries)
    return genai.Client(api_key="k", http_options=options)


def _ask(server: ModelServer, text: str, **config: Any) -> Any:
    client = _client(server)  # kept: it closes its connections when it is collected
    return client.models.generate_content(model=MODEL, contents=text, config=config)


def weather() -> str:
    """Return the weather."""
    return "rain"


def _whole(server: ModelServer) -> None:
    _ask(server, "hi")
    _ask(server, "hi [[cached]]")


def _thoughts(server: ModelServer) -> None:
    _ask(server, "hi [[reasoning]]")


def _tools(server: ModelServer) -> None:
    off = {"disable": True}
    _ask(server, "hi [[tool]]", tools=[weather], automatic_function_calling=off)
    client = _client(server)
    chat = client.chats.create(model=MODEL)
    chat.send_message("hi")
    chat.send_message("hi again")


def _length(server: ModelServer) -> None:
    _ask(server, "hi [[length]]")


def _stream(server: ModelServer) -> None:
    client = _client(server)
    assert list(client.models.generate_content_stream(model=MODEL, contents="hi [[cached]]"))


def _errors(server: ModelServer) -> None:
    client = _client(server)
    with pytest.raises(genai.errors.ClientError):
        _ask(server, "hi [[400]]")
    with pytest.raises(genai.errors.ClientError):
        list(client.models.generate_content_stream(model=MODEL, contents="hi [[401]]"))


def _retries(server: ModelServer) -> None:
    _ask(server, "hi [[429 then ok]]")


def _asynchronous(server: ModelServer) -> None:
    async def run() -> None:
        client = _client(server)
        models = client.aio.models
        await asyncio.gather(
            *(
                models.generate_content(model=MODEL, contents="equal [[slow 0.05]]")
                for _ in range(5)
            )
        )
        async for _ in await models.generate_content_stream(model=MODEL, contents="hi"):
            pass
        with pytest.raises(genai.errors.ClientError):
            await models.generate_content(model=MODEL, contents="hi [[400]]")

    asyncio.run(run())


def _cancelled(server: ModelServer) -> None:
    async def run() -> None:
        client = _client(server)
        models = client.aio.models
        slow = asyncio.ensure_future(
            models.generate_content(model=MODEL, contents="hi [[slow 60]]")
        )
        await asyncio.to_thread(eventually, lambda: server.books)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    asyncio.run(run())


def _embeddings(server: ModelServer) -> None:
    client = _client(server)
    client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])


SITUATIONS: dict[str, Callable[[ModelServer], None]] = {
    "whole": _whole,
    "thoughts": _thoughts,
    "tools": _tools,
    "length": _length,
    "stream": _stream,
    "errors": _errors,
    "retries": _retries,
    "asynchronous": _asynchronous,
    "cancelled": _cancelled,
    "embeddings": _embeddings,
}
EMITTERS = [
    ("genai-google",),
    ("openllmetry-google",),
    ("openinference-google",),
    ("genai-google", "openinference-google"),
    ("genai-google", "openllmetry-google", "openinference-google", "httpx"),
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
