"""The two monitors that the same tests run on, AfterImage's and ours, and what those tests share.

A test takes the fixture `subject` and so runs twice: on AfterImage 0.18.1's class (marked
`example`, since only `make example` installs it) and on ours. Where the two differ on purpose, the
test says so with `subject.differs` or `subject.breaks`, which hold the old behaviour too: a
release of AfterImage that mends a defect is noticed here.
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
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import ModuleType

__all__ = ["Alerts", "Logs", "Metrics", "Subject", "journal"]

T = TypeVar("T")


@dataclass
class Subject:
    """One of the two packages under test.

    Attributes:
        name: `afterimage` or `genmeter`.
        module: where its public names are.
        folder: where its monitors may write.
        made: its monitors, for the end of the test.
    """

    name: str
    module: ModuleType
    folder: Path
    made: list[Any] = field(default_factory=list)

    @property
    def is_old(self) -> bool:
        """Whether this is AfterImage's."""
        return self.name == "afterimage"

    @property
    def log_dir(self) -> Path:
        """The folder that `monitor` gives to its monitors."""
        return self.folder / "log"

    def differs(self, *, old: T, new: T, why: str, defect: int | None = None) -> T:
        """Give what to expect of this subject where the two differ on purpose.

        Args:
            old: what AfterImage's class does.
            new: what ours does.
            why: the reason, in the words of docs/compatibility.md.
            defect: its number there, where the old behaviour is a defect.
        """
        assert why
        assert old != new
        assert defect is None or 1 <= defect <= 13
        return old if self.is_old else new

    def breaks(
        self, error: type[BaseException] = AssertionError, *, match: str
    ) -> AbstractContextManager[object]:
        """Hold that a promise which ours keeps is broken by AfterImage's class.

        Args:
            error: what the promise fails with there.
            match: a part of its message, so that no other failure passes for it.
        """
        return pytest.raises(error, match=match) if self.is_old else contextlib.nullcontext()

    def monitor(self, **arguments: Any) -> Any:
        """Make a monitor that writes into `log_dir` and evaluates alerts only when asked."""
        return self.make(**{"log_dir": self.log_dir, "metrics_interval": 0, **arguments})

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """Make a monitor with just these arguments."""
        monitor = self.module.GenerationMonitor(*args, **kwargs)
        self.made.append(monitor)
        return monitor

    def settle(self, monitor: Any) -> None:
        """Wait until all that the monitor was told has reached its history, files and handlers."""
        if not self.is_old:
            monitor.flush(PATIENCE)
            return
        # In this order: a metric handler that fails leaves a log line.
        for waiting in (monitor.metric_queue, monitor.log_queue):
            assert eventually(lambda waiting=waiting: _is_idle(waiting))

    def end(self) -> None:
        """Shut down every monitor that was made."""
        for monitor in self.made:
            if self.is_old:
                _wake(monitor)
            monitor.shutdown()


def journal(subject: Subject, metric: str | None = None) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; of one metric, where it is named."""
    text = (subject.log_dir / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if metric in (None, row["metric"])]


class Metrics:
    """A metric handler that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, dict[str, Any]]] = []

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Keep a metric."""
        self.rows.append((metric_name, value, metadata))

    def names(self) -> list[str]:
        """The names, in the order of their arrival."""
        return [name for name, _, _ in self.rows]

    def one(self, name: str) -> tuple[float, dict[str, Any]]:
        """Value and metadata of a metric that came once."""
        ((value, metadata),) = [(value, data) for found, value, data in self.rows if found == name]
        return value, metadata


class Logs:
    """A log handler that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def handle_log(self, message: dict[str, Any]) -> None:
        """Keep a message."""
        self.messages.append(message)

    def one(self, message: str) -> dict[str, Any]:
        """The record with this message, which came once."""
        (found,) = [each for each in self.messages if each["message"] == message]
        return found


class Alerts:
    """An alert handler that keeps what it is given."""

    def __init__(self) -> None:
        self.alerts: list[Any] = []
        self.came = threading.Event()

    def __call__(self, alert: Any) -> None:
        """Keep an alert."""
        self.alerts.append(alert)
        self.came.set()

    def names(self) -> list[str]:
        """The names, in the order of their arrival."""
        return [alert.name for alert in self.alerts]


def _is_idle(waiting: queue.Queue[Any]) -> bool:
    # The worker waits for something new only when all before it is done.
    with waiting.mutex:
        return not waiting.queue and bool(waiting.not_empty._waiters)  # type: ignore[attr-defined]


class _Nothing:
    """An item that the old class's worker takes for none at all, and so looks whether it ends."""

    def keys(self) -> Iterator[str]:
        raise queue.Empty

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)


def _wake(monitor: Any) -> None:
    """Let the old class's threads end now; each would notice at the end of a second only."""
    monitor._shutdown.set()
    _close_files(monitor.log_handlers)
    monitor.log_handlers = []
    nothing: Mapping[str, Any] | dict[str, Any] = {}
    monitor.metric_queue.put(_Nothing())
    monitor.log_queue.put(nothing)


def _close_files(handlers: list[Any]) -> None:
    for handler in handlers:
        logger = getattr(handler, "logger", None)
        for each in logger.handlers if logger is not None else ():
            each.close()
