"""Begins and ends the call of a watched client."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from genmeter.call.handle import GenerationHandle
from genmeter.call.streams import flow_of, is_manager
from genmeter.clients._bodies import answer_of_response, follow_body, unread_body
from genmeter.clients._registry import once
from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE
from genmeter.observed.blocks import current
from genmeter.observed.hook import HookRecorder
from genmeter.observed.identity import current_or_outside
from genmeter.usage.reading import is_stream

if TYPE_CHECKING:
    from collections.abc import Generator

    from genmeter.call.streams import Flow
    from genmeter.clients._registry import Recorder, Watch

__all__ = ["Begin", "Begun", "Call", "bound", "call_within", "new_call", "recorded"]

Begin = Callable[[Any, tuple[Any, ...], dict[str, Any]], "Begun"]
Begun = tuple["Call | None", tuple[Any, ...], dict[str, Any]]
"""The call that is about to begin, None if it is not to be recorded, and the arguments to pass on."""

_RETRY_HEADER = "x-stainless-retry-count"
_MAX_RETRIES = 1_000
_MAX_ID = 256


class _CallRecorder(HookRecorder):
    """Records one call.

    Args:
        monitor: The monitor.
        source: Who observes.
        caller: The ``id()`` of the client that makes the call.
    """

    def __init__(self, monitor: Recorder, source: str, caller: int) -> None:
        block = current()
        super().__init__(monitor, source, identity=current_or_outside(), block=block)
        self.caller = caller
        if block is not None:
            # The call is that of the block around it, which counts as active itself.
            self.open_call = self.close_call = _ignore


class Call:
    """One call of a watched client. Only :meth:`enter` raises, and only what a budget raises.

    Args:
        handle: Its handle.
        recorder: What the handle records to.
        answer_of: Returns what is read of a result that is neither a stream nor unread.
    """

    __slots__ = ("_answer_of", "_handle", "_recorder")

    def __init__(
        self, handle: GenerationHandle, recorder: _CallRecorder, answer_of: Callable[[Any], Any]
    ) -> None:
        self._handle = handle
        self._recorder = recorder
        self._answer_of = answer_of

    def enter(self) -> None:
        """Begin the call: the one place through which every call goes before it is sent."""
        self._handle.__enter__()

    def fail(self, error: BaseException) -> None:
        """End a call that raised or was cancelled."""
        with suppress(*UNREADABLE):
            self._count_retries(error, getattr(error, "response", None))
        self._exit(error)

    def end(self, result: Any) -> Any:
        """End the call with what the client returned, or let it end with the stream that this is.

        Returns:
            What the caller gets: ``result``, or a proxy of the stream.
        """
        handle = self._handle
        try:
            body = unread_body(result)
            if body is not None:
                self._count_retries(result, body)
                follow_body(body, handle, functools.partial(_keep_id, self._recorder))
                return result
            if is_stream(result) or is_manager(result):
                return self._stream(result)
            self._count_retries(result, None)
            answer = self._answer_of(result)
            handle.usage(answer)
            _keep_id(self._recorder, answer)
        except UNREADABLE as error:
            _log_failure(error)
        self._exit(None)
        return result

    def _stream(self, stream: Any) -> Any:
        self._count_retries(stream, getattr(stream, "response", None))
        proxy = self._handle.stream_to_end(stream)
        flow = flow_of(proxy)
        if flow is not None:
            flow.read = _first_id(flow, self._recorder)
        return proxy

    def _exit(self, error: BaseException | None) -> None:
        try:
            if self._handle.is_open:
                kind = None if error is None else type(error)
                self._handle.__exit__(kind, error, None)
        except UNREADABLE as failure:
            _log_failure(failure)

    def _count_retries(self, source: Any, response: Any) -> None:
        """Count the client's own retries, as the client or the last request says.

        Where the client's waiting between attempts is seen, each was counted with its cause.
        """
        handle = self._handle
        if handle.has_retries:
            return
        taken = getattr(source, "retries_taken", None)
        if type(taken) is not int:
            request = getattr(source if response is None else response, "request", None)
            headers = getattr(request, "headers", None)
            text = None if headers is None else headers.get(_RETRY_HEADER)
            taken = int(text) if type(text) is str and text.isdecimal() else 0
        for _ in range(min(taken, _MAX_RETRIES)):
            handle.retry()


def new_call(
    watch: Watch,
    caller: Any,
    *,
    source: str,
    model: Any,
    provider: str | None,
    operation: str,
    answer_of: Callable[[Any], Any] = answer_of_response,
) -> Call | None:
    """Return a call that is about to begin; None if it is not to be recorded. Never raises.

    Args:
        watch: That of the client.
        caller: The object whose method is called.
        source: Who observes, as in ``ObservedCall.source``.
        model: That is asked for.
        provider: Who serves it, unless the watch says.
        operation: The kind of call.
        answer_of: As of :class:`Call`.
    """
    monitor = watch.monitor
    if monitor is None or call_within(caller) is not None:
        return None
    options = watch.options
    recorder = _CallRecorder(monitor, source, id(caller))
    handle = GenerationHandle(
        recorder,
        model=model,
        step=options.step,
        provider=options.provider or provider,
        operation=operation,
    )
    return Call(handle, recorder, answer_of)


def call_within(caller: Any) -> GenerationHandle | None:
    """Return the call of this client that the running code is a part of; None if it is of none.

    A subclass may call the method that it overrides, which then is no second call.
    """
    block = current()
    if type(block) is not GenerationHandle:
        return None
    recorder = block.recorder
    is_own = type(recorder) is _CallRecorder and recorder.caller == id(caller)
    return block if is_own else None


def _keep_id(recorder: _CallRecorder, obj: Any) -> bool:
    """Keep the id of a response, by which spans of the same call are found; returns whether it has one.

    Args:
        recorder: That of the call.
        obj: A response, a chunk or an event of a stream, or its JSON.
    """
    for part in (obj, _part(obj, "response"), _part(obj, "message")):
        for name in ("id", "response_id", "responseId"):
            value = _part(part, name)
            if type(value) is str and 0 < len(value) <= _MAX_ID:
                recorder.response_id = value
                return True
    return False


def _part(obj: Any, name: str) -> Any:
    try:
        return obj.get(name) if type(obj) is dict else getattr(obj, name, None)
    except UNREADABLE:
        return None


def _first_id(flow: Flow, recorder: _CallRecorder) -> Any:
    """Return the flow's reader of chunks, which also keeps the id of the first one."""
    read = flow.read
    is_first = True

    def read_chunk(chunk: Any) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            _keep_id(recorder, chunk)
        read(chunk)

    return read_chunk


def _ignore(handle: Any) -> None:
    """Neither open nor close: see :class:`_CallRecorder`."""


def _log_failure(error: BaseException) -> None:
    once.warn(
        f"end:{class_name(type(error))}",
        "what a watched client returned could not be read (%s); its call is recorded without tokens",
        class_name(type(error)),
    )


def bound(original: Callable[..., Any], obj: Any) -> Callable[..., Any]:
    """Return what an attribute of a class is on an object, as if nothing had replaced it.

    Of wrapt's wrappers, by which instrumentations replace methods, a plain call has no object.
    """
    bind = getattr(type(original), "__get__", None)
    found: Callable[..., Any] = original if bind is None else bind(original, obj, type(obj))
    return found


def recorded(original: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    """Return the replacement of a method, of the same kind.

    Args:
        original: A method, an asynchronous one, or a generator.
        begin: Gets the object and its arguments; never raises. For a generator it is called with the
            first chunk, as the request is sent with it.
    """
    if inspect.iscoroutinefunction(original):
        return _recorded_async(original, begin)
    if inspect.isgeneratorfunction(original):
        return _recorded_generator(original, begin)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        call, args, kwargs = begin(self, args, kwargs)
        if call is None:
            return bound(original, self)(*args, **kwargs)
        call.enter()
        try:
            result = bound(original, self)(*args, **kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        return call.end(result)

    return method


def _recorded_async(original: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        call, args, kwargs = begin(self, args, kwargs)
        if call is None:
            return await bound(original, self)(*args, **kwargs)
        call.enter()
        try:
            result = await bound(original, self)(*args, **kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        return call.end(result)

    return method


def _recorded_generator(original: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call, args, kwargs = begin(self, args, kwargs)
        if call is None:
            return (yield from bound(original, self)(*args, **kwargs))
        call.enter()
        return (yield from call.end(bound(original, self)(*args, **kwargs)))

    return method
