"""The attributes by which spans and log events say what a call is: the newest spelling first.

The sources are the OpenTelemetry GenAI semantic conventions (registry/attributes/gen-ai, with the older names of
1.25 to 1.36), OpenInference's semantic conventions, and what OpenLLMetry, Anthropic's client, logfire,
pydantic-ai and LiteLLM write beside them.
"""

from __future__ import annotations

__all__ = [
    "ANSWERING_SCOPES",
    "CALLS",
    "CANCELLED",
    "CAUSES",
    "CLIENTS",
    "CLIENT_SCOPES",
    "COST",
    "COUNTS",
    "DETAILS_EVENT",
    "ERROR_EVENT",
    "FINISH_REASONS",
    "FIRST_CHUNK",
    "FIRST_CHUNK_EVENTS",
    "INVOCATIONS",
    "KIND",
    "KINDS",
    "LATE_SCOPES",
    "MODEL",
    "OPERATION",
    "PROVIDER",
    "RAW_USAGE",
    "RESPONSE_ID",
    "RESPONSE_MODEL",
    "SERVICE_TIER",
    "STATUS_CODE",
]

OPERATION = "gen_ai.operation.name"
CALLS = {
    "chat": "chat",
    "text_completion": "text_completion",
    "completion": "text_completion",
    "generate_content": "generate_content",
    "embeddings": "embeddings",
    "embedding": "embeddings",
    # LiteLLM's callback writes the name of the function that was called, but for its ``completion``.
    "acompletion": "chat",
    "aembedding": "embeddings",
    "agenerate_content": "generate_content",
    "agenerate_content_stream": "generate_content",
    "anthropic_messages": "chat",
    "aresponses": "chat",
    "atext_completion": "text_completion",
    "generate_content_stream": "generate_content",
    "responses": "chat",
}
"""The operations that are calls of a model, with the conventions' names."""
KIND = "openinference.span.kind"
KINDS = {"LLM": "chat", "EMBEDDING": "embeddings"}
"""OpenInference's kinds of spans that are calls."""

MODEL = ("gen_ai.request.model", "llm.request.model_name")
INVOCATIONS = ("llm.invocation_parameters", "embedding.invocation_parameters")
"""JSON of the request, with its ``model``."""
RESPONSE_MODEL = (
    "gen_ai.response.model",
    "llm.response.model_name",
    "llm.model_name",
    "embedding.model_name",
)
PROVIDER = ("gen_ai.provider.name", "llm.provider", "gen_ai.system", "llm.system")
RESPONSE_ID = ("gen_ai.response.id",)
FINISH_REASONS = (
    "gen_ai.response.finish_reasons",
    "llm.finish_reason",
    "anthropic.message.stop_reason",
)
SERVICE_TIER = (
    "openai.response.service_tier",
    "gen_ai.openai.response.service_tier",
    "anthropic.response.service_tier",
)
COST = ("operation.cost", "gen_ai.cost.total_cost", "llm.cost.total")
FIRST_CHUNK = (
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.client.operation.time_to_first_chunk",
)
FIRST_CHUNK_EVENTS = frozenset({"First Token Stream Event", "gen_ai.content.completion.chunk"})
CAUSES = ("error.type",)
ERROR_EVENT = ("exception", "exception.type")
CANCELLED = frozenset({"CancelledError", "GeneratorExit", "Cancelled"})
"""Classes of exceptions that end a call early, rather than a failure; ``Cancelled`` is Trio's."""

COUNTS = {
    "prompt_token_count": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "completion_token_count": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "total_token_count": (
        "gen_ai.usage.total_tokens",
        "llm.usage.total_tokens",
        "llm.token_count.total",
    ),
    "cache_read_token_count": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_write_token_count": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning_token_count": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
    "cache_write_1h_token_count": ("anthropic.usage.cache_creation.ephemeral_1h_input_tokens",),
    "input_audio_token_count": ("llm.token_count.prompt_details.audio",),
    "output_audio_token_count": ("llm.token_count.completion_details.audio",),
}
"""Keywords of ``track_generation``, with the attributes of each."""
RAW_USAGE = ("gen_ai.usage.raw", "metadata.usage_object")
"""The vendor's usage as a text: JSON of logfire, a Python dict of LiteLLM."""

ANSWERING_SCOPES = frozenset({"com.anthropic.sdk.python", "pydantic-ai"})
"""Scopes that say of each response what answered, and do not say of a span that it was cancelled."""
STATUS_CODE = "http.response.status_code"

LATE_SCOPES = (
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.openai.v1",
    "openinference.instrumentation.langchain",
    "openinference.instrumentation.litellm",
    "litellm",
)
"""Scopes whose spans say only at their end that they are a call."""
CLIENTS = frozenset(
    {
        *(
            "anthropic",
            "bedrock",
            "cerebras",
            "cohere",
            "google_genai",
            "google_generativeai",
            "groq",
        ),
        *("mistralai", "ollama", "openai", "openai_v2", "replicate", "together", "vertexai"),
        *("watsonx", "writer", "xai", "xai_sdk"),
    }
)
"""The last parts of the names of scopes that observe a vendor's client, and nothing around it."""
CLIENT_SCOPES = frozenset({"com.anthropic.sdk.python"})
"""Such scopes with other names."""
DETAILS_EVENT = "gen_ai.client.inference.operation.details"
"""The conventions' log event of a call."""
