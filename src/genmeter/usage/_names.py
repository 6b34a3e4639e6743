"""The names that vendors give to what is read, and what each means: one flat table."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACTIONS",
    "COUNTS",
    "DETAILS",
    "FLAT",
    "GENERATED",
    "ITERATION_COUNTS",
    "KNOWN",
    "MODALITIES",
    "Action",
    "Rank",
    "Slot",
]


class Slot:
    """A count of one answer; plain integers, since an Enum's hash costs more than the reading."""

    INPUT: Final = 0
    OUTPUT: Final = 1
    TOTAL: Final = 2
    CACHE_READ: Final = 3
    CACHE_WRITE: Final = 4
    CACHE_WRITE_5M: Final = 5
    CACHE_WRITE_1H: Final = 6
    REASONING: Final = 7
    TOOL_INPUT: Final = 8
    SEARCHES: Final = 9


class Rank:
    """Whose name a count has: of two numbers above zero the one of lower rank is kept.

    The last three say, together with the rank of the other count, what the sums are: an input of
    ``INPUT_ALONE`` excludes caches of ``CACHE_OUTSIDE``, an output of ``THOUGHTS_OUTSIDE`` excludes
    reasoning of the same.
    """

    DETAIL: Final = 0
    USUAL: Final = 1
    OTHER: Final = 2
    INPUT_ALONE: Final = 3
    CACHE_OUTSIDE: Final = 4
    THOUGHTS_OUTSIDE: Final = 5


class Action:
    """What to do with the value of a name."""

    USAGE: Final = 0  # an object with counts
    INPUT_DETAILS: Final = 1  # parts of the input: an object, or a list by modality
    OUTPUT_DETAILS: Final = 2
    CACHE_DETAILS: Final = 3
    WRITE_DETAILS: Final = 4  # an object with the cache writes by their time to live
    ITERATIONS: Final = 5
    SEARCHES: Final = 6
    STATISTICS: Final = 7  # an object whose counts are lists
    EMBEDDINGS: Final = 8
    TOKEN_IDS: Final = 9  # a list as long as the prompt
    GENERATED: Final = 10  # details of a text generation
    MODALITY: Final = 11  # a count of one modality beside the usual counts
    COST: Final = 12  # an amount that means something only beside counts
    ANSWER_COST: Final = 13  # an amount that means the answer's wherever it is
    MODEL: Final = 14
    FINISH: Final = 15
    CHOICES: Final = 16
    TIER: Final = 17
    TRAFFIC: Final = 18
    OBJECT: Final = 19
    TYPE: Final = 20
    CONTAINER: Final = 21  # an object that may have a usage of its own
    BATCHED: Final = 22  # a container whose answer is billed as part of a batch
    LAST: Final = 23  # a container to read if nothing else has a usage
    PARSED: Final = 24  # the bodies that a raw response has parsed


_IN, _OUT, _ALL = Slot.INPUT, Slot.OUTPUT, Slot.TOTAL
_READ, _WRITE, _THOUGHT = Slot.CACHE_READ, Slot.CACHE_WRITE, Slot.REASONING

COUNTS: Final[dict[str, tuple[int, int]]] = {
    # OpenAI's chat completions, and most others
    "prompt_tokens": (_IN, Rank.DETAIL),
    "completion_tokens": (_OUT, Rank.DETAIL),
    "total_tokens": (_ALL, Rank.DETAIL),
    "prompt_cache_hit_tokens": (_READ, Rank.USUAL),  # DeepSeek
    "cached_tokens": (_READ, Rank.USUAL),  # Moonshot
    "cached_prompt_tokens": (_READ, Rank.USUAL),  # CrewAI
    "cached_prompt_text_tokens": (_READ, Rank.USUAL),  # xAI's own client
    "reasoning_tokens": (_THOUGHT, Rank.USUAL),
    # OpenAI's responses, Anthropic, LangChain and others
    "input_tokens": (_IN, Rank.INPUT_ALONE),
    "output_tokens": (_OUT, Rank.OTHER),
    "cache_read_input_tokens": (_READ, Rank.CACHE_OUTSIDE),
    "cache_creation_input_tokens": (_WRITE, Rank.CACHE_OUTSIDE),
    # pydantic-ai
    "cache_read_tokens": (_READ, Rank.USUAL),
    "cache_write_tokens": (_WRITE, Rank.USUAL),
    "cache_write_1h_tokens": (Slot.CACHE_WRITE_1H, Rank.USUAL),
    "output_reasoning_tokens": (_THOUGHT, Rank.USUAL),
    # Google's generate_content and Live, AfterImage
    "prompt_token_count": (_IN, Rank.USUAL),
    "promptTokenCount": (_IN, Rank.USUAL),
    "tool_use_prompt_token_count": (Slot.TOOL_INPUT, Rank.USUAL),
    "toolUsePromptTokenCount": (Slot.TOOL_INPUT, Rank.USUAL),
    "candidates_token_count": (_OUT, Rank.THOUGHTS_OUTSIDE),
    "candidatesTokenCount": (_OUT, Rank.THOUGHTS_OUTSIDE),
    "response_token_count": (_OUT, Rank.THOUGHTS_OUTSIDE),
    "responseTokenCount": (_OUT, Rank.THOUGHTS_OUTSIDE),
    "completion_token_count": (_OUT, Rank.USUAL),
    "thoughts_token_count": (_THOUGHT, Rank.THOUGHTS_OUTSIDE),
    "thoughtsTokenCount": (_THOUGHT, Rank.THOUGHTS_OUTSIDE),
    "cached_content_token_count": (_READ, Rank.USUAL),
    "cachedContentTokenCount": (_READ, Rank.USUAL),
    "total_token_count": (_ALL, Rank.USUAL),
    "totalTokenCount": (_ALL, Rank.USUAL),
    # Google's Interactions
    "total_input_tokens": (_IN, Rank.OTHER),
    "total_output_tokens": (_OUT, Rank.THOUGHTS_OUTSIDE),
    "total_thought_tokens": (_THOUGHT, Rank.THOUGHTS_OUTSIDE),
    "total_cached_tokens": (_READ, Rank.USUAL),
    "total_tool_use_tokens": (Slot.TOOL_INPUT, Rank.USUAL),
    # Bedrock's Converse
    "inputTokens": (_IN, Rank.INPUT_ALONE),
    "outputTokens": (_OUT, Rank.OTHER),
    "totalTokens": (_ALL, Rank.OTHER),
    "cacheReadInputTokens": (_READ, Rank.CACHE_OUTSIDE),
    "cacheWriteInputTokens": (_WRITE, Rank.CACHE_OUTSIDE),
    # Bedrock's models of Amazon and Meta, and the metrics at the end of an invocation's stream
    "generation_token_count": (_OUT, Rank.OTHER),
    "inputTokenCount": (_IN, Rank.INPUT_ALONE),
    "outputTokenCount": (_OUT, Rank.OTHER),
    "cacheReadInputTokenCount": (_READ, Rank.CACHE_OUTSIDE),
    "cacheWriteInputTokenCount": (_WRITE, Rank.CACHE_OUTSIDE),
    # the AI SDK, whose counts reach Python as JSON
    "promptTokens": (_IN, Rank.USUAL),
    "completionTokens": (_OUT, Rank.USUAL),
    "cachedInputTokens": (_READ, Rank.USUAL),
    "reasoningTokens": (_THOUGHT, Rank.USUAL),
    # Ollama; the server of llama.cpp
    "prompt_eval_count": (_IN, Rank.OTHER),
    "eval_count": (_OUT, Rank.OTHER),
    "tokens_evaluated": (_IN, Rank.OTHER),
    "tokens_predicted": (_OUT, Rank.OTHER),
    # vLLM offline
    "num_cached_tokens": (_READ, Rank.USUAL),
}
"""Counts of a usage object, or of a response that has them itself."""

GENERATED: Final[dict[str, tuple[int, int]]] = {
    "generated_tokens": (_OUT, Rank.OTHER),
    "input_length": (_IN, Rank.OTHER),
    "reasoning_tokens": (_THOUGHT, Rank.USUAL),
}
"""Counts of ``details``: Hugging Face's text generation, pydantic-ai.

Only these: pydantic-ai also copies there what a vendor named otherwise.
"""

DETAILS: Final[dict[str, tuple[int, int]]] = {
    "cached_tokens": (_READ, Rank.DETAIL),
    "cache_read": (_READ, Rank.DETAIL),  # LangChain, with the tier in front of it
    "flex_cache_read": (_READ, Rank.DETAIL),
    "priority_cache_read": (_READ, Rank.DETAIL),
    "cache_write_tokens": (_WRITE, Rank.DETAIL),
    "cache_creation_tokens": (_WRITE, Rank.DETAIL),  # LiteLLM
    "cache_creation": (_WRITE, Rank.DETAIL),  # LangChain
    "ephemeral_5m_input_tokens": (Slot.CACHE_WRITE_5M, Rank.DETAIL),
    "ephemeral_1h_input_tokens": (Slot.CACHE_WRITE_1H, Rank.DETAIL),
    "reasoning_tokens": (_THOUGHT, Rank.DETAIL),
    "thinking_tokens": (_THOUGHT, Rank.DETAIL),  # Anthropic
    "reasoning": (_THOUGHT, Rank.DETAIL),  # LangChain
    "flex_reasoning": (_THOUGHT, Rank.DETAIL),
    "priority_reasoning": (_THOUGHT, Rank.DETAIL),
}
"""Counts of the details beside a usage's own counts."""

ITERATION_COUNTS: Final = (
    Slot.INPUT,
    Slot.OUTPUT,
    Slot.CACHE_READ,
    Slot.CACHE_WRITE,
    Slot.CACHE_WRITE_5M,
    Slot.CACHE_WRITE_1H,
)

MODALITIES: Final[dict[str, str]] = {
    each + end: each
    for each in ("text", "audio", "image", "video", "document")
    for end in ("_tokens", "")
}
"""The modality of a count of the details."""

FLAT: Final[dict[str, tuple[str, str]]] = {
    "input_audio_tokens": ("input", "audio"),  # pydantic-ai
    "output_audio_tokens": ("output", "audio"),
    "cache_audio_read_tokens": ("cache", "audio"),
    "prompt_text_tokens": ("input", "text"),  # xAI's own client
    "prompt_image_tokens": ("input", "image"),
}
"""Direction and modality of counts beside the usual ones."""

ACTIONS: Final[dict[str, int]] = {
    **dict.fromkeys(FLAT, Action.MODALITY),
    "usage": Action.USAGE,
    "usage_metadata": Action.USAGE,
    "usageMetadata": Action.USAGE,
    "token_usage": Action.USAGE,  # smolagents, LangChain
    "total_usage": Action.USAGE,  # instructor
    "billed_units": Action.USAGE,  # Cohere
    "meta_info": Action.USAGE,  # SGLang offline
    "amazon-bedrock-invocationMetrics": Action.USAGE,
    "prompt_tokens_details": Action.INPUT_DETAILS,
    "promptTokensDetails": Action.INPUT_DETAILS,
    "tool_use_prompt_tokens_details": Action.INPUT_DETAILS,
    "toolUsePromptTokensDetails": Action.INPUT_DETAILS,
    "input_tokens_details": Action.INPUT_DETAILS,
    "input_token_details": Action.INPUT_DETAILS,
    "input_tokens_by_modality": Action.INPUT_DETAILS,
    "tool_use_tokens_by_modality": Action.INPUT_DETAILS,
    "completion_tokens_details": Action.OUTPUT_DETAILS,
    "output_tokens_details": Action.OUTPUT_DETAILS,
    "output_token_details": Action.OUTPUT_DETAILS,
    "candidates_tokens_details": Action.OUTPUT_DETAILS,
    "candidatesTokensDetails": Action.OUTPUT_DETAILS,
    "response_tokens_details": Action.OUTPUT_DETAILS,
    "responseTokensDetails": Action.OUTPUT_DETAILS,
    "output_tokens_by_modality": Action.OUTPUT_DETAILS,
    "cache_tokens_details": Action.CACHE_DETAILS,
    "cacheTokensDetails": Action.CACHE_DETAILS,
    "cached_tokens_details": Action.CACHE_DETAILS,
    "cached_tokens_by_modality": Action.CACHE_DETAILS,
    "cache_creation": Action.WRITE_DETAILS,
    "cache_creation_token_details": Action.WRITE_DETAILS,
    "cacheDetails": Action.WRITE_DETAILS,  # Bedrock: a list by time to live
    "iterations": Action.ITERATIONS,
    "server_tool_use": Action.SEARCHES,
    "statistics": Action.STATISTICS,
    "embeddings": Action.EMBEDDINGS,
    "prompt_token_ids": Action.TOKEN_IDS,
    "details": Action.GENERATED,
    "cost": Action.COST,
    "cost_in_usd_ticks": Action.COST,
    "response_cost": Action.ANSWER_COST,  # LiteLLM
    "cost_usd": Action.ANSWER_COST,  # xAI's own client
    "total_cost_usd": Action.ANSWER_COST,  # Claude's agent SDK
    "model": Action.MODEL,
    "model_version": Action.MODEL,
    "modelVersion": Action.MODEL,
    "model_name": Action.MODEL,
    "finish_reason": Action.FINISH,
    "finishReason": Action.FINISH,
    "stop_reason": Action.FINISH,
    "stopReason": Action.FINISH,
    "done_reason": Action.FINISH,
    "choices": Action.CHOICES,
    "candidates": Action.CHOICES,
    "outputs": Action.CHOICES,
    "service_tier": Action.TIER,
    "serviceTier": Action.TIER,
    "traffic_type": Action.TRAFFIC,
    "trafficType": Action.TRAFFIC,
    "object": Action.OBJECT,
    "type": Action.TYPE,
    "custom_id": Action.BATCHED,
    "modelOutput": Action.BATCHED,  # Bedrock's batch lines
    "response": Action.CONTAINER,
    "body": Action.CONTAINER,
    "message": Action.CONTAINER,
    "result": Action.CONTAINER,
    "delta": Action.CONTAINER,
    "metadata": Action.CONTAINER,
    "meta": Action.CONTAINER,
    "data": Action.CONTAINER,
    "chunk": Action.CONTAINER,
    "x_groq": Action.CONTAINER,
    "messageStop": Action.CONTAINER,
    "interaction": Action.CONTAINER,
    "proto": Action.CONTAINER,  # xAI's own client
    "context_wrapper": Action.CONTAINER,
    "run_data": Action.CONTAINER,
    "response_metadata": Action.CONTAINER,
    "llm_output": Action.CONTAINER,
    "generations": Action.CONTAINER,
    "completion": Action.CONTAINER,
    "last_completion": Action.CONTAINER,
    "_hidden_params": Action.CONTAINER,
    "_parsed_by_type": Action.PARSED,
    "http_response": Action.LAST,
    "_raw_response": Action.LAST,
    "raw_response": Action.LAST,
    "raw": Action.LAST,
}

KNOWN: Final[dict[str, None]] = dict.fromkeys(
    (
        *COUNTS,
        *ACTIONS,
        *GENERATED,
        *DETAILS,
        *(name for name in MODALITIES if name.endswith("_tokens")),  # `text` may be slow to ask for
        *("incomplete_details", "status_details", "status", "reason", "error", "status_code"),
        *("index", "token_ids", "delta", "token_count", "tokenCount", "tokens", "modality"),
        *("prefill", "web_search_requests", "inputTokens", "ttl", "created", "key"),
    )
)
"""All names that are ever read, in order, for objects that cannot be listed."""
