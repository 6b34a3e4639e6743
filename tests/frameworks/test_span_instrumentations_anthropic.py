"""Every instrumentation of Anthropic's client, and the client's own spans: each call once, as the books have it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from _books import assert_equal_books
from _isolated import run_isolated, warm_up
from _model_server import serve
from _sight import as_seen_by
from _watching import import_emitters, watch

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from _model_server import ModelServer
    from _watching import Watched

anthropic = pytest.importorskip("anthropic")

MODEL = "claude-sonnet-4-5"
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}


class Site(NamedTuple):
    """Where a situation takes place.

    Attributes:
        server: The server.
        telemetry: The client's own: its provider, or False.
    """

    server: ModelServer
    telemetry: Any

    def client(self, **keywords: Any) -> Any:
        """Return a client."""
        return anthropic.Anthropic(**self._keywords(keywords))

    def async_client(self, **keywords: Any) -> Any:
        """Return an asynchronous client."""
        return anthropic.AsyncAnthropic(**self._keywords(keywords))

    def _keywords(self, keywords: dict[str, Any]) -> dict[str, Any]:
        base = {"base_url": self.server.url, "api_key": "k", "open_telemetry": self.telemetry}
        return {**base, **keywords}


def _request(text: str, **keywords: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 99, "messages": messages, **keywords}


def _ask(client: Any, text: str, **keywords: Any) -> Any:
    return client.messages.create(**_request(text, **keywords))


def _whole(site: Site) -> None:
    _ask(site.client(), "hi")
    _ask(site.client(), "hi [[cached]]")


def _tools(site: Site) -> None:
    answer = _ask(site.client(), "hi [[tool]]", tools=[WEATHER])
    [block] = answer.content
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [block.model_dump(exclude_none=True)]},
        {"role": "user", "content": [result]},
    ]
    site.client().messages.create(model=MODEL, max_tokens=99, messages=messages, tools=[WEATHER])


def _length(site: Site) -> None:
    _ask(site.client(), "hi [[length]]")


def _stream(site: Site) -> None:
    list(_ask(site.client(), "hi [[cached]]", stream=True))
    with site.client().messages.stream(**_request("hi")) as stream:
        assert "".join(stream.text_stream)
    with site.client().messages.stream(**_request("hi [[cached]]")) as stream:
        assert stream.get_final_message()


def _stream_left(site: Site) -> None:
    stream = _ask(site.client(), "hi [[pause 0.02]]", stream=True)
    next(iter(stream))
    stream.close()


def _stream_broken(site: Site) -> None:
    with pytest.raises(Exception, match=r"closed|onnection|incomplete"):
        list(_ask(site.client(max_retries=0), "hi [[break]]", stream=True))


def _errors(site: Site) -> None:
    for order in ("hi [[400]]", "hi [[401]]"):
        with pytest.raises(anthropic.APIStatusError):
            _ask(site.client(), order)
    with pytest.raises(anthropic.InternalServerError):
        _ask(site.client(max_retries=1), "hi [[500]]")


def _retries(site: Site) -> None:
    _ask(site.client(), "hi [[429 then ok]]")
    list(_ask(site.client(), "hi again [[529 then ok]]", stream=True))


def _timeout(site: Site) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        _ask(site.client(timeout=0.1, max_retries=0), "hi [[slow 60]]")


def _asynchronous(site: Site) -> None:
    async def run() -> None:
        async with site.async_client() as client:
            await asyncio.gather(*(_ask(client, "equal [[slow 0.05]]") for _ in range(5)))
            async for _ in await _ask(client, "hi", stream=True):
                pass
            with pytest.raises(anthropic.BadRequestError):
                await _ask(client, "hi [[400]]")
            await _ask(client, "hi [[429 then ok]]")

    asyncio.run(run())


def _cancelled(site: Site) -> None:
    async def run() -> None:
        async with site.async_client() as client:
            slow = asyncio.ensure_future(_ask(client, "hi [[slow 60]]"))
            await asyncio.to_thread(eventually, lambda: site.server.books)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow

    asyncio.run(run())


SITUATIONS: dict[str, Callable[[Site], None]] = {
    "whole": _whole,
    "tools": _tools,
    "length": _length,
    "stream": _stream,
    "stream left": _stream_left,
    "stream broken": _stream_broken,
    "errors": _errors,
    "retries": _retries,
    "timeout": _timeout,
    "asynchronous": _asynchronous,
    "cancelled": _cancelled,
}
EMITTERS = [
    ("anthropic-native",),
    ("genai-anthropic",),
    ("openllmetry-anthropic",),
    ("openinference-anthropic",),
    ("logfire-anthropic",),
    ("anthropic-native", "genai-anthropic"),
    ("anthropic-native", "openinference-anthropic"),
    ("anthropic-native", "openllmetry-anthropic"),
    ("genai-anthropic", "openllmetry-anthropic", "openinference-anthropic"),
]


def run_situation(
    situation: Callable[[Site], None],
    server: ModelServer,
    emitters: tuple[str, ...],
    watched: Watched,
) -> None:
    """Run a situation with the client's own spans on or off."""
    is_native = "anthropic-native" in emitters
    situation(Site(server, {"tracer_provider": watched.provider} if is_native else False))


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
def test_each_call_is_recorded_once_as_the_books_have_it(
    emitters: tuple[str, ...], situation: str
) -> None:
    """Whatever observes it, and however many."""
    import_emitters(emitters)
    warm_up(lambda server: _whole(Site(server, False)))

    def run() -> None:
        with serve() as server:
            with watch(*emitters) as watched:
                run_situation(SITUATIONS[situation], server, emitters, watched)
                server.settle()
            as_seen = as_seen_by(emitters, situation)
            assert_equal_books(watched.monitor, server, as_seen=as_seen)

    run_isolated(run)
