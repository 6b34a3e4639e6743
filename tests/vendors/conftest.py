"""Fixtures for tests with the real clients of vendors, over loopback.

Every test in this folder is marked `vendors`, unless it is marked `example` since it needs AfterImage:
`make test` deselects it and `make vendors` runs it. A client that is not installed is a failure, with
`make vendors` as the remedy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# Their imports would ask the network for a table of prices, and report themselves.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            if item.get_closest_marker("example") is None:
                item.add_marker(pytest.mark.vendors)
            # The newest clients may warn of anything; it is shown in the summary.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skipped test of this folder a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.path.is_relative_to(HERE):
        report.outcome = "failed"
        reason: Any = report.longrepr
        shown = reason[2] if isinstance(reason, tuple) else reason
        report.longrepr = f"{shown}; run `make vendors`, which installs the clients"
    return report
