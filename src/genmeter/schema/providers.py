"""Names of providers: what clients and people call them, and what the conventions call them.

The values are the well-known ones of ``gen_ai.provider.name`` in the OpenTelemetry GenAI
conventions (registry/attributes/gen-ai). The spellings are those of LiteLLM's ``custom_llm_provider``
and name prefixes, LangChain's ``model_provider`` and ``ls_provider``, pydantic-ai's providers, and
the earlier conventions' ``gen_ai.system``.
"""

from __future__ import annotations

import re

__all__ = ["WELL_KNOWN", "well_known"]

WELL_KNOWN = (
    "anthropic",
    "aws.bedrock",
    "azure.ai.inference",
    "azure.ai.openai",
    "cohere",
    "deepseek",
    "gcp.gemini",
    "gcp.gen_ai",
    "gcp.vertex_ai",
    "groq",
    "ibm.watsonx.ai",
    "mistral_ai",
    "openai",
    "perplexity",
    "x_ai",
)
"""The conventions' names."""

# In lower case, with "_" for every other separator.
_SPELLINGS = {
    "anthropic": ("anthropic_text",),
    "aws.bedrock": (
        *("aws", "amazon", "amazon_bedrock", "aws_bedrock", "bedrock", "bedrock_converse"),
        *("anthropic_bedrock", "bedrock_runtime"),
    ),
    "azure.ai.inference": (
        *("az_ai_inference", "azure_ai", "azure_ai_foundry", "azure_ai_inference"),
        *("azure_ai_studio", "azure_foundry"),
    ),
    "azure.ai.openai": (
        *("az_ai_openai", "azure", "azure_ai_openai", "azure_openai", "azure_text"),
        *("azureopenai", "microsoft_azure"),
    ),
    "cohere": ("cohere_ai", "cohere_chat"),
    "deepseek": ("deepseek_ai",),
    "gcp.gemini": (
        *("ai_studio", "gcp_gemini", "gemini", "google_ai", "google_ai_studio", "google_gemini"),
        "google_gla",
    ),
    "gcp.gen_ai": ("gcp_gen_ai", "google", "google_genai", "google_gen_ai"),
    "gcp.vertex_ai": (
        *("anthropic_vertex", "gcp_vertex_ai", "google_anthropic_vertex", "google_vertex"),
        *("google_vertex_ai", "google_vertexai", "vertex", "vertex_ai", "vertex_ai_beta"),
        "vertexai",
    ),
    "groq": ("groq_cloud",),
    "ibm.watsonx.ai": ("ibm", "ibm_watsonx", "ibm_watsonx_ai", "watsonx", "watsonx_ai"),
    "mistral_ai": ("mistral", "mistralai", "codestral"),
    "openai": ("open_ai", "openai_chat", "openai_responses", "text_completion_openai"),
    "perplexity": ("perplexity_ai", "pplx"),
    "x_ai": ("grok", "xai"),
}
_SEPARATORS = re.compile(r"[\s./_-]+")


def _normalized(name: str) -> str:
    return _SEPARATORS.sub("_", name.strip().lower())


_NAMES = {_normalized(name): name for name in WELL_KNOWN} | {
    spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings
}


def well_known(name: str) -> str:
    """Return the conventions' name of a provider.

    Args:
        name: A usual spelling in any case, such as ``Bedrock``, ``azure_openai`` or ``vertexai``.

    Returns:
        Such as ``aws.bedrock``. A name that is not known is returned unchanged.
    """
    return _NAMES.get(_normalized(name), name)
