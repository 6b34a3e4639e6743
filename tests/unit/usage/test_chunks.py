"""Chunks of streams, nearly all of which say nothing new."""

from __future__ import annotations

from typing import Any

import pytest
from _usage_forms import as_extra, as_model, as_namespace

from genmeter.events.answers import Answer, TokenCounts
from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading


class CountingReading(Reading):
    """Counts the objects that are read whole."""

    def __init__(self) -> None:
        super().__init__()
        self.objects = 0

    def read(self, obj: Any, *, adds: bool = False) -> bool:
        """Count one more."""
        self.objects += 1
        return super().read(obj, adds=adds)


FORMS = [lambda value: value, as_namespace, as_model, as_extra]


def read(*chunks: Any) -> CountingReading:
    """Read the chunks of one stream."""
    reading = CountingReading()
    reader = ChunkReader(reading)
    for each in chunks:
        reader.read(each)
    return reading


def chunk(text: str | None = "a", reason: str | None = None, **values: Any) -> dict[str, Any]:
    """Return a chunk of a chat completion."""
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-x",
        "service_tier": "flex",
        "usage": None,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}],
        **values,
    }


USAGE = {"prompt_tokens": 14, "completion_tokens": 42, "total_tokens": 56}
ANSWER = Answer(TokenCounts(14, 42, 56), "gpt-x", ("length",), "flex")


@pytest.mark.parametrize("form", FORMS)
def test_chunks_without_news_are_not_read(form: Any) -> None:
    """The first one, the one with the reason and the one with the usage are."""
    chunks = [chunk()] * 50 + [chunk(None, "length")] + [chunk(choices=[], usage=USAGE)]
    reading = read(*map(form, chunks))
    assert reading.objects == 4  # the tier is repeated from the second on
    assert reading.answer() == ANSWER


def test_usage_in_every_chunk_is_read() -> None:
    """The last one counts, as with vLLM's ``continuous_usage_stats``."""
    chunks = [chunk(usage={"prompt_tokens": 7, "completion_tokens": number}) for number in range(9)]
    assert read(*chunks).answer().tokens == TokenCounts(7, 8)


def test_model_may_come_later() -> None:
    """Azure's first chunk has an empty one."""
    reading = read(chunk(model="", choices=[]), chunk(), chunk(None, "length", usage=USAGE))
    assert reading.answer() == ANSWER


def test_tier_that_changes_is_read() -> None:
    """The last one is billed."""
    chunks = [chunk(service_tier="auto"), chunk(), chunk(service_tier="priority")]
    assert read(*chunks).answer().service_tier == "priority"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("quiet", "last", "tokens"),
    [
        ({"id": "x", "x_groq": {"id": "req"}}, {"x_groq": {"usage": USAGE}}, (14, 42)),
        ({"data": chunk()}, {"data": chunk(usage=USAGE)}, (14, 42)),
        (
            {"type": "chunk", "chunk": chunk()},
            {"type": "chunk", "chunk": chunk(usage=USAGE)},
            (14, 42),
        ),
        (
            {"type": "content-delta", "delta": {"message": {"content": {"text": "a"}}}},
            {"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 3.0}}}},
            (3, None),
        ),
        (
            {"type": "response.output_text.delta", "delta": "a"},
            {
                "type": "response.completed",
                "response": {"usage": {"input_tokens": 3, "output_tokens": 2}},
            },
            (3, 2),
        ),
        (
            {"type": "conversation.item.input_audio_transcription.delta", "delta": "a"},
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "usage": {"type": "tokens", "input_tokens": 3, "output_tokens": 2},
            },
            (3, 2),
        ),
        (
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 2}},
            (None, 2),
        ),
        (
            {"contentBlockDelta": {"delta": {"text": "a"}}},
            {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 2}}},
            (3, 2),
        ),
        (
            {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False},
            {"model": "m", "message": {"content": ""}, "prompt_eval_count": 3, "eval_count": 2},
            (3, 2),
        ),
        (
            {"index": 0, "token": {"id": 3, "text": "a"}, "details": None},
            {"index": 1, "details": {"generated_tokens": 2, "input_length": 3}},
            (3, 2),
        ),
        (
            {"content": "a", "type": "AIMessageChunk", "response_metadata": {}},
            {"type": "AIMessageChunk", "usage_metadata": {"input_tokens": 3, "output_tokens": 2}},
            (3, 2),
        ),
    ],
)
def test_vendors_chunks_are_passed_over_but_for_the_last(
    quiet: dict[str, Any], last: dict[str, Any], tokens: tuple[int | None, ...], form: Any
) -> None:
    """Wherever the usage is."""
    reading = read(*[form(quiet)] * 20, form(last), form(quiet))
    assert reading.answer().tokens[:2] == tokens
    assert reading.objects <= 4


def test_stream_without_usage_says_so() -> None:
    """The first chunk shows what it is."""
    reading = read(*[chunk()] * 5)
    assert reading.unread is not None
    assert reading.unread.reason == "no_usage"


def test_stream_of_unknown_objects_says_so() -> None:
    """Each is read, as none can be looked into."""
    reading = read("a", "b", "c")
    assert reading.unread == ("not_understood", "str")


def test_objects_of_changing_types_are_read() -> None:
    """A stream may mix them."""
    reading = read(chunk(), as_namespace(chunk(None, "length")), None, chunk(usage=USAGE))
    assert reading.answer() == ANSWER


@pytest.mark.parametrize("name", ["x_groq", "usage"])
def test_usage_in_an_extra_field_is_read(name: str) -> None:
    """The class of a client may not know it."""
    plain, last = as_model(chunk()), as_model(chunk())
    for each in (plain, last):
        del each.__dict__["usage"]
        each.__pydantic_extra__ = {"obfuscation": "x"}
    last.__pydantic_extra__ = {name: USAGE if name == "usage" else {"usage": USAGE}}
    reading = read(*[plain] * 9, last, plain)
    assert reading.answer().tokens == ANSWER.tokens
    assert reading.objects == 3


def test_types_without_end_are_not_kept() -> None:
    """Memory is bounded."""
    reader = ChunkReader(Reading())
    for number in range(10_000):
        reader.read({"type": f"response.{number}", "service_tier": str(number)})
    assert len(reader._quiet) <= 128
    assert len(reader._tiers) <= 4
