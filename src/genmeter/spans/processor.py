"""``GenAISpanProcessor``: the calls that the spans of any instrumentation report."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor

from genmeter.config.checks import NAME, tuple_of
from genmeter.events.values import UNREADABLE
from genmeter.observed.identity import current
from genmeter.observed.matching import SLACK
from genmeter.observed.model import SpanNode
from genmeter.observed.steps import current_step
from genmeter.spans import names, notice
from genmeter.spans._destination import Destination
from genmeter.spans.reading import is_opening, operation_of, outside, read_span, span_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from genmeter.monitor import GenerationMonitor
    from genmeter.observed.model import Block, ObservedCall, SpanKey
    from genmeter.observed.observer import Observer

__all__ = ["GenAISpanProcessor"]

_MAX_LATE = 1_000
_PENDING = "pending_span"
_PREFIXES = tuple_of(NAME, "a sequence of prefixes of scope names, such as ['openinference.']")
# Scopes that mark their calls only at the end; others are added when they are seen to.
_late = set(names.LATE_SCOPES)


class GenAISpanProcessor(SpanProcessor):
    """Turns the finished spans of GenAI instrumentations into calls of a monitor, each call once.

    ``provider.add_span_processor(GenAISpanProcessor(monitor))``. A span is a call by its attributes:
    ``gen_ai.operation.name`` of the OpenTelemetry conventions (old and new), or OpenInference's
    ``openinference.span.kind``. Spans that the provider's sampler drops are not seen; a warning says so as the
    processor is added, with the remedy. A call that several instrumentations report, or a block
    ``with monitor.generation(...)`` is open around, counts once. docs/spans.md says how, and what spans
    cannot show.

    Its methods run on the job's threads: they never raise, wait or do I/O, but that the first call makes
    the process's monitor if there is none.

    Args:
        monitor: Records the calls. None means the process's monitor: the oldest open one that the job
            made, else one that is made for the first call.
        allow: Prefixes of the names of instrumentation scopes; if there are any, the spans of other
            scopes are no calls.
        deny: Prefixes of the names of scopes whose spans are no calls.

    Raises:
        ConfigError: An argument is invalid.
    """

    def __init__(
        self,
        monitor: GenerationMonitor | None = None,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> None:
        self._allow: tuple[str, ...] = tuple(_PREFIXES("allow", allow))
        self._deny: tuple[str, ...] = tuple(_PREFIXES("deny", deny))
        self._destination = Destination(monitor, "span")
        self._forked_at = 0  # Unix time in ns; what began before is the parent's
        self._has_begun = False
        _processors.add(self)
        notice.expect(self)
        if monitor is not None:
            _add_of_monitor(self)

    def __repr__(self) -> str:
        return f"<GenAISpanProcessor, {'shut down' if self._destination.is_shut else 'open'}>"

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Remember where a span begins; never raises."""
        if self._destination.is_shut:
            return
        try:
            self._begin(span)
        except UNREADABLE as error:
            self._destination.reject(error)

    def on_end(self, span: ReadableSpan) -> None:
        """Record the call that a span reports, if it is one; never raises."""
        if self._destination.is_shut:
            return
        try:
            self._end(span)
        except UNREADABLE as error:
            self._destination.reject(error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Record the calls that wait for the end of other spans.

        Args:
            timeout_millis: Milliseconds that it may take.

        Returns:
            Whether it was done in time.
        """
        return self._destination.flush(timeout_millis)

    def shutdown(self) -> None:
        """Record the waiting calls, and ignore further spans; the monitor stays open. Never raises."""
        self._destination.shut_down()

    # --- inside ----------------------------------------------------------------------------------

    def _begin(self, span: Span) -> None:
        context = span.get_span_context()
        if context is None:
            return
        attributes = span.attributes
        source = _source(span)
        is_call = may_be_call = False
        if self._is_watched(source) and span_type(attributes) != _PENDING:
            is_call = operation_of(attributes) is not None
            may_be_call = not is_call and source in _late and not _is_marked(attributes)
        destination = self._destination
        if is_call and not self._has_begun:
            self._has_begun = True
            # Of a processor that something else has wrapped and added.
            text = notice.hidden_from(self, getattr(span, "_sampler", None))
            if text is not None:
                destination.monitor.misuse("sampler", text)
        if not (is_call or may_be_call or destination.has_monitor):
            return
        observer = destination.observer
        parent = span.parent
        above = (
            None if parent is None else observer.open_spans.get((parent.trace_id, parent.span_id))
        )
        while above is not None and not above.is_open:
            # What has ended has nothing inside: some leave their ended span in the context.
            above = above.parent
        block, step = destination.block(), current_step()
        identity = current()
        if above is not None:  # begun on another thread, with the parent's context only
            block = above.block if block is None else block
            step = above.step if step is None else step
            identity = above.identity if identity is None else identity
        node = SpanNode(
            (context.trace_id, context.span_id),
            source,
            above,
            is_call=is_call,
            may_be_call=may_be_call,
            block=block,
            step=step,
            identity=outside(source) if identity is None else identity,
        )
        observer.has_spans = True
        observer.open_spans.add(node)

    def _end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None or (span.start_time or 0) < self._forked_at:
            return
        key = (context.trace_id, context.span_id)
        source = _source(span)
        attributes = span.attributes
        is_call = (
            operation_of(attributes) is not None
            and span_type(attributes) != _PENDING
            and self._is_watched(source)
        )
        if not is_call:
            if self._destination.has_monitor:
                self._end_other(self._destination.observer, key)
            return
        observer = self._destination.observer
        node = observer.open_spans.get(key)
        if _of_monitors and self._is_of_another(key, source, node, observer):
            self._end_other(observer, key)
            return
        if node is None:  # begun before this processor was added
            block = self._destination.block()
            node = SpanNode(key, source, None, block=block, step=current_step())
        elif not node.is_call and len(_late) < _MAX_LATE:
            _late.add(source)
        node.is_call = True
        observer.end_call(node)
        for ancestor in node.ancestors():
            ancestor.is_watched = True
        if node.block is None:
            observer.observe_later(lambda: _read(span, source, node, observer))
        elif (call := _read(span, source, node, observer)) is not None:
            # Read now, since the block may end before the pipeline's thread comes to it.
            _pass_to(node.block, call, node, observer)

    def _end_other(self, observer: Observer, key: SpanKey) -> None:
        node = observer.open_spans.get(key)
        if node is None:
            return
        node.is_open = False
        observer.open_spans.forget(key)
        if node.is_watched or node.is_call:
            node.is_call = False
            observer.end(node)

    def _is_of_another(
        self, key: SpanKey, source: str, node: SpanNode | None, observer: Observer
    ) -> bool:
        """Return whether a call is one of a monitor that the job has named, so that two would count it."""
        if not self._destination.is_of_process:
            return False
        block = self._destination.block() if node is None else node.block
        others = [ref() for ref in _of_monitors]
        return any(
            each is not None and each._records(key, source, block, observer)  # noqa: SLF001 - of this class
            for each in others
        )

    def _records(self, key: SpanKey, source: str, block: Block | None, other: Observer) -> bool:
        """Return whether a call's span, and the block that it began in, are of this one's monitor."""
        destination = self._destination
        monitor, observer = destination.monitor, destination.observer
        if self._destination.is_shut or monitor.is_shut or not self._is_watched(source):
            return False
        if observer is other or observer.open_spans.get(key) is None:
            return False
        return block is None or block.belongs_to(monitor)

    def _is_watched(self, source: str) -> bool:
        if self._deny and source.startswith(self._deny):
            return False
        return not self._allow or source.startswith(self._allow)

    def _after_fork_in_child(self) -> None:
        self._forked_at = time.time_ns()


def _pass_to(block: Block, call: ObservedCall, node: SpanNode, observer: Observer) -> None:
    """Have a call complete the block that it began in, unless it is another call."""
    if node.is_taken:
        return
    is_part = block.observe(call)
    if not is_part and not _is_within(call, block.period):
        observer.observe(call)
        return
    node.is_taken = True
    observer.open_spans.forget(node.key)
    if node.is_watched:
        observer.absorb(node)
    if not is_part:
        observer.drop("block")


def _read(
    span: ReadableSpan, source: str, node: SpanNode, observer: Observer
) -> ObservedCall | None:
    call = read_span(span, source, node)
    kind = span_type(span.attributes)
    if call is None or kind is None:
        return call
    if is_opening(span.attributes or {}, call):
        node.is_call = False
        observer.end(node)
        return observer.openings.add(call, is_counted=node.block is None)
    if kind != "log" or node.is_taken:  # the latter of a second processor
        return call
    call, has_opening = observer.openings.begun(call)
    if has_opening:
        observer.drop("opening")
    return call


def _source(span: ReadableSpan) -> str:
    scope = span.instrumentation_scope
    name: Any = None if scope is None else scope.name
    return name if type(name) is str else ""


def _is_marked(attributes: Any) -> bool:
    """Return whether a span says what it is."""
    return bool(attributes) and (
        attributes.get(names.OPERATION) is not None or attributes.get(names.KIND) is not None
    )


def _is_within(call: ObservedCall, period: tuple[float, float] | None) -> bool:
    """Return whether a call began in a block that has ended since."""
    if period is None:
        return False
    began, ended = period
    start = call.ended - (call.duration or 0.0)
    return began - SLACK <= start <= ended + SLACK


_processors: weakref.WeakSet[GenAISpanProcessor] = weakref.WeakSet()
# Those with a monitor of the job; replaced as a whole, since spans end on any thread meanwhile.
_of_monitors: tuple[weakref.ref[GenAISpanProcessor], ...] = ()


def _add_of_monitor(processor: GenAISpanProcessor) -> None:
    global _of_monitors  # noqa: PLW0603 - those of the process
    _of_monitors = (*(ref for ref in _of_monitors if ref() is not None), weakref.ref(processor))


def _reset_in_child() -> None:
    for each in list(_processors):
        each._after_fork_in_child()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
