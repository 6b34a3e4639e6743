"""Calls and streams of frameworks over the clients, with models of their own or over loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from _loopback import Plan, serve

from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "house-model"
FIRST_CHUNKS = "gen_ai_client_inference_time_to_first_chunk_seconds_count"


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor."""
    with isolated_monitor() as made:
        yield made


def tokens(monitor: IsolatedMonitor) -> tuple[int, int]:
    """Return the input and output tokens so far."""
    report = monitor.get_total_token_usage()
    assert not report.calls_without_usage
    return report.total_prompt_tokens, report.total_completion_tokens


def outcomes(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return the calls by outcome, without zeros."""
    return {
        sample.labels["genmeter_outcome"]: sample.value
        for sample in monitor.series("genmeter_generations_total")
        if sample.value
    }


# --- pydantic-ai --------------------------------------------------------------------------------


def make_agent() -> Any:
    """Return an agent of pydantic-ai with its model for tests."""
    pydantic_ai = pytest.importorskip("pydantic_ai")
    models = pytest.importorskip("pydantic_ai.models.test")
    return pydantic_ai.Agent(models.TestModel())


def used_by_a_run(agent: Any) -> tuple[int, int]:
    """Return what a run uses."""
    usage = agent.run_sync("hi").usage
    return usage.input_tokens, usage.output_tokens


def test_run_of_pydantic_ai_is_read(monitor: IsolatedMonitor) -> None:
    """Its result has the usage of all its answers."""
    agent = make_agent()
    with monitor.generation(MODEL) as call:
        call.usage(agent.run_sync("hi"))
    wanted = used_by_a_run(agent)
    assert tokens(monitor) == wanted
    monitor.generation(MODEL)(agent.run_sync)("hi")
    assert tokens(monitor) == (2 * wanted[0], 2 * wanted[1])


async def test_streamed_runs_of_pydantic_ai_are_read(monitor: IsolatedMonitor) -> None:
    """The manager opens a result, whose methods open the streams."""
    agent = make_agent()
    async with monitor.generation(MODEL) as call, call.stream(agent.run_stream("hi")) as result:
        assert [text async for text in result.stream_text()]
    wanted = await _used(agent)
    assert tokens(monitor) == wanted
    async with monitor.generation(MODEL)(agent.run_stream)("hi") as result:
        assert [text async for text in result.stream_text()]
    assert tokens(monitor) == (2 * wanted[0], 2 * wanted[1])
    assert outcomes(monitor) == {"success": 2}
    assert monitor.value(FIRST_CHUNKS) == 2
    async with monitor.generation(MODEL) as call, call.stream(agent.run_stream("hi")):
        pass
    assert outcomes(monitor) == {"success": 2, "cancelled": 1}


async def _used(agent: Any) -> tuple[int, int]:
    usage = (await agent.run("hi")).usage
    return usage.input_tokens, usage.output_tokens


async def test_steps_of_a_run_of_pydantic_ai_are_read(monitor: IsolatedMonitor) -> None:
    """The nodes say nothing of tokens, but the run does."""
    agent = make_agent()
    async with monitor.generation(MODEL) as call, call.stream(agent.iter("hi")) as run:
        assert [node async for node in run]
    assert tokens(monitor) == await _used(agent)
    assert outcomes(monitor) == {"success": 1}


# --- the Agents SDK -----------------------------------------------------------------------------


def make_agents_agent(turns: int = 1) -> Any:
    """Return an agent of the Agents SDK whose model uses 10 and 5 tokens a turn."""
    agents = pytest.importorskip("agents")
    interface = pytest.importorskip("agents.models.interface")
    responses = pytest.importorskip("openai.types.responses")

    class Model(interface.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.turn = 0

        def _response(self) -> Any:
            self.turn += 1
            text = {"type": "output_text", "text": "hi", "annotations": []}
            output: dict[str, Any] = {
                "id": "1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
            if self.turn < turns:
                output = {
                    "type": "function_call",
                    "id": "f",
                    "call_id": f"c{self.turn}",
                    "name": "look",
                    "arguments": "{}",
                    "status": "completed",
                }
            return responses.Response.model_validate(
                {
                    "id": f"r{self.turn}",
                    "object": "response",
                    "created_at": 1,
                    "model": "answered",
                    "output": [output],
                    "parallel_tool_calls": True,
                    "tool_choice": "auto",
                    "tools": [],
                    "status": "completed",
                    "usage": {
                        "input_tokens": 10,
                        "output_tokens": 5,
                        "total_tokens": 15,
                        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                        "output_tokens_details": {"reasoning_tokens": 0},
                    },
                }
            )

        async def get_response(self, *_args: Any, **_kwargs: Any) -> Any:
            response = self._response()
            usage = agents.Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
            return agents.ModelResponse(output=response.output, usage=usage, response_id=None)

        async def stream_response(self, *_args: Any, **_kwargs: Any) -> Any:
            response = self._response()
            yield responses.ResponseCompletedEvent(
                type="response.completed", sequence_number=1, response=response
            )

    def look() -> str:
        """Look."""
        return "seen"

    tools = [agents.function_tool(look)]
    return agents.Agent(name="a", model=Model(), tools=tools)


async def test_run_of_the_agents_sdk_is_read(monitor: IsolatedMonitor) -> None:
    """Its result has the sum over its turns."""
    runner = pytest.importorskip("agents").Runner
    async with monitor.generation(MODEL) as call:
        call.usage(await runner.run(make_agents_agent(turns=3), "hi"))
    assert tokens(monitor) == (30, 15)
    await monitor.generation(MODEL)(runner.run)(make_agents_agent(turns=2), "hi")
    assert tokens(monitor) == (50, 25)


async def test_streamed_run_of_the_agents_sdk_is_read(monitor: IsolatedMonitor) -> None:
    """The result that is returned at once, before any turn, has the sum in the end."""
    runner = pytest.importorskip("agents").Runner
    async with monitor.generation(MODEL) as call:
        result = call.stream(runner.run_streamed(make_agents_agent(turns=3), "hi"))
        assert [event async for event in result.stream_events()]
    assert tokens(monitor) == (30, 15)
    result = monitor.generation(MODEL)(runner.run_streamed)(make_agents_agent(turns=2), "hi")
    assert [event async for event in result.stream_events()]
    assert tokens(monitor) == (50, 25)
    assert outcomes(monitor) == {"success": 2}
    assert monitor.value(FIRST_CHUNKS) == 2


# --- LiteLLM and LangChain ----------------------------------------------------------------------


def litellm_arguments() -> dict[str, Any]:
    """Return a request that LiteLLM answers itself."""
    return {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
        "mock_response": "one two three four",
    }


async def test_streams_of_litellm_are_read(monitor: IsolatedMonitor) -> None:
    """Its wrapper is one for both kinds of loops."""
    litellm = pytest.importorskip("litellm")
    asked = {**litellm_arguments(), "stream": True, "stream_options": {"include_usage": True}}
    with monitor.generation(MODEL) as call:
        assert list(call.stream(litellm.completion(**asked)))
    once = tokens(monitor)
    assert min(once) > 0
    async for _ in await monitor.generation(MODEL)(litellm.acompletion)(**asked):
        pass
    for _ in monitor.generation(MODEL)(litellm.completion)(**asked):
        pass
    assert tokens(monitor) == (3 * once[0], 3 * once[1])
    assert outcomes(monitor) == {"success": 3}
    assert monitor.value(FIRST_CHUNKS) == 3


def test_chunks_of_litellm_that_it_puts_together_are_read(monitor: IsolatedMonitor) -> None:
    """Without stream_options, `stream_chunk_builder` counts them; one answer is one answer."""
    litellm = pytest.importorskip("litellm")
    with monitor.generation(MODEL) as call:
        chunks = list(call.stream(litellm.completion(**litellm_arguments(), stream=True)))
        built = litellm.stream_chunk_builder(chunks)
        call.usage(built)
    assert tokens(monitor) == (built.usage.prompt_tokens, built.usage.completion_tokens)
    assert outcomes(monitor) == {"success": 1}


async def test_streams_of_langchain_are_read(monitor: IsolatedMonitor) -> None:
    """Any chunk may have the usage; the model and the reason are in another."""
    core = pytest.importorskip("langchain_core.language_models.chat_models")
    outputs = pytest.importorskip("langchain_core.outputs")
    messages = pytest.importorskip("langchain_core.messages")
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    ended = {"model_name": "answered", "finish_reason": "stop"}

    class Model(core.BaseChatModel):  # type: ignore[misc, name-defined]
        @property
        def _llm_type(self) -> str:
            return "test"

        def _generate(self, *_args: Any, **_kwargs: Any) -> Any:
            message = messages.AIMessage("hi", usage_metadata=usage, response_metadata=ended)
            return outputs.ChatResult(generations=[outputs.ChatGeneration(message=message)])

        def _stream(self, *_args: Any, **_kwargs: Any) -> Any:
            for more in (
                {"content": "h"},
                {"content": "i", "usage_metadata": usage},
                {"content": "", "response_metadata": ended},
            ):
                yield outputs.ChatGenerationChunk(message=messages.AIMessageChunk(**more))

    model = Model()
    with monitor.generation() as call:
        assert list(call.stream(model.stream("hi")))
    async with monitor.generation() as call:
        assert [chunk async for chunk in call.stream(model.astream("hi"))]
    assert list(monitor.generation()(model.stream)("hi"))
    monitor.generation()(model.invoke)("hi")
    await monitor.generation()(model.ainvoke)("hi")
    assert tokens(monitor) == (5 * 5, 5 * 7)
    frame = monitor.to_frame("generations")
    assert set(frame["model"]) == {"answered"}
    assert set(frame["finish_reason"]) == {"stop"}
    assert outcomes(monitor) == {"success": 5}


# --- retries ------------------------------------------------------------------------------------


def instructor_call(url: str, plan: Plan) -> Any:
    """Return a function that asks by a client that instructor has patched."""
    instructor = pytest.importorskip("instructor")
    openai = pytest.importorskip("openai")
    pydantic = pytest.importorskip("pydantic")
    place = pydantic.create_model("Place", city=(str, ...))
    client = instructor.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0))
    messages = [{"role": "user", "content": json.dumps(plan._asdict())}]

    def ask(create: Any) -> Any:
        return create(model=MODEL, messages=messages, response_model=place, max_retries=3)

    return ask, client.chat.completions


def test_answers_of_instructor_are_read(monitor: IsolatedMonitor) -> None:
    """The model that it returns has the raw response; its exception has the sum of all attempts."""
    with serve() as loopback:
        ask, completions = instructor_call(loopback.url, Plan(1, "whole"))
        assert ask(monitor.generation(MODEL)(completions.create)).city == "Oslo"
        assert tokens(monitor) == loopback.books[1][:2]
        ask, completions = instructor_call(loopback.url, Plan(2, "useless"))
        with pytest.raises(Exception, match="city"):
            ask(monitor.generation(MODEL)(completions.create))
        one, all_ = loopback.books[1], loopback.books[2]
        assert all_.input > 2 * one.input  # of several attempts
        assert tokens(monitor) == (one.input + all_.input, one.output + all_.output)
    assert outcomes(monitor) == {"success": 1, "failure": 1}


def test_retries_of_tenacity_are_calls_or_one_call(monitor: IsolatedMonitor) -> None:
    """Around the decorator each attempt is a call; inside of it they are one."""
    tenacity = pytest.importorskip("tenacity")
    again = tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    attempts: list[int] = []

    def ask() -> dict[str, Any]:
        attempts.append(1)
        if len(attempts) % 3:
            raise ConnectionError
        return {"usage": {"prompt_tokens": 4, "completion_tokens": 2}}

    again(monitor.generation(MODEL)(ask))()
    assert outcomes(monitor) == {"success": 1, "failure": 2}
    monitor.generation(MODEL)(again(ask))()
    assert outcomes(monitor) == {"success": 2, "failure": 2}
    assert tokens(monitor) == (8, 4)
