"""Calls that a framework's monitor reports after their end, beside the spans of its client: AfterImage's way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import Tracing, rows

import genmeter
from genmeter import GenAISpanProcessor, GenerationMonitor
from genmeter.observed.observer import REPORT_SECONDS, expect_reports
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


class Job:
    """A job that reports to a monitor of its own while spans go to that of the process."""

    def __init__(self, process: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.process = process
        self.own = GenerationMonitor()
        self.processor = GenAISpanProcessor()
        self.tracing = Tracing(self.processor)
        self.seconds = 0.0
        process.observer._now = lambda: self.seconds
        self._monkeypatch = monkeypatch

    def report(self, duration: float, at: float, success: bool = True, **keywords: Any) -> None:
        """Report a call that ended at a time."""
        self._monkeypatch.setattr("genmeter.clock.now", lambda: 1_790_000_000 + at)
        self.own.track_generation(duration, success, **keywords)

    def tokens(self, prompt: int = 10, completion: int = 5) -> dict[str, int]:
        """Return the keywords of tokens."""
        return {"prompt_token_count": prompt, "completion_token_count": completion}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """Return a job whose reports are expected."""
    with isolated_monitor() as process:
        made = Job(process, monkeypatch)
        expect_reports(True)
        yield made
        expect_reports(False)
        made.processor.shutdown()
        made.own.shutdown()


def test_report_is_the_call_and_its_span_completes_it(job: Job) -> None:
    """Once in the process, with the job's step, in the monitor that was called."""
    job.tracing.call(0.0, 1.0, gen_ai__response__finish_reasons=["stop"])
    job.report(1.1, 1.05, metadata={"operation": "question_generation"}, **job.tokens())
    (row,) = rows(job.own)
    assert (row["step"], row["finish_reason"], row["model"]) == ("question_generation", "stop", "m")
    assert rows(job.process) == []
    assert genmeter.process_token_usage().total_tokens == 15


def test_failed_call_is_reported_once(job: Job) -> None:
    """Without tokens: by its time and its outcome."""
    job.tracing.call(0.0, 1.0, error="openai.RateLimitError")
    job.report(1.1, 1.05, success=False, error="slow down", metadata={"operation": "ask"})
    job.tracing.flush()
    assert [row["step"] for row in rows(job.own)] == ["ask"]
    assert rows(job.process) == []


def test_call_that_is_not_reported_counts_after_some_seconds(job: Job) -> None:
    """Such as the judge's: its span is all there is."""
    job.tracing.call(0.0, 1.0)
    job.report(1.1, 1.05, **job.tokens(7, 7))
    assert rows(job.process) == []
    job.seconds = REPORT_SECONDS + 0.1
    job.process.flush()
    assert [row["input_tokens"] for row in rows(job.process)] == [10]
    assert [row["input_tokens"] for row in rows(job.own)] == [7]


def test_reports_in_parallel_take_their_own_spans(job: Job) -> None:
    """By tokens and time, in whichever order the reports come."""
    spans = [job.tracing.begin(0.01 * number) for number in range(5)]
    for number, span in enumerate(spans):
        job.tracing.finish(span, 1.0 + 0.01 * number, tokens=(number + 1, 5))
    for number in (3, 0, 4, 1, 2):
        at = 1.06 + 0.01 * number
        job.report(at, at, step=f"s{number}", **job.tokens(number + 1))
    job.tracing.flush()
    assert rows(job.process) == []
    assert {row["step"]: row["input_tokens"] for row in rows(job.own)} == {
        f"s{number}": number + 1 for number in range(5)
    }


def test_span_after_the_report_repeats_it(job: Job) -> None:
    """A callback on another thread makes its span after the call."""
    job.report(1.1, 1.05, step="ask", **job.tokens())
    job.tracing.call(0.0, 1.0)
    job.tracing.flush()
    assert [row["step"] for row in rows(job.own)] == ["ask"]
    assert rows(job.process) == []


def test_second_instrumentation_of_a_waiting_call(job: Job) -> None:
    """Two spans and a report are one call."""
    job.tracing.call(0.0, 1.0, tokens=(10, 5))
    cached = {"gen_ai.usage.cache_read.input_tokens": 8}
    job.tracing.call(0.1, 0.9, scope="openinference.instrumentation.openai", **cached)
    job.report(1.1, 1.05, step="ask", **job.tokens())
    job.tracing.flush()
    assert [(row["step"], row["cache_read_tokens"]) for row in rows(job.own)] == [("ask", 8)]
    assert rows(job.process) == []


def test_conversation_keeps_its_calls(job: Job) -> None:
    """Its report is none of a call."""
    job.tracing.call(0.1, 0.9, tokens=None)
    job.report(1.1, 1.05, metadata={"operation": "conversation_generation"})
    job.tracing.flush()
    assert len(rows(job.process)) == 1
