"""LiteLLM's OpenTelemetry callback and OpenInference's instrumentation of it, alone and above the client's."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books
from _isolated import run_isolated
from _model_server import serve
from _watching import import_emitters, watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import Entry, ModelServer

litellm = pytest.importorskip("litellm")

MODEL = "openai/gpt-4o-mini"


def _keywords(server: ModelServer, text: str, **keywords: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    base = {"api_base": f"{server.url}/v1", "api_key": "k", "max_retries": 0}
    return {"model": MODEL, "messages": messages, **base, **keywords}


def _ask(server: ModelServer, text: str, **keywords: Any) -> Any:
    return litellm.completion(**_keywords(server, text, **keywords))


def _whole(server: ModelServer) -> None:
    _ask(server, "hi [[cached]] [[reasoning]]")


def _stream(server: ModelServer) -> None:
    list(_ask(server, "hi", stream=True, stream_options={"include_usage": True}))


def _tools(server: ModelServer) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    _ask(server, "hi [[tool]]", tools=[{"type": "function", "function": function}])


def _errors(server: ModelServer) -> None:
    with pytest.raises(litellm.BadRequestError):
        _ask(server, "hi [[400]]")


def _retries(server: ModelServer) -> None:
    _ask(server, "hi [[429 then ok]]", num_retries=1, max_retries=None)


def _asynchronous(server: ModelServer) -> None:
    async def run() -> None:
        await asyncio.gather(
            *(litellm.acompletion(**_keywords(server, "equal [[slow 0.05]]")) for _ in range(3))
        )
        await asyncio.sleep(0.5)  # it logs in tasks of its own, which end with the loop

    asyncio.run(run())


def _embeddings(server: ModelServer) -> None:
    litellm.embedding(
        model="openai/text-embedding-3-small",
        input=["a"],
        api_base=f"{server.url}/v1",
        api_key="k",
    )


SITUATIONS: dict[str, Callable[[ModelServer], None]] = {
    "whole": _whole,
    "stream": _stream,
    "tools": _tools,
    "errors": _errors,
    "retries": _retries,
    "asynchronous": _asynchronous,
    "embeddings": _embeddings,
}
EMITTERS = [
    ("litellm-callback",),
    ("openinference-litellm",),
    ("litellm-callback", "genai-openai"),
    ("litellm-callback", "openinference-openai"),
    ("openinference-litellm", "openinference-openai"),
]


def run_situation(situation: Callable[[ModelServer], None], server: ModelServer, *_: Any) -> None:
    """Run a situation, and wait for LiteLLM's threads, which log after the call."""
    situation(server)
    time.sleep(0.7)


def _seen(call: Call, entry: Entry) -> list[Call]:
    return [call]


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
                run_situation(SITUATIONS[situation], server)
                server.settle()
            assert_equal_books(watched.monitor, server, as_seen=_seen)

    run_isolated(run)
