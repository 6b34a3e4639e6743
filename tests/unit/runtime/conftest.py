"""Every test has the runtime of a new process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from _ports import free_port
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter import runtime


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[runtime.Runtime]:
    """Return the runtime of a new process, without monitors and variables."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "GENMETER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(free_port()))
    with fresh_runtime() as fresh:
        yield fresh
