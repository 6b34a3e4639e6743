"""LangChain's hook, and so LangGraph's: each run of a model is a call.

A callback handler in each run's callbacks, by ``langchain_core.tracers.context.register_configure_hook``,
so the job passes none. It sees models, with tokens, finish reason, times of chunks, errors and
cancellations; embeddings have no callbacks in LangChain. A hit in LangChain's own cache is no call. The step
of a call is the node of LangGraph that runs it.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from genmeter.events.capture import lookup
from genmeter.events.values import UNREADABLE
from genmeter.hooks._base import (
    FrameworkHook,
    HookBlock,
    HookCall,
    Unsupported,
    open_block,
    step_of,
)
from genmeter.hooks._tables import OpenTable
from genmeter.hooks.frameworks import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor
    from genmeter.observed.model import ObservedCall

__all__ = ["install", "uninstall"]

_CALLBACKS = (
    "on_chat_model_start",
    "on_llm_start",
    "on_llm_new_token",
    "on_llm_end",
    "on_llm_error",
)


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the calls of LangChain's models.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording them; calls that are open are not recorded."""
    _hook.uninstall()


class _Batch(HookBlock):
    """The runs of one call of ``generate`` with several prompts, which all start before the first request.

    It is their block, since none of them can be that of the requests between. They know their usage
    themselves, so what is observed inside adds nothing.
    """

    __slots__ = ("calls", "is_async")

    def __init__(self) -> None:
        super().__init__(open_block())
        self.calls: list[HookCall] = []
        self.is_async = _is_async()

    @property
    def is_running(self) -> bool:
        """Whether any of them goes on."""
        return any(call.is_running for call in self.calls)

    def belongs_to(self, monitor: object) -> bool:
        """Return whether its calls are a monitor's."""
        return any(call.belongs_to(monitor) for call in self.calls)

    def observe(self, call: ObservedCall) -> bool:
        """Take what was observed as a part of one of them."""
        if not self.is_running:
            self.ended = max((each.ended for each in self.calls), default=0.0)
        return super().observe(call)

    def fail(self, failed: HookCall) -> None:
        """End the others, of which LangChain reports nothing more in its synchronous ``generate``.

        Those before the failed one were answered, and their answers thrown away; those after it were
        never asked for.
        """
        if self.is_async or failed not in self.calls:
            return
        position = self.calls.index(failed)
        for call in self.calls[:position]:
            call.handle.usage()
            call.end()
        for call in self.calls[position + 1 :]:
            call.drop()


class _Runs:
    """The open runs by the number of their id, so that the id itself is not kept alive."""

    def __init__(self) -> None:
        self._calls: OpenTable[tuple[HookCall, weakref.ref[Any] | None]] = OpenTable(
            lambda found: found[0].drop()
        )
        self.clear = self._calls.clear

    def add(self, run_id: Any, number: int, call: HookCall) -> None:
        """Add one."""
        watch = None
        with suppress(TypeError):
            watch = weakref.ref(run_id, lambda _: self._lost(number))
        self._calls.add(number, (call, watch))

    def get(self, run_id: Any) -> HookCall | None:
        """Return an open one."""
        found = self._calls.get(_number(run_id))
        return None if found is None else found[0]

    def pop(self, run_id: Any) -> HookCall | None:
        """Remove one."""
        found = self._calls.take(_number(run_id))
        return None if found is None else found[0]

    def _lost(self, number: int) -> None:
        """End a run whose id is gone: LangChain reports no end of an ``ainvoke`` that was cancelled."""
        found = self._calls.take(number)
        if found is not None and _hook.is_active:
            with suppress(*UNREADABLE):
                found[0].end(asyncio.CancelledError())


_runs = _Runs()


def _number(run_id: Any) -> int:
    number: int = run_id.int
    return number


def _start(operation: str, metadata: Any, run_id: Any, kwargs: dict[str, Any]) -> None:
    """Begin the call of a run."""
    number = _number(run_id)  # before a block is marked that could not be found again
    parameters = lookup(kwargs, "invocation_params")
    batch = _batch_of(kwargs.get("batch_size"))
    call = _hook.begin(
        model=_first(
            lookup(parameters, "model"),
            lookup(parameters, "model_name"),
            lookup(metadata, "ls_model_name"),
        ),
        provider=_first(lookup(metadata, "ls_provider")),
        operation=operation,
        step=step_of(lookup(metadata, "langgraph_node")),
        mark=batch,
        has_context=_keeps_context() or not _is_async(),
    )
    if batch is not None:
        batch.calls.append(call)
        call.data["batch"] = batch
    _runs.add(run_id, number, call)


_batch: ContextVar[tuple[_Batch, int] | None] = ContextVar("genmeter_langchain_batch", default=None)


def _batch_of(size: Any) -> _Batch | None:
    """Return the batch whose runs are starting in this context; None of a single run."""
    if type(size) is not int or size <= 1:
        return None
    batch, left = _batch.get() or (_Batch(), size)
    _batch.set((batch, left - 1) if left > 1 else None)
    return batch


@functools.cache
def _keeps_context() -> bool:
    """Return whether a run that is awaited has the context of its inline callbacks.

    The first versions of langchain-core 0.3 run them in tasks of their own.
    """
    try:
        from langchain_core.callbacks.manager import AsyncCallbackManager

        names = AsyncCallbackManager.on_chat_model_start.__code__.co_varnames
    except UNREADABLE:
        return False
    return any("inline" in name for name in names)


def _first(*values: Any) -> str | None:
    return next((value for value in values if type(value) is str and value), None)


def _is_async() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_cache_hit(response: Any) -> bool:
    """Return whether an answer is from LangChain's cache, which sets its cost to 0."""
    message = getattr(response.generations[0][0], "message", None)
    usage = getattr(message, "usage_metadata", None)
    return isinstance(usage, dict) and usage.get("total_cost") == 0


def _end(response: Any, run_id: Any) -> None:
    call = _runs.pop(run_id)
    if call is None:
        return
    try:
        if _is_cache_hit(response):
            call.drop()
            return
        call.handle.usage(response)
    except UNREADABLE as error:
        _hook.report("on_llm_end", error)
        call.handle.usage()
    call.end()


def _fail(error: Any, run_id: Any, response: Any) -> None:
    call = _runs.pop(run_id)
    if call is None:
        return
    try:
        if response is not None and getattr(response, "generations", None):
            call.handle.usage(response)
    except UNREADABLE as unreadable:
        _hook.report("on_llm_error", unreadable)
    call.end(error)
    batch = call.data.pop("batch", None)
    if batch is not None:
        batch.fail(call)


def _connect(module: ModuleType) -> Callable[[], object]:
    register = getattr(module, "register_configure_hook", None)
    if not callable(register):
        raise Unsupported("langchain_core.tracers.context has no register_configure_hook")
    if not _connected:
        _connected.append(_handler_variable())
    variable, handler_class = _connected[0]
    rows = getattr(module, "_configure_hooks", None)
    before = len(rows) if isinstance(rows, list) else None
    register(variable, True, handler_class)

    def disconnect() -> None:
        _runs.clear()
        # There is no public way to unregister; a handler that is still called does nothing.
        if isinstance(rows, list) and before is not None:
            rows[:] = [row for row in rows if row[0] is not variable]

    return disconnect


_connected: list[tuple[ContextVar[Any], type]] = []  # once a process: contexts keep the variable


def _handler_variable() -> tuple[ContextVar[Any], type]:
    """Return a variable that has the handler in each context and thread, and the handler's class."""
    from langchain_core.callbacks.base import BaseCallbackHandler

    base: Any = BaseCallbackHandler
    for name in _CALLBACKS:
        if not callable(getattr(base, name, None)):
            raise Unsupported(f"BaseCallbackHandler has no {name}")

    class GenmeterCallbackHandler(base):  # type: ignore[misc]
        """Records the runs of models; called in the context of the run, so that it can mark it."""

        run_inline = True

        @property
        def raise_error(self) -> bool:
            """Whether an exception ends the run: only a budget's gets this far."""
            return True

        @_hook.guarded
        def on_chat_model_start(
            self,
            serialized: Any,  # noqa: ARG002
            messages: Any,  # noqa: ARG002
            *,
            run_id: Any,
            metadata: Any = None,
            **kwargs: Any,
        ) -> None:
            _start("chat", metadata, run_id, kwargs)

        @_hook.guarded
        def on_llm_start(
            self,
            serialized: Any,  # noqa: ARG002
            prompts: Any,  # noqa: ARG002
            *,
            run_id: Any,
            metadata: Any = None,
            **kwargs: Any,
        ) -> None:
            _start("text_completion", metadata, run_id, kwargs)

        @_hook.guarded
        def on_llm_new_token(self, token: Any, *, run_id: Any, **kwargs: Any) -> None:  # noqa: ARG002
            _chunk(run_id)

        @_hook.guarded
        def on_stream_event(self, event: Any, *, run_id: Any, **kwargs: Any) -> None:  # noqa: ARG002
            _chunk(run_id)

        @_hook.guarded
        def on_llm_end(self, response: Any, *, run_id: Any, **kwargs: Any) -> None:  # noqa: ARG002
            _end(response, run_id)

        @_hook.guarded
        def on_llm_error(self, error: Any, *, run_id: Any, **kwargs: Any) -> None:
            _fail(error, run_id, kwargs.get("response"))

    handler = GenmeterCallbackHandler()
    return ContextVar("genmeter_langchain", default=handler), GenmeterCallbackHandler


def _chunk(run_id: Any) -> None:
    call = _runs.get(run_id)
    if call is not None:
        call.unmark()  # the consumer of the stream has this context
        call.chunk()


_hook = FrameworkHook(
    FRAMEWORKS["langchain"], module="langchain_core.tracers.context", connect=_connect
)
