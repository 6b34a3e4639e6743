"""Unreferenced monitors are closed and lose no event."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from _waiting import PATIENCE, eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig, process_token_usage
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from genmeter import runtime

CONFIG = MonitorConfig(endpoint=EndpointConfig(enabled=False))
SHARED = {"genmeter", "genmeter-reaper", "genmeter-log"}
"""Threads that every monitor of a process shares."""


@pytest.fixture(autouse=True)
def process() -> Iterator[runtime.Runtime]:
    """Return a runtime with one monitor that stays."""
    with fresh_runtime() as fresh:
        kept = record(GenerationMonitor(metrics_interval=None, config=CONFIG), 0)
        kept.flush(PATIENCE)
        yield fresh
        kept.shutdown()


def record(monitor: GenerationMonitor, tokens: int = 1) -> GenerationMonitor:
    """Record one call."""
    monitor.track_generation(0.1, False, model_name="m", total_token_count=tokens)
    return monitor


class Refers:
    """A handler of every kind that refers to its own monitor."""

    def __init__(self) -> None:
        self.monitor: Any = None

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Take a metric."""

    def handle_log(self, message: dict[str, Any]) -> None:
        """Take a log message."""

    def __call__(self, _: Any) -> None:
        """Take an alert or a report."""


def arguments_of(way: str, refers: Refers) -> dict[str, Any]:
    """Return a monitor's arguments that pass ``refers`` in one way."""
    if way == "token_usage_callback":
        return {way: refers, "token_usage_callback_interval_seconds": 0.01}
    return {way: [refers]}


@pytest.mark.parametrize(
    "way", ["token_usage_callback", "alert_handlers", "metric_handlers", "log_handlers"]
)
def test_monitor_is_collected_although_its_handlers_refer_to_it(
    process: runtime.Runtime, way: str
) -> None:
    """Its threads end, and its events stay in the totals."""
    before = set(threading.enumerate())

    def dropped() -> weakref.ref[GenerationMonitor]:
        refers = Refers()
        monitor = GenerationMonitor(
            metrics_interval=0.01, config=CONFIG, **arguments_of(way, refers)
        )
        refers.monitor = monitor
        record(monitor, 7).flush(PATIENCE)
        assert {each.name for each in set(threading.enumerate()) - before} - SHARED
        return weakref.ref(monitor)

    found = dropped()

    def is_gone() -> bool:
        gc.collect()
        threads = {each for each in threading.enumerate() if each.name not in SHARED} - before
        return found() is None and not threads and len(process._states) == 1

    assert eventually(is_gone)
    assert process_token_usage().total_tokens == 7


def test_handlers_of_a_collected_monitor_get_all_events(
    process: runtime.Runtime, tmp_path: Path
) -> None:
    """Events recorded just before the monitor was dropped are included."""
    taken: list[float] = []

    class Slow:
        """Has not taken the first metric when its monitor is gone."""

        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            """Take a metric once the monitor is dropped."""
            is_dropped.wait(PATIENCE)
            taken.append(value)

    is_dropped = threading.Event()
    other = GenerationMonitor(tmp_path, config=CONFIG)
    monitor = GenerationMonitor(metric_handlers=[Slow()], config=CONFIG)
    for number in range(500):
        monitor.record_metric("m", number)
        other.record_metric("m", number)
    del monitor, other
    gc.collect()
    is_dropped.set()

    def is_done() -> bool:
        gc.collect()
        return len(process._states) == 1

    assert eventually(is_done)
    assert taken == list(range(500))
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["value"] for line in lines] == list(range(500))


def test_blocking_handler_of_a_collected_monitor_delays_no_other(process: runtime.Runtime) -> None:
    """Constructors, reads, pages and shutdowns do not wait for it."""
    gate, is_blocked = threading.Event(), threading.Event()

    class Blocks:
        """Never takes anything."""

        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            """Wait."""
            is_blocked.set()
            gate.wait()

    def go_on() -> None:
        for _ in range(3):
            monitor = record(GenerationMonitor(metrics_interval=0.01, config=CONFIG))
            total = process_token_usage().total_tokens
            done.append((total, process.render(openmetrics=False)))
            monitor.shutdown()

    done: list[Any] = []
    try:
        monitor = GenerationMonitor(
            metric_handlers=[Blocks()], shutdown_timeout=10 * PATIENCE, config=CONFIG
        )
        record(monitor)
        assert is_blocked.wait(PATIENCE)
        del monitor
        assert eventually(lambda: gc.collect() >= 0 and not process._reaper.is_idle)
        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert [total for total, _ in done] == [2, 3, 4]
        assert process._unreachable
    finally:
        gate.set()
    assert eventually(lambda: not process._unreachable)
    assert process_token_usage().total_tokens == 4


def make_and_drop(begun: list[int], ended: list[int], number: int) -> None:
    """Create 40 monitors, record five calls each, and compare the totals around each call."""
    for _ in range(40):
        monitor = GenerationMonitor(metrics_interval=None, config=CONFIG)
        for _ in range(5):
            begun[number] += 1
            record(monitor)
            ended[number] += 1
        del monitor


@contextmanager
def collecting() -> Iterator[None]:
    """Collect garbage on another thread, without a pause."""
    is_over = threading.Event()

    def collect() -> None:
        while not is_over.is_set():
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(PATIENCE)


def test_totals_are_exact_while_monitors_are_collected(
    process: runtime.Runtime,
) -> None:
    """Two threads create and drop monitors, a third collects, and totals never decrease."""
    begun, ended = [0, 0], [0, 0]
    makers = [
        threading.Thread(target=make_and_drop, args=(begun, ended, number)) for number in range(2)
    ]
    with collecting():
        for thread in makers:
            thread.start()
        wrong, last, reads = [], 0, 0
        while any(each.is_alive() for each in makers):
            least = sum(ended)
            total = process_token_usage().total_tokens
            most = sum(begun)
            if not max(least, last) <= total <= most:
                wrong.append((least, last, total, most))
            last, reads = total, reads + 1
    assert reads > 0
    assert wrong == []
    assert process_token_usage().total_tokens == 400

    def are_retired() -> bool:
        gc.collect()
        return len(process._states) == 1

    assert eventually(are_retired)
    assert process_token_usage().total_tokens == 400


def test_collected_inline_monitor_is_closed(process: runtime.Runtime) -> None:
    """Without a thread, the next event of another monitor closes it."""
    inline = MonitorConfig(endpoint=EndpointConfig(enabled=False), drain="inline")
    with fresh_runtime() as fresh:
        kept = record(GenerationMonitor(metrics_interval=None, config=inline))
        for _ in range(3):
            record(GenerationMonitor(metrics_interval=None, config=inline))
        gc.collect()
        record(kept)
        assert eventually(lambda: len(fresh._states) == 1)
        assert process_token_usage().total_tokens == 5
        kept.shutdown()
    assert len(process._states) == 1


def test_histories_of_closed_monitors_are_freed(process: runtime.Runtime) -> None:
    """Only their totals are kept."""
    for _ in range(50):
        with GenerationMonitor(metrics_interval=None, config=CONFIG) as monitor:
            record(monitor, 2)
    assert len(process._states) < 12
    assert process_token_usage().total_tokens == 100
    assert process_token_usage().complete
    assert not process_token_usage(timedelta(hours=1)).complete
