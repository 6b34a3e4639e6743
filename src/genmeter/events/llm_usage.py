"""Reads token counts, finish reasons and model names from the responses of vendors' clients.

Objects are distinguished by the names of their attributes or keys, so no vendor's package is
imported. Supported formats, as objects and as dicts of their JSON:

* OpenAI's chat completions, which many others use, and its responses;
* Anthropic's messages;
* Google's ``generate_content``;
* AfterImage's ``CommonLLMResponse``.

The functions never raise: an unreadable value counts as absent.
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
    """Token counts of one call; None if unknown.

    The counts follow the OpenTelemetry GenAI conventions: ``input`` includes the tokens that
    were read from and written to a cache, ``output`` the reasoning tokens. They are integers as
    the vendor reported them, without further checks.

    Attributes:
        input: Input (prompt) tokens.
        output: Output (completion) tokens.
        total: The vendor's own total, which may exceed their sum.
        cache_read: Input tokens read from a cache.
        cache_write: Input tokens written to a cache.
        reasoning: Output tokens of reasoning.
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

    Returns:
        The counts; None if the object has none.
    """
    for name in _HOLDERS:
        holder = _get(obj, name)
        if holder is not None and (counts := _read_counts(holder)):
            return counts
    return _read_counts(obj)


def read_finish_reason(obj: Any) -> str | None:
    """Read the finish reason from a response object, in the vendor's spelling.

    If there are several choices or candidates, the first one counts. For OpenAI's Responses API the
    reason is that of an incomplete response, else the response's status.

    Returns:
        The reason; None if the object has none.
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
    """Read the model's name from a response object; None if it has none."""
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
        # DeepSeek uses the same format, with the cached tokens outside the details.
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

    Anthropic's ``input_tokens`` excludes cached tokens. By the OpenTelemetry conventions
    ``gen_ai.usage.input_tokens`` should include ``gen_ai.usage.cache_read.input_tokens`` and
    ``gen_ai.usage.cache_creation.input_tokens`` (the attribute registry of
    open-telemetry/semantic-conventions-genai), so they are added; only Anthropic uses these names.
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
    """Read Google's names, in snake case and in camel case, and AfterImage's.

    Google's ``candidates_token_count`` excludes the thoughts, and ``prompt_token_count`` the prompts
    of tools, so they are added. Its prompt includes the cached tokens.
    """

    def count(name: str) -> int | None:
        found = _count(usage, name)
        if found is None:
            head, *rest = name.split("_")
            found = _count(usage, head + "".join(word.title() for word in rest))
        return found

    thoughts = count("thoughts_token_count")
    output = count("completion_token_count")
    if output is None:
        output = _sum(count("candidates_token_count"), thoughts)
    return TokenCounts(
        input=_sum(count("prompt_token_count"), count("tool_use_prompt_token_count")),
        output=output,
        total=count("total_token_count"),
        cache_read=count("cached_content_token_count"),
        reasoning=thoughts,
    )


def _get(obj: Any, name: str) -> Any:
    """Return an attribute or a key's value; None if it does not exist or reading it raises."""
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
    # By type(): a mock with a spec passes isinstance().
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
