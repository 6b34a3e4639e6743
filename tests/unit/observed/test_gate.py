"""The gate: a budget in the settings refuses each call before it begins."""

from __future__ import annotations

import asyncio
import multiprocessing
import types
from typing import TYPE_CHECKING, Any

import pytest
from _held import held

from _waiting import eventually
from genmeter import (
    BudgetAmount,
    BudgetExceededError,
    BudgetLimit,
    EndpointConfig,
    GenerationHandle,
    GenerationMonitor,
    MonitorConfig,
    UnpricedModelError,
    UsageUnreadError,
    runtime,
)
from genmeter.auto import gates
from genmeter.observed import gate
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = EndpointConfig(enabled=False)


@pytest.fixture(autouse=True)
def _own_runtime() -> Iterator[None]:
    """No budget is left by a test."""
    with fresh_runtime():
        yield
    assert not gate.is_guarded()


def limited(**settings: Any) -> GenerationMonitor:
    """Return a monitor whose settings have a budget."""
    return GenerationMonitor(config=MonitorConfig(endpoint=QUIET, **settings))


def use(monitor: GenerationMonitor, tokens: int | None = 60) -> None:
    """Make one call."""
    with monitor.generation(model="atlas") as call:
        if tokens is not None:
            call.usage(total_token_count=tokens)


def test_the_call_after_the_limit_raises_before_its_block() -> None:
    """What was recorded stays, and the block of the refused call does not run."""
    monitor = limited(budget_tokens=100)
    use(monitor)
    use(monitor)
    with pytest.raises(BudgetExceededError, match="100 tokens"):
        use(monitor)
    assert monitor.get_total_token_usage().total_tokens == 120
    own, others, reason = runtime.current().job.refused()
    assert (own, others) == (1, 0)
    assert reason is not None
    assert "100 tokens" in reason


def test_decorated_and_asynchronous_calls_are_refused_too() -> None:
    """Each way to begin a call passes the gate."""
    monitor = limited(budget_tokens=0)
    ran: list[str] = []

    @monitor.generation(model="atlas")
    def plain() -> None:
        ran.append("plain")

    @monitor.generation(model="atlas")
    async def task() -> None:
        ran.append("task")

    async def block() -> None:
        async with monitor.generation(model="atlas"):
            ran.append("block")

    for call in (plain, lambda: asyncio.run(task()), lambda: asyncio.run(block())):
        with pytest.raises(BudgetExceededError):
            call()
    assert ran == []


def test_it_counts_all_monitors_and_what_is_tracked() -> None:
    """Recording never raises, so a call of which nothing is known before counts afterwards."""
    monitor, other = limited(budget_tokens=100), GenerationMonitor(config=MonitorConfig())
    for _ in range(3):
        other.track_generation(1.0, success=True, model_name="m", total_token_count=60)
    with pytest.raises(BudgetExceededError):
        use(monitor)
    with pytest.raises(BudgetExceededError):
        use(other)


def test_a_limit_of_usd_needs_prices() -> None:
    """A budget that cannot be kept stops the job too, and says why."""
    monitor = limited(budget_usd=1.0, prices={"atlas": {"input": 1.0, "output": 1.0}})
    monitor.track_generation(1.0, success=True, model_name="atlas", total_token_count=10)
    use(monitor, None)
    monitor.track_generation(1.0, success=True, model_name="unknown", total_token_count=10)
    with pytest.raises(UnpricedModelError, match="unknown"):
        use(monitor)


def test_calls_without_usage_stop_the_job_in_the_end() -> None:
    """Unknown usage is not counted as nothing for ever."""
    monitor = limited(budget_tokens=100)
    for _ in range(10):
        with monitor.generation(model="atlas") as call:
            call.usage({"model": "atlas", "choices": []})
    with pytest.raises(UsageUnreadError):
        use(monitor)


def test_a_call_that_its_hook_could_not_refuse_is_recorded() -> None:
    """It is sent whatever the gate says."""
    monitor = limited(budget_tokens=0)
    handle = GenerationHandle(monitor, model="atlas")
    handle.is_gated = False
    with handle as call:
        call.usage(total_token_count=7)
    assert monitor.get_total_token_usage().total_tokens == 7


def test_another_limit_of_a_later_monitor_is_ignored_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The job has one budget."""
    limited(budget_tokens=100)
    limited(budget_tokens=50)
    assert "ignoring budget_tokens" in caplog.text
    guard = runtime.current()._job_guard
    assert guard is not None
    assert guard._scope.terms.limit.tokens == 100


def test_without_a_budget_nothing_is_checked() -> None:
    """The gate is open."""
    use(GenerationMonitor(config=MonitorConfig(endpoint=QUIET)))
    assert not gate.is_guarded()
    gate.check()


def spend(monitor: GenerationMonitor, queue: Any) -> None:
    """Make calls in a child until one is refused."""
    made = 0
    try:
        while made < 100:
            use(monitor)
            made += 1
    except BudgetExceededError as error:
        queue.put((made, error.spent.tokens))


def raises(monitor: GenerationMonitor) -> bool:
    """Return whether a call is refused; it uses nothing otherwise."""
    try:
        use(monitor, 0)
    except BudgetExceededError:
        return True
    return False


def test_a_forked_child_goes_on_with_the_jobs_budget() -> None:
    """What its parent used counts."""
    monitor = limited(budget_tokens=300)
    use(monitor)
    use(monitor)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=spend, args=(monitor, queue))
    child.start()
    made, spent = queue.get(timeout=60)
    child.join(60)
    assert (made, spent) == (3, 300)
    # The parent sees what the child has used a moment later.
    eventually(lambda: raises(monitor))


def test_a_call_reads_what_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first one neither the drain nor the store is asked, if nothing is pending."""
    monitor = limited(budget_tokens=100)
    use(monitor)
    monitor.flush()
    pipeline = monitor._pipeline
    eventually(lambda: pipeline.is_settled)

    def fail(*_arguments: object) -> None:
        raise AssertionError("asked")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", fail)
        patch.setattr(monitor._runtime.job, "require_store", fail)
        patch.setattr(pipeline, "wake", lambda: None)
        gate.check()
        use(monitor)
    monitor.flush()
    eventually(lambda: pipeline.is_settled)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", fail)
        with pytest.raises(BudgetExceededError, match="120 used"):
            gate.check()


def test_a_busy_drain_delays_a_call_for_a_moment_only() -> None:
    """Once; the next call goes by what was published last, and each refusal is an error of its own."""
    monitor = limited(budget_tokens=100)
    use(monitor)
    waits: list[float] = []
    run = monitor._pipeline.run

    def counted(function: Any, timeout: float | None = None) -> Any:
        waits.append(-1.0 if timeout is None else timeout)
        return run(function, timeout)

    monitor.flush()
    with held(monitor._pipeline):
        monitor._pipeline.run = counted  # type: ignore[method-assign, assignment]
        for _ in range(5):
            use(monitor)
        assert len(waits) == 1
        assert 0 < waits[0] < 1
        monitor._pipeline.run = run  # type: ignore[method-assign]
    monitor.flush()
    errors = []
    for _ in range(2):
        with pytest.raises(BudgetExceededError) as caught:
            gate.check()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert runtime.current().job.refusals.read(None)[0] == 2


def test_a_guard_that_another_one_adds_checks_the_same_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first call of a process makes its monitor, whose guard may refuse it."""

    def make() -> None:
        gate.remove_guard(make)
        gate.add_guard(refuse)

    def refuse() -> None:
        raise BudgetExceededError(
            "spent", BudgetAmount(1, 0.0), BudgetAmount(0, 0.0), BudgetLimit(1, None)
        )

    monkeypatch.setattr(gate, "_guards", (make,))
    with pytest.raises(BudgetExceededError):
        gate.check()


def test_a_guard_that_fails_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure is said once, and the guards after it are asked."""
    asked: list[int] = []

    def fail() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(gate, "_guards", (fail, lambda: asked.append(1)))
    gate._once.clear()
    gate.check()
    gate.check()
    assert asked == [1, 1]
    said = "calls are not checked against the budget: RuntimeError('broken')"
    assert eventually(lambda: caplog.text.count(said)) == 1


async def test_what_is_below_a_call_that_was_let_in_is_not_refused() -> None:
    """A framework would catch the error of its client; what outlives the call begins calls of its own."""
    monitor = limited(budget_tokens=100)
    is_over = asyncio.Event()

    async def later() -> None:
        gate.check()
        await is_over.wait()
        gate.check()

    with gate.let_in():
        use(monitor, 120)
        use(monitor, 1)
        with gate.let_in():
            await asyncio.to_thread(gate.check)
        left = asyncio.create_task(later())
        await asyncio.sleep(0)
    is_over.set()
    with pytest.raises(BudgetExceededError):
        await left
    with pytest.raises(BudgetExceededError), gate.let_in():
        pytest.fail("the block of a refused call")
    assert monitor.get_total_token_usage().total_tokens == 121


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_that_is_let_in_lets_its_client_in(is_async: bool) -> None:
    """Others use up the budget after it has passed the gate."""
    monitor = limited(budget_tokens=100)
    litellm: Any = types.ModuleType("litellm")

    def completion() -> str:
        use(monitor, 120)
        use(monitor, 1)
        return "answered"

    async def acompletion() -> str:
        return completion()

    litellm.completion, litellm.acompletion = completion, acompletion
    gates.install(litellm)
    call = (lambda: asyncio.run(litellm.acompletion())) if is_async else litellm.completion
    assert call() == "answered"
    with pytest.raises(BudgetExceededError):
        call()
