"""Fixtures for tests of the pipeline."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from _bench import Bench, refuse_start

from genmeter.pipeline import drain as module

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a bench whose thread does not run yet."""
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pipeline's thread sleep until it is woken."""
    monkeypatch.setattr(module, "_INTERVAL", 3_600.0)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent the start of threads."""
    monkeypatch.setattr(threading.Thread, "start", refuse_start)
