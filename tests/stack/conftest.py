"""Fixtures of the tests against real servers: each is started once a session, on loopback.

Every test under this folder is marked `stack`, so `make test` leaves it out and `make stack` runs
it. A server that is not installed is a failure, with `make servers` as the remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _alerting import SHIPPED, AlertingStack, shipped_alertmanager_config
from _alertmanager import Alertmanager
from _collector import Collector
from _prometheus import Prometheus
from _servers import program
from _webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PATIENCE = 400.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.stack)
            # Real servers, on a machine that may have other things to do: only a hang takes so long.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool."""
    return program("promtool")


@pytest.fixture(scope="session")
def amtool() -> str:
    """The path of amtool, Alertmanager's checker."""
    return program("amtool")


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with its usual features and exemplars kept; see the class for how to use it."""
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_from_zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that puts a zero where a counter says that it was created.

    Only OpenMetrics carries the `_created` samples it needs, so `increase()` sees a series from
    its birth for targets added with `openmetrics`.
    """
    features = ("exemplar-storage", "created-timestamp-zero-ingestion")
    with Prometheus(tmp_path_factory.mktemp("prometheus-from-zero"), features) as server:
        yield server


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """An OpenTelemetry Collector; see the class for how to use it."""
    with Collector(tmp_path_factory.mktemp("collector")) as server:
        yield server


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """What Alertmanager's receivers post to; see the class for how to use it."""
    with Webhook() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def alertmanager(
    tmp_path_factory: pytest.TempPathFactory, webhook: Webhook
) -> Iterator[Alertmanager]:
    """An Alertmanager with the shipped configuration, made quick, that tells the webhook."""
    config = shipped_alertmanager_config(webhook)
    with Alertmanager(tmp_path_factory.mktemp("alertmanager"), config) as server:
        yield server


@pytest.fixture(scope="session")
def alerting_stack(
    tmp_path_factory: pytest.TempPathFactory, alertmanager: Alertmanager, webhook: Webhook
) -> Iterator[AlertingStack]:
    """A Prometheus with the shipped rules and features that tells the Alertmanager."""
    with Prometheus(
        tmp_path_factory.mktemp("prometheus-alerting"),
        ("exemplar-storage", "created-timestamp-zero-ingestion"),
        rules=[SHIPPED / "rules.yml"],
        alertmanagers=[alertmanager.url],
    ) as server:
        yield AlertingStack(server, alertmanager, webhook)
