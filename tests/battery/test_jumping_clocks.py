"""A clock that jumps at any moment: totals stay exact, and windows are right or say that they are not."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import genmeter.clock
from genmeter import (
    AlertSettings,
    BudgetExceededError,
    EndpointConfig,
    GenerationMonitor,
    HistoryConfig,
    JournalConfig,
    MonitorConfig,
    read_usage,
)
from genmeter.errors import ExportError
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from _battery import Battery

DAY = 86_400.0
START = 1_800_000_000.0
# What the kernel's clock can be set to: from 1970 to the year 2232.
FIRST, LAST = 1.0, 8_200_000_000.0
WINDOWS = (
    timedelta(seconds=1),
    timedelta(minutes=5),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=1_000),
    timedelta.max,
)


class Clock:
    """The wall clock, which steps and jumps."""

    def __init__(self, random: random.Random) -> None:
        self.value = START
        self._random = random

    def __call__(self) -> float:
        """Return the time."""
        return self.value

    def go_on(self) -> None:
        """Step forward; one time in five jump."""
        random = self._random
        jump = random.choice((0.0, 0.001, 0.5, 1.0, 20.0))
        if random.random() < 0.2:
            jump = random.choice((-1, 1)) * random.choice(
                (0.001, 1.0, 61.0, 3_600.0, DAY, 40 * DAY, 400 * DAY)
            )
        if random.random() < 0.01:
            self.value = random.choice((FIRST, LAST, START))
        self.value = min(max(FIRST, self.value + jump), LAST)


class Call(NamedTuple):
    """A recorded call."""

    time: float
    model: str
    tokens: int
    duration: float


class Job:
    """A monitor beside a list of all of its calls, as exact and without a bound.

    Args:
        monitor: The monitor.
        clock: Its clock.
        random: The source of what it does.
        folder: The folder of its exports.
        capacity: Number of calls that its history keeps.
    """

    def __init__(
        self,
        monitor: GenerationMonitor,
        clock: Clock,
        random: random.Random,
        folder: Path,
        capacity: int,
    ) -> None:
        self.monitor = monitor
        self.calls: list[Call] = []
        self.incomplete = 0
        self.evaluations = 0  # kept among the calls
        self._clock, self._random, self._folder, self._capacity = clock, random, folder, capacity
        self._budget = monitor.budget(tokens=10**15)
        self._kinds: tuple[Callable[[], object], ...] = (
            self._record,
            self._record,
            self._record,
            self._record,
            self._handle,
            self._other,
            self._usage,
            self._metrics,
            self._frame,
            self._page,
            monitor.check_alerts,
            self._reserve,
        )
        self._rare: tuple[Callable[[], object], ...] = (
            self._export,
            monitor.save_metrics,
            monitor._repr_html_,
            self._plot,
        )

    @property
    def is_kept(self) -> bool:
        """Whether the history still has every call."""
        return len(self.calls) + self.evaluations <= self._capacity

    def turn(self) -> None:
        """Do one thing, and go on with the clock."""
        rare = self._random.random() < 0.01
        self._random.choice(self._rare if rare else self._kinds)()
        self._clock.go_on()

    def _record(self) -> None:
        call = Call(
            self._clock.value,
            self._random.choice("ab"),
            self._random.randrange(100),
            self._random.random(),
        )
        self.monitor.track_generation(
            call.duration,
            True,
            model_name=call.model,
            prompt_token_count=call.tokens,
            completion_token_count=0,
        )
        self.calls.append(call)

    def _handle(self) -> None:
        """Time a call while the clock jumps: its duration is not of that clock."""
        with self.monitor.generation("a") as call:
            for _ in range(3):
                self._clock.go_on()
            call.usage(prompt_token_count=7, completion_token_count=0)
        self.calls.append(Call(self._clock.value, "a", 7, -1.0))

    def _other(self) -> None:
        self.monitor.track_evaluation(0.1, True, "judge", {"score": 0.5})
        self.evaluations += 1
        self.monitor.record_metric("mine", 1.0)
        self.monitor.record_sample(True)

    def _since(self, window: timedelta) -> list[Call]:
        start = self._clock.value - window.total_seconds()
        return [call for call in self.calls if call.time >= start]

    def _usage(self) -> None:
        window = self._random.choice(WINDOWS)
        found, wanted = self.monitor.get_total_token_usage(window), self._since(window)
        tokens = sum(call.tokens for call in wanted)
        if found.complete:
            assert found.total_tokens == tokens, window
        else:
            self.incomplete += 1
            assert found.total_tokens <= tokens
            assert not self.is_kept
        assert self.monitor.get_total_token_usage().total_tokens == sum(
            c.tokens for c in self.calls
        )

    def _metrics(self) -> None:
        window = self._random.choice(WINDOWS)
        found = self.monitor.get_metrics("generation_time", window)
        wanted = self._since(window)
        count = found.get("count", 0)
        assert count <= len(wanted)
        if self.is_kept:
            assert count == len(wanted)
        if count:
            # Also of the calls that were timed while the clock jumped.
            assert 0 <= found["min"] <= found["max"] < 3_600

    def _frame(self) -> None:
        window = self._random.choice((None, *WINDOWS))
        frame = self.monitor.to_frame(window=window)
        wanted = self.calls if window is None else self._since(window)
        assert len(frame) <= len(wanted)
        if len(frame) < len(wanted):
            assert frame.attrs, "it does not say that it lacks rows"
        assert int(frame["total_tokens"].sum()) <= sum(call.tokens for call in wanted)

    def _page(self) -> None:
        samples = self._samples()
        assert samples.get("genmeter_generations_total", 0) == len(self.calls)
        assert samples.get("genmeter_tokens_total", 0) == sum(call.tokens for call in self.calls)

    def _samples(self) -> dict[str, float]:
        self.monitor.flush()
        assert self.monitor.endpoint_url is not None
        request = urllib.request.Request(  # noqa: S310, a loopback URL
            self.monitor.endpoint_url, headers={"Accept": "application/openmetrics-text"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text = answer.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def _reserve(self) -> None:
        with contextlib.suppress(BudgetExceededError):
            assert self._budget.has_room()

    def _export(self) -> None:
        window = self._random.choice((None, *WINDOWS[1:]))
        format_ = self._random.choice(("json", "csv"))
        path = self._folder / f"export.{format_}"
        self.monitor.export_metrics(path, format_, window=window)
        if format_ == "json":
            wanted = self.calls if window is None else self._since(window)
            rows = json.loads(path.read_text()).get("generation_time", ())
            assert len(rows) <= len(wanted)
            if self.is_kept:
                assert len(rows) == len(wanted)

    def _plot(self) -> None:
        # Nothing in the window, or nothing at all yet.
        with contextlib.suppress(ExportError):
            self.monitor.plot_metric("generation_time", self._random.choice(WINDOWS[:4]))


@pytest.mark.parametrize("capacity", [100_000, 100])
def test_a_jumping_clock_changes_no_total(
    battery: Battery,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capacity: int,
) -> None:
    """Reports, pages, journals that rotate and budgets are exact; nothing raises or is logged as an error."""
    caplog.set_level(logging.ERROR)
    clock = Clock(battery.random)
    monkeypatch.setattr(genmeter.clock, "now", clock)
    monkeypatch.setattr(time, "time", clock)
    config = MonitorConfig(
        endpoint=EndpointConfig(port=0),
        history=HistoryConfig(capacity=capacity),
        journal=JournalConfig(max_bytes=40_000, keep=10_000),
        alerts=AlertSettings(),
    )
    alerts: list[Any] = []
    with (
        fresh_runtime(),
        GenerationMonitor(
            metrics_interval=None,
            log_dir=tmp_path / "log",
            alert_handlers=[alerts.append],
            config=config,
        ) as monitor,
    ):
        job = Job(monitor, clock, battery.random, tmp_path, capacity)
        for _ in range(battery.amount(short=1_500, long=150_000)):
            job.turn()
        job._page()
        job._usage()
        used = sum(call.tokens for call in job.calls)
        assert job._budget.spent.tokens == used
    assert not caplog.records
    # Whatever the clock did, a window that the history has whole is complete.
    assert bool(job.incomplete) == (not job.is_kept)
    # The rotated files are one journal.
    rows = [
        json.loads(line)
        for path in (tmp_path / "log").glob("metrics*.jsonl")
        for line in path.read_text().splitlines()
    ]
    calls = [row for row in rows if row["metric"] == "generation_time"]
    assert len(calls) == len(job.calls)
    assert len(list((tmp_path / "log").glob("metrics*.jsonl"))) > 1
    usage = read_usage(tmp_path / "log")
    assert sum(row["total_tokens"] for row in usage.rows) == used
    assert sum(row["calls"] for row in usage.rows) == len(job.calls)
