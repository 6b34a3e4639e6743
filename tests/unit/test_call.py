"""The handle of one call."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from _recorder import FakeRecorder

from genmeter import ConfigError, LabelLimits, MonitorConfig
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

RESPONSE = {
    "model": "answered",
    "choices": [{"finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 18},
}


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with defaults."""
    with isolated_monitor() as made:
        yield made


def generations(monitor: IsolatedMonitor, **labels: str) -> float:
    """Count generations by their labels."""
    return monitor.value("genmeter_generations_total", **labels)


def active(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return the number of active calls by model."""
    return {
        each.labels["gen_ai_request_model"]: each.value
        for each in monitor.series("genmeter_generations_active")
    }


def test_block_records_a_success_with_its_duration(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are the arguments, the duration is measured."""
    ticks = iter([0.0, 10.0, 12.5])
    monkeypatch.setattr("genmeter.call.handle.perf_counter", lambda: next(ticks))
    with monitor.generation(
        model="m", step="ask", provider="openai", operation="embeddings", metadata={"k": 1}
    ) as handle:
        assert "m" in repr(handle)
    assert generations(
        monitor,
        gen_ai_request_model="m",
        genmeter_step="ask",
        gen_ai_provider_name="openai",
        gen_ai_operation_name="embeddings",
        genmeter_outcome="success",
    ) == 1  # fmt: skip
    assert monitor.get_metrics("generation_time")["mean"] == 2.5


def test_exception_is_recorded_and_raised(monitor: IsolatedMonitor) -> None:
    """The call is a failure with the exception's class; earlier tokens count."""
    with pytest.raises(TimeoutError, match="late"), monitor.generation("m") as handle:  # noqa: PT012
        handle.usage(prompt_token_count=7)
        raise TimeoutError("late")
    name = "gen_ai_client_inference_duration_seconds_count"
    assert monitor.value(name, error_type="TimeoutError") == 1
    assert generations(monitor, genmeter_outcome="failure") == 1
    assert monitor.get_total_token_usage().total_prompt_tokens == 7


def test_cancelled_call_is_no_failure() -> None:
    """The cancellation is recorded as such and not suppressed; tokens so far count."""
    recorder = FakeRecorder()

    async def work() -> None:
        async with recorder.generation("m") as call:
            call.usage(RESPONSE)
            await asyncio.sleep(60)

    async def job() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job())
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 5, 18)
    assert recorder.open == 0


async def test_async_block_equals_a_plain_one(monitor: IsolatedMonitor) -> None:
    """`async with` returns the same handle."""
    async with monitor.generation("m") as handle:
        handle.usage(RESPONSE)
    assert monitor.get_total_token_usage().total_tokens == 18
    assert generations(monitor, genmeter_outcome="success") == 1


def test_active_calls_are_counted(monitor: IsolatedMonitor) -> None:
    """The gauge rises at the start and falls at the end, after failures too."""
    active = "genmeter_generations_active"
    with monitor.generation("m", step="s"):
        with pytest.raises(ValueError, match="x"), monitor.generation("m", step="s"):  # noqa: PT012
            assert monitor.value(active, gen_ai_request_model="m", genmeter_step="s") == 2
            raise ValueError("x")
        assert monitor.value(active) == 1
    assert monitor.value(active) == 0


def test_overlapping_calls_end_under_their_first_model(
    monitor: IsolatedMonitor,
) -> None:
    """A default learned meanwhile does not change the end of a call."""
    first, second = monitor.generation(step="s"), monitor.generation(step="s")
    with second:
        with first:
            first.usage(RESPONSE)
            assert active(monitor) == {"unknown": 2}
        second.usage(RESPONSE)
        assert active(monitor) == {"unknown": 1}
    assert active(monitor) == {"unknown": 0}


def test_reused_handle_records_nothing_twice(monitor: IsolatedMonitor) -> None:
    """Tokens, retries, failure, model and finish reason belong to their block."""
    handle = monitor.generation(step="s")
    with handle:
        handle.usage(RESPONSE)
        handle.retry("Late")
        handle.fail("cut")
    assert (handle.model, handle.finish_reason) == ("answered", "stop")
    with handle:
        handle.usage({**RESPONSE, "model": "other one"})
    with handle:
        pass
    assert monitor.get_total_token_usage().total_tokens == 36
    assert monitor.value("genmeter_retries_total") == 1
    assert monitor.value("genmeter_finish_reasons_total") == 2
    assert generations(monitor, genmeter_outcome="failure") == 1
    assert generations(monitor, genmeter_outcome="success", gen_ai_request_model="other one") == 1
    assert generations(monitor, genmeter_outcome="success", gen_ai_request_model="unknown") == 1


def test_recorded_retries_do_not_change_with_the_handle() -> None:
    """The pending event has its own list."""
    recorder = FakeRecorder()
    handle = recorder.generation("m")
    with handle:
        handle.retry("A")
    handle.retry("B")
    assert recorder.last.keywords["retries"] == ["A"]


def test_call_with_a_model_from_the_response_is_active_under_the_first(
    monitor: IsolatedMonitor,
) -> None:
    """The gauge of the first model returns to 0."""
    with monitor.generation() as handle:
        assert active(monitor) == {"unknown": 1}
        handle.usage(RESPONSE)
        assert active(monitor) == {"unknown": 1}
    assert active(monitor) == {"unknown": 0}
    assert generations(monitor, gen_ai_request_model="answered") == 1


def test_usage_reads_tokens_model_and_finish_reason_of_a_response(
    monitor: IsolatedMonitor,
) -> None:
    """Arguments of the caller take precedence over the response."""
    with monitor.generation("asked") as handle:
        handle.usage(RESPONSE)
    with monitor.generation() as handle:
        handle.finish_reason = "own"
        handle.usage(SimpleNamespace(**RESPONSE))
    report = monitor.get_total_token_usage()
    assert [each.model_name for each in report.by_model] == ["answered", "asked"]
    assert report.total_tokens == 36
    reasons = monitor.series("genmeter_finish_reasons_total")
    assert {each.labels["genmeter_finish_reason"] for each in reasons} == {"stop", "own"}


def test_later_usage_replaces_earlier_counts(monitor: IsolatedMonitor) -> None:
    """Streams report their usage several times; it is not summed."""
    with monitor.generation("m") as handle:
        handle.usage(prompt_token_count=10, completion_token_count=1)
        handle.usage(completion_token_count=2)
        handle.usage(object())
        handle.usage(None)
    (usage,) = monitor.get_total_token_usage().by_model
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 2)


def test_model_and_finish_reason_can_be_set_in_the_block(
    monitor: IsolatedMonitor,
) -> None:
    """Both are attributes."""
    with monitor.generation() as handle:
        handle.model = "set"
        handle.finish_reason = "LENGTH"
    assert generations(monitor, gen_ai_request_model="set") == 1
    assert monitor.value("genmeter_finish_reasons_total", genmeter_finish_reason="length") == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "_OTHER"),
        ("text", "_OTHER"),
        (OSError(), "OSError"),
        ("", "_OTHER"),
        (False, "_OTHER"),
    ],
)
def test_call_can_fail_without_an_exception(
    monitor: IsolatedMonitor, error: Any, kind: str
) -> None:
    """`fail` records a failure, with any argument."""
    with monitor.generation("m") as handle:
        handle.fail(error)
    assert generations(monitor, genmeter_outcome="failure") == 1
    name = "gen_ai_client_inference_duration_seconds_count"
    assert monitor.value(name, error_type=kind) == 1


class TooManyError(Exception):
    """An error with an HTTP status."""

    status_code = 429


def test_retries_are_counted_by_cause(monitor: IsolatedMonitor) -> None:
    """Rate limits have one name, others their class or name; the call may succeed."""
    with monitor.generation("m") as handle:
        for error in (TooManyError(), "RateLimitError", TimeoutError(), TimeoutError, None):
            handle.retry(error)
    found = {
        each.labels["error_type"]: each.value for each in monitor.series("genmeter_retries_total")
    }
    assert found == {"rate_limited": 2, "TimeoutError": 2, "_OTHER": 1}
    assert generations(monitor, genmeter_outcome="success") == 1


def test_usage_ignores_arguments_of_track_generation(monitor: IsolatedMonitor) -> None:
    """Such a key is skipped, and nothing raises."""
    with monitor.generation("m", step="s") as handle:
        handle.usage(duration=5, success=False, model_name="x", step="y", prompt_token_count=3)
    assert generations(monitor, gen_ai_request_model="m", genmeter_outcome="success") == 1
    assert monitor.get_total_token_usage().total_tokens == 3


def test_decorated_function_records_each_call(monitor: IsolatedMonitor) -> None:
    """Its result is read and returned; arguments, name and docstring stay."""

    @monitor.generation(step="ask", provider="p")
    def ask(question: str, *, times: int = 1) -> dict[str, Any]:
        """Ask."""
        return {**RESPONSE, "echo": question * times}

    assert ask("x", times=2)["echo"] == "xx"
    assert ask("y")["echo"] == "y"
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert generations(monitor, gen_ai_request_model="answered", genmeter_step="ask") == 2
    assert monitor.get_total_token_usage().total_tokens == 36


def test_failing_decorated_function_records_a_failure(monitor: IsolatedMonitor) -> None:
    """The exception is raised."""

    @monitor.generation("m")
    def ask() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        ask()
    assert generations(monitor, genmeter_outcome="failure") == 1


async def test_decorated_coroutine_is_timed_until_its_end(monitor: IsolatedMonitor) -> None:
    """Overlapping calls have separate handles."""
    gate = asyncio.Event()

    @monitor.generation("m")
    async def ask() -> dict[str, Any]:
        await gate.wait()
        return RESPONSE

    calls = [asyncio.create_task(ask()) for _ in range(5)]
    await asyncio.sleep(0)
    assert monitor.value("genmeter_generations_active") == 5
    gate.set()
    assert await asyncio.gather(*calls) == [RESPONSE] * 5
    assert monitor.value("genmeter_generations_active") == 0
    assert generations(monitor, genmeter_outcome="success") == 5
    assert monitor.get_total_token_usage().total_tokens == 5 * 18


async def test_failing_decorated_coroutine_records_a_failure(monitor: IsolatedMonitor) -> None:
    """The exception is raised."""

    @monitor.generation("m")
    async def ask() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await ask()
    assert generations(monitor, genmeter_outcome="failure") == 1


def test_call_that_ends_after_shutdown_is_rejected(monitor: IsolatedMonitor) -> None:
    """It is counted once, since its start is not an event."""
    with monitor.generation("m"):
        monitor.shutdown()
    late = {"genmeter_reason": "after_shutdown"}
    assert monitor.value("genmeter_monitor_events_total", **late) == 1


async def test_callable_that_returns_a_coroutine_is_timed_until_its_end(
    monitor: IsolatedMonitor,
) -> None:
    """Objects with an async `__call__` and lambdas can be decorated."""

    class Asker:
        async def __call__(self, question: str) -> dict[str, Any]:
            await asyncio.sleep(0)
            assert monitor.value("genmeter_generations_active") == 1
            if not question:
                raise ValueError(question)
            return RESPONSE

    asker = Asker()
    twice = (monitor.generation("m")(asker), monitor.generation("m")(lambda q: asker(str(q))))
    for decorated in twice:
        assert await decorated("why") is RESPONSE
        with pytest.raises(ValueError, match=r"^$"):
            await decorated("")
    assert monitor.get_total_token_usage().total_tokens == 36
    assert generations(monitor, genmeter_outcome="success") == 2
    assert generations(monitor, genmeter_outcome="failure") == 2
    assert monitor.value("genmeter_generations_active") == 0


def test_only_callables_can_be_decorated(monitor: IsolatedMonitor) -> None:
    """A wrong order of decorators raises at once, not at the first call."""
    with pytest.raises(ConfigError, match="put @classmethod above"):
        monitor.generation("m")(classmethod(lambda _: RESPONSE))  # type: ignore[call-overload]


def test_methods_of_every_kind_can_be_decorated(monitor: IsolatedMonitor) -> None:
    """Plain, class and static methods get their usual arguments."""

    class Client:
        @monitor.generation("m")
        def ask(self) -> object:
            return {**RESPONSE, "owner": self}

        @classmethod
        @monitor.generation("m")
        def ask_class(cls) -> object:
            return {**RESPONSE, "owner": cls}

        @staticmethod
        @monitor.generation("m")
        def ask_nobody() -> object:
            return RESPONSE

    client = Client()
    assert client.ask() == {**RESPONSE, "owner": client}
    assert client.ask_class() == {**RESPONSE, "owner": Client}
    assert client.ask_nobody() is RESPONSE
    assert generations(monitor, genmeter_outcome="success") == 3
    assert monitor.get_total_token_usage().total_tokens == 3 * 18


# --- the gauge of active calls -----------------------------------------------------------------


@pytest.mark.parametrize("is_in_circle", [False, True])
def test_abandoned_handle_is_not_active(monitor: IsolatedMonitor, is_in_circle: bool) -> None:
    """A collected handle has ended, as with a coroutine that is never awaited again."""
    handle = monitor.generation("m").__enter__()
    if is_in_circle:
        handle.metadata_of_mine = handle  # type: ignore[attr-defined]
    assert active(monitor) == {"m": 1}
    del handle
    gc.collect()
    assert active(monitor) == {"m": 0}
    assert not monitor._session.state.open_calls


def test_handles_at_one_address_are_distinct(
    monitor: IsolatedMonitor,
) -> None:
    """Neither ended nor abandoned handles leave a call behind."""
    for _ in range(200):
        monitor.generation("lost").__enter__()
        with monitor.generation("m"):
            assert active(monitor).get("m") == 1
    gc.collect()
    assert active(monitor) == {"m": 0, **dict.fromkeys(active(monitor).keys() - {"m"}, 0)}


def test_no_call_is_active_after_shutdown(monitor: IsolatedMonitor) -> None:
    """This holds for calls that end or start later."""
    with monitor.generation("m"):
        assert active(monitor) == {"m": 1}
        monitor.shutdown()
        assert active(monitor) == {"m": 0}
        with monitor.generation("m"):
            assert active(monitor) == {"m": 0}
    assert active(monitor) == {"m": 0}


def test_handle_in_two_blocks_at_once_counts_as_two_calls(
    monitor: IsolatedMonitor,
) -> None:
    """The gauge counts both, and none afterwards."""
    handle = monitor.generation("m")
    with handle:
        with handle:
            assert active(monitor) == {"m": 2}
        assert active(monitor) == {"m": 1}
    assert active(monitor) == {"m": 0}
    with handle:
        assert active(monitor) == {"m": 1}
    assert active(monitor) == {"m": 0}
    assert generations(monitor, genmeter_outcome="success") == 3


def test_dropped_event_does_not_change_active_calls(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Active calls are counted by their handles, not by events."""
    with monitor.generation("m"):
        assert active(monitor) == {"m": 1}
        monkeypatch.setattr(monitor, "record_call", lambda *_: None)
    assert active(monitor) == {"m": 0}
    assert generations(monitor, genmeter_outcome="success") == 0


def test_active_calls_of_many_threads_return_to_0(monitor: IsolatedMonitor) -> None:
    """Concurrent scrapes neither fail nor lose one."""

    def work() -> None:
        for _ in range(300):
            with monitor.generation("m"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert 0 <= active(monitor).get("m", 0) <= 4
    with monitor.generation("m"):
        assert active(monitor) == {"m": 1}
    assert active(monitor) == {"m": 0}
    assert generations(monitor, genmeter_outcome="success") == 1_201


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_call_open_over_a_fork_is_active_in_the_parent_only() -> None:
    """This holds even if the block ends in the child."""
    script = """
import os, sys
from genmeter.testing import isolated_monitor

def active(monitor):
    return [each.value for each in monitor.series("genmeter_generations_active")]

with isolated_monitor() as monitor:
    handle = monitor.generation("m").__enter__()
    assert active(monitor) == [1], active(monitor)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert sum(active(monitor)) == 0, active(monitor)
            handle.__exit__(None, None, None)
            assert sum(active(monitor)) == 0, active(monitor)
            with monitor.generation("m"):
                assert active(monitor) == [1], active(monitor)
            assert active(monitor) == [0], active(monitor)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert active(monitor) == [1], active(monitor)
    handle.__exit__(None, None, None)
    assert active(monitor) == [0], active(monitor)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_scraping_an_active_call_changes_no_state() -> None:
    """It uses no label limit and learns no model."""
    with isolated_monitor(MonitorConfig(limits=LabelLimits(models=1))) as monitor:
        monitor.track_generation(1.0, True, model_name="known")
        with monitor.generation("past the limit"):
            for _ in range(5):
                assert active(monitor) == {"other": 1}
            assert monitor.value("genmeter_monitor_label_overflow_total") == 0
            monitor.track_generation(1.0, False)
            failed = {"genmeter_outcome": "failure"}
            assert generations(monitor, gen_ai_request_model="known", **failed) == 1
        assert monitor.value("genmeter_monitor_label_overflow_total") == 1
