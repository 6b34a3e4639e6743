"""Real clients of several packages: watched and unwatched, all of a package, copied, collected."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from _watched import (
    Bench,
    anthropic_client,
    assert_books,
    bench,
    google_client,
    openai_client,
    said,
)

from genmeter import ConfigError, clients
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")

CLASSES = (
    *(openai.OpenAI, openai.AsyncOpenAI, openai.AzureOpenAI),
    *(anthropic.Anthropic, anthropic.AsyncAnthropic, anthropic.AnthropicVertex),
    *(genai.models.Models, genai.models.AsyncModels),
)
TOTAL = "genmeter_generations_total"


def methods() -> dict[tuple[type, str], Any]:
    """Return what the classes of the clients define."""
    return {
        (kind, name): value
        for each in CLASSES
        for kind in each.__mro__
        for name, value in vars(kind).items()
        if name != "__slotnames__"  # kept by `copy`
    }


@pytest.fixture(name="at")
def make_bench() -> Iterator[Bench]:
    """Return a server and a monitor, and let nothing replaced remain."""
    before = methods()
    with bench() as made:
        yield made
    assert {key for key, value in methods().items() if before.get(key) is not value} == set()


def call_all(url: str, made: tuple[Any, Any, Any]) -> None:
    """Make a call with each client."""
    made[0].chat.completions.create(**said("a"))
    made[1].messages.create(**said("b", max_tokens=9))
    made[2].models.generate_content(model="m", contents="c")


def make_all(url: str) -> tuple[Any, Any, Any]:
    """Return a client of each package."""
    return openai_client(url), anthropic_client(url), google_client(url)


def test_watch_returns_the_client_and_unwatch_restores_all(at: Bench) -> None:
    """No attribute and no method remains, and a second watch is no second record."""
    made = make_all(at.server.url)
    before = [dict(vars(each)) for each in made]
    for each in made:
        assert at.monitor.watch(each) is each
        at.monitor.watch(each)
    assert [dict(vars(each)) for each in made] == before
    call_all(at.server.url, made)
    assert_books(at, 3)
    for each in made:
        at.monitor.unwatch(each)
        at.monitor.unwatch(each)
    call_all(at.server.url, made)
    assert at.monitor.value(TOTAL) == 3


def test_only_the_watched_client_is_recorded(at: Bench) -> None:
    """Others of its class are not."""
    made, other = openai_client(at.server.url), openai_client(at.server.url)
    at.monitor.watch(made)
    other.chat.completions.create(**said("a"))
    assert at.monitor.value(TOTAL) == 0
    at.monitor.unwatch(other)
    made.chat.completions.create(**said("b"))
    assert at.monitor.value(TOTAL) == 1
    at.monitor.unwatch(made)


def test_all_clients_of_a_package_are_watched_until_it_is_uninstalled(
    at: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that exist and those that are made later, of subclasses too."""
    early = make_all(at.server.url)
    for package in ("openai", "anthropic", "google.genai"):
        assert clients.install(package, at.monitor)
        assert clients.install(package, at.monitor)
    call_all(at.server.url, early)
    call_all(at.server.url, make_all(at.server.url))
    azure = openai.AzureOpenAI(azure_endpoint=at.server.url, api_key="k", api_version="1")
    azure.chat.completions.create(**said("d"))
    monkeypatch.setattr(openai, "base_url", f"{at.server.url}/v1/")
    monkeypatch.setattr(openai, "api_key", "k")
    openai.chat.completions.create(**said("e"))

    async def call() -> None:
        async with openai_client(at.server.url, "AsyncOpenAI") as made:
            await made.responses.create(model="m", input="f")
        await early[2].aio.models.generate_content(model="m", contents="g")
        await early[2].aio.aclose()

    asyncio.run(call())
    assert_books(at, 10)
    for package in ("openai", "anthropic", "google.genai"):
        clients.uninstall(package, None)
        clients.uninstall(package, at.monitor)
    call_all(at.server.url, early)
    assert at.monitor.value(TOTAL) == 10


def test_a_client_that_is_watched_by_itself_keeps_its_monitor(at: Bench) -> None:
    """Its calls are recorded once, whatever is installed."""
    made = at.monitor.watch(openai_client(at.server.url), step="own")
    with isolated_monitor() as other:
        clients.install("openai", other, step="all")
        try:
            made.chat.completions.create(**said("a"))
            assert (at.monitor.value(TOTAL, genmeter_step="own"), other.value(TOTAL)) == (1, 0)
            at.monitor.unwatch(made)
            made.chat.completions.create(**said("b"))
            assert (at.monitor.value(TOTAL), other.value(TOTAL, genmeter_step="all")) == (1, 1)
            clients.uninstall("openai", at.monitor)  # not the one that was installed
            made.chat.completions.create(**said("c"))
            assert other.value(TOTAL) == 2
        finally:
            clients.uninstall("openai", other)


def test_a_second_monitor_takes_the_client_over(at: Bench) -> None:
    """A call is recorded once; the first monitor's ``unwatch`` then changes nothing."""
    made = at.monitor.watch(openai_client(at.server.url))
    with isolated_monitor() as other:
        other.watch(made)
        at.monitor.unwatch(made)
        made.chat.completions.create(**said("a"))
        assert (at.monitor.value(TOTAL), other.value(TOTAL)) == (0, 1)
        other.unwatch(made)


def test_neither_keeps_the_other_alive(at: Bench) -> None:
    """The client is collected with its watch; a call after the monitor's end goes through."""
    made = at.monitor.watch(openai_client(at.server.url))
    made.chat.completions.create(**said("a"))
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
    with isolated_monitor() as monitor:
        left = monitor.watch(openai_client(at.server.url))
        collected = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert collected() is None
    assert left.chat.completions.create(**said("b")).choices
    assert at.monitor.value(TOTAL) == 1
    at.monitor.unwatch(left)  # is not this monitor's
    with isolated_monitor() as monitor:
        monitor.watch(left)
        monitor.unwatch(left)


def test_a_client_is_copied_and_pickled_as_before(at: Bench) -> None:
    """A watch is no part of the client."""
    made = openai_client(at.server.url)
    errors = []
    for _ in range(2):
        with pytest.raises(Exception, match=r".") as caught:
            pickle.dumps(made)
        errors.append(str(caught.value))
        at.monitor.watch(made)
    assert errors[0] == errors[1]
    twin = copy.copy(made)
    assert vars(twin) == vars(made)
    at.monitor.unwatch(made)


def test_another_wrapper_of_the_method_may_come_and_go(at: Bench) -> None:
    """What was put on top of ours stays, and is not broken by the end of the watch."""
    made = at.monitor.watch(openai_client(at.server.url))
    kind = next(each for each in openai.OpenAI.__mro__ if "request" in vars(each))
    ours = vars(kind)["request"]
    seen = []

    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self)
        return ours(self, *args, **kwargs)

    kind.request = request
    made.chat.completions.create(**said("a"))
    at.monitor.unwatch(made)
    assert vars(kind)["request"] is request
    made.chat.completions.create(**said("b"))
    at.monitor.watch(made)
    made.chat.completions.create(**said("c"))
    assert (len(seen), at.monitor.value(TOTAL)) == (3, 2)
    kind.request = ours
    at.monitor.unwatch(made)


def test_what_is_no_client_is_refused(at: Bench) -> None:
    """With its type and a remedy."""
    for other in (openai, openai.OpenAI, openai_client(at.server.url).chat, object(), None):
        with pytest.raises(ConfigError, match=r"got a client of type .*monitor\.generation"):
            at.monitor.watch(other)
