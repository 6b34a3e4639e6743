"""Real clients stream from a server on loopback; the monitor's figures equal the server's books."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from _loopback import Books, Loopback, Plan, serve

from genmeter import MonitorConfig, Price
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = 200
AT_ONCE = 50
INPUT, OUTPUT, CACHED = 2.5, 10.0, 0.5  # USD per million tokens
MODEL = "house-model"
VENDORS = ["openai", "anthropic"]


def plans() -> list[Plan]:
    """Return one plan a call: 10 % fail, 10 % are left and 10 % break, after 1 to 8 events."""
    ends = {3: "error", 5: "left", 8: "broken"}
    return [
        Plan(n, ends.get(n % 10, "whole"), 1 + n % 8, is_continuous=n % 4 < 2) for n in range(CALLS)
    ]


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with a price."""
    config = MonitorConfig(prices={MODEL: Price(INPUT, OUTPUT, CACHED)})
    with isolated_monitor(config) as made:
        yield made


def request(vendor: str, loopback: Loopback) -> Callable[[Plan], Any]:
    """Return what starts a stream by a real client."""
    client = pytest.importorskip(vendor)
    options = {"api_key": "k", "max_retries": 0, "timeout": 60.0}
    if vendor == "openai":
        chat = client.AsyncOpenAI(base_url=loopback.url + "/v1", **options).chat.completions
        more = {"stream_options": {"include_usage": True}}
        create = chat.create
    else:
        create = client.AsyncAnthropic(base_url=loopback.url, **options).messages.create
        more = {"max_tokens": 100}

    def ask(plan: Plan) -> Any:
        content = json.dumps(plan._asdict())
        messages = [{"role": "user", "content": content}]
        return create(model=MODEL, messages=messages, stream=True, **more)

    return ask


async def read(stream: Any, plan: Plan) -> None:
    """Read a stream as planned."""
    taken = 0
    async for _ in stream:
        taken += 1
        if plan.end == "left" and taken == plan.chunks:
            break
    if plan.end == "left":
        await stream.close()


async def in_a_block(monitor: IsolatedMonitor, plan: Plan, ask: Callable[[Plan], Any]) -> None:
    """Ask in a block."""
    async with monitor.generation(MODEL) as call:
        await read(call.stream(await ask(plan)), plan)


async def decorated(monitor: IsolatedMonitor, plan: Plan, ask: Callable[[Plan], Any]) -> None:
    """Ask by a decorated function that returns the stream."""
    await read(await monitor.generation(MODEL)(ask)(plan), plan)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("way", [in_a_block, decorated])
def test_figures_equal_the_servers_books(
    monitor: IsolatedMonitor, vendor: str, way: Callable[..., Any]
) -> None:
    """Tokens, outcomes, cost and first chunks, with 50 streams at once."""
    books = asyncio.run(_run(monitor, vendor, way))
    wanted = {plan: books[plan.number] for plan in plans()}
    inputs = sum(each.input for each in wanted.values())
    outputs = sum(each.output for each in wanted.values())
    report = monitor.get_total_token_usage()
    assert (report.total_prompt_tokens, report.total_completion_tokens) == (inputs, outputs)
    ends = [plan.end for plan in wanted]
    outcomes = {
        outcome: monitor.value("genmeter_generations_total", genmeter_outcome=outcome)
        for outcome in ("success", "failure", "cancelled")
    }
    assert outcomes == {
        "success": ends.count("whole"),
        "failure": ends.count("error") + ends.count("broken"),
        "cancelled": ends.count("left"),
    }
    cached = 40 * sum(bool(each.input) for each in wanted.values()) * (vendor == "anthropic")
    usd = ((inputs - cached) * INPUT + cached * CACHED + outputs * OUTPUT) / 1e6
    assert monitor.value("genmeter_cost_usd_total") == pytest.approx(usd, rel=1e-12)
    name = "gen_ai_client_inference_time_to_first_chunk_seconds_count"
    assert monitor.value(name) == sum(bool(each.chunks) for each in wanted.values())
    name = "gen_ai_client_inference_time_per_output_chunk_seconds_count"
    assert monitor.value(name) == sum(max(each.chunks - 1, 0) for each in wanted.values())
    assert monitor.value("genmeter_generations_active") == 0


async def _run(monitor: IsolatedMonitor, vendor: str, way: Callable[..., Any]) -> dict[int, Books]:
    turns = asyncio.Semaphore(AT_ONCE)
    failures: list[Exception] = []

    async def one(plan: Plan) -> None:
        async with turns:
            try:
                await way(monitor, plan, ask)
            except Exception as error:
                failures.append(error)

    async with serve() as loopback:
        ask = request(vendor, loopback)
        await asyncio.gather(*(one(plan) for plan in plans()))
        assert loopback.at_once > AT_ONCE // 2
        assert len(failures) == sum(plan.end in ("error", "broken") for plan in plans())
        return loopback.books


@pytest.mark.parametrize("vendor", VENDORS)
def test_helpers_of_clients_are_read(monitor: IsolatedMonitor, vendor: str) -> None:
    """`messages.stream()` and `chat.completions.stream()` open a stream in a block of their own."""
    package = pytest.importorskip(vendor)

    async def run() -> Books:
        async with serve() as loopback, monitor.generation(MODEL) as call:
            content = json.dumps(Plan(7, "whole")._asdict())
            asked = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
            if vendor == "openai":
                client = package.AsyncOpenAI(base_url=loopback.url + "/v1", api_key="k")
                asked["stream_options"] = {"include_usage": True}
                manager = client.chat.completions.stream(**asked)
            else:
                client = package.AsyncAnthropic(base_url=loopback.url, api_key="k")
                manager = client.messages.stream(max_tokens=100, **asked)
            async with call.stream(manager) as stream:
                async for event in stream:
                    assert event.type
                with suppress(AttributeError):
                    assert (await stream.get_final_message()).content
            return loopback.books[7]

    books = asyncio.run(run())
    report = monitor.get_total_token_usage()
    assert (report.total_prompt_tokens, report.total_completion_tokens) == books[:2]
    assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1


def test_helper_read_by_its_texts_is_read(monitor: IsolatedMonitor) -> None:
    """`text_stream` passes by the proxy; the helper has the message."""
    anthropic = pytest.importorskip("anthropic")

    async def run() -> Books:
        async with serve() as loopback, monitor.generation(MODEL) as call:
            client = anthropic.AsyncAnthropic(base_url=loopback.url, api_key="k")
            content = json.dumps(Plan(7, "whole")._asdict())
            manager = client.messages.stream(
                model=MODEL, max_tokens=100, messages=[{"role": "user", "content": content}]
            )
            async with call.stream(manager) as stream:
                assert "".join([text async for text in stream.text_stream])
            return loopback.books[7]

    books = asyncio.run(run())
    report = monitor.get_total_token_usage()
    assert (report.total_prompt_tokens, report.total_completion_tokens) == books[:2]
    assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1
