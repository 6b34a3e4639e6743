"""Streams whose request and end are two spans, as logfire writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import Tracing, repetitions, rows

from genmeter import GenAISpanProcessor

if TYPE_CHECKING:
    from genmeter.testing import IsolatedMonitor


def test_stream_of_two_roots_is_one_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Logfire: a request span, and a log at the end with the tokens and the time of reading."""
    request = tracing.begin(0.0, scope="logfire.openai", logfire__span_type="span")
    tracing.finish(request, 0.5, tokens=None)
    log = tracing.begin(3.0, scope="logfire.openai", logfire__span_type="log", duration=2.4)
    tracing.finish(log, 3.0, gen_ai__response__id="r")
    (row,) = rows(monitor)
    assert row["input_tokens"] == 10
    assert row["duration_seconds"] == pytest.approx(3.0)
    assert repetitions(monitor) == {"opening": 1}


def test_streams_in_parallel_have_their_own_requests(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Each log takes the request that ended when its reading began."""
    for start in (0.0, 1.0):
        request = tracing.begin(start, scope="logfire.openai", logfire__span_type="span")
        tracing.finish(request, start + 0.5, tokens=None)
    for start in (1.0, 0.0):
        at = start + 4.0
        log = tracing.begin(at, scope="logfire.openai", logfire__span_type="log", duration=3.45)
        tracing.finish(log, at)
    assert [row["duration_seconds"] for row in rows(monitor)] == [pytest.approx(4.0)] * 2


def test_failed_request_of_a_stream_counts(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """There is no log after it."""
    request = tracing.begin(0.0, scope="logfire.openai", logfire__span_type="span")
    tracing.finish(request, 0.5, error="openai.RateLimitError")
    assert [row["error_type"] for row in rows(monitor)] == ["RateLimitError"]


def logfire_request(tracing: Tracing, start: float, end: float, **more: Any) -> None:
    """Make the span of a stream's request."""
    request = tracing.begin(start, scope="logfire.openai", logfire__span_type="span", **more)
    tracing.finish(request, end, tokens=None)


def logfire_log(tracing: Tracing, at: float, duration: float, **more: Any) -> None:
    """Make the log of a stream's end."""
    log = tracing.begin(
        at, scope="logfire.openai", logfire__span_type="log", duration=duration, **more
    )
    tracing.finish(log, at)


def test_stream_without_an_end_counts_as_the_monitor_ends(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Its usage is unknown; until then its log may still come."""
    logfire_request(tracing, 0.0, 0.5)
    logfire_request(tracing, 1.0, 1.5)
    logfire_log(tracing, 4.0, 2.5)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10]
    monitor.shutdown()
    (left,) = [row for row in rows(monitor) if row["input_tokens"] is None]
    assert (left["outcome"], left["usage_unread"]) == ("success", "stream_left")
    assert left["duration_seconds"] == pytest.approx(0.5)
    assert repetitions(monitor) == {"opening": 1}


def test_stream_that_is_read_late_is_one_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Its log takes a request of its model, though not that one's beginning."""
    logfire_request(tracing, 0.0, 0.5)
    logfire_request(tracing, 0.0, 0.5, gen_ai__request__model="other")
    logfire_log(tracing, 60.0, 2.0)
    logfire_log(tracing, 61.0, 2.0, gen_ai__request__model="other")
    monitor.shutdown()
    assert [row["duration_seconds"] for row in rows(monitor)] == [pytest.approx(2.0)] * 2
    assert repetitions(monitor) == {"opening": 2}


def test_stream_without_an_end_that_something_else_reports_counts_once(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """A block around it, a call's span around it, or another instrumentation."""
    with monitor.generation(model="mine"):
        logfire_request(tracing, 0.0, 0.5)
    outer = tracing.begin(1.0, scope="pydantic-ai")
    request = tracing.begin(1.1, scope="logfire.openai", parent=outer, logfire__span_type="span")
    tracing.finish(request, 1.5, tokens=None)
    tracing.finish(outer, 2.0, gen_ai__response__id="r1")
    beside = tracing.begin(3.01)
    logfire_request(tracing, 3.0, 3.5)
    tracing.finish(beside, 9.0, tokens=None)
    monitor.shutdown()
    assert len(rows(monitor)) == 3


def test_more_streams_without_an_end_than_are_remembered_are_calls(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are recorded at once."""
    monkeypatch.setattr("genmeter.observed.openings._MAX_OPENINGS", 2)
    for number in range(5):
        logfire_request(tracing, number, number + 0.5)
    tracing.flush()
    assert len(rows(monitor)) == 3
    monitor.shutdown()
    assert len(rows(monitor)) == 5


def test_stream_without_an_end_counts_once_of_two_processors(monitor: IsolatedMonitor) -> None:
    """Of one monitor."""
    tracing = Tracing(GenAISpanProcessor(monitor), GenAISpanProcessor(monitor))
    logfire_request(tracing, 0.0, 0.5)
    logfire_request(tracing, 1.0, 1.5)
    logfire_log(tracing, 4.0, 2.5)
    for each in tracing.processors:
        each.shutdown()
    monitor.shutdown()
    assert len(rows(monitor)) == 2
