"""A function that a thread of its own calls again and again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from genmeter.periodic import Periodic

if TYPE_CHECKING:
    import pytest

HANG = 30.0


def test_it_calls_until_it_is_stopped() -> None:
    """No call begins after the stop."""
    calls: list[int] = []
    third = threading.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            third.set()

    periodic = Periodic(call, 0.001, name="p", on_error=lambda: None)
    assert third.wait(HANG)
    periodic.stop(HANG)
    count = len(calls)
    assert not periodic._thread.is_alive()
    periodic.stop(HANG)
    assert len(calls) == count


def test_a_failure_is_told_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is called again at the next turn, whatever it raised."""
    failures: list[int] = []
    third = threading.Event()

    def fail() -> None:
        raise RuntimeError("defect")

    def told() -> None:
        failures.append(1)
        if len(failures) == 3:
            third.set()

    periodic = Periodic(fail, 0.001, name="the task", on_error=told)
    assert third.wait(HANG)
    periodic.stop(HANG)
    assert [each.getMessage() for each in caplog.records] == [
        "the task failed; further failures are only counted"
    ]


def test_it_may_stop_itself() -> None:
    """A function that stops its own thread does not wait for itself."""
    done = threading.Event()
    box: list[Periodic] = []
    begun = threading.Event()

    def call() -> None:
        begun.wait(HANG)
        box[0].stop(HANG)
        done.set()

    box.append(Periodic(call, 0.001, name="p", on_error=lambda: None))
    begun.set()
    assert done.wait(HANG)
    box[0]._thread.join(HANG)
    assert not box[0]._thread.is_alive()


def test_a_stop_waits_no_longer_than_it_is_told() -> None:
    """A call that hangs does not hold up the end of the job."""
    gate, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        gate.wait(HANG)

    periodic = Periodic(hang, 0.001, name="p", on_error=lambda: None)
    assert begun.wait(HANG)
    periodic.stop(0.01)
    assert periodic._thread.is_alive()
    gate.set()
    periodic._thread.join(HANG)
    assert not periodic._thread.is_alive()
