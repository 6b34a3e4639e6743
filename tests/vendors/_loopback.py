"""A server on loopback that streams as OpenAI and Anthropic do, and keeps its own books.

The text of a request's only message is a :class:`Plan` as JSON. The server follows it and writes down
what a client that follows it too has been sent by the time its stream ends or is left. It runs in a
thread of its own, so that clients may block theirs.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CACHED", "CHUNKS", "Books", "Loopback", "Plan", "serve"]

CHUNKS = 8
"""Chunks of text in a whole answer."""
CACHED = 40
"""Input tokens that each answer of Anthropic's shape reads from a cache."""
_HANG = 60.0


class Plan(NamedTuple):
    """What is to happen to one request.

    Attributes:
        number: Of the request.
        end: ``whole``, ``error`` (HTTP 500), ``broken`` (the connection ends), ``left`` (by the
            client) or ``useless`` (an answer that does not fit the tool).
        chunks: Events that the client reads before it leaves, or before the connection ends.
        is_continuous: Whether each chunk has the usage so far, as some servers of OpenAI's shape
            send it.
        is_costed: Whether the usage has its cost, as OpenRouter's has.
    """

    number: int
    end: str
    chunks: int = 0
    is_continuous: bool = False
    is_costed: bool = False


class Books(NamedTuple):
    """What the server has billed for a request, as far as the client could see.

    Attributes:
        input: Input tokens, cached ones included.
        output: Output tokens.
        chunks: Events that it sent.
        waited: Seconds from the request to the first event.
        usd: The cost that it reported.
    """

    input: int = 0
    output: int = 0
    chunks: int = 0
    waited: float = 0.0
    usd: float = 0.0


class Loopback:
    """The server.

    Attributes:
        url: Its address.
        books: By the number of the request.
        at_once: The most requests that it had open at once.
    """

    def __init__(self) -> None:
        self.url = ""
        self.books: dict[int, Books] = {}
        self.at_once = 0
        self._open = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close its connection."""
        self._open += 1
        self.at_once = max(self.at_once, self._open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1]
            length = next(
                int(line.partition(":")[2])
                for line in head.split("\r\n")
                if line.lower().startswith("content-length:")
            )
            request = json.loads(await reader.readexactly(length))
            begun = perf_counter()
            plan = Plan(**json.loads(request["messages"][0]["content"]))
            await self._follow(plan, path, request, writer, begun)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            self._open -= 1
            writer.close()

    async def _follow(
        self,
        plan: Plan,
        path: str,
        request: dict[str, Any],
        writer: asyncio.StreamWriter,
        begun: float,
    ) -> None:
        if plan.end == "error":
            self.books[plan.number] = Books()
            body = b'{"error": {"message": "the server failed"}}'
            writer.write(
                b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )
            await writer.drain()
            return
        if not request.get("stream"):
            inputs, outputs = _tokens(plan)
            known = self.books.get(plan.number, Books())
            self.books[plan.number] = Books(known.input + inputs, known.output + outputs)
            await self._send_json(writer, _answer(plan, request))
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        # The model thinks, each time longer.
        await asyncio.sleep(0.002 * (plan.number % 9))
        events = _openai if path.endswith("/chat/completions") else _anthropic
        for number, (event, usage) in enumerate(events(plan, request["model"]), 1):
            if plan.end != "whole" and number > plan.chunks:
                break
            known = self.books.get(plan.number, Books(waited=perf_counter() - begun))
            if usage is not None:
                usd = _usd(*usage) if plan.is_costed else 0.0
                known = known._replace(input=usage[0], output=usage[1], usd=usd)
            self.books[plan.number] = known._replace(chunks=known.chunks + 1)
            await self._send(writer, event)
        if plan.end == "broken":
            return
        if plan.end == "left":
            # What a client that leaves does not read.
            for _ in range(50):
                await self._send(writer, b": waiting\n\n")
                await asyncio.sleep(0.01)
            return
        if events is _openai:
            await self._send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    @staticmethod
    async def _send_json(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()
        await asyncio.sleep(0.001)


def _tokens(plan: Plan) -> tuple[int, int]:
    return 100 + plan.number, 3 * CHUNKS + plan.number % 7


def _usd(inputs: int, outputs: int) -> float:
    return round(inputs * 3.1e-6 + outputs * 9.7e-6, 9)


def _answer(plan: Plan, request: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of OpenAI's shape that calls the request's tool."""
    inputs, outputs = _tokens(plan)
    called = {
        "name": request["tools"][0]["function"]["name"],
        "arguments": "{}" if plan.end == "useless" else '{"city": "Oslo"}',
    }
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t", "type": "function", "function": called}],
    }
    return {
        "id": f"c{plan.number}",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": inputs,
            "completion_tokens": outputs,
            "total_tokens": inputs + outputs,
        },
    }


def _openai(plan: Plan, model: str) -> Iterator[tuple[bytes, tuple[int, int] | None]]:
    inputs, outputs = _tokens(plan)
    shape = {"id": f"c{plan.number}", "object": "chat.completion.chunk", "created": 1}
    for n in range(1, CHUNKS + 2):
        is_last = n == CHUNKS + 1
        usage = (inputs, outputs if is_last else 3 * n) if is_last or plan.is_continuous else None
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
        if n == CHUNKS:
            choice["finish_reason"] = "stop"
        chunk = {
            **shape,
            "model": model,
            "choices": [] if is_last else [choice],
            "usage": usage
            and {
                "prompt_tokens": usage[0],
                "completion_tokens": usage[1],
                "total_tokens": sum(usage),
                **({"cost": _usd(*usage)} if plan.is_costed else {}),
            },
        }
        yield f"data: {json.dumps(chunk)}\n\n".encode(), usage


def _anthropic(plan: Plan, model: str) -> Iterator[tuple[bytes, tuple[int, int] | None]]:
    inputs, outputs = _tokens(plan)
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": inputs - CACHED,  # Anthropic's input excludes it
            "cache_read_input_tokens": CACHED,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
        },
    }
    yield _event({"type": "message_start", "message": message}), (inputs, 1)
    block = {"type": "text", "text": ""}
    yield _event({"type": "content_block_start", "index": 0, "content_block": block}), None
    delta = {"type": "text_delta", "text": "word "}
    for _ in range(CHUNKS):
        yield _event({"type": "content_block_delta", "index": 0, "delta": delta}), None
    yield _event({"type": "content_block_stop", "index": 0}), None
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"output_tokens": outputs}
    yield _event({"type": "message_delta", "delta": end, "usage": usage}), (inputs, outputs)
    yield _event({"type": "message_stop"}), None


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


@contextmanager
def serve() -> Iterator[Loopback]:
    """Serve on a free port of loopback, in a thread of its own."""
    loopback = Loopback()
    is_ready = threading.Event()
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        server = await asyncio.start_server(loopback.answer, "127.0.0.1", 0, backlog=256)
        loopback.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        is_ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    try:
        assert is_ready.wait(_HANG)
        yield loopback
    finally:
        stops[0]()
        thread.join(_HANG)
        assert not thread.is_alive()
