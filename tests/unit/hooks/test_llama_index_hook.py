"""LlamaIndex's hook on fakes of its events, with what the real one does not send."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

import genmeter.hooks
from _waiting import eventually
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

hook: Any = importlib.import_module("genmeter.hooks.llama_index")

RAW = {
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    "model": "m-1",
    "choices": [{"index": 0, "finish_reason": "stop"}],
}


def _event(kind: str, span: Any = "OpenAI.chat-1", **values: Any) -> Any:
    return _filled(type(kind, (), {})(), span, values)


def _filled(event: Any, span: Any, values: dict[str, Any]) -> Any:
    event.span_id = span
    for name, value in values.items():
        setattr(event, name, value)
    return event


@pytest.fixture
def root() -> Any:
    """Return a fake of the root dispatcher."""
    handlers: list[Any] = []
    return types.SimpleNamespace(event_handlers=handlers, add_event_handler=handlers.append)


@pytest.fixture
def instrumentation(monkeypatch: pytest.MonkeyPatch, root: Any) -> Any:
    """Return a fake of the module."""
    name = "llama_index.core.instrumentation"
    names = ("llama_index", "llama_index.core", name, f"{name}.event_handlers")
    modules: dict[str, Any] = {each: types.ModuleType(each) for each in names}
    for each, module in modules.items():
        monkeypatch.setitem(sys.modules, each, module)
    modules[name].get_dispatcher = lambda: root
    modules[f"{name}.event_handlers"].BaseEventHandler = object
    hook._hook._once.clear()
    monkeypatch.setattr(hook._hook, "aside", None)
    return modules[name]


@pytest.fixture
def monitor(instrumentation: Any) -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls."""
    del instrumentation
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("llama_index", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("llama_index")


@pytest.fixture
def handle(monitor: IsolatedMonitor, root: Any) -> Any:
    """Return what handles an event."""
    del monitor
    [handler] = root.event_handlers
    return handler.handle


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


@pytest.mark.parametrize(
    ("class_name", "provider"),
    [
        ("openai_llm", "openai"),
        ("Anthropic_LLM", "anthropic"),
        ("OpenAILike", None),
        ("CohereEmbedding", "cohere"),
        (None, None),
    ],
)
def test_calls_have_their_provider(
    handle: Any, monitor: IsolatedMonitor, class_name: Any, provider: Any
) -> None:
    """By the class of the model; a server of OpenAI's kind is anybody's."""
    model = {"class_name": class_name, "model_name": "m"}
    handle(_event("LLMChatStartEvent", model_dict=model))
    handle(_event("LLMChatEndEvent", response=types.SimpleNamespace(raw=RAW)))
    [row] = _rows(monitor)
    assert (row["model"], row["input_tokens"], row["finish_reason"]) == ("m", 10, "stop")
    assert row["provider"] == provider or (
        provider is None and not isinstance(row["provider"], str)
    )


def test_the_error_is_the_one_that_is_handled(handle: Any, monitor: IsolatedMonitor) -> None:
    """The event of a dropped span has only its text."""
    handle(_event("LLMCompletionStartEvent", model_dict={}))
    try:
        raise ValueError("x")
    except ValueError:
        handle(_event("SpanDropEvent", err_str="x"))
    handle(_event("LLMChatStartEvent", model_dict={}))
    handle(_event("SpanDropEvent", err_str="text"))
    handle(_event("SpanDropEvent", span="another", err_str="x"))
    rows = _rows(monitor)
    assert [row["outcome"] for row in rows] == ["failure", "failure"]
    assert rows[0]["error_type"] == "ValueError"


def test_batches_that_are_embedded_at_once(handle: Any, monitor: IsolatedMonitor) -> None:
    """They share a span, and are calls beside each other."""
    for _ in range(3):
        handle(_event("EmbeddingStartEvent", model_dict={"model_name": "e"}))
    for _ in range(3):
        handle(_event("EmbeddingEndEvent"))
    handle(_event("EmbeddingEndEvent"))
    assert [row["operation"] for row in _rows(monitor)] == ["embeddings"] * 3


@pytest.mark.parametrize("name", VALUES)
def test_hostile_values_do_not_raise(handle: Any, monitor: IsolatedMonitor, name: str) -> None:
    """In every place; each call ends."""
    value = VALUES[name]
    handle(value)
    handle(_event("LLMChatStartEvent", model_dict=value))
    handle(_event("LLMChatInProgressEvent", response=value))
    handle(_event("LLMChatEndEvent", response=value))
    handle(_event("LLMChatStartEvent", model_dict={"model_name": value, "class_name": value}))
    handle(_event("ExceptionEvent", exception=value))
    handle(_event("LLMChatStartEvent", span=value, model_dict={}))
    handle(_event("LLMChatEndEvent", span=value, response=types.SimpleNamespace(raw=value)))
    assert len(_rows(monitor)) >= 1


def test_without_a_dispatcher_it_steps_aside(
    instrumentation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And says what is missing."""
    del instrumentation.get_dispatcher
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("llama_index", monitor=monitor)
        assert genmeter.hooks.connected() == ()
        genmeter.hooks.uninstall("llama_index")
    assert eventually(lambda: "has no get_dispatcher; its calls are not recorded" in caplog.text)
