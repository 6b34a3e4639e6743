"""Windows and token reports of AfterImage's class and of ours."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _compat import Subject

TOKENS = ("prompt_token_count", "completion_token_count", "total_token_count")


def call(model: str | None, prompt: int, completion: int, **keywords: Any) -> dict[str, Any]:
    """Return the keywords of a model call."""
    return {
        **({} if model is None else {"model_name": model}),
        "prompt_token_count": prompt,
        "completion_token_count": completion,
        "total_token_count": prompt + completion,
        **keywords,
    }


def rows(report: Any) -> list[tuple[str, int, int, int]]:
    """Return a report's rows as tuples."""
    return [
        (row.model_name, row.prompt_tokens, row.completion_tokens, row.total_tokens)
        for row in report.by_model
    ]


def test_get_metrics_summarises_a_window(subject: Subject) -> None:
    """`get_metrics` returns mean, minimum, maximum and count as plain numbers."""
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


def test_get_metrics_of_an_empty_window_is_an_empty_dict(subject: Subject) -> None:
    """A metric that was recorded before the window returns `{}`."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True)
    subject.settle(monitor)
    assert monitor.get_metrics("generation_time", timedelta(0)) == {}
    assert monitor.get_metrics("generation_time", window=timedelta(hours=1))["count"] == 1


def test_a_report_sums_by_model_sorted_by_name(subject: Subject) -> None:
    """Tokens of calls and evaluations are summed by their model."""
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


def test_a_report_without_calls_is_empty(subject: Subject) -> None:
    """Before the first call a report has no rows, and every total is 0."""
    report = subject.monitor().get_total_token_usage()
    assert report == subject.module.TokenUsageReport(by_model=[])


def test_a_call_without_tokens_has_no_row(subject: Subject) -> None:
    """A report has only models with tokens."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, model_name="silent")
    subject.settle(monitor)
    assert monitor.get_total_token_usage().by_model == []


def test_the_providers_total_is_kept(subject: Subject) -> None:
    """A total above the sum of its parts, as with hidden reasoning tokens, is not corrected."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("atlas", 10, 5, total_token_count=40))
    subject.settle(monitor)
    assert rows(monitor.get_total_token_usage()) == [("atlas", 10, 5, 40)]


def test_tokens_without_any_model_are_unknown(subject: Subject) -> None:
    """If no call names a model the tokens count for `unknown`."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call(None, 10, 5))
    subject.settle(monitor)
    assert rows(monitor.get_total_token_usage()) == [("unknown", 10, 5, 15)]


def test_tokens_without_a_model_count_for_no_named_model(subject: Subject) -> None:
    """Tokens without a model count for `unknown`, or in ours for the configured default model."""
    arguments: list[dict[str, Any]] = [{}]
    if not subject.is_afterimage:
        arguments.append({"config": subject.module.MonitorConfig(default_model="atlas")})
    reports = []
    for each in arguments:
        monitor = subject.monitor(**each)
        monitor.track_generation(1.0, True, **call("atlas", 10, 5))
        monitor.track_generation(1.0, True, **call(None, 10, 5))
        subject.settle(monitor)
        reports.append(rows(monitor.get_total_token_usage()))
    separate = [("atlas", 10, 5, 15), ("unknown", 10, 5, 15)]
    assert reports == subject.differs(
        afterimage=[separate],
        ours=[separate, [("atlas", 20, 10, 30)]],
        why="AfterImage names no model in a failed call, but the call belongs to one",
    )


def test_a_report_can_be_limited_to_a_window(subject: Subject) -> None:
    """A window limits the calls; None means all, and so does 0 in AfterImage's class."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("atlas", 10, 5))
    subject.settle(monitor)
    assert monitor.get_total_token_usage(timedelta(minutes=5)).total_tokens == 15
    assert monitor.get_total_token_usage(window=timedelta(microseconds=1)).total_tokens == 0
    assert monitor.get_total_token_usage(timedelta(0)).total_tokens == subject.differs(
        afterimage=15, ours=0, why="a window of zero length contains nothing"
    )
    assert monitor.get_total_token_usage(None).total_tokens == 15


@pytest.mark.parametrize("metric", TOKENS)
def test_recorded_token_metrics_do_not_change_the_report(subject: Subject, metric: str) -> None:
    """A recorded token metric is in its window, but not in our report; in AfterImage's it is."""
    monitor = subject.monitor()
    monitor.record_metric(metric, 7, {"model_name": "atlas"})
    subject.settle(monitor)
    assert monitor.get_metrics(metric)["max"] == 7
    field = metric.replace("_token_count", "_tokens").removeprefix("total_")
    report = monitor.get_total_token_usage()
    total = report.total_tokens if field == "tokens" else getattr(report, f"total_{field}")
    assert total == subject.differs(
        afterimage=7, ours=0, why="a report sums calls and evaluations, each once"
    )


def test_threads_may_record_at_once(subject: Subject) -> None:
    """No call is lost when several threads record to one monitor."""
    monitor = subject.monitor(metric_handlers=[_NoOp()])

    def record() -> None:
        for _ in range(200):
            monitor.track_generation(1.0, True, **call("atlas", 2, 1))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subject.settle(monitor)
    assert monitor.get_metrics("generation_time")["count"] == 800
    assert monitor.get_total_token_usage().total_tokens == 2400


def test_the_token_usage_callback_is_called_repeatedly(subject: Subject) -> None:
    """`token_usage_callback` gets the current totals at every interval, on another thread."""
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


def test_totals_include_calls_older_than_any_window(subject: Subject) -> None:
    """Totals are since the start, whatever window a read uses."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, **call("atlas", 10, 5))
    then = datetime.now() - timedelta(days=2)  # noqa: DTZ005 - AfterImage's class takes naive times
    monitor.record_metric("m", 1.0, {"timestamp": then})
    subject.settle(monitor)
    assert monitor.get_metrics("m", timedelta(days=1)) == {}
    assert monitor.get_metrics("m", timedelta(days=3))["count"] == 1
    assert monitor.get_total_token_usage().total_tokens == 15


class _NoOp:
    """A metric handler that does nothing, so that AfterImage's class writes no file."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Do nothing."""
