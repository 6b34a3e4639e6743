"""LangChain's hook on a fake of its callbacks, with what the real one does not send."""

from __future__ import annotations

import gc
import sys
import types
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

import genmeter.hooks
from _waiting import eventually
from genmeter.hooks import langchain as hook
from genmeter.observed import blocks
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Handler:
    """The base class of LangChain's handlers."""

    run_inline = False
    raise_error = False

    def _ignore(self, *args: Any, **kwargs: Any) -> None: ...

    on_chat_model_start = on_llm_start = on_llm_new_token = on_llm_end = on_llm_error = _ignore


class _Message:
    """An answer, as LangChain has it."""

    def __init__(self, **usage: Any) -> None:
        self.content = "text"
        self.usage_metadata = usage or None
        self.response_metadata = {"finish_reason": "stop", "model_name": "m-1"}


def _result(**usage: Any) -> Any:
    message = _Message(**usage)
    generation = types.SimpleNamespace(text="text", message=message, generation_info=None)
    return types.SimpleNamespace(generations=[[generation]], llm_output=None)


@pytest.fixture
def rows() -> list[Any]:
    """Return LangChain's list of registered handlers."""
    return []


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, rows: list[Any]) -> types.ModuleType:
    """Return a fake of the module that registers handlers."""
    modules = {
        name: types.ModuleType(name)
        for name in (
            "langchain_core",
            "langchain_core.callbacks",
            "langchain_core.callbacks.base",
            "langchain_core.tracers",
            "langchain_core.tracers.context",
        )
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    context: Any = modules["langchain_core.tracers.context"]
    modules["langchain_core.callbacks.base"].BaseCallbackHandler = _Handler  # type: ignore[attr-defined]
    context._configure_hooks = rows
    context.register_configure_hook = lambda *row: rows.append(row)
    monkeypatch.setattr(hook, "_connected", [])
    hook._hook._once.clear()
    monkeypatch.setattr(hook._hook, "aside", None)
    return modules["langchain_core.tracers.context"]


@pytest.fixture
def monitor(context: types.ModuleType) -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls."""
    del context
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("langchain", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("langchain")


@pytest.fixture
def handler(monitor: IsolatedMonitor, rows: list[Any]) -> Any:
    """Return the handler that LangChain gets in each context."""
    del monitor
    [(variable, inheritable, _, *_rest)] = rows
    assert inheritable is True
    return variable.get()


def _records(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    records: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return records


def test_usage_with_its_details(handler: Any, monitor: IsolatedMonitor) -> None:
    """Cached and reasoning tokens are parts of the others."""
    run = uuid.uuid4()
    metadata = {"ls_provider": "openai", "ls_model_name": "m", "langgraph_node": "judge"}
    handler.on_chat_model_start({}, [[]], run_id=run, metadata=metadata, tags=[])
    handler.on_llm_end(
        _result(
            input_tokens=10,
            output_tokens=5,
            total_tokens=15,
            input_token_details={"cache_read": 4},
            output_token_details={"reasoning": 2},
        ),
        run_id=run,
    )
    [row] = _records(monitor)
    assert (row["model"], row["provider"], row["step"]) == ("m", "openai", "judge")
    assert (row["input_tokens"], row["cache_read_tokens"], row["reasoning_tokens"]) == (10, 4, 2)
    assert (row["finish_reason"], row["response_model"]) == ("stop", "m-1")


def test_the_handler_runs_in_the_context_of_the_run(handler: Any) -> None:
    """Else its mark would not be there for what the model asks."""
    assert handler.run_inline is True
    assert handler.raise_error is True


def test_a_run_whose_end_is_not_reported_is_cancelled(
    handler: Any, monitor: IsolatedMonitor
) -> None:
    """Its id is gone with what ran it."""
    run = uuid.uuid4()
    handler.on_chat_model_start({}, [[]], run_id=run)
    assert _records(monitor) == []
    del run
    gc.collect()
    assert [row["outcome"] for row in _records(monitor)] == ["cancelled"]


def test_an_error_after_an_answer_keeps_its_tokens(handler: Any, monitor: IsolatedMonitor) -> None:
    """Such as one of a stream that broke."""
    run = uuid.uuid4()
    handler.on_chat_model_start({}, [[]], run_id=run, metadata={"ls_model_name": "m"})
    handler.on_llm_new_token("a", run_id=run)
    response = _result(input_tokens=3, output_tokens=1, total_tokens=4)
    handler.on_llm_error(ValueError("broken"), run_id=run, response=response)
    [row] = _records(monitor)
    assert (row["outcome"], row["error_type"], row["input_tokens"]) == ("failure", "ValueError", 3)


def test_a_hit_in_the_cache_is_no_call(handler: Any, monitor: IsolatedMonitor) -> None:
    """LangChain sets the cost of its message to 0."""
    run = uuid.uuid4()
    handler.on_chat_model_start({}, [[]], run_id=run)
    handler.on_llm_end(_result(input_tokens=3, output_tokens=1, total_cost=0), run_id=run)
    assert _records(monitor) == []
    assert blocks.current() is None
    assert monitor.value("genmeter_generations_active") == 0


def test_runs_of_one_batch_are_beside_each_other(handler: Any, monitor: IsolatedMonitor) -> None:
    """All start before the first request, whose spans are none of another one."""
    with monitor.generation(model="outer"):
        runs = [uuid.uuid4() for _ in range(3)]
        for run in runs:
            handler.on_chat_model_start({}, [[]], run_id=run, batch_size=3)
        block = blocks.current()
        assert block is not None
        for number, run in enumerate(runs):
            handler.on_llm_end(
                _result(input_tokens=number + 1, output_tokens=1, total_tokens=number + 2),
                run_id=run,
            )
    [row] = _records(monitor)
    assert (row["model"], row["input_tokens"]) == ("outer", 6)


def test_unknown_runs_and_second_ends_are_ignored(handler: Any, monitor: IsolatedMonitor) -> None:
    """As of runs that began before the hook."""
    run = uuid.uuid4()
    handler.on_llm_new_token("a", run_id=run)
    handler.on_llm_end(_result(), run_id=run)
    handler.on_llm_error(ValueError(), run_id=run)
    handler.on_chat_model_start({}, [[]], run_id=run)
    handler.on_llm_end(_result(), run_id=run)
    handler.on_llm_end(_result(), run_id=run)
    assert len(_records(monitor)) == 1


@pytest.mark.parametrize("name", VALUES)
def test_hostile_values_do_not_raise(handler: Any, monitor: IsolatedMonitor, name: str) -> None:
    """In every place; a call whose id can be read is recorded."""
    value = VALUES[name]
    run = uuid.uuid4()
    handler.on_chat_model_start(
        value, value, run_id=run, metadata=value, invocation_params=value, batch_size=value
    )
    handler.on_llm_new_token(value, run_id=run, chunk=value)
    handler.on_llm_end(value, run_id=run)
    handler.on_llm_start(value, value, run_id=run, metadata={"ls_model_name": value})
    handler.on_llm_error(value, run_id=run, response=value)
    handler.on_chat_model_start(value, value, run_id=value)
    handler.on_llm_end(value, run_id=value)
    gc.collect()
    assert len(_records(monitor)) >= 2


def test_without_the_function_it_steps_aside(
    context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And says what is missing."""
    del context.register_configure_hook
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("langchain", monitor=monitor)
        assert genmeter.hooks.connected() == ()
        genmeter.hooks.uninstall("langchain")
    assert eventually(
        lambda: "has no register_configure_hook; its calls are not recorded" in caplog.text
    )


def test_uninstalling_removes_the_handler_and_silences_it(
    handler: Any, monitor: IsolatedMonitor, rows: list[Any]
) -> None:
    """Managers that have it go on to call it."""
    run = uuid.uuid4()
    handler.on_chat_model_start({}, [[]], run_id=run)
    genmeter.hooks.uninstall("langchain")
    assert rows == []
    handler.on_llm_end(_result(), run_id=run)
    handler.on_chat_model_start({}, [[]], run_id=uuid.uuid4())
    assert _records(monitor) == []
    assert blocks.current() is None
