"""LangChain's hook with the real LangChain and LangGraph, against the books of the model server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books, expected_call, recorded_calls
from _prices import priced

import genmeter.hooks
from genmeter.errors import BudgetAmount, BudgetExceededError, BudgetLimit
from genmeter.observed import gate
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _model_server import Entry, ModelServer

pytest.importorskip("langchain_openai")

from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI

# The newest version warns that parts of it are new.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls of LangChain."""
    with isolated_monitor(priced(), metrics_interval=None) as monitor:
        genmeter.hooks.install("langchain", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("langchain")


@pytest.fixture
def model(server: ModelServer) -> ChatOpenAI:
    """Return a chat model that the server serves."""
    return _model(server)


def _model(server: ModelServer, **options: Any) -> ChatOpenAI:
    options = {"max_retries": 2, "stream_usage": True, **options}
    return ChatOpenAI(model="gpt-4o-mini", base_url=f"{server.url}/v1", api_key="k", **options)


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


def test_calls_tokens_and_outcomes_equal_the_books(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """Plain, cached and truncated calls, a retry of the client, an error and a batch of threads."""
    model.invoke("one [[cached]] [[reasoning]]")
    model.invoke("short [[length]]")
    model.invoke("again [[429 then ok]]")
    with pytest.raises(Exception, match="400"):
        model.invoke("bad [[400]]")
    model.batch(["a", "b", "c", "d"])
    assert_equal_books(monitor, server)
    rows = _rows(monitor)
    assert {row["provider"] for row in rows} == {"openai"}
    assert [row["finish_reason"] for row in rows[:3]] == ["stop", "length", "stop"]
    [failed] = [row for row in rows if row["outcome"] == "failure"]
    assert failed["error_type"] == "OpenAIInvalidRequestError"


def test_streams_have_the_times_of_their_chunks(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """A whole stream is a success with tokens, a broken one a failure, one left early is cancelled."""
    assert list(model.stream("all of it"))
    with pytest.raises(Exception, match=r"peer closed|incomplete|Connection error"):
        list(model.stream("breaks [[break 4]]"))
    for _ in model.stream("left [[pause 0.1]]"):
        break
    assert_equal_books(monitor, server)
    assert monitor.value("gen_ai_client_inference_time_to_first_chunk_seconds_count") >= 2


async def test_async_calls_equal_the_books(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """Awaited, streamed, concurrent, failed, and as the newest protocol of events."""
    await model.ainvoke("one")
    assert [chunk async for chunk in model.astream("stream")]
    await asyncio.gather(*[model.ainvoke(f"many {i}") for i in range(10)])
    await model.abatch(["a", "b"])
    with pytest.raises(Exception, match="400"):
        await model.ainvoke("bad [[400]]")
    events = await model.astream_events("events", version="v3")
    assert [event async for event in events]
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # they report its end
    assert_equal_books(monitor, server)


async def test_cancelled_calls_are_cancelled(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """Also where the task goes on, of which LangChain reports nothing."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.ainvoke("one [[slow 30]]"), 0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await model.ainvoke("two [[slow 30]]")

    async def read() -> None:
        async for _ in model.astream("three [[pause 0.1]]"):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.2)
    assert_equal_books(monitor, server)


def test_prompts_of_one_generate_are_calls_of_their_own(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """They start together, and none is a part of another one."""
    model.generate([[HumanMessage("one")], [HumanMessage("two")], [HumanMessage("three")]])
    assert_equal_books(monitor, server)


def test_a_generate_that_fails_keeps_what_was_answered(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """The answer before the error has unknown tokens, and the prompt after it was never asked."""
    prompts = [[HumanMessage(text)] for text in ("one", "two [[400]]", "three")]
    with pytest.raises(Exception, match="400"):
        model.generate(prompts)

    def as_seen(call: Call, entry: Entry) -> list[Call]:
        return [call._replace(input=None, output=None) if entry.text == "one" else call]

    assert_equal_books(monitor, server, as_seen=as_seen)
    [answered] = [row for row in _rows(monitor) if row["outcome"] == "success"]
    assert answered["usage_unread"] == "not_reported"


def test_completions_are_text_completions(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """A model for plain text, not for chats."""
    model = OpenAI(model="gpt-3.5-turbo-instruct", base_url=f"{server.url}/v1", api_key="k")
    model.invoke("one")
    assert_equal_books(monitor, server)


def test_a_hit_in_the_cache_is_no_call(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """Nothing is sent, nor billed."""
    model = _model(server, cache=InMemoryCache())
    model.invoke("same")
    model.invoke("same")
    assert len(server.books) == 1
    assert_equal_books(monitor, server)


def test_tools_and_steps_of_a_graph(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """Each call of an agent has the node that made it as its step."""
    prebuilt = pytest.importorskip("langgraph.prebuilt")

    @tool
    def add(a: int = 1, b: int = 2) -> int:
        """Add."""
        return a + b

    agent = prebuilt.create_react_agent(_model(server), [add])
    agent.invoke({"messages": [("user", "use it [[tool]]")]})
    assert len(server.books) == 2
    assert_equal_books(monitor, server)
    assert {row["step"] for row in _rows(monitor)} == {"agent"}


def test_calls_in_a_block_of_the_job_are_that_block(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """Whoever wraps a call of LangChain counts it once, with the tokens that LangChain knows."""
    with monitor.generation(step="judge"):
        model.invoke("one")
    assert_equal_books(monitor, server)
    [row] = _rows(monitor)
    assert (row["step"], row["model"]) == ("judge", "gpt-4o-mini")


async def test_a_block_around_several_awaited_calls_has_all_of_them(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """LangChain ends calls in another task, whose context does not take the mark back."""
    async with monitor.generation():
        await model.ainvoke("one")
        await model.ainvoke("two")
    [recorded] = recorded_calls(monitor)
    calls = [expected_call(call) for call in server.calls()]
    assert recorded.input == sum(call.input or 0 for call in calls)
    assert recorded.output == sum(call.output or 0 for call in calls)


def test_a_call_while_a_stream_is_read_is_a_call_of_its_own(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """The consumer of a stream has the stream's context, but is no part of it."""
    for number, _ in enumerate(model.stream("outer")):
        if number < 2:
            model.invoke(f"inner {number}")
    assert_equal_books(monitor, server)


def test_calls_of_a_chain_in_threads_and_tasks(
    monitor: IsolatedMonitor, model: ChatOpenAI, server: ModelServer
) -> None:
    """Parallel branches are calls beside each other."""
    chain = RunnableLambda(lambda text: f"{text}!") | {"a": model, "b": model, "c": model}
    chain.invoke("one")
    asyncio.run(chain.ainvoke("two"))
    assert_equal_books(monitor, server)


def test_a_budget_stops_a_call_before_it_is_sent(
    monitor: IsolatedMonitor,
    model: ChatOpenAI,
    server: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LangChain lets the error of a handler through that asks for it."""

    def refuse() -> None:
        nothing = BudgetAmount(0, 0.0)
        raise BudgetExceededError("spent", nothing, nothing, BudgetLimit(0, None))

    monkeypatch.setattr(gate, "_guards", (refuse,))
    with pytest.raises(BudgetExceededError):
        model.invoke("one")
    with pytest.raises(BudgetExceededError):
        asyncio.run(model.ainvoke("one"))
    assert server.books == []
    assert _rows(monitor) == []


def test_uninstalling_ends_it(server: ModelServer) -> None:
    """No handler is left, and installing again records again, each call once."""
    from langchain_core.tracers import context

    model = _model(server)
    before = len(context._configure_hooks)
    with isolated_monitor(metrics_interval=None) as monitor:
        for _ in range(2):
            genmeter.hooks.install("langchain", monitor=monitor)
        model.invoke("one")
        genmeter.hooks.uninstall("langchain")
        assert len(context._configure_hooks) == before
        model.invoke("two")
        genmeter.hooks.install("langchain", monitor=monitor)
        model.invoke("three")
        genmeter.hooks.uninstall("langchain")
        inputs = [call.input for call in recorded_calls(monitor)]
    assert inputs == [server.books[0].input, server.books[2].input]
