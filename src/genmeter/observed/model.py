"""A finished call as something else observed it: plain data; and the blocks and spans around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from genmeter.events.answers import CallDetails

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import SpanContext

    from genmeter.observed.identity import CallIdentity

__all__ = ["Block", "ObservedCall", "SpanKey", "SpanNode"]

SpanKey = tuple[int, int]
"""The ids of a trace and a span."""

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
        node: Where its span is among the others; None if no span reports it.
        identity: The framework's call that it is or is a part of; ``OUTSIDE`` if it is certainly of none,
            None if that is unknown.
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
    node: SpanNode | None = None
    identity: CallIdentity | None = None

    def observers(self) -> tuple[tuple[str, str | None], ...]:
        """Return who has observed it, here or inside of its block, and by which id of the response."""
        return ((self.source, self.response_id), *self.details.observed)


class Block(Protocol):
    """A call of ours that others may observe too."""

    @property
    def is_open(self) -> bool:
        """Whether the call goes on."""

    @property
    def outer(self) -> Block | None:
        """The block around it."""

    @property
    def period(self) -> tuple[float, float] | None:
        """Unix times of the beginning and the end, in seconds; None while it is open."""

    def belongs_to(self, monitor: object) -> bool:
        """Return whether it is a call of this monitor."""

    def observe(self, call: ObservedCall) -> bool:
        """Add what was observed inside; returns False if the call has ended. Never raises."""


class SpanNode:
    """Where a span is among the others: its ancestors, and the block and step that it began in.

    Kept from the start of a span, since at its end an ancestor may still be open, which no finished span
    says. The job's threads begin and end it, the pipeline's thread reads it; a field has one writer.

    Attributes:
        key: Its ids.
        source: Name of its scope.
        parent: The node of its parent, if that is a span of this process.
        is_call: Whether it is a call, as far as is known: at its start, or only at its end.
        may_be_call: Whether it may turn out to be one at its end.
        is_open: Whether it has not ended.
        is_watched: Whether its end must be reported though it may be no call.
        block: The block of ours that it began in.
        identity: As of :class:`ObservedCall`, where it began.
        step: The step that it began in.
        is_taken: Whether its call was taken; of a span that two processors report.
        is_absorbed: Whether a block of ours has taken it, with the calls below it.
        is_released: Whether nothing waits for its end any more.
        held: The calls below it that wait for its end.
        seen: The recent call (``matching.Seen``) that it is, or is a part of.
        below: A recent call below it that was recorded before its end.
    """

    __slots__ = (
        *("below", "block", "held", "identity", "is_absorbed", "is_call", "is_open", "is_released"),
        *("is_taken", "is_watched", "key", "may_be_call", "parent", "seen", "source", "step"),
    )

    def __init__(
        self,
        key: SpanKey,
        source: str,
        parent: SpanNode | None,
        *,
        is_call: bool = False,
        may_be_call: bool = False,
        block: Block | None = None,
        step: str | None = None,
        identity: CallIdentity | None = None,
    ) -> None:
        self.key = key
        self.source = source
        self.parent = parent
        self.is_call = is_call
        self.may_be_call = may_be_call
        self.block = block
        self.step = step
        self.identity = identity
        self.is_open = True
        self.is_watched = False
        self.is_taken = False
        self.is_absorbed = False
        self.is_released = False
        self.held: list[ObservedCall] = []
        self.seen: Any = None
        self.below: Any = None

    def __repr__(self) -> str:
        return f"<SpanNode of {self.source}, {'open' if self.is_open else 'ended'}>"

    def ancestors(self) -> Iterator[SpanNode]:
        """Yield the ancestors, the nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent
