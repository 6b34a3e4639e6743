"""What other programs load of genmeter, whether a job uses it or not, imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genmeter

ROOT = Path(__file__).parents[2]
HEAVY = ("opentelemetry.sdk", "prometheus_client", "genmeter.monitor", "genmeter.runtime", "wrapt")


def entry_modules() -> list[str]:
    """Return the modules of the entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        value.partition(":")[0]
        for group in project["entry-points"].values()
        for value in group.values()
    }
    return sorted({"genmeter", "genmeter.hooks", *found})


@pytest.mark.parametrize("module", entry_modules())
def test_an_entry_point_loads_little(module: str) -> None:
    """Not the SDK, nor what makes a monitor."""
    program = (
        f"import sys\nimport {module}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    if module == "genmeter.instrumentor":  # its base class needs wrapt
        program = program.replace(", 'wrapt'", "")
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_each_public_name_is_found() -> None:
    """In the module that is named for it, and in ``dir()``."""
    assert set(genmeter._HOMES) == set(genmeter.__all__) - {"__version__"}
    for name in genmeter.__all__:
        assert getattr(genmeter, name) is not None
        assert name in dir(genmeter)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = genmeter.no_such_name  # type: ignore[attr-defined]
