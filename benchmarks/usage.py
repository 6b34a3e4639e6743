"""Duration of reading one response, and one chunk of a stream, of each vendor.

Needs no vendor's package: where one is not installed, its JSON is read instead. Run alone, as
``PYTHONPATH=src python benchmarks/usage.py``, in an environment that has the clients.
"""

from __future__ import annotations

import importlib
import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from _measure import seconds, side_by_side
from _table import Aim, Row, at_most, print_aims, print_table

from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its import asks the network else
READS = 200
CHUNKS = 2_000
ROUNDS = 30
RESPONSES = "One response read, with its sums: minimum"
CHUNKS_READ = "One chunk that says nothing new: minimum"
CHAT: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
    "usage": {
        "prompt_tokens": 120,
        "completion_tokens": 40,
        "total_tokens": 160,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 0},
    },
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "output_tokens": 40,
        "cache_read_input_tokens": 64,
        "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    },
}
OBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI chat": ("openai.types.chat.ChatCompletion", CHAT),
    "OpenAI responses": (
        "openai.types.responses.Response",
        {
            "id": "r",
            "object": "response",
            "created_at": 1,
            "model": "m-1",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "status": "completed",
            "usage": {
                "input_tokens": 120,
                "output_tokens": 40,
                "total_tokens": 160,
                "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 8},
            },
        },
    ),
    "Anthropic": ("anthropic.types.Message", MESSAGE),
    "Google": (
        "google.genai.types.GenerateContentResponse",
        {
            "candidates": [{"finish_reason": "STOP", "index": 0}],
            "model_version": "gemini",
            "usage_metadata": {
                "prompt_token_count": 120,
                "candidates_token_count": 32,
                "thoughts_token_count": 8,
                "cached_content_token_count": 64,
                "total_token_count": 160,
                "prompt_tokens_details": [{"modality": "TEXT", "token_count": 120}],
            },
        },
    ),
    "Cohere": (
        "cohere.V2ChatResponse",
        {
            "id": "c",
            "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
            "usage": {
                "billed_units": {"input_tokens": 120.0, "output_tokens": 40.0},
                "tokens": {"input_tokens": 300.0, "output_tokens": 41.0},
            },
        },
    ),
    "Mistral": ("mistralai.client.models.ChatCompletionResponse", CHAT),
    "Groq": ("groq.types.chat.ChatCompletion", CHAT),
    "LiteLLM": ("litellm.types.utils.ModelResponse", CHAT),
    "LangChain": (
        "langchain_core.messages.AIMessage",
        {
            "content": "hi",
            "usage_metadata": {
                "input_tokens": 120,
                "output_tokens": 40,
                "total_tokens": 160,
                "input_token_details": {"cache_read": 64},
                "output_token_details": {"reasoning": 8},
            },
            "response_metadata": {"model_name": "m-1", "finish_reason": "stop"},
        },
    ),
    "Ollama": (
        "ollama.ChatResponse",
        {
            "model": "m-1",
            "message": {"role": "assistant", "content": "hi"},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 120,
            "eval_count": 40,
        },
    ),
    "Bedrock": (
        "",
        {
            "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
            "stopReason": "end_turn",
            "usage": {
                "inputTokens": 49,
                "outputTokens": 40,
                "totalTokens": 160,
                "cacheReadInputTokens": 64,
                "cacheWriteInputTokens": 7,
            },
            "metrics": {"latencyMs": 1},
        },
    ),
}
CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m-1",
    "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
}
DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "a"},
}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI chat": ("openai.types.chat.ChatCompletionChunk", CHUNK),
    "the same as JSON": ("", CHUNK),
    "OpenAI responses": (
        "openai.types.responses.ResponseTextDeltaEvent",
        {
            "type": "response.output_text.delta",
            "sequence_number": 1,
            "item_id": "i",
            "output_index": 0,
            "content_index": 0,
            "delta": "a",
            "logprobs": [],
        },
    ),
    "Anthropic": ("anthropic.types.RawContentBlockDeltaEvent", DELTA),
    "Groq": ("groq.types.chat.ChatCompletionChunk", CHUNK),
    "Mistral": ("mistralai.client.models.CompletionEvent", {"data": CHUNK}),
    "LiteLLM": ("litellm.types.utils.ModelResponseStream", CHUNK),
    "LangChain": ("langchain_core.messages.AIMessageChunk", {"content": "a"}),
    "Ollama": (
        "ollama.ChatResponse",
        {"model": "m-1", "message": {"role": "assistant", "content": "a"}, "done": False},
    ),
    "Bedrock": ("", {"contentBlockDelta": {"delta": {"text": "a"}, "contentBlockIndex": 0}}),
}


def built(type_name: str, value: dict[str, Any]) -> tuple[Any, str]:
    """Return the client's object, or the JSON where the client is not installed, and which."""
    module, _, name = type_name.rpartition(".")
    if not module:
        return value, "JSON"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = getattr(importlib.import_module(module), name)
            if module.startswith(("litellm", "langchain")):
                return kind(**value), "object"
            return kind.model_validate(value), "object"
    except ImportError:
        return value, "JSON, as the client is not installed"


def run() -> list[Row]:
    """Measure whole responses, then chunks."""
    rows = []
    for group, table, measure in (
        (RESPONSES, OBJECTS, _of_a_response),
        (CHUNKS_READ, STREAMS, _of_a_chunk),
    ):
        subjects: dict[str, Callable[[], float]] = {}
        for name, (type_name, value) in table.items():
            obj, form = built(type_name, value)
            subjects[f"{name} ({form})"] = partial(measure, obj)
        spreads = side_by_side(subjects, ROUNDS)
        rows += [Row(group, name, each.min, ratio=each.ratio) for name, each in spreads.items()]
    return rows


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    return [
        at_most(f"{text}, {row.subject}: at most {aim * 1e6:g} µs", row.figure, aim, "s")
        for row in rows
        for group, text, aim in (
            (RESPONSES, "a response", 15e-6),
            (CHUNKS_READ, "a chunk", 0.7e-6),
        )
        if row.group == group
    ]


def _of_a_response(obj: Any) -> float:
    def read() -> None:
        for _ in range(READS):
            reading = Reading()
            reading.read(obj)
            reading.answer()

    return seconds(read) / READS


def _of_a_chunk(obj: Any) -> float:
    reader = ChunkReader(Reading())
    reader.read(obj)

    def read() -> None:
        for _ in range(CHUNKS):
            reader.read(obj)

    return seconds(read) / CHUNKS


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
