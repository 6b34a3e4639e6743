"""Fixtures for tests against real servers, each started once per session on loopback.

Every test in this folder is marked `stack`: `make test` deselects it and `make stack` runs it. A
server that is not installed is a failure, with `make servers` as the remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _alerting import SHIPPED, AlertingStack, shipped_alertmanager_config
from _alertmanager import Alertmanager
from _collector import Collector
from _prometheus import NEWEST, Prometheus
from _servers import program
from _webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PATIENCE = 400.0
FROM_ZERO = ("exemplar-storage", "created-timestamp-zero-ingestion")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.stack)
            # Generous, for real servers on a busy machine: only a hang takes this long.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of promtool."""
    return program("promtool")


@pytest.fixture(scope="session")
def amtool() -> str:
    """Return the path of amtool."""
    return program("amtool")


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus that stores exemplars."""
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_from_zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus that stores a zero at the created timestamp of each counter.

    The `_created` samples are in OpenMetrics only, so `increase()` includes the first value of a
    series for targets added with `openmetrics`.
    """
    with Prometheus(tmp_path_factory.mktemp("prometheus-from-zero"), FROM_ZERO) as server:
        yield server


@pytest.fixture(scope="session")
def newest_from_zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run the newest Prometheus, which stores such zeros too."""
    folder = tmp_path_factory.mktemp("newest-from-zero")
    with Prometheus(folder, FROM_ZERO, release=NEWEST) as server:
        yield server


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Run an OpenTelemetry Collector."""
    with Collector(tmp_path_factory.mktemp("collector")) as server:
        yield server


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """Run a webhook for Alertmanager's receivers."""
    with Webhook() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def alertmanager(
    tmp_path_factory: pytest.TempPathFactory, webhook: Webhook
) -> Iterator[Alertmanager]:
    """Run an Alertmanager with the shipped configuration and short waits that posts to the webhook."""
    config = shipped_alertmanager_config(webhook)
    with Alertmanager(tmp_path_factory.mktemp("alertmanager"), config) as server:
        yield server


@pytest.fixture(scope="session")
def alerting_stack(
    tmp_path_factory: pytest.TempPathFactory, alertmanager: Alertmanager, webhook: Webhook
) -> Iterator[AlertingStack]:
    """Run a Prometheus with the shipped rules and features that posts to the Alertmanager."""
    with Prometheus(
        tmp_path_factory.mktemp("prometheus-alerting"),
        FROM_ZERO,
        rules=[SHIPPED / "rules.yml"],
        alertmanagers=[alertmanager.url],
    ) as server:
        yield AlertingStack(server, alertmanager, webhook)
