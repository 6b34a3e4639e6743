"""LiteLLM's OpenTelemetry callback and OpenInference's instrumentation of it, alone and above the client's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books, recorded_calls
from _watching import import_emitters, watch

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import Entry, ModelServer
    from _watching import Watched

    Wait = Callable[[], None]

litellm = pytest.importorskip("litellm")

MODEL = "openai/gpt-4o-mini"


def _keywords(server: ModelServer, text: str, **keywords: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    base = {"api_base": f"{server.url}/v1", "api_key": "k", "max_retries": 0}
    return {"model": MODEL, "messages": messages, **base, **keywords}


def _ask(server: ModelServer, text: str, **keywords: Any) -> Any:
    return litellm.completion(**_keywords(server, text, **keywords))


def _whole(server: ModelServer, wait: Wait) -> None:
    _ask(server, "hi [[cached]] [[reasoning]]")


def _stream(server: ModelServer, wait: Wait) -> None:
    list(_ask(server, "hi", stream=True, stream_options={"include_usage": True}))


def _tools(server: ModelServer, wait: Wait) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    _ask(server, "hi [[tool]]", tools=[{"type": "function", "function": function}])


def _errors(server: ModelServer, wait: Wait) -> None:
    with pytest.raises(litellm.BadRequestError):
        _ask(server, "hi [[400]]")


def _retries(server: ModelServer, wait: Wait) -> None:
    _ask(server, "hi [[429 then ok]]", num_retries=1, max_retries=None)


def _asynchronous(server: ModelServer, wait: Wait) -> None:
    async def run() -> None:
        await asyncio.gather(
            *(litellm.acompletion(**_keywords(server, "equal [[slow 0.05]]")) for _ in range(3))
        )
        await asyncio.to_thread(wait)  # it logs in tasks of its own, which end with the loop

    asyncio.run(run())


def _embeddings(server: ModelServer, wait: Wait) -> None:
    litellm.embedding(
        model="openai/text-embedding-3-small",
        input=["a"],
        api_base=f"{server.url}/v1",
        api_key="k",
    )


SITUATIONS: dict[str, Callable[[ModelServer, Wait], None]] = {
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


def run_situation(
    situation: Callable[[ModelServer, Wait], None],
    server: ModelServer,
    emitters: tuple[str, ...],
    watched: Watched,
) -> None:
    """Run a situation, and wait for LiteLLM's threads and tasks, which report calls after their ends."""

    def wait() -> None:
        server.settle()
        calls = len(server.calls())
        eventually(lambda: watched.settle() or len(recorded_calls(watched.monitor)) >= calls, 20)

    situation(server, wait)
    wait()


def as_seen_by(emitters: tuple[str, ...], situation: str) -> Callable[[Call, Entry], list[Call]]:
    """Return how calls are seen: OpenInference has LiteLLM's name of the model, with the provider."""

    def seen(call: Call, entry: Entry) -> list[Call]:
        return [call, call._replace(model=f"openai/{call.model}")]

    return seen


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
def test_each_call_is_recorded_once_as_the_books_have_it(
    server: ModelServer, emitters: tuple[str, ...], situation: str
) -> None:
    """Whatever observes it, and however many; in this process, since LiteLLM is slow to start."""
    import_emitters(emitters)
    with watch(*emitters) as watched:
        run_situation(SITUATIONS[situation], server, emitters, watched)
    as_seen = as_seen_by(emitters, situation)
    assert_equal_books(watched.monitor, server, as_seen=as_seen)
