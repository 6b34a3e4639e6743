"""AfterImage's calls where something else watches its clients too: each once, reported or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import OPENINFERENCE, Tracing, rows

import genmeter
from genmeter import GenAISpanProcessor, GenerationMonitor
from genmeter.auto.afterimage import _reported
from genmeter.observed.observer import REPORT_SECONDS, expect_reports
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

Attempt = tuple[tuple[int, int] | None, str | None]
OK: Attempt = ((10, 5), None)
LIMITED: Attempt = (None, "openai.RateLimitError")


class Job:
    """A provider whose calls have spans, and the monitor that the job reports to."""

    def __init__(self, process: IsolatedMonitor) -> None:
        self.process = process
        self.own = GenerationMonitor()
        self.processor = GenAISpanProcessor()
        self.tracing = Tracing(self.processor)
        self.seconds = 0.0
        self.at = 0.0
        process.observer._now = lambda: self.seconds

    def _attempts(self, *attempts: Attempt) -> None:
        for tokens, error in attempts:
            self.tracing.call(self.at, self.at + 0.5, tokens=tokens, error=error)
            self.at += 1.0

    def call(self, *attempts: Attempt) -> None:
        """Call the provider, whose client makes some attempts."""
        _reported(lambda: self._attempts(*attempts))()

    async def acall(self, *attempts: Attempt) -> None:
        """Do so in a task."""

        async def method() -> None:
            await asyncio.sleep(0)
            self._attempts(*attempts)

        await _reported(method)()

    def report(self, tokens: tuple[int, int] | None = (10, 5), **keywords: Any) -> None:
        """Report a call."""
        success = keywords.pop("success", True)
        if tokens is not None:
            keywords |= {"prompt_token_count": tokens[0], "completion_token_count": tokens[1]}
        self.own.track_generation(0.6, success, step="ask", **keywords)

    def late(self) -> list[int | None]:
        """Return the input of the calls that nobody has reported, after the wait."""
        self.seconds += REPORT_SECONDS + 0.1
        self.process.flush()
        return [row["input_tokens"] for row in rows(self.process)]


@pytest.fixture
def job() -> Iterator[Job]:
    """Return a job."""
    with isolated_monitor() as process:
        made = Job(process)
        expect_reports(True)
        yield made
        expect_reports(False)
        made.processor.shutdown()
        made.own.shutdown()


def test_reported_call_counts_once(job: Job) -> None:
    """As the job reports it, at once, with what the span knows beside."""
    job.call(OK)
    job.report()
    (row,) = rows(job.own)
    assert (row["step"], row["input_tokens"], row["model"]) == ("ask", 10, "m")
    assert job.late() == []
    assert genmeter.process_token_usage().total_tokens == 15


def test_call_that_is_not_reported_is_not_lost(job: Job) -> None:
    """It counts after some seconds; the one after it is reported."""
    job.call(((7, 3), None))
    job.call(OK)
    job.report()
    assert [row["input_tokens"] for row in rows(job.own)] == [10]
    assert rows(job.process) == []
    assert job.late() == [7]
    assert job.late() == [7]


def test_calls_in_tasks_are_each_claimed_in_their_own(job: Job) -> None:
    """Equal ones too; one of them is not reported."""

    async def one(is_reported: bool) -> None:
        await job.acall(OK)
        await asyncio.sleep(0)
        if is_reported:
            job.report()

    async def run() -> None:
        await asyncio.gather(*(one(number != 2) for number in range(4)))

    asyncio.run(run())
    assert len(rows(job.own)) == 3
    assert job.late() == [10]


def test_attempts_within_a_call_are_its_own(job: Job) -> None:
    """The failed one is a retry; one with an answer that was of no use is billed, and in no report."""
    job.call(LIMITED, OK)
    job.report()
    job.call(((20, 9), None), ((30, 1), None))
    job.report((30, 1))
    found = rows(job.own)
    assert [row["input_tokens"] for row in found] == [10, 30]
    assert job.late() == [20]
    assert genmeter.process_token_usage().total_tokens == 15 + 31 + 29


def test_answers_that_one_report_sums_are_one_call(job: Job) -> None:
    """Also of several provider calls."""
    job.call(((20, 9), None), ((30, 1), None))
    job.report((50, 10))
    job.call(((1, 1), None))
    job.call(((2, 2), None))
    job.report((3, 3))
    assert [row["input_tokens"] for row in rows(job.own)] == [50, 3]
    assert job.late() == []


def test_failure_is_reported_once_and_keeps_what_was_billed(job: Job) -> None:
    """A report of a failure has no tokens; the answer that it could not use has."""
    job.call(LIMITED)
    job.report(None, success=False, error="slow down")
    job.call(OK)
    job.report(None, success=False, error="no JSON")
    assert [(row["success"], row["input_tokens"]) for row in rows(job.own)] == [
        (False, None),
        (False, 10),
    ]
    assert job.late() == []


def test_evaluation_takes_the_judges_call(job: Job) -> None:
    """It has its tokens; the attempt that was of no use is a call."""
    job.call(((8, 1), None))
    job.call(OK)
    job.own.track_evaluation(
        0.6, True, "judge", {"score": 0.5}, prompt_token_count=10, completion_token_count=5
    )
    job.own.track_evaluation(0.1, True, "embedding", {"score": 0.5})
    assert job.late() == [8]
    assert genmeter.process_token_usage().total_tokens == 15 + 9


def test_conversation_takes_none(job: Job) -> None:
    """Its report is none of a call."""
    job.call(OK)
    job.own.track_generation(3.0, True, conversation_length=2)
    assert job.late() == [10]


def test_report_in_another_task_is_found_by_its_tokens_and_time(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a call that was made on another thread."""
    monkeypatch.setattr("genmeter.clock.now", lambda: 1_790_000_000.55)

    async def run() -> None:
        await asyncio.create_task(job.acall(OK))
        job.report()

    asyncio.run(run())
    assert len(rows(job.own)) == 1
    assert job.late() == []


def test_several_instrumentations_of_an_unreported_call_count_it_once(job: Job) -> None:
    """Nested and side by side."""

    def method() -> None:
        outer = job.tracing.begin(0.0)
        job.tracing.call(0.1, 0.9, scope=OPENINFERENCE, parent=outer)
        job.tracing.finish(outer, 1.0)
        job.tracing.call(0.05, 0.95, scope="beside")

    _reported(method)()
    assert job.late() == [10]


def test_what_comes_after_the_report_is_part_of_it(job: Job) -> None:
    """A span that ends late; without a report it is a call of its own."""
    spans: list[Any] = []

    def method() -> None:
        spans.append(job.tracing.begin(job.at))
        job.tracing.call(job.at, job.at + 0.5, scope="beside")

    _reported(method)()
    job.report()
    job.tracing.finish(spans.pop(), 0.5)
    assert job.late() == []
    assert len(rows(job.own)) == 1


def test_waiting_calls_are_settled_at_the_end(job: Job) -> None:
    """Before the report of a run."""
    job.call(OK)
    job.tracing.flush()
    assert [row["input_tokens"] for row in rows(job.process)] == [10]
