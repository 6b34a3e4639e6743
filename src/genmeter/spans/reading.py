"""Reads what a finished span, or a log event, says of a call; unreadable values count as absent."""

from __future__ import annotations

import ast
import json
import math
from typing import TYPE_CHECKING, Any

from genmeter.call.attempts import CallUsage
from genmeter.events.answers import Answer, CallDetails, Unread
from genmeter.events.billing import answer_of
from genmeter.events.capture import capture_label
from genmeter.events.values import MAX_COUNT, UNREADABLE
from genmeter.observed.identity import OUTSIDE
from genmeter.observed.model import ObservedCall
from genmeter.spans import names
from genmeter.usage.finish import is_truncated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan

    from genmeter.observed.identity import CallIdentity
    from genmeter.observed.model import SpanNode

__all__ = ["is_opening", "operation_of", "read_event", "read_span", "span_type"]

_NANO = 1e9
_MAX_TEXT = 65_536  # characters of JSON or of a Python dict that are parsed
_MAX_CHOICES = 128
_GOOGLE = "opentelemetry.instrumentation.google_generativeai"
_PARTS = (
    *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
    *("cache_write_1h_token_count", "input_audio_token_count", "output_audio_token_count"),
)
_CANCELLED = "CancelledError"
_OTHER = "_OTHER"  # an unknown class, by the conventions


def operation_of(attributes: Mapping[str, Any] | None) -> str | None:
    """Return the operation of a span that is a call, by the conventions' name; None if it is none."""
    if not attributes:
        return None
    operation = attributes.get(names.OPERATION)
    if operation is not None:
        return names.CALLS.get(operation) if type(operation) is str else None
    kind = attributes.get(names.KIND)
    return names.KINDS.get(kind) if type(kind) is str else None


def span_type(attributes: Mapping[str, Any] | None) -> str | None:
    """Return logfire's type of a span: ``span``, ``pending_span`` or ``log``; None of others."""
    found = None if attributes is None else attributes.get("logfire.span_type")
    return found if type(found) is str else None


def is_opening(attributes: Mapping[str, Any], call: ObservedCall) -> bool:
    """Return whether a call is only logfire's request of a stream, whose end is reported apart."""
    return (
        span_type(attributes) == "span"
        and call.keywords.get("operation") == "chat"
        and call.success
        and call.response_id is None
        and not call.details.answers
    )


def read_span(span: ReadableSpan, source: str, node: SpanNode | None) -> ObservedCall | None:
    """Return the call that a span reports.

    Args:
        span: A finished span.
        source: Name of its scope.
        node: Where it is among the others.

    Returns:
        The call; None if it is none.
    """
    attributes = dict(span.attributes or {})  # each look-up in the SDK's own mapping takes a lock
    operation = operation_of(attributes)
    if operation is None:
        return None
    began, ended = span.start_time or 0, span.end_time or 0
    duration = max(0, ended - began) / _NANO
    if span_type(attributes) == "log":
        duration = _seconds(attributes.get("duration")) or duration
    events = span.events or ()
    has_failed = span.status.status_code.name == "ERROR"
    cause = _cause(attributes, events)
    if source in names.ANSWERING_SCOPES and not has_failed and not _has_answer(attributes):
        cause, has_failed = _CANCELLED, True
    context = span.get_span_context()
    call = _read(
        attributes,
        operation,
        source,
        has_failed=has_failed,
        cause=cause,
        first_chunk=_first_chunk(attributes, events, began),
        step=None if node is None else node.step,
    )
    return call._replace(
        ended=ended / _NANO,
        duration=duration,
        span=context if context is not None and context.trace_flags.sampled else None,
        node=node,
        identity=None if node is None else node.identity,
    )


def outside(source: str) -> CallIdentity | None:
    """Return the identity of a call that begins in no framework's: known only if a client reports it.

    What instruments a framework may be around the framework's call.

    Args:
        source: Name of the scope.
    """
    name = source.removesuffix(".v1")
    is_client = name in names.CLIENT_SCOPES or name.rpartition(".")[2] in names.CLIENTS
    return OUTSIDE if is_client else None


def read_event(
    attributes: Mapping[str, Any],
    source: str,
    ended: float,
    *,
    node: SpanNode | None,
    step: str | None,
) -> ObservedCall | None:
    """Return the call that a log event reports; its duration is unknown.

    Args:
        attributes: Those of the event.
        source: Name of its scope.
        ended: Unix time of the event, in seconds.
        node: That of its span, if it has one.
        step: The step that it was emitted in.
    """
    operation = operation_of(attributes)
    if operation is None:
        return None
    cause = _cause(attributes, ())
    call = _read(
        attributes,
        operation,
        source,
        has_failed=cause is not None,
        cause=cause,
        first_chunk=_seconds(_first(attributes, names.FIRST_CHUNK)),
        step=step,
    )
    return call._replace(ended=ended, node=node)


def _read(
    attributes: Mapping[str, Any],
    operation: str,
    source: str,
    *,
    has_failed: bool,
    cause: str | None,
    first_chunk: float | None,
    step: str | None,
) -> ObservedCall:
    is_cancelled = cause in names.CANCELLED
    counts, unread = _counts(attributes, source, operation)
    reasons = _reasons(attributes)
    answered = _text(attributes, names.RESPONSE_MODEL)
    model = _text(attributes, names.MODEL) or _invoked(attributes) or answered
    tier = _text(attributes, names.SERVICE_TIER)
    costs = (_seconds(attributes.get(each)) for each in names.COST)
    cost = next((each for each in costs if each is not None), None)
    keywords: dict[str, Any] = {
        **counts,
        "operation": operation,
        "model_name": model,
        "response_model": answered,
        "provider": _provider(attributes),
        "finish_reason": next((each for each in reasons if is_truncated(each)), None)
        or next(iter(reasons), None),
        "service_tier": tier,
        "cost": cost,
        "step": step,
    }
    if has_failed and not is_cancelled:
        keywords["error_type"] = cause
    keywords = {name: value for name, value in keywords.items() if value is not None}
    is_known = any(name.startswith(("prompt", "completion", "total")) for name in counts)
    if not is_known and unread is None:
        unread = Unread("not_in_span", source)
    details = CallDetails(
        (_answer(keywords, answered, reasons),) if is_known else (),
        is_cancelled=is_cancelled,
        unread=unread,
        first_chunk=first_chunk,
    )
    response_id = _text(attributes, names.RESPONSE_ID)
    success = not has_failed and not is_cancelled
    return ObservedCall(source, 0.0, None, success, keywords, details, None, response_id)


def _answer(keywords: dict[str, Any], model: str | None, reasons: tuple[str, ...]) -> Answer:
    get = keywords.get
    prompt, completion, total = (
        get(f"{name}_token_count") for name in ("prompt", "completion", "total")
    )
    parts = (get(f"{name}_token_count") for name in ("cache_read", "cache_write", "reasoning"))
    read, write, reasoning = parts
    tokens = (prompt, completion, total, read, write, reasoning)
    found = answer_of(tokens, keywords, model=model)  # type: ignore[arg-type] # None is unknown
    return found._replace(finish_reasons=reasons)


# --- values --------------------------------------------------------------------------------------


def _first(attributes: Mapping[str, Any], keys: Iterable[str]) -> Any:
    for key in keys:
        value = attributes.get(key)
        if value is not None and value != "":
            return value
    return None


def _text(attributes: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    for key in keys:
        value = attributes.get(key)
        if type(value) is str and value.strip():
            return capture_label(value)
    return None


def _count(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def _why_no_count(value: Any) -> str:
    """Return what a value is that is no count; one of few texts."""
    if type(value) not in (int, float):
        return "no number"
    if not math.isfinite(value):
        return "not finite"
    if value < 0:
        return "negative"
    return "too large" if value > MAX_COUNT else "a fraction"


def _seconds(value: Any) -> float | None:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _provider(attributes: Mapping[str, Any]) -> str | None:
    found = _text(attributes, names.PROVIDER)
    if found is None:
        before, slash, _ = (_text(attributes, ("litellm.provider.model",)) or "").partition("/")
        found = before if slash and before else None
    return found


def _invoked(attributes: Mapping[str, Any]) -> str | None:
    for key in names.INVOCATIONS:
        parsed = _parsed(attributes.get(key))
        model = parsed.get("model") if parsed is not None else None
        if type(model) is str and model:
            return capture_label(model)
    return None


def _parsed(text: Any) -> dict[str, Any] | None:
    """Parse the JSON of an object, or the text of a Python dict."""
    if type(text) is not str or not text.startswith("{") or len(text) > _MAX_TEXT:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (*UNREADABLE, RecursionError, MemoryError):
            continue
        if type(found) is dict:
            return found
    return None


def _counts(
    attributes: Mapping[str, Any], source: str, operation: str
) -> tuple[dict[str, int], Unread | None]:
    """Return the token counts, and what an attribute has instead of one that is missing then."""
    counts: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for keyword, keys in names.COUNTS.items():
        for key in keys:
            value = attributes.get(key)
            if value is None or value == "":
                continue
            count = _count(value)
            if count is not None:
                counts[keyword] = count
                wrong.pop(keyword, None)
                break
            wrong.setdefault(keyword, f"{source}: {key} is {_why_no_count(value)}")
    raw = next((r for key in names.RAW_USAGE if (r := _parsed(attributes.get(key)))), None)
    if raw is not None and "prompt_token_count" in counts:
        _add_raw(counts, raw)
    prompt, completion = counts.get("prompt_token_count"), counts.get("completion_token_count")
    total = counts.get("total_token_count")
    if operation == "embeddings" and completion is None and prompt is not None:
        counts["completion_token_count"] = 0
    elif source == _GOOGLE and total and prompt is not None and completion is not None:
        # Its output is without the thoughts, which are billed as output.
        thoughts = total - prompt - completion
        if thoughts > 0 and "reasoning_token_count" not in counts:
            counts["completion_token_count"] = completion + thoughts
            counts["reasoning_token_count"] = thoughts
    if {"prompt_token_count", "completion_token_count"} <= counts.keys():
        wrong.pop("total_token_count", None)  # it is their sum
    shown = next((text for keyword, text in wrong.items() if keyword not in counts), None)
    return counts, None if shown is None else Unread("not_a_count", shown)


def _add_raw(counts: dict[str, int], raw: dict[str, Any]) -> None:
    """Add the parts that only the vendor's own usage has, if it is of the same tokens."""
    usage = CallUsage()
    if not usage.read({"usage": raw}):
        return
    found = usage.summarise(service_tier=None, is_batch=False).keywords
    if found.get("prompt_token_count") != counts["prompt_token_count"]:
        return
    for name in _PARTS:
        if counts.get(name) is None and (count := _count(found.get(name))):
            counts[name] = count


def _has_answer(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span says anything of a response."""
    keys = (*names.RESPONSE_MODEL, *names.RESPONSE_ID, *names.FINISH_REASONS, names.STATUS_CODE)
    counts = (key for each in names.COUNTS.values() for key in each)
    return _first(attributes, (*keys, *counts)) is not None


def _reasons(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    found = _first(attributes, names.FINISH_REASONS)
    if type(found) is str:
        if found.startswith("["):
            try:
                found = json.loads(found[:_MAX_TEXT])
            except (ValueError, RecursionError):  # the latter of deep nesting
                return ()
        else:
            found = [found]
    if not isinstance(found, list | tuple):
        return ()
    texts = [capture_label(each) for each in found[:_MAX_CHOICES] if type(each) is str and each]
    return tuple(each.lower() for each in texts if each)


def _cause(attributes: Mapping[str, Any], events: Iterable[Any]) -> str | None:
    cause = _text(attributes, names.CAUSES)
    if cause is None or cause == _OTHER:
        name, key = names.ERROR_EVENT
        for event in events:
            if event.name == name:
                cause = _text(event.attributes or {}, (key,)) or cause
    if cause is None:
        return None
    if cause.startswith("<class '") and cause.endswith("'>"):
        cause = cause[8:-2]
    return cause.rpartition(".")[2] or cause


def _first_chunk(attributes: Mapping[str, Any], events: Iterable[Any], began: int) -> float | None:
    seconds = _seconds(_first(attributes, names.FIRST_CHUNK))
    if seconds is not None:
        return seconds
    for event in events:
        if event.name in names.FIRST_CHUNK_EVENTS:
            return float(max(0, event.timestamp - began) / _NANO)
    return None
