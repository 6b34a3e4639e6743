"""Fixtures for tests with the real clients of vendors, over loopback.

Every test in this folder is marked `vendors`, unless it is marked `example` since it needs AfterImage:
`make test` deselects it and `make vendors` runs it. A client that is not installed is a failure, with
`make vendors` as the remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent
# They would ask the network for a table of prices, and report themselves.
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    """Keep the clients from the network; tests import them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            if item.get_closest_marker("example") is None:
                item.add_marker(pytest.mark.vendors)
            # The newest clients may warn of anything; it is shown in the summary.
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Do not even import these tests where none of them is to run."""
    return True if "not vendors" in config.option.markexpr else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make a skipped module a failure if all clients should be there."""
    report = yield
    if report.skipped and collector.config.option.markexpr == "vendors":
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skipped test of this folder a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.path.is_relative_to(HERE):
        _fail(report)
    return report


def _fail(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{reason}; run `make vendors`, which installs the clients"
