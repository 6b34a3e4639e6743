"""What the monitor counts of itself."""

from __future__ import annotations

import threading

from genmeter.events import Reason
from genmeter.tallies import Tallies


def test_what_is_left_out_is_counted_by_reason_whatever_thread_says_so() -> None:
    """No count of any thread is lost to another's."""
    tallies = Tallies()

    def work() -> None:
        for _ in range(5_000):
            tallies.count_rejected(Reason.NEGATIVE)
        tallies.count_rejected(Reason.NO_NAME)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tallies.rejected == {"negative": 40_000, "no_name": 8}


def test_the_other_counts_have_names_and_all_begin_at_0_again() -> None:
    """A forked child starts from nothing."""
    tallies = Tallies()
    tallies.recorded = 5
    tallies.count_overflow("models")
    tallies.count_handler_error("callback")
    tallies.count_export_failure("otlp")
    tallies.count_rejected(Reason.INTERNAL)
    assert tallies.overflows == {"models": 1}
    assert tallies.handler_errors == {("callback", "raised"): 1}
    assert tallies.export_failures == {"otlp": 1}
    tallies.reset()
    assert tallies.recorded == 0
    assert not tallies.rejected
    assert not any([tallies.overflows, tallies.handler_errors, tallies.export_failures])
