"""The events of a monitor: raw on the caller's path, clean after the drain.

On the caller's path an event is a tuple ``(kind, session, time, ...)`` of plain data, see
:class:`Raw` and ``capture``. The drain converts it with ``sanitize`` to one of the named tuples
below. In these, every number is finite and in range, and every label is non-empty, at most 128
characters long, valid Unicode and within the limit of its values.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from genmeter import clock
from genmeter.schema.providers import well_known

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import SpanContext

    from genmeter.events.answers import Answer

__all__ = [
    "RATE_LIMITED",
    "ByModality",
    "Call",
    "CallDefaults",
    "Evaluation",
    "Event",
    "Generation",
    "Log",
    "Metric",
    "Price",
    "Raw",
    "Reason",
    "Sample",
    "Score",
]


RATE_LIMITED = "rate_limited"
"""The error of a retry that a rate limit caused."""


class Raw(StrEnum):
    """The first element of a raw event; the comments list the elements after session and time."""

    GENERATION = "generation"  # duration, success, keywords, metadata, class of the error, span,
    # CallDetails
    EVALUATION = "evaluation"  # duration, success, evaluator type, scores, then as above until span
    METRIC = "metric"  # name, value, metadata
    SAMPLE = "sample"  # accepted, reason
    LOG = "log"  # level, message, data, span
    CALL = "call"  # a function; neither session nor time
    OBSERVED = "observed"  # as above, of a call that something observed: dropped at a full inbox


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
    MISNAMED = "misnamed"
    OVERFLOW = "overflow"
    INBOX_FULL = "inbox_full"
    AFTER_SHUTDOWN = "after_shutdown"
    ECHO = "echo"
    INTERNAL = "internal"


_NO_DATA: dict[str, Any] = {}


class Call(NamedTuple):
    """The labels of a call, which all its instruments share."""

    operation: str
    provider: str
    model: str
    step: str | None
    modality: str
    response_model: str | None = None


class ByModality(NamedTuple):
    """Tokens by modality, as far as a response says; each sums to at most the count as a whole."""

    input: tuple[tuple[str, int], ...] = ()
    output: tuple[tuple[str, int], ...] = ()
    cache_read: tuple[tuple[str, int], ...] = ()


class Generation(NamedTuple):
    """A call of a model, or a conversation that spans such calls.

    Tokens are counts, ``duration`` is in seconds, ``time`` is Unix time in seconds; a value is None
    if it was rejected or not passed. ``raw_kwargs`` are the caller's keywords as plain data;
    ``extra`` are those without a field here, see :func:`genmeter.events.afterimage.extra_data`.
    ``span`` is the sampled span that was current at the call. ``cost`` is the USD
    of what has a price, by the prices or as the provider reported it; ``unpriced`` whether some usage
    has none. A cancelled call is no success, and no failure either. ``unread`` says why the usage of a
    call is unknown. Chunks are those of a stream, and their times are seconds.
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
    cost_reported: bool = False
    unpriced: bool = False
    cancelled: bool = False
    unread: str | None = None
    by_modality: ByModality | None = None
    first_chunk: float | None = None
    chunk_gaps: Sequence[float] = ()


class Score(NamedTuple):
    """One score of an evaluation, on its own scale; ``label`` interprets it, such as ``pass``."""

    name: str
    value: float
    feedback: str | None = None
    label: str | None = None


class Evaluation(NamedTuple):
    """An evaluation; ``call`` labels its tokens, and other fields are as in :class:`Generation`."""

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
    cost_reported: bool = False
    unpriced: bool = False
    by_modality: ByModality | None = None


class Metric(NamedTuple):
    """A value of ``record_metric``."""

    time: float
    name: str
    value: float
    metadata: Mapping[str, Any]


class Sample(NamedTuple):
    """A sample that the job generated."""

    time: float
    accepted: bool
    reason: str | None


class Log(NamedTuple):
    """A log record of the job; ``data`` is plain data."""

    time: float
    level: str
    message: str
    data: dict[str, Any]
    span: SpanContext | None


Event = Generation | Evaluation | Metric | Sample | Log


class Price(Protocol):
    """The USD of one answer."""

    def __call__(
        self, answer: Answer, *, model: str | None, provider: str | None, time: float | None
    ) -> float | None:
        """Return it, or None without a price; never raises.

        Args:
            answer: What was used, and the model that answered.
            model: The model that was asked.
            provider: Who serves it.
            time: Unix time of the call's end.
        """


class CallDefaults:
    """The labels that one monitor uses for calls without labels.

    A call without a model gets the configured one. Without that, a failed call without tokens gets
    the model last seen for the same step, or else the only model seen: AfterImage passes no model
    for failed calls, and their errors must appear at the model that caused them. Any other call gets
    ``unknown``, because its tokens must not raise the bill of a model it may not have used.

    Args:
        model: The configured model.
        provider: The configured provider.
        operation: The configured operation.
        price: Returns the USD of an answer; None if it has no price. None if no prices are
            configured.

    Attributes:
        resolved: Calls by raw labels; the normaliser's cache.
        created: Unix time of its creation.
        suspicious: Number of calls in a row whose durations look like milliseconds.
        last_time: Unix time of the last call.
    """

    __slots__ = (
        *("_by_step", "_models", "model", "operation", "price", "provider", "resolved"),
        *("created", "suspicious", "last_time"),
    )

    def __init__(
        self,
        model: str | None,
        provider: str | None,
        operation: str,
        price: Price | None = None,
    ) -> None:
        self.price = price
        self.created = clock.now()
        self.suspicious = 0
        self.last_time = 0.0
        self.model = model
        self.provider = provider and well_known(provider)
        self.operation = operation
        self.resolved: dict[tuple[Any, ...], Call] = {}
        self._by_step: dict[str | None, str] = {}
        self._models: set[str] = set()

    def observe_model(self, step: str | None, model: str) -> None:
        """Remember the model of a call of ``step``."""
        self._by_step[step] = model
        self._models.add(model)

    def model_for(self, step: str | None, *, infer: bool) -> str:
        """Return the model for a call of ``step`` without one; ``infer`` if it failed without tokens."""
        if self.model is not None:
            return self.model
        if infer:
            known = self._by_step.get(step)
            if known is not None:
                return known
            if len(self._models) == 1:
                return next(iter(self._models))
        return "unknown"
