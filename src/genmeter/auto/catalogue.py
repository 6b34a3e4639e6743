"""The clients and frameworks that call models, and what can watch each."""

from __future__ import annotations

from typing import NamedTuple

from genmeter.hooks.frameworks import FRAMEWORKS

__all__ = ["AFTERIMAGE", "CLIENTS", "LIMITS", "Client", "rank"]


class Client(NamedTuple):
    """A client of a vendor's API, or a framework that calls models.

    Attributes:
        name: As users know it.
        module: The module whose import shows that the job uses it.
        parts: The last part of the modules of its instrumentations, as in
            ``opentelemetry.instrumentation.genai.openai``; the first is the preferred one.
        hook: The name of its hook in :mod:`genmeter.hooks`; None without one.
        is_patchable: Whether :mod:`genmeter.clients` can watch its client classes.
        has_spans: Whether it may have spans of its own.
        is_framework: Whether it calls models through other clients, which are watched themselves.
        is_general: Whether jobs import it for other purposes too.
    """

    name: str
    module: str
    parts: tuple[str, ...] = ()
    hook: str | None = None
    is_patchable: bool = False
    has_spans: bool = False
    is_framework: bool = False
    is_general: bool = False


def _hooked(name: str, *parts: str, module: str | None = None, is_framework: bool = True) -> Client:
    row = FRAMEWORKS[name]
    return Client(row.title, module or row.module, parts, hook=name, is_framework=is_framework)


AFTERIMAGE = "afterimage"
"""The module of AfterImage, whose monitor :mod:`genmeter.patch` replaces."""
CLIENTS = (
    Client("AfterImage", AFTERIMAGE, is_framework=True),
    Client("OpenAI", "openai", ("openai", "openai_v2"), is_patchable=True),
    Client("Anthropic", "anthropic", ("anthropic",), is_patchable=True, has_spans=True),
    Client(
        "Google Gen AI",
        "google.genai",
        ("google_genai", "google_generativeai"),
        is_patchable=True,
    ),
    Client("Groq", "groq", ("groq",), is_patchable=True),
    Client("Cerebras", "cerebras.cloud.sdk", ("cerebras",), is_patchable=True),
    Client("Together", "together", ("together",), is_patchable=True),
    Client("Mistral", "mistralai", ("mistralai",)),
    Client("Cohere", "cohere", ("cohere",)),
    Client("Ollama", "ollama", ("ollama",)),
    Client("xAI", "xai_sdk", ("xai_sdk", "xai")),
    Client("Vertex AI", "vertexai", ("vertexai",)),
    Client("Replicate", "replicate", ("replicate",)),
    Client("watsonx", "ibm_watsonx_ai", ("watsonx",)),
    Client("Writer", "writerai", ("writer",), is_patchable=True),
    Client("Bedrock by botocore", "botocore", ("bedrock",), is_general=True),
    _hooked("vllm", "vllm", is_framework=False),
    _hooked("litellm", "litellm"),
    _hooked("langchain", "langchain"),
    _hooked("llama_index", "llama_index", "llamaindex", module="llama_index.core"),
    _hooked("dspy", "dspy"),
    _hooked("inspect_ai"),
    _hooked("lm_eval"),
    _hooked("ragas"),
    # Its packages share a namespace, whose own import nothing sees.
    _hooked("data_designer", module="data_designer.config"),
)
"""In the order in which they are reported."""

LIMITS = {
    "opentelemetry.instrumentation.openai": "cancelled calls and truncated responses are not seen, nor that a "
    "stream broke",
    "opentelemetry.instrumentation.anthropic": "cancelled calls, and streams that are left or break, are not seen",
    "opentelemetry.instrumentation.google_generativeai": "cancelled calls, embeddings and failed streams are not "
    "seen",
    "opentelemetry.instrumentation.langchain": "embeddings are not seen",
    "openinference.instrumentation.langchain": "cancelled calls and embeddings are not seen",
    "opentelemetry.instrumentation.genai.langchain": "embeddings are not seen",
    "opentelemetry.instrumentation.openai_v2": "cancelled calls and the Responses API are not seen",
}
"""Calls that an instrumentation, by its module, writes no span of, or not how they end: docs/integrations.md."""

# The namespaces of OpenTelemetry's GenAI packages, of OpenInference, and of OpenLLMetry and the older
# ones of opentelemetry-python-contrib.
_NAMESPACES = (
    "opentelemetry.instrumentation.genai",
    "openinference.instrumentation",
    "opentelemetry.instrumentation",
)
# OpenTelemetry's GenAI package for Google's client kept the module of the older one.
_OFFICIAL = ("opentelemetry.instrumentation.google_genai",)
# It needs a version of opentelemetry-util-genai that the GenAI packages do not go with.
_LAST = ("opentelemetry.instrumentation.openai_v2",)


def rank(client: Client, module: str) -> tuple[int, int] | None:
    """Return the place of an instrumentation in the order of preference; None if it is of another client.

    OpenTelemetry's GenAI packages come first, then OpenInference's, OpenLLMetry's and the older ones of
    opentelemetry-python-contrib: in the order of how much their spans say.

    Args:
        client: The client.
        module: The module of the instrumentor.
    """
    namespace, _, part = module.rpartition(".")
    if part not in client.parts or namespace not in _NAMESPACES:
        return None
    if module in _LAST:
        place = len(_NAMESPACES)
    else:
        place = 0 if module in _OFFICIAL else _NAMESPACES.index(namespace)
    return place, client.parts.index(part)
