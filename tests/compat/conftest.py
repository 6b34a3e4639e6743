"""Fixtures for tests that run on AfterImage's class and on ours."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import pytest
from _compat import Subject

from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = {"afterimage": "afterimage.monitoring", "genmeter": "genmeter"}


@pytest.fixture(params=[pytest.param("afterimage", marks=pytest.mark.example), "genmeter"])
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Subject]:
    """Run the test on AfterImage's package and on ours, in an empty folder."""
    for name in [each for each in os.environ if each.startswith(("OTEL_", "GENMETER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    with fresh_runtime():
        name = request.param
        found = Subject(name, importlib.import_module(MODULES[name]), tmp_path)
        yield found
        found.shutdown()
    if found.is_afterimage and (pyplot := sys.modules.get("matplotlib.pyplot")):
        # AfterImage sets a style for the whole process and leaves all figures open.
        pyplot.close("all")
        pyplot.rcdefaults()
