"""Helpers of the tests of watched clients: clients of the model server, and what they are asked."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from _books import Call, assert_equal_books, recorded_calls
from _model_server import ModelServer, serve
from _prices import priced

from genmeter.clients import _registry, watching
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
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

USAGE = {"stream_options": {"include_usage": True}}


class Bench(NamedTuple):
    """A server and a monitor."""

    server: ModelServer
    monitor: IsolatedMonitor


@contextmanager
def bench() -> Iterator[Bench]:
    """Serve, and yield the server with a monitor that has their prices."""
    with serve() as server, isolated_monitor(priced()) as monitor:
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
    assert len(recorded_calls(monitor)) == calls
    cost = monitor.get_total_token_usage().cost_usd
    assert (monitor.value("genmeter_cost_usd_total") or 0.0) == pytest.approx(cost)
    assert monitor.value("genmeter_generations_active") == 0
