"""Alerts that are posted at noon, and the threads that post them."""

from __future__ import annotations

import gc
import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from _posts import PostServer, eventually

import genmeter.clock
from genmeter import Alert
from genmeter.alerting import alertmanager

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


__all__ = [
    "LABELS",
    "NOON",
    "alert",
    "at_noon",
    "closed_port",
    "no_more_threads",
    "states",
    "threads",
]

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LABELS = {"alertname": "GenerationErrorRateHigh", "severity": "critical", "job": "genmeter"}


def alert(status: Any = "firing", *, minute: int = 0, **labels: str) -> Alert:
    """Return an alert that has been firing since noon."""
    return Alert(
        name="high_error_rate",
        message="too many failures",
        level="error",
        timestamp=NOON + timedelta(minutes=minute),
        data={},
        status=status,
        labels=LABELS | labels,
        annotations={"summary": "too many", "runbook_url": "https://example.org/runbook#a"},
        starts_at=NOON,
    )


def states(server: PostServer) -> list[tuple[str, str]]:
    """Return name and end of each alert that a server received."""
    return [(each["labels"]["alertname"], each["endsAt"]) for each in server.alerts]


def closed_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def threads() -> set[str]:
    """Return the names of the threads that post alerts."""
    return {
        each.name for each in threading.enumerate() if each.name.startswith("genmeter-alertmanager")
    }


@contextmanager
def at_noon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the clock to noon, retry at once, and check that no thread is left."""
    monkeypatch.setattr(genmeter.clock, "now", NOON.timestamp)
    monkeypatch.setattr(alertmanager, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(alertmanager, "_MAX_DELAY", 0.02)
    yield
    gc.collect()
    assert eventually(lambda: not threads())


@contextmanager
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prevent threads from starting, as at the exit of Python 3.12 and later."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("genmeter-alertmanager"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield
