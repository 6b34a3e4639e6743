"""The events of a monitor: raw on the caller's path, clean after the drain.

On the caller's path an event is a plain tuple ``(kind, session, time, ...)`` of plain data, see
:class:`Raw` and ``capture``. In the drain ``sanitize`` turns it into one of the named tuples below,
in which every number is finite and in range, and every label is non-empty, at most 128 characters long,
free of lone surrogates and within its limit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import SpanContext

__all__ = [
    "RATE_LIMITED",
    "Call",
    "CallDefaults",
    "Evaluation",
    "Event",
    "Generation",
    "Log",
    "Metric",
    "Raw",
    "Reason",
    "Sample",
    "Score",
]


RATE_LIMITED = "rate_limited"
"""The error of a retry that a rate limit caused."""


class Raw(StrEnum):
    """The first element of an event on its way to the drain, and what follows session and time."""

    GENERATION = "generation"  # duration, success, keywords, metadata, class of the error, span
    EVALUATION = "evaluation"  # the same, with evaluator type and scores after success
    METRIC = "metric"  # name, value, metadata
    SAMPLE = "sample"  # accepted, reason
    LOG = "log"  # level, message, data, span
    CALL = "call"  # a function; neither session nor time


class Reason(StrEnum):
    """Why a value or a whole event was dropped."""

    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    NEGATIVE = "negative"
    OUT_OF_RANGE = "out_of_range"
    NOT_A_BOOLEAN = "not_a_boolean"
    NOT_A_MAPPING = "not_a_mapping"
    NOT_A_TIME = "not_a_time"
    NO_NAME = "no_name"
    UNREADABLE = "unreadable"
    OVERFLOW = "overflow"
    INBOX_FULL = "inbox_full"
    AFTER_SHUTDOWN = "after_shutdown"
    ECHO = "echo"
    INTERNAL = "internal"


_NO_DATA: dict[str, Any] = {}


class Call(NamedTuple):
    """Whose call it was: the labels that its instruments share."""

    operation: str
    provider: str
    model: str
    step: str | None
    modality: str


class Generation(NamedTuple):
    """A call of a model, or a conversation that spans such calls.

    Tokens are counts, ``duration`` is in seconds, ``time`` is Unix time in seconds; None is what
    the caller did not pass or what was rejected. ``raw_kwargs`` are the caller's keywords, as plain
    data; ``span`` is the sampled span that was current at the call; ``extra`` is what the keywords
    hold beyond the other fields, see :func:`genmeter.events.afterimage.extra_data`. ``cost`` is in
    USD: NaN if the model has no price, None without prices or without tokens.
    """

    time: float
    call: Call
    model_given: bool
    duration: float | None
    success: bool
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    finish_reason: str | None
    error_type: str | None
    is_conversation: bool
    turns: int | None
    retries: dict[str, int] | None
    raw_kwargs: Mapping[str, Any]
    span: SpanContext | None
    extra: dict[str, Any] = _NO_DATA
    cost: float | None = None


class Score(NamedTuple):
    """One score of an evaluation, on its own scale."""

    name: str
    value: float
    feedback: str | None = None


class Evaluation(NamedTuple):
    """An evaluation; ``call`` labels its tokens, the other fields are those of a generation."""

    time: float
    call: Call
    duration: float | None
    success: bool
    evaluator: str
    error_type: str | None
    scores: tuple[Score, ...]
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    raw_kwargs: Mapping[str, Any]
    span: SpanContext | None
    extra: dict[str, Any] = _NO_DATA
    cost: float | None = None


class Metric(NamedTuple):
    """A value of ``record_metric``."""

    time: float
    name: str
    value: float
    metadata: Mapping[str, Any]


class Sample(NamedTuple):
    """A sample that the job made."""

    time: float
    accepted: bool
    reason: str | None


class Log(NamedTuple):
    """A log record of the job; ``data`` is plain."""

    time: float
    level: str
    message: str
    data: dict[str, Any]
    span: SpanContext | None


Event = Generation | Evaluation | Metric | Sample | Log


class CallDefaults:
    """The labels that one monitor fills in where a call has none.

    The model of a call that names none is the configured one. A failed call without tokens is
    booked on the model last seen for the same step, else on the only model seen, since AfterImage
    names no model for a failed call and its errors must still show up at the model that caused
    them. Any other call without a model is booked on ``unknown``: its tokens must not raise the
    bill of a model that it may not have asked.

    Args:
        model: The configured model.
        provider: The configured provider.
        operation: The configured operation.
        price: Returns the USD for a model's input, output and cached input tokens, None if it has
            no price; None if no prices are configured.

    Attributes:
        resolved: Calls by their raw labels; a cache of the normaliser's.
    """

    __slots__ = ("_by_step", "_models", "model", "operation", "price", "provider", "resolved")

    def __init__(
        self,
        model: str | None,
        provider: str | None,
        operation: str,
        price: Callable[[str, int, int, int], float | None] | None = None,
    ) -> None:
        self.price = price
        self.model = model
        self.provider = provider
        self.operation = operation
        self.resolved: dict[tuple[Any, ...], Call] = {}
        self._by_step: dict[str | None, str] = {}
        self._models: set[str] = set()

    def observe_model(self, step: str | None, model: str) -> None:
        """Remember the model that a call of ``step`` named."""
        self._by_step[step] = model
        self._models.add(model)

    def model_for(self, step: str | None, *, infer: bool) -> str:
        """Name the model of a call of ``step`` that named none.

        Args:
            step: The step of the pipeline.
            infer: Whether it is a failed call without tokens.
        """
        if self.model is not None:
            return self.model
        if infer:
            known = self._by_step.get(step)
            if known is not None:
                return known
            if len(self._models) == 1:
                return next(iter(self._models))
        return "unknown"
