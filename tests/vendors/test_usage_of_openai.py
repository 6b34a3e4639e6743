"""Usage of the objects of OpenAI's client."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from _forms import answer_of, forms_of

from genmeter.events.answers import Answer, TokenCounts
from genmeter.usage.reading import Reading, is_stream, read_error

openai = pytest.importorskip("openai")

CHAT: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-x",
    "service_tier": "flex",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}},
        {"index": 1, "finish_reason": "length", "message": {"role": "assistant", "content": "b"}},
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "total_tokens": 140,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 8},
    },
}
CHAT_ANSWER = Answer(
    TokenCounts(100, 40, 140, 60, None, 30, output_by=(("audio", 8),)),
    "gpt-x",
    ("stop", "length"),
    "flex",
)
RESPONSE: dict[str, Any] = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "gpt-x",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "metadata": {"model": "the user's"},
    "status": "incomplete",
    "incomplete_details": {"reason": "max_output_tokens"},
    "usage": {
        "input_tokens": 100,
        "output_tokens": 40,
        "total_tokens": 140,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 5},
        "output_tokens_details": {"reasoning_tokens": 30},
    },
}
RESPONSE_ANSWER = Answer(TokenCounts(100, 40, 140, 60, 5, 30), "gpt-x", ("max_output_tokens",))


def completion() -> Any:
    """Return a chat completion."""
    return openai.types.chat.ChatCompletion.model_validate(CHAT)


def test_chat_completion_is_read() -> None:
    """Also its usage alone, and the parsed kind of structured outputs."""
    for form in forms_of(completion()):
        assert answer_of(form) == CHAT_ANSWER
    for form in forms_of(completion().usage):
        assert answer_of(form).tokens == CHAT_ANSWER.tokens
    parsed = openai.types.chat.ParsedChatCompletion[dict].model_validate(CHAT)
    assert answer_of(parsed) == CHAT_ANSWER


def test_legacy_completion_and_embeddings_are_read() -> None:
    """Embeddings have no output."""
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    legacy = openai.types.Completion.model_validate(
        {
            "id": "c",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "text": "x", "finish_reason": "length", "logprobs": None}],
            "usage": usage,
        }
    )
    assert answer_of(legacy) == Answer(TokenCounts(5, 6, 11), "m", ("length",))
    embeddings = openai.types.CreateEmbeddingResponse.model_validate(
        {
            "object": "list",
            "model": "e",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 64}],
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        }
    )
    assert answer_of(embeddings) == Answer(TokenCounts(5, None, 5), "e")


def test_chunks_of_a_chat_are_read() -> None:
    """The usage is in the last one, the reasons are in two others."""
    chunk = openai.types.chat.ChatCompletionChunk.model_validate
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}

    def choice(index: int, reason: str | None) -> Any:
        items = [{"index": index, "delta": {"content": "a"}, "finish_reason": reason}]
        return chunk({**base, "choices": items})

    last = chunk({**base, "choices": [], "usage": CHAT["usage"]})
    chunks = [choice(0, None)] * 9 + [choice(1, "length"), choice(0, "stop"), last]
    assert answer_of(*chunks) == CHAT_ANSWER._replace(service_tier=None)


def test_events_of_the_chat_helper_are_read() -> None:
    """``client.chat.completions.stream()`` wraps the chunks."""
    events = pytest.importorskip("openai.lib.streaming.chat")
    last = openai.types.chat.ChatCompletionChunk.model_validate(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt-x",
            "choices": [],
            "usage": CHAT["usage"],
        }
    )
    delta = events.ContentDeltaEvent(type="content.delta", delta="a", snapshot="a")
    wrapped = events.ChunkEvent.model_construct(type="chunk", chunk=last, snapshot=None)
    assert answer_of(delta, delta, wrapped).tokens == CHAT_ANSWER.tokens


def test_response_is_read() -> None:
    """The Responses API, also through the raw dict of ``model_construct``."""
    response = openai.types.responses.Response.model_validate(RESPONSE)
    for form in forms_of(response):
        assert answer_of(form) == RESPONSE_ANSWER
    constructed = openai.types.responses.Response.model_construct(**RESPONSE)
    assert answer_of(constructed) == RESPONSE_ANSWER


def test_events_of_the_responses_are_read() -> None:
    """The first has a status that is no finish reason."""
    responses = openai.types.responses
    running = {**RESPONSE, "status": "in_progress", "incomplete_details": None, "usage": None}
    created = responses.ResponseCreatedEvent.model_validate(
        {"type": "response.created", "sequence_number": 0, "response": running}
    )
    delta = responses.ResponseTextDeltaEvent.model_validate(
        {
            "type": "response.output_text.delta",
            "sequence_number": 1,
            "item_id": "i",
            "output_index": 0,
            "content_index": 0,
            "delta": "a",
            "logprobs": [],
        }
    )
    ended = responses.ResponseIncompleteEvent.model_validate(
        {"type": "response.incomplete", "sequence_number": 2, "response": RESPONSE}
    )
    assert answer_of(created, delta) == Answer(model="gpt-x")
    assert answer_of(created, delta, delta, ended) == RESPONSE_ANSWER


def test_realtime_is_read() -> None:
    """Audio and text, cached or not."""
    usage = {
        "input_tokens": 130,
        "output_tokens": 60,
        "total_tokens": 190,
        "input_token_details": {
            "text_tokens": 100,
            "audio_tokens": 30,
            "cached_tokens": 64,
            "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4},
        },
        "output_token_details": {"text_tokens": 20, "audio_tokens": 40},
    }
    realtime = importlib.import_module("openai.types.realtime")
    event = realtime.ResponseDoneEvent.model_validate(
        {
            "type": "response.done",
            "event_id": "e",
            "response": {"object": "realtime.response", "status": "completed", "usage": usage},
        }
    )
    for form in forms_of(event):
        answer = answer_of(form)
        assert answer.finish_reasons == ("completed",)
        assert answer.tokens == TokenCounts(
            130,
            60,
            190,
            64,
            input_by=(("audio", 30), ("text", 100)),
            output_by=(("audio", 40), ("text", 20)),
            cache_read_by=(("audio", 4), ("text", 60)),
        )


def test_transcription_by_duration_has_no_tokens() -> None:
    """It is known, but has no usage in tokens."""
    audio = importlib.import_module("openai.types.audio")
    validate = audio.Transcription.model_validate
    reading = Reading()
    reading.read(validate({"text": "x", "usage": {"type": "duration", "seconds": 4}}))
    assert reading.unread is not None
    assert reading.unread.reason == "no_usage"


def test_output_of_images_is_images() -> None:
    """The response says so of the input alone."""
    usage = {
        "input_tokens": 30,
        "output_tokens": 1056,
        "total_tokens": 1086,
        "input_tokens_details": {"image_tokens": 10, "text_tokens": 20},
    }
    images = openai.types.ImagesResponse.model_validate({"created": 1, "data": [], "usage": usage})
    for form in (*forms_of(images), images.usage):
        tokens = answer_of(form).tokens
        assert tokens.input_by == (("image", 10), ("text", 20))
        assert tokens.output_by == (("image", 1056),)


def test_batch_is_read() -> None:
    """Its usage has two families of names, one of zeros."""
    batch = openai.types.Batch.model_validate(
        {
            "id": "b",
            "object": "batch",
            "completion_window": "24h",
            "created_at": 1,
            "endpoint": "/v1/responses",
            "input_file_id": "f",
            "status": "completed",
            "model": "gpt-x",
            "usage": {
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "total_tokens": 900,
                "input_tokens": 700,
                "output_tokens": 200,
                "input_tokens_details": {"cached_tokens": 512},
                "output_tokens_details": {"reasoning_tokens": 150},
            },
        }
    )
    for form in forms_of(batch):
        answer = answer_of(form)
        assert answer.tokens == TokenCounts(700, 200, 900, 512, None, 150)
        assert answer.is_batch


def _client() -> Any:
    httpx = pytest.importorskip("httpx")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=CHAT))
    return openai.OpenAI(
        api_key="k",
        base_url="http://127.0.0.1:9/v1",
        http_client=httpx.Client(transport=transport),
    )


def test_raw_response_is_read() -> None:
    """Parsed or not, and it can be parsed afterwards."""
    raw = _client().chat.completions.with_raw_response.create(model="m", messages=[])
    assert answer_of(raw) == CHAT_ANSWER
    assert raw.parse().usage.total_tokens == 140
    assert answer_of(raw) == CHAT_ANSWER


async def test_asynchronous_raw_response_is_read() -> None:
    """Its ``parse`` need not be awaited for that."""
    httpx = pytest.importorskip("httpx")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=CHAT))
    client = openai.AsyncOpenAI(
        api_key="k",
        base_url="http://127.0.0.1:9/v1",
        http_client=httpx.AsyncClient(transport=transport),
    )
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=[])
    assert answer_of(raw) == CHAT_ANSWER
    request = client.chat.completions.with_streaming_response.create(model="m", messages=[])
    async with request as response:
        await response.parse()
        assert answer_of(response) == CHAT_ANSWER
    await client.close()


def test_stream_object_is_not_consumed() -> None:
    """It is known by its class."""
    httpx = pytest.importorskip("httpx")
    body = b'data: {"id": "c", "choices": []}\n\ndata: [DONE]\n\n'
    response = httpx.Response(200, content=body, headers={"content-type": "text/event-stream"})
    stream = openai.Stream(
        cast_to=openai.types.chat.ChatCompletionChunk, response=response, client=_client()
    )
    assert is_stream(stream)
    reading = Reading()
    reading.read(stream)
    assert reading.unread is not None
    assert reading.unread.reason == "stream"
    assert len(list(stream)) == 1


def test_completion_of_a_length_error_is_read() -> None:
    """It was billed although it could not be parsed."""
    (reading,) = read_error(openai.LengthFinishReasonError(completion=completion()))
    assert reading.answer() == CHAT_ANSWER


def test_error_of_the_api_has_no_usage() -> None:
    """Nothing was billed."""
    httpx = pytest.importorskip("httpx")
    request = httpx.Request("POST", "http://127.0.0.1:9/v1")
    response = httpx.Response(429, request=request, json={"error": {"message": "x"}})
    error = openai.RateLimitError("x", response=response, body={"message": "x"})
    assert read_error(error) == []
