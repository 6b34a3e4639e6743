"""Which seller a model's name or a provider's label names, and how the price list spells it.

The prefixes are those of LiteLLM's names (docs.litellm.ai/docs/providers) and, before a colon, of
pydantic-ai's and LangChain's, the other forms those of Amazon Bedrock's model ids, inference profiles
and ARNs, of Vertex AI's publisher models, and of Fireworks' accounts. The sellers are ids of the
``genai-prices`` list.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from genmeter.schema.providers import well_known

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

__all__ = ["Place", "has_local_tag", "is_finer", "place_at", "place_of", "seller_of", "spellings"]

_SELLERS = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
}
# Sellers without a name in the conventions, by the spellings of LiteLLM and of their own packages.
_OTHER_SELLERS = {
    "fireworks_ai": "fireworks",
    "fireworks-ai": "fireworks",
    "github_copilot": "github-copilot",
    "moonshot": "moonshotai",
    "moonshot_ai": "moonshotai",
    "novita_ai": "novita",
    "novita-ai": "novita",
    "open_router": "openrouter",
    "together_ai": "together",
    "together-ai": "together",
    "togetherai": "together",
    "voyage": "voyageai",
    "voyage_ai": "voyageai",
}
# Labels that name no seller: a client of many, and the placeholders of an unknown one.
_NO_SELLER = frozenset({"", "_other", "litellm", "other", "unknown"})

_PREFIXES = {
    "anthropic": "anthropic",
    "anthropic_text": "anthropic",
    "azure": "azure",
    "azure_text": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "codestral": "mistral",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "github_copilot": "github-copilot",
    "moonshot": "moonshotai",
    "text-completion-codestral": "mistral",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "google",
    "vertex_ai_beta": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}
# Prefixes whose price depends on more than the name: perplexity/sonar has a fee by request and
# context, azure_ai/ and litellm_proxy/ hide who answers.
_OPEN_PREFIXES = frozenset({"azure_ai", "litellm_proxy", "perplexity"})

_BEDROCK = re.compile(
    r"(?:[a-z]{2,6}(?:-gov)?\.)?(?:ai21|amazon|anthropic|cohere|deepseek|google|luma|meta|minimax"
    r"|mistral|moonshot|moonshotai|nvidia|openai|qwen|stability|twelvelabs|writer|zai)\.[a-z]"
)
_BEDROCK_PROFILE = re.compile(r"[a-z]{2,6}(?:-gov)?\.(?=[a-z0-9]+\.[a-z])")
_BEDROCK_PARTS = re.compile(r"(?:converse|invoke|converse_like|[a-z]{2}(?:-[a-z]+)+-\d)/")
_COMMITMENT = re.compile(r"\d+-month-commitment/")
_ARN = re.compile(
    r"arn:aws[a-z-]*:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(.+)", re.IGNORECASE
)
_FORMS = (
    ("models/", "google"),
    ("publishers/", "google"),
    ("projects/", "google"),
    ("accounts/", "fireworks"),
    ("@cf/", "cloudflare"),
    ("ft:", "openai"),
)
_COLON = re.compile(r"([a-z0-9_-]+):(?=.)")
"""A prefix as pydantic-ai and LangChain's ``init_chat_model`` have it: ``openai:gpt-4o``."""
_LOCAL_TAG = re.compile(r".+:(?:latest|\d+(?:\.\d+)?[bm])(?:-.*)?")
_PUBLISHED = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/models/(.+)")


class Place(NamedTuple):
    """Where a name is to be looked up.

    Attributes:
        seller: The seller's id in the list; None if the name does not say.
        name: The seller's own name of the model.
        is_open: Whether the name says that its seller cannot be known.
        is_opaque: Whether not even the seller knows the price by this name, as with an application's
            inference profile at Amazon Bedrock.
    """

    seller: str | None
    name: str
    is_open: bool = False
    is_opaque: bool = False


def seller_of(provider: str | None) -> str | None:
    """Return the id of a provider's label in the list, or the label if the list has no such seller.

    Returns:
        None without a label, and for a label that names no seller.
    """
    label = "" if provider is None else provider.strip().lower()
    if label in _NO_SELLER:
        return None
    known = well_known(label)
    return _SELLERS.get(known) or _OTHER_SELLERS.get(known, known)


def place_of(name: str, sellers: Container[str]) -> Place:
    """Return which seller a model's name names, by its form alone.

    Args:
        name: Such as ``gpt-4o``, ``bedrock/us.anthropic.claude-3-haiku-20240307-v1:0``.
        sellers: The ids of the list.
    """
    lower = name.lower()
    if lower.startswith("arn:"):
        return Place("aws", name, is_opaque=not _bedrock_name(name))
    for start, seller in _FORMS:
        if lower.startswith(start):
            return Place(seller, name)
    found = _COLON.match(lower)
    if found and (found[1] in _OPEN_PREFIXES or seller_of(found[1]) in sellers):
        return _place_after(found[1], seller_of(found[1]), name[found.end() :])
    if "/" in name:
        return _place_of_prefix(name, sellers)
    return Place("aws" if _BEDROCK.match(lower) else None, name)


def _place_of_prefix(name: str, sellers: Container[str]) -> Place:
    prefix, _, rest = name.partition("/")
    prefix = prefix.lower()
    if prefix == "huggingface":
        partner, slash, model = rest.partition("/")
        if slash and f"huggingface_{partner.lower()}" in sellers:
            return Place(f"huggingface_{partner.lower()}", model)
    seller = _PREFIXES.get(prefix, prefix if prefix in sellers else None)
    if seller is None and prefix not in _OPEN_PREFIXES:
        return Place(None, name)
    return _place_after(prefix, seller, rest)


def _place_after(prefix: str, seller: str | None, name: str) -> Place:
    if prefix in _OPEN_PREFIXES:
        return Place(None, name, is_open=True)
    return Place(seller, name, is_opaque=seller == "aws" and not _bedrock_name(name))


def place_at(seller: str, name: str) -> Place:
    """Return where to look up a name at a seller that a label names."""
    if seller in {"huggingface", "hugging_face"}:
        # The router's names end in the partner who answers: "meta-llama/...:together".
        model, colon, partner = name.rpartition(":")
        if colon:
            return Place(f"huggingface_{partner.lower()}", model)
    return Place(seller, name)


def spellings(seller: str, name: str, sellers: Container[str]) -> Iterator[str]:
    """Yield the names under which a seller's list may have a model, the most exact first."""
    if (found := _COLON.match(name.lower())) and seller_of(found[1]) == seller:
        name = name[found.end() :]
    if seller == "aws":
        name = _bedrock_name(name)
        if not name:
            return
    yield name
    place = place_of(name, sellers)
    prefix, slash, rest = name.partition("/")
    if place.seller == seller and place.name != name:
        yield from spellings(seller, place.name, sellers)
    elif slash and seller_of(prefix) == seller:
        yield rest
    elif seller == "google":
        found = _PUBLISHED.fullmatch(name)
        base = found[1] if found else name.removeprefix("models/")
        yield from (base, base.replace("@", "-"), base.partition("@")[0])
    elif seller == "fireworks" and "/" not in name:
        yield f"accounts/fireworks/models/{name}"


def is_finer(asked: str, answered: str) -> bool:
    """Return whether an asked name says more of the price than the answering one.

    Bedrock answers by the model and not by the inference profile, OpenRouter without the variant,
    and a fine-tuned model may answer by its base.
    """
    asked, answered = asked.lower(), answered.lower()
    if asked.startswith((f"{answered}:", f"ft:{answered}")):
        return True
    profile = _BEDROCK_PROFILE.match(asked.rpartition("/")[2])
    return profile is not None and answered in asked


def has_local_tag(name: str) -> bool:
    """Return whether a name ends in a size or a version as Ollama's do: ``deepseek-r1:8b``."""
    return _LOCAL_TAG.fullmatch(name.lower()) is not None


def _bedrock_name(name: str) -> str:
    """Return the model's id, or its profile's.

    Returns:
        Empty for throughput that is bought by the month, and for the ARNs of an application's
        inference profile and of custom, imported and provisioned models.
    """
    for prefix in ("bedrock/", "bedrock_converse/"):
        if name.lower().startswith(prefix):
            name = name[len(prefix) :]
    while part := _BEDROCK_PARTS.match(name):
        name = name[part.end() :]
    if _COMMITMENT.match(name):
        return ""
    if not name.lower().startswith("arn:"):
        return name
    found = _ARN.fullmatch(name)
    return found[1] if found else ""
