"""A long job on a simulated hour: flat memory, exact totals."""

from __future__ import annotations

import gc
import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import genmeter.clock
from genmeter import MonitorConfig
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from random import Random

    from _battery import Battery

    from genmeter import Alert
    from genmeter.testing import IsolatedMonitor

HOUR = 3600.0
CHECKS = 60
WARM = 20
"""The checks of an hour, and those after which its memory is flat: the history is full then."""
GROWTH = 4 * 2**20
"""Bytes that the memory may differ by, as the allocator has its pages."""
MODELS = ("atlas-large", "atlas-small", "boreas", "cirrus", "draco")
STEPS = ("ask", "answer", "judge")
PRICES = dict.fromkeys(MODELS[:4], (1.0, 2.0))


def memory() -> int:
    """Return the bytes that this process has in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Job:
    """Records calls of all kinds, and counts them by itself.

    Attributes:
        counts: What it has recorded, by name.
        prompt: Prompt tokens of each model; ``completion`` as well.
        now: The time of the simulated clock.
    """

    def __init__(self, monitor: IsolatedMonitor, random: Random) -> None:
        self.counts: Counter[str] = Counter()
        self.prompt: Counter[str] = Counter()
        self.completion: Counter[str] = Counter()
        self.now = 1_800_000_000.0
        self._monitor = monitor
        self._random = random
        self._usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}

    def read(self) -> float:
        """Return the time of the simulated clock."""
        return self.now

    def record(self, number: int) -> None:
        """Record one call, and what belongs to it."""
        model = MODELS[number % len(MODELS)]
        step = STEPS[number % len(STEPS)]
        self.counts["calls"] += 1
        if number % 50 == 0:
            self._stream(model, step)
            return
        prompt, completion = number % 997, number % 89
        self.prompt[model] += prompt
        self.completion[model] += completion
        failed = number % 13 == 0
        self.counts["failures"] += failed
        self._monitor.track_generation(
            0.1 + number % 7,
            not failed,
            model_name=model,
            step=step,
            prompt_token_count=prompt,
            completion_token_count=completion,
            finish_reason=None if failed else "stop",
            error=TimeoutError("late") if failed else None,
            metadata={"row": number} if number % 10 == 0 else None,
        )
        if number % 20 == 1:
            self.counts["evaluations"] += 1
            self._monitor.track_evaluation(0.2, True, "judge", {"fluent": number % 11 / 10})
        if number % 100 == 2:
            self.counts["samples"] += 1
            self._monitor.record_sample(number % 3 > 0, "short")
            self._monitor.record_metric("queue", number)
            self._monitor.log_info("at", row=number)

    def _stream(self, model: str, step: str) -> None:
        """Record a stream: read to its end, left, or broken."""
        end = self._random.randrange(3)
        chunks = [{"choices": [{"delta": {"content": "a"}}]}] * 4
        try:
            with self._monitor.generation(model, step) as call:
                for index, _ in enumerate(call.stream(iter([*chunks, self._usage]))):
                    if index == 2 and end == 1:
                        break
                    if index == 2 and end == 2:
                        raise ConnectionError("gone")
        except ConnectionError:
            self.counts["failures"] += 1
        if end == 0:
            self.prompt[model] += 7
            self.completion[model] += 3
        self.counts["cancelled"] += end == 1

    def check(self) -> None:
        """Fail unless the monitor has exactly these sums, in its report and on its page."""
        report = self._monitor.get_total_token_usage()
        assert {each.model_name: each.prompt_tokens for each in report.by_model} == self.prompt
        assert {
            each.model_name: each.completion_tokens for each in report.by_model
        } == self.completion
        value = self._monitor.value
        counts = self.counts
        assert value("genmeter_generations_total") == counts["calls"]
        for outcome, name in (("failure", "failures"), ("cancelled", "cancelled")):
            assert value("genmeter_generations_total", genmeter_outcome=outcome) == counts[name]
        assert value("genmeter_tokens_total") == report.total_tokens
        assert value("genmeter_evaluations_total") == counts["evaluations"]
        assert value("genmeter_samples_total") == counts["samples"]
        assert value("genmeter_logs_total") == counts["samples"]
        assert value("gen_ai_client_inference_duration_seconds_count") == counts["calls"]
        assert value("genmeter_generations_active") == 0
        assert value("genmeter_monitor_events_total", genmeter_result="rejected") == 0


def test_an_hour_of_work_is_exact_and_flat(battery: Battery) -> None:
    """Memory does not grow after the first third, while alerts, windows and pages are read."""
    calls = battery.amount(short=300_000, long=10_000_000)
    alerts: list[Alert] = []
    sizes: list[int] = []
    config = MonitorConfig(prices=PRICES)
    with isolated_monitor(config, alert_handlers=[alerts.append], metrics_interval=None) as monitor:
        job = Job(monitor, battery.random)
        with mock.patch.object(genmeter.clock, "now", job.read):
            for check in range(CHECKS):
                for number in range(check * calls // CHECKS, (check + 1) * calls // CHECKS):
                    job.now += HOUR / calls
                    job.record(number)
                monitor.check_alerts()
                for minutes in (0, 1, 5, 30, 90):
                    window = timedelta(minutes=minutes)
                    usage = monitor.get_total_token_usage(window)
                    assert usage.total_tokens <= sum(job.prompt.values()) + sum(
                        job.completion.values()
                    )
                    monitor.get_metrics("generation_time", window)
                monitor.page(openmetrics=True)
                job.check()
                sizes.append(memory())
        assert max(sizes[WARM:]) - sizes[WARM] <= GROWTH, sizes
        names = {each.name for each in alerts}
        assert names, "no alert was evaluated"
    print(f"{calls:,} calls: {sizes[WARM]:,} to {sizes[-1]:,} bytes, {len(alerts)} alerts")  # noqa: T201
