"""A finished call as something else observed it: plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.answers import CallDetails

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

__all__ = ["ObservedCall"]

_NO_DETAILS = CallDetails()


class ObservedCall(NamedTuple):
    """A finished call as a span, a log event, a framework's hook or a watched client has it.

    Attributes:
        source: Who observed it: the name of the instrumentation's scope, or ``genmeter.`` and the
            framework. One source observes a call once.
        ended: Unix time of its end, in seconds.
        duration: Seconds that it took; None if the source does not know.
        success: Whether it succeeded; also False if it was cancelled, see ``details``.
        keywords: Those of ``track_generation``, as plain data (``events.capture``); without a count
            that is unknown. Token counts are here and in the answers of ``details``.
        details: The billed answers, one for each attempt of known usage; whether the call was
            cancelled; the times of chunks.
        error_class: Class of the error, as ``capture_keywords`` returns it.
        response_id: The provider's id of the response; None if unknown.
        span: The call's sampled span, for exemplars.
    """

    source: str
    ended: float
    duration: float | None
    success: bool
    keywords: dict[str, Any]
    details: CallDetails = _NO_DETAILS
    error_class: str | None = None
    response_id: str | None = None
    span: SpanContext | None = None
