"""Alert handlers of several kinds, and the threads that call them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import genmeter.clock
from _waiting import PATIENCE
from genmeter.alerting.notify import AlertReceiver
from genmeter.pipeline.worker import _WorkerThread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from genmeter.alerting.state import Alert

OFTEN = 0.005
FAILED = ["low_success_rate", "high_error_rate"]
"""The alerts of a job whose only call failed."""


class Clock:
    """A clock for the monitor, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(genmeter.clock, "now", lambda: self.now)


class Inbox(list[str]):
    """A handler that keeps the names of firing and resolved alerts."""

    def __init__(self) -> None:
        self.resolved: list[str] = []

    def take(self, alert: Alert) -> None:
        """Store the alert's name."""
        (self if alert.status == "firing" else self.resolved).append(alert.name)


class Blocked:
    """A handler that blocks until it is released, then stores the alert's name."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.taken: list[str] = []

    def __call__(self, alert: Alert) -> None:
        """Block, then store the alert's name."""
        self.begun.set()
        self.gate.wait(PATIENCE)
        self.taken.append(alert.name)


def broken(alert: Alert) -> None:
    """Raise an exception."""
    raise ValueError(alert.name)


async def awaited(alert: Alert) -> None:
    """Return a coroutine."""
    raise AssertionError


def threads(name: str) -> list[threading.Thread]:
    """Return the threads with a name."""
    return [each for each in threading.enumerate() if each.name == name]


def handler_threads() -> list[threading.Thread]:
    """Return the threads of handlers: workers that do not outlive a monitor."""
    others = [f"genmeter-{name}" for name in ("alerts", "callbacks", "job", "log", "reaper")]
    return [
        each
        for each in threading.enumerate()
        if type(each) is _WorkerThread
        and each.name.startswith("genmeter-")
        and each.name not in others
    ]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged messages."""
    return [record.getMessage() for record in caplog.records if record.name == "genmeter"]


class Keeper(Inbox, AlertReceiver):
    """An AlertReceiver that stores its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.refreshed: list[tuple[list[str], float]] = []
        self.flushed: list[float] = []
        self.is_done = True
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, alert: Alert) -> None:
        """Store the alert's name."""
        self.take(alert)

    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Store the firing alerts, after the gate is open."""
        self.gate.wait(PATIENCE)
        self.refreshed.append(([alert.name for alert in alerts], interval))

    def flush(self, timeout: float) -> bool:
        """Store the timeout."""
        self.flushed.append(timeout)
        return self.is_done
