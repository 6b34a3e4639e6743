"""LlamaIndex's hook with the real LlamaIndex, against the books of the model server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books, recorded_calls
from _prices import priced

import genmeter.hooks
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _model_server import Entry, ModelServer

pytest.importorskip("llama_index.llms.openai")
pytest.importorskip("llama_index.embeddings.openai")

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls of LlamaIndex."""
    with isolated_monitor(priced(), metrics_interval=None) as monitor:
        genmeter.hooks.install("llama_index", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("llama_index")


@pytest.fixture
def model(server: ModelServer) -> OpenAI:
    """Return a chat model that the server serves."""
    return _model(server)


def _model(server: ModelServer, name: str = "gpt-4o-mini", **options: Any) -> OpenAI:
    return OpenAI(model=name, api_base=f"{server.url}/v1", api_key="k", max_retries=2, **options)


def _chat(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


def add(a: int = 1, b: int = 2) -> int:
    """Add."""
    return a + b


def test_calls_tokens_and_outcomes_equal_the_books(
    monitor: IsolatedMonitor, model: OpenAI, server: ModelServer
) -> None:
    """Chats, completions of both kinds of models, a retry, an error and tools."""
    model.chat(_chat("one [[cached]] [[reasoning]]"))
    model.complete("two")
    _model(server, "gpt-3.5-turbo-instruct", max_tokens=9).complete("three")
    model.chat(_chat("again [[429 then ok]]"))
    model.chat_with_tools([FunctionTool.from_defaults(add)], "use it [[tool]]")
    with pytest.raises(Exception, match="400"):
        model.chat(_chat("bad [[400]]"))
    with pytest.raises(Exception, match="400"):
        model.complete("bad, too [[400]]")
    assert_equal_books(monitor, server)
    rows = _rows(monitor)
    assert {row["provider"] for row in rows} == {"openai"}
    assert [row["error_type"] for row in rows[-2:]] == ["BadRequestError", "BadRequestError"]
    assert [row["finish_reason"] for row in rows[:2]] == ["stop", "stop"]


def test_streams_equal_the_books(
    monitor: IsolatedMonitor, model: OpenAI, server: ModelServer
) -> None:
    """Whole, broken and left early; with times and the finish reason of an earlier chunk."""
    assert list(model.stream_chat(_chat("all of it"), **USAGE))
    assert list(model.stream_complete("all of this", **USAGE))
    with pytest.raises(Exception, match=r"peer closed|incomplete|Connection error"):
        list(model.stream_chat(_chat("breaks [[break 4]]"), **USAGE))
    for _ in model.stream_chat(_chat("left"), **USAGE):
        break

    def as_seen(call: Call, entry: Entry) -> list[Call]:
        # The server sends it to the end, since LlamaIndex does not close the connection.
        is_left = entry.text == "left"
        return [call._replace(outcome="cancelled", input=None, output=None) if is_left else call]

    assert_equal_books(monitor, server, as_seen=as_seen)
    assert [row["finish_reason"] for row in _rows(monitor)[:2]] == ["stop", "stop"]
    assert monitor.value("gen_ai_client_inference_time_to_first_chunk_seconds_count") == 4


def test_a_stream_without_usage_has_unknown_tokens(
    monitor: IsolatedMonitor, model: OpenAI, server: ModelServer
) -> None:
    """And says so."""
    assert list(model.stream_chat(_chat("one")))
    assert_equal_books(
        monitor, server, as_seen=lambda call, _: [call._replace(input=None, output=None)]
    )
    assert [row["usage_unread"] for row in _rows(monitor)] == ["no_usage"]


async def test_async_calls_equal_the_books(
    monitor: IsolatedMonitor, model: OpenAI, server: ModelServer
) -> None:
    """Awaited, streamed, concurrent, failed and cancelled."""
    await model.achat(_chat("one"))
    await model.acomplete("two")
    await asyncio.gather(*[model.achat(_chat(f"many {i}")) for i in range(10)])
    assert [chunk async for chunk in await model.astream_chat(_chat("stream"), **USAGE)]
    with pytest.raises(Exception, match="400"):
        await model.achat(_chat("bad [[400]]"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.achat(_chat("slow [[slow 30]]")), 0.3)

    async def read() -> None:
        async for _ in await model.astream_chat(_chat("cut [[pause 0.1]]"), **USAGE):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.3)
    assert_equal_books(monitor, server)


async def test_embeddings_are_calls_of_unknown_tokens(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """LlamaIndex's events have no usage of them; each request of a batch is one."""
    model = OpenAIEmbedding(
        model="text-embedding-3-small",
        api_base=f"{server.url}/v1",
        api_key="k",
        embed_batch_size=2,
    )
    model.get_text_embedding("one")
    model.get_query_embedding("two")
    model.get_text_embedding_batch([str(i) for i in range(5)])
    await model.aget_text_embedding("three")
    await model.aget_text_embedding_batch([str(i) for i in range(5)])

    def as_seen(call: Call, _: Entry) -> list[Call]:
        return [call._replace(input=None)]

    assert len(server.books) == 9
    assert_equal_books(monitor, server, as_seen=as_seen)
    assert {row["usage_unread"] for row in _rows(monitor)} == {"not_reported"}


def test_calls_beside_a_stream_and_in_a_block(
    monitor: IsolatedMonitor, model: OpenAI, server: ModelServer
) -> None:
    """A stream's consumer is no part of it, and a block of the job is the call."""
    for number, _ in enumerate(model.stream_chat(_chat("outer"), **USAGE)):
        if number < 2:
            model.chat(_chat(f"inner {number}"))
    with monitor.generation(step="judge"):
        model.chat(_chat("one"))
    assert_equal_books(monitor, server)
    assert [row["step"] for row in _rows(monitor)].count("judge") == 1


def test_uninstalling_restores_the_dispatcher(server: ModelServer) -> None:
    """Installing twice records each call once."""
    model = _model(server)
    before = list(get_dispatcher().event_handlers)
    with isolated_monitor(metrics_interval=None) as monitor:
        for _ in range(2):
            genmeter.hooks.install("llama_index", monitor=monitor)
        model.chat(_chat("one"))
        genmeter.hooks.uninstall("llama_index")
        model.chat(_chat("two"))
        assert [call.input for call in recorded_calls(monitor)] == [server.books[0].input]
    assert get_dispatcher().event_handlers == before
