"""Hook of NeMo Data Designer: each request that it makes of a model is a call, by column.

The factory of its model registry takes a sink of request events (new in 0.9, in a module of its engine, so
that it is looked for by name): attempts with outcome, model and column. The events have no tokens; those
are read from what the model clients of that registry return, whose methods are wrapped. If these are not as
expected, the calls are recorded from the events alone, with unknown usage, and a warning says so.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from genmeter import clock
from genmeter.errors import BudgetError
from genmeter.events.answers import CallDetails, Unread
from genmeter.events.capture import capture_label, capture_number
from genmeter.events.values import UNREADABLE
from genmeter.hooks._base import FrameworkHook, HookCall, Unsupported
from genmeter.hooks._replacing import Replaced
from genmeter.hooks.frameworks import FRAMEWORKS
from genmeter.observed.model import ObservedCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "uninstall"]

_SOURCE = FRAMEWORKS["data_designer"].source
_FACTORY = "data_designer.engine.models.factory"
_PROVIDER = "data_designer.engine.resources.resource_provider"
_EXECUTOR = "data_designer.engine.models.clients.model_request_executor"
_FUNCTION = "create_model_registry"
_SINK = "request_event_sink"
_COMPLETED = "model_request_completed"
_CANCELLED = "local_cancelled"
_METHODS = {
    "completion": "chat",
    "acompletion": "chat",
    "embeddings": "embeddings",
    "aembeddings": "embeddings",
    "generate_image": "generate_content",
    "agenerate_image": "generate_content",
}
_OPERATIONS = {"chat": "chat", "embedding": "embeddings", "image": "generate_content"}

_call: ContextVar[HookCall | None] = ContextVar("genmeter_data_designer", default=None)


class _Sink:
    """The sink of a registry's events, before the one that the job has given."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def accepts_request_event(self, kind: Any) -> bool:
        """Return whether an event of this kind is wanted."""
        return kind == _COMPLETED or self._is_given(kind)

    def emit_request_event(self, event: Any) -> None:
        """Take an event, and pass it on."""
        kind = getattr(event, "event_kind", None)
        if kind == _COMPLETED and _hook.is_active:
            try:
                _take(event)
            except UNREADABLE as error:
                _hook.report("a request event", error)
        if self._is_given(kind):
            self._given.emit_request_event(event)

    def _is_given(self, kind: Any) -> bool:
        if self._given is None:
            return False
        accepts = getattr(self._given, "accepts_request_event", None)
        return accepts is None or bool(accepts(kind))


def _take(event: Any) -> None:
    """Note the outcome of an attempt; record it as a call if its client is not wrapped."""
    diagnostics = event.diagnostics
    outcome = capture_label(diagnostics.get("outcome"))
    call = _call.get()
    if call is not None:
        if outcome != "success":
            call.data.setdefault("failed", []).append(outcome)
        return
    resource = event.request_resource_key
    if not isinstance(resource, dict):
        resource = {}
    correlation = event.captured_correlation
    step = correlation.get("task_column") if isinstance(correlation, dict) else None
    duration = capture_number(diagnostics.get("duration_seconds"))
    domain = capture_label(resource.get("domain")) or ""
    keywords = {
        "model_name": capture_label(resource.get("model_id")),
        "provider": capture_label(resource.get("provider_name")),
        "operation": _OPERATIONS.get(domain),
        "step": capture_label(step),
        "error_type": None if outcome in {"success", _CANCELLED} else outcome,
    }
    _hook.observe(
        ObservedCall(
            _SOURCE,
            clock.now(),
            float(duration) if type(duration) in {int, float} else None,
            outcome == "success",
            {name: value for name, value in keywords.items() if value is not None},
            CallDetails(
                is_cancelled=outcome == _CANCELLED, unread=Unread("not_reported", "an event")
            ),
        )
    )


# --- clients -------------------------------------------------------------------------------------


def _begin(name: str, args: tuple[Any, ...]) -> HookCall | None:
    """Begin a call of a client; a method that another one calls is that call."""
    if not _hook.is_active or _call.get() is not None:
        return None
    try:
        client, request = args[0], args[1] if len(args) > 1 else None
        return _hook.begin(
            model=capture_label(getattr(request, "model", None) or client._model_id),  # noqa: SLF001
            provider=capture_label(getattr(client, "_provider_name", None)),
            operation=_METHODS[name],
            step=_column(),
        )
    except BudgetError:
        raise
    except UNREADABLE as error:
        _hook.report(name, error)
        return None


def _column() -> str | None:
    """Return the column that is generated here."""
    try:
        observability = importlib.import_module("data_designer.engine.observability")
        correlation = observability.runtime_correlation_provider.current()
        return capture_label(getattr(correlation, "task_column", None))
    except UNREADABLE as error:
        _hook.report("the column", error)
        return None


def _end(call: HookCall, response: Any, error: BaseException | None) -> None:
    try:
        failed = call.data.get("failed", [])
        for outcome in failed if error is None else failed[:-1]:
            is_limited = outcome is not None and "rate_limit" in outcome
            call.handle.retry("RateLimitError" if is_limited else outcome)
        if error is None:
            raw, usage = getattr(response, "raw", None), getattr(response, "usage", None)
            if isinstance(raw, dict):
                call.handle.usage(raw)
            elif usage is not None:
                call.handle.usage(
                    prompt_token_count=getattr(usage, "input_tokens", None),
                    completion_token_count=getattr(usage, "output_tokens", None),
                    total_token_count=getattr(usage, "total_tokens", None),
                    reasoning_token_count=getattr(usage, "reasoning_tokens", None),
                )
            else:
                call.handle.usage(None)
    except UNREADABLE as problem:
        _hook.report("a response", problem)
    call.end(error)


def _wrap(original: Any, name: str) -> Any:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def amethod(*args: Any, **kwargs: Any) -> Any:
            call = _begin(name, args or (kwargs.get("self"),))
            if call is None:
                return await original(*args, **kwargs)
            token = _call.set(call)
            try:
                response = await original(*args, **kwargs)
            except BaseException as error:
                _end(call, None, error)
                raise
            finally:
                _call.reset(token)
            _end(call, response, None)
            return response

        return amethod

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        call = _begin(name, args)
        if call is None:
            return original(*args, **kwargs)
        token = _call.set(call)
        try:
            response = original(*args, **kwargs)
        except BaseException as error:
            _end(call, None, error)
            raise
        finally:
            _call.reset(token)
        _end(call, response, None)
        return response

    return method


# --- installing ----------------------------------------------------------------------------------


def _connect(module: ModuleType) -> Callable[[], object]:
    factory = importlib.import_module(_FACTORY)
    original = vars(factory).get(_FUNCTION)
    if not callable(original):
        raise Unsupported(f"{_FACTORY} has no function {_FUNCTION}")
    if _SINK not in inspect.signature(original).parameters:
        raise Unsupported(f"{_FUNCTION} has no parameter {_SINK}")

    @functools.wraps(original)
    def create(*args: Any, **kwargs: Any) -> Any:
        if _hook.is_active:
            kwargs[_SINK] = _Sink(kwargs.get(_SINK))
        return original(*args, **kwargs)

    replaced = Replaced()
    for owner in (factory, module):
        if vars(owner).get(_FUNCTION) is original:
            replaced.set(owner, _FUNCTION, create)
    _wrap_clients(replaced)
    return replaced.undo


def _wrap_clients(replaced: Replaced) -> None:
    """Wrap the methods of the clients."""
    try:
        executor = vars(importlib.import_module(_EXECUTOR)).get("ModelRequestExecutor")
    except ImportError:
        executor = None
    names = _METHODS if isinstance(executor, type) else ()
    wrapped = [name for name in names if inspect.isfunction(vars(executor).get(name))]
    for name in wrapped:
        replaced.set(executor, name, _wrap(vars(executor)[name], name))
    if not wrapped:
        _hook.warn(f"{_EXECUTOR} has no ModelRequestExecutor; the usage of its calls is unknown")


_hook = FrameworkHook(FRAMEWORKS["data_designer"], module=_PROVIDER, connect=_connect)


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the model requests of Data Designer, from now on or from its import on.

    Registries that exist already have no sink of ours; their calls are recorded without their retries.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording, and restore the factory and the clients."""
    _hook.uninstall()
