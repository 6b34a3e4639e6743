"""LiteLLM's hook with the real LiteLLM, against the books of the model server."""

from __future__ import annotations

import asyncio
import gc
import importlib
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books, recorded_calls
from _prices import priced

import genmeter.hooks
from _waiting import eventually
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _model_server import Entry, ModelServer

litellm = pytest.importorskip("litellm")

hook: Any = importlib.import_module("genmeter.hooks.litellm")

WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls of LiteLLM."""
    with isolated_monitor(priced(), metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("litellm")


def _arguments(server: ModelServer, text: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "openai/gpt-4o-mini",
        "messages": [{"role": "user", "content": text}],
        "api_base": f"{server.url}/v1",
        "api_key": "k",
        **options,
    }


def _call(server: ModelServer, text: str, **options: Any) -> Any:
    return litellm.completion(**_arguments(server, text, options))


async def _acall(server: ModelServer, text: str, **options: Any) -> Any:
    return await litellm.acompletion(**_arguments(server, text, options))


def _settle(monitor: IsolatedMonitor, server: ModelServer) -> list[dict[str, Any]]:
    """Wait until LiteLLM has reported what the server has in its books; returns the rows."""
    server.settle()
    gc.collect()
    assert hook.flush()
    eventually(lambda: not hook._began)
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


async def _reported() -> None:
    """Let LiteLLM's worker, which is a task of this loop, report."""
    for _ in range(1_000):
        gc.collect()
        if not hook._began:
            break
        await asyncio.sleep(0.01)


def test_calls_tokens_cost_and_outcomes_equal_the_books(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """Two providers, cached tokens, a retry of the client, errors, tools and embeddings."""
    _call(server, "one [[cached]] [[reasoning]]")
    _call(server, "two", model="anthropic/claude-sonnet-4-5", api_base=server.url)
    _call(server, "again [[429 then ok]]", max_retries=2)
    _call(server, "short [[length]]")
    add = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    _call(server, "use it [[tool]]", tools=[add])
    with pytest.raises(litellm.BadRequestError):
        _call(server, "bad [[400]]")
    connection = {"api_base": f"{server.url}/v1", "api_key": "k"}
    litellm.embedding(model="openai/text-embedding-3-small", input=["x"], **connection)
    litellm.text_completion(
        model="text-completion-openai/gpt-3.5-turbo-instruct", prompt="x", **connection
    )
    rows = _settle(monitor, server)
    assert_equal_books(monitor, server)
    # As LiteLLM's own table of prices has them.
    assert rows[0]["cost_usd"] == pytest.approx(0.000213075)
    assert rows[1]["cost_usd"] == pytest.approx(1026 * 3e-6 + 114 * 15e-6)
    assert [row["provider"] for row in rows[:2]] == ["openai", "anthropic"]
    assert [row["finish_reason"] for row in rows[2:5]] == ["stop", "length", "tool_calls"]
    [failed] = [row for row in rows if row["outcome"] == "failure"]
    assert failed["error_type"] == "BadRequestError"


def test_a_model_without_a_price_has_no_cost(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """LiteLLM's payload says 0 for a price that it does not know."""
    _call(server, "one", model="openai/m")
    [row] = _settle(monitor, server)
    assert row["cost_usd"] != 0


def test_streams_equal_the_books(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """Whole, broken and left early; with the time of the first chunk."""
    assert list(_call(server, "all of it", **WITH_USAGE))
    with pytest.raises(Exception, match=r"peer closed|incomplete|APIConnection|Connection error"):
        list(_call(server, "breaks [[break 4]]", **WITH_USAGE))
    for _ in _call(server, "left", **WITH_USAGE):
        break
    _settle(monitor, server)

    def as_seen(call: Call, entry: Entry) -> list[Call]:
        # The server sends it to the end, since LiteLLM keeps the connection.
        is_left = entry.text == "left"
        return [call._replace(outcome="cancelled", input=None, output=None) if is_left else call]

    assert_equal_books(monitor, server, as_seen=as_seen)
    assert monitor.value("gen_ai_client_inference_time_to_first_chunk_seconds_count") == 2


def test_an_estimate_of_litellm_is_no_count(
    monitor: IsolatedMonitor, server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a stream that was not asked for its usage LiteLLM states a number of its own."""
    list(_call(server, "one", stream=True))
    list(_call(server, "two", stream=True))
    rows = _settle(monitor, server)
    assert_equal_books(
        monitor, server, as_seen=lambda call, _: [call._replace(input=None, output=None)]
    )
    assert [row["usage_unread"] for row in rows] == ["no_usage", "no_usage"]
    said = "LiteLLM estimates the tokens of streams"
    assert eventually(lambda: caplog.text.count(said)) == 1


async def test_async_calls_equal_the_books(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """Awaited, streamed, concurrent, failed and retried by the client."""
    await _acall(server, "one")
    assert [chunk async for chunk in await _acall(server, "stream", **WITH_USAGE)]
    await asyncio.gather(*[_acall(server, f"many {i}") for i in range(10)])
    await _acall(server, "again [[429 then ok]]", max_retries=2)
    with pytest.raises(litellm.BadRequestError):
        await _acall(server, "bad [[400]]")
    await litellm.aembedding(
        model="openai/text-embedding-3-small",
        input=["x"],
        api_base=f"{server.url}/v1",
        api_key="k",
    )
    await _reported()
    assert_equal_books(monitor, server)


async def test_cancelled_calls_are_cancelled(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """LiteLLM reports nothing of them."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_acall(server, "one [[slow 30]]"), 0.3)

    async def read() -> None:
        async for _ in await _acall(server, "two [[pause 0.1]]", **WITH_USAGE):
            pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.3)
    await _reported()
    assert_equal_books(monitor, server)


def test_a_loop_that_has_ended_leaves_nothing_behind(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """LiteLLM's worker of a loop may not have run; flush() has it report."""
    asyncio.run(_acall(server, "one"))
    _settle(monitor, server)
    assert_equal_books(monitor, server)


def test_a_call_that_litellm_repeats_is_one_that_failed(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """It reports one failure, however often it has asked."""
    with pytest.raises(litellm.InternalServerError):
        _call(server, "bad [[500]]", num_retries=2, max_retries=0)
    rows = _settle(monitor, server)
    assert len(server.books) > 1
    assert [row["outcome"] for row in rows] == ["failure"]


def test_fallbacks_of_a_router_are_calls_of_their_own(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """Each deployment that was asked is another model, with an outcome of its own."""
    connection = {"api_base": f"{server.url}/v1", "api_key": "k", "max_retries": 0}
    router = litellm.Router(
        model_list=[
            {"model_name": name, "litellm_params": {"model": f"openai/{model}", **connection}}
            for name, model in (("first", "gpt-4o-mini"), ("second", "gpt-4o"))
        ],
        fallbacks=[{"first": ["second"]}],
        num_retries=0,
    )
    router.completion(model="first", messages=[{"role": "user", "content": "once [[500 then ok]]"}])
    rows = _settle(monitor, server)
    assert [(row["model"], row["outcome"]) for row in rows] == [
        ("gpt-4o-mini", "failure"),
        ("gpt-4o", "success"),
    ]
    assert rows[1]["input_tokens"] == server.books[-1].input


def test_calls_in_a_block_of_the_job_are_that_block(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """Its tokens are there before the block ends, though LiteLLM reports later."""
    for number in range(5):
        with monitor.generation(step="judge"):
            _call(server, f"one {number}")
    rows = _settle(monitor, server)
    assert_equal_books(monitor, server)
    assert {row["step"] for row in rows} == {"judge"}


def test_langchain_and_litellm_count_a_call_once(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """A call of LiteLLM inside of LangChain's is LangChain's."""
    models = pytest.importorskip("langchain_core.language_models.chat_models")
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    class Model(models.BaseChatModel):  # type: ignore[misc, name-defined]
        """A model of LangChain's that asks LiteLLM, and knows no usage."""

        @property
        def _llm_type(self) -> str:
            return "litellm"

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            answer = _call(server, messages[-1].content).choices[0].message.content
            return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])

    genmeter.hooks.install("langchain", monitor=monitor)
    try:
        Model().invoke("one")
        Model().batch(["two", "three"])
        _call(server, "four")
    finally:
        genmeter.hooks.uninstall("langchain")
    _settle(monitor, server)
    assert_equal_books(monitor, server)


def test_uninstalling_restores_the_callbacks(server: ModelServer) -> None:
    """A job's own callbacks stay, ours are gone from each of LiteLLM's lists."""

    def own(*_: Any) -> None:
        pass

    litellm.success_callback.append(own)
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        _call(server, "one")
        assert hook.flush()
        genmeter.hooks.uninstall("litellm")
        _call(server, "two")
        assert len(recorded_calls(monitor)) == 1
    names = ("callbacks", "input_callback", "success_callback", "failure_callback")
    lists = [getattr(litellm, name) for name in (*names, "_async_success_callback")]
    assert not [each for found in lists for each in found if "Genmeter" in type(each).__name__]
    assert own in litellm.success_callback
    litellm.success_callback.remove(own)
