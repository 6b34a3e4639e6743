"""Helpers of the tests of watched clients: clients of the model server, and what they are asked."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from _books import Call, assert_equal_books, recorded_calls
from _model_server import ModelServer, serve

from genmeter import MonitorConfig, Price
from genmeter.clients import _registry, watching
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "PRICES",
    "USAGE",
    "Bench",
    "anthropic_client",
    "assert_books",
    "bench",
    "google_client",
    "openai_client",
    "said",
    "without_usage",
]

PRICES = {"m": Price(2.0, 8.0), "e": Price(1.0, 0.0)}
USAGE = {"stream_options": {"include_usage": True}}


class Bench(NamedTuple):
    """A server and a monitor."""

    server: ModelServer
    monitor: IsolatedMonitor


@contextmanager
def bench() -> Iterator[Bench]:
    """Serve, and yield the server with a monitor that prices models ``m`` and ``e``."""
    with serve() as server, isolated_monitor(MonitorConfig(prices=PRICES)) as monitor:
        yield Bench(server, monitor)
    # The methods of clients that are gone are put back with the next change.
    _registry.entries.clear()
    watching._apply()


def openai_client(url: str, kind: str = "OpenAI", **options: Any) -> Any:
    """Return a client of OpenAI's."""
    openai = pytest.importorskip("openai")
    options = {"base_url": f"{url}/v1", "api_key": "k", "max_retries": 2} | options
    return getattr(openai, kind)(**options)


def anthropic_client(url: str, kind: str = "Anthropic", **options: Any) -> Any:
    """Return a client of Anthropic's."""
    anthropic = pytest.importorskip("anthropic")
    options = {"base_url": url, "api_key": "k", "max_retries": 2} | options
    return getattr(anthropic, kind)(**options)


def google_client(url: str) -> Any:
    """Return a client of Google's."""
    genai = pytest.importorskip("google.genai")
    return genai.Client(api_key="k", http_options={"base_url": url})


def said(text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    """Return the arguments of a chat."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def without_usage(call: Call, _entry: Any) -> list[Call]:
    """See a stream's call without its tokens."""
    return [call._replace(input=None, output=None, cached=0, reasoning=0)]


def assert_books(
    bench: Bench, calls: int, *, as_seen: Callable[[Call, Any], list[Call]] | None = None
) -> None:
    """Assert that the monitor has exactly the server's calls, tokens, outcomes and cost."""
    server, monitor = bench
    if as_seen is None:
        assert_equal_books(monitor, server)
    else:
        assert_equal_books(monitor, server, as_seen=as_seen)
    found = recorded_calls(monitor)
    assert len(found) == calls
    usd = sum(
        ((each.input or 0) * 2.0 + (each.output or 0) * 8.0) / 1e6
        if each.model == "m"
        else (each.input or 0) * 1.0 / 1e6
        for each in found
        if each.cached == 0
    )
    if all(each.cached == 0 for each in found):
        assert monitor.value("genmeter_cost_usd_total") == pytest.approx(usd)
    assert monitor.value("genmeter_generations_active") == 0
