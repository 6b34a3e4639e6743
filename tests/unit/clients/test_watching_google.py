"""Watched clients of Google's shape, without the package."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import ConfigError
from genmeter.clients import _registry, watching
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

TOTAL = "genmeter_generations_total"
USAGE = {"prompt_token_count": 5, "candidates_token_count": 3, "total_token_count": 8}
MODULE = "google.genai.client"


def answer(**more: Any) -> SimpleNamespace:
    """Return a response."""
    return SimpleNamespace(usage_metadata=SimpleNamespace(**USAGE), response_id="r", **more)


class Models:
    """The part of a client that calls models; ``generate_content`` asks twice."""

    vertexai = True

    def _generate_content(self, *, model: str, contents: Any) -> Any:
        return answer()

    def generate_content(self, *, model: str, contents: Any) -> Any:
        """Ask, call a function, and ask again."""
        self._generate_content(model=model, contents=contents)
        return self._generate_content(model=model, contents=contents)

    def _generate_content_stream(self, *, model: str, contents: Any) -> Iterator[Any]:
        yield answer()

    def generate_content_stream(self, *, model: str, contents: Any) -> Iterator[Any]:
        """Stream."""
        yield from self._generate_content_stream(model=model, contents=contents)

    def embed_content(self, *, model: str, contents: Any) -> Any:
        """Embed."""
        if contents == "body":
            body = '{"usageMetadata": {"promptTokenCount": 7}, "responseId": "b"}'
            return SimpleNamespace(sdk_http_response=SimpleNamespace(body=body))
        return answer(automatic_function_calling_history=[1])


class Client:
    """A client."""

    def __init__(self, models: Any) -> None:
        self.models = models


Client.__module__ = MODULE


@pytest.fixture(name="monitor")
def make_monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor, and let nothing replaced remain."""
    before = dict(vars(Models))
    with isolated_monitor() as monitor:
        yield monitor
    _registry.entries.clear()
    watching._apply()
    assert dict(vars(Models)) == before


def test_each_request_is_a_call(monitor: IsolatedMonitor) -> None:
    """By the methods that send one each; of Vertex, as the client says."""
    client = monitor.watch(Client(Models()))
    client.models.generate_content(model="m", contents="a")
    list(client.models.generate_content_stream(model="m", contents="b"))
    Models().generate_content(model="m", contents="another client's")
    assert monitor.value(TOTAL, gen_ai_provider_name="gcp.vertex_ai") == 3
    assert monitor.get_total_token_usage().total_prompt_tokens == 15
    monitor.unwatch(client)
    client.models.generate_content(model="m", contents="c")
    assert monitor.value(TOTAL) == 3


def test_without_the_private_method_the_public_one_is_replaced(monitor: IsolatedMonitor) -> None:
    """Here that of embeddings; an answer as HTTP response is read too."""
    client = monitor.watch(Client(Models()))
    client.models.embed_content(model="e", contents="a")
    client.models.embed_content(model="e", contents="body")
    assert monitor.value(TOTAL, gen_ai_operation_name="embeddings") == 2
    assert monitor.get_total_token_usage().total_prompt_tokens == 12


def test_a_client_without_such_methods_is_refused(monitor: IsolatedMonitor) -> None:
    """Another version of it."""
    for models in (object(), None):
        with pytest.raises(ConfigError, match=r"client of type google\.genai\.client\.Client"):
            monitor.watch(Client(models))
