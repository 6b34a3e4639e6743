"""Proxies of vendors' streams: ``for chunk in call.stream(stream)``.

A proxy passes each chunk on as it is, reads its usage and takes its time. It has the attributes of
its stream and, for ``isinstance``, its class, so it can be passed on in its place.
"""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from genmeter.call.responses import closing_response
from genmeter.events.values import UNREADABLE
from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
    from types import TracebackType

__all__ = ["MAX_TIMES", "CallStream", "Flow", "flow_of", "is_manager", "proxy_of"]

MAX_TIMES = 16_384
"""Chunks of a stream whose times are kept, 128 KiB."""

# Helpers of the clients of OpenAI and Anthropic collect the answer so far under these names.
_SNAPSHOTS = ("current_message_snapshot", "current_completion_snapshot")
_FINISHED = ("stop_reason", "finish_reason")
# Results of agents have a stream of their own for each form of it, and the usage of all of them.
_STREAMING_METHODS = ("stream_events", "stream_output", "stream_text")


class Flow:
    """The chunks of one stream: what they say, and when they came.

    Attributes:
        read: Reads a chunk.
        times: When the chunks came, by ``perf_counter``; :data:`MAX_TIMES` at most.
        append: Appends a time.
        last: When the last chunk came that is not in ``times``; None if all are. It shows whether
            chunks were taken after the end.
        is_ended: Whether the stream is exhausted, raised or was left.
        is_left: Whether its consumer left it before the model had finished and its usage was known.
        is_settled: Whether its answer was reported otherwise, so that leaving it means nothing.
        is_opaque: Whether its source is no stream itself: what it says counts, not the chunks.
        source: The stream, or what its manager opened; None after the end.
        error: What it raised.
        on_end: Called once, when it ends.
        on_late: Called once, when chunks were taken after its end.
    """

    __slots__ = (
        *("_at_end", "_reading", "append", "error", "is_ended", "is_left", "is_opaque"),
        *("is_settled", "last", "on_end", "on_late", "read", "source", "times"),
    )

    def __init__(self, reading: Reading, on_end: Callable[[Flow], object] | None = None) -> None:
        self.read = ChunkReader(reading).read
        self._reading = reading
        self.times = array("d")
        self.append = self.times.append
        self.last: float | None = None
        self.is_ended = self.is_left = self.is_opaque = self.is_settled = False
        self.source: Any = None
        self.error: BaseException | None = None
        self.on_end = on_end
        self.on_late: Callable[[], object] | None = None
        self._at_end: tuple[int, float | None] = (0, None)

    def settle(self, *, is_another: bool) -> None:
        """Take note of an answer to its call that did not come by its chunks.

        It follows a stream that broke, or is what a helper returns, such as
        ``get_final_response()``, that reads the stream itself.

        Args:
            is_another: Whether it is another attempt's, which follows this one.
        """
        self.error = None
        if is_another or not self.times:
            self.is_settled = True
            self.is_left = False

    def observe(self, chunk: Any) -> None:
        """Time and read a chunk. The loops below do the same without a call."""
        if len(self.times) < MAX_TIMES:
            self.append(perf_counter())
        else:
            self.last = perf_counter()
        self.read(chunk)

    def gaps(self) -> array[float]:
        """Return the seconds between chunks, as an array of its own."""
        times = np.frombuffer(self.times[:])  # a copy, since a late chunk may still be added
        return array("d", np.diff(times).tobytes())

    def finish(self, error: BaseException | None = None) -> None:
        """End it: exhausted, or broken by ``error``; a second end changes nothing."""
        if self.is_ended:
            self._look_for_late_chunks()
            return
        self.error = error
        self._read_source()
        if error is not None:
            self._reading.unread = None  # an attempt that failed need not have a usage
        self._end()

    def leave(self, error: BaseException | None = None) -> None:
        """End it before the end of the stream; a second end changes nothing.

        Its source may know the answer although no chunk was taken here, such as a helper that was
        read by its ``text_stream``.

        Args:
            error: What the stream's own block raised. If no chunk was taken here, nothing else shows
                that the stream has raised it.
        """
        if self.is_ended:
            self._look_for_late_chunks()
            return
        is_complete = self._read_source()
        if error is not None and not self.times:
            self.error = error
        else:
            self.is_left = not (is_complete or self.is_settled or self._is_complete())
        self._end()

    def _end(self) -> None:
        self.is_ended = True
        self.source = None
        self._at_end = len(self.times), self.last
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(self)

    def _look_for_late_chunks(self) -> None:
        if self.on_late is not None and (len(self.times), self.last) != self._at_end:
            on_late, self.on_late = self.on_late, None
            on_late()

    def _is_complete(self) -> bool:
        """Return whether the model has finished and its usage is known: nothing is missing."""
        return self._reading.has_usage and bool(self._reading.answer().finish_reasons)

    def _read_source(self) -> bool:
        """Read what the source says of its whole answer; return whether that is complete."""
        source, reading = self.source, self._reading
        kind = type(source)
        if kind.__module__ == "builtins":
            return False  # such as a generator, or a list of chunks
        for name in _SNAPSHOTS:
            try:
                if not hasattr(kind, name):
                    continue
                snapshot = getattr(source, name)
                reading.read(snapshot)
                ends = [snapshot, *(getattr(snapshot, "choices", None) or ())]
                return any(getattr(each, key, None) for each in ends for key in _FINISHED)
            except UNREADABLE:
                continue
        try:
            if self.is_opaque:
                reading.read(source)
                # What does not say that it is not may well be.
                return getattr(source, "is_complete", None) is not False
            if not reading.has_usage and not issubclass(kind, Mapping | Sequence):
                alone = Reading()
                if alone.read(source):
                    reading.read(source)
        except UNREADABLE:
            pass
        return False


class CallStream:
    """A stream in the place of a vendor's; see ``GenerationHandle.stream``.

    Args:
        stream: What the vendor's client returned.
        flow: Where its chunks go.
        is_part: Whether another proxy, of the manager that opened the stream, ends the flow.
    """

    # Prefixed, as the stream may have such names too.
    __slots__ = (
        *(
            "__weakref__",
            "_self_async_iterator",
            "_self_flow",
            "_self_is_part",
            "_self_iterator",
        ),
        "_self_stream",
    )

    def __init__(self, stream: Any, flow: Flow, *, is_part: bool = False) -> None:
        put = object.__setattr__
        put(self, "_self_stream", stream)
        put(self, "_self_flow", flow)
        put(self, "_self_is_part", is_part)
        put(self, "_self_iterator", None)
        put(self, "_self_async_iterator", None)

    def __getattr__(self, name: str) -> Any:
        """Return the stream's attribute."""
        value = getattr(self._self_stream, name)
        if name == "response" and not self._self_flow.is_ended:
            return closing_response(value, self._self_flow.leave)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the stream's attribute."""
        setattr(self._self_stream, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete the stream's attribute."""
        delattr(self._self_stream, name)

    def __dir__(self) -> list[str]:
        """Return the names of the stream's attributes, and its own."""
        return sorted({*dir(type(self)), *dir(self._self_stream)})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy the stream itself; a call has one proxy of it."""
        return self._self_stream.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"<call.stream() of {self._self_stream!r}>"

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The stream's class, for ``isinstance``, which asks ``type()`` too."""
        return self._self_stream.__class__

    def __del__(self) -> None:
        """End the flow if the consumer drops the stream before its end."""
        try:
            if not self._self_is_part:
                self._self_flow.leave()
        except UNREADABLE:  # at the end of the interpreter
            pass

    def close(self) -> Any:
        """Close the stream; chunks that were not taken do not count.

        Returns:
            What the stream's own method returns, such as a coroutine to await.
        """
        self._self_flow.leave()
        close = getattr(self._self_stream, "close", None)
        return None if close is None else close()

    async def aclose(self) -> None:
        """Close the stream; chunks that were not taken do not count."""
        self._self_flow.leave()
        close = getattr(self._self_stream, "aclose", None) or getattr(
            self._self_stream, "close", None
        )
        result = None if close is None else close()
        if inspect.isawaitable(result):
            await result

    def _self_enter_as(self, entered: Any) -> Any:
        """Return what a block gets: a proxy in the place of what the stream's own method returns."""
        if entered is self._self_stream:
            return self
        kind = _kind_of(entered)
        flow = self._self_flow
        flow.source = entered
        flow.is_opaque = kind is None or issubclass(kind, _Manager)
        if kind is None or kind is _Manager:
            return entered
        return kind(entered, flow, is_part=True)


class _SyncStream(CallStream):
    """Of a stream for ``for``."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        # A generator is the fastest loop around a loop. It refers to this proxy, which therefore
        # lives until the loop is left.
        return self._self_chunks(iter(self._self_stream))

    def _self_chunks(self, chunks: Iterator[Any]) -> Generator[Any, None, None]:
        flow = self._self_flow
        times, append, read = flow.times, flow.append, flow.read
        clock, room = perf_counter, MAX_TIMES
        try:
            for chunk in chunks:
                if len(times) < room:
                    append(clock())
                else:
                    flow.last = clock()
                read(chunk)
                yield chunk
        except GeneratorExit:
            raise  # the loop is left, perhaps for another loop
        except BaseException as error:
            flow.finish(error)
            raise
        flow.finish()

    def __next__(self) -> Any:
        """Return the next chunk."""
        iterator = self._self_iterator
        if iterator is None:
            own = hasattr(type(self._self_stream), "__next__")
            iterator = self._self_stream if own else iter(self._self_stream)
            object.__setattr__(self, "_self_iterator", iterator)
        return self._self_take(next, iterator)

    def _self_take(self, advance: Callable[..., Any], *arguments: Any) -> Any:
        flow = self._self_flow
        try:
            chunk = advance(*arguments)
        except StopIteration:
            flow.finish()
            raise
        except BaseException as error:
            flow.finish(error)
            raise
        flow.observe(chunk)
        return chunk

    def __enter__(self) -> Any:
        """Enter the stream, if it can be."""
        enter = getattr(type(self._self_stream), "__enter__", None)
        if enter is None:
            return self
        try:
            entered = enter(self._self_stream)
        except BaseException as error:
            self._self_flow.finish(error)
            raise
        return self._self_enter_as(entered)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        """Exit or close the stream."""
        leave = getattr(type(self._self_stream), "__exit__", None)
        try:
            if leave is not None:
                return leave(self._self_stream, kind, error, traceback)
            self.close()
        finally:
            self._self_flow.leave(error)


class _AsyncChunks:
    """The loop over an asynchronous stream.

    A class of its own, since Python looks attributes up more slowly in one with ``__getattr__``.

    Args:
        proxy: Kept alive until the loop is left; None if it keeps this.
        chunks: The stream's iterator.
        flow: Where its chunks go.
    """

    __slots__ = ("_advance", "_append", "_flow", "_proxy", "_read", "_times")

    def __init__(self, proxy: _AsyncStream | None, chunks: Any, flow: Flow) -> None:
        self._proxy = proxy
        self._advance = chunks.__anext__
        self._flow = flow
        self._times, self._append, self._read = flow.times, flow.append, flow.read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next chunk."""
        try:
            chunk = await self._advance()
        except StopAsyncIteration:
            self._flow.finish()
            raise
        except BaseException as error:
            self._flow.finish(error)
            raise
        if len(self._times) < MAX_TIMES:
            self._append(perf_counter())
        else:
            self._flow.last = perf_counter()
        self._read(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the stream."""
        if self._proxy is not None:
            await self._proxy.aclose()


class _AsyncStream(CallStream):
    """Of a stream for ``async for``."""

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[Any]:
        return _AsyncChunks(self, aiter(self._self_stream), self._self_flow)

    def __anext__(self) -> Awaitable[Any]:
        """Return the next chunk."""
        chunks = self._self_async_iterator
        if chunks is None:
            own = hasattr(type(self._self_stream), "__anext__")
            chunks = _AsyncChunks(
                None, self._self_stream if own else aiter(self._self_stream), self._self_flow
            )
            object.__setattr__(self, "_self_async_iterator", chunks)
        following: Awaitable[Any] = chunks.__anext__()
        return following

    async def __aenter__(self) -> Any:
        """Enter the stream, if it can be."""
        enter = getattr(type(self._self_stream), "__aenter__", None)
        if enter is None:
            return self
        try:
            entered = await enter(self._self_stream)
        except BaseException as error:
            self._self_flow.finish(error)
            raise
        return self._self_enter_as(entered)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        """Exit or close the stream."""
        leave = getattr(type(self._self_stream), "__aexit__", None)
        try:
            if leave is not None:
                return await leave(self._self_stream, kind, error, traceback)
            await self.aclose()
        finally:
            self._self_flow.leave(error)


class _EitherStream(_SyncStream, _AsyncStream):
    """Of a stream for both, such as LiteLLM's."""

    __slots__ = ()


class _Generator(_SyncStream):
    """Of a generator, with what it is sent and what it returns."""

    __slots__ = ()

    def _self_chunks(self, _: Iterator[Any]) -> Generator[Any, Any, Any]:
        # As `yield from`, which reads no chunks.
        flow = self._self_flow
        times, append, read = flow.times, flow.append, flow.read
        clock, room = perf_counter, MAX_TIMES
        send, throw = self._self_stream.send, self._self_stream.throw
        advance, argument = send, None
        while True:
            try:
                chunk = advance(argument)
            except StopIteration as end:
                flow.finish()
                return end.value
            except BaseException as error:
                flow.finish(error)
                raise
            if len(times) < room:
                append(clock())
            else:
                flow.last = clock()
            read(chunk)
            try:
                argument = yield chunk
            except GeneratorExit:
                raise  # the loop is left, perhaps for another loop
            except BaseException as error:
                advance, argument = throw, error
            else:
                advance = send

    def send(self, value: Any) -> Any:
        """Send a value into the generator, and return the next chunk."""
        return self._self_take(self._self_stream.send, value)

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the generator, and return the next chunk."""
        return self._self_take(self._self_stream.throw, *error)


class _AsyncGenerator(_AsyncStream):
    """Of an asynchronous generator, with what it is sent."""

    __slots__ = ()

    async def asend(self, value: Any) -> Any:
        """Send a value into the generator, and return the next chunk."""
        return await self._self_take(self._self_stream.asend, value)

    async def athrow(self, *error: Any) -> Any:
        """Raise an exception in the generator, and return the next chunk."""
        return await self._self_take(self._self_stream.athrow, *error)

    async def _self_take(self, advance: Callable[..., Any], *arguments: Any) -> Any:
        flow = self._self_flow
        try:
            chunk = await advance(*arguments)
        except StopAsyncIteration:
            flow.finish()
            raise
        except BaseException as error:
            flow.finish(error)
            raise
        flow.observe(chunk)
        return chunk


class _Manager(_EitherStream):
    """Of a context manager that opens a stream."""

    __slots__ = ()


class _Result(_Manager):
    """Of an agent's result, whose methods open streams; its usage is that of all its answers."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Return the result's attribute; a method that opens a stream returns a proxy."""
        value = getattr(self._self_stream, name)
        if name in _STREAMING_METHODS and callable(value):
            return partial(self._self_open, value)
        return value

    def _self_open(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        stream = method(*args, **kwargs)
        kind = _kind_of(stream)
        if kind is None or issubclass(kind, _Manager) or self._self_flow.is_ended:
            return stream
        is_part = self._self_is_part
        # This may be dropped before the stream is read.
        object.__setattr__(self, "_self_is_part", True)
        return kind(stream, self._self_flow, is_part=is_part)


def proxy_of(stream: Any, flow: Flow) -> CallStream | None:
    """Return a proxy of a stream.

    Args:
        stream: An iterator, iterable or generator, asynchronous or not, a context manager that
            opens one, a result whose methods do, or Bedrock's mapping that holds one as ``stream``.
        flow: Where its chunks go.

    Returns:
        The proxy; None if ``stream`` is none of these.
    """
    try:
        if issubclass(type(stream), Mapping):
            stream = stream["stream"]
        kind = _kind_of(stream)
    except UNREADABLE:
        return None
    if kind is None:
        return None
    flow.source = stream
    flow.is_opaque = kind is _Result
    return kind(stream, flow)


def flow_of(stream: Any) -> Flow | None:
    """Return the flow of a proxy; None if it is none."""
    if issubclass(type(stream), CallStream):
        flow: Flow = stream._self_flow  # noqa: SLF001 - one module
        return flow
    return None


def is_manager(obj: Any) -> bool:
    """Return whether an object opens a stream: a context manager, or a result, by its class."""
    kind = type(obj)
    try:
        proxy = _kind_of(obj)
        if proxy is _Manager:
            return "Stream" in kind.__name__ or kind.__module__ == "contextlib"
        return proxy is _Result
    except UNREADABLE:
        return False


def _kind_of(stream: Any) -> type[CallStream] | None:
    """Return the class of proxies for a stream; None if it is none."""
    kind = type(stream)
    if kind is GeneratorType:
        return _Generator
    if kind is AsyncGeneratorType:
        return _AsyncGenerator
    is_sync = hasattr(kind, "__iter__") or hasattr(kind, "__next__")
    is_async = hasattr(kind, "__aiter__") or hasattr(kind, "__anext__")
    if is_sync and is_async:
        return _EitherStream
    if is_sync or is_async:
        return _SyncStream if is_sync else _AsyncStream
    if any(hasattr(kind, name) for name in _STREAMING_METHODS):
        return _Result
    is_manager = hasattr(kind, "__enter__") or hasattr(kind, "__aenter__")
    return _Manager if is_manager else None
