"""Counts of genmeter's own work."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.events.model import Reason
from genmeter.pipeline.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def switching_at_every_opcode(frame: FrameType, _event: str, _argument: object) -> Any:
    """Let another thread run between any two instructions, so that a race shows."""
    if frame.f_code.co_name.startswith("count_"):
        frame.f_trace_opcodes = True
        time.sleep(0)
    return switching_at_every_opcode


@pytest.mark.parametrize(
    ("count", "total"),
    [
        (
            lambda self_metrics: self_metrics.count_rejected(Reason.NEGATIVE),
            lambda self_metrics: self_metrics.rejected["negative"],
        ),
        (
            lambda self_metrics: self_metrics.count_handler_error("Handler"),
            lambda self_metrics: self_metrics.handler_errors["Handler", "raised"],
        ),
    ],
    ids=["rejected", "handler_errors"],
)
def test_concurrent_counts_lose_no_update(
    count: Callable[[SelfMetrics], None], total: Callable[[SelfMetrics], int]
) -> None:
    """Callers' threads take no lock."""
    self_metrics, barrier = SelfMetrics(), threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        sys.settrace(switching_at_every_opcode)
        for _ in range(100):
            count(self_metrics)
        sys.settrace(None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total(self_metrics) == 400


def test_rejected_values_are_counted_by_reason() -> None:
    """The counts of all threads are added."""
    self_metrics = SelfMetrics()
    self_metrics.count_rejected(Reason.NEGATIVE)
    thread = threading.Thread(target=self_metrics.count_rejected, args=[Reason.NEGATIVE])
    thread.start()
    thread.join()
    self_metrics.count_rejected(Reason.NO_NAME)
    assert self_metrics.rejected == {"negative": 2, "no_name": 1}


def test_reset_sets_every_count_to_0() -> None:
    """A forked child counts from 0."""
    self_metrics = SelfMetrics()
    self_metrics.recorded = 5
    self_metrics.count_overflow("models")
    self_metrics.count_handler_error("callback")
    self_metrics.count_export_failure("otlp")
    self_metrics.count_rejected(Reason.INTERNAL)
    assert self_metrics.overflows == {"models": 1}
    assert self_metrics.handler_errors == {("callback", "raised"): 1}
    assert self_metrics.export_failures == {"otlp": 1}
    self_metrics.reset()
    assert self_metrics.recorded == 0
    assert not self_metrics.rejected
    assert not any(
        [self_metrics.overflows, self_metrics.handler_errors, self_metrics.export_failures]
    )
