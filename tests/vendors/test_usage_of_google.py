"""Usage of the objects of Google's client."""

from __future__ import annotations

from typing import Any

import pytest
from _forms import answer_of, forms_of

from genmeter.events.answers import Answer, TokenCounts

types = pytest.importorskip("google.genai.types")

RESPONSE: dict[str, Any] = {
    "model_version": "gemini-x",
    "candidates": [
        {"index": 0, "finish_reason": "STOP"},
        {"index": 1, "finish_reason": "MAX_TOKENS"},
    ],
    "usage_metadata": {
        "prompt_token_count": 500,
        "tool_use_prompt_token_count": 20,
        "candidates_token_count": 30,
        "thoughts_token_count": 200,
        "cached_content_token_count": 400,
        "total_token_count": 750,
        "prompt_tokens_details": [
            {"modality": "TEXT", "token_count": 460},
            {"modality": "AUDIO", "token_count": 40},
        ],
        "cache_tokens_details": [{"modality": "AUDIO", "token_count": 16}],
        "traffic_type": "ON_DEMAND_PRIORITY",
    },
}
TOKENS = TokenCounts(
    520,
    230,
    750,
    400,
    None,
    200,
    input_by=(("audio", 40), ("text", 460)),
    cache_read_by=(("audio", 16),),
)


def test_response_is_read() -> None:
    """Thoughts are output, prompts of tools are input, and the enum becomes its text."""
    response = types.GenerateContentResponse.model_validate(RESPONSE)
    for form in forms_of(response):
        assert answer_of(form) == Answer(TOKENS, "gemini-x", ("STOP", "MAX_TOKENS"), "priority")
    for form in forms_of(response.usage_metadata):
        assert answer_of(form).tokens == TOKENS
    assert answer_of(types.InlinedResponse(response=response)).is_batch


def test_chunks_are_cumulative() -> None:
    """Zeros first, and thoughts that the last chunk does not repeat."""
    validate = types.GenerateContentResponse.model_validate
    counts = [
        {"prompt_token_count": 0, "candidates_token_count": 0, "total_token_count": 0},
        {"prompt_token_count": 11, "thoughts_token_count": 60, "total_token_count": 71},
        {"prompt_token_count": 11, "candidates_token_count": 9, "total_token_count": 80},
    ]
    chunks = [validate({"candidates": [{}], "usage_metadata": each}) for each in counts]
    assert answer_of(*chunks).tokens == TokenCounts(11, 69, 80, reasoning=60)


def test_live_message_and_embeddings_are_read() -> None:
    """Their names differ."""
    live = types.LiveServerMessage.model_validate(
        {"usage_metadata": {"prompt_token_count": 70, "response_token_count": 9}}
    )
    assert answer_of(live).tokens == TokenCounts(70, 9)
    embeddings = types.EmbedContentResponse.model_validate(
        {"embeddings": [{"statistics": {"token_count": each}} for each in (4, 9)]}
    )
    for form in forms_of(embeddings):
        assert answer_of(form).tokens == TokenCounts(13)
