"""What the monitor counts of itself."""

from __future__ import annotations

import threading

from genmeter.events.model import Reason
from genmeter.pipeline.self_metrics import SelfMetrics


def test_what_is_left_out_is_counted_by_reason_whatever_thread_says_so() -> None:
    """No count of any thread is lost to another's."""
    self_metrics = SelfMetrics()

    def work() -> None:
        for _ in range(5_000):
            self_metrics.count_rejected(Reason.NEGATIVE)
        self_metrics.count_rejected(Reason.NO_NAME)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert self_metrics.rejected == {"negative": 40_000, "no_name": 8}


def test_the_other_counts_have_names_and_all_begin_at_0_again() -> None:
    """A forked child starts from nothing."""
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
