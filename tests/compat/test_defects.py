"""The thirteen defects of AfterImage's class: promises that it breaks and ours keeps.

Each test states a promise and runs on both classes. `subject.breaks` checks that AfterImage's class
fails and how, so a release that fixes a defect fails here. The numbers are those of
docs/compatibility.md.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
from enum import Enum
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from _compat import Alerts, FailingMetrics, Logs, Metrics, journal

from _waiting import eventually
from genmeter import HistoryConfig, MonitorConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _compat import Subject

BURST = 2_000
CAPACITY = 1_000
SUFFIXES = {"csv": ".csv", "excel": ".xlsx", "parquet": ".parquet"}


def test_defect_01_a_burst_before_shutdown_is_kept(subject: Subject) -> None:
    """All calls recorded before `shutdown()` are in the totals and in the journal."""
    monitor = subject.monitor()
    for _ in range(BURST):
        monitor.track_generation(1.0, True, model_name="m", total_token_count=1)
    monitor.shutdown()
    with subject.breaks(match="tokens of the burst"):
        assert monitor.get_total_token_usage().total_tokens == BURST, "tokens of the burst"
    with subject.breaks(match="lines of the burst"):
        assert len(journal(subject, "generation_time")) == BURST, "lines of the burst"


def test_defect_02_a_read_sees_every_call_before_it(subject: Subject) -> None:
    """A report and a window read right after a call include it."""
    monitor = subject.monitor()
    with subject.breaks(match="a call was missed"):
        for number in range(1, 501):
            monitor.track_generation(1.0, True, model_name="m", total_token_count=1)
            usage = monitor.get_total_token_usage().total_tokens
            count = monitor.get_metrics("generation_time")["count"]
            assert (usage, count) == (number, number), "a call was missed"


def test_defect_03_memory_is_bounded(subject: Subject) -> None:
    """The history never has more rows than its capacity."""
    # AfterImage's class has no capacity and never drops a row.
    config = {"config": MonitorConfig(history=HistoryConfig(capacity=CAPACITY))}
    monitor = subject.monitor(
        metric_handlers=[Metrics()], **({} if subject.is_afterimage else config)
    )
    kept = []
    for _ in range(3):
        for _ in range(CAPACITY):
            monitor.track_generation(1.0, True, model_name="m", total_token_count=1)
        subject.settle(monitor)
        kept.append(rows_kept(subject, monitor))
    with subject.breaks(match="rows kept"):
        assert kept[1:] == kept[:1] * 2, "rows kept"
    assert monitor.get_total_token_usage().total_tokens == 3 * CAPACITY


def test_defect_04_the_journal_is_opened_once(subject: Subject, opened: list[str]) -> None:
    """`metrics.jsonl` is opened once for two hundred calls, not once per metric."""
    monitor = subject.monitor()
    for _ in range(200):
        monitor.track_generation(1.0, True, model_name="m")
    subject.settle(monitor)
    assert len(journal(subject, "generation_time")) == 200
    openings = [path for path in opened if path.endswith("metrics.jsonl")]
    # The last one is by the assertion above.
    with subject.breaks(match="openings"):
        assert len(openings) - 1 == 1, "openings"


def test_defect_05_the_error_rate_counts_successful_calls(subject: Subject) -> None:
    """With one failure in four the error rates of calls and evaluations are a quarter."""
    monitor = subject.monitor()
    for number in range(4):
        failure = {"error": "late"} if number == 0 else {}
        monitor.track_generation(1.0, number > 0, **failure)
        monitor.track_evaluation(1.0, number > 0, "judge", {}, **failure)
    subject.settle(monitor)
    with subject.breaks(match="share of failed calls"):
        assert monitor.get_metrics("error_rate")["mean"] == 0.25, "share of failed calls"
    with subject.breaks(match="share of failed evaluations"):
        mean = monitor.get_metrics("evaluation_error_rate")["mean"]
        assert mean == 0.25, "share of failed evaluations"


def test_defect_06_no_alert_fires_without_data(subject: Subject) -> None:
    """No alert fires on a monitor without events."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])
    monitor.check_alerts()
    subject.settle(monitor)
    with subject.breaks(match="without data"):
        assert alerts.names() == [], "alerts without data"


def test_defect_07_an_alert_is_sent_once_until_it_is_resolved(subject: Subject) -> None:
    """An alert is sent once while it fires, and again when it fires after it was resolved."""
    alerts = Alerts()
    monitor = subject.monitor(alert_handlers=[alerts])

    def sent_after(successes: int, failures: int) -> int:
        for number in range(successes + failures):
            monitor.track_generation(1.0, number < successes, error=None)
        for _ in range(3):
            subject.settle(monitor)
            monitor.check_alerts()
        subject.settle(monitor)
        # Ours also sends the resolved alert, at the level `info`.
        sent = [alert.name for alert in alerts.alerts if alert.level != "info"]
        return sent.count("low_success_rate")

    with subject.breaks(match="first time"):
        assert sent_after(successes=0, failures=1) == 1, "sent the first time"
    with subject.breaks(match="resolved"):
        assert sent_after(successes=9, failures=0) == 1, "sent though it was resolved"
    with subject.breaks(match="came back"):
        assert sent_after(successes=0, failures=10) == 2, "sent when it came back"


@pytest.mark.parametrize("name", ["model_usage:org/model", "a" * 40, "a:b"])
@pytest.mark.parametrize("format_", ["csv", "excel", "parquet"])
def test_defect_08_exports_accept_every_name_and_keep_metadata(
    subject: Subject, tmp_path: Path, name: str, format_: str
) -> None:
    """Any metric name can be exported, with the metadata."""
    monitor = subject.monitor()
    monitor.record_metric(name, 0.25, {"region": "north"})
    subject.settle(monitor)
    out = tmp_path / "out"
    failures = {
        ("csv", "model_usage:org/model"): (OSError, "non-existent directory"),
        # The messages of XlsxWriter and openpyxl; pandas uses either.
        ("excel", "model_usage:org/model"): (Exception, "Invalid .*character"),
        ("excel", "a" * 40): (Exception, "31 char"),
        ("excel", "a:b"): (Exception, "Invalid .*character"),
    }
    error, match = failures.get((format_, name), (AssertionError, "metadata column"))
    with subject.breaks(error, match=match):
        monitor.export_metrics(out.with_suffix(SUFFIXES[format_]), format=format_)
        (frame,) = (each for each in exported(out, format_) if 0.25 in set(each["value"]))
        texts = {str(value) for value in frame.to_numpy().ravel()}
        assert any("north" in text for text in texts), "no metadata column"


def test_defect_09_log_lines_have_their_own_level(
    subject: Subject, records: list[tuple[str, str]]
) -> None:
    """A message is logged at its own level, and an internal failure never as `info`."""
    logs = Logs()
    monitor = subject.monitor(metric_handlers=[FailingMetrics()])
    monitor.log_handlers.append(logs)
    monitor.log_info("all is well")
    monitor.log_warning("the quota is low")
    monitor.log_error("it broke")
    monitor.record_metric("m", 1.0)
    subject.settle(monitor)
    levels = {
        text: {level for level, line in eventually(lambda: records) if text in line}
        for text in ("all is well", "the quota is low", "it broke")
    }
    with subject.breaks(match="levels"):
        assert levels == {
            "all is well": {"INFO"},
            "the quota is low": {"WARNING"},
            "it broke": {"ERROR"},
        }, "levels"

    def failure_levels() -> set[str]:
        lines = [(each["level"].upper(), json.dumps(each, default=str)) for each in logs.messages]
        return {level for level, line in [*lines, *records] if "boom" in line}

    found = eventually(failure_levels)
    with subject.breaks(match="level of a failure"):
        assert found <= {"WARNING", "ERROR"}, "level of a failure"


def test_defect_10_a_score_named_by_an_enum_uses_its_value(subject: Subject) -> None:
    """The metric of a score whose key is an Enum is named by the Enum's value."""

    class Criterion(str, Enum):  # noqa: UP042 - like AfterImage's criteria
        COHERENCE = "coherence"

    class Plain(Enum):
        GROUNDING = "grounding"

    monitor = subject.monitor()
    monitor.track_evaluation(1.0, True, "judge", {Criterion.COHERENCE: 0.5, Plain.GROUNDING: 0.25})
    subject.settle(monitor)
    with subject.breaks(match="score of a text"):
        found = monitor.get_metrics("evaluation_score_coherence")
        assert (found["count"], found["mean"]) == (1, 0.5), "score of a text"
    with subject.breaks(match="score of an Enum"):
        found = monitor.get_metrics("evaluation_score_grounding")
        assert (found["count"], found["mean"]) == (1, 0.25), "score of an Enum"


def test_defect_11_a_failing_handler_is_logged_once(
    subject: Subject, records: list[tuple[str, str]]
) -> None:
    """A handler that raises for two hundred metrics is logged in one line."""
    logs = Logs()
    monitor = subject.monitor(metric_handlers=[FailingMetrics()], log_handlers=[logs])
    for _ in range(200):
        monitor.record_metric("m", 1.0)
    subject.settle(monitor)

    def lines() -> list[str]:
        texts = [json.dumps(each, default=str) for each in logs.messages]
        return [line for line in (*texts, *(line for _, line in records)) if "boom" in line]

    assert eventually(lines)
    with subject.breaks(match="lines"):
        assert len(lines()) == 1, "lines"


def test_defect_11_a_blocked_handler_does_not_stop_others(subject: Subject) -> None:
    """While one handler blocks, the others and the history get every metric."""
    blocked, release, received = threading.Event(), threading.Event(), threading.Event()

    class Blocks:
        """Blocks until released."""

        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            """Wait."""
            blocked.set()
            release.wait(60)

    class Receives:
        """Sets an event for the first metric."""

        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            """Set the event."""
            received.set()

    monitor = subject.monitor(metric_handlers=[Blocks(), Receives()])
    try:
        monitor.record_metric("a", 1.0)
        monitor.record_metric("b", 2.0)
        assert blocked.wait(30)
        # Only a timeout can show that the handler of AfterImage's class gets nothing.
        with subject.breaks(match="the other handler"):
            assert received.wait(0.3 if subject.is_afterimage else 30), (
                "the other handler got nothing"
            )
        with subject.breaks(match="the history"):
            assert monitor.get_metrics("b")["count"] == 1, "the history got nothing"
    finally:
        release.set()


def test_defect_12_a_value_that_is_not_a_number_is_dropped(subject: Subject) -> None:
    """NaN and text do not change a mean or make a read raise."""
    monitor = subject.monitor()
    for value in (1.0, math.nan, 3.0):
        monitor.record_metric("with_nan", value)
    for value in (1.0, "fast", 3.0):
        monitor.record_metric("with_text", value)
    monitor.track_generation(math.nan, True)
    monitor.track_generation(2.0, True, total_token_count="many")
    subject.settle(monitor)
    with subject.breaks(match="mean beside a NaN"):
        assert monitor.get_metrics("with_nan")["mean"] == 2.0, "mean beside a NaN"
    with subject.breaks(TypeError, match="unsupported operand"):
        assert monitor.get_metrics("with_text")["mean"] == 2.0
    with subject.breaks(match="mean of the durations"):
        assert monitor.get_metrics("generation_time")["mean"] == 2.0, "mean of the durations"
    with subject.breaks(ValueError, match="many"):
        assert monitor.get_total_token_usage().total_tokens == 0
    assert monitor.get_metrics("success_rate")["count"] == 2


def test_defect_13_a_missing_total_is_the_sum_of_its_parts(subject: Subject) -> None:
    """A total that is missing or None is the sum of prompt and completion tokens."""
    monitor = subject.monitor()
    parts = {"prompt_token_count": 10, "completion_token_count": 5}
    monitor.track_generation(1.0, True, model_name="m", total_token_count=None, **parts)
    monitor.track_generation(1.0, True, model_name="m", **parts)
    monitor.track_evaluation(1.0, True, "judge", {}, model_name="m", **parts)
    subject.settle(monitor)
    report = monitor.get_total_token_usage()
    assert (report.total_prompt_tokens, report.total_completion_tokens) == (30, 15)
    with subject.breaks(match="total of the parts"):
        assert report.total_tokens == 45, "total of the parts"


def rows_kept(subject: Subject, monitor: Any) -> int:
    """Return the number of rows in a monitor's history."""
    if subject.is_afterimage:
        return sum(len(rows) for rows in monitor._metrics.values())
    return int(monitor._session.history.size)


def exported(out: Path, format_: str) -> list[pd.DataFrame]:
    """Return the tables of an export."""
    if format_ == "csv":
        paths = sorted(out.parent.glob(f"{out.name}*.csv"))
        return [frame for path in paths if "value" in (frame := pd.read_csv(path)).columns]
    if format_ == "excel":
        sheets = pd.read_excel(out.with_suffix(SUFFIXES[format_]), sheet_name=None).values()
        return [frame for frame in sheets if "value" in frame.columns]
    return [pd.read_parquet(out.with_suffix(SUFFIXES[format_]))]


_opened: list[str] | None = None


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_on_audit)  # cannot be removed


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Collect the paths of all files opened during the test."""
    global _opened  # noqa: PLW0603 - the hook outlives the test
    _opened = found = []
    yield found
    _opened = None


@pytest.fixture
def records() -> Iterator[list[tuple[str, str]]]:
    """Collect level and text of every standard log record during the test."""
    found: list[tuple[str, str]] = []
    make = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        found.append((record.levelname, record.getMessage()))
        return record

    root, level = logging.getLogger(), logging.getLogger().level
    logging.setLogRecordFactory(factory)
    root.setLevel(logging.INFO)
    yield found
    logging.setLogRecordFactory(make)
    root.setLevel(level)
