"""Usage of each vendor's shape, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.answers import TokenCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SHAPES", "Shape"]


class Shape(NamedTuple):
    """One response and what is to be read from it."""

    value: Any
    tokens: TokenCounts
    model: str | None = None
    reasons: tuple[str, ...] = ()
    rest: Mapping[str, Any] = {}


_CHOICES = [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}},
    {"index": 1, "finish_reason": "length", "message": {"role": "assistant", "content": "b"}},
]
_ANTHROPIC = {
    "type": "message",
    "model": "claude-x",
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 11,
        "output_tokens": 70,
        "cache_read_input_tokens": 900,
        "cache_creation_input_tokens": 60,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
        "output_tokens_details": {"thinking_tokens": 33},
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "priority",
    },
}
_ANTHROPIC_TOKENS = TokenCounts(971, 70, None, 900, 60, 33, 40, searches=2)
_VLLM = {
    "prompt": "p",
    "prompt_token_ids": [1, 2, 3, 4],
    "outputs": [
        {"index": 0, "token_ids": [5, 6, 7], "finish_reason": "stop", "stop_reason": 7},
        {"index": 1, "token_ids": [8, 9], "finish_reason": "length", "stop_reason": None},
    ],
    "num_cached_tokens": 2,
}

SHAPES: dict[str, Shape] = {
    "openai chat": Shape(
        {
            "object": "chat.completion",
            "model": "gpt-x",
            "choices": _CHOICES,
            "service_tier": "flex",
            "usage": {
                "prompt_tokens": 300,
                "completion_tokens": 90,
                "total_tokens": 390,
                "prompt_tokens_details": {
                    "cached_tokens": 128,
                    "cache_write_tokens": 16,
                    "audio_tokens": 25,
                },
                "completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 5},
            },
        },
        TokenCounts(
            300, 90, 390, 128, 16, 50, input_by=(("audio", 25),), output_by=(("audio", 5),)
        ),
        "gpt-x",
        ("stop", "length"),
        {"service_tier": "flex"},
    ),
    "openai completions": Shape(
        {
            "object": "text_completion",
            "model": "gpt-x",
            "choices": [{"index": 0, "text": "a", "finish_reason": "length"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        },
        TokenCounts(3, 4, 7),
        "gpt-x",
        ("length",),
    ),
    "openai embeddings": Shape(
        {"object": "list", "model": "e", "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        TokenCounts(8, None, 8),
        "e",
    ),
    "openai responses": Shape(
        {
            "object": "response",
            "model": "gpt-x",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "metadata": {"model": "the user's own"},
            "service_tier": "priority",
            "usage": {
                "input_tokens": 210,
                "output_tokens": 80,
                "total_tokens": 290,
                "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 9},
                "output_tokens_details": {"reasoning_tokens": 32},
            },
        },
        TokenCounts(210, 80, 290, 64, 9, 32),
        "gpt-x",
        ("max_output_tokens",),
        {"service_tier": "priority"},
    ),
    "openai realtime": Shape(
        {
            "type": "response.done",
            "response": {
                "object": "realtime.response",
                "status": "incomplete",
                "status_details": {"type": "incomplete", "reason": "content_filter"},
                "usage": {
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
                },
            },
        },
        TokenCounts(
            130,
            60,
            190,
            64,
            input_by=(("audio", 30), ("text", 100)),
            output_by=(("audio", 40), ("text", 20)),
            cache_read_by=(("audio", 4), ("text", 60)),
        ),
        None,
        ("content_filter",),
    ),
    "openai transcription": Shape(
        {
            "text": "x",
            "usage": {
                "type": "tokens",
                "input_tokens": 40,
                "output_tokens": 6,
                "total_tokens": 46,
                "input_token_details": {"audio_tokens": 38, "text_tokens": 2, "cached_tokens": 1},
            },
        },
        TokenCounts(40, 6, 46, 1, input_by=(("audio", 38), ("text", 2))),
    ),
    "openai images": Shape(
        {
            "created": 1,
            "data": [],
            "usage": {
                "input_tokens": 30,
                "output_tokens": 1056,
                "total_tokens": 1086,
                "input_tokens_details": {"image_tokens": 10, "text_tokens": 20},
            },
        },
        TokenCounts(
            30,
            1056,
            1086,
            input_by=(("image", 10), ("text", 20)),
            output_by=(("image", 1056),),
        ),
    ),
    "openai images usage": Shape(
        {
            "input_tokens": 30,
            "output_tokens": 1056,
            "total_tokens": 1086,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 30},
        },
        TokenCounts(30, 1056, 1086, input_by=(("text", 30),), output_by=(("image", 1056),)),
    ),
    "openai batch": Shape(
        {
            "object": "batch",
            "model": "gpt-x",
            "status": "completed",
            "usage": {
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "total_tokens": 900,
                "input_tokens": 700,
                "output_tokens": 200,
                "input_tokens_details": {"cached_tokens": 512},
                "output_tokens_details": {"reasoning_tokens": 150},
            },
        },
        TokenCounts(700, 200, 900, 512, None, 150),
        "gpt-x",
        (),
        {"is_batch": True},
    ),
    "openai batch line": Shape(
        {
            "custom_id": "7",
            "error": None,
            "response": {
                "status_code": 200,
                "body": {
                    "object": "chat.completion",
                    "model": "gpt-x",
                    "choices": _CHOICES[:1],
                    "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
                },
            },
        },
        TokenCounts(5, 6, 11),
        "gpt-x",
        ("stop",),
        {"is_batch": True},
    ),
    "anthropic": Shape(
        _ANTHROPIC,
        _ANTHROPIC_TOKENS,
        "claude-x",
        ("end_turn",),
        {"service_tier": "priority"},
    ),
    "anthropic batch line": Shape(
        {"custom_id": "7", "result": {"type": "succeeded", "message": _ANTHROPIC}},
        _ANTHROPIC_TOKENS,
        "claude-x",
        ("end_turn",),
        {"is_batch": True, "service_tier": "priority"},
    ),
    "anthropic in a batch": Shape(
        {"usage": {"input_tokens": 5, "output_tokens": 6, "service_tier": "batch"}},
        TokenCounts(5, 6),
        rest={"is_batch": True, "service_tier": None},
    ),
    "anthropic compaction": Shape(
        {
            "input_tokens": 50,
            "output_tokens": 8,
            "cache_read_input_tokens": 4,
            "iterations": [
                {"type": "compaction", "input_tokens": 900, "output_tokens": 30},
                {
                    "type": "message",
                    "input_tokens": 50,
                    "output_tokens": 8,
                    "cache_read_input_tokens": 4,
                },
            ],
        },
        TokenCounts(954, 38, None, 4),
    ),
    "anthropic, one iteration": Shape(
        {
            "input_tokens": 50,
            "output_tokens": 8,
            "iterations": [{"type": "message", "input_tokens": 49, "output_tokens": 7}],
        },
        TokenCounts(50, 8),
    ),
    "google": Shape(
        {
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
                "candidates_tokens_details": [{"modality": "IMAGE", "token_count": 30}],
                "traffic_type": "ON_DEMAND_FLEX",
            },
        },
        TokenCounts(
            520,
            230,
            750,
            400,
            None,
            200,
            input_by=(("audio", 40), ("text", 460)),
            output_by=(("image", 30),),
            cache_read_by=(("audio", 16),),
        ),
        "gemini-x",
        ("STOP", "MAX_TOKENS"),
        {"service_tier": "flex"},
    ),
    "google in camel case": Shape(
        {
            "modelVersion": "gemini-x",
            "candidates": [{"finishReason": "STOP"}],
            "usageMetadata": {
                "promptTokenCount": 500,
                "toolUsePromptTokenCount": 20,
                "thoughtsTokenCount": 200,
                "cachedContentTokenCount": 400,
                "totalTokenCount": 720,
                "promptTokensDetails": [{"modality": "video", "tokenCount": 90}],
                "trafficType": "PROVISIONED_THROUGHPUT",
            },
        },
        TokenCounts(520, 200, 720, 400, None, 200, input_by=(("video", 90),)),
        "gemini-x",
        ("STOP",),
        {"service_tier": "default"},
    ),
    "google batch line": Shape(
        {"key": "7", "response": {"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}}},
        TokenCounts(5, None, 5),
        rest={"is_batch": True},
    ),
    "google live": Shape(
        {
            "usage_metadata": {
                "prompt_token_count": 70,
                "response_token_count": 9,
                "thoughts_token_count": 1,
                "total_token_count": 80,
            }
        },
        TokenCounts(70, 10, 80, None, None, 1),
    ),
    "google interactions": Shape(
        {
            "object": "interaction",
            "status": "completed",
            "model": "gemini-x",
            "usage": {
                "total_input_tokens": 21,
                "total_output_tokens": 6,
                "total_thought_tokens": 4,
                "total_cached_tokens": 8,
                "total_tokens": 31,
                "input_tokens_by_modality": [{"modality": "text", "tokens": 21}],
            },
        },
        TokenCounts(21, 10, 31, 8, None, 4, input_by=(("text", 21),)),
        "gemini-x",
        ("completed",),
    ),
    "google embeddings": Shape(
        {
            "embeddings": [
                {"values": [0.5], "statistics": {"token_count": 4.0}},
                {"values": [0.5], "statistics": {"token_count": 9.0}},
            ]
        },
        TokenCounts(13),
    ),
    "llama at bedrock": Shape(
        {
            "generation": "Blue.",
            "prompt_token_count": 12,
            "generation_token_count": 34,
            "stop_reason": "length",
        },
        TokenCounts(12, 34),
        reasons=("length",),
    ),
    "nova at bedrock": Shape(
        {
            "stopReason": "end_turn",
            "usage": {
                "inputTokens": 12,
                "outputTokens": 34,
                "totalTokens": 146,
                "cacheReadInputTokenCount": 90,
                "cacheWriteInputTokenCount": 10,
            },
        },
        TokenCounts(112, 34, 146, 90, 10),
        reasons=("end_turn",),
    ),
    "claude's agent sdk": Shape(
        {
            "subtype": "success",
            "total_cost_usd": 0.0625,
            "usage": {"input_tokens": 12, "output_tokens": 34, "cache_read_input_tokens": 90},
        },
        TokenCounts(102, 34, cache_read=90),
        rest={"cost": 0.0625},
    ),
    "ai sdk": Shape(
        {
            "usage": {
                "inputTokens": 112,
                "outputTokens": 34,
                "totalTokens": 146,
                "cachedInputTokens": 90,
                "reasoningTokens": 21,
            }
        },
        TokenCounts(112, 34, 146, 90, reasoning=21),
    ),
    "older ai sdk": Shape(
        {"usage": {"promptTokens": 112, "completionTokens": 34, "totalTokens": 146}},
        TokenCounts(112, 34, 146),
    ),
    "bedrock": Shape(
        {
            "stopReason": "max_tokens",
            "output": {"message": {"role": "assistant"}},
            "usage": {
                "inputTokens": 10,
                "outputTokens": 20,
                "totalTokens": 380,
                "cacheReadInputTokens": 300,
                "cacheWriteInputTokens": 50,
                "cacheDetails": [
                    {"ttl": "1h", "inputTokens": 30},
                    {"ttl": "5m", "inputTokens": 20},
                ],
            },
        },
        TokenCounts(360, 20, 380, 300, 50, None, 30),
        None,
        ("max_tokens",),
    ),
    "cohere": Shape(
        {
            "finish_reason": "MAX_TOKENS",
            "usage": {
                "billed_units": {"input_tokens": 12.0, "output_tokens": 7.0},
                "tokens": {"input_tokens": 800.0, "output_tokens": 9.0},
                "cached_tokens": 640.0,
            },
        },
        TokenCounts(12, 7),
        None,
        ("MAX_TOKENS",),
    ),
    "cohere embed": Shape(
        {"embeddings": {"float": [[0.5]]}, "meta": {"billed_units": {"input_tokens": 3.0}}},
        TokenCounts(3),
    ),
    "xai": Shape(
        {
            "model": "grok-x",
            "usage": {
                "prompt_tokens": 30,
                "completion_tokens": 5,
                "total_tokens": 85,
                "completion_tokens_details": {"reasoning_tokens": 50},
                "cost_in_usd_ticks": 25_000_000,
            },
        },
        TokenCounts(30, 55, 85, None, None, 50),
        "grok-x",
        (),
        {"cost": 0.0025},
    ),
    "xai's own client": Shape(
        {
            "prompt_tokens": 30,
            "completion_tokens": 5,
            "reasoning_tokens": 50,
            "total_tokens": 85,
            "cached_prompt_text_tokens": 12,
            "prompt_text_tokens": 28,
            "prompt_image_tokens": 2,
            "cost_in_usd_ticks": 0,
        },
        TokenCounts(30, 55, 85, 12, None, 50, input_by=(("image", 2), ("text", 28))),
    ),
    "deepseek": Shape(
        {"prompt_tokens": 90, "completion_tokens": 5, "prompt_cache_hit_tokens": 64},
        TokenCounts(90, 5, None, 64),
    ),
    "moonshot": Shape(
        {"usage": {"prompt_tokens": 90, "completion_tokens": 5, "cached_tokens": 64}},
        TokenCounts(90, 5, None, 64),
    ),
    "dashscope": Shape(
        {
            "usage": {
                "input_tokens": 90,
                "output_tokens": 45,
                "total_tokens": 135,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 40},
            }
        },
        TokenCounts(90, 45, 135, 64, None, 40),
    ),
    "litellm": Shape(
        {
            "model": "claude-x",
            "choices": _CHOICES[:1],
            "_hidden_params": {"response_cost": 0.75},
            "usage": {
                "prompt_tokens": 700,
                "completion_tokens": 30,
                "total_tokens": 730,
                "prompt_tokens_details": {"cached_tokens": 500, "cache_creation_tokens": 150},
                "cache_read_input_tokens": 500,
                "cache_creation_input_tokens": 150,
            },
        },
        TokenCounts(700, 30, 730, 500, 150),
        "claude-x",
        ("stop",),
        {"cost": 0.75},
    ),
    "openrouter": Shape(
        {
            "model": "a/b",
            "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cost": 0.5},
        },
        TokenCounts(7, 2, 9),
        "a/b",
        (),
        {"cost": 0.5},
    ),
    "langchain": Shape(
        {
            "content": "x",
            "type": "ai",
            "usage_metadata": {
                "input_tokens": 80,
                "output_tokens": 30,
                "total_tokens": 110,
                "input_token_details": {"audio": 0, "cache_read": 50, "cache_creation": 6},
                "output_token_details": {"audio": 0, "reasoning": 12},
            },
            "response_metadata": {
                "model_name": "gpt-x",
                "finish_reason": "length",
                "service_tier": "default",
                "token_usage": {"prompt_tokens": 1, "completion_tokens": 1},
            },
        },
        TokenCounts(80, 30, 110, 50, 6, 12),
        "gpt-x",
        ("length",),
        {"service_tier": "default"},
    ),
    "pydantic-ai": Shape(
        {
            "input_tokens": 60,
            "output_tokens": 30,
            "cache_read_tokens": 40,
            "cache_write_tokens": 8,
            "cache_write_1h_tokens": 5,
            "input_audio_tokens": 9,
            "details": {"reasoning_tokens": 21, "input_tokens": 12},
        },
        TokenCounts(60, 30, None, 40, 8, 21, 5, input_by=(("audio", 9),)),
    ),
    "agents": Shape(
        {
            "context_wrapper": {
                "usage": {
                    "requests": 2,
                    "input_tokens": 60,
                    "output_tokens": 30,
                    "total_tokens": 90,
                    "input_tokens_details": {"cached_tokens": 40},
                    "output_tokens_details": {"reasoning_tokens": 3},
                }
            }
        },
        TokenCounts(60, 30, 90, 40, None, 3),
    ),
    "smolagents": Shape(
        {"output": "x", "token_usage": {"input_tokens": 6, "output_tokens": 3, "total_tokens": 9}},
        TokenCounts(6, 3, 9),
    ),
    "hugging face": Shape(
        {
            "generated_text": "x",
            "details": {
                "finish_reason": "length",
                "generated_tokens": 6,
                "prefill": [{"id": 1}, {"id": 2}],
            },
        },
        TokenCounts(2, 6),
        None,
        ("length",),
    ),
    "hugging face without prefill": Shape(
        {"details": {"finish_reason": "eos_token", "generated_tokens": 6, "prefill": []}},
        TokenCounts(None, 6),
        None,
        ("eos_token",),
    ),
    "ollama": Shape(
        {
            "model": "llama",
            "message": {"role": "assistant", "content": "x"},
            "done": True,
            "done_reason": "length",
            "prompt_eval_count": 14,
            "eval_count": 33,
        },
        TokenCounts(14, 33),
        "llama",
        ("length",),
    ),
    "vllm": Shape(_VLLM, TokenCounts(4, 5, None, 2), None, ("stop", "length")),
    "vllm list": Shape(
        [_VLLM, _VLLM],
        TokenCounts(8, 10, None, 4),
        None,
        ("stop", "length", "stop", "length"),
    ),
    "distilabel": Shape(
        {"generations": ["a"], "statistics": {"input_tokens": [3, 4], "output_tokens": [5, 6]}},
        TokenCounts(7, 11),
    ),
    "sglang": Shape(
        {
            "text": "x",
            "meta_info": {
                "prompt_tokens": 4,
                "completion_tokens": 8,
                "cached_tokens": 1,
                "finish_reason": {"type": "length", "length": 8},
            },
        },
        TokenCounts(4, 8, None, 1),
        None,
        ("length",),
    ),
    "afterimage": Shape(
        {
            "text": "x",
            "prompt_token_count": 3,
            "completion_token_count": 2,
            "total_token_count": 5,
            "finish_reason": "stop",
            "model_name": "m",
            "raw_response": {"usage": {"prompt_tokens": 99, "completion_tokens": 99}},
        },
        TokenCounts(3, 2, 5),
        "m",
        ("stop",),
    ),
}
"""By vendor."""
