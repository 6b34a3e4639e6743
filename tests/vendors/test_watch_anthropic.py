"""Watched clients of Anthropic against a model server: calls, tokens, cost and outcomes equal its books."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _watched import Bench, anthropic_client, assert_books, bench, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

anthropic = pytest.importorskip("anthropic")


@pytest.fixture(name="at")
def make_bench() -> Iterator[Bench]:
    """Return a server and a monitor."""
    with bench() as made:
        yield made


@pytest.fixture(name="client")
def make_client(at: Bench) -> Any:
    """Return a watched client."""
    return at.monitor.watch(anthropic_client(at.server.url))


@pytest.fixture(name="other")
async def make_other(at: Bench) -> AsyncIterator[Any]:
    """Return a watched asynchronous client."""
    async with anthropic_client(at.server.url, "AsyncAnthropic") as made:
        yield at.monitor.watch(made)


def asked(text: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of a message."""
    return said(text, max_tokens=50, **more)


def read_stream(client: Any) -> None:
    """Read a helper by its text."""
    with client.messages.stream(**asked("hi")) as stream:
        assert "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens


def final_message(client: Any) -> None:
    """Read a helper by its result."""
    with client.beta.messages.stream(**asked("hi")) as stream:
        stream.get_final_message()


WAYS: dict[str, Callable[[Any], object]] = {
    "create": lambda c: c.messages.create(**asked("hi")),
    "cached": lambda c: c.messages.create(**asked("hi [[cached]]")),
    "tool": lambda c: c.messages.create(
        **asked("hi [[tool]]", tools=[{"name": "f", "input_schema": {"type": "object"}}])
    ),
    "stream": lambda c: list(c.messages.create(**asked("hi", stream=True))),
    "helper": read_stream,
    "beta": lambda c: c.beta.messages.create(**asked("hi")),
    "beta helper": final_message,
    "raw": lambda c: c.messages.with_raw_response.create(**asked("hi")).parse(),
    "raw, not parsed": lambda c: c.messages.with_raw_response.create(**asked("hi")),
    "raw beta": lambda c: c.beta.messages.with_raw_response.create(**asked("hi")),
    "raw stream": lambda c: list(
        c.messages.with_raw_response.create(**asked("hi", stream=True)).parse()
    ),
    "copy": lambda c: c.with_options(max_retries=0).messages.create(**asked("hi")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_recorded_as_the_server_billed_it(at: Bench, client: Any, way: str) -> None:
    """Each way of calling is one call with its tokens and cost."""
    WAYS[way](client)
    assert_books(at, 1)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", ["parse", "lines"])
def test_a_streamed_response_is_read_however_its_body_is_read(
    at: Bench, client: Any, way: str, is_stream: bool
) -> None:
    """``with_streaming_response`` of a message and of a stream."""
    create = client.messages.with_streaming_response.create
    with create(**asked("hi", **({"stream": True} if is_stream else {}))) as response:
        found = response.parse() if way == "parse" else response.iter_lines()
        if is_stream or way == "lines":
            assert list(found)
    assert_books(at, 1)


def test_a_tool_runner_is_a_call_a_turn(at: Bench, client: Any) -> None:
    """The model asks for a tool and answers with its result: two calls."""

    @anthropic.beta_tool  # type: ignore[untyped-decorator]
    def weather() -> str:
        """Return the weather."""
        return "sun"

    runner = client.beta.messages.tool_runner(**asked("hi [[tool]]"), tools=[weather])
    runner.until_done()
    assert len(at.server.books) == 2
    assert_books(at, 2)


def test_left_and_broken_streams(at: Bench, client: Any) -> None:
    """A helper that is left, a stream that breaks, an error event."""
    with client.messages.stream(**asked("a [[pause 0.05]]")) as stream:
        next(iter(stream.text_stream))
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1
    with pytest.raises(Exception, match=r"(?i)closed|incomplete|peer|connection"):
        list(client.messages.create(**asked("b [[break 3]]", stream=True)))
    with pytest.raises(anthropic.APIError):
        list(client.messages.create(**asked("c [[stream error 2]]", stream=True)))
    create = client.messages.with_streaming_response.create
    with create(**asked("d [[stream error 2]]", stream=True)) as response:
        list(response.iter_lines())
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 3
    assert at.monitor.value("genmeter_generations_total") == 4
    report = at.monitor.get_total_token_usage()
    # The first event of a stream has the input.
    assert report.total_prompt_tokens == sum(entry.input for entry in at.server.books)


def test_errors_and_retries(at: Bench, client: Any) -> None:
    """One call, whatever the client tries."""
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(**asked("a [[error 400]]"))
    client.messages.create(**asked("b [[429 529 then ok]]"))
    with client.messages.stream(**asked("c [[429 then ok]]")) as stream:
        stream.until_done()
    at.server.settle()
    assert at.monitor.value("genmeter_retries_total") == 3
    assert at.monitor.value("genmeter_retries_total", error_type="rate_limited") == 2
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="success") == 2
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1


def test_other_requests_are_no_calls(at: Bench, client: Any) -> None:
    """Counting tokens is not billed."""
    client.messages.count_tokens(**said("hi"))
    assert at.monitor.value("genmeter_generations_total") == 0


def test_vertex_and_bedrock_are_their_own_providers(at: Bench) -> None:
    """Their paths are those of their platform; the call is the same."""
    seen = []
    httpx = pytest.importorskip("httpx2")

    def answer(request: Any) -> Any:
        seen.append(request.url.path)
        return httpx.Response(
            200,
            json={
                "id": "msg",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [{"type": "text", "text": "hello"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 11, "output_tokens": 7},
            },
        )

    http = httpx.Client(transport=httpx.MockTransport(answer))
    vertex = at.monitor.watch(
        anthropic.AnthropicVertex(
            region="us-east5", project_id="p", access_token="t", http_client=http
        )
    )
    bedrock = at.monitor.watch(
        anthropic.AnthropicBedrock(aws_region="us-east-1", api_key="k", http_client=http)
    )
    vertex.messages.create(**asked("hi"))
    vertex.with_options(max_retries=0).messages.create(**asked("hi"))
    bedrock.messages.create(**asked("hi"))
    assert len(seen) == 3
    count = at.monitor.value
    assert count("genmeter_generations_total", gen_ai_provider_name="gcp.vertex_ai") == 2
    assert count("genmeter_generations_total", gen_ai_provider_name="aws.bedrock") == 1
    assert at.monitor.get_total_token_usage().total_prompt_tokens == 33


def test_a_span_of_the_client_itself_starts_inside_of_the_call(at: Bench) -> None:
    """The client's own tracing is on where a tracer provider is set; its span is our call's."""
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from genmeter.observed import blocks

    inside = []

    class Seeing(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            inside.append(blocks.current())

    provider = TracerProvider()
    provider.add_span_processor(Seeing())
    client = at.monitor.watch(
        anthropic_client(at.server.url, open_telemetry={"tracer_provider": provider})
    )
    client.messages.create(**asked("a"))
    list(client.messages.create(**asked("b", stream=True)))
    assert len(inside) == 2
    assert all(block is not None for block in inside)
    assert_books(at, 2)


async def test_asynchronous_calls(at: Bench, other: Any) -> None:
    """Plain, streamed, raw, with helpers, at once."""

    async def stream() -> None:
        async for _ in await other.messages.create(**asked("b", stream=True)):
            pass

    async def helper() -> None:
        async with other.messages.stream(**asked("c")) as made:
            async for _ in made.text_stream:
                pass

    async def raw_stream() -> None:
        response = await other.messages.with_raw_response.create(**asked("d", stream=True))
        async for _ in await response.parse():
            pass

    async def streaming() -> None:
        async with other.messages.with_streaming_response.create(**asked("e")) as response:
            await response.json()

    await asyncio.gather(
        other.messages.create(**asked("a")),
        stream(),
        helper(),
        raw_stream(),
        streaming(),
        other.beta.messages.create(**asked("f")),
        other.with_options(max_retries=0).messages.create(**asked("g")),
    )
    assert_books(at, 7)


async def test_cancelled_calls(at: Bench, other: Any) -> None:
    """A task that is cancelled while it waits, for the answer or for a chunk."""

    async def read() -> None:
        async for _ in await other.messages.create(**asked("b [[pause 0.3]]", stream=True)):
            pass

    for waiting, seconds in (
        (other.messages.create(**asked("a [[slow 5]]")), 0.2),
        (read(), 0.5),
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, seconds)
    async with other.messages.stream(**asked("c [[pause 0.05]]")) as stream:
        await anext(aiter(stream))
    assert at.monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 3
