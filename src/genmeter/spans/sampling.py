"""Keeps calls visible that tracing does not sample, and says what of a provider cannot be seen.

A span that a sampler drops reaches no processor. With :class:`RecordCalls` around the sampler, a span that
says at its start that it is a call is recorded without being sampled: processors see it, exporters do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased

from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.spans.names import LATE_SCOPES
from genmeter.spans.reading import operation_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState

__all__ = [
    "RecordCalls",
    "hidden_by",
    "is_usual",
    "may_drop",
    "name_of",
    "unseen",
    "unwrap_sampler",
    "wrap_sampler",
]

_SAMPLES_ALL = ("AlwaysOnSampler", "ParentBased{root:AlwaysOnSampler")


class RecordCalls(Sampler):
    """Samples as another sampler does, but has the spans of calls recorded that it drops.

    Args:
        sampler: The sampler that decides what is sampled.

    Attributes:
        sampler: As passed.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return the other sampler's decision, but ``RECORD_ONLY`` for a dropped call."""
        result = self.sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )
        try:
            if result.decision is not Decision.DROP or operation_of(attributes) is None:
                return result
        except UNREADABLE:
            return result
        # A sampler that drops a span returns no attributes for it.
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)

    def get_description(self) -> str:
        """Return the other sampler's description: what is sampled is the same."""
        return self.sampler.get_description()


def wrap_sampler(provider: Any) -> bool:
    """Have a provider's spans of calls recorded, whatever its sampler decides.

    Tracers that exist are changed too. A second call does nothing.

    Args:
        provider: A ``TracerProvider`` of the SDK.

    Returns:
        Whether calls are recorded now: False for a provider without a sampler to replace.
    """
    try:
        sampler = provider.sampler
        if isinstance(sampler, RecordCalls):
            return True
        if not isinstance(sampler, Sampler):
            return False
        _replace(provider, sampler, RecordCalls(sampler))
    except UNREADABLE:
        return False
    return True


def unwrap_sampler(provider: Any) -> None:
    """Undo :func:`wrap_sampler`."""
    try:
        sampler = provider.sampler
        if isinstance(sampler, RecordCalls):
            _replace(provider, sampler, sampler.sampler)
    except UNREADABLE:
        pass


def _replace(provider: Any, old: Sampler, new: Sampler) -> None:
    provider.sampler = new
    # A tracer copies the sampler of its provider when it is made.
    for tracer in list(getattr(provider, "_tracers", {}).values()):
        if getattr(tracer, "sampler", None) is old:
            tracer.sampler = new


def may_drop(sampler: Any) -> bool:
    """Return whether a sampler may drop spans; True also of one that is not known."""
    sampler = sampler.sampler if isinstance(sampler, RecordCalls) else sampler
    if isinstance(sampler, TraceIdRatioBased) and sampler.rate >= 1.0:
        return False
    name = name_of(sampler)
    # A child of a span that another process did not sample is dropped by a parent-based one, too.
    return name != "AlwaysOnSampler"


def name_of(sampler: Any) -> str:
    """Return what a sampler calls itself, such as ``TraceIdRatioBased{0.1}``; never raises."""
    try:
        text = sampler.get_description()
    except UNREADABLE:
        text = None
    shown = safe_text(text, 200) if type(text) is str else None
    return shown or class_name(type(sampler))


def unseen(provider: Any) -> str | None:
    """Return what of a provider's calls cannot be seen, as one sentence; None if all can.

    Args:
        provider: Any tracer provider.
    """
    try:
        sampler = getattr(provider, "sampler", None)
        if sampler is None or not hasattr(provider, "add_span_processor"):
            kind = type(provider)
            return (
                f"the tracer provider {kind.__module__}.{class_name(kind)} has no spans to read, so no "
                "calls of instrumentations are seen; set a TracerProvider of opentelemetry-sdk"
            )
        return hidden_by(sampler)
    except UNREADABLE:
        return "the tracer provider cannot be read, so it is not known which calls are seen"


def is_usual(sampler: Any) -> bool:
    """Return whether a sampler drops at most what another process has not sampled, as the default one."""
    return name_of(sampler).startswith(_SAMPLES_ALL)


def hidden_by(sampler: Any) -> str | None:
    """Return what of the calls a sampler hides, as one sentence; None if nothing."""
    if not may_drop(sampler):
        return None
    name = name_of(sampler)
    if isinstance(sampler, RecordCalls):
        return (
            f"calls that the sampler {name} drops are seen, except those of instrumentations that mark "
            f"them only at the end: {', '.join(LATE_SCOPES)}"
        )
    return (
        f"calls that the sampler {name} drops are not seen as spans; use "
        "genmeter.spans.sampling.wrap_sampler(provider), or log events with GenAILogProcessor and "
        "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT=true"
    )
