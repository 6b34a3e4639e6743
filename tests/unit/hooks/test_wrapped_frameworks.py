"""Hooks that wrap a framework's functions, on objects of its documented shape and of others.

These are lm-evaluation-harness, ragas and Data Designer; each must step aside, with one warning, from a
framework that is not as it expects.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

from _waiting import eventually
from genmeter.errors import BudgetExceededError
from genmeter.hooks import data_designer, lm_eval, ragas
from genmeter.observed import gate
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ANSWER = {
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "x"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
_API = "lm_eval.models.api_models"
_RESOURCES = "data_designer.engine.resources.resource_provider"
_EXECUTOR = "data_designer.engine.models.clients.model_request_executor"
_FACTORY = "data_designer.engine.models.factory"
_OBSERVABILITY = "data_designer.engine.observability"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.ModuleType]:
    """Return a function that puts a module in place, with its parents."""

    def put(name: str, **contents: Any) -> types.ModuleType:
        parts = name.split(".")
        for length in range(1, len(parts)):
            parent = ".".join(parts[:length])
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor; hooks that a test has installed are uninstalled after it."""
    with isolated_monitor() as monitor:
        yield monitor
        for hook in (data_designer, lm_eval, ragas):
            hook.uninstall()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after a test that a hook has stepped aside, and its warnings."""
    for hook in (data_designer, lm_eval, ragas):
        monkeypatch.setattr(hook._hook, "aside", None)
        hook._hook._once.clear()


def _rows(monitor: IsolatedMonitor) -> list[dict[Any, Any]]:
    return monitor.to_frame("generations").to_dict("records")


# --- lm-evaluation-harness -----------------------------------------------------------------------


class _Response:
    async def json(self) -> Any:
        return _ANSWER


class _Sending:
    async def __aenter__(self) -> _Response:
        return _Response()

    async def __aexit__(self, *_: object) -> None:
        pass


class _Session:
    def post(self, _: str) -> _Sending:
        return _Sending()


def _template() -> Any:
    class TemplateAPI:
        base_url = "https://api.openai.com/v1/chat/completions"
        model = "m"
        max_retries = 3
        answer: Any = _ANSWER

        def model_call(self, messages: Any, *, generate: bool = True) -> Any:
            if issubclass(type(self.answer), BaseException):
                raise self.answer
            return self.answer

        async def amodel_call(self, session: Any, sem: Any, messages: Any) -> Any:
            async with session.post(self.base_url) as response:
                return (await response.json())["choices"]

    return TemplateAPI


async def test_harness_of_known_shape(modules: Any, monitor: IsolatedMonitor) -> None:
    """Both methods are calls; the answers are the harness's own."""
    template = _template()
    modules(_API, TemplateAPI=template)
    lm_eval.install(monitor)
    assert template().model_call(["a"]) is _ANSWER
    answers = await template().amodel_call(_Session(), asyncio.Semaphore(1), messages=["a"])
    assert answers is _ANSWER["choices"]
    rows = _rows(monitor)
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(7, 3)] * 2
    assert {(row["provider"], row["operation"]) for row in rows} == {("openai", "chat")}


@pytest.mark.parametrize("name", VALUES)
def test_harness_with_a_hostile_answer(modules: Any, monitor: IsolatedMonitor, name: str) -> None:
    """It reaches the job unchanged."""
    template = _template()
    modules(_API, TemplateAPI=template)
    lm_eval.install(monitor)
    model = template()
    if issubclass(type(VALUES[name]), BaseException):
        return
    model.answer = VALUES[name]
    model.base_url = model.max_retries = model.model = VALUES[name]
    assert model.model_call(VALUES[name]) is VALUES[name]
    assert len(_rows(monitor)) == 1


def test_harness_and_a_spent_budget(
    modules: Any, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is not sent."""
    template = _template()
    modules(_API, TemplateAPI=template)
    lm_eval.install(monitor)
    budget = monitor.budget(tokens=1)
    monkeypatch.setattr(gate, "_guards", (budget.check,))
    template().model_call(["a"])
    with pytest.raises(BudgetExceededError):
        template().model_call(["a"])
    assert len(_rows(monitor)) == 1


def _no_messages(template: Any) -> None:
    template.model_call = lambda self, prompt: None


def _no_async(template: Any) -> None:
    template.amodel_call = template.model_call


def _no_method(template: Any) -> None:
    del template.amodel_call


@pytest.mark.parametrize("change", [_no_messages, _no_async, _no_method])
def test_harness_of_unknown_shape(
    modules: Any, monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    """Nothing is replaced, and one warning says what is missing."""
    template = _template()
    change(template)
    before = dict(vars(template))
    modules(_API, TemplateAPI=template)
    with caplog.at_level(logging.WARNING, "genmeter"):
        lm_eval.install(monitor)
        lm_eval.install(monitor)
    [record] = eventually(lambda: caplog.records)
    assert "lm-evaluation-harness" in record.message
    assert "model_call" in record.message
    assert dict(vars(template)) == before


# --- ragas ---------------------------------------------------------------------------------------


def test_ragas_without_callbacks_that_come(modules: Any, monitor: IsolatedMonitor) -> None:
    """The scores are read from the result then."""
    modules("langchain_core.callbacks", BaseCallbackHandler=type("BaseCallbackHandler", (), {}))
    scores = [{"a": 1.0, "b": float("nan")}, {"a": 0.0, "b": True}]

    def evaluate(dataset: Any, callbacks: Any = None) -> Any:
        assert len(callbacks) == 1
        return SimpleNamespace(scores=scores)

    modules("ragas.evaluation", evaluate=evaluate)
    module = modules("ragas", evaluate=evaluate)
    ragas.install(monitor)
    assert module.evaluate([]).scores is scores
    frame = monitor.to_frame("evaluations")
    assert list(zip(frame["evaluator"], frame["success"], strict=True)) == [
        ("a", True),
        ("b", False),
        ("a", True),
        ("b", True),
    ]
    ragas.uninstall()
    assert module.evaluate is evaluate


class _Manager:
    """Callbacks of a job that are no list."""

    def __init__(self, *handlers: Any) -> None:
        self.handlers = list(handlers)

    def copy(self) -> _Manager:
        return _Manager(*self.handlers)

    def add_handler(self, handler: Any) -> None:
        self.handlers.append(handler)


def _score(handlers: Any, results: dict[str, Any]) -> None:
    """Call the callbacks as ragas does: a chain of the run, and one for each metric."""
    for handler in handlers:
        handler.on_chain_start({"name": "run"}, {}, run_id=0, metadata={"type": "evaluation"})
        for run, (name, result) in enumerate(results.items(), 1):
            kind = {"type": SimpleNamespace(value="metric")}
            handler.on_chain_start(None, {}, run_id=run, metadata=kind, name=name)
            if isinstance(result, Exception):
                handler.on_chain_error(result, run_id=run)
            elif result is not None:
                handler.on_chain_end({"output": result}, run_id=run)
        handler.on_chain_end({}, run_id=0)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("manager", [None, [], _Manager()], ids=["none", "list", "manager"])
async def test_ragas_scores_by_callbacks(
    modules: Any, monitor: IsolatedMonitor, is_async: bool, manager: Any
) -> None:
    """A number, a label, NaN, an error and no end differ; the job's callbacks are as before."""
    modules("langchain_core.callbacks", BaseCallbackHandler=type("BaseCallbackHandler", (), {}))
    results = {"a": 0.5, "label": "good", "nan": float("nan"), "bad": KeyError("x"), "open": None}

    def evaluate(dataset: Any, callbacks: Any = None) -> Any:
        _score(getattr(callbacks, "handlers", callbacks), results)
        return SimpleNamespace(scores=[{"a": 0.5}])

    async def aevaluate(dataset: Any, callbacks: Any = None) -> Any:
        await asyncio.sleep(0)
        return evaluate(dataset, callbacks=callbacks)

    modules("ragas.evaluation", evaluate=evaluate, aevaluate=aevaluate)
    module = modules("ragas", evaluate=evaluate, aevaluate=aevaluate)
    ragas.install(monitor)
    if is_async:
        await module.aevaluate([], callbacks=manager)
    else:
        module.evaluate([], callbacks=manager)
    assert not getattr(manager, "handlers", manager)
    rows = monitor.to_frame("evaluations").set_index("evaluator")
    assert dict(rows["success"]) == {
        "a": True,
        "label": True,
        "nan": False,
        "bad": False,
        "open": False,
    }
    assert rows["score_a"]["a"] == 0.5
    assert dict(rows["error_type"].dropna()) == {
        "nan": "nan",
        "bad": "KeyError",
        "open": "TimeoutError",
    }


@pytest.mark.parametrize("is_async", [False, True])
async def test_ragas_that_fails(modules: Any, monitor: IsolatedMonitor, is_async: bool) -> None:
    """The error is the job's; what was being scored, or the run, is a failed evaluation."""
    modules("langchain_core.callbacks", BaseCallbackHandler=type("BaseCallbackHandler", (), {}))

    def evaluate(dataset: dict[str, Any], callbacks: Any = None) -> Any:
        _score(callbacks, dataset)
        raise ConnectionError

    async def aevaluate(dataset: dict[str, Any], callbacks: Any = None) -> Any:
        return evaluate(dataset, callbacks)

    modules("ragas.evaluation", evaluate=evaluate, aevaluate=aevaluate)
    module = modules("ragas", evaluate=evaluate, aevaluate=aevaluate)
    ragas.install(monitor)

    async def run(dataset: dict[str, Any]) -> Any:
        return await module.aevaluate(dataset) if is_async else module.evaluate(dataset)

    for dataset in ({"a": 1.0, "b": None}, {}):
        with pytest.raises(ConnectionError):
            await run(dataset)
    rows = monitor.to_frame("evaluations")
    assert list(rows["evaluator"]) == ["a", "b", "ragas"]
    assert list(rows["success"]) == [True, False, False]
    assert set(rows["error_type"].dropna()) == {"ConnectionError"}


@pytest.mark.parametrize("name", VALUES)
def test_ragas_with_a_hostile_result(modules: Any, monitor: IsolatedMonitor, name: str) -> None:
    """It reaches the job, also as the scores or a score of a result."""
    modules("langchain_core.callbacks", BaseCallbackHandler=type("BaseCallbackHandler", (), {}))
    results = [
        VALUES[name],
        SimpleNamespace(scores=VALUES[name]),
        SimpleNamespace(scores=[{"a": VALUES[name]}]),
    ]

    def evaluate(index: int, callbacks: Any = None) -> Any:
        return results[index]

    modules("ragas.evaluation", evaluate=evaluate)
    module = modules("ragas", evaluate=evaluate)
    ragas.install(monitor)
    for index, result in enumerate(results):
        assert module.evaluate(index) is result


def test_ragas_of_unknown_shape(
    modules: Any, monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is replaced."""

    def evaluate(dataset: Any) -> None:
        pass

    modules("ragas.evaluation", evaluate=evaluate)
    module = modules("ragas", evaluate=evaluate)
    with caplog.at_level(logging.WARNING, "genmeter"):
        ragas.install(monitor)
    [record] = eventually(lambda: caplog.records)
    assert "callbacks" in record.message
    assert module.evaluate is evaluate


# --- Data Designer -------------------------------------------------------------------------------


def _event(outcome: str, **resource: Any) -> SimpleNamespace:
    return SimpleNamespace(
        event_kind="model_request_completed",
        diagnostics={"outcome": outcome, "duration_seconds": 0.5},
        request_resource_key=resource
        or {"provider_name": "local", "model_id": "m", "domain": "chat"},
        captured_correlation={"task_column": "text"},
    )


def _registry(modules: Any) -> tuple[types.ModuleType, list[Any]]:
    sinks: list[Any] = []

    def create_model_registry(*, request_event_sink: Any = None) -> str:
        sinks.append(request_event_sink)
        return "registry"

    modules(_FACTORY, create_model_registry=create_model_registry)
    return modules(_RESOURCES, create_model_registry=create_model_registry), sinks


def test_designer_of_known_shape(modules: Any, monitor: IsolatedMonitor) -> None:
    """The client's call is the call; its failed attempts are retries."""
    sink_of: list[Any] = []

    class ModelRequestExecutor:
        _provider_name, _model_id = "local", "m"

        def completion(self, request: Any) -> Any:
            for outcome in ("rate_limit", "success"):
                sink_of[0].emit_request_event(_event(outcome))
            return SimpleNamespace(raw=_ANSWER)

    modules(_EXECUTOR, ModelRequestExecutor=ModelRequestExecutor)
    correlation = SimpleNamespace(task_column="text")
    modules(
        _OBSERVABILITY,
        runtime_correlation_provider=SimpleNamespace(current=lambda: correlation),
    )
    module, sinks = _registry(modules)
    data_designer.install(monitor)
    assert module.create_model_registry() == "registry"
    sink_of.append(sinks[0])
    ModelRequestExecutor().completion(SimpleNamespace(model="m"))
    [row] = _rows(monitor)
    assert (row["model"], row["step"], row["input_tokens"]) == ("m", "text", 7)
    assert monitor.value("genmeter_retries_total", error_type="rate_limited") == 1


def test_designer_without_the_clients(
    modules: Any, monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The events alone give calls and outcomes; the usage is unread, and a warning says so."""
    modules(_EXECUTOR)
    module, sinks = _registry(modules)
    with caplog.at_level(logging.WARNING, "genmeter"):
        data_designer.install(monitor)
    assert eventually(lambda: "usage of its calls is unknown" in caplog.text)
    module.create_model_registry(request_event_sink=None)
    for outcome in ("success", "provider_timeout", "local_cancelled"):
        sinks[0].emit_request_event(_event(outcome))
    rows = _rows(monitor)
    assert [row["outcome"] for row in rows] == ["success", "failure", "cancelled"]
    assert rows[0]["usage_unread"] == "not_reported"
    assert rows[1]["error_type"] == "provider_timeout"
    assert {(row["step"], row["provider"], row["duration_seconds"]) for row in rows} == {
        ("text", "local", 0.5)
    }


@pytest.mark.parametrize("name", VALUES)
def test_designer_with_hostile_events(modules: Any, monitor: IsolatedMonitor, name: str) -> None:
    """No event raises into the job, and the job's own sink gets each."""
    seen: list[Any] = []
    own = SimpleNamespace(emit_request_event=seen.append)
    modules(_EXECUTOR)
    module, sinks = _registry(modules)
    data_designer.install(monitor)
    module.create_model_registry(request_event_sink=own)
    value = VALUES[name]
    events = [
        SimpleNamespace(event_kind="model_request_completed", diagnostics=value),
        SimpleNamespace(
            event_kind="model_request_completed",
            diagnostics={"outcome": value, "duration_seconds": value},
            request_resource_key={"model_id": value, "domain": value},
            captured_correlation={"task_column": value},
        ),
        SimpleNamespace(event_kind=value),
    ]
    for event in events[:2]:
        sinks[0].emit_request_event(event)
    assert seen == events[:2]


def test_designer_of_unknown_shape(
    modules: Any, monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is replaced: the sink is new, and in an internal module."""

    def create_model_registry(*, secrets: Any = None) -> None:
        pass

    modules(_FACTORY, create_model_registry=create_model_registry)
    module = modules(_RESOURCES, create_model_registry=create_model_registry)
    with caplog.at_level(logging.WARNING, "genmeter"):
        data_designer.install(monitor)
    assert eventually(lambda: "request_event_sink" in caplog.text)
    assert module.create_model_registry is create_model_registry
