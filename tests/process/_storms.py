"""Storms of signals in the main thread; test_threads runs them in a process without coverage."""

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
    """Have the main thread interrupted again and again."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupts:
    """A storm of KeyboardInterrupts, each of which hits the job's own code only."""

    def __init__(self) -> None:
        self.count = 0
        self._is_open = False

    def strike(self) -> None:
        """Interrupt what the job does, if it does anything."""
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


def test_a_storm_of_interrupts_leaves_totals_that_agree(
    process: Runtime, monitor: GenerationMonitor
) -> None:
    """Whatever a KeyboardInterrupt cuts short, history and counters hold the same calls."""
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
    gc.disable()  # an interrupt of a finalizer would reach nobody
    with storm(interrupts.strike, 0.0013):
        while interrupts.count < 300 and time.monotonic() < deadline:
            interrupts.call(job)
    gc.enable()
    assert interrupts.count >= 300
    told = monitor.get_total_token_usage().total_tokens
    found = totals(process)
    assert found["gen_ai_client_inference_usage_input_tokens_total"] == told
    assert found["genmeter_generations_total"] == told
    assert monitor.get_metrics("success_rate", None)["count"] == told
    # An interrupt between the job's own count and the append costs that call, and no other one.
    assert calls - interrupts.count <= told <= calls


def test_a_signal_handler_may_tell_and_read_at_any_time(
    process: Runtime, monitor: GenerationMonitor
) -> None:
    """A handler that tells and reads, in the middle of the same in the main thread, loses nothing."""
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
