"""Reads responses that the caller reads as bytes: raw ones, and those of ``with_streaming_response``.

The methods of the HTTP response that yield its decoded bytes are replaced on that one object, below all
ways of reading it: ``parse()``, ``json()``, ``iter_lines()``, a stream that is made of it. They go away
with the end of the body.
"""

from __future__ import annotations

import json
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from genmeter.call.streams import flow_of
from genmeter.events.answers import Unread
from genmeter.events.values import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from genmeter.call.handle import GenerationHandle

__all__ = ["answer_of_response", "follow_body", "unread_body"]

_MAX_BODY = 64 * 2**20
"""Bytes of an answer that are kept until its end: embeddings are large."""
_MAX_LINE = 16 * 2**20
_METHODS = ("iter_bytes", "aiter_bytes", "close", "aclose")


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
    tap = _Tap(response, body)
    for name in _METHODS:
        if hasattr(type(response), name):
            setattr(response, name, getattr(tap, name))


def _names(obj: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(obj, "__dict__")
    except UNREADABLE:
        return {}
    return found


class _Body:
    """What is read of a body; a second end changes nothing.

    Args:
        handle: The call.
    """

    def __init__(self, handle: GenerationHandle) -> None:
        self._handle = handle
        self.is_ended = False
        handle._unmark()  # noqa: SLF001 - what the caller does meanwhile is no part of the call

    def take(self, data: bytes) -> None:
        """Read some bytes."""

    def end(self, error: BaseException | None) -> None:
        """End the body: read to its end, or broken by ``error``."""
        if not self.is_ended:
            self.is_ended = True
            self._exit(error)

    def leave(self) -> None:
        """End the body, which the caller closed or dropped."""
        if not self.is_ended:
            self.is_ended = True
            self._handle.usage()  # which is not known
            self._exit(None)

    def _exit(self, error: BaseException | None) -> None:
        self._handle.__exit__(None if error is None else type(error), error, None)


class _Document(_Body):
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


class _Unknown(_Body):
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
        usage = self._handle._usage  # noqa: SLF001 - one contract
        if usage is not None:
            usage.mark_unread(Unread("not_understood", self._kind))


class _Events(_Body):
    """Server-sent events, as the WHATWG's HTML standard defines them."""

    def __init__(self, handle: GenerationHandle, keep_id: Callable[[Any], object]) -> None:
        super().__init__(handle)
        self._keep_id = keep_id
        self._is_first = True
        self._rest = b""
        self._data: list[bytes] = []
        self._name = b""
        self._proxy = handle._stream_to_end(_Source())  # noqa: SLF001 - one contract
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


class _Tap:
    """The methods of one HTTP response, whose bytes go to a body too.

    Args:
        response: The response; kept by a weak reference, since it keeps this.
        body: Reads the bytes. It ends when this is dropped.
    """

    def __init__(self, response: Any, body: _Body) -> None:
        self._kind = type(response)
        self._response = weakref.ref(response)
        self._body = body
        self._is_advancing = False  # the response closes itself at its end, before it says so

    def __del__(self) -> None:
        with suppress(*UNREADABLE):  # at the end of the interpreter
            self._body.leave()

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Yield the decoded bytes."""
        self._is_advancing = True
        try:
            for data in self._kind.iter_bytes(self._response(), chunk_size):
                self._is_advancing = False
                self._take(data)
                yield data
                self._is_advancing = True
        except GeneratorExit:
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the decoded bytes."""
        chunks = self._kind.aiter_bytes(self._response(), chunk_size)
        self._is_advancing = True
        try:
            async for data in chunks:
                self._is_advancing = False
                self._take(data)
                yield data
                self._is_advancing = True
        except GeneratorExit:
            await chunks.aclose()
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def close(self) -> None:
        """Close the response."""
        self._leave()
        self._kind.close(self._response())

    async def aclose(self) -> None:
        """Close the response."""
        self._leave()
        await self._kind.aclose(self._response())

    def _take(self, data: bytes) -> None:
        with suppress(*UNREADABLE):  # what is no JSON is no event of a model
            self._body.take(data)

    def _end(self, error: BaseException | None) -> None:
        with suppress(*UNREADABLE):
            self._body.end(error)
        self._remove()

    def _leave(self) -> None:
        if self._is_advancing:
            return
        with suppress(*UNREADABLE):
            self._body.leave()

    def _remove(self) -> None:
        response = self._response()
        for name in _METHODS:
            _names(response).pop(name, None)
