"""Builds the distributions once, and finds the interpreters.

Every test in this folder is marked `package`: `make test` deselects it and `make package` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.package)
            item.add_marker(pytest.mark.timeout(600))


def checked(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that must succeed; return what it prints."""
    found = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**_inherited(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    return found.stdout


def _inherited() -> dict[str, str]:
    """Return this process's variables, without what configures genmeter, Python or a measurement."""
    left_out = ("OTEL_", "GENMETER_", "_GENMETER_", "PYTHON", "VIRTUAL_ENV", "COV")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Return a function that runs a command that must succeed."""
    return checked


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return a function that copies what is committed or new, with times of its own."""

    def copy() -> Path:
        folder = tmp_path_factory.mktemp("source")
        names = checked(
            "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT
        )
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():  # a deleted one is still listed
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        return folder

    return copy


@pytest.fixture(scope="session")
def built(source: Callable[[], Path]) -> tuple[Path, Path]:
    """Return the wheel, and the source distribution from which it was built."""
    return build(source())


def build(folder: Path) -> tuple[Path, Path]:
    """Build a wheel from a source distribution, as a package index's user would."""
    checked(sys.executable, "-m", "build", "--installer", "uv", ".", cwd=folder)
    (wheel,), (archive,) = (sorted((folder / "dist").glob(each)) for each in ("*.whl", "*.tar.gz"))
    return wheel, archive
