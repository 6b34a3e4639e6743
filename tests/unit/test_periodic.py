"""The thread that calls a callback again and again."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from genmeter import GenerationMonitor, MonitorConfig
from genmeter.periodic import Periodic
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

PATIENCE = 60.0


def eventually(holds: Callable[[], Any]) -> bool:
    """Wait until something holds; tell whether it did in the end."""
    deadline = time.monotonic() + PATIENCE
    while not (held := bool(holds())) and time.monotonic() < deadline:
        time.sleep(0.005)
    return held


def test_it_calls_again_and_again_until_it_is_stopped() -> None:
    """The function is called at every turn, and never after ``stop``."""
    calls: list[str] = []
    periodic = Periodic(
        lambda: calls.append(threading.current_thread().name),
        0.005,
        name="a-name",
        on_error=calls.clear,
    )
    assert eventually(lambda: len(calls) >= 3)
    periodic.stop(PATIENCE)
    assert not periodic._thread.is_alive()
    assert set(calls) == {"a-name"}
    periodic.stop(PATIENCE)


def test_a_failure_is_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A function that raises is called again, and fills no log."""
    errors: list[int] = []
    periodic = Periodic(lambda: 1 // 0, 0.005, name="a-name", on_error=lambda: errors.append(1))  # type: ignore[arg-type, return-value]
    assert eventually(lambda: len(errors) >= 3)
    periodic.stop(PATIENCE)
    (record,) = caplog.records
    assert record.getMessage() == "a-name failed; further failures are only counted"
    assert record.exc_info


def test_a_call_under_way_is_waited_for_within_the_time() -> None:
    """``stop`` gives up on a call that takes longer than it was given."""
    begun, release = threading.Event(), threading.Event()

    def stick() -> None:
        begun.set()
        release.wait(PATIENCE)

    periodic = Periodic(stick, 0.001, name="a-name", on_error=lambda: None)
    assert begun.wait(PATIENCE)
    periodic.stop(0.01)
    assert periodic._thread.is_alive()
    release.set()
    periodic.stop(PATIENCE)
    assert not periodic._thread.is_alive()


def test_it_may_stop_itself() -> None:
    """A function that stops its own thread is not waited for by it."""
    made: list[Periodic] = []
    calls: list[int] = []

    def stop() -> None:
        if made:
            calls.append(1)
            made[0].stop(PATIENCE)

    made.append(Periodic(stop, 0.001, name="a-name", on_error=lambda: None))
    assert eventually(lambda: not made[0]._thread.is_alive())
    assert calls == [1]


def test_an_interval_beyond_all_bounds_never_comes() -> None:
    """An interval longer than a lock can wait is no error."""
    periodic = Periodic(lambda: None, 1e12, name="a-name", on_error=lambda: None)
    assert periodic._thread.is_alive()
    periodic.stop(1e12)
    assert not periodic._thread.is_alive()


def test_a_token_callback_gets_reports_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """The monitor's token callback sees what was told before, and its errors are counted."""
    caplog.set_level(logging.CRITICAL, logger="genmeter")
    totals: list[int] = []

    def take(report: Any) -> None:
        totals.append(report.total_tokens)
        raise ValueError("the job's own")

    with fresh_runtime() as runtime:
        monitor = GenerationMonitor(
            config=MonitorConfig(meter_provider="global"),
            token_usage_callback=take,
            token_usage_callback_interval_seconds=0.005,
        )
        monitor.track_generation(0.1, True, model_name="m", prompt_token_count=7)
        assert eventually(lambda: totals and totals[-1] == 7)
        monitor.shutdown()
        seen = len(totals)
        assert runtime.tallies.handler_errors == {("token_usage_callback", "raised"): seen}
