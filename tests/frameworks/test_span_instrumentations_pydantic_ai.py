"""pydantic-ai's own spans, alone and above those of the client: each call once, the agent's total none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _books import assert_equal_books
from _isolated import run_isolated
from _model_server import serve
from _watching import import_emitters, watch

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import ModelServer

pydantic_ai = pytest.importorskip("pydantic_ai")

from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402

MODEL = "gpt-4o-mini"


def _agent(server: ModelServer, kind: Any = OpenAIChatModel, **keywords: Any) -> Any:
    provider = OpenAIProvider(base_url=f"{server.url}/v1", api_key="k")
    return pydantic_ai.Agent(kind(MODEL, provider=provider), **keywords)


def weather(city: str) -> str:
    """Return the weather in a city."""
    return "rain"


def _whole(server: ModelServer) -> None:
    _agent(server).run_sync("hi [[cached]] [[reasoning]]")
    _agent(server, OpenAIResponsesModel).run_sync("hi")


def _tools(server: ModelServer) -> None:
    _agent(server, tools=[weather]).run_sync("hi [[tool]]")


def _stream(server: ModelServer) -> None:
    async def run() -> None:
        async with _agent(server).run_stream("hi") as result:
            assert await result.get_output()

    asyncio.run(run())


def _errors(server: ModelServer) -> None:
    with pytest.raises(pydantic_ai.exceptions.ModelHTTPError):
        _agent(server).run_sync("hi [[400]]")


def _retries(server: ModelServer) -> None:
    _agent(server).run_sync("hi [[429 then ok]]")


def _parallel(server: ModelServer) -> None:
    async def run() -> None:
        agent = _agent(server)
        await asyncio.gather(*(agent.run("equal [[slow 0.05]]") for _ in range(4)))

    asyncio.run(run())


def _cancelled(server: ModelServer) -> None:
    async def run() -> None:
        slow = asyncio.ensure_future(_agent(server).run("hi [[slow 60]]"))
        await asyncio.to_thread(eventually, lambda: server.books)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    asyncio.run(run())


SITUATIONS: dict[str, Callable[[ModelServer], None]] = {
    "whole": _whole,
    "tools": _tools,
    "stream": _stream,
    "errors": _errors,
    "retries": _retries,
    "parallel": _parallel,
    "cancelled": _cancelled,
}
EMITTERS = [
    ("pydantic-ai",),
    ("pydantic-ai", "genai-openai"),
    ("pydantic-ai", "openinference-openai", "httpx"),
]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
def test_each_call_is_recorded_once_as_the_books_have_it(
    emitters: tuple[str, ...], situation: str
) -> None:
    """Whatever observes it, and however many."""
    import_emitters(emitters)

    def run() -> None:
        with serve() as server:
            with watch(*emitters) as watched:
                SITUATIONS[situation](server)
                server.settle()
            assert_equal_books(watched.monitor, server)

    run_isolated(run)
