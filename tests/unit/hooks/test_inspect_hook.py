"""Inspect's hook, on objects of its documented shape."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import types
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

from _waiting import eventually
from genmeter import MonitorConfig, clock
from genmeter.events.answers import Answer, CallDetails, TokenCounts
from genmeter.hooks import inspect_ai as hook
from genmeter.hooks._inspect_calls import names_of
from genmeter.observed import blocks, gate
from genmeter.observed.model import ObservedCall
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

_METHODS = (
    *("on_before_model_generate", "on_model_usage", "on_model_cache_usage", "on_model_retry"),
    *("on_sample_event", "on_sample_scoring", "on_sample_end", "on_task_start", "on_task_end"),
    "on_run_end",
)


class _LimitExceededError(Exception):
    def __init__(self, kind: str, *, value: float, limit: float, message: str) -> None:
        super().__init__(message)
        self.type, self.value, self.limit = kind, value, limit


class _Inspect:
    """The modules that the hook imports, and the subscribers."""

    def __init__(self, methods: tuple[str, ...] = _METHODS) -> None:
        self.subscribers: list[Any] = []
        self.events: list[Any] = []

        async def nothing(self: Any, data: Any) -> None:
            pass

        def decorate(name: str, description: str) -> Any:
            return lambda kind: self.subscribers.append(kind())

        base = type("Hooks", (), dict.fromkeys(methods, nothing) | {"enabled": lambda _: True})
        history = SimpleNamespace(recent_events=lambda n: self.events[-n:])
        contents: dict[str, dict[str, Any]] = {
            "inspect_ai": {},
            "inspect_ai.hooks": {"Hooks": base, "hooks": decorate},
            "inspect_ai.util": {"LimitExceededError": _LimitExceededError},
            "inspect_ai.log": {"transcript": lambda: SimpleNamespace(history=history)},
        }
        self.modules = {name: types.ModuleType(name) for name in contents}
        for name, found in contents.items():
            vars(self.modules[name]).update(found)

    async def emit(self, name: str, **data: Any) -> None:
        """Call the subscribers, as Inspect does."""
        for each in self.subscribers:
            if each.enabled():
                await getattr(each, name)(SimpleNamespace(**data))


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[_Inspect, IsolatedMonitor]]:
    """Return a framework with the hook installed, and the monitor."""
    framework = _Inspect()
    for name, module in framework.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with isolated_monitor() as monitor:
        hook.install(monitor)
        try:
            yield framework, monitor
        finally:
            hook.uninstall()


_RUN = {"eval_id": "run", "task_name": "task"}


def _usage(input_: int = 10, output: int = 5, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(
        input_tokens=input_, output_tokens=output, total_tokens=input_ + output, **more
    )


def _event(error: str | None = None, **more: Any) -> SimpleNamespace:
    known = {
        "event": "model",
        "model": "openai/m",
        "error": error,
        "cache": None,
        "timestamp": datetime.fromtimestamp(clock.now(), UTC),
        "output": SimpleNamespace(usage=None, stop_reason="stop", model="m"),
        "traceback": "Traceback\n  File\nopenai.BadRequestError: bad",
    }
    return SimpleNamespace(**{**known, **more})


async def _call(framework: _Inspect, usage: Any = None, **run: Any) -> None:
    run = {**_RUN, **run}
    await framework.emit("on_before_model_generate", model_name="openai/m", **run)
    await framework.emit(
        "on_model_usage",
        model_name="openai/m",
        usage=usage or _usage(),
        call_duration=0.5,
        retries=0,
        **run,
    )


def _rows(monitor: IsolatedMonitor) -> list[dict[Any, Any]]:
    return monitor.to_frame("generations").to_dict("records")


async def test_cached_input_is_a_part_of_the_input(
    inspect: tuple[_Inspect, IsolatedMonitor],
) -> None:
    """Inspect counts it apart."""
    framework, monitor = inspect
    usage = _usage(input_tokens_cache_read=30, input_tokens_cache_write=4, total_cost=0.25)
    await _call(framework, usage)
    [row] = _rows(monitor)
    assert (row["input_tokens"], row["cache_read_tokens"]) == (44, 30)
    assert row["cost_usd"] == 0.25
    assert (row["model"], row["provider"], row["step"]) == ("m", "openai", "task")


async def test_span_inside_of_a_call_is_the_call(
    inspect: tuple[_Inspect, IsolatedMonitor],
) -> None:
    """It adds what Inspect does not say; the call counts once."""
    framework, monitor = inspect
    await framework.emit("on_before_model_generate", model_name="openai/m", **_RUN)
    block = blocks.current()
    assert block is not None
    assert block.observe(_observed(10, 5, service_tier="flex"))
    await framework.emit(
        "on_model_usage", model_name="openai/m", usage=_usage(), call_duration=0.1, **_RUN
    )
    assert blocks.current() is None
    assert len(_rows(monitor)) == 1


async def test_other_request_inside_of_a_call_is_a_call(
    inspect: tuple[_Inspect, IsolatedMonitor],
) -> None:
    """Inspect's request that tries a model's abilities is billed too."""
    framework, monitor = inspect
    await framework.emit("on_before_model_generate", model_name="openai/m", **_RUN)
    block = blocks.current()
    assert block is not None
    block.observe(_observed(3, 2))
    block.observe(_observed(10, 5))
    await framework.emit(
        "on_model_usage", model_name="openai/m", usage=_usage(), call_duration=0.1, **_RUN
    )
    assert sorted(row["input_tokens"] for row in _rows(monitor)) == [3, 10]


async def test_failed_call_leaves_no_open_block(inspect: tuple[_Inspect, IsolatedMonitor]) -> None:
    """What the job does after an error that it has caught is its own."""
    framework, _ = inspect
    await framework.emit("on_before_model_generate", model_name="openai/m", **_RUN)
    block = blocks.current()
    assert block is not None
    block.observe(_observed(None, None, success=False))
    assert blocks.current() is None


def _observed(
    input_: int | None, output: int | None, *, success: bool = True, **labels: Any
) -> ObservedCall:
    keywords = {"prompt_token_count": input_, "completion_token_count": output, **labels}
    answers = (Answer(TokenCounts(input_, output)),) if success else ()
    return ObservedCall(
        "an.instrumentation",
        clock.now(),
        0.0,
        success,
        {name: value for name, value in keywords.items() if value is not None},
        CallDetails(answers),
    )


async def test_retried_attempt_is_no_failure(inspect: tuple[_Inspect, IsolatedMonitor]) -> None:
    """The event of the attempt comes after the retry's cause, and before or after the answer."""
    framework, monitor = inspect
    await framework.emit("on_before_model_generate", model_name="openai/m", **_RUN)
    event = _event("429")
    await framework.emit(
        "on_model_retry", model_name="m", status_code=429, exception_type="E", **_RUN
    )
    await framework.emit("on_sample_event", event=event, sample_id="s", **_RUN)
    await _call(framework)
    await framework.emit("on_sample_end", sample_id="s", sample=_sample(), **_RUN)
    [row] = _rows(monitor)
    assert row["outcome"] == "success"
    assert monitor.value("genmeter_retries_total", error_type="rate_limited") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        ("bad", "failure", "BadRequestError"),
        ("Cancelled by limit", "cancelled", None),
        ("RuntimeError('model call cancelled')", "cancelled", None),
    ],
)
async def test_attempt_without_another_one_is_a_failure(
    inspect: tuple[_Inspect, IsolatedMonitor], error: str, outcome: str, kind: str | None
) -> None:
    """Known at the next event of its sample; what Inspect ends itself is cancelled."""
    framework, monitor = inspect
    await framework.emit("on_before_model_generate", model_name="openai/m", **_RUN)
    await framework.emit("on_sample_event", event=_event(error), sample_id="s", **_RUN)
    assert _rows(monitor) == []
    await framework.emit("on_sample_event", event=SimpleNamespace(), sample_id="s", **_RUN)
    [row] = _rows(monitor)
    assert (row["outcome"], row["error_type"]) == (outcome, kind)


async def test_answer_without_usage_is_unread(inspect: tuple[_Inspect, IsolatedMonitor]) -> None:
    """Inspect reports no usage then; its event has the answer."""
    framework, monitor = inspect
    await framework.emit("on_before_model_generate", model_name="openai/m", **_RUN)
    await framework.emit("on_sample_event", event=_event(), sample_id="s", **_RUN)
    [row] = _rows(monitor)
    assert (row["outcome"], row["usage_unread"]) == ("success", "no_usage")


async def test_equal_calls_at_once_stay_apart(inspect: tuple[_Inspect, IsolatedMonitor]) -> None:
    """Each task has its own call."""
    framework, monitor = inspect
    await asyncio.gather(*(asyncio.create_task(_call(framework)) for _ in range(20)))
    assert len(_rows(monitor)) == 20


def _sample(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"scores": None, "error": None, **more})


@pytest.mark.parametrize("name", VALUES)
async def test_hostile_data_reaches_nobody(
    inspect: tuple[_Inspect, IsolatedMonitor], name: str
) -> None:
    """No method raises, whatever its data's attributes are."""
    framework, _ = inspect
    value = VALUES[name]
    for method in _METHODS:
        await framework.emit(
            method,
            **dict.fromkeys(
                ("model_name", "usage", "call_duration", "retries", "eval_id", "task_name"), value
            ),
            **dict.fromkeys(("event", "sample", "sample_id", "spec", "status_code"), value),
        )
        for subscriber in framework.subscribers:
            await getattr(subscriber, method)(value)


async def test_budget_ends_the_sample(
    inspect: tuple[_Inspect, IsolatedMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the one exception that Inspect passes on."""
    framework, monitor = inspect
    budget = monitor.budget(tokens=1)
    monkeypatch.setattr(gate, "_guards", (budget.check,))
    await _call(framework)
    with pytest.raises(_LimitExceededError, match="budget") as raised:
        await _call(framework)
    assert (raised.value.type, raised.value.value, raised.value.limit) == ("custom", 15.0, 1.0)


def test_unknown_shape_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the framework and what is missing."""
    framework = _Inspect(methods=("on_run_end",))
    for name, module in framework.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(hook._hook, "aside", None)
    hook._hook._once.clear()
    with isolated_monitor() as monitor, caplog.at_level(logging.WARNING, "genmeter"):
        hook.install(monitor)
        hook.install(monitor)
        hook.uninstall()
    [record] = eventually(lambda: caplog.records)
    assert "Inspect" in record.message
    assert "on_before_model_generate" in record.message
    assert framework.subscribers == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/gpt-5", ("openai", "gpt-5")),
        ("openai-api/local/m", ("local", "m")),
        ("openrouter/meta/llama", ("openrouter", "meta/llama")),
        ("m", (None, "m")),
        ("hf/", (None, "hf/")),
        (None, (None, None)),
    ],
)
def test_names_of_models(name: Any, expected: tuple[str | None, str | None]) -> None:
    """Inspect's name begins with the provider."""
    assert names_of(name) == expected


def test_entry_point_imports_no_framework_and_installs_nothing() -> None:
    """Genmeter beside Inspect changes no run."""
    program = (
        "import sys, genmeter.hooks._inspect_entry, genmeter.hooks as hooks\n"
        "assert hooks.installed() == ()\n"
        "assert 'inspect_ai' not in sys.modules\n"
    )
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_variable_of_the_entry_points_is_known(caplog: pytest.LogCaptureFixture) -> None:
    """A monitor made where it is set does not call it a mistake."""
    with caplog.at_level(logging.WARNING, "genmeter"):
        MonitorConfig.from_env({"GENMETER_HOOKS": "inspect_ai"})
    assert caplog.records == []
