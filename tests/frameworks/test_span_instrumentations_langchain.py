"""The instrumentations of LangChain, alone and above those of the client: each call once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books
from _isolated import run_isolated, warm_up
from _model_server import serve
from _watching import import_emitters, watch

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import Entry, ModelServer

langchain_openai = pytest.importorskip("langchain_openai")
pytest.importorskip("langgraph")
pytest.importorskip("langchain")

import openai  # noqa: E402 - comes with them
from langchain_core.output_parsers import StrOutputParser  # noqa: E402
from langchain_core.prompts import ChatPromptTemplate  # noqa: E402
from langchain_core.runnables import RunnableParallel  # noqa: E402

MODEL = "gpt-4o-mini"


def _model(server: ModelServer, **keywords: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        model=MODEL, base_url=f"{server.url}/v1", api_key="k", **keywords
    )


def weather(city: str) -> str:
    """Return the weather in a city."""
    return "rain"


def _invoke(server: ModelServer) -> None:
    _model(server).invoke("hi [[cached]]")
    _model(server).batch(["one", "two", "three"])


def _chain(server: ModelServer) -> None:
    prompt = ChatPromptTemplate.from_messages([("user", "{text}")])
    one = prompt | _model(server) | StrOutputParser()
    two = RunnableParallel(first=one, second=one)
    assert two.invoke({"text": "equal [[slow 0.05]]"})


def _stream(server: ModelServer) -> None:
    assert list(_model(server, stream_usage=True).stream("hi"))


def _tools(server: ModelServer) -> None:
    answer = _model(server).bind_tools([weather]).invoke("hi [[tool]]")
    assert answer.tool_calls


def _agent(server: ModelServer) -> None:
    from langchain.agents import create_agent

    agent = create_agent(_model(server), [weather])
    result = agent.invoke({"messages": [{"role": "user", "content": "hi [[tool]]"}]})
    assert len(result["messages"]) == 4


def _errors(server: ModelServer) -> None:
    for order in ("hi [[400]]", "hi [[401]]"):
        with pytest.raises(openai.APIStatusError):
            _model(server).invoke(order)


def _retries(server: ModelServer) -> None:
    _model(server).invoke("hi [[429 then ok]]")


def _asynchronous(server: ModelServer) -> None:
    async def run() -> None:
        model = _model(server)
        await asyncio.gather(*(model.ainvoke("equal [[slow 0.05]]") for _ in range(4)))
        async for _ in _model(server, stream_usage=True).astream("hi"):
            pass
        with pytest.raises(openai.BadRequestError):
            await model.ainvoke("hi [[400]]")

    asyncio.run(run())


def _cancelled(server: ModelServer) -> None:
    async def run() -> None:
        slow = asyncio.ensure_future(_model(server).ainvoke("hi [[slow 60]]"))
        await asyncio.to_thread(eventually, lambda: server.books)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    asyncio.run(run())


def _responses(server: ModelServer) -> None:
    _model(server, use_responses_api=True).invoke("hi [[cached]]")


def _embeddings(server: ModelServer) -> None:
    langchain_openai.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="k", check_embedding_ctx_length=False
    ).embed_documents(["a", "b"])


SITUATIONS: dict[str, Callable[[ModelServer], None]] = {
    "invoke": _invoke,
    "chain": _chain,
    "stream": _stream,
    "tools": _tools,
    "agent": _agent,
    "errors": _errors,
    "retries": _retries,
    "asynchronous": _asynchronous,
    "cancelled": _cancelled,
    "responses": _responses,
    "embeddings": _embeddings,
}
EMITTERS = [
    ("genai-langchain",),
    ("openllmetry-langchain",),
    ("openinference-langchain",),
    ("genai-langchain", "genai-openai", "httpx"),
    ("openllmetry-langchain", "openllmetry-openai", "httpx"),
    ("openinference-langchain", "openinference-openai", "httpx"),
    ("openinference-langchain", "genai-openai", "openllmetry-openai"),
]


def as_seen_by(emitters: tuple[str, ...], situation: str) -> Callable[[Call, Entry], list[Call]]:
    """Return how the calls of a situation are seen."""
    sees_cancelled = any(
        name in {"genai-langchain", "genai-openai", "openinference-openai"} for name in emitters
    )
    has_client = any(name.endswith("-openai") for name in emitters)

    def seen(call: Call, entry: Entry) -> list[Call]:
        if situation == "embeddings" and not has_client:
            return []
        if situation == "cancelled" and not sees_cancelled:
            return []
        return [call]

    return seen


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
def test_each_call_is_recorded_once_as_the_books_have_it(
    emitters: tuple[str, ...], situation: str
) -> None:
    """Whatever observes it, and however many."""
    import_emitters(emitters)
    warm_up(_invoke)

    def run() -> None:
        with serve() as server:
            with watch(*emitters) as watched:
                SITUATIONS[situation](server)
                server.settle()
            as_seen = as_seen_by(emitters, situation)
            assert_equal_books(watched.monitor, server, as_seen=as_seen)

    run_isolated(run)
