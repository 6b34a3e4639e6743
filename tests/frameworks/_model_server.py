"""A model server on loopback that keeps its own books, for the real clients of OpenAI, Anthropic, Google.

It answers the APIs of ``_model_shapes`` and bills each request other numbers of tokens. What is to happen
to a request stands in double brackets in the text of its last user message (:class:`Orders`). It runs in
a thread of its own, so that clients may block theirs::

    with serve() as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k")
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi [[length]]"}])
        [entry] = server.books
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import _model_shapes as shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Entry", "ModelServer", "Orders", "serve"]

_HANG = 60.0
_BREAK_AFTER = 3
_ORDER = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_STATUSES = re.compile(r"(?:error )?(\d{3}(?: \d{3})*)( then ok)?")
_NUMBER = re.compile(r"(slow|pause|break|stream error)(?: ([\d.]+))?")


class Orders(NamedTuple):
    """What is to happen to a request, by its text.

    Attributes:
        statuses: ``[[400]]``, ``[[error 400]]``: this status of HTTP, always. ``[[429 then ok]]``,
            ``[[429 500 then ok]]``: these to the first requests of this text, then an answer, and so
            on in turn.
        ends_ok: Whether an answer follows the statuses.
        slow: ``[[slow 2]]``: seconds before anything is sent; a client may leave meanwhile.
        pause: ``[[pause 0.2]]``: seconds between the events of a stream.
        break_after: ``[[break]]``, ``[[break 3]]``: after so many events the connection ends. An
            answer that is no stream ends in its middle.
        error_after: ``[[stream error]]``, ``[[stream error 3]]``: after so many events an error, as
            an event.
        tool: ``[[tool]]``: calls the request's first tool, unless the request has a tool's result.
        length: ``[[length]]``: ends at the limit of output tokens.
        cached: ``[[cached]]``: input is read from a cache (with Anthropic: and written to it).
        reasoning: ``[[reasoning]]``: output has reasoning tokens.
        no_usage: ``[[no usage]]``: the answer has no usage.
        answer: ``[[say TEXT]]``, ``[[json {...}]]``: answers exactly that; with a tool that the
            request demands, as its arguments.
    """

    statuses: tuple[int, ...] = ()
    ends_ok: bool = False
    slow: float = 0.0
    pause: float = 0.001
    break_after: int | None = None
    error_after: int | None = None
    tool: bool = False
    length: bool = False
    cached: bool = False
    reasoning: bool = False
    no_usage: bool = False
    answer: str | None = None

    @classmethod
    def of(cls, text: str) -> Orders:
        """Return the orders in a text; other brackets are nothing."""
        found: dict[str, Any] = {}
        text, found["answer"] = _without_json(text)
        for each in _ORDER.findall(text):
            word = each.strip()
            if match := _STATUSES.fullmatch(word):
                found["statuses"] = tuple(map(int, match[1].split()))
                found["ends_ok"] = match[2] is not None
            elif match := _NUMBER.fullmatch(word):
                name, number = match[1], match[2]
                if name in {"slow", "pause"}:
                    found[name] = float(number or 1)
                else:
                    key = "break_after" if name == "break" else "error_after"
                    found[key] = int(number or _BREAK_AFTER)
            elif word.startswith("say "):
                found["answer"] = word.removeprefix("say ")
            elif word in {"tool", "length", "cached", "reasoning", "no usage"}:
                found[word.replace(" ", "_")] = True
        return cls(**found)


def _without_json(text: str) -> tuple[str, str | None]:
    before, order, rest = text.partition("[[json ")
    if not order:
        return text, None
    for unescaped in (rest, rest.replace('\\"', '"').replace("\\\\", "\\")):
        try:
            _, end = json.JSONDecoder().raw_decode(unescaped)
        except ValueError:
            continue
        return before + unescaped[end:].removeprefix("]]"), unescaped[:end]
    return text, None


@dataclass
class Entry:
    """What the server did with one request.

    Attributes:
        number: Of the request, from 1.
        path: Of its URL, without the query.
        vendor: Whose shape the API has: ``openai``, ``anthropic`` or ``google``.
        operation: ``chat``, ``responses``, ``text_completion``, ``generate_content`` or
            ``embeddings``.
        model: That was asked for.
        text: Of the last user message.
        body: The request.
        attempt: 0 for the first; others are repetitions of the entry before it with the same text.
        is_stream: Whether a stream was asked for.
        began, ended: Unix times of the request's arrival and of the end of what was sent.
        status: HTTP status; None if nothing was sent.
        outcome: ``open`` until the end; ``answered``, ``refused`` (an error of HTTP or an event),
            ``broken`` or ``left`` (by the client).
        input: Billed input tokens, cached ones included, also with Anthropic.
        output: Billed output tokens, reasoning included, also with Google.
        cached, cache_written, reasoning: Parts of these.
        has_usage: Whether the whole answer has its usage.
        finish_reason: In the vendor's words.
        id: Of the response.
    """

    number: int
    path: str
    vendor: str
    operation: str
    model: str
    text: str
    body: dict[str, Any]
    attempt: int
    is_stream: bool
    began: float
    ended: float | None = None
    status: int | None = None
    outcome: str = "open"
    input: int = 0
    output: int = 0
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0
    has_usage: bool = True
    finish_reason: str | None = None
    id: str = ""


@dataclass
class ModelServer:
    """The server.

    Attributes:
        url: Its address, without a path: OpenAI's and Anthropic's API under ``/v1``, Google's under
            ``/v1beta``.
        books: One entry a request, in the order of arrival; not of lists of models and the like.
        at_once: The most requests that it had open at once.
        reply: Returns the text to answer to a user's text and a request, or None for the usual one.
    """

    url: str = ""
    books: list[Entry] = field(default_factory=list)
    at_once: int = 0
    reply: Callable[[str, dict[str, Any]], str | None] = lambda text, body: None
    _open: int = 0
    _sequences: dict[tuple[str, str], int] = field(default_factory=dict)

    def answered(self) -> list[Entry]:
        """Return the entries that have been answered to the end."""
        return [entry for entry in self.books if entry.outcome == "answered"]

    def billed(self) -> dict[str, int]:
        """Return the sums of tokens over the answered requests, and their count as ``calls``."""
        answered = self.answered()
        names = ("input", "output", "cached", "cache_written", "reasoning")
        sums = {name: sum(getattr(entry, name) for entry in answered) for name in names}
        return {"calls": len(answered), **sums}

    def calls(self) -> list[list[Entry]]:
        """Return the calls, each as its attempts in order: a client that repeats a request calls once."""
        calls: list[list[Entry]] = []
        for entry in self.books:
            before = next(
                (
                    call
                    for call in reversed(calls)
                    if (call[-1].text, call[-1].path) == (entry.text, entry.path)
                    and call[-1].attempt + 1 == entry.attempt
                ),
                None,
            )
            if before is None:
                calls.append([entry])
            else:
                before.append(entry)
        return calls

    def settle(self) -> None:
        """Wait until no request is open."""
        until = time.monotonic() + _HANG
        while self._open and time.monotonic() < until:
            time.sleep(0.005)
        assert not self._open

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close its connection."""
        self._open += 1
        self.at_once = max(self.at_once, self._open)
        try:
            await self._handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            self._open -= 1
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        content = await reader.readexactly(length)
        target = first.split(" ")[1]
        path = target.partition("?")[0]
        body = json.loads(content) if content else {}
        api = shapes.api_of(path)
        if api is None:
            status, answer = shapes.other(path, body)
            await _send(writer, status, answer)
            return
        entry = self._entered(api, path, body, headers)
        try:
            await self._follow(api, entry, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            entry.outcome = "left"
        finally:
            entry.ended = time.time()

    def _entered(
        self, api: shapes.Api, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> Entry:
        text = api.text(body)
        entry = Entry(
            number=len(self.books) + 1,
            path=path,
            vendor=api.vendor,
            operation=api.operation,
            model=api.model(path, body),
            text=text,
            body=body,
            attempt=int(headers.get("x-stainless-retry-count", "0")),
            is_stream=api.is_stream(path, body),
            began=time.time(),
        )
        self.books.append(entry)
        return entry

    async def _follow(
        self,
        api: shapes.Api,
        entry: Entry,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        orders = Orders.of(entry.text)
        status = self._status_of(entry, orders)
        # A client that leaves ends its half of the connection.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({gone}, timeout=orders.slow)
            if gone.done():
                raise ConnectionResetError
            if status is not None:
                entry.status, entry.outcome, entry.ended = status, "refused", time.time()
                await _send(writer, status, shapes.error(api.vendor, status))
                return
            answer = self.reply(entry.text, entry.body)
            bill = shapes.bill(api, entry, orders)
            entry.status = 200
            if entry.is_stream:
                events = api.events(bill, answer)
                await self._stream(api, entry, orders, writer, gone, events)
            else:
                await self._whole(entry, orders, writer, api.whole(bill, answer))
        finally:
            gone.cancel()

    def _status_of(self, entry: Entry, orders: Orders) -> int | None:
        """Return the error that a request gets; sets the number of its attempt."""
        if not orders.statuses:
            return None
        if not orders.ends_ok:
            return orders.statuses[0]
        key = (entry.path, entry.text)
        step = self._sequences.get(key, 0)
        self._sequences[key] = (step + 1) % (len(orders.statuses) + 1)
        entry.attempt = step
        return orders.statuses[step] if step < len(orders.statuses) else None

    async def _whole(
        self, entry: Entry, orders: Orders, writer: asyncio.StreamWriter, answer: dict[str, Any]
    ) -> None:
        if orders.break_after is not None:
            entry.outcome = "broken"
            body = json.dumps(answer).encode()
            writer.write(_head(200, "application/json", len(body)) + body[: len(body) // 2])
            await writer.drain()
            return
        entry.outcome, entry.ended = "answered", time.time()
        await _send(writer, 200, answer)

    async def _stream(
        self,
        api: shapes.Api,
        entry: Entry,
        orders: Orders,
        writer: asyncio.StreamWriter,
        gone: asyncio.Future[bytes],
        events: list[bytes],
    ) -> None:
        writer.write(_head(200, "text/event-stream", None))
        for number, event in enumerate(events):
            if gone.done():
                raise ConnectionResetError
            if number == orders.break_after:
                entry.outcome = "broken"
                return
            if number == orders.error_after:
                entry.outcome = "refused"
                await _send_chunk(writer, shapes.error_event(api))
                break
            if number == len(events) - 1:
                entry.outcome, entry.ended = "answered", time.time()
            await _send_chunk(writer, event)
            await asyncio.sleep(orders.pause)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _head(status: int, content: str, length: int | None) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return (
        f"HTTP/1.1 {status} Status\r\ncontent-type: {content}\r\nconnection: close\r\n"
        f"retry-after-ms: 1\r\n{framing}\r\n\r\n"
    ).encode()


async def _send(writer: asyncio.StreamWriter, status: int, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    writer.write(_head(status, "application/json", len(body)) + body)
    await writer.drain()


async def _send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


@contextmanager
def serve() -> Iterator[ModelServer]:
    """Serve on a free port of loopback, in a thread of its own."""
    model_server = ModelServer()
    is_ready = threading.Event()
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        server = await asyncio.start_server(model_server.handle, "127.0.0.1", 0, backlog=256)
        model_server.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        is_ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="model-server", daemon=True)
    thread.start()
    try:
        assert is_ready.wait(_HANG)
        yield model_server
    finally:
        stops[0]()
        thread.join(_HANG)
        assert not thread.is_alive()
