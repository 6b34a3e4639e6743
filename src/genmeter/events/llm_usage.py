"""Reads token counts, finish reasons and model names from what vendors' clients return.

Objects are distinguished by the names of their attributes or keys, so no vendor's package is
imported. Understood are, as objects and as the dicts of their JSON:

* OpenAI's chat completions, which many others speak, and its responses;
* Anthropic's messages;
* Google's ``generate_content``;
* AfterImage's ``CommonLLMResponse``.

Nothing here raises: an unreadable value counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from numbers import Integral
from typing import Any, NamedTuple

from genmeter.events.values import UNREADABLE

__all__ = ["TokenCounts", "read_finish_reason", "read_model", "read_usage"]

_HOLDERS = ("usage", "usage_metadata", "usageMetadata")


class TokenCounts(NamedTuple):
    """Token counts of one call; None where the object does not say.

    The counts follow the OpenTelemetry GenAI conventions: ``input`` includes the tokens that
    were read from and written to a cache, ``output`` the reasoning tokens. They are whole
    numbers as the vendor gave them, not checked any further.

    Attributes:
        input: Input (prompt) tokens.
        output: Output (completion) tokens.
        total: The vendor's own total, which may exceed the two.
        cache_read: The part of the input that was read from a cache.
        cache_write: The part of the input that was written to a cache.
        reasoning: The part of the output that was reasoning.
    """

    input: int | None = None
    output: int | None = None
    total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


_NOTHING = TokenCounts()


def read_usage(obj: Any) -> TokenCounts | None:
    """Read token counts from a usage object, or from a response that contains one.

    Args:
        obj: Anything; objects of the vendors named in the module's text are understood.

    Returns:
        The counts, or None where none was found.
    """
    for name in _HOLDERS:
        holder = _get(obj, name)
        if holder is not None and (counts := _read_counts(holder)):
            return counts
    return _read_counts(obj)


def read_finish_reason(obj: Any) -> str | None:
    """Read why a call ended from a response object, in the vendor's own spelling.

    Args:
        obj: Anything; the first choice or candidate counts where there are several. For a response
            of OpenAI's Responses API it is the reason that it is incomplete, else its status.

    Returns:
        The reason, or None where none was found.
    """
    places = (
        (obj, "finish_reason"),
        (obj, "stop_reason"),
        (_first(_get(obj, "choices")), "finish_reason"),
        (_first(_get(obj, "candidates")), "finish_reason"),
        (_first(_get(obj, "candidates")), "finishReason"),
    )
    for holder, name in places:
        if reason := _text(_get(holder, name)):
            return reason
    if _text(_get(obj, "object")) == "response":
        return _text(_get(_get(obj, "incomplete_details"), "reason")) or _text(_get(obj, "status"))
    return None


def read_model(obj: Any) -> str | None:
    """Read the name of the model that answered from a response object.

    Args:
        obj: Anything.

    Returns:
        The name, or None where none was found.
    """
    for name in ("model", "model_version", "modelVersion", "model_name"):
        if model := _text(_get(obj, name)):
            return model
    return None


def _read_counts(usage: Any) -> TokenCounts | None:
    for read in (_read_openai_chat, _read_input_output, _read_token_count):
        counts = read(usage)
        if counts is not None and counts != _NOTHING:
            return counts
    return None


def _read_openai_chat(usage: Any) -> TokenCounts | None:
    inputs, outputs = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if inputs is None and outputs is None:
        return None
    details = _get(usage, "prompt_tokens_details")
    cache_read = _count(details, "cached_tokens")
    if cache_read is None:
        # DeepSeek speaks the same, but has its cached tokens beside the others.
        cache_read = _count(usage, "prompt_cache_hit_tokens")
    return TokenCounts(
        inputs,
        outputs,
        total=_count(usage, "total_tokens"),
        cache_read=cache_read,
        cache_write=_count(details, "cache_write_tokens"),
        reasoning=_count(_get(usage, "completion_tokens_details"), "reasoning_tokens"),
    )


def _read_input_output(usage: Any) -> TokenCounts | None:
    """Read the names that OpenAI's Responses and Anthropic's Messages share.

    Anthropic's ``input_tokens`` leaves cached tokens out, where the OpenTelemetry conventions say
    that ``gen_ai.usage.input_tokens`` should include ``gen_ai.usage.cache_read.input_tokens`` and
    ``gen_ai.usage.cache_creation.input_tokens`` (the attribute registry of
    open-telemetry/semantic-conventions-genai). So they are added; only Anthropic names them so.
    """
    inputs, outputs = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if inputs is None and outputs is None:
        return None
    total = _count(usage, "total_tokens")
    details = _get(usage, "input_tokens_details")
    cache_read = _count(details, "cached_tokens")
    cache_write = _count(details, "cache_write_tokens")
    if cache_read is None and cache_write is None:
        cache_read = _count(usage, "cache_read_input_tokens")
        cache_write = _count(usage, "cache_creation_input_tokens")
        inputs = _sum(inputs, cache_read, cache_write)
    reasoning = _count(_get(usage, "output_tokens_details"), "reasoning_tokens")
    return TokenCounts(inputs, outputs, total, cache_read, cache_write, reasoning)


def _read_token_count(usage: Any) -> TokenCounts:
    """Read Google's names, in Python's spelling and in JSON's, and AfterImage's.

    Google's ``candidates_token_count`` leaves the thoughts out, and its ``prompt_token_count`` the
    prompts of tools, so they are added. Its cached tokens are a part of the prompt already.
    """

    def count(name: str) -> int | None:
        found = _count(usage, name)
        if found is None:
            head, *rest = name.split("_")
            found = _count(usage, head + "".join(word.title() for word in rest))
        return found

    thoughts = count("thoughts_token_count")
    completion = count("completion_token_count")
    return TokenCounts(
        input=_sum(count("prompt_token_count"), count("tool_use_prompt_token_count")),
        output=_sum(count("candidates_token_count"), thoughts)
        if completion is None
        else completion,
        total=count("total_token_count"),
        cache_read=count("cached_content_token_count"),
        reasoning=thoughts,
    )


def _get(obj: Any, name: str) -> Any:
    """The attribute or key of that name, or None, also where reading it raises."""
    try:
        if type(obj) is dict or isinstance(obj, Mapping):
            return obj.get(name)
        return getattr(obj, name, None)
    except UNREADABLE:
        return None


def _first(items: Any) -> Any:
    try:
        return items[0]
    except UNREADABLE:
        return None


def _count(obj: Any, name: str) -> int | None:
    # By type(): a mock with a spec says through isinstance() that it is an int.
    value: Any = _get(obj, name)
    if type(value) is int:
        return value
    try:
        if type(value) is bool or not issubclass(type(value), Integral):
            return None
        return int(value)
    except UNREADABLE:
        return None


def _text(value: Any) -> str | None:
    try:
        if isinstance(value, Enum):
            value = value.value if isinstance(value.value, str) else value.name
        if issubclass(type(value), str):
            return str.strip(value) or None
    except UNREADABLE:
        return None
    return None


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
