"""The metrics that AfterImage's monitor made of an event: its names, values and metadata.

Handlers, the journal and exports speak these names. Each row's metadata says whose it is, so that a
journal can be summed by model and step without a look at its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.model import Evaluation, Event, Generation, Metric
from genmeter.events.values import UNREADABLE, safe_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "RESERVED",
    "OldSample",
    "OldValue",
    "first_data",
    "free_data",
    "metric_data",
    "samples_of",
    "score_data",
    "shared_data",
    "values_of",
]

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


OldValue = tuple[str, float, "dict[str, Any] | None"]
"""Name and value of a row, and the metadata that no other row of its event has."""


def samples_of(event: Event) -> list[OldSample]:
    """Return the rows of an event, in AfterImage's order; none for one that it had no metric of."""
    if isinstance(event, Metric):
        return [OldSample(event.name, event.value, metric_data(event))]
    if not isinstance(event, Generation | Evaluation):
        return []
    shared = shared_data(event)
    (name, value, own), *others = values_of(event)
    return [
        OldSample(name, value, {**shared, **(own or {}), **first_data(event)}),
        *(
            OldSample(name, value, {**shared, **own} if own else shared)
            for name, value, own in others
        ),
    ]


def values_of(event: Generation | Evaluation) -> list[OldValue]:
    """Return the values of a call or an evaluation, in AfterImage's order; at least one.

    The metadata of a row is :func:`shared_data`, then its own, then :func:`first_data` on the first
    row; no key is in two of them.
    """
    if isinstance(event, Generation):
        return _generation_values(event)
    return _evaluation_values(event)


def shared_data(event: Generation | Evaluation) -> dict[str, Any]:
    """Return the metadata that all rows of an event have."""
    call = event.call
    if isinstance(event, Generation):
        has_model = not event.is_conversation
        data: dict[str, Any] = {"phase": "generation" if has_model else "conversation"}
    else:
        has_model = event.total_tokens is not None
        data = {"phase": "evaluation"}
    if has_model:
        data["model_name"] = call.model
    if call.step is not None:
        data["step"] = call.step
    if call.provider != _NO_PROVIDER:
        data["provider"] = call.provider
    if isinstance(event, Evaluation):
        data["evaluator_type"] = event.evaluator
    return data


def first_data(event: Generation | Evaluation) -> dict[str, Any]:
    """Return the metadata that only the first row of an event has."""
    data: dict[str, Any] = {"success": event.success}
    if event.error_type is not None:
        data["error_type"] = event.error_type
    data.update(free_data(event))
    return data


def free_data(event: Generation | Evaluation) -> dict[str, Any]:
    """Return the keywords of the caller that have no place of their own in an event, unchanged.

    Returns:
        The entries of ``metadata``, further keywords, the text of ``error`` and, where there are
        any, the ``retries`` by cause, in this order; a key that is one of :data:`RESERVED`, or
        that is there already, gets a ``_``.
    """
    kwargs = event.raw_kwargs
    data: dict[str, Any] = {}
    metadata = kwargs.get("metadata")
    if type(metadata) is dict:
        _take(data, metadata, _KNOWN_METADATA)
    if not kwargs.keys() <= _KNOWN_KEYWORDS:
        _take(data, kwargs, _KNOWN_KEYWORDS)
    error = kwargs.get("error")
    text = None if error is None or error is False else safe_text(error)
    if text:
        data[_freed("error", data) if "error" in data else "error"] = text
    if isinstance(event, Generation) and event.retries is not None:
        data[_freed("retries", data) if "retries" in data else "retries"] = event.retries
    return data


def metric_data(event: Metric) -> dict[str, Any]:
    """Return the metadata of a ``record_metric``, but for its time stamp."""
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


def _generation_values(event: Generation) -> list[OldValue]:
    values: list[OldValue] = []
    if event.duration is not None:
        values.append(("generation_time", event.duration, None))
    values.append(("success_rate", float(event.success), None))
    values.append(("error_rate", float(not event.success), None))
    if event.model_given:
        values.append((f"model_usage:{event.call.model}", 1.0, None))
    if event.finish_reason is not None:
        values.append((f"finish_reason:{event.finish_reason}", 1.0, None))
    _add_tokens(values, event)
    if event.turns is not None:
        values.append(("conversation_length", event.turns, None))
    return values


def _evaluation_values(event: Evaluation) -> list[OldValue]:
    values: list[OldValue] = []
    if event.duration is not None:
        values.append(("evaluation_time", event.duration, None))
    for score in event.scores:
        own = score_data(score.feedback)
        values.append((f"evaluation_score_{score.name}", score.value, own or None))
    values.append(("evaluation_error_rate", float(not event.success), None))
    _add_tokens(values, event)
    return values


def score_data(feedback: str | None) -> dict[str, Any]:
    """Return the metadata that a score has of its own."""
    return {} if feedback is None else {"feedback": feedback}


def _add_tokens(values: list[OldValue], event: Generation | Evaluation) -> None:
    if event.input_tokens is not None:
        own = {}
        if event.cache_read_tokens:
            own["cache_read_token_count"] = event.cache_read_tokens
        if event.cache_write_tokens:
            own["cache_write_token_count"] = event.cache_write_tokens
        values.append(("prompt_token_count", event.input_tokens, own or None))
    if event.output_tokens is not None:
        own = {"reasoning_token_count": event.reasoning_tokens} if event.reasoning_tokens else {}
        values.append(("completion_token_count", event.output_tokens, own or None))
    if event.total_tokens is not None:
        values.append(("total_token_count", event.total_tokens, None))
