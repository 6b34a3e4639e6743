"""Monitors that price the model ``atlas``, with and without a thread that drains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _budgets import PRICES, QUIET

from genmeter import GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def monitor() -> Iterator[GenerationMonitor]:
    """Return a monitor that drains in the recording call, and prices the model ``atlas``."""
    with isolated_monitor(MonitorConfig(prices=PRICES)) as made:
        yield made


@pytest.fixture
def threaded() -> Iterator[GenerationMonitor]:
    """Return a monitor whose events another thread drains."""
    config = MonitorConfig(endpoint=QUIET, prices=PRICES)
    with fresh_runtime(), GenerationMonitor(config=config) as made:
        yield made


@pytest.fixture(params=["inline", "thread"])
def either(request: pytest.FixtureRequest) -> GenerationMonitor:
    """Return a monitor of each kind."""
    name = "monitor" if request.param == "inline" else "threaded"
    found: GenerationMonitor = request.getfixturevalue(name)
    return found
