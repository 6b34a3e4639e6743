"""The one table of the metrics that AfterImage's monitor makes of an event.

Handlers, the journal, windows, exports and reports speak these names, and all of them read this
table: ``events.afterimage`` makes rows of an event, ``history.samples`` makes samples of a history's
columns, and ``report`` makes usage of the rows again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BILLING",
    "BILLING_KEYWORDS",
    "BILLING_PARTS",
    "CONVERSATION",
    "EVALUATION",
    "FIRST_CHUNK",
    "GENERATION",
    "METADATA",
    "METRICS",
    "NO_PROVIDER",
    "OWN_KEYS",
    "PARTS",
    "PREFIXES",
    "SCORE_PREFIX",
    "MetricSpec",
    "Usage",
    "metric_of",
]

GENERATION = "generation"
CONVERSATION = "conversation"
EVALUATION = "evaluation"

Usage = Literal[
    "call_duration",
    "call_outcome",
    "evaluation_duration",
    "evaluation_outcome",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "turns",
    "model",
    "cancelled",
    "unread",
    "unpriced",
    "cost",
]
"""What a report learns from a row; of tokens, the field of its usage."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric of AfterImage's.

    Args:
        name: Its name; if ``value`` is ``label`` or ``score``, the prefix before the label.
        kinds: The kinds of event that have it; a conversation is a ``generation``.
        value: How the value comes out of the field. ``amount``: the field, where it is known.
            ``success`` and ``failure``: 1 for that outcome, else 0; none for a cancelled call.
            ``flag``: 1 where the field is true. ``label``: 1 where the label is known. ``score``:
            the value of each score.
        field: The event's field; a history's column has the same name without ``_tokens``.
        parts: Metadata of the row that itemises its value: the key and the event's field. A part
            of 0 is absent.
        usage: What a report learns from it; None for nothing that another row does not say.
    """

    name: str
    kinds: tuple[str, ...]
    value: Literal["amount", "success", "failure", "flag", "label", "score"]
    field: str
    parts: tuple[tuple[str, str], ...] = ()
    usage: Usage | None = None


_CALL = (GENERATION,)
_BOTH = (GENERATION, EVALUATION)
_EVALUATION = (EVALUATION,)
_INPUT_PARTS = (
    ("cache_read_token_count", "cache_read_tokens"),
    ("cache_write_token_count", "cache_write_tokens"),
)
_OUTPUT_PARTS = (("reasoning_token_count", "reasoning_tokens"),)

SCORE_PREFIX = "evaluation_score_"
METRICS = (
    MetricSpec("generation_time", _CALL, "amount", "duration", usage="call_duration"),
    MetricSpec("success_rate", _CALL, "success", "success", usage="call_outcome"),
    MetricSpec("error_rate", _CALL, "failure", "success"),
    MetricSpec("model_usage:", _CALL, "label", "model", usage="model"),
    MetricSpec("finish_reason:", _CALL, "label", "finish_reason"),
    MetricSpec("evaluation_time", _EVALUATION, "amount", "duration", usage="evaluation_duration"),
    MetricSpec(SCORE_PREFIX, _EVALUATION, "score", "scores"),
    MetricSpec(
        "evaluation_error_rate", _EVALUATION, "failure", "success", usage="evaluation_outcome"
    ),
    MetricSpec(
        "prompt_token_count", _BOTH, "amount", "input_tokens", _INPUT_PARTS, "prompt_tokens"
    ),
    MetricSpec(
        "completion_token_count",
        _BOTH,
        "amount",
        "output_tokens",
        _OUTPUT_PARTS,
        "completion_tokens",
    ),
    MetricSpec("total_token_count", _BOTH, "amount", "total_tokens", usage="total_tokens"),
    MetricSpec("conversation_length", _CALL, "amount", "turns", usage="turns"),
    MetricSpec("call_cancelled", _CALL, "flag", "cancelled", usage="cancelled"),
    MetricSpec("usage_unread:", _CALL, "label", "unread", usage="unread"),
    MetricSpec("cost_usd", _BOTH, "amount", "cost", usage="cost"),
    MetricSpec("usage_unpriced", _BOTH, "flag", "unpriced", usage="unpriced"),
)
"""The metrics, in the order in which AfterImage's monitor makes those of one event.

The last four are genmeter's own.
"""

PARTS = tuple(key for metric in METRICS for key, _ in metric.parts)
"""The keywords and the metadata that itemise tokens."""
PREFIXES = tuple(metric.name for metric in METRICS if metric.value in ("label", "score"))
"""The names that a label follows."""

NO_PROVIDER = "_OTHER"
"""The provider of a call that names none; metadata leaves it out."""
BILLING = "billing"
"""The metadata of a call's first row that has what its price depends on beside its tokens."""
BILLING_PARTS = (
    "cache_write_1h_token_count",
    "input_audio_token_count",
    "input_image_token_count",
    "input_video_token_count",
    "output_audio_token_count",
    "output_image_token_count",
    "output_video_token_count",
    "cache_read_audio_token_count",
    "cache_read_image_token_count",
    "cache_read_video_token_count",
    "search_count",
)
"""The keywords with counts that have a price of their own."""
BILLING_KEYWORDS = (*BILLING_PARTS, "response_model", "service_tier", "batch", "cost")
"""The keywords that the price of a call depends on, beside its tokens, provider and model."""
FIRST_CHUNK = "first_chunk_seconds"
"""The field of a streamed call's first row in the journal that has the time to its first chunk."""
OWN_KEYS = frozenset({"metric", "metric_name", "value", "timestamp"})
"""The fields that each row has beside its metadata."""
METADATA: Mapping[str, str] = {
    "phase": "string",
    "model_name": "string",
    "step": "string",
    "provider": "string",
    "response_model": "string",
    "evaluator_type": "string",
    "feedback": "string",
    "score_label": "string",
    **dict.fromkeys(PARTS, "Int64"),
    "success": "boolean",
    "error_type": "string",
}
"""The metadata of rows that genmeter itself writes, with the pandas dtypes of their columns."""

_BY_NAME = {metric.name: metric for metric in METRICS if metric.value != "score"}


def metric_of(name: str) -> tuple[MetricSpec | None, str]:
    """Return the metric of calls and evaluations of this name, and the label in the name.

    Args:
        name: Such as ``generation_time`` or ``model_usage:MODEL``.

    Returns:
        None for a score and for the caller's own names.
    """
    prefix, colon, label = name.partition(":")
    return _BY_NAME.get(prefix + colon), label
