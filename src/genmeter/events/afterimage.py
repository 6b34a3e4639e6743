"""The rows of an event under AfterImage's metric names.

Handlers, the journal and exports get these rows. Each row's metadata has the labels of its event, so
that a journal can be summed by model and step row by row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.model import Evaluation, Event, Generation, Metric
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.schema.afterimage import (
    BILLING,
    BILLING_KEYWORDS,
    CONVERSATION,
    EVALUATION,
    GENERATION,
    METADATA,
    METRICS,
    NO_PROVIDER,
    OWN_KEYS,
    PARTS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.events.model import Score

__all__ = [
    "KNOWN_KEYWORDS",
    "RESERVED",
    "MetricRow",
    "RowValue",
    "extra_data",
    "first_data",
    "metric_data",
    "metric_rows",
    "score_data",
    "shared_data",
    "values_of",
]

RESERVED = OWN_KEYS | METADATA.keys() | {BILLING}
"""Reserved keys of a row's metadata; a caller's key of the same name gets a ``_``."""

KNOWN_KEYWORDS = frozenset(
    {
        *("prompt_token_count", "completion_token_count", "total_token_count"),
        *PARTS,
        *("model_name", "finish_reason", "error", "error_type", "conversation_length", "turns"),
        *("retries", "provider", "operation", "step", "modality", "metadata"),
        *BILLING_KEYWORDS,
    }
)
"""The keywords of a call that are not the caller's own data."""
_KNOWN_METADATA = frozenset({"operation", "error_type"})


class MetricRow(NamedTuple):
    """One row; its ``metadata`` does not have the event's ``timestamp`` yet.

    Rows of one event with equal metadata share one dict; rows of different events never do.
    """

    name: str
    value: float
    metadata: dict[str, Any]


RowValue = tuple[str, float, "dict[str, Any] | None"]
"""Name and value of a row, and its metadata beyond that of its event."""


def metric_rows(event: Event) -> list[MetricRow]:
    """Return the rows of an event, in AfterImage's order; none for a sample or a log record."""
    if isinstance(event, Metric):
        return [MetricRow(event.name, event.value, metric_data(event))]
    if not isinstance(event, Generation | Evaluation):
        return []
    shared = shared_data(event)
    (name, value, own), *others = values_of(event)
    return [
        MetricRow(name, value, {**shared, **(own or {}), **first_data(event)}),
        *(
            MetricRow(name, value, {**shared, **own} if own else shared)
            for name, value, own in others
        ),
    ]


def values_of(event: Generation | Evaluation) -> list[RowValue]:
    """Return the values of a call or an evaluation, in AfterImage's order; at least one.

    The metadata of a row is :func:`shared_data`, then the row's own, then, for the first row,
    :func:`first_data`. Their keys are disjoint.
    """
    if type(event) is Generation:
        model = event.call.model if event.model_given else None
        steps = _generation_steps(
            event.success, event.cancelled, model, event.finish_reason, event.unread, event.unpriced
        )
    else:
        steps = _evaluation_steps(event.success, event.unpriced)
    fields: tuple[Any, ...] = event
    values: list[RowValue] = []
    for rows, name, field, parts in steps:
        if rows:
            values += rows
        value = None if field == _NO_FIELD else fields[field]
        if value is None:
            continue
        if parts is None:
            for score in value:
                values.append((name + score.name, score.value, score_data(score)))
            continue
        own = None
        if parts:
            for key, part in parts:
                if fields[part]:
                    own = own or {}
                    own[key] = fields[part]
        values.append((name, value, own))
    return values


# values_of() runs for each event, so it follows steps that are compiled from the table once: the rows
# that depend on the outcome and labels alone, then the name and field of an amount or of scores, and
# the parts of the amount (None for scores). Both kinds end with a step that may have rows alone.
_Step = tuple[list[RowValue], str, int, tuple[tuple[str, int], ...] | None]
_NO_FIELD = -1


def _compile(  # noqa: C901 - one branch for each kind of value
    kind: str, fields: tuple[str, ...], known: dict[str, Any]
) -> list[_Step]:
    steps: list[_Step] = []
    rows: list[RowValue] = []
    for metric in METRICS:
        name = metric.name
        if kind not in metric.kinds:
            continue
        if metric.value == "amount":
            parts = tuple((key, fields.index(field)) for key, field in metric.parts)
            steps.append((rows, name, fields.index(metric.field), parts))
            rows = []
        elif metric.value == "score":
            steps.append((rows, name, fields.index(metric.field), None))
            rows = []
        elif metric.value == "flag":
            if known[metric.field]:
                rows.append((name, 1.0, None))
        elif metric.value == "label":
            if known[metric.field] is not None:
                rows.append((name + known[metric.field], 1.0, None))
        elif not known["cancelled"]:
            rows.append((name, float(known["success"] == (metric.value == "success")), None))
    if rows:
        steps.append((rows, "", _NO_FIELD, None))
    return steps


@lru_cache(maxsize=4_096)
def _generation_steps(
    success: bool,
    cancelled: bool,
    model: str | None,
    finish_reason: str | None,
    unread: str | None,
    unpriced: bool,
) -> list[_Step]:
    known = {
        "success": success,
        "cancelled": cancelled,
        "model": model,
        "finish_reason": finish_reason,
        "unread": unread,
        "unpriced": unpriced,
    }
    return _compile(GENERATION, Generation._fields, known)


@lru_cache
def _evaluation_steps(success: bool, unpriced: bool) -> list[_Step]:
    known = {"success": success, "cancelled": False, "unpriced": unpriced}
    return _compile(EVALUATION, Evaluation._fields, known)


def shared_data(event: Generation | Evaluation) -> dict[str, Any]:
    """Return the metadata of all rows of an event."""
    call = event.call
    if isinstance(event, Generation):
        has_model = not event.is_conversation
        phase = GENERATION if has_model else CONVERSATION
    else:
        has_model = event.total_tokens is not None
        phase = EVALUATION
    data: dict[str, Any] = {"phase": phase}
    if has_model:
        data["model_name"] = call.model
    if call.step is not None:
        data["step"] = call.step
    if call.provider != NO_PROVIDER:
        data["provider"] = call.provider
    if call.response_model is not None and has_model:
        data["response_model"] = call.response_model
    if isinstance(event, Evaluation):
        data["evaluator_type"] = event.evaluator
    return data


def first_data(event: Generation | Evaluation) -> dict[str, Any]:
    """Return the metadata of an event's first row only."""
    data: dict[str, Any] = {"success": event.success}
    if event.error_type is not None:
        data["error_type"] = event.error_type
    data.update(event.extra)
    return data


def extra_data(
    keywords: Mapping[str, Any],
    retries: dict[str, int] | None,
    billing: dict[str, Any] | None = None,
    *,
    has_own: bool = True,
) -> dict[str, Any]:
    """Return the keywords of a call or an evaluation that have no field in its event.

    Args:
        keywords: All keywords, as plain data, including ``metadata``.
        retries: The retries by cause.
        billing: What its price depends on beside its tokens.
        has_own: Whether any keyword may be the caller's own data.

    Returns:
        The entries of ``metadata``, then further keywords, the text of ``error``, the ``retries``
        and the ``billing``, if there are any. A duplicate key, or one in :data:`RESERVED`, gets a
        ``_``.
    """
    metadata, error = keywords.get("metadata"), keywords.get("error")
    data: dict[str, Any] = {}
    if type(metadata) is dict:
        _take(data, metadata, _KNOWN_METADATA)
    if has_own and not keywords.keys() <= KNOWN_KEYWORDS:
        _take(data, keywords, KNOWN_KEYWORDS)
    text = None if error is None or error is False else safe_text(error)
    if text:
        data[_freed("error", data) if "error" in data else "error"] = text
    if retries is not None:
        data[_freed("retries", data) if "retries" in data else "retries"] = retries
    if billing:
        data[BILLING] = billing
    return data


def metric_data(event: Metric) -> dict[str, Any]:
    """Return the metadata of a ``record_metric``, without its timestamp."""
    data: dict[str, Any] = {}
    for key, value in event.metadata.items():
        if type(key) is str and key == "timestamp":
            continue
        name = _key(key)
        if name in OWN_KEYS:
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


def score_data(score: Score) -> dict[str, Any] | None:
    """Return the metadata of a score's row beyond that of its event."""
    if score.label is None:
        return None if score.feedback is None else {"feedback": score.feedback}
    label = {"score_label": score.label}
    return label if score.feedback is None else {"feedback": score.feedback, **label}
