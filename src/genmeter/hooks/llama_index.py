"""LlamaIndex's hook: each chat, completion and embedding of its models is a call.

An event handler of the root dispatcher. A failure is seen by the event of the dropped span of the model's
method, since a model sends no event of its own for it. Embedding events have no usage: their tokens are
unknown, unless something below observes them, such as an instrumentation of the client.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from genmeter.events.capture import lookup
from genmeter.events.values import UNREADABLE
from genmeter.fork_lock import ForkLock
from genmeter.hooks._base import FrameworkHook, HookCall, Unsupported
from genmeter.hooks._tables import OpenTable
from genmeter.hooks.frameworks import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "uninstall"]

_OPERATIONS = {
    "LLMChatStartEvent": "chat",
    "LLMCompletionStartEvent": "text_completion",
    "EmbeddingStartEvent": "embeddings",
}
_CHUNKS = frozenset({"LLMChatInProgressEvent", "LLMCompletionInProgressEvent"})
_ENDS = frozenset({"LLMChatEndEvent", "LLMCompletionEndEvent", "EmbeddingEndEvent"})
_FAILURES = frozenset({"ExceptionEvent", "SpanDropEvent"})


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the calls of LlamaIndex's models.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording them; calls that are open are not recorded."""
    _hook.uninstall()


def _drop(calls: deque[HookCall]) -> None:
    for call in calls:
        call.drop()


_calls: OpenTable[deque[HookCall]] = OpenTable(_drop)
"""The open calls by the span of the model's method; several where it embeds batches at once."""
_lock = ForkLock()


def _handle(event: Any) -> None:
    kind = type(event).__name__
    if kind in _OPERATIONS:
        _start(event, _OPERATIONS[kind])
    elif kind in _CHUNKS:
        call = _first(event.span_id)
        if call is not None:
            call.chunk(getattr(event.response, "raw", None))
    elif kind in _ENDS:
        call = _take(event.span_id)
        if call is not None:
            _end(call, event)
    elif kind in _FAILURES:
        _fail(event)


def _start(event: Any, operation: str) -> None:
    span = event.span_id
    given = event.model_dict
    if lookup(given, "is_chat_model") is True:
        operation = "chat"  # complete() of a chat model
    around = _first(span)
    call = _hook.begin(
        model=_text(lookup(given, "model_name")) or _text(lookup(given, "model")),
        provider=_provider(lookup(given, "class_name")),
        operation=operation,
        mark=around,
        # A stream's consumer has the context of the method that returns it.
        is_marked=not _is_stream(span),
        is_gated=False,
    )
    with _lock:
        others = _calls.get(str(span))
        if others is not None:
            others.append(call)
            return
        _calls.add(str(span), deque((call,)))


def _first(span: Any) -> HookCall | None:
    found = _calls.get(str(span))
    return found[0] if found else None


def _take(span: Any) -> HookCall | None:
    with _lock:
        found = _calls.get(str(span))
        if not found:
            return None
        call = found.popleft()
        if not found:
            _calls.take(str(span))
        return call


def _end(call: HookCall, event: Any) -> None:
    try:
        response = getattr(event, "response", None)
        # The vendor's own response, or the last chunk of its stream; some models have neither.
        raw = getattr(response, "raw", None)
        call.handle.usage(response if raw is None else raw)
    except UNREADABLE as error:
        _hook.report("the end of a call", error)
    call.end()


def _fail(event: Any) -> None:
    error = getattr(event, "exception", None)
    if error is None:
        # The event is sent where it is handled.
        error = sys.exception() or getattr(event, "err_str", None) or "failed"
    while (call := _take(event.span_id)) is not None:
        call.end(error)


def _text(value: Any) -> str | None:
    return value if type(value) is str and value else None


def _is_stream(span: Any) -> bool:
    """Return whether a span is of a method that streams; its id begins with ``Class.method-``."""
    text = _text(span) or ""
    return "stream" in text.partition("-")[0].rpartition(".")[2]


def _provider(name: Any) -> str | None:
    """Return the provider of a model's class, such as ``openai_llm`` or ``Anthropic_LLM``."""
    text = (_text(name) or "").lower()
    if "like" in text or text in {"custom_llm", "base_component", "mockllm"}:
        return None  # a server of OpenAI's kind is anybody's
    for end in ("_llm", "embedding", "_embedding"):
        text = text.removesuffix(end)
    return text.rstrip("_") or None


def _connect(module: ModuleType) -> Callable[[], object]:
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler

    get_dispatcher = getattr(module, "get_dispatcher", None)
    if not callable(get_dispatcher):
        raise Unsupported("llama_index.core.instrumentation has no get_dispatcher")
    root = get_dispatcher()
    add = getattr(root, "add_event_handler", None)
    if not callable(add):
        raise Unsupported("the root dispatcher has no add_event_handler")
    handler = _handler_class(BaseEventHandler)()
    add(handler)

    def disconnect() -> None:
        handlers = getattr(root, "event_handlers", None)
        if isinstance(handlers, list):
            handlers[:] = [each for each in handlers if each is not handler]
        _calls.clear()

    return disconnect


def _handler_class(base: Any) -> Any:
    class GenmeterEventHandler(base):  # type: ignore[misc]
        """Records the calls; called in the context of the call."""

        @classmethod
        def class_name(cls) -> str:
            """Return the name, by which LlamaIndex shows handlers."""
            return "GenmeterEventHandler"

        def handle(self, event: Any, **kwargs: Any) -> None:
            """Handle an event."""
            del kwargs
            _guarded(event)

    return GenmeterEventHandler


_hook = FrameworkHook(
    FRAMEWORKS["llama_index"], module="llama_index.core.instrumentation", connect=_connect
)
_guarded = _hook.guarded(_handle)
