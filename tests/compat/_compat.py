"""Shared helpers for tests that run on AfterImage's monitor and on ours.

A test with the fixture `subject` runs twice: on the class of AfterImage 0.18.1 (marked `example`,
since only `make example` installs it) and on ours. For an intended difference the test uses
`subject.differs` or `subject.breaks`. Both check AfterImage's behaviour too, so a release of
AfterImage that fixes a defect fails here.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from _waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import ModuleType

__all__ = ["Alerts", "FailingMetrics", "Logs", "Metrics", "Subject", "journal"]

T = TypeVar("T")


@dataclass
class Subject:
    """One of the two packages under test.

    Attributes:
        name: `afterimage` or `genmeter`.
        module: its module of public names.
        folder: a folder for its monitors' files.
        monitors: its monitors, shut down after the test.
    """

    name: str
    module: ModuleType
    folder: Path
    monitors: list[Any] = field(default_factory=list)

    @property
    def is_afterimage(self) -> bool:
        """Whether this is AfterImage's package."""
        return self.name == "afterimage"

    @property
    def log_dir(self) -> Path:
        """The `log_dir` of monitors created by `monitor`."""
        return self.folder / "log"

    def differs(self, *, afterimage: T, ours: T, why: str) -> T:
        """Return the expected value for this subject where the two differ on purpose.

        Args:
            afterimage: the expected value for AfterImage's class.
            ours: the expected value for ours.
            why: the reason, as in docs/compatibility.md.
        """
        assert why
        assert afterimage != ours
        return afterimage if self.is_afterimage else ours

    def breaks(
        self, error: type[BaseException] = AssertionError, *, match: str
    ) -> AbstractContextManager[object]:
        """Expect the block to fail on AfterImage's class and to pass on ours.

        Args:
            error: the exception on AfterImage's class.
            match: a pattern for its message, so that no other failure passes.
        """
        return pytest.raises(error, match=match) if self.is_afterimage else contextlib.nullcontext()

    def monitor(self, **arguments: Any) -> Any:
        """Create a monitor that writes to `log_dir` and evaluates alerts only in `check_alerts`."""
        return self.create(**{"log_dir": self.log_dir, "metrics_interval": 0, **arguments})

    def create(self, *args: Any, **kwargs: Any) -> Any:
        """Create a monitor with only these arguments."""
        monitor = self.module.GenerationMonitor(*args, **kwargs)
        self.monitors.append(monitor)
        return monitor

    def settle(self, monitor: Any) -> None:
        """Wait until all recorded events are in the monitor's history, files and handlers."""
        if not self.is_afterimage:
            monitor.flush(PATIENCE)
            return
        # In this order: a failing metric handler writes a log line.
        for pending in (monitor.metric_queue, monitor.log_queue):
            assert eventually(lambda pending=pending: _is_idle(pending))

    def shutdown(self) -> None:
        """Shut down all monitors."""
        for monitor in self.monitors:
            if self.is_afterimage:
                _wake(monitor)
            monitor.shutdown()


def journal(subject: Subject, metric: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of `metrics.jsonl`, of all metrics or of one."""
    text = (subject.log_dir / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if metric in (None, row["metric"])]


class Metrics:
    """A metric handler that keeps all metrics."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, dict[str, Any]]] = []

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Keep a metric."""
        self.rows.append((metric_name, value, metadata))

    def names(self) -> list[str]:
        """Return the names in order of arrival."""
        return [name for name, _, _ in self.rows]

    def one(self, name: str) -> tuple[float, dict[str, Any]]:
        """Return value and metadata of the only metric of this name."""
        ((value, metadata),) = [(value, data) for found, value, data in self.rows if found == name]
        return value, metadata


class FailingMetrics:
    """A metric handler that raises."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Raise."""
        raise RuntimeError("boom")


class Logs:
    """A log handler that keeps all records."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def handle_log(self, message: dict[str, Any]) -> None:
        """Keep a record."""
        self.messages.append(message)

    def one(self, message: str) -> dict[str, Any]:
        """Return the only record with this message."""
        (found,) = [each for each in self.messages if each["message"] == message]
        return found


class Alerts:
    """An alert handler that keeps all alerts."""

    def __init__(self) -> None:
        self.alerts: list[Any] = []
        self.received = threading.Event()

    def __call__(self, alert: Any) -> None:
        """Keep an alert."""
        self.alerts.append(alert)
        self.received.set()

    def names(self) -> list[str]:
        """Return the names in order of arrival."""
        return [alert.name for alert in self.alerts]


def _is_idle(pending: queue.Queue[Any]) -> bool:
    # The worker waits for the next item only after it has processed all others.
    with pending.mutex:
        return not pending.queue and bool(pending.not_empty._waiters)  # type: ignore[attr-defined]


class _EmptyItem:
    """An item that looks like an empty queue, so AfterImage's worker checks for a shutdown."""

    def keys(self) -> Iterator[str]:
        raise queue.Empty

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)


def _wake(monitor: Any) -> None:
    """End the threads of AfterImage's class now; they poll for a shutdown once a second."""
    monitor._shutdown.set()
    _close_files(monitor.log_handlers)
    monitor.log_handlers = []
    monitor.metric_queue.put(_EmptyItem())
    monitor.log_queue.put({})


def _close_files(handlers: list[Any]) -> None:
    for handler in handlers:
        logger = getattr(handler, "logger", None)
        for each in logger.handlers if logger is not None else ():
            each.close()
