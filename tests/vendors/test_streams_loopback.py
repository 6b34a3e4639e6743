"""Real clients stream from a server on loopback; the monitor's figures equal the server's books."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from _loopback import CACHED, Books, Loopback, Plan, serve

from _report import as_json
from genmeter import MonitorConfig, Price
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLS = 200
AT_ONCE = 50
INPUT, OUTPUT, CACHE_READ = 2.5, 10.0, 0.5  # USD per million tokens
HOUSE_MODEL = "house-model"
CLIENTS = ["AsyncOpenAI", "OpenAI", "AsyncAnthropic", "Anthropic"]
LISTED = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-6"}
FIRST_CHUNK = "gen_ai_client_inference_time_to_first_chunk_seconds"
PER_CHUNK = "gen_ai_client_inference_time_per_output_chunk_seconds"


class Seller(NamedTuple):
    """Who prices the calls.

    Attributes:
        prices: Of the configuration.
        is_costed: Whether the server reports the cost.
    """

    prices: Any = None
    is_costed: bool = False

    def model(self, vendor: str) -> str:
        """Return the model that is asked for."""
        return LISTED[vendor] if self.prices == "genai-prices" else HOUSE_MODEL

    def usd(self, books: Books, vendor: str) -> float:
        """Return what the server's books cost."""
        if self.is_costed:
            return books.usd
        cached = CACHED if books.input and vendor == "anthropic" else 0
        if self.prices == "genai-prices":
            prices = pytest.importorskip("genai_prices")
            usage = prices.Usage(
                input_tokens=books.input, output_tokens=books.output, cache_read_tokens=cached
            )
            found = prices.calc_price(usage, LISTED[vendor], provider_id=vendor)
            return float(found.total_price)
        parts = (books.input - cached) * INPUT, cached * CACHE_READ, books.output * OUTPUT
        return sum(parts) / 1e6


OWN_TABLE = Seller({HOUSE_MODEL: Price(INPUT, OUTPUT, CACHE_READ)})
SELLERS = {
    "own table": OWN_TABLE,
    "price list": Seller("genai-prices"),
    "reported": Seller({HOUSE_MODEL: Price(100.0, 100.0)}, is_costed=True),
}


def plans(seller: Seller = OWN_TABLE) -> list[Plan]:
    """Return one plan a call: 10 % fail, 10 % are left and 10 % break, after 1 to 8 events."""
    ends = {3: "error", 5: "left", 8: "broken"}
    return [
        Plan(n, ends.get(n % 10, "whole"), 1 + n % 8, n % 4 < 2, seller.is_costed)
        for n in range(CALLS)
    ]


def asked(plan: Plan, vendor: str, model: str = HOUSE_MODEL) -> dict[str, Any]:
    """Return the arguments of a request."""
    messages = [{"role": "user", "content": json.dumps(plan._asdict())}]
    if vendor == "openai":
        return {"model": model, "messages": messages, "stream_options": {"include_usage": True}}
    return {"model": model, "messages": messages, "max_tokens": 100}


class Job:
    """A job that streams by a real client, in a block or by a decorated function.

    Attributes:
        failures: What its calls raised.
        waited: Seconds from before each call to after its first chunk, as the consumer sees it.
    """

    def __init__(
        self, monitor: IsolatedMonitor, url: str, name: str, seller: Seller, *, is_decorated: bool
    ) -> None:
        self._monitor = monitor
        self._vendor = "openai" if name.endswith("OpenAI") else "anthropic"
        self._model = seller.model(self._vendor)
        self._is_decorated = is_decorated
        client = make_client(name, url)
        is_openai = self._vendor == "openai"
        self._create = client.chat.completions.create if is_openai else client.messages.create
        self.failures: list[Exception] = []
        self.waited: dict[int, float] = {}

    def _options(self) -> dict[str, Any]:
        return {"model": self._model, "provider": self._vendor}

    def _asked(self, plan: Plan) -> dict[str, Any]:
        return {**asked(plan, self._vendor, self._model), "stream": True}

    def call(self, plan: Plan) -> None:
        """Make one call with a blocking client."""
        begun = perf_counter()
        try:
            if self._is_decorated:
                ask = self._monitor.generation(**self._options())(self._create)
                self._read(ask(**self._asked(plan)), plan, begun)
            else:
                with self._monitor.generation(**self._options()) as call:
                    self._read(call.stream(self._create(**self._asked(plan))), plan, begun)
        except Exception as error:
            self.failures.append(error)

    def _read(self, stream: Any, plan: Plan, begun: float) -> None:
        for taken, _ in enumerate(stream, 1):
            self.waited.setdefault(plan.number, perf_counter() - begun)
            if plan.end == "left" and taken == plan.chunks:
                break
        if plan.end == "left":
            stream.close()

    async def call_async(self, plan: Plan) -> None:
        """Make one call with an asynchronous client."""
        begun = perf_counter()
        try:
            if self._is_decorated:
                ask = self._monitor.generation(**self._options())(self._create)
                await self._read_async(await ask(**self._asked(plan)), plan, begun)
            else:
                async with self._monitor.generation(**self._options()) as call:
                    stream = call.stream(await self._create(**self._asked(plan)))
                    await self._read_async(stream, plan, begun)
        except Exception as error:
            self.failures.append(error)

    async def _read_async(self, stream: Any, plan: Plan, begun: float) -> None:
        taken = 0
        async for _ in stream:
            taken += 1
            self.waited.setdefault(plan.number, perf_counter() - begun)
            if plan.end == "left" and taken == plan.chunks:
                break
        if plan.end == "left":
            await stream.close()

    def run(self, todo: list[Plan], *, is_async: bool) -> None:
        """Make all calls, 50 at once."""
        if is_async:
            asyncio.run(self._run_async(todo))
        else:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self.call, todo))

    async def _run_async(self, todo: list[Plan]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(plan: Plan) -> None:
            async with turns:
                await self.call_async(plan)

        await asyncio.gather(*map(one, todo))


def make_client(name: str, url: str) -> Any:
    """Return a real client of the server."""
    vendor = pytest.importorskip("openai" if name.endswith("OpenAI") else "anthropic")
    base_url = f"{url}/v1" if name.endswith("OpenAI") else url
    return getattr(vendor, name)(base_url=base_url, api_key="k", max_retries=0, timeout=60.0)


@pytest.mark.parametrize("is_decorated", [False, True], ids=["block", "decorated"])
@pytest.mark.parametrize(
    ("name", "priced_by"),
    [
        (name, priced_by)
        for name in CLIENTS
        for priced_by in SELLERS
        # Anthropic's usage has no cost.
        if name.endswith("OpenAI") or priced_by != "reported"
    ],
)
def test_figures_equal_the_servers_books(
    name: str,
    priced_by: str,
    is_decorated: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the page, in the reports, in the history and in the journal, with 50 streams at once."""
    vendor = "openai" if name.endswith("OpenAI") else "anthropic"
    seller = SELLERS[priced_by]
    todo = plans(seller)
    config = MonitorConfig(prices=seller.prices)
    with isolated_monitor(config, log_dir=tmp_path) as monitor, serve() as loopback:
        job = Job(monitor, loopback.url, name, seller, is_decorated=is_decorated)
        job.run(todo, is_async=name.startswith("Async"))
        assert loopback.at_once > AT_ONCE // 2
        monitor.flush()
        check(monitor, todo, loopback.books, job, seller, vendor)
    total = as_json(capsys, tmp_path)["total"]
    books = loopback.books.values()
    assert total["calls"] == CALLS
    assert total["failures"] == len(job.failures)
    assert total["cancelled"] == sum(plan.end == "left" for plan in todo)
    assert total["prompt_tokens"] == sum(each.input for each in books)
    assert total["completion_tokens"] == sum(each.output for each in books)
    usd = sum(seller.usd(each, vendor) for each in books)
    assert total["cost_usd"] == pytest.approx(usd, rel=1e-9)
    assert total["calls_without_usage"] == unread(todo, loopback.books)


def check(
    monitor: IsolatedMonitor,
    todo: list[Plan],
    books: dict[int, Books],
    job: Job,
    seller: Seller,
    vendor: str,
) -> None:
    """Compare a monitor with the books."""
    inputs, outputs = (sum(each[at] for each in books.values()) for at in (0, 1))
    totals = monitor.get_total_token_usage()
    assert (totals.total_prompt_tokens, totals.total_completion_tokens) == (inputs, outputs)
    assert totals.calls_without_usage == unread(todo, books)
    value = monitor.value
    assert value("genmeter_usage_unread_total") == unread(todo, books)
    assert value("genmeter_tokens_total") == inputs + outputs
    assert value("gen_ai_client_inference_usage_input_tokens_total") == inputs
    assert value("gen_ai_client_inference_usage_output_tokens_total") == outputs
    cached = CACHED * sum(bool(each.input) for each in books.values()) * (vendor == "anthropic")
    assert monitor.to_frame("generations")["cache_read_tokens"].fillna(0).sum() == cached

    ends = [plan.end for plan in todo]
    outcomes = {
        outcome: value("genmeter_generations_total", genmeter_outcome=outcome)
        for outcome in ("success", "failure", "cancelled")
    }
    failures = ends.count("error") + ends.count("broken")
    assert len(job.failures) == failures
    assert outcomes == {
        "success": ends.count("whole"),
        "failure": failures,
        "cancelled": ends.count("left"),
    }
    assert value("genmeter_generations_active") == 0

    usd = [seller.usd(each, vendor) for each in books.values()]
    assert value("genmeter_cost_usd_total") == pytest.approx(sum(usd), rel=1e-9)
    source = "reported" if seller.is_costed else "prices"
    of_source = value("genmeter_cost_usd_total", genmeter_cost_source=source)
    assert of_source == value("genmeter_cost_usd_total")
    of_calls = sorted(monitor.to_frame("generations")["cost_usd"].dropna())
    assert of_calls == pytest.approx(sorted(each for each in usd if each), rel=1e-9)

    streamed = [number for number, each in books.items() if each.chunks]
    assert value(f"{FIRST_CHUNK}_count") == len(streamed)
    chunks = sum(books[number].chunks for number in streamed)
    assert value(f"{PER_CHUNK}_count") == chunks - len(streamed)
    # Each first chunk comes after the server has sent it, and before the consumer has it.
    waited = value(f"{FIRST_CHUNK}_sum")
    assert sorted(job.waited) == sorted(streamed)
    assert sum(books[number].waited for number in streamed) <= waited <= sum(job.waited.values())


def unread(todo: list[Plan], books: dict[int, Books]) -> int:
    """Return how many streams were left before they said their usage."""
    return sum(plan.end == "left" and not books[plan.number].input for plan in todo)


@contextmanager
def one_call() -> Iterator[tuple[IsolatedMonitor, Loopback]]:
    """Yield a monitor and a server; compare them after one whole stream."""
    with isolated_monitor() as monitor, serve() as loopback:
        yield monitor, loopback
        (books,) = loopback.books.values()
        report = monitor.get_total_token_usage()
        assert (report.total_prompt_tokens, report.total_completion_tokens) == books[:2]
        assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1
        assert monitor.value("genmeter_generations_total") == 1


WHOLE = Plan(7, "whole")


def helper_of(name: str, url: str, plan: Plan = WHOLE) -> Any:
    """Return a client's manager of a stream."""
    client = make_client(name, url)
    if name.endswith("OpenAI"):
        return client.chat.completions.stream(**asked(plan, "openai"))
    return client.messages.stream(**asked(plan, "anthropic"))


async def read_helper(stream: Any, *, is_async: bool) -> None:
    """Read the events of a helper, and its final message."""
    if not is_async:
        assert all(event.type for event in stream)
        with suppress(AttributeError):
            assert stream.get_final_message().content
        return
    async for event in stream:
        assert event.type
    with suppress(AttributeError):
        assert (await stream.get_final_message()).content


@pytest.mark.parametrize("name", CLIENTS)
async def test_helpers_of_clients_are_read(name: str) -> None:
    """`messages.stream()` and `chat.completions.stream()` open a stream in a block of their own."""
    is_async = name.startswith("Async")
    with one_call() as (monitor, loopback):
        async with monitor.generation(HOUSE_MODEL) as call:
            manager = call.stream(helper_of(name, loopback.url))
            if is_async:
                async with manager as stream:
                    await read_helper(stream, is_async=True)
            else:
                with manager as stream:
                    await read_helper(stream, is_async=False)


@pytest.mark.parametrize("name", CLIENTS)
async def test_decorated_helpers_end_the_call(name: str) -> None:
    """With their block, and the server's refusal is a failure."""
    is_async = name.startswith("Async")
    with one_call() as (monitor, loopback):
        ask = monitor.generation(HOUSE_MODEL)(helper_of)
        if is_async:
            async with ask(name, loopback.url) as stream:
                await read_helper(stream, is_async=True)
        else:
            with ask(name, loopback.url) as stream:
                await read_helper(stream, is_async=False)
    with isolated_monitor() as monitor, serve() as loopback:
        ask = monitor.generation(HOUSE_MODEL)(helper_of)
        manager = ask(name, loopback.url, Plan(7, "error"))
        with pytest.raises(Exception, match="the server failed"):
            await manager.__aenter__() if is_async else manager.__enter__()
        assert monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1
        assert monitor.value("genmeter_generations_total") == 1


async def test_helper_read_by_its_texts_is_read() -> None:
    """`text_stream` passes by the proxy; the helper has the message."""
    with one_call() as (monitor, loopback):
        async with (
            monitor.generation(HOUSE_MODEL) as call,
            call.stream(helper_of("AsyncAnthropic", loopback.url)) as stream,
        ):
            assert "".join([text async for text in stream.text_stream])


def test_helper_whose_texts_break_fails() -> None:
    """Only its own block sees what they raise."""
    with isolated_monitor() as monitor, serve() as loopback:
        ask = monitor.generation(HOUSE_MODEL)(helper_of)
        with (
            pytest.raises(Exception, match="peer closed"),
            ask("Anthropic", loopback.url, Plan(7, "broken", 4)) as stream,
        ):
            "".join(stream.text_stream)
        books = loopback.books[7]
        report = monitor.get_total_token_usage()
        assert (report.total_prompt_tokens, report.total_completion_tokens) == books[:2]
        assert monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1


def test_stream_of_a_raw_response_is_read() -> None:
    """Its headers were wanted."""
    with one_call() as (monitor, loopback):
        chat = make_client("OpenAI", loopback.url).chat.completions
        with monitor.generation(HOUSE_MODEL) as call:
            raw = chat.with_raw_response.create(**asked(WHOLE, "openai"), stream=True)
            assert raw.headers
            assert list(call.stream(raw.parse()))
    with one_call() as (monitor, loopback):
        chat = make_client("OpenAI", loopback.url).chat.completions
        with (
            monitor.generation(HOUSE_MODEL) as call,
            chat.with_streaming_response.create(**asked(WHOLE, "openai"), stream=True) as raw,
        ):
            assert list(call.stream(raw.parse()))


def test_proxy_is_an_instance_of_the_clients_class() -> None:
    """It has its attributes, and other code may close it."""
    openai = pytest.importorskip("openai")
    with one_call() as (monitor, loopback):
        create = make_client("OpenAI", loopback.url).chat.completions.create
        with monitor.generation(HOUSE_MODEL) as call:
            stream = call.stream(create(**asked(WHOLE, "openai"), stream=True))
            assert isinstance(stream, openai.Stream)
            assert stream.response.status_code == 200
            with stream as entered:
                assert list(entered)
