"""DSPy's hook on a fake of its callbacks, with what the real one does not send."""

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

hook: Any = importlib.import_module("genmeter.hooks.dspy")

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


class _Callback:
    """The base class of DSPy's callbacks."""


def _entry(outputs: Any, number: int, **more: Any) -> dict[str, Any]:
    usage = {**USAGE, "prompt_tokens": number}
    return {"outputs": outputs, "usage": usage, "response": None, "uuid": str(number), **more}


@pytest.fixture
def dspy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a fake of the module."""
    modules: dict[str, Any] = {
        name: types.ModuleType(name) for name in ("dspy", "dspy.utils", "dspy.utils.callback")
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["dspy.utils.callback"].BaseCallback = _Callback

    class BaseLM:
        """A model."""

        model = "openai/m"
        model_type = "chat"

        def __init__(self, callbacks: Any = None) -> None:
            self.callbacks = list(callbacks or [])
            self.history: list[Any] = []

    class Evaluate:
        """An evaluation."""

        def __init__(self, metric: Any = None) -> None:
            self.metric = metric

    modules["dspy"].BaseLM = BaseLM
    modules["dspy"].Evaluate = Evaluate
    modules["dspy"].settings = {"callbacks": [], "caller_modules": None}
    hook._hook._once.clear()
    monkeypatch.setattr(hook._hook, "aside", None)
    return modules["dspy"]


@pytest.fixture
def monitor(dspy: Any) -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls."""
    del dspy
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("dspy", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("dspy")


@pytest.fixture
def model(monitor: IsolatedMonitor, dspy: Any) -> Any:
    """Return a model with the callback."""
    del monitor
    return dspy.BaseLM()


@pytest.fixture
def callback(model: Any) -> Any:
    """Return the callback."""
    [callback] = model.callbacks
    return callback


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


def test_the_entry_of_a_call_is_its_own(
    callback: Any, model: Any, monitor: IsolatedMonitor
) -> None:
    """Other threads may have written later ones."""
    callback.on_lm_start("1", model, {})
    callback.on_lm_start("1", model, {})  # by the settings, too
    outputs = ["text"]
    model.history += [_entry(["text"], 1), _entry(outputs, 2, cost=0.5), _entry(["text"], 3)]
    callback.on_lm_end("1", outputs)
    callback.on_lm_end("1", outputs)
    [row] = _rows(monitor)
    assert (row["model"], row["provider"]) == ("m", "openai")
    assert (row["input_tokens"], row["cost_usd"]) == (2, 0.5)


def test_an_entry_belongs_to_one_call(callback: Any, model: Any, monitor: IsolatedMonitor) -> None:
    """Also where none can be told by its outputs; a call without one has unknown tokens."""
    for key in "ab":
        callback.on_lm_start(key, model, {})
    model.history.append(_entry(["x"], 7))
    for key in "ab":
        callback.on_lm_end(key, ["y"])
    rows = _rows(monitor)
    assert rows[0]["input_tokens"] == 7
    assert rows[1]["usage_unread"] == "not_reported"


def test_a_hit_in_the_cache_is_no_call(callback: Any, model: Any, monitor: IsolatedMonitor) -> None:
    """It has no usage, though its answer has; an answer without usage is a call."""
    responses = (types.SimpleNamespace(cache_hit=True), {"usage": USAGE, "model": "m"}, {})
    for number, response in enumerate(responses):
        outputs: list[Any] = []
        callback.on_lm_start("1", model, {})
        model.history.append({**_entry(outputs, number), "usage": {}, "response": response})
        callback.on_lm_end("1", outputs)
    assert len(_rows(monitor)) == 1


def test_an_evaluation_without_scores_has_failed(
    callback: Any, dspy: Any, monitor: IsolatedMonitor
) -> None:
    """And one that raised; scores that are no numbers are counted."""
    evaluation = dspy.Evaluate(lambda: 1)
    rows = [("e", "p", 1.0), ("e", "p", float("nan")), ("e", "p", "good")]
    for results, error in ((rows, None), (rows[1:], None), (None, ValueError("x"))):
        callback.on_evaluate_start("1", evaluation, {})
        outputs = None if results is None else types.SimpleNamespace(results=results)
        callback.on_evaluate_end("1", outputs, error)
    found = monitor.to_frame("evaluations").to_dict("records")
    assert [bool(row["success"]) for row in found] == [True, False, False]
    assert found[0]["score_metric"] == 1.0
    assert (found[0]["metadata_samples"], found[0]["metadata_unscored"]) == (3, 2)


@pytest.mark.parametrize("name", VALUES)
def test_hostile_values_do_not_raise(
    callback: Any, model: Any, monitor: IsolatedMonitor, name: str
) -> None:
    """In every place."""
    value = VALUES[name]
    model.model = model.model_type = value
    callback.on_lm_start("1", model, value)
    model.history.append({"outputs": value, "usage": value, "response": value, "cost": value})
    callback.on_lm_end("1", value)
    callback.on_lm_start("2", model, value)
    model.history = value
    callback.on_lm_end("2", value, None)
    callback.on_lm_start("3", model, value)
    callback.on_lm_end("3", value, value)
    callback.on_lm_start(value, value, value)
    callback.on_lm_end(value, value, value)
    callback.on_evaluate_start(value, value, value)
    callback.on_evaluate_end(value, value, value)
    assert len(_rows(monitor)) >= 1


def test_uninstalling_restores_the_classes(dspy: Any, monitor: IsolatedMonitor, model: Any) -> None:
    """And the settings; models keep a callback that does nothing."""
    genmeter.hooks.uninstall("dspy")
    assert type(dspy.BaseLM.__dict__["__init__"]) is types.FunctionType
    assert dspy.BaseLM().callbacks == dspy.settings["callbacks"] == []
    [callback] = model.callbacks
    callback.on_lm_start("1", model, {})
    callback.on_lm_end("1", [])
    assert _rows(monitor) == []


def test_without_the_classes_it_steps_aside(dspy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And changes nothing."""
    del dspy.Evaluate
    before = dspy.BaseLM.__dict__["__init__"]
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("dspy", monitor=monitor)
        assert genmeter.hooks.connected() == ()
        genmeter.hooks.uninstall("dspy")
    assert dspy.BaseLM.__dict__["__init__"] is before
    assert eventually(lambda: "dspy.Evaluate is no class" in caplog.text)
