"""Watched clients of Google against a model server: calls, tokens, cost and outcomes equal its books."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _watched import Bench, assert_books, bench, google_client, without_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

genai = pytest.importorskip("google.genai")


@pytest.fixture(name="at")
def make_bench() -> Iterator[Bench]:
    """Return a server and a monitor."""
    with bench() as made:
        yield made


@pytest.fixture(name="client")
def make_client(at: Bench) -> Any:
    """Return a watched client."""
    return at.monitor.watch(google_client(at.server.url))


def asked(text: str, **config: Any) -> dict[str, Any]:
    """Return the arguments of a request."""
    return {"model": "m", "contents": text, "config": config or None}


WAYS: dict[str, Callable[[Any], object]] = {
    "content": lambda c: c.models.generate_content(**asked("hi")),
    "cached": lambda c: c.models.generate_content(**asked("hi [[cached]]")),
    "reasoning": lambda c: c.models.generate_content(**asked("hi [[reasoning]]")),
    "stream": lambda c: list(c.models.generate_content_stream(**asked("hi"))),
    "chat": lambda c: c.chats.create(model="m").send_message("hi"),
    "chat stream": lambda c: list(c.chats.create(model="m").send_message_stream("hi")),
    "response": lambda c: c.models.generate_content(
        **asked("hi", should_return_http_response=True)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_recorded_as_the_server_billed_it(at: Bench, client: Any, way: str) -> None:
    """Each way of calling is one call with its tokens and cost."""
    WAYS[way](client)
    assert_books(at, 1)


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sun in {city}"


def test_each_request_of_automatic_function_calling_is_a_call(at: Bench, client: Any) -> None:
    """The client calls functions and asks again; the response has the usage of the last answer only."""
    text = "hi [[tool]]"
    client.models.generate_content(**asked(text, tools=[weather]))
    assert len(at.server.books) == 2
    assert_books(at, 2)
    list(client.models.generate_content_stream(**asked(text, tools=[weather])))
    assert len(at.server.books) == 4
    assert_books(at, 4)


def test_embeddings_are_calls(at: Bench, client: Any) -> None:
    """The API has no usage for them."""
    client.models.embed_content(model="e", contents="hi")
    assert_books(at, 1, as_seen=without_usage)


def test_errors_left_and_broken_streams(at: Bench, client: Any) -> None:
    """An error, a stream that is left, one that breaks."""
    with pytest.raises(genai.errors.ClientError):
        client.models.generate_content(**asked("a [[error 400]]"))
    with pytest.raises(genai.errors.APIError):
        list(client.models.generate_content_stream(**asked("b [[error 503]]")))
    for _ in client.models.generate_content_stream(**asked("c [[pause 0.05]]")):
        break
    with pytest.raises(Exception, match=r"(?i)closed|incomplete|peer|connection"):
        list(client.models.generate_content_stream(**asked("d [[break 2]]")))
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 3
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1


def test_work_between_the_chunks_is_no_part_of_the_stream(at: Bench, client: Any) -> None:
    """Another call in the loop is a call of its own."""
    for number, _ in enumerate(client.models.generate_content_stream(**asked("a"))):
        if not number:
            client.models.generate_content(**asked("b"))
    assert_books(at, 2)


def test_a_stream_that_is_not_read_is_no_call(at: Bench, client: Any) -> None:
    """Nothing was sent."""
    client.models.generate_content_stream(**asked("a"))
    assert (at.server.books, at.monitor.value("genmeter_generations_total")) == ([], 0)


async def test_asynchronous_calls(at: Bench, client: Any) -> None:
    """The asynchronous half is watched with its client."""

    async def stream() -> None:
        async for _ in await client.aio.models.generate_content_stream(**asked("b")):
            pass

    await asyncio.gather(
        client.aio.models.generate_content(**asked("a")),
        stream(),
        client.aio.chats.create(model="m").send_message("c"),
        client.aio.models.generate_content(**asked("d [[tool]]", tools=[weather])),
    )
    assert_books(at, 5)
    async for _ in await client.aio.models.generate_content_stream(**asked("e [[pause 0.05]]")):
        break
    await asyncio.sleep(0.1)  # the generator is closed by the loop
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.aio.models.generate_content(**asked("f [[slow 5]]")), 0.2)
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 2
    await client.aio.aclose()


async def test_the_asynchronous_half_can_be_watched_alone(at: Bench) -> None:
    """``client.aio`` is a client too."""
    client = google_client(at.server.url)
    half = at.monitor.watch(client.aio)
    assert half is client.aio
    await half.models.generate_content(**asked("a"))
    client.models.generate_content(**asked("b"))
    assert at.monitor.value("genmeter_generations_total") == 1
    await half.aclose()


def test_private_methods_that_are_gone_leave_the_public_ones(
    at: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version of the client: calls are seen, and what cannot be seen is said."""
    from genmeter.clients import _google

    monkeypatch.setattr(_google, "_sender", lambda kind, name: None)
    client = at.monitor.watch(google_client(at.server.url))
    client.models.generate_content(**asked("a"))
    list(client.models.generate_content_stream(**asked("b")))
    assert_books(at, 2)
    at.monitor.unwatch(client)
    assert genai.models.Models.generate_content.__module__ == "google.genai.models"
    assert not hasattr(genai.models.Models.generate_content, "__wrapped__")
