"""Watched clients of the documented shape, and objects that are none."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import json
import logging
import pickle
import threading
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
import wrapt
from _fake_clients import (
    ANSWER,
    AsyncAPIClient,
    AsyncClient,
    Client,
    Options,
    SyncAPIClient,
    chunks,
)
from _hostile import VALUES

from _waiting import eventually
from genmeter import ConfigError, clients
from genmeter.call.streams import CallStream
from genmeter.clients import _registry
from genmeter.observed import blocks
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOTAL = "genmeter_generations_total"


@pytest.fixture(name="monitor")
def make_monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor, and let nothing replaced remain."""
    before = [dict(vars(kind)) for kind in (SyncAPIClient, AsyncAPIClient)]
    _registry.once.clear()
    with isolated_monitor() as monitor:
        yield monitor
    # The methods of clients that are gone are put back with the next change.
    _registry.entries.clear()
    last = monitor.watch(Client())
    monitor.unwatch(last)
    assert [dict(vars(kind)) for kind in (SyncAPIClient, AsyncAPIClient)] == before
    assert not blocks.is_marking()


def test_a_call_is_recorded_once_with_its_tokens(monitor: IsolatedMonitor) -> None:
    """Watching twice is watching once."""
    client = monitor.watch(monitor.watch(Client()))
    assert client.call() is ANSWER
    report = monitor.get_total_token_usage()
    assert (report.total_prompt_tokens, report.total_completion_tokens) == (5, 3)
    assert monitor.value(TOTAL, gen_ai_request_model="m", gen_ai_operation_name="chat") == 1


def test_methods_keep_their_kind_and_signature(monitor: IsolatedMonitor) -> None:
    """Frameworks ask for both."""
    before = inspect.signature(SyncAPIClient.request)
    client, other = monitor.watch(Client()), monitor.watch(AsyncClient())
    assert inspect.signature(SyncAPIClient.request) == before
    assert not inspect.iscoroutinefunction(client.request)
    assert inspect.iscoroutinefunction(other.request)


def test_a_method_that_an_instrumentation_has_wrapped_keeps_its_object(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrapped before the watch, by wrapt, as instrumentations do."""
    seen = []

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append((type(instance), args))
        return wrapped(*args, **kwargs)

    for kind in (AsyncAPIClient, SyncAPIClient):
        monkeypatch.setattr(kind, "request", wrapt.FunctionWrapper(vars(kind)["request"], wrapper))
    client, other = monitor.watch(Client()), monitor.watch(AsyncClient())
    assert inspect.iscoroutinefunction(other.request)
    client.call()
    asyncio.run(other.call())
    # The asynchronous one sends its request by the plain one.
    assert [kind for kind, _ in seen] == [Client, AsyncClient, AsyncClient]
    assert all(args[0] is dict for _, args in seen)
    assert monitor.value(TOTAL) == 2
    monitor.unwatch(client)
    monitor.unwatch(other)


@pytest.mark.parametrize(
    ("url", "operation"),
    [
        ("/chat/completions", "chat"),
        ("/openai/v1/chat/completions", "chat"),
        ("https://x.example/v1/chat/completions?api-version=1", "chat"),
        ("/responses", "chat"),
        ("/responses/compact", "chat"),
        ("/v1/messages?beta=true", "chat"),
        ("/embeddings", "embeddings"),
        ("/completions", "text_completion"),
        ("/v1/complete", "text_completion"),
    ],
)
def test_the_path_says_the_operation(monitor: IsolatedMonitor, url: str, operation: str) -> None:
    """Of the APIs that bill tokens for text."""
    monitor.watch(Client()).call(Options(url))
    assert monitor.value(TOTAL, gen_ai_operation_name=operation) == 1


@pytest.mark.parametrize(
    "options",
    [
        Options("/v1/messages/count_tokens"),
        Options("/v1/messages/batches"),
        Options("/threads/t/messages"),
        Options("/responses/input_tokens"),
        Options("/chat/completions/c"),
        Options("/files"),
        Options(None),
        Options(b"/chat/completions"),
        SimpleNamespace(method="get", url="/responses", json_data=None),
    ],
)
def test_other_requests_are_no_calls(monitor: IsolatedMonitor, options: Any) -> None:
    """They pass unchanged."""
    client = monitor.watch(Client())
    client.call(options)
    assert client.sent == [options]
    assert monitor.value(TOTAL) == 0


def test_requests_of_another_shape_pass(monitor: IsolatedMonitor) -> None:
    """They are not recorded, and nothing raises."""
    client = monitor.watch(Client())
    for options in VALUES.values():
        client.request(dict, options)
        client.request(dict, options=options)
    assert len(client.sent) == 2 * len(VALUES)


def test_a_request_of_another_shape_is_said_once(
    monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """With the package and what to do."""
    client = monitor.watch(Client())
    with caplog.at_level(logging.WARNING, "genmeter"):
        for _ in range(3):
            client.request(dict, object())
        eventually(lambda: "does not understand the requests of _fake_clients" in caplog.text)
    assert len([r for r in caplog.records if "does not understand" in r.getMessage()]) == 1


def test_results_of_another_shape_are_returned(monitor: IsolatedMonitor) -> None:
    """The call is recorded, without tokens if they cannot be read."""
    client = monitor.watch(Client())
    for number, (name, value) in enumerate(VALUES.items(), 1):
        client.result = value
        found = client.call()
        assert found is value or issubclass(type(found), CallStream), name
        del found
        assert monitor.value(TOTAL) == number, name
    assert monitor.value("genmeter_generations_active") == 0


def test_a_stream_ends_the_call(monitor: IsolatedMonitor) -> None:
    """To its end, left, dropped."""
    client = monitor.watch(Client())
    for expected, take in (
        ("success", list),
        ("cancelled", next),
        ("cancelled", lambda stream: stream.close()),
        ("cancelled", lambda stream: None),
    ):
        before = monitor.value(TOTAL, genmeter_outcome=expected)
        client.result = chunks()
        take(client.call())
        assert monitor.value(TOTAL, genmeter_outcome=expected) == before + 1
    assert monitor.get_total_token_usage().total_prompt_tokens == 5


async def test_asynchronous_calls_streams_and_cancellations(monitor: IsolatedMonitor) -> None:
    """As the plain ones."""

    async def achunks() -> AsyncIterator[Any]:
        for chunk in chunks():
            yield chunk

    client = monitor.watch(AsyncClient())
    await client.call()
    client.result = achunks()
    assert len([chunk async for chunk in await client.call()]) == 3
    client.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await client.call()
    assert monitor.value(TOTAL, genmeter_outcome="success") == 2
    assert monitor.value(TOTAL, genmeter_outcome="cancelled") == 1


def test_an_error_propagates_and_is_a_failure(monitor: IsolatedMonitor) -> None:
    """With its class."""
    client = monitor.watch(Client(error=ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        client.call()
    assert monitor.value(TOTAL, genmeter_outcome="failure") == 1
    assert monitor.to_frame()["error_type"].tolist() == ["ValueError"]


def test_retries_have_the_cause_of_the_wait_before_them(monitor: IsolatedMonitor) -> None:
    """Those of an unwatched client are no other call's."""
    client, other = monitor.watch(Client()), Client()
    client.failing = [429, 408, 500, 418]
    other.failing = [429]
    client.call()
    with monitor.generation():
        other.call()
    assert monitor.value(TOTAL) == 2
    found = {
        each.labels["error_type"]: each.value for each in monitor.series("genmeter_retries_total")
    }
    assert found.pop("rate_limited") == 1
    assert sum(found.values()) == 3


def test_retries_are_those_of_the_last_request(monitor: IsolatedMonitor) -> None:
    """Where the client's waiting is not seen, an error, a raw response and a stream say the number."""
    request = SimpleNamespace(headers={"x-stainless-retry-count": "2"})
    error = ValueError()
    error.request = request  # type: ignore[attr-defined]
    client = monitor.watch(Client(error=error))
    with pytest.raises(ValueError, match=r"^$"):
        client.call()
    assert monitor.value("genmeter_retries_total") == 2
    for headers in ({"x-stainless-retry-count": "-1"}, {"x-stainless-retry-count": 3}, None, 7):
        error.request = SimpleNamespace(headers=headers)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"^$"):
            client.call()
    assert monitor.value("genmeter_retries_total") == 2


def test_a_call_in_a_block_is_the_blocks(monitor: IsolatedMonitor) -> None:
    """Also two of them: the block's tokens are those of both."""
    client = monitor.watch(Client())
    with monitor.generation(step="s"):
        client.call()
        client.call()
        assert monitor.value("genmeter_generations_active") == 1
    assert monitor.value(TOTAL) == monitor.value(TOTAL, genmeter_step="s") == 1
    assert monitor.get_total_token_usage().total_prompt_tokens == 10


def test_work_between_chunks_is_no_part_of_the_stream(monitor: IsolatedMonitor) -> None:
    """A call in the loop is a call of its own."""
    client = monitor.watch(Client(chunks()))
    stream = client.call()
    client.result = ANSWER
    for _ in stream:
        client.call()
    assert monitor.value(TOTAL) == 4


def test_a_subclass_that_calls_the_method_it_overrides_calls_once(
    monitor: IsolatedMonitor,
) -> None:
    """Streams too."""

    class Own(Client):
        def request(self, *args: Any, **kwargs: Any) -> Any:
            return super().request(*args, **kwargs)

    base, own = monitor.watch(Client()), monitor.watch(Own())
    own.call()
    own.result = chunks()
    list(own.call())
    base.call()
    assert monitor.value(TOTAL) == 3
    monitor.unwatch(own)
    monitor.unwatch(base)
    assert not hasattr(vars(Own)["request"], "__wrapped__")


def test_copies_are_watched_with_their_client(monitor: IsolatedMonitor) -> None:
    """``unwatch`` of a copy ends its own watch, of the client that of all copies."""
    client = monitor.watch(Client())
    first, second = client.copy(), client.with_options().copy()
    first.call()
    second.call()
    monitor.unwatch(first)
    first.call()
    second.call()
    client.call()
    assert monitor.value(TOTAL) == 4
    monitor.unwatch(client)
    second.call()
    client.call()
    assert monitor.value(TOTAL) == 4


def test_watching_again_changes_the_options_of_the_copies_too(monitor: IsolatedMonitor) -> None:
    """And those of a copy alone, if that is what is watched."""
    client = monitor.watch(Client(), step="a")
    first, second = client.copy(), client.copy()
    monitor.watch(client, step="b")
    monitor.watch(second, step="c")
    for each in (client, first, second):
        each.call()
    assert [monitor.value(TOTAL, genmeter_step=step) for step in "abc"] == [0, 2, 1]
    monitor.unwatch(client)
    for each in (client, first, second):
        each.call()
    assert monitor.value(TOTAL) == 4
    monitor.unwatch(second)


def test_nothing_remains_on_the_client(monitor: IsolatedMonitor) -> None:
    """It is copied and pickled as before, and compares as before."""
    client = Client()
    before = pickle.dumps(client)
    monitor.watch(client)
    assert pickle.dumps(client) == before
    assert vars(copy.copy(client)) == vars(copy.deepcopy(client)) == vars(client)
    monitor.unwatch(client)
    assert pickle.dumps(client) == before


def test_a_client_that_cannot_be_hashed_or_compared_is_watched(monitor: IsolatedMonitor) -> None:
    """By its identity."""

    class Odd(Client):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

    client = monitor.watch(Odd())
    client.call()
    monitor.unwatch(client)
    client.call()
    assert monitor.value(TOTAL) == 1


def test_a_client_of_an_old_address_is_not_mistaken(monitor: IsolatedMonitor) -> None:
    """The watch of a collected client is gone before another one may have its ``id()``."""
    gone = weakref.ref(monitor.watch(Client()))
    gc.collect()
    assert gone() is None
    made = [Client() for _ in range(50)]
    for client in made:
        client.call()
    assert monitor.value(TOTAL) == 0


def test_a_proxy_of_a_client_is_watched_through(monitor: IsolatedMonitor) -> None:
    """Such as wrapt's."""
    import wrapt

    client = Client()
    proxy = wrapt.ObjectProxy(client)
    assert monitor.watch(proxy) is proxy
    proxy.call()
    monitor.unwatch(proxy)
    client.call()
    assert monitor.value(TOTAL) == 1


def test_what_is_no_client_is_refused(monitor: IsolatedMonitor) -> None:
    """With the type and the remedy."""
    for client in (*VALUES.values(), MagicMock(), Client, SimpleNamespace()):
        with pytest.raises(ConfigError, match=r"client of type .*monitor\.generation"):
            monitor.watch(client)
        with pytest.raises(ConfigError, match=r"client of type .*monitor\.generation"):
            monitor.unwatch(client)


def test_a_class_without_weak_references_is_refused(monitor: IsolatedMonitor) -> None:
    """It could not be watched without being kept alive."""

    class Base:
        __slots__ = ()

        def request(self, cast_to: Any, options: Any) -> Any:
            """Send nothing."""

    kind = type("SyncAPIClient", (Base,), {"__slots__": ()})
    with pytest.raises(ConfigError, match="weak references"):
        monitor.watch(kind())


def test_a_second_monitor_takes_over_and_says_so(
    monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is recorded once."""
    client = monitor.watch(Client())
    with isolated_monitor() as other, caplog.at_level(logging.WARNING, "genmeter"):
        other.watch(client)
        monitor.unwatch(client)
        client.call()
        assert (monitor.value(TOTAL), other.value(TOTAL)) == (0, 1)
        eventually(lambda: "another monitor watches" in caplog.text)
        other.unwatch(client)


def test_a_collected_monitor_is_said(
    monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The calls go through, and the warning says why they are not recorded."""
    client = Client()
    with isolated_monitor() as other:
        other.watch(client)
        gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
    with caplog.at_level(logging.WARNING, "genmeter"):
        assert client.call() is ANSWER
        eventually(lambda: "was garbage collected" in caplog.text)
    monitor.watch(client)
    client.call()
    assert monitor.value(TOTAL) == 1


def test_include_usage_changes_a_copy_of_the_request(monitor: IsolatedMonitor) -> None:
    """What the caller passed stays as it was."""
    client = monitor.watch(Client(), include_usage=True)
    options = [
        Options(stream=True),
        Options(stream=True, stream_options=None),
        Options(),
        Options("/responses", stream=True),
        Options("/completions", stream=True),
    ]
    before = [dict(each.json_data) for each in options]
    for each in options:
        client.request(dict, each)
    client.request(dict, options=options[0])
    assert [each.json_data for each in options] == before
    asked = [each.json_data.get("stream_options") for each in client.sent]
    on = {"include_usage": True}
    assert asked == [on, None, None, None, on, on]


def test_all_clients_of_a_package_are_watched(monitor: IsolatedMonitor) -> None:
    """Until it is uninstalled; by the last monitor."""
    early = Client()
    assert clients.install("_fake_clients", monitor, step="all", provider="p")
    early.call()
    Client().call()
    asyncio.run(AsyncClient().call())
    assert monitor.value(TOTAL, genmeter_step="all", gen_ai_provider_name="p") == 3
    with isolated_monitor() as other:
        clients.install("_fake_clients", other)
        clients.uninstall("_fake_clients", monitor)
        early.call()
        assert (monitor.value(TOTAL), other.value(TOTAL)) == (3, 1)
        clients.uninstall("_fake_clients", other)
    clients.uninstall("_fake_clients")
    early.call()
    assert monitor.value(TOTAL) == 3


def test_a_package_without_known_clients_is_said(
    monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """With its name and version."""
    with caplog.at_level(logging.WARNING, "genmeter"):
        assert not clients.install("json", monitor)
        eventually(lambda: f"known shape in json {json.__version__}" in caplog.text)
    with pytest.raises(ImportError):
        clients.install("no_such_package", monitor)


def test_watching_and_calling_in_many_threads(monitor: IsolatedMonitor) -> None:
    """Each thread's own client is recorded, the shared one always."""
    shared = monitor.watch(Client())
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                own = monitor.watch(Client())
                own.call()
                shared.call()
                monitor.unwatch(own)
                own.call()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert monitor.value(TOTAL) == 600
