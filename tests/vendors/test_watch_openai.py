"""Watched clients of OpenAI against a model server: calls, tokens, cost and outcomes equal its books."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from _watched import USAGE, Bench, assert_books, bench, openai_client, said, without_usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")


class City(pydantic.BaseModel):
    """What a parsed answer has."""

    name: str


@pytest.fixture(name="at")
def make_bench() -> Iterator[Bench]:
    """Return a server and a monitor."""
    with bench() as made:
        yield made


@pytest.fixture(name="client")
def make_client(at: Bench) -> Any:
    """Return a watched client."""
    return at.monitor.watch(openai_client(at.server.url))


@pytest.fixture(name="other")
async def make_other(at: Bench) -> AsyncIterator[Any]:
    """Return a watched asynchronous client."""
    async with openai_client(at.server.url, "AsyncOpenAI") as made:
        yield at.monitor.watch(made)


WAYS: dict[str, Callable[[Any], object]] = {
    "create": lambda c: c.chat.completions.create(**said("hi")),
    "cached": lambda c: c.chat.completions.create(**said("hi [[cached]]")),
    "reasoning": lambda c: c.chat.completions.create(**said("hi [[reasoning]]")),
    "parse": lambda c: c.chat.completions.parse(
        **said('[[json {"name": "Oslo"}]]', response_format=City)
    ),
    "stream": lambda c: list(c.chat.completions.create(**said("hi", stream=True, **USAGE))),
    "completion": lambda c: c.completions.create(model="m", prompt="hi"),
    "response": lambda c: c.responses.create(model="m", input="hi"),
    "parsed response": lambda c: c.responses.parse(
        model="m", input='[[json {"name": "Oslo"}]]', text_format=City
    ),
    "response stream": lambda c: list(c.responses.create(model="m", input="hi", stream=True)),
    "embedding": lambda c: c.embeddings.create(model="e", input="hi"),
    "raw": lambda c: c.chat.completions.with_raw_response.create(**said("hi")).parse(),
    "raw, not parsed": lambda c: c.chat.completions.with_raw_response.create(**said("hi")),
    "raw of the client": lambda c: c.with_raw_response.chat.completions.create(**said("hi")),
    "raw embedding": lambda c: c.embeddings.with_raw_response.create(model="e", input="hi"),
    "raw stream": lambda c: list(
        c.chat.completions.with_raw_response.create(**said("hi", stream=True, **USAGE)).parse()
    ),
    "raw response stream": lambda c: list(
        c.responses.with_raw_response.create(model="m", input="hi", stream=True).parse()
    ),
    "tool": lambda c: c.chat.completions.create(
        **said(
            "hi [[tool]]",
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    ),
    "post": lambda c: c.post("/chat/completions", body=said("hi"), cast_to=object),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_recorded_as_the_server_billed_it(at: Bench, client: Any, way: str) -> None:
    """Each way of calling is one call with its tokens and cost."""
    WAYS[way](client)
    assert_books(at, 1)


STREAMED: dict[str, Callable[[Any], object]] = {
    "parse": lambda r: r.parse(),
    "json": lambda r: r.json(),
    "read": lambda r: r.read(),
    "text": lambda r: r.text(),
    "lines": lambda r: list(r.iter_lines()),
    "bytes": lambda r: list(r.iter_bytes(7)),
}


@pytest.mark.parametrize("way", STREAMED)
def test_a_streamed_response_is_read_however_its_body_is_read(
    at: Bench, client: Any, way: str
) -> None:
    """``with_streaming_response`` of an answer that is no stream."""
    with client.chat.completions.with_streaming_response.create(**said("hi")) as response:
        STREAMED[way](response)
    assert_books(at, 1)


@pytest.mark.parametrize("way", ["parse", "lines", "bytes", "read"])
def test_a_streamed_response_of_events_is_read_however_its_body_is_read(
    at: Bench, client: Any, way: str
) -> None:
    """``with_streaming_response`` of a stream."""
    create = client.chat.completions.with_streaming_response.create
    with create(**said("hi", stream=True, **USAGE)) as response:
        found = STREAMED[way](response)
        if way == "parse":
            assert list(found)
    with client.responses.with_streaming_response.create(
        model="m", input="hi", stream=True
    ) as response:
        found = STREAMED[way](response)
        if way == "parse":
            assert list(found)
    assert_books(at, 2)


def test_an_answer_that_is_not_read_is_a_success_of_unknown_usage(at: Bench, client: Any) -> None:
    """The model has answered, so nothing was cancelled."""
    with client.chat.completions.with_streaming_response.create(**said("hi")) as response:
        assert response.status_code == 200
    assert_books(at, 1, as_seen=without_usage)
    assert at.monitor.value("genmeter_usage_unread_total") == 1


@pytest.mark.parametrize("way", ["parse", "lines"])
def test_a_streamed_response_that_is_left_is_cancelled(at: Bench, client: Any, way: str) -> None:
    """The block ends before the stream does."""
    create = client.chat.completions.with_streaming_response.create
    with create(**said("hi [[pause 0.05]]", stream=True)) as response:
        next(iter(response.parse() if way == "parse" else response.iter_lines()))
    assert_books(at, 1)


def test_a_raw_stream_that_is_dropped_is_cancelled(at: Bench, client: Any) -> None:
    """Nobody closes it."""
    response = client.chat.completions.with_raw_response.create(
        **said("hi [[pause 0.05]]", stream=True)
    )
    del response
    gc.collect()
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1


def read_lines(manager: Any) -> None:
    """Read the lines of a streamed response."""
    with manager as response:
        list(response.iter_lines())


def read_events(manager: Any) -> None:
    """Read the events of a helper."""
    with manager as stream:
        list(stream)


BROKEN: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "plain": lambda chat, text: list(chat.create(**text, stream=True)),
    "raw": lambda chat, text: list(chat.with_raw_response.create(**text, stream=True).parse()),
    "streaming": lambda chat, text: read_lines(
        chat.with_streaming_response.create(**text, stream=True)
    ),
    "helper": lambda chat, text: read_events(chat.stream(**text)),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_stream_is_a_failure(at: Bench, client: Any, way: str) -> None:
    """The connection ends in the middle."""
    with pytest.raises(Exception, match=r"(?i)closed|incomplete|peer|connection"):
        BROKEN[way](client.chat.completions, said("hi [[break 2]]"))
    assert_books(at, 1)


@pytest.mark.parametrize("way", BROKEN)
def test_an_error_event_in_a_stream_is_a_failure(at: Bench, client: Any, way: str) -> None:
    """The server says in the middle that it cannot go on."""
    with suppress(openai.APIError):
        BROKEN[way](client.chat.completions, said("hi [[stream error 2]]"))
    assert_books(at, 1)


def test_a_left_stream_is_cancelled_when_it_is_closed(at: Bench, client: Any) -> None:
    """The call ends at ``close()`` although the caller keeps the stream."""
    stream = client.chat.completions.create(**said("hi [[pause 0.05]]", stream=True))
    assert isinstance(stream, openai.Stream)
    next(stream)
    assert stream.response.status_code == 200
    stream.close()
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1
    assert_books(at, 1)


def test_a_left_helper_is_cancelled_when_its_block_ends(at: Bench, client: Any) -> None:
    """OpenAI's helpers close the response below the stream."""
    with client.chat.completions.stream(**said("hi [[pause 0.05]]")) as stream:
        next(iter(stream))
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1
    with client.responses.stream(model="m", input="hi [[pause 0.05]]") as responses:
        next(iter(responses))
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 2
    assert_books(at, 2)


def test_helpers_of_streams_are_read_to_their_end(at: Bench, client: Any) -> None:
    """The helpers return what they collect, as without a monitor."""
    with client.chat.completions.stream(**said("hi"), **USAGE) as stream:
        usage = stream.get_final_completion().usage
    with client.responses.stream(model="m", input="hi") as responses:
        response = responses.get_final_response()
    assert usage.total_tokens == sum((at.server.books[0].input, at.server.books[0].output))
    assert response.usage.input_tokens == at.server.books[1].input
    assert_books(at, 2)


def test_a_stream_without_usage_says_so(at: Bench, client: Any) -> None:
    """Requests are not changed, so OpenAI sends no usage."""
    list(client.chat.completions.create(**said("hi", stream=True)))
    assert "stream_options" not in at.server.books[0].body
    assert_books(at, 1, as_seen=without_usage)
    assert at.monitor.value("genmeter_usage_unread_total") == 1


def test_include_usage_asks_for_what_the_caller_did_not(at: Bench) -> None:
    """The option changes chat streams without ``stream_options``, and nothing else."""
    client = at.monitor.watch(openai_client(at.server.url), include_usage=True)
    chunks = list(client.chat.completions.create(**said("hi", stream=True)))
    assert chunks[-1].choices == []
    client.chat.completions.create(**said("a"))
    list(client.responses.create(model="m", input="b", stream=True))
    off = {"include_usage": False}
    list(client.chat.completions.create(**said("c", stream=True, stream_options=off)))
    list(
        client.chat.completions.create(**said("d", stream=True), extra_body={"stream_options": off})
    )
    asked = [entry.body.get("stream_options") for entry in at.server.books]
    assert asked == [{"include_usage": True}, None, None, off, off]
    assert at.monitor.value("genmeter_generations_total") == 5


def test_retries_are_one_call(at: Bench, client: Any) -> None:
    """The client's own retries, with their causes; also of raw calls, streams and failures."""
    chat = client.chat.completions
    chat.create(**said("a [[429 then ok]]"))
    chat.with_raw_response.create(**said("b [[500 429 then ok]]"))
    list(chat.create(**said("c [[429 then ok]]", stream=True, **USAGE)))
    with pytest.raises(openai.InternalServerError):
        chat.create(**said("d [[error 500]]"))
    at.server.settle()
    assert at.monitor.value("genmeter_retries_total") == 6
    assert at.monitor.value("genmeter_retries_total", error_type="rate_limited") == 3
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="success") == 3
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_an_error_is_a_failure_with_its_class(at: Bench, status: int) -> None:
    """The exception reaches the caller unchanged."""
    client = at.monitor.watch(openai_client(at.server.url, max_retries=0))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**said(f"hi [[error {status}]]"))
    assert caught.value.status_code == status
    assert_books(at, 1)


def test_an_error_with_an_answer_keeps_its_usage(at: Bench, client: Any) -> None:
    """A truncated answer cannot be parsed, and was billed."""
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**said("hi [[length]]", response_format=City))
    [entry] = at.server.books
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1
    assert at.monitor.get_total_token_usage().total_prompt_tokens == entry.input


def test_an_unreachable_server_is_a_failure(at: Bench) -> None:
    """No response at all."""
    client = at.monitor.watch(openai_client("http://127.0.0.1:9", max_retries=1))
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**said("hi"))
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1
    assert at.monitor.value("genmeter_retries_total") == 1


def test_other_requests_are_no_calls(at: Bench, client: Any) -> None:
    """Lists of models, answers that are fetched again."""
    client.models.list()
    with suppress(openai.NotFoundError):
        client.responses.retrieve("r")
    with suppress(openai.NotFoundError):
        client.files.list()
    with suppress(openai.NotFoundError):
        client.beta.threads.messages.create("t", role="user", content="hi")
    assert at.monitor.value("genmeter_generations_total") == 0


def test_resources_and_raw_wrappers_made_before_are_seen(at: Bench) -> None:
    """What the client keeps bound methods of goes through the client all the same."""
    client = openai_client(at.server.url)
    create, raw = client.chat.completions.create, client.chat.completions.with_raw_response.create
    at.monitor.watch(client)
    create(**said("a"))
    raw(**said("b"))
    assert_books(at, 2)


def test_copies_are_watched_and_end_with_their_client(at: Bench, client: Any) -> None:
    """``with_options()`` and ``copy()``, of a copy too."""
    first = client.with_options(max_retries=0)
    second = first.copy(timeout=50)
    first.chat.completions.create(**said("a"))
    second.chat.completions.create(**said("b"))
    client.with_options(timeout=9).chat.completions.create(**said("c"))
    assert_books(at, 3)
    at.monitor.unwatch(client)
    second.chat.completions.create(**said("d"))
    assert at.monitor.value("genmeter_generations_total") == 3


def test_azure_is_its_own_provider(at: Bench) -> None:
    """Its paths name the deployment."""
    client = at.monitor.watch(
        openai.AzureOpenAI(azure_endpoint=at.server.url, api_key="k", api_version="2024-10-21")
    )
    client.chat.completions.create(**said("hi"))
    client.with_options(max_retries=0).chat.completions.create(**said("hi"))
    assert_books(at, 2)
    azure = at.monitor.value("genmeter_generations_total", gen_ai_provider_name="azure.ai.openai")
    assert azure == 2


def test_the_provider_is_that_of_the_address_or_as_given(at: Bench) -> None:
    """Compatible servers are called with OpenAI's client."""
    client = openai_client(at.server.url)
    at.monitor.watch(client, provider="vllm", step="judge")
    client.chat.completions.create(**said("hi"))
    found = at.monitor.value(
        "genmeter_generations_total", gen_ai_provider_name="vllm", genmeter_step="judge"
    )
    assert found == 1


def test_a_call_in_a_block_is_the_blocks(at: Bench, client: Any) -> None:
    """The block is one call: with the tokens, if it was given none, and with those that it was given."""
    with at.monitor.generation(step="s"):
        client.chat.completions.create(**said("a"))
    with at.monitor.generation(step="s") as call:
        call.usage(client.chat.completions.create(**said("b")))
    with at.monitor.generation(step="s") as call:
        list(call.stream(client.chat.completions.create(**said("c", stream=True, **USAGE))))
    assert_books(at, 3)
    assert at.monitor.value("genmeter_generations_total", genmeter_step="s") == 3


def test_a_subclass_that_overrides_the_request_calls_once(at: Bench) -> None:
    """Its method and the one that it calls are one call, of a stream too."""

    class Own(openai.OpenAI):  # type: ignore[misc, name-defined]
        def request(self, *args: Any, **kwargs: Any) -> Any:
            return super().request(*args, **kwargs)

    plain = at.monitor.watch(openai_client(at.server.url))
    own = at.monitor.watch(Own(base_url=f"{at.server.url}/v1", api_key="k"))
    own.chat.completions.create(**said("a"))
    list(own.chat.completions.create(**said("b", stream=True, **USAGE)))
    plain.chat.completions.create(**said("c"))
    assert_books(at, 3)


def test_threads_share_a_client(at: Bench, client: Any) -> None:
    """Calls in parallel are apart."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: WAYS["stream" if n % 2 else "create"](client), range(40)))
    assert_books(at, 40)


# --- asynchronous --------------------------------------------------------------------------------


async def test_asynchronous_calls(at: Bench, other: Any) -> None:
    """Plain, parsed, streamed, raw, embeddings, at once."""
    chat = other.chat.completions

    async def stream(made: Any) -> None:
        async for _ in await made:
            pass

    async def raw_stream() -> None:
        response = await chat.with_raw_response.create(**said("e", stream=True, **USAGE))
        async for _ in response.parse():
            pass

    async def streaming(*, is_stream: bool) -> None:
        more: dict[str, Any] = {"stream": True, **USAGE} if is_stream else {}
        async with chat.with_streaming_response.create(**said("f", **more)) as response:
            if is_stream:
                async for _ in response.iter_lines():
                    pass
            else:
                await response.json()

    async def helper() -> None:
        async with chat.stream(**said("g"), **USAGE) as made:
            await made.get_final_completion()

    await asyncio.gather(
        chat.create(**said("a")),
        chat.parse(**said('[[json {"name": "Oslo"}]]', response_format=City)),
        stream(chat.create(**said("b", stream=True, **USAGE))),
        stream(other.responses.create(model="m", input="c", stream=True)),
        chat.with_raw_response.create(**said("d")),
        raw_stream(),
        streaming(is_stream=False),
        streaming(is_stream=True),
        helper(),
        other.embeddings.create(model="e", input="h"),
        other.with_options(max_retries=0).responses.create(model="m", input="i"),
    )
    assert_books(at, 11)


async def test_cancelled_calls(at: Bench, other: Any) -> None:
    """A task that is cancelled while it waits, for the answer or for a chunk."""
    chat = other.chat.completions

    async def read() -> None:
        async for _ in await chat.create(**said("b [[pause 0.3]]", stream=True)):
            pass

    for waiting, seconds in ((chat.create(**said("a [[slow 5]]")), 0.2), (read(), 0.5)):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, seconds)
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 2
    assert_books(at, 2)


async def test_asynchronous_streams_that_are_left(at: Bench, other: Any) -> None:
    """By ``break``, by ``close()`` and by the end of a helper's block."""
    chat = other.chat.completions
    text = said("hi [[pause 0.05]]", stream=True)
    async for _ in await chat.create(**text):
        break
    stream = await chat.create(**text)
    await anext(aiter(stream))
    await stream.close()
    async with chat.stream(**said("hi [[pause 0.05]]")) as made:
        await anext(aiter(made))
    async with chat.with_streaming_response.create(**text) as response:
        await anext(response.iter_lines())
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 4


async def test_asynchronous_failures(at: Bench, other: Any) -> None:
    """Errors, broken streams and retries."""
    chat = other.chat.completions
    with pytest.raises(openai.BadRequestError):
        await chat.create(**said("a [[error 400]]"))
    await chat.create(**said("b [[429 then ok]]"))
    with pytest.raises(Exception, match=r"(?i)closed|incomplete|peer|connection"):
        async for _ in await chat.create(**said("c [[break 2]]", stream=True)):
            pass
    assert at.monitor.value("genmeter_retries_total", error_type="rate_limited") == 1
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 2
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1
