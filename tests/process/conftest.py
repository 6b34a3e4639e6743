"""Every test has a temporary folder of its own, so that no two tests share the folder of a job."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from otlp_receiver import HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Return the temporary folder of the test's processes.

    Its path is short: ``forkserver`` has a socket below it, whose path may have 107 bytes.
    """
    tmp_path_factory.getbasetemp()  # pytest's own folders are not in this one
    folder = Path(tempfile.mkdtemp(prefix="j-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """Return a receiver of pushes."""
    with HttpReceiver() as made:
        yield made
