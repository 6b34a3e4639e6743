"""What is published: reproducible, complete, and usable without extras on each Python.

From the oldest dependencies that it allows to the newest; and its types hold for a user.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import build

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_builds_are_the_same(source: Callable[[], Path], built: tuple[Path, Path]) -> None:
    """In other folders, and of files with other times."""
    assert [_sum(each) for each in build(source())] == [_sum(each) for each in built]


def test_the_wheel_has_what_it_needs_and_no_more(built: tuple[Path, Path]) -> None:
    """The package with its types and rendered files, and nothing beside it."""
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"genmeter"}
    modules = {each.relative_to(ROOT / "src").as_posix() for each in (ROOT / "src").glob("**/*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    for name in (
        "py.typed",
        "render/runbook.md",
        "deploy/grafana/dashboards/genmeter-overview.json",
    ):
        assert f"genmeter/{name}" in names


def test_the_source_distribution_has_what_the_tests_need(built: tuple[Path, Path]) -> None:
    """Its tests read deploy/, docs/, examples/ and tools/."""
    with tarfile.open(built[1]) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops >= {
        "Makefile",
        "constraints.txt",
        "deploy",
        "docs",
        "examples",
        "src",
        "tests",
        "tools",
    }


def _interpreter(python: str) -> str | None:
    """Return a Python of a version, on the path or of pyenv; None without one."""
    folder = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for found in (shutil.which(f"python{python}"), *sorted(folder.glob(f"{python}.*/bin/python"))):
        works = found and subprocess.run(
            [found, "-c", "import ssl"], capture_output=True, check=False
        )
        if works and works.returncode == 0:  # what pyenv puts on the path may refuse
            return str(found)
    return None


@pytest.fixture
def environment(tmp_path: Path, run: Callable[..., str]) -> Callable[..., Path]:
    """Return a function that makes an environment with the wheel; it returns its Python."""

    def make(wheel: Path, python: str, *options: str) -> Path:
        interpreter = _interpreter(python)
        if interpreter is None:
            pytest.skip(f"there is no Python {python}")
        folder = tmp_path / "environment"
        run("uv", "venv", "--python", interpreter, folder, cwd=tmp_path)
        found = folder / "bin" / "python"
        run("uv", "pip", "install", "--python", found, *options, wheel, cwd=tmp_path)
        return found

    return make


# The oldest dependencies have wheels for the oldest Python only.
@pytest.mark.parametrize(
    ("resolution", "python"),
    [("lowest-direct", PYTHONS[0]), *(("highest", python) for python in PYTHONS)],
)
def test_the_wheel_alone_is_usable(
    tmp_path: Path,
    run: Callable[..., str],
    built: tuple[Path, Path],
    environment: Callable[..., Path],
    python: str,
    resolution: str,
) -> None:
    """Without extras, and in an empty folder; what needs an extra names it."""
    interpreter = environment(built[0], python, "--resolution", resolution)
    folder = tmp_path / "work"
    folder.mkdir()
    run(interpreter, "-W", "error::DeprecationWarning:genmeter", HERE / "_used.py", cwd=folder)


def test_a_users_types_are_right(
    tmp_path: Path,
    run: Callable[..., str],
    built: tuple[Path, Path],
    environment: Callable[..., Path],
) -> None:
    """By mypy and by pyright, which see the wheel, and what its plots are of."""
    python = environment(built[0], PYTHONS[0])
    run("uv", "pip", "install", "--python", python, "pandas-stubs", "matplotlib", cwd=tmp_path)
    work = tmp_path / "user"
    work.mkdir()
    shutil.copy(ROOT / "tests" / "typing" / "public_api.py", work)
    run("mypy", "--strict", "--python-executable", python, "public_api.py", cwd=work)
    run("pyright", "--pythonpath", python, "public_api.py", cwd=work)
