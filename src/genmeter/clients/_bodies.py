"""Reads responses that the caller reads as bytes: raw ones, and those of ``with_streaming_response``.

The HTTP response gets a subclass of its class, whose methods pass its decoded bytes on, below all ways of
reading it: ``parse()``, ``json()``, ``iter_lines()``, a stream that is made of it. It has its own class
again at the end of the body. Methods of the object itself would form a cycle with it.
"""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from genmeter.call.streams import flow_of
from genmeter.events.answers import Unread
from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from genmeter.call.handle import GenerationHandle

__all__ = ["answer_of_response", "follow_body", "unread_body"]

_MAX_BODY = 64 * 2**20
"""Bytes of an answer that are kept until its end: embeddings are large."""
_MAX_LINE = 16 * 2**20
_BODY = "_genmeter_body"


def unread_body(result: Any) -> Any:
    """Return the HTTP response whose body the caller will read; None if it is there, or is none.

    Args:
        result: What a client returned: a raw response, or an HTTP response itself.
    """
    kind = type(result)
    response = result
    if hasattr(kind, "parse") and "http_response" in _names(result):
        response = result.http_response
    if not (hasattr(type(response), "iter_bytes") and hasattr(type(response), "iter_raw")):
        return None
    return None if response.is_closed or response.is_stream_consumed else response


def answer_of_response(result: Any) -> Any:
    """Return the JSON of a raw response whose body is there; the result itself if it is another."""
    response = result
    if "http_response" in _names(result) and hasattr(type(result), "parse"):
        response = result.http_response
    if not (hasattr(type(response), "iter_bytes") and hasattr(type(response), "iter_raw")):
        return result
    try:
        return json.loads(response.content)
    except UNREADABLE:
        return result


def follow_body(response: Any, handle: GenerationHandle, keep_id: Callable[[Any], object]) -> None:
    """Read a body as it passes, and end the call with it.

    Args:
        response: An HTTP response of httpx or of a library of its shape.
        handle: The call.
        keep_id: Called with the first part of the answer.
    """
    kind = str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
    body: _Body
    if kind == "text/event-stream":
        body = _Events(handle, keep_id)
    elif kind.endswith("json"):
        body = _Document(handle, keep_id)
    else:
        body = _Unknown(handle, kind)
    own_class: Any = type(response)
    response.__class__ = _tapped(own_class)
    _names(response)[_BODY] = body


def _names(obj: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(obj, "__dict__")
    except UNREADABLE:
        return {}
    return found


class _Body:
    """What is read of a body; a second end changes nothing. Here: nothing is read.

    Attributes:
        is_advancing: Whether the response is being read: it closes itself at its end, before it says
            that this is the end.
        is_ended: Whether the call has ended.
    """

    def __init__(self) -> None:
        self.is_advancing = False
        self.is_ended = False

    def __del__(self) -> None:
        # The response was dropped.
        with suppress(*UNREADABLE):
            self.leave()

    def take(self, data: bytes) -> None:
        """Read some bytes."""

    def end(self, error: BaseException | None) -> None:
        """End the body: read to its end, or broken by ``error``."""

    def leave(self) -> None:
        """End the body, which the caller closed or dropped."""

    def take_some(self, data: bytes) -> None:
        """Read some bytes; never raises."""
        with suppress(*UNREADABLE):  # what is no JSON is no event of a model
            self.take(data)

    def leave_here(self) -> None:
        """End the body, which is closed, unless it is at its end; never raises."""
        if not self.is_advancing:
            with suppress(*UNREADABLE):
                self.leave()


_NONE = _Body()
"""In the place of the body of a response that has ended."""


class _Answer(_Body):
    """A body that is the answer of a call.

    Args:
        handle: The call.
    """

    def __init__(self, handle: GenerationHandle) -> None:
        super().__init__()
        self._handle = handle
        handle.unmark()  # what the caller does meanwhile is no part of the call

    def end(self, error: BaseException | None) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._exit(error)

    def leave(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._handle.usage()  # which is not known
            self._exit(None)

    def _exit(self, error: BaseException | None) -> None:
        self._handle.__exit__(None if error is None else type(error), error, None)


class _Document(_Answer):
    """An answer in JSON.

    The model has finished it when its headers are there, so leaving it is a success of unknown usage.
    """

    def __init__(self, handle: GenerationHandle, keep_id: Callable[[Any], object]) -> None:
        super().__init__(handle)
        self._keep_id = keep_id
        self._data = bytearray()

    def take(self, data: bytes) -> None:
        if len(self._data) <= _MAX_BODY:
            self._data += data

    def end(self, error: BaseException | None) -> None:
        if self.is_ended:
            return
        if error is None:
            try:
                answer = json.loads(self._data)
                self._handle.usage(answer)
                self._keep_id(answer)
            except UNREADABLE:
                self._handle.usage()
        self._data = bytearray()
        super().end(error)


class _Unknown(_Answer):
    """A body that cannot be read here, such as Bedrock's events."""

    def __init__(self, handle: GenerationHandle, kind: str) -> None:
        super().__init__(handle)
        self._kind = kind or "unknown content"

    def end(self, error: BaseException | None) -> None:
        if not self.is_ended and error is None:
            self._miss()
        super().end(error)

    def leave(self) -> None:
        self.end(None)

    def _miss(self) -> None:
        self._handle.usage()
        self._handle.mark_unread(Unread("not_understood", self._kind))


class _Events(_Answer):
    """Server-sent events, as the WHATWG's HTML standard defines them."""

    def __init__(self, handle: GenerationHandle, keep_id: Callable[[Any], object]) -> None:
        super().__init__(handle)
        self._keep_id = keep_id
        self._is_first = True
        self._rest = b""
        self._data: list[bytes] = []
        self._name = b""
        self._proxy = handle.stream_to_end(_Source())
        self._flow = flow_of(self._proxy)

    def take(self, data: bytes) -> None:
        if self.is_ended:
            return
        *lines, rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n")
        self._rest = rest[-_MAX_LINE:]
        for line in lines:
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        if not line:
            data, self._data = b"\n".join(self._data), []
            name, self._name = self._name, b""
            if data:
                self._take_event(name, data)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value

    def _take_event(self, name: bytes, data: bytes) -> None:
        flow = self._flow
        if flow is None or self.is_ended:
            return
        if data.startswith(b"[DONE]"):
            self.end(None)
            return
        event = json.loads(data)
        if type(event) is dict and (name == b"error" or event.get("error")):
            self._fail(event.get("error"))
            return
        if self._is_first:
            self._is_first = False
            self._keep_id(event)
        flow.observe(event)

    def _fail(self, error: Any) -> None:
        kind = error.get("type") if type(error) is dict else None
        self._handle.fail(kind if type(kind) is str else "the stream had an error event")
        self.end(None)

    def end(self, error: BaseException | None) -> None:
        if not self.is_ended and self._flow is not None:
            self.is_ended = True
            self._flow.finish(error)  # which ends the call

    def leave(self) -> None:
        if not self.is_ended and self._flow is not None:
            self.is_ended = True
            self._flow.leave()


class _Source:
    """Stands for the stream that is read here."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@functools.cache
def _tapped(kind: Any) -> Any:
    """Return a subclass of a response's class, whose bytes go to a body too."""
    methods = {**_reading(kind), **_closing(kind)}
    return type(
        class_name(kind),
        (kind,),
        {
            "__slots__": (),
            "__module__": kind.__module__,
            **{name: method for name, method in methods.items() if hasattr(kind, name)},
        },
    )


def _reading(kind: Any) -> dict[str, Any]:
    def iter_bytes(self: Any, chunk_size: int | None = None) -> Iterator[bytes]:
        body = _body_of(self)
        body.is_advancing = True
        try:
            for data in kind.iter_bytes(self, chunk_size):
                body.is_advancing = False
                body.take_some(data)
                yield data
                body.is_advancing = True
        except GeneratorExit:
            raise
        except BaseException as error:
            _end(self, body, error)
            raise
        _end(self, body, None)

    async def aiter_bytes(self: Any, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        body = _body_of(self)
        chunks = kind.aiter_bytes(self, chunk_size)
        body.is_advancing = True
        try:
            async for data in chunks:
                body.is_advancing = False
                body.take_some(data)
                yield data
                body.is_advancing = True
        except GeneratorExit:
            await chunks.aclose()
            raise
        except BaseException as error:
            _end(self, body, error)
            raise
        _end(self, body, None)

    return {"iter_bytes": iter_bytes, "aiter_bytes": aiter_bytes}


def _closing(kind: Any) -> dict[str, Any]:
    def close(self: Any) -> None:
        _body_of(self).leave_here()
        kind.close(self)

    async def aclose(self: Any) -> None:
        _body_of(self).leave_here()
        await kind.aclose(self)

    return {"close": close, "aclose": aclose}


def _body_of(response: Any) -> _Body:
    return _names(response).get(_BODY) or _NONE


def _end(response: Any, body: _Body, error: BaseException | None) -> None:
    """End a body, and give its response its own class again."""
    with suppress(*UNREADABLE):
        body.end(error)
    with suppress(*UNREADABLE):
        if _names(response).pop(_BODY, None) is not None:
            response.__class__ = type(response).__mro__[1]
