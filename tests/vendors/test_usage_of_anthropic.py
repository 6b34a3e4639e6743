"""Usage of the objects of Anthropic's client."""

from __future__ import annotations

from typing import Any

import pytest
from _forms import answer_of, forms_of

from genmeter.events.answers import Answer, TokenCounts

anthropic = pytest.importorskip("anthropic")

USAGE: dict[str, Any] = {
    "input_tokens": 11,
    "output_tokens": 70,
    "cache_read_input_tokens": 900,
    "cache_creation_input_tokens": 60,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    "service_tier": "standard",
}
MESSAGE: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "a"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
TOKENS = TokenCounts(971, 70, None, 900, 60, None, 40, searches=2)


def test_message_is_read() -> None:
    """Its input excludes both caches."""
    message = anthropic.types.Message.model_validate(MESSAGE)
    for form in forms_of(message):
        assert answer_of(form) == Answer(TOKENS, "claude-x", ("end_turn",), "default")
    assert answer_of(message.usage).tokens == TOKENS


def test_events_of_a_stream_are_read() -> None:
    """Input first, output last."""
    types = anthropic.types
    start = types.RawMessageStartEvent.model_validate(
        {
            "type": "message_start",
            "message": {
                **MESSAGE,
                "stop_reason": None,
                "content": [],
                "usage": {**USAGE, "output_tokens": 1},
            },
        }
    )
    delta = types.RawContentBlockDeltaEvent.model_validate(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
    )
    end = types.RawMessageDeltaEvent.model_validate(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": 70},
        }
    )
    stop = types.RawMessageStopEvent.model_validate({"type": "message_stop"})
    answer = answer_of(start, *[delta] * 9, end, stop)
    assert answer == Answer(TOKENS, "claude-x", ("max_tokens",), "default")


def test_line_of_a_batch_is_read() -> None:
    """A failed one has no usage."""
    validate = anthropic.types.messages.MessageBatchIndividualResponse.model_validate
    line = validate({"custom_id": "1", "result": {"type": "succeeded", "message": MESSAGE}})
    for form in forms_of(line):
        answer = answer_of(form)
        assert answer.tokens == TOKENS
        assert answer.is_batch
    failed = validate({"custom_id": "1", "result": {"type": "canceled"}})
    assert answer_of(failed).tokens == TokenCounts()


def test_compaction_is_added() -> None:
    """The usage on top is that of the message alone."""
    iterations = [
        {"type": kind, "input_tokens": count, "output_tokens": 5, **caches}
        for kind, count in (("compaction", 400), ("message", 11))
        for caches in ({"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},)
    ]
    usage = {"input_tokens": 11, "output_tokens": 5, "iterations": iterations}
    message = anthropic.types.beta.BetaMessage.model_validate({**MESSAGE, "usage": usage})
    for form in forms_of(message):
        assert answer_of(form).tokens[:2] == (411, 10)
