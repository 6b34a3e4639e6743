"""Fixtures for tests of the delivery of alerts to handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _alert_handlers import Clock, Inbox, Keeper, handler_threads, threads

from _waiting import PATIENCE, eventually
from genmeter.alerting.notify import Alerting
from genmeter.config.alerts import AlertSettings
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.testing import IsolatedMonitor


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor without a periodic evaluation; no such thread is left after a test."""
    with isolated_monitor(metrics_interval=None) as made:
        yield made
    assert eventually(lambda: not threads("genmeter-alerts"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of all monitors, which stands still."""
    return Clock(monkeypatch)


@pytest.fixture
def inbox() -> Inbox:
    """Return a handler that stores the names of alerts."""
    return Inbox()


@pytest.fixture
def make(monitor: IsolatedMonitor) -> Iterator[Callable[..., Alerting]]:
    """Return a factory of the monitor's alerting, without a periodic evaluation."""
    made: list[Alerting] = []

    def make(*handlers: Any, interval: float = 0, **keywords: Any) -> Alerting:
        alerting = Alerting(
            monitor._pipeline,
            monitor._session.state,
            handlers=list(handlers),
            settings=keywords.pop("settings", AlertSettings()),
            interval=interval,
            **keywords,
        )
        alerting.start()
        made.append(alerting)
        return alerting

    yield make
    for each in made:
        each.stop(PATIENCE)
    made.clear()
    assert eventually(lambda: not handler_threads())


@pytest.fixture
def keeper() -> Keeper:
    """Return an AlertReceiver."""
    return Keeper()
