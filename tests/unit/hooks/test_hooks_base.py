"""What hooks of frameworks share: installing, stepping aside, and blocks of calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

import genmeter.hooks
from _waiting import eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.errors import BudgetAmount, BudgetExceededError, BudgetLimit, ConfigError
from genmeter.hooks import _base, _registry
from genmeter.hooks._base import FrameworkHook, Unsupported, open_block
from genmeter.hooks.frameworks import Framework
from genmeter.observed import blocks, gate
from genmeter.observed.hook import HookRecorder
from genmeter.observed.model import ObservedCall
from genmeter.pipeline.once import MAX_KEYS
from genmeter.testing import IsolatedMonitor, fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.hooks._base import HookCall

MODULE = "genmeter_test_framework"


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor of the test's own."""
    with isolated_monitor(metrics_interval=None) as monitor:
        yield monitor


@pytest.fixture
def events() -> list[str]:
    """Return what the hook's functions were called for."""
    return []


@pytest.fixture
def hook(events: list[str]) -> Iterator[FrameworkHook]:
    """Return a hook of a framework that is not imported yet."""

    def connect(module: types.ModuleType) -> Callable[[], object]:
        events.append("connect")
        if getattr(module, "broken", False):
            raise Unsupported("it has no callbacks")
        if getattr(module, "odd", False):
            raise RuntimeError("odd")
        return lambda: events.append("disconnect")

    name = f"{MODULE}_{len(_registry.hooks)}"
    framework = Framework(name, "Test", "no-such-package", name)
    hook = FrameworkHook(framework, module=name, connect=connect)
    yield hook
    hook.uninstall()
    sys.modules.pop(name, None)
    _registry.hooks.pop(name)


@pytest.fixture
def framework(hook: FrameworkHook) -> types.ModuleType:
    """Return the framework, imported."""
    module = sys.modules[hook._module] = types.ModuleType(hook._module)
    return module


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


# --- installing ----------------------------------------------------------------------------------


def test_installing_connects_once_and_uninstalling_disconnects(
    hook: FrameworkHook,
    framework: types.ModuleType,
    monitor: IsolatedMonitor,
    events: list[str],
) -> None:
    """Whatever is installed or uninstalled twice."""
    del framework
    hook.install(monitor)
    hook.install(monitor)
    assert hook.is_active
    assert hook.source.removeprefix("genmeter.") in genmeter.hooks.connected()
    assert blocks.is_marking()
    hook.uninstall()
    hook.uninstall()
    assert events == ["connect", "disconnect"]
    assert not hook.is_active
    assert not blocks.is_marking()
    hook.install(monitor)
    assert events == ["connect", "disconnect", "connect"]


def test_a_framework_that_is_imported_later_connects_then(
    hook: FrameworkHook, monitor: IsolatedMonitor, events: list[str], tmp_path: Any
) -> None:
    """And the hook does not import it."""
    hook.install(monitor)
    assert (events, hook.is_active) == ([], False)
    assert hook.source.removeprefix("genmeter.") in genmeter.hooks.installed()
    (tmp_path / f"{hook._module}.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    try:
        __import__(hook._module)
    finally:
        sys.path.remove(str(tmp_path))
    assert (events, hook.is_active) == (["connect"], True)


def test_installing_again_replaces_the_monitor(
    hook: FrameworkHook, framework: types.ModuleType, monitor: IsolatedMonitor
) -> None:
    """What is open is recorded where it began."""
    del framework
    with isolated_monitor(metrics_interval=None) as other:
        hook.install(other)
        first = hook.begin(model="a", is_marked=False)
        hook.install(monitor)
        hook.begin(model="b").end()
        first.end()
        assert [row["model"] for row in _rows(other)] == ["a"]
    assert [row["model"] for row in _rows(monitor)] == ["b"]


@pytest.mark.parametrize("attribute", ["broken", "odd"])
def test_an_unknown_framework_is_left_alone_with_one_warning(
    hook: FrameworkHook,
    framework: Any,
    monitor: IsolatedMonitor,
    caplog: pytest.LogCaptureFixture,
    attribute: str,
) -> None:
    """It names the framework, the version and what is missing."""
    setattr(framework, attribute, True)
    hook.install(monitor)
    hook.install(monitor)
    assert not hook.is_active
    [record] = eventually(lambda: caplog.records)
    expected = {"broken": "it has no callbacks", "odd": "RuntimeError: odd"}[attribute]
    assert record.getMessage() == (
        "genmeter's hook of Test (no-such-package of an unknown version): "
        f"{expected}; its calls are not recorded"
    )


@pytest.mark.parametrize("value", [1, "langchain", object()])
def test_an_invalid_monitor_is_rejected(hook: FrameworkHook, value: Any) -> None:
    """Before anything is installed."""
    with pytest.raises(ConfigError, match="monitor"):
        hook.install(value)
    assert hook.source.removeprefix("genmeter.") not in genmeter.hooks.installed()


@pytest.mark.parametrize("name", ["", "Langchain", 1, None])
def test_an_unknown_name_is_rejected(name: Any) -> None:
    """With the names that there are."""
    with pytest.raises(ConfigError, match="langchain, litellm"):
        genmeter.hooks.install(name)
    with pytest.raises(ConfigError, match="langchain, litellm"):
        genmeter.hooks.uninstall(name)


def test_all_hooks_install_without_their_frameworks(monitor: IsolatedMonitor) -> None:
    """An absent framework is never imported, and is no error."""
    genmeter.hooks.install(monitor=monitor)
    assert set(genmeter.hooks.installed()) >= set(genmeter.hooks.FRAMEWORKS)
    genmeter.hooks.uninstall()
    assert genmeter.hooks.installed() == ()
    assert not {"langchain_core", "litellm", "dspy", "llama_index"} & set(sys.modules)


def test_an_error_of_disconnecting_does_not_raise(
    hook: FrameworkHook, framework: Any, monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged."""
    del framework
    hook.install(monitor)

    def fail() -> None:
        raise RuntimeError("gone")

    hook._disconnect = fail
    hook.uninstall()
    assert eventually(lambda: "could not be restored: gone" in caplog.text)


def test_a_hook_keeps_no_monitor_of_the_process(
    hook: FrameworkHook, framework: types.ModuleType
) -> None:
    """One that the job drops is collected, and the next call goes to another."""
    del framework
    quiet = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    with fresh_runtime():
        first = GenerationMonitor(config=quiet)
        hook.install()
        hook.begin(model="a").end()
        assert len(first.to_frame("generations")) == 1
        gone = weakref.ref(first)
        del first
        gc.collect()
        assert gone() is None
        second = GenerationMonitor(config=quiet)
        hook.begin(model="b").end()
        assert list(second.to_frame("generations")["model"]) == ["b"]


class _SlowHandler(logging.Handler):
    """A handler that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Wait, and keep the line."""
        self.gate.wait(60)
        self.lines.append(record.getMessage())


def test_a_warning_does_not_wait_for_a_handler(hook: FrameworkHook) -> None:
    """And of many different ones only the first are logged."""
    logger, handler = logging.getLogger("genmeter"), _SlowHandler()
    logger.addHandler(handler)
    try:
        hook.warn("it has no callbacks")
        assert handler.lines == []
        handler.gate.set()
        assert eventually(lambda: handler.lines)
        for number in range(2 * MAX_KEYS):
            hook.warn(f"odd {number}")
        assert eventually(lambda: len(handler.lines) >= MAX_KEYS)
        assert len(handler.lines) == MAX_KEYS
    finally:
        handler.gate.set()
        logger.removeHandler(handler)


# --- callbacks -----------------------------------------------------------------------------------


class _TextlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), SystemExit(), _TextlessError(), KeyError("k")]
)
def test_a_callback_never_raises(
    hook: FrameworkHook,
    framework: Any,
    monitor: IsolatedMonitor,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """It logs the first error of a kind, and goes on."""
    del framework

    @hook.guarded
    def on_end(fails: bool) -> str:
        if fails:
            raise error
        return "done"

    assert on_end(False) is None
    hook.install(monitor)
    for _ in range(3):
        assert on_end(True) is None
    assert on_end(False) == "done"
    # Other tests' lines may come late.
    [line] = eventually(
        lambda: [
            text for text in map(logging.LogRecord.getMessage, caplog.records) if "on_end" in text
        ]
    )
    assert "on_end did not get what it expects" in line


def test_a_budget_is_raised_to_the_framework(
    hook: FrameworkHook,
    framework: Any,
    monitor: IsolatedMonitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the framework lets it through; else the call begins."""
    del framework

    def refuse() -> None:
        nothing = BudgetAmount(0, 0.0)
        raise BudgetExceededError("spent", nothing, nothing, BudgetLimit(0, None))

    monkeypatch.setattr(gate, "_guards", (refuse,))
    hook.install(monitor)
    with pytest.raises(BudgetExceededError):
        hook.guarded(hook.begin)()
    hook.begin(is_gated=False).end()
    assert len(_rows(monitor)) == 1


# --- calls ---------------------------------------------------------------------------------------


@pytest.fixture
def begin(
    hook: FrameworkHook, framework: types.ModuleType, monitor: IsolatedMonitor
) -> Callable[..., HookCall]:
    """Return what begins a call of an installed hook."""
    del framework
    hook.install(monitor)
    return hook.begin


def _observed(seconds: float, **keywords: Any) -> ObservedCall:
    from genmeter import clock

    return ObservedCall("other", clock.now(), seconds, True, keywords)


def test_a_call_is_recorded_once(begin: Callable[..., HookCall], monitor: IsolatedMonitor) -> None:
    """However often it ends."""
    call = begin(model="m", provider="openai", operation="chat", step="s", metadata={"a": 1})
    call.handle.usage(prompt_token_count=3, completion_token_count=2)
    call.end()
    call.end(RuntimeError("late"))
    call.drop()
    [row] = _rows(monitor)
    assert (row["model"], row["step"], row["input_tokens"], row["outcome"]) == (
        "m",
        "s",
        3,
        "success",
    )


def test_errors_and_cancellations(begin: Callable[..., HookCall], monitor: IsolatedMonitor) -> None:
    """A cancellation is no failure."""
    begin().end(ValueError("x"))
    begin().end(asyncio.CancelledError())
    begin().end(GeneratorExit())
    begin().drop()
    assert [row["outcome"] for row in _rows(monitor)] == ["failure", "cancelled", "cancelled"]
    assert monitor.value("genmeter_generations_active") == 0


def test_what_is_observed_inside_completes_the_call(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor
) -> None:
    """It is the block that others find."""
    call = begin(model="m")
    block = blocks.current()
    assert block is not None
    assert block.observe(_observed(0.1, prompt_token_count=7, completion_token_count=1))
    call.end()
    assert blocks.current() is None
    [row] = _rows(monitor)
    assert (row["model"], row["input_tokens"]) == ("m", 7)


def test_a_call_belongs_to_the_block_it_began_in(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor
) -> None:
    """Whatever block is open where it ends."""
    with monitor.generation(model="outer"):
        call = begin(model="inner")
        call.handle.usage(prompt_token_count=3, completion_token_count=2)
        call.unmark()
        with monitor.generation(model="beside"):
            call.end()
    rows = {row["model"]: row["input_tokens"] for row in _rows(monitor)}
    assert rows["outer"] == 3
    assert set(rows) == {"outer", "beside"}


def test_an_end_in_a_copied_context_leaves_no_block_open(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor
) -> None:
    """The context that began the call keeps the mark, which then stands for the block around."""
    with monitor.generation(model="outer"):
        for number in range(3):
            call = begin(model="inner")
            call.handle.usage(prompt_token_count=number, completion_token_count=1)
            contextvars.copy_context().run(call.end)
            assert open_block() is call.outer
        assert not isinstance(call.outer, _base.HookBlock)
    [row] = _rows(monitor)
    assert (row["model"], row["input_tokens"]) == ("outer", 3)
    later = begin(model="later")
    later.end()
    assert [row["model"] for row in _rows(monitor)] == ["outer", "later"]


def test_what_began_inside_and_ends_later_is_of_the_call(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor
) -> None:
    """But what begins later is not."""
    call = begin(model="m")
    block = blocks.current()
    assert block is not None
    contextvars.copy_context().run(call.end)
    assert block.observe(_observed(1.0, prompt_token_count=7))
    assert not block.observe(_observed(-1.0, prompt_token_count=7))
    assert len(_rows(monitor)) == 1


@pytest.mark.parametrize("is_late", [False, True])
def test_what_ends_outside_of_the_block_that_it_began_in_is_the_calls(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor, is_late: bool
) -> None:
    """As a client's stream that is read after the framework has handed it on."""
    call = begin(model="m")
    recorder = HookRecorder(monitor, "genmeter.openai", block=blocks.current())
    call.unmark()
    assert blocks.current() is None

    def end() -> None:
        recorder.record_call(1.0, True, {"prompt_token_count": 7}, None)

    for each in (call.end, end)[:: 1 if is_late else -1]:
        each()
    [row] = _rows(monitor)
    assert (row["input_tokens"] == 7) is not is_late


def test_chunks_have_their_times(begin: Callable[..., HookCall], monitor: IsolatedMonitor) -> None:
    """And are read, if they are given."""
    call = begin(model="m")
    call.chunk()
    call.chunk({"usage": {"prompt_tokens": 4, "completion_tokens": 2}})
    call.chunk()
    call.end()
    [row] = _rows(monitor)
    assert (row["input_tokens"], row["outcome"]) == (4, "success")
    assert monitor.value("gen_ai_client_inference_time_to_first_chunk_seconds_count") == 1


def test_calls_of_threads_end_in_others(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor
) -> None:
    """Two that end one call at once record it once."""
    calls = [begin(model="m") for _ in range(50)]
    for call in calls:
        call.unmark()
    threads = [
        threading.Thread(target=lambda: [call.end() for call in calls], daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_rows(monitor)) <= 50
    for call in calls[1:]:
        assert not call.is_running


@pytest.mark.parametrize("name", VALUES)
def test_hostile_values_of_a_framework_do_not_raise(
    begin: Callable[..., HookCall], monitor: IsolatedMonitor, name: str
) -> None:
    """As model, step, usage, chunk and error."""
    value = VALUES[name]
    call = begin(model=value, step=value, provider=value, operation=value)
    call.chunk(value)
    call.handle.usage(value)
    call.handle.fail(value)
    call.end()
    assert len(_rows(monitor)) == 1
