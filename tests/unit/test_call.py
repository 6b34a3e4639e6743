"""The handle of one call: how it ends is what the monitor is told."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import ConfigError, LabelLimits, MonitorConfig
from genmeter.call import GenerationHandle
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

RESPONSE = {
    "model": "answered",
    "choices": [{"finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 18},
}


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with the defaults."""
    with isolated_monitor() as made:
        yield made


def generations(monitor: IsolatedMonitor, **labels: str) -> float:
    """Count generations by their labels."""
    return monitor.value("genmeter_generations_total", **labels)


def active(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return how many calls are under way, by model."""
    return {
        each.labels["gen_ai_request_model"]: each.value
        for each in monitor.series("genmeter_generations_active")
    }


def test_a_block_that_ends_is_a_success_with_the_time_that_it_took(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels come from the arguments, the duration from the clock."""
    ticks = iter([0.0, 10.0, 12.5])
    monkeypatch.setattr("genmeter.call.time.perf_counter", lambda: next(ticks))
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


def test_an_exception_is_told_and_goes_on(monitor: IsolatedMonitor) -> None:
    """The call is a failure of the exception's class; tokens told before count."""
    with pytest.raises(TimeoutError, match="late"), monitor.generation("m") as handle:  # noqa: PT012
        handle.usage(prompt_token_count=7)
        raise TimeoutError("late")
    name = "gen_ai_client_inference_duration_seconds_count"
    assert monitor.value(name, error_type="TimeoutError") == 1
    assert generations(monitor, genmeter_outcome="failure") == 1
    assert monitor.get_total_token_usage().total_prompt_tokens == 7


def test_a_cancelled_call_is_a_failure(monitor: IsolatedMonitor) -> None:
    """Cancelling is told under its own name and is not swallowed."""

    async def work() -> None:
        async with monitor.generation("m"):
            await asyncio.sleep(60)

    async def job() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(job())
    name = "gen_ai_client_inference_duration_seconds_count"
    assert monitor.value(name, error_type="CancelledError") == 1
    assert monitor.value("genmeter_generations_active") == 0


async def test_an_async_block_is_told_as_a_plain_one(monitor: IsolatedMonitor) -> None:
    """`async with` gives the same handle."""
    async with monitor.generation("m") as handle:
        handle.usage(RESPONSE)
    assert monitor.get_total_token_usage().total_tokens == 18
    assert generations(monitor, genmeter_outcome="success") == 1


def test_active_calls_are_counted(monitor: IsolatedMonitor) -> None:
    """The count goes up at the begin and down at the end, also of a failure."""
    active = "genmeter_generations_active"
    with monitor.generation("m", step="s"):
        with pytest.raises(ValueError, match="x"), monitor.generation("m", step="s"):  # noqa: PT012
            assert monitor.value(active, gen_ai_request_model="m", genmeter_step="s") == 2
            raise ValueError("x")
        assert monitor.value(active) == 1
    assert monitor.value(active) == 0


def test_calls_that_overlap_end_under_the_model_that_they_began_under(
    monitor: IsolatedMonitor,
) -> None:
    """What an earlier call taught the defaults does not move the end of a later one."""
    first, second = monitor.generation(step="s"), monitor.generation(step="s")
    with second:
        with first:
            first.usage(RESPONSE)
            assert active(monitor) == {"unknown": 2}
        second.usage(RESPONSE)
        assert active(monitor) == {"unknown": 1}
    assert active(monitor) == {"unknown": 0}


def test_a_handle_that_is_used_again_tells_nothing_twice(monitor: IsolatedMonitor) -> None:
    """Tokens, retries, failure, model and finish reason belong to the block that they came in."""
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


def test_retries_that_were_told_do_not_change_with_the_handle() -> None:
    """The list that waits for the drain is the block's own."""
    told: list[dict[str, Any]] = []
    teller = SimpleNamespace(
        track_generation=lambda *_, **keywords: told.append(keywords),
        _open_call=lambda handle: None,
        _close_call=lambda handle: None,
    )
    handle = GenerationHandle(teller, model="m")
    with handle:
        handle.retry("A")
    handle.retry("B")
    assert told[0]["retries"] == ["A"]


def test_a_call_whose_model_comes_with_the_response_ends_where_it_began(
    monitor: IsolatedMonitor,
) -> None:
    """The active count of the model that it began under returns to 0."""
    with monitor.generation() as handle:
        assert active(monitor) == {"unknown": 1}
        handle.usage(RESPONSE)
        assert active(monitor) == {"unknown": 1}
    assert active(monitor) == {"unknown": 0}
    assert generations(monitor, gen_ai_request_model="answered") == 1


def test_usage_reads_tokens_model_and_finish_reason_of_a_response(
    monitor: IsolatedMonitor,
) -> None:
    """What the caller named wins, the rest comes from the response."""
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


def test_a_later_usage_replaces_what_it_names_again(monitor: IsolatedMonitor) -> None:
    """Streams tell their usage several times; the last word counts, it is not added."""
    with monitor.generation("m") as handle:
        handle.usage(prompt_token_count=10, completion_token_count=1)
        handle.usage(completion_token_count=2)
        handle.usage(object())
        handle.usage(None)
    (usage,) = monitor.get_total_token_usage().by_model
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 2)


def test_the_model_and_the_finish_reason_may_be_set_in_the_block(
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
def test_a_call_can_fail_without_an_exception(
    monitor: IsolatedMonitor, error: Any, kind: str
) -> None:
    """`fail` makes the block a failure, whatever it is given."""
    with monitor.generation("m") as handle:
        handle.fail(error)
    assert generations(monitor, genmeter_outcome="failure") == 1
    name = "gen_ai_client_inference_duration_seconds_count"
    assert monitor.value(name, error_type=kind) == 1


class TooManyError(Exception):
    """An error with HTTP's status."""

    status_code = 429


def test_retries_are_counted_by_what_caused_them(monitor: IsolatedMonitor) -> None:
    """Rate limits under one name, the others by their class or name; the call may succeed."""
    with monitor.generation("m") as handle:
        for error in (TooManyError(), "RateLimitError", TimeoutError(), TimeoutError, None):
            handle.retry(error)
    found = {
        each.labels["error_type"]: each.value for each in monitor.series("genmeter_retries_total")
    }
    assert found == {"rate_limited": 2, "TimeoutError": 2, "_OTHER": 1}
    assert generations(monitor, genmeter_outcome="success") == 1


def test_arguments_of_the_call_itself_cannot_come_through_usage(monitor: IsolatedMonitor) -> None:
    """A count named as an argument of `track_generation` is passed over, nothing raises."""
    with monitor.generation("m", step="s") as handle:
        handle.usage(duration=5, success=False, model_name="x", step="y", prompt_token_count=3)
    assert generations(monitor, gen_ai_request_model="m", genmeter_outcome="success") == 1
    assert monitor.get_total_token_usage().total_tokens == 3


def test_a_decorated_function_is_a_call_each_time(monitor: IsolatedMonitor) -> None:
    """What it returns is read and returned; arguments, name and docstring are its own."""

    @monitor.generation(step="ask", provider="p")
    def ask(question: str, *, times: int = 1) -> dict[str, Any]:
        """Ask."""
        return {**RESPONSE, "echo": question * times}

    assert ask("x", times=2)["echo"] == "xx"
    assert ask("y")["echo"] == "y"
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert generations(monitor, gen_ai_request_model="answered", genmeter_step="ask") == 2
    assert monitor.get_total_token_usage().total_tokens == 36


def test_a_decorated_function_that_raises_is_a_failure(monitor: IsolatedMonitor) -> None:
    """The exception goes on."""

    @monitor.generation("m")
    def ask() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        ask()
    assert generations(monitor, genmeter_outcome="failure") == 1


async def test_a_decorated_coroutine_is_timed_until_it_ends(monitor: IsolatedMonitor) -> None:
    """Calls that overlap have a handle each."""
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


async def test_a_decorated_coroutine_that_raises_is_a_failure(monitor: IsolatedMonitor) -> None:
    """The exception goes on."""

    @monitor.generation("m")
    async def ask() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await ask()
    assert generations(monitor, genmeter_outcome="failure") == 1


def stream() -> Iterator[int]:
    """Yield a number."""
    yield 1


async def async_stream() -> AsyncIterator[int]:
    """Yield a number."""
    yield 1


@pytest.mark.parametrize("function", [stream, async_stream, functools.partial(stream)])
def test_a_generator_cannot_be_decorated(monitor: IsolatedMonitor, function: Any) -> None:
    """Nobody but its reader knows when it ends; the error says what to do instead."""
    with pytest.raises(ConfigError, match=r"stream.*use `with monitor.generation"):
        monitor.generation("m")(function)


def test_a_call_that_ends_after_shutdown_harms_nobody(monitor: IsolatedMonitor) -> None:
    """It is counted as recorded too late, once: that it began was no event."""
    with monitor.generation("m"):
        monitor.shutdown()
    late = {"genmeter_reason": "after_shutdown"}
    assert monitor.value("genmeter_monitor_events_total", **late) == 1


async def test_what_gives_a_coroutine_is_told_when_that_is_awaited(
    monitor: IsolatedMonitor,
) -> None:
    """Objects with an async `__call__` and lambdas are calls as long as what they return."""

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


def test_what_cannot_be_called_cannot_be_decorated(monitor: IsolatedMonitor) -> None:
    """The wrong order of decorators is found where it stands, not at the first call."""
    with pytest.raises(ConfigError, match="put @classmethod above"):
        monitor.generation("m")(classmethod(lambda _: RESPONSE))  # type: ignore[call-overload]


def test_methods_of_every_kind_can_be_decorated(monitor: IsolatedMonitor) -> None:
    """Plain, class and static methods get what they would have got."""

    class Client:
        @monitor.generation("m")
        def ask(self) -> object:
            return [RESPONSE, self]

        @classmethod
        @monitor.generation("m")
        def ask_class(cls) -> object:
            return [RESPONSE, cls]

        @staticmethod
        @monitor.generation("m")
        def ask_nobody() -> object:
            return RESPONSE

    client = Client()
    assert client.ask() == [RESPONSE, client]
    assert client.ask_class() == [RESPONSE, Client]
    assert client.ask_nobody() is RESPONSE
    assert generations(monitor, genmeter_outcome="success") == 3
    assert monitor.get_total_token_usage().total_tokens == 18


# --- the gauge of calls under way never drifts ---------------------------------------------------


@pytest.mark.parametrize("is_in_circle", [False, True])
def test_a_handle_that_is_abandoned_in_its_block_is_no_call_under_way(
    monitor: IsolatedMonitor, is_in_circle: bool
) -> None:
    """What the garbage collector took, as with a coroutine that nobody awaits further, has ended."""
    handle = monitor.generation("m").__enter__()
    if is_in_circle:
        handle.metadata_of_mine = handle  # type: ignore[attr-defined]
    assert active(monitor) == {"m": 1}
    del handle
    gc.collect()
    assert active(monitor) == {"m": 0}
    assert not monitor._session.state.open_calls


def test_an_abandoned_handle_is_not_taken_for_another_at_its_address(
    monitor: IsolatedMonitor,
) -> None:
    """Handles come and go at one address; those that ended leave nothing, those that did not, too."""
    for _ in range(200):
        monitor.generation("lost").__enter__()
        with monitor.generation("m"):
            assert active(monitor).get("m") == 1
    gc.collect()
    assert active(monitor) == {"m": 0, **dict.fromkeys(active(monitor).keys() - {"m"}, 0)}


def test_a_call_that_outlives_its_monitor_is_not_under_way(monitor: IsolatedMonitor) -> None:
    """After the shutdown nothing is under way, whatever ends or begins later."""
    with monitor.generation("m"):
        assert active(monitor) == {"m": 1}
        monitor.shutdown()
        assert active(monitor) == {"m": 0}
        with monitor.generation("m"):
            assert active(monitor) == {"m": 0}
    assert active(monitor) == {"m": 0}


def test_a_handle_in_two_blocks_at_once_ends_with_none_under_way(
    monitor: IsolatedMonitor,
) -> None:
    """A handle is one call at a time; its gauge is never below 0 and not above 1."""
    handle = monitor.generation("m")
    with handle:
        with handle:
            assert active(monitor) == {"m": 1}
        assert active(monitor)["m"] in (0, 1)
    assert active(monitor) == {"m": 0}
    with handle:
        assert active(monitor) == {"m": 1}
    assert active(monitor) == {"m": 0}


def test_a_lost_event_does_not_move_the_gauge(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls under way are counted from their handles, so a full inbox does not leave one behind."""
    with monitor.generation("m"):
        assert active(monitor) == {"m": 1}
        monkeypatch.setattr(monitor, "track_generation", lambda *_, **__: None)
    assert active(monitor) == {"m": 0}
    assert generations(monitor, genmeter_outcome="success") == 0


def test_calls_of_many_threads_end_at_0(monitor: IsolatedMonitor) -> None:
    """Scrapes that come while handles begin and end on other threads neither fail nor lose one."""

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
def test_a_call_that_is_open_over_a_fork_is_under_way_in_the_parent_only() -> None:
    """The child has no call under way, also where the parent's block ends in it."""
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


def test_a_scrape_of_a_call_under_way_changes_nothing() -> None:
    """However often the page is read, it counts no label past its limit and learns no model."""
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
