"""Calls that run at once, are made through different layers and watched by different observers: each counts once."""

from __future__ import annotations

import asyncio
import gc
import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from _books import assert_equal_books
from _model_server import serve
from _watching import import_emitters, watch

import genmeter.hooks
from _waiting import eventually
from genmeter import clients
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from _books import Call
    from _model_server import Entry, ModelServer

openai = pytest.importorskip("openai")
litellm = pytest.importorskip("litellm")
models = pytest.importorskip("langchain_openai")

from langchain_core.language_models.chat_models import BaseChatModel  # noqa: E402
from langchain_core.messages import AIMessage  # noqa: E402
from langchain_core.outputs import ChatGeneration, ChatResult  # noqa: E402

hook: Any = importlib.import_module("genmeter.hooks.litellm")

MODEL = "gpt-4o-mini"
ROUNDS = 3
PER_LAYER = 12
# Errors come at about the same time, without tokens and without an id of a response.
ORDERS = ("[[400]]", "[[slow 0.02]] [[400]]", "[[429]]", "[[500]]", "[[no usage]]", "[[cached]]")
LEFT = "[[slow 60]]"
OBSERVERS: list[tuple[bool, tuple[str, ...]]] = [
    (True, ()),
    (True, ("genai-openai",)),
    (False, ("genai-openai",)),
    (False, ("openinference-openai",)),
    (False, ("openllmetry-openai",)),
    (False, ("genai-openai", "openinference-openai")),
]
"""Whether genmeter watches the client, and the instrumentations of it."""


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _result(answer: Any) -> ChatResult:
    text = answer.choices[0].message.content
    return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


def _layers(
    server: ModelServer,
) -> tuple[dict[str, Callable[[str], Any]], dict[str, Callable[[str], Awaitable[Any]]]]:
    """Return functions that ask the server by each layer, and such that are awaited."""

    class Above(BaseChatModel):
        """A model of LangChain's that asks LiteLLM, and knows no usage."""

        @property
        def _llm_type(self) -> str:
            return "litellm"

        @property
        def _identifying_params(self) -> dict[str, Any]:
            return {"model_name": MODEL}

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            return _result(litellm.completion(messages=_messages(messages[-1].content), **options))

        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            asked = litellm.acompletion(messages=_messages(messages[-1].content), **options)
            return _result(await asked)

    connection = {"base_url": f"{server.url}/v1", "api_key": "k", "max_retries": 0}
    client, aclient = openai.OpenAI(**connection), openai.AsyncOpenAI(**connection)
    model = models.ChatOpenAI(model=MODEL, **connection)
    base = {"model": f"openai/{MODEL}", "api_base": connection["base_url"], "api_key": "k"}
    options: dict[str, Any] = {**base, "max_retries": 0, "num_retries": 0}
    create, acreate = client.chat.completions.create, aclient.chat.completions.create
    return {
        "client": lambda text: create(model=MODEL, messages=_messages(text)),
        "langchain": model.invoke,
        "langchain over litellm": Above().invoke,
        "litellm": lambda text: litellm.completion(messages=_messages(text), **options),
    }, {
        "client": lambda text: acreate(model=MODEL, messages=_messages(text)),
        "langchain": model.ainvoke,
        "langchain over litellm": Above().ainvoke,
        "litellm": lambda text: litellm.acompletion(messages=_messages(text), **options),
    }


async def _leave(server: ModelServer, ask: Callable[[str], Awaitable[Any]], text: str) -> None:
    """Cancel a call as soon as the server has its request."""
    task = asyncio.ensure_future(ask(text))
    for _ in range(12_000):
        if task.done() or any(each.text == text for each in tuple(server.books)):
            break
        await asyncio.sleep(0.005)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _storm(server: ModelServer, number: int) -> int:
    """Ask by all layers at once, by threads and by tasks; returns how often."""
    plain, awaited = _layers(server)
    texts = [f"{number}.{index} {ORDERS[index % len(ORDERS)]}" for index in range(PER_LAYER)]
    left = [f"{number}.{index} {LEFT}" for index in range(PER_LAYER // 4)]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(plain) * PER_LAYER) as pool:
        asked: list[Awaitable[Any]] = [
            loop.run_in_executor(pool, ask, f"{layer} {text}")
            for text in texts
            for layer, ask in plain.items()
        ]
        asked += [ask(f"a{layer} {text}") for text in texts for layer, ask in awaited.items()]
        asked += [
            _leave(server, ask, f"a{layer} {text}")
            for text in left
            for layer, ask in awaited.items()
        ]
        await asyncio.gather(*asked, return_exceptions=True)
    for _ in range(1_000):  # LiteLLM's worker is a task of this loop
        gc.collect()
        if not hook._began:
            break
        await asyncio.sleep(0.01)
    return len(asked)


def _keep_client(server: ModelServer) -> None:
    """Have LiteLLM keep its clients, which are as they were when they were made, and wait for its reports."""
    plain, awaited = _layers(server)
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        plain["litellm"]("kept")
        asyncio.run(awaited["litellm"]("kept"))  # type: ignore[arg-type]
        _settle()
        genmeter.hooks.uninstall("litellm")


def _settle() -> None:
    gc.collect()
    assert hook.flush(60.0)
    assert eventually(lambda: not hook._began)


def _as_seen_by(emitters: tuple[str, ...], *, is_watched: bool) -> Callable[[Call, Entry], Any]:
    """Return how calls are seen: OpenLLMetry has no span of a call that was left."""

    def seen(call: Call, entry: Entry) -> list[Call]:
        is_left = call.outcome == "cancelled" and entry.text.startswith("aclient")
        if is_left and emitters == ("openllmetry-openai",) and not is_watched:
            return []
        return [call]

    return seen


def _compare(emitters: tuple[str, ...], is_watched: bool, is_kept: bool) -> None:
    if is_kept:
        with serve() as server:
            _keep_client(server)
    with serve() as server, ExitStack() as stack, watch(*emitters) as watched:
        genmeter.hooks.install("litellm", "langchain", monitor=watched.monitor)
        stack.callback(genmeter.hooks.uninstall, "litellm", "langchain")
        if is_watched:
            clients.install("openai", watched.monitor)
            stack.callback(clients.uninstall, "openai", watched.monitor)
        attempts = sum(asyncio.run(_storm(server, number)) for number in range(ROUNDS))
        server.settle()
        _settle()
        watched.settle()
        assert len(server.calls()) == attempts
        as_seen = _as_seen_by(emitters, is_watched=is_watched)
        assert_equal_books(watched.monitor, server, as_seen=as_seen)


@pytest.mark.parametrize("is_kept", [False, True], ids=["new client", "kept client"])
@pytest.mark.parametrize(("is_watched", "emitters"), OBSERVERS, ids=str)
def test_parallel_calls_of_all_layers_equal_the_books(
    emitters: tuple[str, ...], is_watched: bool, is_kept: bool
) -> None:
    """However they end: with an answer, an error without tokens, or left.

    A client that LiteLLM has kept from before it was watched is seen by nobody: LiteLLM's report is all that
    there is of these calls. Each is a process of its own, since instrumentations patch for good, and no fork
    of this one, in which LiteLLM's threads may have begun.
    """
    import_emitters(emitters)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(_compare, emitters, is_watched, is_kept).result()
