"""The size, the seed and the folders of the battery: long, random runs beyond the ordinary tests.

Every test in this folder is marked `battery`: `make test` deselects it and `make battery` runs it.
`BATTERY=long` makes the runs long, and `BATTERY_SEED` repeats the one of a failure's report.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _battery import PATIENCE, SEED, Battery, chosen_size

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent


@pytest.fixture
def battery(request: pytest.FixtureRequest) -> Battery:
    """Return the amount and the random numbers of a test."""
    return Battery(chosen_size(), request.node.name)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.battery)
            # Only a hang takes this long.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE[chosen_size()]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say how to repeat a failed run."""
    report = yield
    if report.failed and item.path.is_relative_to(HERE):
        again = f"make battery BATTERY={chosen_size()} BATTERY_SEED={SEED}"
        report.sections.append(("the same random numbers", again))
    return report


@pytest.fixture(autouse=True)
def jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Return a temporary folder of the test's own, so that no two tests share that of a job.

    It is the current folder too: what has no absolute path is written there.
    """
    tmp_path_factory.getbasetemp()  # pytest's own folders are not in this one
    folder = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
