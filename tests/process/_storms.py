"""Storms of signals in the main thread; test_threads runs them without coverage."""

from __future__ import annotations

import gc
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from test_threads import PATIENCE, monitor, process, totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter import GenerationMonitor
    from genmeter.runtime import Runtime

__all__ = ["monitor", "process"]  # fixtures


@contextmanager
def storm(handler: Callable[[], None], interval: float) -> Iterator[None]:
    """Interrupt the main thread again and again."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupts:
    """A storm of KeyboardInterrupts that hit only the job's code."""

    def __init__(self) -> None:
        self.count = 0
        self._is_open = False

    def strike(self) -> None:
        """Interrupt the job's function, if one runs."""
        if self._is_open:
            self.count += 1
            raise KeyboardInterrupt

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function that may be interrupted."""
        try:
            self._is_open = True
            function()
            self._is_open = False
        except KeyboardInterrupt:
            pass
        finally:
            self._is_open = False


def test_interrupts_leave_consistent_totals(process: Runtime, monitor: GenerationMonitor) -> None:
    """History and counters have the same calls after any KeyboardInterrupt."""
    interrupts = Interrupts()
    calls = 0

    def job() -> None:
        nonlocal calls
        for _ in range(20):
            calls += 1
            monitor.track_generation(0.1, True, model_name="m", prompt_token_count=1)
        monitor.get_total_token_usage()
        monitor.get_metrics("generation_time", None)

    deadline = time.monotonic() + PATIENCE
    gc.disable()  # an interrupt in a finalizer is ignored
    with storm(interrupts.strike, 0.0013):
        while interrupts.count < 300 and time.monotonic() < deadline:
            interrupts.call(job)
    gc.enable()
    assert interrupts.count >= 300
    total = monitor.get_total_token_usage().total_tokens
    found = totals(process)
    assert found["gen_ai_client_inference_usage_input_tokens_total"] == total
    assert found["genmeter_generations_total"] == total
    assert monitor.get_metrics("success_rate", None)["count"] == total
    # An interrupt between the job's count and the append loses only that call.
    assert calls - interrupts.count <= total <= calls


def test_a_signal_handler_may_record_and_read_at_any_time(
    process: Runtime, monitor: GenerationMonitor
) -> None:
    """It may interrupt the same call in the main thread and loses nothing."""
    handled = depth = 0

    def handle() -> None:
        nonlocal handled, depth
        if depth == 3:
            return
        depth += 1
        monitor.track_generation(0.1, True, model_name="handler", prompt_token_count=1)
        handled += 1
        mine = handled  # the handler may be interrupted by itself
        report = monitor.get_total_token_usage()
        own = {usage.model_name: usage.prompt_tokens for usage in report.by_model}
        assert own["handler"] >= mine
        depth -= 1

    calls = 0
    deadline = time.monotonic() + PATIENCE
    with storm(handle, 0.002):
        while handled < 300 and time.monotonic() < deadline:
            for _ in range(50):
                calls += 1
                monitor.track_generation(0.1, True, model_name="job", prompt_token_count=1)
            monitor.get_total_token_usage()
    report = monitor.get_total_token_usage()
    assert handled >= 300
    assert {usage.model_name: usage.prompt_tokens for usage in report.by_model} == {
        "handler": handled,
        "job": calls,
    }
    assert totals(process)["genmeter_generations_total"] == calls + handled
