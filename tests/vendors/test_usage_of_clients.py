"""Usage of the objects of other clients, frameworks and agents."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from _forms import answer_of, forms_of

from genmeter.events.answers import Answer, TokenCounts
from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading, read_error

CHAT: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1",
    "choices": [
        {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "a"}}
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}
ANSWER = Answer(TokenCounts(10, 4, 14), "m-1", ("length",))
CHUNK: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m-1",
    "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
}
ENDED = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}


@pytest.fixture(autouse=True)
def _local_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    # LiteLLM's import would ask the network for its table of prices.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def load(name: str) -> Any:
    """Import a module; skip if it is not installed."""
    return pytest.importorskip(name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("groq.types.chat", "ChatCompletion"),
        ("mistralai.client.models", "ChatCompletionResponse"),
    ],
)
def test_chat_of_openais_shape_is_read(module: str, name: str) -> None:
    """Other clients have classes of their own for it."""
    response = getattr(load(module), name).model_validate(CHAT)
    for form in forms_of(response):
        assert answer_of(form) == ANSWER


def test_groqs_last_chunk_is_read() -> None:
    """Its usage is in ``x_groq``."""
    chunk = load("groq.types.chat").ChatCompletionChunk.model_validate
    last = chunk({**ENDED, "x_groq": {"id": "r", "usage": CHAT["usage"]}})
    assert answer_of(*[chunk(CHUNK)] * 5, last) == ANSWER


def test_mistrals_events_are_read() -> None:
    """The chunk is in ``data``."""
    event = load("mistralai.client.models").CompletionEvent.model_validate
    last = event({"data": {**ENDED, "usage": CHAT["usage"]}})
    assert answer_of(*[event({"data": CHUNK})] * 5, last) == ANSWER


def test_cohere_is_read() -> None:
    """What is billed counts."""
    cohere = load("cohere")
    units = {"input_tokens": 12.0, "output_tokens": 7.0}
    counted = {"input_tokens": 800.0, "output_tokens": 9.0}
    chat = cohere.V2ChatResponse.model_validate(
        {
            "id": "c",
            "finish_reason": "MAX_TOKENS",
            "message": {"role": "assistant"},
            "usage": {"billed_units": units, "tokens": counted},
        }
    )
    for form in forms_of(chat):
        assert answer_of(form) == Answer(TokenCounts(12, 7), None, ("MAX_TOKENS",))
    assert answer_of(chat.usage).tokens == TokenCounts(12, 7)
    old = cohere.types.NonStreamedChatResponse.model_validate(
        {"text": "x", "finish_reason": "COMPLETE", "meta": {"billed_units": units}}
    )
    assert answer_of(old) == Answer(TokenCounts(12, 7), None, ("COMPLETE",))
    embed = cohere.EmbedByTypeResponse.model_validate(
        {"id": "x", "embeddings": {}, "texts": [], "meta": {"billed_units": {"input_tokens": 3.0}}}
    )
    assert answer_of(embed).tokens == TokenCounts(3)


def test_ollama_is_read() -> None:
    """Its counts are on top of the last chunk."""
    chat = load("ollama").ChatResponse
    chunk = chat(model="m-1", message={"role": "assistant", "content": "a"}, done=False)
    last = chat(
        model="m-1",
        message={"role": "assistant", "content": ""},
        done=True,
        done_reason="length",
        prompt_eval_count=10,
        eval_count=4,
    )
    assert answer_of(*[chunk] * 5, last) == ANSWER._replace(tokens=TokenCounts(10, 4))


def test_hugging_face_is_read() -> None:
    """Its classes are dataclasses and dicts."""
    hub = load("huggingface_hub")
    chat = hub.ChatCompletionOutput.parse_obj_as_instance({**CHAT, "system_fingerprint": ""})
    assert answer_of(chat) == ANSWER
    generated = hub.TextGenerationOutput.parse_obj_as_instance(
        {
            "generated_text": "x",
            "details": {
                "finish_reason": "length",
                "generated_tokens": 6,
                "prefill": [{"id": 1, "text": "a", "logprob": None}] * 3,
                "tokens": [],
            },
        }
    )
    assert answer_of(generated) == Answer(TokenCounts(3, 6), None, ("length",))


def test_litellm_is_read() -> None:
    """Its prompt includes what was read and written, also over Anthropic."""
    types = load("litellm.types.utils")
    usage = types.Usage(
        prompt_tokens=700,
        completion_tokens=30,
        total_tokens=730,
        cache_read_input_tokens=500,
        cache_creation_input_tokens=150,
    )
    response = types.ModelResponse(model="claude-x", choices=CHAT["choices"], usage=usage)
    response._hidden_params = {"response_cost": 0.75}
    tokens = TokenCounts(700, 30, 730, 500, 150)
    assert answer_of(response) == Answer(tokens, "claude-x", ("length",), cost=0.75)
    assert answer_of(response.model_dump()).tokens == tokens


def test_litellms_chunks_are_read() -> None:
    """The usage comes in a last one."""
    types = load("litellm.types.utils")
    chunks = [types.ModelResponseStream(**each) for each in (CHUNK, CHUNK, ENDED, CHUNK)]
    chunks[-1].usage = types.Usage(**CHAT["usage"])
    assert answer_of(*chunks) == ANSWER


def test_langchain_is_read() -> None:
    """Messages, results of chains, lists of messages, and chunks."""
    messages = load("langchain_core.messages")
    outputs = importlib.import_module("langchain_core.outputs")
    usage = {
        "input_tokens": 10,
        "output_tokens": 4,
        "total_tokens": 14,
        "input_token_details": {"cache_read": 6, "cache_creation": 1},
        "output_token_details": {"reasoning": 2},
    }
    metadata = {"model_name": "m-1", "finish_reason": "length", "model_provider": "x"}
    message = messages.AIMessage("a", usage_metadata=usage, response_metadata=metadata)
    expected = ANSWER._replace(tokens=TokenCounts(10, 4, 14, 6, 1, 2))
    generation = outputs.ChatGeneration(message=message)
    result = outputs.LLMResult(generations=[[generation]], llm_output={"model_name": "other"})
    for obj in (*forms_of(message), {"raw": message, "parsed": None}, generation, result):
        assert answer_of(obj).tokens == expected.tokens
    assert answer_of(message) == expected
    both = answer_of([messages.HumanMessage("q"), message, message])
    assert both.tokens == TokenCounts(20, 8, 28, 12, 2, 4)
    chunk = messages.AIMessageChunk
    chunks = [
        chunk("a", response_metadata={"model_provider": "x"}),
        chunk("", response_metadata=metadata),
        chunk("", usage_metadata=usage),
        chunk(""),
    ]
    assert answer_of(*chunks) == expected
    two = outputs.LLMResult(generations=[[generation], [generation]])
    assert answer_of(two).tokens == both.tokens


def test_counts_of_langchains_chunks_are_added() -> None:
    """As the sum of the chunks has them: Anthropic's input comes first, and the output last."""
    messages = load("langchain_core.messages")
    start: dict[str, Any] = {"input_tokens": 100, "output_tokens": 0, "total_tokens": 100}
    start["input_token_details"] = {"cache_read": 60}
    end = {"input_tokens": 0, "output_tokens": 40, "total_tokens": 40}
    chunks = [
        messages.AIMessageChunk("", usage_metadata=start),
        messages.AIMessageChunk("a"),
        messages.AIMessageChunk("", usage_metadata=end),
    ]
    for stream in (chunks, [(each, {"langgraph_step": 1}) for each in chunks]):
        reading = Reading()
        reader = ChunkReader(reading)
        for each in stream:
            reader.read(each)
        assert reading.answer().tokens == TokenCounts(100, 40, 140, 60)
    reading.read(chunks[0] + chunks[1] + chunks[2])  # the whole, not more of it
    assert reading.answer().tokens == TokenCounts(100, 40, 140, 60)
    listed = Reading()
    listed.read(chunks)
    assert listed.answer().tokens == TokenCounts(100, 40, 140, 60)


def test_pydantic_ai_is_read() -> None:
    """Usage objects, a model's response and a run's result."""
    usage = load("pydantic_ai.usage")
    run = usage.RunUsage(input_tokens=60, output_tokens=30, cache_read_tokens=40, requests=2)
    assert answer_of(run).tokens[:4] == (60, 30, 90, 40)
    request = usage.RequestUsage(input_tokens=60, output_tokens=30, cache_write_tokens=8)
    tokens = answer_of(request).tokens
    assert (tokens.input, tokens.cache_write) == (60, 8)
    response = importlib.import_module("pydantic_ai.messages").ModelResponse(
        parts=[], usage=request, model_name="m-1", finish_reason="length"
    )
    assert answer_of(response)[1:3] == ("m-1", ("length",))
    result = importlib.import_module("pydantic_ai.run").AgentRunResult("x")
    result._state.usage = run
    assert answer_of(result).tokens[:4] == (60, 30, 90, 40)


def test_agents_are_read() -> None:
    """The Agents SDK's sum over all requests."""
    agents = load("agents")
    details = importlib.import_module("openai.types.responses.response_usage")
    usage = agents.Usage(
        requests=2,
        input_tokens=60,
        output_tokens=30,
        total_tokens=90,
        input_tokens_details=details.InputTokensDetails(cached_tokens=40, cache_write_tokens=0),
        output_tokens_details=details.OutputTokensDetails(reasoning_tokens=3),
    )
    wrapper = agents.RunContextWrapper(context=None, usage=usage)
    for obj in (usage, wrapper):
        assert answer_of(obj).tokens == TokenCounts(60, 30, 90, 40, 0, 3)


def test_smolagents_are_read() -> None:
    """The usage alone, and the result of a run."""
    smolagents = load("smolagents")
    usage = smolagents.TokenUsage(6, 3)
    result = smolagents.RunResult(output="x", state="success", steps=[], token_usage=usage)
    for obj in (usage, result, usage.dict()):
        assert answer_of(obj).tokens == TokenCounts(6, 3, 9)


def test_xais_own_client_is_read() -> None:
    """Its objects wrap protobuf's; reasoning is outside of the completion."""
    chat = load("xai_sdk.chat")
    proto = importlib.import_module("xai_sdk.proto").chat_pb2
    usage = importlib.import_module("xai_sdk.proto").usage_pb2.SamplingUsage(
        prompt_tokens=30,
        completion_tokens=5,
        reasoning_tokens=50,
        total_tokens=85,
        cached_prompt_text_tokens=12,
        cost_in_usd_ticks=25_000_000,
    )
    response = proto.GetChatCompletionResponse(model="grok-x", usage=usage)
    for obj in (response, chat.Response(response, 0)):
        answer = answer_of(obj)
        assert answer.tokens[:6] == (30, 55, 85, 12, None, 50)
        assert answer.model == "grok-x"
        assert answer.cost == pytest.approx(0.0025)


def test_instructors_exhausted_retries_are_read() -> None:
    """All attempts were billed."""
    errors = load("instructor.core.exceptions")
    openai = load("openai")
    completion = openai.types.chat.ChatCompletion.model_validate(CHAT)
    usage = openai.types.CompletionUsage(prompt_tokens=30, completion_tokens=9, total_tokens=39)
    error = errors.InstructorRetryException(
        "x", last_completion=completion, n_attempts=3, total_usage=usage
    )
    (reading,) = read_error(error)
    assert reading.answer() == ANSWER._replace(tokens=TokenCounts(30, 9, 39))
    error.total_usage = openai.types.CompletionUsage(
        prompt_tokens=0, completion_tokens=0, total_tokens=0
    )
    assert [each.answer() for each in read_error(error)] == [ANSWER]


def test_instructors_models_are_read() -> None:
    """The client's response is kept beside the parsed fields."""
    pydantic = load("pydantic")
    openai = load("openai")

    class User(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        name: str

    user = User(name="x")
    user._raw_response = openai.types.chat.ChatCompletion.model_validate(CHAT)
    assert answer_of(user) == ANSWER


@pytest.mark.example
def test_response_of_afterimage_is_read() -> None:
    """The class that AfterImage's providers return is read completely."""
    providers = load("afterimage.providers.llm_providers")
    response = providers.CommonLLMResponse("text", 3, 2, 5, "stop", "m", None)
    assert answer_of(response) == Answer(TokenCounts(3, 2, 5), "m", ("stop",))
