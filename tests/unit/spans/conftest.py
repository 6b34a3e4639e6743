"""A monitor that spans feed, for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _gen_ai_spans import Clock, Tracing

from genmeter import GenAISpanProcessor
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with defaults."""
    with isolated_monitor() as made:
        yield made


@pytest.fixture
def tracing(monitor: IsolatedMonitor) -> Iterator[Tracing]:
    """Return tracing that feeds the monitor."""
    processor = GenAISpanProcessor(monitor)
    yield Tracing(processor)
    processor.shutdown()


@pytest.fixture
def clock(monitor: IsolatedMonitor) -> Clock:
    """Return the clock of the monitor's observer."""
    made = Clock()
    monitor.observer._now = made
    return made
