"""Many threads, tasks and signal handlers: no event is lost or recorded in part."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.runtime import Runtime

PATIENCE = 100.0
"""Seconds after which something counts as hung."""


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """Return a runtime whose monitors do not listen."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    with fresh_runtime() as fresh:
        yield fresh


@pytest.fixture
def monitor(process: Runtime) -> Iterator[GenerationMonitor]:
    """Return a monitor without an endpoint."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    with GenerationMonitor(config=config) as made:
        yield made


def totals(process: Runtime) -> dict[str, float]:
    """Sum each series of the page."""
    found: dict[str, float] = {}
    page = process.render(openmetrics=False).decode()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def in_threads(count: int, function: Callable[[int], Any]) -> None:
    """Call a function with the number of each thread, all at once; raise a thread's error."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(PATIENCE)
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_16_threads_lose_nothing(process: Runtime, monitor: GenerationMonitor) -> None:
    """The report and the page have exactly the 80,000 calls of 16 threads."""

    def record(number: int) -> None:
        for call in range(5_000):
            monitor.track_generation(
                0.1,
                call % 5 != 0,
                model_name=f"m{number % 4}",
                prompt_token_count=3,
                completion_token_count=number,
            )

    in_threads(16, record)
    report = monitor.get_total_token_usage()
    assert report.total_prompt_tokens == 240_000
    assert report.total_completion_tokens == 5_000 * sum(range(16))
    assert [usage.prompt_tokens for usage in report.by_model] == [60_000] * 4
    assert monitor.get_metrics("success_rate", None)["count"] == 80_000
    found = totals(process)
    assert found["genmeter_generations_total"] == 80_000
    assert found["gen_ai_client_inference_duration_seconds_count"] == 80_000
    assert found["gen_ai_client_inference_usage_input_tokens_total"] == 240_000
    assert found["genmeter_monitor_events_total"] == 80_000
    assert process.self_metrics.rejected == {}


async def test_asyncio_tasks_lose_nothing(process: Runtime, monitor: GenerationMonitor) -> None:
    """Interleaved tasks are counted one by one, and none stays active."""

    async def job(number: int) -> None:
        for call in range(100):
            async with monitor.generation(model="m", step=f"s{number % 3}") as handle:
                await asyncio.sleep(0)
                handle.usage(prompt_token_count=2, completion_token_count=1)
                if call % 4 == 0:
                    handle.fail("refused")
                if (number, call) == (0, 50):
                    assert totals(process)["genmeter_generations_active"] >= 1
            monitor.record_sample(call % 2 == 0)
            assert monitor.get_metrics("generation_time", None)["count"] > call

    await asyncio.gather(*(job(number) for number in range(20)))
    assert monitor.get_total_token_usage().total_tokens == 6_000
    assert monitor.get_metrics("error_rate", None)["mean"] == 0.25
    found = totals(process)
    assert found["genmeter_generations_total"] == 2_000
    assert found["genmeter_samples_total"] == 2_000
    assert found["genmeter_generations_active"] == 0


def test_reads_are_exact_while_other_threads_write(
    process: Runtime, monitor: GenerationMonitor
) -> None:
    """Each thread reads all its own calls, and totals never drop."""
    calls = 1_500

    def record(number: int) -> None:
        seen = 0
        for call in range(1, calls + 1):
            monitor.track_generation(0.1, True, model_name=f"m{number}", prompt_token_count=1)
            if call % 50 == 0:
                report = monitor.get_total_token_usage()
                own = {usage.model_name: usage.prompt_tokens for usage in report.by_model}
                assert own[f"m{number}"] == call
                assert report.total_tokens >= seen
                seen = report.total_tokens
                assert totals(process)["genmeter_generations_total"] >= seen

    in_threads(6, record)
    assert monitor.get_total_token_usage().total_tokens == 6 * calls
    assert totals(process)["genmeter_generations_total"] == 6 * calls


def test_the_first_events_of_many_threads_start_one_pipeline(
    process: Runtime, monitor: GenerationMonitor
) -> None:
    """Concurrent first events start one pipeline thread and lose nothing."""
    in_threads(16, lambda number: monitor.track_generation(0.1, True, prompt_token_count=number))
    assert monitor.get_total_token_usage().total_tokens == sum(range(16))
    pipeline = process.require_pipeline()
    assert pipeline.is_running
    assert pipeline._thread is not None
    assert pipeline._thread.is_alive()


def test_monitors_of_many_threads_share_the_process_report(process: Runtime) -> None:
    """Threads create, use and close monitors at the same time."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False))

    def use(number: int) -> None:
        for _ in range(10):
            with GenerationMonitor(config=config) as monitor:
                monitor.track_generation(0.1, True, model_name="m", prompt_token_count=1)
                assert monitor.get_total_token_usage().total_tokens == 1

    in_threads(8, use)
    assert process.token_usage(None).total_tokens == 80


def test_storms_of_signals_lose_nothing() -> None:
    """The tests of _storms.py pass in a separate process without coverage.

    An exception of a signal handler can leave the lock of coverage's tracer locked forever.
    """
    environ = {name: text for name, text in os.environ.items() if not name.startswith("COV")}
    arguments = ["-q", "--no-cov", "-p", "no:cacheprovider", "-o", "timeout_method=thread"]
    storms = Path(__file__).with_name("_storms.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(storms)],
        env=environ,
        cwd=storms.parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
