"""Reads the spans of every tracer provider of the process, also of one that the job sets up later.

Each ``TracerProvider`` of the SDK gets genmeter's span processor as it is made, so it does not matter
whether the job sets it as the global one. While there is no global provider, tracers get one here that
exports nothing and samples nothing, so that a job that sets its own later finds its place free.
"""

from __future__ import annotations

import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import trace

from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE
from genmeter.fork_lock import ForkLock
from genmeter.observed import gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SpanFeed"]

_SDK_TRACE = "opentelemetry.sdk.trace"
_SDK_LOGS = "opentelemetry.sdk._logs"
_SDK_DISABLED = "OTEL_SDK_DISABLED"


class SpanFeed:
    """Adds processors of the process's monitor to the providers of the SDK.

    Args:
        has_fallback: Whether tracers of a process without a provider are read too.
        on_blind: Called when the job sets a global provider whose spans cannot be read.
    """

    def __init__(
        self,
        *,
        has_fallback: bool = False,
        on_blind: Callable[[], object] | None = None,
    ) -> None:
        self._has_fallback = has_fallback
        self._on_blind = on_blind
        self._lock = ForkLock()
        self._fallback: Any = None
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._wrapped: weakref.WeakSet[Any] = weakref.WeakSet()
        self._processors: list[Any] = []
        self._is_patched = self._is_active = False
        self.problems: dict[str, None] = {}

    def install(self, tracer_provider: Any = None, logger_provider: Any = None) -> None:
        """Read the spans of providers from now on, and of those that exist.

        Args:
            tracer_provider: The one that exists; None means the global one, if it is set.
            logger_provider: As above, for log events.
        """
        with self._lock:
            self._is_active = True
            is_patched, self._is_patched = self._is_patched, True
        if self._fallback is not None:
            self.add_to(self._fallback)
        if not is_patched:
            wrapt.register_post_import_hook(self._patch_traces, _SDK_TRACE)
            wrapt.register_post_import_hook(self._patch_logs, _SDK_LOGS)
            wrapt.wrap_function_wrapper(trace, "set_tracer_provider", self._set_provider)
            if self._has_fallback:
                wrapt.wrap_function_wrapper(trace, "ProxyTracerProvider.get_tracer", self._tracer)
        provider = trace.get_tracer_provider() if tracer_provider is None else tracer_provider
        if not isinstance(provider, trace.ProxyTracerProvider):
            self._add_global(provider)
        logs = sys.modules.get("opentelemetry._logs")
        if logger_provider is not None:
            self._add_logs(logger_provider)
        elif logs is not None:
            self._add_logs(logs.get_logger_provider())

    def uninstall(self) -> None:
        """Read no spans any more, and give providers their samplers back."""
        self._is_active = False
        self._unwrap_samplers()
        self._seen.clear()  # so that they are read if this is installed again
        processors, self._processors = self._processors, []
        for processor in processors:
            with suppress(*UNREADABLE):
                processor.shutdown()

    @property
    def is_blind(self) -> bool:
        """Whether spans of instrumentations reach nobody here: by the provider or the variables."""
        if os.environ.get(_SDK_DISABLED, "").strip().lower() == "true":
            return True
        try:
            provider = trace.get_tracer_provider()
        except UNREADABLE:
            return True
        if isinstance(provider, trace.ProxyTracerProvider):
            return not self._has_fallback
        return not self._reads(provider)

    def notes(self) -> list[str]:
        """Return what of the process's traces cannot be seen, a text each."""
        found = list(self.problems)
        if os.environ.get(_SDK_DISABLED, "").strip().lower() == "true":
            found.append(f"{_SDK_DISABLED} is set, so no instrumentation's spans are seen")
        return found

    def flush(self) -> None:
        """Have the calls recorded that a processor holds back for a span around them."""
        for processor in list(self._processors):
            with suppress(*UNREADABLE):
                processor.force_flush()

    # --- the providers ---------------------------------------------------------------------------

    def add_to(self, provider: Any) -> bool:
        """Read the spans of a provider; returns whether it is one of the SDK."""
        kind = getattr(sys.modules.get(_SDK_TRACE), "TracerProvider", None)
        if kind is None or not isinstance(provider, kind):
            return False
        with self._lock:
            if provider in self._seen:
                return True
            self._seen.add(provider)
        from genmeter.spans import notice
        from genmeter.spans.processor import GenAISpanProcessor

        provider.add_span_processor(_gate_processor(lambda: self._is_active))
        processor = GenAISpanProcessor()
        notice.keep_quiet(processor)  # the notes say it
        provider.add_span_processor(processor)
        self._processors.append(processor)
        if not getattr(provider, "is_fallback_of_genmeter", False):
            self._wrap_sampler(provider)
        return True

    def _unwrap_samplers(self) -> None:
        if self._wrapped:
            from genmeter.spans import sampling

            for provider in list(self._wrapped):
                sampling.unwrap_sampler(provider)
            self._wrapped.clear()

    def _wrap_sampler(self, provider: Any) -> None:
        from genmeter.spans import sampling

        is_ours = not isinstance(getattr(provider, "sampler", None), sampling.RecordCalls)
        if sampling.wrap_sampler(provider) and is_ours:
            self._wrapped.add(provider)
        if not sampling.is_usual(provider.sampler):
            note = sampling.unseen(provider)
            if note is not None:
                self.problems[note] = None

    def _reads(self, provider: Any) -> bool:
        """Return whether a provider's spans are read: it is the SDK's, or passes on to one that is."""
        if provider in self._seen:
            return True
        try:
            parts = list(vars(provider).values())
        except UNREADABLE:
            return False
        return any(any(part is each for each in self._seen) for part in parts)

    def _add_global(self, provider: Any) -> None:
        """Read the spans of the global provider, or say that this is impossible."""
        try:
            if self.add_to(provider) or self._reads(provider):
                return
        except UNREADABLE as error:
            self._fail(error)
            return
        kind = type(provider)
        name = f"{getattr(kind, '__module__', '?')}.{class_name(kind)}"
        self.problems[
            f"the job's tracer provider is {name}, not the SDK's, so its spans are not seen"
        ] = None
        if self._on_blind is not None:
            self._on_blind()

    def _fail(self, error: BaseException) -> None:
        self.problems[f"spans are not seen: {class_name(type(error))}: {error}"] = None

    # --- what is patched -------------------------------------------------------------------------

    def _patch_traces(self, module: Any) -> None:
        try:
            wrapt.wrap_function_wrapper(module, "TracerProvider.__init__", self._made)
        except UNREADABLE as error:
            self._fail(error)

    def _patch_logs(self, module: Any) -> None:
        try:
            wrapt.wrap_function_wrapper(module, "LoggerProvider.__init__", self._made_logs)
        except UNREADABLE as error:
            self._fail(error)

    def _made(
        self, wrapped: Any, provider: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        wrapped(*args, **kwargs)
        if self._is_active:
            try:
                self.add_to(provider)
            except UNREADABLE as error:
                self._fail(error)

    def _made_logs(
        self, wrapped: Any, provider: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        wrapped(*args, **kwargs)
        if self._is_active:
            self._add_logs(provider)

    def _add_logs(self, provider: Any) -> None:
        kind = getattr(sys.modules.get(_SDK_LOGS), "LoggerProvider", None)
        if kind is None or not isinstance(provider, kind):
            return
        with self._lock:
            if provider in self._seen:
                return
            self._seen.add(provider)
        try:
            from genmeter.spans.logs import GenAILogProcessor

            processor = GenAILogProcessor()
            provider.add_log_record_processor(processor)
            self._processors.append(processor)
        except UNREADABLE as error:
            self._fail(error)

    def _set_provider(
        self, wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        result = wrapped(*args, **kwargs)
        if self._is_active:
            provider = trace.get_tracer_provider()
            if not isinstance(provider, trace.ProxyTracerProvider):
                self._add_global(provider)
        return result

    def _tracer(
        self, wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return a tracer that has spans here until the job sets a provider, and then of that."""
        tracer = wrapped(*args, **kwargs)
        if self._is_active and type(tracer) is trace.ProxyTracer:
            try:
                # What the proxy uses while there is no provider.
                if not isinstance(tracer._noop_tracer, trace.NoOpTracer):  # noqa: SLF001 - no public way
                    raise TypeError("opentelemetry.trace.ProxyTracer has changed")
                tracer._noop_tracer = self._own().get_tracer(*args, **kwargs)  # noqa: SLF001
            except UNREADABLE as error:
                self._fail(error)
        return tracer

    def _own(self) -> Any:
        with self._lock:
            if self._fallback is None:
                self._fallback = _fallback_provider()
                self.add_to(self._fallback)
            return self._fallback


def _fallback_provider() -> Any:
    """Return a provider that has all spans recorded and none sampled: nobody exports them."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Decision, StaticSampler

    class FallbackProvider(TracerProvider):
        """Marked, since it is made while others may be."""

        is_fallback_of_genmeter = True

    return FallbackProvider(StaticSampler(Decision.RECORD_ONLY), shutdown_on_exit=False)


def _gate_processor(is_active: Callable[[], bool]) -> Any:
    """Return a span processor that refuses calls, see :mod:`genmeter.observed.gate`.

    Args:
        is_active: Whether it still does, since a processor cannot be removed.
    """
    from opentelemetry.sdk.trace import SpanProcessor

    class GateProcessor(SpanProcessor):
        """Raises in the caller's path as a call's span starts, before anything is sent."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:  # noqa: ARG002
            if gate.is_guarded() and is_active() and _is_call(span):
                gate.check()

    return GateProcessor()


def _is_call(span: Any) -> bool:
    from genmeter.spans.reading import operation_of

    try:
        return operation_of(span.attributes) is not None
    except UNREADABLE:
        return False
