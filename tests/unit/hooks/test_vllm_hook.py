"""vLLM's hook, on objects of the shapes that vLLM documents."""

from __future__ import annotations

import multiprocessing
import sys
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from _hostile import VALUES

from genmeter.errors import BudgetExceededError
from genmeter.hooks import _vllm_entry
from genmeter.hooks import vllm as hook
from genmeter.observed import gate
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class CompletionOutput:
    """One answer to a prompt."""

    token_ids: list[int]
    finish_reason: str | None = "stop"


@dataclass
class OlderMetrics:
    """Times by the wall clock."""

    arrival_time: float
    first_token_time: float | None
    finished_time: float | None


@dataclass
class NewerMetrics:
    """Times by another clock, but for the arrival."""

    arrival_time: float
    first_token_latency: float
    first_token_ts: float
    last_token_ts: float


@dataclass
class RequestOutput:
    """What comes back for a prompt."""

    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    num_cached_tokens: int | None = None
    metrics: Any = None


@dataclass
class _Config:
    model: str = "meta/m"
    served_model_name: Any = None


class _Engine:
    model_config = _Config()


@dataclass
class _Script:
    outputs: list[Any] = field(default_factory=list)
    error: BaseException | None = None


def _module() -> tuple[types.ModuleType, _Script]:
    script = _Script()

    class LLM:
        """As vLLM's: ``chat`` calls ``generate``."""

        llm_engine = _Engine()

        def generate(self, prompts: Any, sampling_params: Any = None) -> list[Any]:
            if script.error is not None:
                raise script.error
            return script.outputs

        def chat(self, messages: Any, sampling_params: Any = None) -> list[Any]:
            return self.generate(messages, sampling_params)

    module = types.ModuleType("vllm")
    module.LLM = LLM  # type: ignore[attr-defined]
    return module, script


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, _Script, IsolatedMonitor]]:
    """Return the class, what its engine returns, and the monitor."""
    module, script = _module()
    monkeypatch.setitem(sys.modules, "vllm", module)
    with isolated_monitor() as monitor:
        hook.install(monitor)
        try:
            yield module.LLM, script, monitor
        finally:
            hook.uninstall()


def _rows(monitor: IsolatedMonitor) -> list[dict[Any, Any]]:
    return monitor.to_frame("generations").to_dict("records")


def test_each_prompt_is_a_call(vllm: tuple[Any, _Script, IsolatedMonitor]) -> None:
    """Tokens are counted from the ids of prompt and outputs; a truncation of any output wins."""
    llm, script, monitor = vllm
    script.outputs = [
        RequestOutput([1, 2, 3], [CompletionOutput([4, 5])], num_cached_tokens=2),
        RequestOutput([1], [CompletionOutput([2]), CompletionOutput([3, 4], "length")]),
    ]
    assert llm().generate(["a", "b"]) is script.outputs
    first, second = _rows(monitor)
    assert (first["input_tokens"], first["output_tokens"], first["cache_read_tokens"]) == (3, 2, 2)
    assert (second["input_tokens"], second["output_tokens"]) == (1, 3)
    assert (first["finish_reason"], second["finish_reason"]) == ("stop", "length")
    assert {row["operation"] for row in (first, second)} == {"text_completion"}
    assert {row["model"] for row in (first, second)} == {"meta/m"}
    assert {row["provider"] for row in (first, second)} == {"vllm"}
    assert first["duration_seconds"] != first["duration_seconds"]  # unknown


def test_chat_counts_once(vllm: tuple[Any, _Script, IsolatedMonitor]) -> None:
    """It calls ``generate`` itself; one conversation is one call, whose time is measured."""
    llm, script, monitor = vllm
    script.outputs = [RequestOutput([1], [CompletionOutput([2])])]
    llm().chat([{"role": "user", "content": "a"}])
    [row] = _rows(monitor)
    assert row["operation"] == "chat"
    assert row["duration_seconds"] >= 0


@pytest.mark.parametrize(
    "metrics",
    [OlderMetrics(1_000.0, 1_000.5, 1_002.0), NewerMetrics(1_000.0, 0.5, 7.0, 8.5)],
)
def test_times_of_the_engine(vllm: tuple[Any, _Script, IsolatedMonitor], metrics: Any) -> None:
    """Two seconds, half a one until the first token, whatever the shape of the metrics."""
    llm, script, monitor = vllm
    script.outputs = [RequestOutput([1], [CompletionOutput([2])], metrics=metrics)] * 2
    llm().generate(["a", "b"])
    assert [row["duration_seconds"] for row in _rows(monitor)] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("method", "prompts", "calls"),
    [
        ("generate", "a", 1),
        ("generate", ["a", "b"], 2),
        ("generate", {"prompt_token_ids": [1]}, 1),
        ("generate", [1, 2, 3], 1),
        ("generate", [[1], [2]], 2),
        ("generate", [], 0),
        ("chat", [{"role": "user"}], 1),
        ("chat", [[{"role": "user"}], [{"role": "user"}]], 2),
    ],
)
def test_batch_that_raises_is_a_failure_of_each_prompt(
    vllm: tuple[Any, _Script, IsolatedMonitor], method: str, prompts: Any, calls: int
) -> None:
    """The error goes on to the job."""
    llm, script, monitor = vllm
    script.error = ValueError("too long")
    with pytest.raises(ValueError, match="too long"):
        getattr(llm(), method)(prompts)
    rows = _rows(monitor)
    assert [(row["outcome"], row["error_type"]) for row in rows] == [
        ("failure", "ValueError")
    ] * calls


def test_interrupt_and_abort_are_cancelled(vllm: tuple[Any, _Script, IsolatedMonitor]) -> None:
    """Neither is a failure of the model."""
    llm, script, monitor = vllm
    script.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        llm().generate("a")
    script.error, script.outputs = None, [RequestOutput([1], [CompletionOutput([2], "abort")])]
    llm().generate("a")
    assert [row["outcome"] for row in _rows(monitor)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    "outputs",
    [
        [RequestOutput(None, [CompletionOutput([1])])],
        [RequestOutput([1], [])],
        [RequestOutput([1], [CompletionOutput(None)])],  # type: ignore[arg-type]
        [object()],
    ],
)
def test_unknown_counts_are_unread_usage(
    vllm: tuple[Any, _Script, IsolatedMonitor], outputs: list[Any]
) -> None:
    """Never a zero: the call counts, its tokens do not."""
    llm, script, monitor = vllm
    script.outputs = outputs
    llm().generate("a")
    [row] = _rows(monitor)
    assert row["outcome"] == "success"
    assert row["usage_unread"] == "no_usage"


def value_of(name: str) -> Any:
    """Return a value; a mock of the test's own, since it has each attribute that was read once."""
    return MagicMock() if name == "mock" else VALUES[name]


@pytest.mark.parametrize("name", VALUES)
def test_hostile_outputs_reach_the_job(
    vllm: tuple[Any, _Script, IsolatedMonitor], name: str
) -> None:
    """The hook never raises, whatever comes back for a prompt."""
    llm, script, _ = vllm
    script.outputs = [value_of(name)]
    assert llm().generate("a") is script.outputs


@pytest.mark.parametrize("name", ["none", "raising", "zero", "mock"])
def test_hostile_result_reaches_the_job(
    vllm: tuple[Any, _Script, IsolatedMonitor], name: str
) -> None:
    """Neither if the whole result is none of vLLM's."""
    llm, script, _ = vllm
    script.outputs = value_of(name)
    assert llm().generate("a") is script.outputs


def test_batch_in_a_block_is_the_block(vllm: tuple[Any, _Script, IsolatedMonitor]) -> None:
    """Its tokens are summed."""
    llm, script, monitor = vllm
    script.outputs = [RequestOutput([1, 2], [CompletionOutput([3])])] * 3
    with monitor.generation(step="mine"):
        llm().generate(["a", "b", "c"])
    [row] = _rows(monitor)
    assert (row["step"], row["input_tokens"], row["output_tokens"]) == ("mine", 6, 3)


def test_spent_budget_refuses_the_batch(
    vllm: tuple[Any, _Script, IsolatedMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is not asked."""
    llm, script, monitor = vllm
    budget = monitor.budget(tokens=1)
    monkeypatch.setattr(gate, "_guards", (budget.check,))
    script.outputs = [RequestOutput([1], [CompletionOutput([2])])]
    llm().generate("a")
    with pytest.raises(BudgetExceededError):
        llm().generate("a")
    assert len(_rows(monitor)) == 1


def test_uninstall_restores_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is as before."""
    module, _ = _module()
    before = dict(vars(module.LLM))
    monkeypatch.setitem(sys.modules, "vllm", module)
    with isolated_monitor() as monitor:
        hook.install(monitor)
        assert vars(module.LLM)["generate"] is not before["generate"]
        hook.uninstall()
    assert dict(vars(module.LLM)) == before


def test_plugin_does_nothing_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded wherever genmeter is installed."""
    installed: list[Any] = []
    monkeypatch.setattr(hook, "install", lambda: installed.append(1))
    monkeypatch.delenv("GENMETER_HOOKS", raising=False)
    _vllm_entry.plugin()
    assert installed == []
    monkeypatch.setenv("GENMETER_HOOKS", "inspect_ai, vllm")
    _vllm_entry.plugin()
    assert installed == [1]
    monkeypatch.setattr(multiprocessing.current_process(), "name", "EngineCore_0")
    _vllm_entry.plugin()
    assert installed == [1]
