"""The subjects of `peers.py` that watch OpenAI's client.

The client's own ``request``, below what any of them replaces, returns an answer that was made before:
what remains is the client's arguments, and what the subject adds.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _peers_recorders import Peer, page_of, sdk_providers, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _events import Event

__all__ = ["Bare", "OpenLit", "OpenLlmetry", "Watched"]

_MESSAGES: Any = [{"role": "user", "content": "hi"}]


class Bare(Peer):
    """OpenAI's client, which nothing watches."""

    def __init__(self) -> None:
        import openai

        self._answers: dict[tuple[str, int, int], Any] = {}
        _answer_from(self._answers)
        self._registry: Any = None
        self.watch()
        self.client = openai.OpenAI(api_key="k", base_url="http://localhost/v1")
        self.async_client = openai.AsyncOpenAI(api_key="k", base_url="http://localhost/v1")
        self.watch_clients()

    def watch(self) -> None:
        """Watch the package."""

    def watch_clients(self) -> None:
        """Watch the clients."""

    def prepare(self, generations: Sequence[Event]) -> None:
        """Make the answers."""
        from openai.types.chat import ChatCompletion

        for event in generations:
            key = event.model, event.prompt, event.completion
            if key not in self._answers:
                self._answers[key] = ChatCompletion.model_validate(_answer(event))

    def record(self, generations: Sequence[Event]) -> None:
        """Make a call for each; its counts find the answer."""
        create = self.client.chat.completions.create
        for event in generations:
            create(
                model=event.model,
                messages=_MESSAGES,
                seed=event.prompt,
                max_tokens=event.completion,
            )

    async def record_one(self, event: Event) -> None:
        """Make a call with the asynchronous client."""
        await self.async_client.chat.completions.create(
            model=event.model, messages=_MESSAGES, seed=event.prompt, max_tokens=event.completion
        )

    def page(self) -> str | None:
        """Write Prometheus's text format with the upstream exporter."""
        return text_of(self._registry) if self._registry is not None else None


class Watched(Bare):
    """genmeter's monitor watches both clients."""

    def watch_clients(self) -> None:
        """Watch them."""
        from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig

        self._monitor = GenerationMonitor(
            config=MonitorConfig(endpoint=EndpointConfig(enabled=False)), metrics_interval=None
        )
        self._monitor.watch(self.client)
        self._monitor.watch(self.async_client)
        self._app = self._monitor.wsgi_app()

    def settle(self) -> None:
        """Drain."""
        self._monitor.flush(timeout=60)

    def page(self) -> str:
        """Request the page, as a server would."""
        return page_of(self._app)

    def report(self) -> object:
        """Return the token report since the start."""
        return self._monitor.get_total_token_usage()

    def close(self) -> None:
        """Shut the monitor down."""
        self._monitor.shutdown()


class OpenLlmetry(Bare):
    """OpenLLMetry's instrumentation of OpenAI's client, with its spans and metrics."""

    def watch(self) -> None:
        """Instrument the package."""
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor

        self._registry, tracers, meters = sdk_providers()
        OpenAIInstrumentor().instrument(tracer_provider=tracers, meter_provider=meters)


class OpenLit(Bare):
    """OpenLIT, with its spans and metrics, and without the contents of messages."""

    def watch(self) -> None:
        """Turn it on, with the providers that it finds."""
        import openlit
        from opentelemetry import metrics, trace

        self._registry, tracers, meters = sdk_providers()
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(meters)
        self._folder = tempfile.TemporaryDirectory(prefix="genmeter-bench-")
        prices = Path(self._folder.name) / "prices.json"  # without one it asks a server for them
        prices.write_text('{"chat": {}}', encoding="utf-8")
        openlit.init(
            pricing_json=str(prices),
            disable_batch=True,
            disable_events=True,
            capture_message_content=False,
        )

    def close(self) -> None:
        """Remove its file."""
        self._folder.cleanup()


def _answer_from(answers: dict[tuple[str, int, int], Any]) -> None:
    base: Any = importlib.import_module("openai._base_client")

    def request(_client: Any, _cast_to: Any, options: Any, **_: Any) -> Any:
        asked = options.json_data
        return answers[asked["model"], asked["seed"], asked["max_tokens"]]

    async def request_async(client: Any, cast_to: Any, options: Any, **_: Any) -> Any:
        return request(client, cast_to, options)

    base.SyncAPIClient.request = request
    base.AsyncAPIClient.request = request_async


def _answer(event: Event) -> dict[str, Any]:
    message = {"role": "assistant", "content": "word " * 100}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": event.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": event.prompt,
            "completion_tokens": event.completion,
            "total_tokens": event.prompt + event.completion,
        },
    }
