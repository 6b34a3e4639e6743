"""Usage of the classes in the vendors' packages, which AfterImage installs."""

from __future__ import annotations

import pytest

from genmeter.events.llm_usage import TokenCounts, read_finish_reason, read_model, read_usage

pytestmark = pytest.mark.example


def test_a_chat_completion_of_openai() -> None:
    """The class of the real client has counts, reason and model."""
    from openai.types.chat import ChatCompletion

    response = ChatCompletion.model_validate(
        {
            "id": "c",
            "created": 1,
            "object": "chat.completion",
            "model": "gpt-x",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "length",
                    "message": {"role": "assistant", "content": "hi"},
                }
            ],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 40,
                "total_tokens": 140,
                "prompt_tokens_details": {"cached_tokens": 60},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
        }
    )
    assert read_usage(response) == TokenCounts(100, 40, 140, 60, None, 30)
    assert read_usage(response.usage) == read_usage(response)
    assert read_finish_reason(response) == "length"
    assert read_model(response) == "gpt-x"


def test_a_response_of_openai() -> None:
    """An incomplete response of the Responses API has its reason."""
    from openai.types.responses import Response

    response = Response.model_construct(
        id="r",
        object="response",
        model="gpt-x",
        status="incomplete",
        incomplete_details={"reason": "max_output_tokens"},
        usage={
            "input_tokens": 100,
            "output_tokens": 40,
            "total_tokens": 140,
            "input_tokens_details": {"cached_tokens": 60},
            "output_tokens_details": {"reasoning_tokens": 30},
        },
    )
    assert read_usage(response) == TokenCounts(100, 40, 140, 60, None, 30)
    assert read_finish_reason(response) == "max_output_tokens"
    assert read_model(response) == "gpt-x"


def test_a_response_of_google() -> None:
    """Thoughts are output, prompts of tools are input, and the enum becomes its text."""
    from google.genai.types import GenerateContentResponse

    response = GenerateContentResponse.model_validate(
        {
            "candidates": [{"finish_reason": "MAX_TOKENS"}],
            "model_version": "gemini-x",
            "usage_metadata": {
                "prompt_token_count": 90,
                "tool_use_prompt_token_count": 10,
                "candidates_token_count": 10,
                "thoughts_token_count": 30,
                "cached_content_token_count": 60,
                "total_token_count": 140,
            },
        }
    )
    assert read_usage(response) == TokenCounts(100, 40, 140, 60, None, 30)
    assert read_finish_reason(response) == "MAX_TOKENS"
    assert read_model(response) == "gemini-x"


def test_a_response_of_afterimage() -> None:
    """The class that AfterImage's providers return is read completely."""
    from afterimage.providers.llm_providers import CommonLLMResponse

    response = CommonLLMResponse("text", 3, 2, 5, "stop", "m", None)
    assert read_usage(response) == TokenCounts(3, 2, 5)
    assert read_finish_reason(response) == "stop"
    assert read_model(response) == "m"
