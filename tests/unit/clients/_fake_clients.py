"""Clients of the generator's shape without a network: what they return is set by the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ANSWER",
    "AsyncAPIClient",
    "AsyncClient",
    "Client",
    "Options",
    "SyncAPIClient",
    "chunks",
]

ANSWER = {
    "id": "c1",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}


class Options(SimpleNamespace):
    """What a request has."""

    def __init__(self, url: Any = "/chat/completions", **body: Any) -> None:
        super().__init__(method="post", url=url, json_data={"model": "m", **body}, extra_json=None)


class SyncAPIClient:
    """The base class.

    Args:
        result: What a request returns.
        error: What it raises instead.

    Attributes:
        failing: Status of each attempt before the one that counts.
    """

    def __init__(self, result: Any = ANSWER, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error
        self.failing: list[int] = []
        self.base_url = "https://loopback.example/v1"
        self.sent: list[Any] = []

    def request(self, cast_to: Any, options: Any, *, stream: bool = False) -> Any:
        """Send a request."""
        self.sent.append(options)
        for status in self.failing:
            self._sleep_for_retry(response=SimpleNamespace(status_code=status))
        if self.error is not None:
            raise self.error
        return self.result

    def _sleep_for_retry(self, *, response: Any) -> None:
        """Wait before another attempt."""

    def copy(self) -> Self:
        """Return a client with the same options."""
        return type(self)(self.result)

    with_options = copy


class AsyncAPIClient(SyncAPIClient):
    """The asynchronous base class."""

    async def request(  # type: ignore[override]
        self, cast_to: Any, options: Any, *, stream: bool = False
    ) -> Any:
        """Send a request."""
        return SyncAPIClient.request(self, cast_to, options, stream=stream)


class Client(SyncAPIClient):
    """A vendor's client."""

    def call(self, options: Any = None) -> Any:
        """Make a call, as a resource does."""
        return self.request(dict, Options() if options is None else options)


class AsyncClient(AsyncAPIClient):
    """A vendor's asynchronous client."""

    async def call(self, options: Any = None) -> Any:
        """Make a call, as a resource does."""
        return await self.request(dict, Options() if options is None else options)


def chunks() -> Iterator[Any]:
    """Yield the chunks of a stream."""
    yield {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    yield {"id": "c1", "choices": [{"index": 0, "finish_reason": "stop"}]}
    yield {"id": "c1", "choices": [], "usage": ANSWER["usage"]}
