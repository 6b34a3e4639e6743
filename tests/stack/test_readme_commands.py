"""The commands of the README."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


def run(command: Sequence[str], cwd: Path = ROOT, timeout: float = 300) -> str:
    """Run a command; return its output."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environ, "OTEL_EXPORTER_PROMETHEUS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_make_demo_ends_with_the_token_report() -> None:
    """`make demo` installs genmeter, prints the address, and ends with the report."""
    printed = run(["make", "demo", "ARGS=--duration 3 --port 0"])
    assert "http://127.0.0.1:" in printed
    assert "prompt" in printed
    assert "total" in printed


@pytest.mark.timeout(400)
def test_make_example_counts_the_tokens_of_the_server() -> None:
    """The monitors of an AfterImage job equal the model server."""
    printed = run(["make", "example", "ARGS=--dialogs 2 --rows 2 --port 0"])
    assert "total" in printed


@pytest.mark.timeout(400)
def test_pip_install_provides_the_command_and_the_import(tmp_path: Path) -> None:
    """A job can be monitored after `pip install .` into an empty environment."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    run([str(python), "-m", "pip", "install", "--quiet", "-c", "constraints.txt", "."])
    version = run([str(tmp_path / "env/bin/genmeter"), "--version"], cwd=tmp_path)
    code = (
        "import genmeter\n"
        "with genmeter.GenerationMonitor() as monitor:\n"
        "    monitor.track_generation(1.0, True, model_name='m', total_token_count=7)\n"
        "    assert monitor.get_total_token_usage().total_tokens == 7\n"
        "print('genmeter', genmeter.__version__)\n"
    )
    assert run([str(python), "-c", code], cwd=tmp_path) == version
    assert sys.prefix not in run([str(python), "-c", "import genmeter; print(genmeter.__file__)"])
