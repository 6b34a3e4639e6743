"""What reading gives: windows and token reports, of AfterImage's class and of ours."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _compat import Subject

TOKENS = ("prompt_token_count", "completion_token_count", "total_token_count")


def call(model: str | None, prompt: int, completion: int, **keywords: Any) -> dict[str, Any]:
    """The keywords of a call of a model."""
    return {
        **({} if model is None else {"model_name": model}),
        "prompt_token_count": prompt,
        "completion_token_count": completion,
        "total_token_count": prompt + completion,
        **keywords,
    }


def rows(report: Any) -> list[tuple[str, int, int, int]]:
    """A report's rows as tuples."""
    return [
        (row.model_name, row.prompt_tokens, row.completion_tokens, row.total_tokens)
        for row in report.by_model
    ]


def test_get_metrics_summarises_a_window(subject: Subject) -> None:
    """`get_metrics` gives mean, least, greatest and number, as plain numbers."""
    monitor = subject.monitor()
    for duration in (1.0, 2.0, 6.0):
        monitor.track_generation(duration, True)
    subject.settle(monitor)
    found = monitor.get_metrics("generation_time")
    assert found == {"mean": 3.0, "min": 1.0, "max": 6.0, "count": 3}
    assert {key: type(value) for key, value in found.items()} == {
        "mean": float,
        "min": float,
        "max": float,
        "count": int,
    }


def test_nothing_in_the_window_is_an_empty_dict(subject: Subject) -> None:
    """A name that was recorded, but not lately, gives `{}`."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True)
    subject.settle(monitor)
    assert monitor.get_metrics("generation_time", timedelta(0)) == {}
    assert monitor.get_metrics("generation_time", window=timedelta(hours=1))["count"] == 1


def test_a_report_sums_by_model_sorted_by_name(subject: Subject) -> None:
    """Tokens of calls and of evaluations are summed under the model that each names."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("zeta", 10, 1))
    monitor.track_generation(1.0, True, **call("atlas", 20, 2))
    monitor.track_generation(1.0, False, **call("atlas", 30, 3, error="late"))
    monitor.track_evaluation(1.0, True, "judge", {"c": 1}, **call("judge-mini", 40, 4))
    subject.settle(monitor)
    report = monitor.get_total_token_usage()
    assert rows(report) == [
        ("atlas", 50, 5, 55),
        ("judge-mini", 40, 4, 44),
        ("zeta", 10, 1, 11),
    ]
    assert (report.total_prompt_tokens, report.total_completion_tokens) == (100, 10)
    assert report.total_tokens == 110
    assert isinstance(report, subject.module.TokenUsageReport)
    assert all(isinstance(row, subject.module.ModelTokenUsage) for row in report.by_model)


def test_an_empty_report(subject: Subject) -> None:
    """Before the first call there is no row, and every total is 0."""
    report = subject.monitor().get_total_token_usage()
    assert report == subject.module.TokenUsageReport(by_model=[])


def test_a_call_without_tokens_makes_no_row(subject: Subject) -> None:
    """A report names only models that told tokens."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, model_name="silent")
    subject.settle(monitor)
    assert monitor.get_total_token_usage().by_model == []


def test_the_providers_total_is_kept(subject: Subject) -> None:
    """A total above its two parts, as with reasoning that is not itemised, is not corrected."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("atlas", 10, 5, total_token_count=40))
    subject.settle(monitor)
    assert rows(monitor.get_total_token_usage()) == [("atlas", 10, 5, 40)]


def test_tokens_without_any_model_are_unknown(subject: Subject) -> None:
    """Where no call ever named a model the tokens are under `unknown`."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call(None, 10, 5))
    subject.settle(monitor)
    assert rows(monitor.get_total_token_usage()) == [("unknown", 10, 5, 15)]


def test_tokens_without_a_model_beside_calls_that_name_one(subject: Subject) -> None:
    """They raise the bill of no model that was named, unless ours was told a default model."""
    arguments: list[dict[str, Any]] = [{}]
    if not subject.is_old:
        arguments.append({"config": subject.module.MonitorConfig(default_model="atlas")})
    reports = []
    for each in arguments:
        monitor = subject.monitor(**each)
        monitor.track_generation(1.0, True, **call("atlas", 10, 5))
        monitor.track_generation(1.0, True, **call(None, 10, 5))
        subject.settle(monitor)
        reports.append(rows(monitor.get_total_token_usage()))
    apart = [("atlas", 10, 5, 15), ("unknown", 10, 5, 15)]
    assert reports == subject.differs(
        old=[apart],
        new=[apart, [("atlas", 20, 10, 30)]],
        why="AfterImage names no model in a failed call, but the call belongs to one",
    )


def test_a_report_over_a_window(subject: Subject) -> None:
    """With a window only its calls are summed; None means all, and so does 0 in the old report."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("atlas", 10, 5))
    subject.settle(monitor)
    assert monitor.get_total_token_usage(timedelta(minutes=5)).total_tokens == 15
    assert monitor.get_total_token_usage(window=timedelta(microseconds=1)).total_tokens == 0
    assert monitor.get_total_token_usage(timedelta(0)).total_tokens == subject.differs(
        old=15, new=0, why="a window of zero length contains nothing"
    )
    assert monitor.get_total_token_usage(None).total_tokens == 15


@pytest.mark.parametrize("metric", TOKENS)
def test_token_metrics_recorded_by_hand(subject: Subject, metric: str) -> None:
    """A sample of a token metric counts in its window; the old report has it too, ours does not."""
    monitor = subject.monitor()
    monitor.record_metric(metric, 7, {"model_name": "atlas"})
    subject.settle(monitor)
    assert monitor.get_metrics(metric)["max"] == 7
    field = metric.replace("_token_count", "_tokens").removeprefix("total_")
    report = monitor.get_total_token_usage()
    total = report.total_tokens if field == "tokens" else getattr(report, f"total_{field}")
    assert total == subject.differs(
        old=7, new=0, why="a report sums calls and evaluations, each once"
    )


def test_threads_may_record_at_once(subject: Subject) -> None:
    """Nothing is lost where several threads tell the same monitor."""
    monitor = subject.monitor(metric_handlers=[_Deaf()])

    def tell() -> None:
        for _ in range(200):
            monitor.track_generation(1.0, True, **call("atlas", 2, 1))

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subject.settle(monitor)
    assert monitor.get_metrics("generation_time")["count"] == 800
    assert monitor.get_total_token_usage().total_tokens == 2400


def test_the_callback_gets_a_report_again_and_again(subject: Subject) -> None:
    """`token_usage_callback` is called with the running totals, on a thread of the monitor's."""
    reports: list[Any] = []
    twice = threading.Event()
    callers = set()

    def keep(report: Any) -> None:
        reports.append(report)
        callers.add(threading.current_thread())
        if len(reports) >= 2 and reports[-1].total_tokens:
            twice.set()

    monitor = subject.monitor(token_usage_callback=keep, token_usage_callback_interval_seconds=0.02)
    monitor.track_generation(1.0, True, **call("atlas", 10, 5))
    assert twice.wait(30)
    assert reports[-1].total_tokens == 15
    assert threading.main_thread() not in callers


def test_a_report_asked_long_after(subject: Subject) -> None:
    """Calls that are older than any window stay in the totals."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("atlas", 10, 5))
    then = datetime.now() - timedelta(days=2)  # noqa: DTZ005 - naive is what the old class takes
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    assert monitor.get_metrics("m", timedelta(days=1)) == {}
    assert monitor.get_metrics("m", timedelta(days=3))["count"] == 1
    assert monitor.get_total_token_usage().total_tokens == 15


class _Deaf:
    """A metric handler that does nothing, so that the old class does not write a file."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Do nothing."""
