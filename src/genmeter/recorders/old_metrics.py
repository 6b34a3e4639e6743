"""The metrics that AfterImage's monitor made of an event: its names, values and metadata.

Handlers, the journal and exports speak these names. Each row's metadata says whose it is, so that a
journal can be summed by model and step without a look at its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events import Evaluation, Event, Generation, Metric
from genmeter.labels import UNREADABLE, safe_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["RESERVED", "OldSample", "free_data", "metric_data", "samples_of", "score_data"]

RESERVED = frozenset(
    {
        *("metric", "metric_name", "value", "timestamp", "phase", "model_name", "step"),
        *("provider", "success", "error_type", "evaluator_type", "feedback"),
        *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
    }
)
"""Keys of a row's metadata that have a meaning of their own; the caller's get a ``_`` instead."""

# What has a place of its own in an event, and so is no free data.
_KNOWN_KEYWORDS = frozenset(
    {
        *("prompt_token_count", "completion_token_count", "total_token_count"),
        *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
        *("model_name", "finish_reason", "error", "error_type", "conversation_length", "turns"),
        *("retries", "provider", "operation", "step", "modality", "metadata"),
    }
)
_OWN = frozenset({"metric", "metric_name", "value", "timestamp"})  # what each row has
_KNOWN_METADATA = frozenset({"operation", "error_type"})
_NO_PROVIDER = "_OTHER"


class OldSample(NamedTuple):
    """One row: ``metadata`` has no time stamp, which is the event's.

    Rows of one event share their metadata where it is the same; no two events do.
    """

    name: str
    value: float
    metadata: dict[str, Any]


def samples_of(event: Event) -> list[OldSample]:
    """Give the rows of an event, in AfterImage's order; none for what it had no metric of."""
    if isinstance(event, Generation):
        return _with_outcome(event, list(_generation(event)))
    if isinstance(event, Evaluation):
        return _with_outcome(event, list(_evaluation(event)))
    if isinstance(event, Metric):
        return [OldSample(event.name, event.value, metric_data(event))]
    return []


def free_data(event: Generation | Evaluation) -> dict[str, Any]:
    """Give what the caller told beyond what has a place of its own, as given.

    Returns:
        The entries of ``metadata``, further keywords, the text of ``error`` and, where there are
        any, the ``retries`` by cause, in this order; a key that is one of :data:`RESERVED`, or
        that is there already, gets a ``_``.
    """
    told = event.told
    data: dict[str, Any] = {}
    metadata = told.get("metadata")
    if type(metadata) is dict:
        _take(data, metadata, _KNOWN_METADATA)
    if not told.keys() <= _KNOWN_KEYWORDS:
        _take(data, told, _KNOWN_KEYWORDS)
    error = told.get("error")
    text = None if error is None or error is False else safe_text(error)
    if text:
        data[_freed("error", data) if "error" in data else "error"] = text
    if isinstance(event, Generation) and event.retries is not None:
        data[_freed("retries", data) if "retries" in data else "retries"] = event.retries
    return data


def metric_data(event: Metric) -> dict[str, Any]:
    """Give the metadata of a ``record_metric``, but for its time stamp."""
    data: dict[str, Any] = {}
    for key, value in event.metadata.items():
        if type(key) is str and key == "timestamp":
            continue
        name = _key(key)
        if name in _OWN:
            name = _freed(name, event.metadata, data)
        data[name] = value
    return data


def _take(data: dict[str, Any], source: Mapping[Any, Any], known: frozenset[str]) -> None:
    for key, value in source.items():
        name = _key(key)
        if name in known:
            continue
        is_taken = name in RESERVED or name in data
        data[_freed(name, source, data) if is_taken else name] = value


def _freed(name: str, *taken: Mapping[Any, Any]) -> str:
    while name in RESERVED or any(name in keys for keys in taken):
        name += "_"
    return name


def _key(key: Any) -> str:
    if type(key) is str and key.isascii():
        return key
    try:
        return safe_text(key, 256) or "_"
    except UNREADABLE:
        return "_"


def _with_outcome(event: Generation | Evaluation, rows: list[OldSample]) -> list[OldSample]:
    """Put on the first row what is told once of an event."""
    first = rows[0]
    metadata = {**first.metadata, "success": event.success}
    if event.error_type is not None:
        metadata["error_type"] = event.error_type
    metadata.update(free_data(event))
    rows[0] = first._replace(metadata=metadata)
    return rows


def _whose(event: Generation | Evaluation, phase: str, *, has_model: bool) -> dict[str, Any]:
    call = event.call
    whose: dict[str, Any] = {"phase": phase}
    if has_model:
        whose["model_name"] = call.model
    if call.step is not None:
        whose["step"] = call.step
    if call.provider != _NO_PROVIDER:
        whose["provider"] = call.provider
    return whose


def _generation(event: Generation) -> Iterator[OldSample]:
    phase = "conversation" if event.is_conversation else "generation"
    whose = _whose(event, phase, has_model=not event.is_conversation)
    if event.duration is not None:
        yield OldSample("generation_time", event.duration, whose)
    yield OldSample("success_rate", float(event.success), whose)
    yield OldSample("error_rate", float(not event.success), whose)
    if event.model_given:
        yield OldSample(f"model_usage:{event.call.model}", 1.0, whose)
    if event.finish_reason is not None:
        yield OldSample(f"finish_reason:{event.finish_reason}", 1.0, whose)
    yield from _tokens(event, whose)
    if event.turns is not None:
        yield OldSample("conversation_length", event.turns, whose)


def _evaluation(event: Evaluation) -> Iterator[OldSample]:
    whose = _whose(event, "evaluation", has_model=event.total_tokens is not None)
    whose["evaluator_type"] = event.evaluator
    if event.duration is not None:
        yield OldSample("evaluation_time", event.duration, whose)
    for score in event.scores:
        own = score_data(score.feedback)
        name = f"evaluation_score_{score.name}"
        yield OldSample(name, score.value, {**whose, **own} if own else whose)
    yield OldSample("evaluation_error_rate", float(not event.success), whose)
    yield from _tokens(event, whose)


def score_data(feedback: str | None) -> dict[str, Any]:
    """Give the metadata that a score has of its own."""
    return {} if feedback is None else {"feedback": feedback}


def _tokens(event: Generation | Evaluation, whose: dict[str, Any]) -> Iterator[OldSample]:
    if event.input_tokens is not None:
        own = whose
        if event.cache_read_tokens:
            own = {**own, "cache_read_token_count": event.cache_read_tokens}
        if event.cache_write_tokens:
            own = {**own, "cache_write_token_count": event.cache_write_tokens}
        yield OldSample("prompt_token_count", event.input_tokens, own)
    if event.output_tokens is not None:
        own = whose
        if event.reasoning_tokens:
            own = {**own, "reasoning_token_count": event.reasoning_tokens}
        yield OldSample("completion_token_count", event.output_tokens, own)
    if event.total_tokens is not None:
        yield OldSample("total_token_count", event.total_tokens, whose)
