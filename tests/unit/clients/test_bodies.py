"""Responses whose body the caller reads: however it is read, the call has what it says."""

from __future__ import annotations

import gc
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from _fake_clients import ANSWER, AsyncClient, Client, chunks

from genmeter.clients import _registry, watching
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOTAL = "genmeter_generations_total"
EVENTS = "".join(f"data: {json.dumps(each)}\r\n\r\n" for each in chunks()) + "data: [DONE]\n\n"


class Response:
    """An HTTP response of httpx's shape: it closes itself at its end."""

    def __init__(self, body: str, kind: str = "application/json", *, breaks: bool = False) -> None:
        self.headers = {"content-type": f"{kind}; charset=utf-8"}
        self.request = SimpleNamespace(headers={"x-stainless-retry-count": "1"})
        self.status_code = 200
        self.is_closed = self.is_stream_consumed = False
        self._body = body.encode()
        self._breaks = breaks

    def iter_raw(self) -> Iterator[bytes]:
        """Yield the bytes."""
        for start in range(0, len(self._body), 7):
            yield self._body[start : start + 7]
            if self._breaks and start > len(self._body) // 3:
                raise ConnectionError
        self.close()

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Yield the decoded bytes."""
        yield from self.iter_raw()

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the decoded bytes."""
        for data in self.iter_raw():
            yield data

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.iter_bytes())

    def close(self) -> None:
        """Close it."""
        self.is_closed = self.is_stream_consumed = True

    async def aclose(self) -> None:
        """Close it."""
        self.close()


class Raw:
    """A raw response."""

    def __init__(self, response: Response) -> None:
        self.http_response = response

    def parse(self) -> bytes:
        """Read it."""
        return self.http_response.read()


@pytest.fixture(name="monitor")
def make_monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor."""
    with isolated_monitor() as monitor:
        yield monitor
    _registry.entries.clear()
    watching._apply()


def outcomes(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return the calls by outcome."""
    names = ("success", "failure", "cancelled")
    found = {name: monitor.value(TOTAL, genmeter_outcome=name) for name in names}
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_body_is_read_to_its_end(monitor: IsolatedMonitor, kind: str) -> None:
    """The response has its own class again, and nothing is left on it."""
    response = Response(json.dumps(ANSWER) if kind.endswith("json") else EVENTS, kind)
    names = set(vars(response))
    found = monitor.watch(Client(Raw(response))).call()
    assert isinstance(response, Response)
    assert outcomes(monitor) == {}
    found.parse()
    assert (type(response), set(vars(response))) == (Response, names)
    assert outcomes(monitor) == {"success": 1}
    assert monitor.get_total_token_usage().total_prompt_tokens == 5
    assert monitor.value("genmeter_retries_total") == 1


async def test_a_body_is_read_asynchronously(monitor: IsolatedMonitor) -> None:
    """To its end, and left."""
    response = Response(EVENTS, "text/event-stream")
    client = monitor.watch(AsyncClient(response))
    found = await client.call()
    async for _ in found.aiter_bytes():
        pass
    left = client.result = Response(EVENTS, "text/event-stream")
    await client.call()
    chunks_of_it = left.aiter_bytes()
    await anext(chunks_of_it)
    await left.aclose()
    await chunks_of_it.aclose()  # type: ignore[attr-defined]
    assert outcomes(monitor) == {"success": 1, "cancelled": 1}
    assert left.is_closed


def test_bodies_that_are_left_broken_or_dropped(monitor: IsolatedMonitor) -> None:
    """An answer that is not read is a success of unknown usage; a stream is cancelled."""
    client = monitor.watch(Client())
    for kind, body in (("application/json", json.dumps(ANSWER)), ("text/event-stream", EVENTS)):
        client.result = Response(body, kind)
        client.call().close()
        client.result = Response(body, kind)
        client.call()
        client.result = None
        gc.collect()
        broken = client.result = Response(body, kind, breaks=True)
        client.call()
        with pytest.raises(ConnectionError):
            broken.read()
    assert outcomes(monitor) == {"success": 2, "cancelled": 2, "failure": 2}
    assert monitor.value("genmeter_generations_active") == 0


def test_an_error_event_is_a_failure(monitor: IsolatedMonitor) -> None:
    """By its name, or by what it has."""
    client = monitor.watch(Client())
    for event in (
        'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n',
        'data: {"error": {"message": "no"}}\n\n',
    ):
        client.result = Response(event, "text/event-stream")
        client.call().read()
    assert outcomes(monitor) == {"failure": 2}


def test_bodies_that_cannot_be_read_are_unknown(monitor: IsolatedMonitor) -> None:
    """The bytes reach the caller all the same."""
    client = monitor.watch(Client())
    for body, kind in (
        ("no json", "application/json"),
        ("\x00\x01", "application/vnd.amazon.eventstream"),
        ("", ""),
        ("data: no json\n\ndata: [1]\n\n: comment\nid\n\ndata", "text/event-stream"),
    ):
        response = client.result = Response(body, kind)
        assert client.call() is response
        assert response.read() == body.encode()
    assert sum(outcomes(monitor).values()) == 4
    assert monitor.get_total_token_usage().total_prompt_tokens == 0


def test_closing_the_response_of_a_stream_leaves_the_stream(monitor: IsolatedMonitor) -> None:
    """As OpenAI's helpers do; the response is otherwise what it was."""

    class Stream:
        response = Response(EVENTS)

        def __iter__(self) -> Iterator[Any]:
            return chunks()

    found = monitor.watch(Client(Stream())).call()
    assert isinstance(found, Stream)
    response = found.response
    assert isinstance(response, Response)
    assert (response.status_code, repr(response)) == (200, repr(Stream.response))
    assert "read" in dir(response)
    response.note = 1
    assert Stream.response.note == 1  # type: ignore[attr-defined]
    del response.note
    next(iter(found))
    response.close()
    assert Stream.response.is_closed
    assert outcomes(monitor) == {"cancelled": 1}
