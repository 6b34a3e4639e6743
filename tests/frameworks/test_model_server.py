"""The model server answers the vendors' real clients, and its books have what they were answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _model_server import Orders

from _waiting import eventually

if TYPE_CHECKING:
    from _model_server import ModelServer

openai = pytest.importorskip("openai")
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def client(server: ModelServer, **keywords: Any) -> Any:
    """Return OpenAI's client of the server."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", **keywords)


def chat(client: Any, text: str, **keywords: Any) -> Any:
    """Ask for a chat completion."""
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="gpt-4o-mini", messages=messages, **keywords)


@pytest.mark.parametrize(
    ("text", "orders"),
    [
        ("hi", Orders()),
        ("[[ ## question ## ]] hi [[nonsense]]", Orders()),
        ("[[error 400]]", Orders(statuses=(400,))),
        ("[[429 500 then ok]] [[slow 2]]", Orders(statuses=(429, 500), ends_ok=True, slow=2.0)),
        ("[[break]] [[cached]] [[no usage]]", Orders(break_after=3, cached=True, no_usage=True)),
        ('a [[json {"a": [[1]]}]] [[tool]]', Orders(answer='{"a": [[1]]}', tool=True)),
        (r"[[json {\"a\": 1}]]", Orders(answer='{"a": 1}')),
        ("[[say yes]] [[stream error 2]]", Orders(answer="yes", error_after=2)),
    ],
)
def test_a_text_has_its_orders(text: str, orders: Orders) -> None:
    """Brackets of a framework's own format are no orders."""
    assert Orders.of(text) == orders


def test_openai_chat(server: ModelServer) -> None:
    """Cached and reasoning tokens are parts; the choices are one answer."""
    answer = chat(client(server), "hi [[cached]] [[reasoning]]", n=2)
    [entry] = server.books
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (entry.input, entry.output)
    assert usage.prompt_tokens_details.cached_tokens == entry.cached > 0
    assert usage.completion_tokens_details.reasoning_tokens == entry.reasoning > 0
    assert len(answer.choices) == 2
    assert (entry.outcome, entry.status, entry.id) == ("answered", 200, answer.id)


def test_openai_chat_calls_a_tool_once(server: ModelServer) -> None:
    """The result of a tool is answered with a text, so that an agent's loop ends."""
    answer = chat(client(server), "hi [[tool]]", tools=[WEATHER])
    message = answer.choices[0].message
    assert message.tool_calls[0].function.name == "weather"
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    messages = [{"role": "user", "content": "hi [[tool]]"}, message, result]
    again = client(server).chat.completions.create(
        model="gpt-4o-mini", messages=messages, tools=[WEATHER]
    )
    assert again.choices[0].finish_reason == "stop"
    assert [entry.finish_reason for entry in server.books] == ["tool_calls", "stop"]


@pytest.mark.parametrize("has_usage", [True, False])
def test_openai_chat_stream(server: ModelServer, has_usage: bool) -> None:
    """A stream has its usage only if it was asked for."""
    options = {"stream_options": {"include_usage": True}} if has_usage else {}
    chunks = list(chat(client(server), "hi [[tool]]", stream=True, tools=[WEATHER], **options))
    [entry] = server.books
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert entry.has_usage is has_usage
    assert [usage.completion_tokens for usage in usages] == [entry.output] * has_usage
    assert chunks[-1 - has_usage].choices[0].finish_reason == "tool_calls"
    assert server.billed()["calls"] == 1


def test_the_same_request_again_is_another_attempt_of_one_call(server: ModelServer) -> None:
    """The client's own header, or the order of the text, counts attempts."""
    chat(client(server), "hi [[429 500 then ok]]")
    with pytest.raises(openai.BadRequestError):
        chat(client(server), "hi [[400]]")
    with pytest.raises(openai.InternalServerError):
        chat(client(server, max_retries=1), "hi [[500]]")
    attempts = [[entry.status for entry in call] for call in server.calls()]
    assert attempts == [[429, 500, 200], [400], [500, 500]]
    assert server.billed()["calls"] == 1


def test_broken_and_left_and_slow_requests_bill_nothing(server: ModelServer) -> None:
    """Each has its outcome."""
    once = client(server, max_retries=0)
    with pytest.raises(Exception, match=r"closed|incomplete|Connection"):
        list(chat(once, "hi [[break 2]]", stream=True))
    with pytest.raises(openai.APIConnectionError):
        chat(once, "hi [[break]]")
    with pytest.raises(openai.APITimeoutError):
        chat(client(server, max_retries=0, timeout=0.2), "hi [[slow 60]]")
    with pytest.raises(openai.APIError):
        list(chat(once, "hi [[stream error]]", stream=True))
    stream = chat(once, "hi [[pause 0.02]]", stream=True)
    next(iter(stream))
    stream.close()
    server.settle()
    outcomes = [entry.outcome for entry in server.books]
    assert outcomes == ["broken", "broken", "left", "refused", "left"]
    assert server.billed()["input"] == 0


def test_openai_responses(server: ModelServer) -> None:
    """Whole, truncated, as a stream, and with a tool."""
    responses = client(server).responses
    whole = responses.create(model="gpt-5", input="hi [[length]] [[reasoning]]")
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens_details.reasoning_tokens == server.books[0].reasoning
    events = list(responses.create(model="gpt-5", input="hi", stream=True))
    assert events[-1].response.usage.output_tokens == server.books[1].output
    assert events[-1].response.output_text
    tool = {"type": "function", "name": "weather", "parameters": {}, "strict": False}
    *_, last = responses.create(model="gpt-5", input="[[tool]]", tools=[tool], stream=True)
    assert last.response.output[0].name == "weather"


def test_openai_embeddings(server: ModelServer) -> None:
    """They have input only."""
    answer = client(server).embeddings.create(model="e", input=["a", "b"])
    assert [len(each.embedding) for each in answer.data] == [4, 4]
    assert answer.usage.prompt_tokens == server.books[0].input
    assert server.books[0].output == 0


def test_openai_completions_with_log_probabilities(server: ModelServer) -> None:
    """Each prompt has a choice, with its own tokens where it is echoed."""
    answer = client(server).completions.create(
        model="m", prompt=["one two", "three"], echo=True, logprobs=1, max_tokens=1
    )
    assert [len(each.logprobs.tokens) for each in answer.choices] == [3, 2]
    assert answer.choices[0].logprobs.token_logprobs[0] is None
    assert answer.choices[0].logprobs.token_logprobs[1] < 0
    assert answer.usage.completion_tokens == server.books[0].output


def test_a_schema_gets_the_json_that_the_text_has(server: ModelServer) -> None:
    """As text, or as the arguments of the demanded tool."""
    assert chat(client(server), 'hi [[json {"a": 1}]]').choices[0].message.content == '{"a": 1}'
    demanded = chat(client(server), 'hi [[json {"a": 2}]]', tools=[WEATHER], tool_choice="required")
    assert demanded.choices[0].message.tool_calls[0].function.arguments == '{"a": 2}'


def test_anthropic_messages(server: ModelServer) -> None:
    """The books' input has the cached tokens, which Anthropic's has not."""
    anthropic = pytest.importorskip("anthropic")
    messages = anthropic.Anthropic(base_url=server.url, api_key="k").messages

    def ask(text: str, **keywords: Any) -> Any:
        asked = [{"role": "user", "content": text}]
        return messages.create(model="claude", max_tokens=99, messages=asked, **keywords)

    usage = ask("hi [[cached]]").usage
    [entry] = server.books
    inputs = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    assert (inputs, usage.output_tokens) == (entry.input, entry.output)
    assert usage.cache_creation_input_tokens == entry.cache_written > 0
    events = list(ask("hi [[cached]] [[length]]", stream=True))
    assert events[0].message.usage.cache_read_input_tokens == server.books[1].cached
    assert events[-2].usage.output_tokens == server.books[1].output
    assert events[-2].delta.stop_reason == "max_tokens"
    tool = {"name": "weather", "input_schema": {"type": "object"}}
    assert ask("[[tool]]", tools=[tool]).content[0].input == {"city": "Oslo"}
    assert ask("[[429 then ok]]").usage.output_tokens == server.books[-1].output
    assert [len(call) for call in server.calls()] == [1, 1, 1, 2]
    with pytest.raises(anthropic.APIStatusError):
        list(ask("[[stream error]]", stream=True))


def test_google_generate_content(server: ModelServer) -> None:
    """The books' output has the thoughts, which Google's candidates have not."""
    genai = pytest.importorskip("google.genai")
    google = genai.Client(api_key="k", http_options={"base_url": server.url})
    answer = google.models.generate_content(
        model="gemini-2.5-flash", contents="hi [[reasoning]] [[cached]]"
    )
    [entry] = server.books
    usage = answer.usage_metadata
    assert usage.prompt_token_count == entry.input
    assert usage.candidates_token_count + usage.thoughts_token_count == entry.output
    assert usage.cached_content_token_count == entry.cached
    *_, last = google.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
    assert last.usage_metadata.candidates_token_count == server.books[1].output
    embedded = google.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    assert len(embedded.embeddings) in {1, 2}
    with pytest.raises(genai.errors.ClientError):
        google.models.generate_content(model="gemini-2.5-flash", contents="hi [[400]]")
    assert [entry.operation for entry in server.books] == [
        "generate_content",
        "generate_content",
        "embeddings",
        "generate_content",
    ]


def test_a_test_may_give_the_answers(server: ModelServer) -> None:
    """For frameworks with a format of their own."""
    server.reply = lambda text, body: text.upper() if "up" in text else None
    assert chat(client(server), "up").choices[0].message.content == "UP"
    assert chat(client(server), "other").choices[0].message.content != "OTHER"


def test_cancelled_and_parallel_requests(server: ModelServer) -> None:
    """The server answers many at once and sees who leaves."""

    async def run() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="k", max_retries=0
        ) as asynchronous:
            slow = asyncio.ensure_future(chat(asynchronous, "hi [[slow 60]]"))
            await asyncio.to_thread(eventually, lambda: server.books)
            slow.cancel()
            await asyncio.gather(*(chat(asynchronous, f"hi {n} [[slow 0.1]]") for n in range(20)))
            await asyncio.gather(slow, return_exceptions=True)

    asyncio.run(run())
    server.settle()
    assert [entry.outcome for entry in server.books].count("left") == 1
    assert server.billed()["calls"] == 20
    assert server.at_once > 1
