"""AfterImage's own test suite, out of its sdist, with our monitor in the place of its own.

It runs twice, as it is and with `genmeter.patch` installed; both runs take a quarter of a
minute. What needs a key of a vendor's, or a package that is not installed, fails in both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytestmark = [pytest.mark.example, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
RELEASE = "afterimage-0.18.1"
PARTS = ("afterimage", "tests", "pyproject.toml", "README.md")
# It counts a private list of threads.
NOT_CARRIED_OVER = "tests.test_monitoring.test_metrics_interval_zero_skips_alert_thread"
# Neither a vendor's key nor a setting of ours may reach a test.
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "SSL_CERT_FILE")


@dataclass
class Run:
    """A run of the suite.

    Attributes:
        passed: the tests that passed.
        others: the outcomes of the other tests.
        output: pytest's output.
    """

    passed: set[str]
    others: dict[str, str]
    output: str


@pytest.fixture(scope="module")
def sources() -> Path:
    """The sdist, unpacked; fetched once and kept in `build`."""
    folder = BUILD / RELEASE
    if not folder.is_dir():
        BUILD.mkdir(exist_ok=True)
        requirement = RELEASE.replace("-", "==")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(BUILD), requirement]
        subprocess.run(command, check=True, timeout=300)
        staging = BUILD / f".{RELEASE}.{os.getpid()}"
        with tarfile.open(BUILD / f"{RELEASE}.tar.gz") as archive:
            archive.extractall(staging, filter="data")
        (staging / RELEASE).rename(folder)
        staging.rmdir()
    return folder


def run(sources: Path, folder: Path, *options: str) -> Run:
    """Run the suite on a copy, since its tests write files."""
    for part in PARTS:
        copy = shutil.copytree if (sources / part).is_dir() else shutil.copy
        copy(sources / part, folder / part)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:genmeter"]
    done = subprocess.run(
        [*command, "--junitxml=results.xml", *options],
        cwd=folder,
        env={
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            "PYTHONPATH": str(HERE),
            "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
            "MPLBACKEND": "agg",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (folder / "results.xml").is_file(), done.stderr
    passed, others = set(), {}
    for case in ET.parse(folder / "results.xml").iter("testcase"):  # noqa: S314 - pytest wrote it
        name = f"{case.get('classname')}.{case.get('name')}"
        outcome = next((each for each in case if each.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            passed.add(name)
        else:
            others[name] = f"{outcome.tag}: {(outcome.text or '')[-2000:]}"
    return Run(passed, others, done.stdout)


@pytest.fixture(scope="module")
def unpatched(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite with AfterImage's classes."""
    return run(sources, tmp_path_factory.mktemp("unpatched"))


@pytest.fixture(scope="module")
def patched(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite with the patch."""
    return run(sources, tmp_path_factory.mktemp("patched"), "-p", "_patch_plugin")


def test_the_suite_passes_with_genmeters_monitor(unpatched: Run, patched: Run) -> None:
    """Tests that pass with AfterImage's classes pass, except one of private threads."""
    lost = unpatched.passed - patched.passed
    assert lost == {NOT_CARRIED_OVER}, {name: patched.others.get(name) for name in sorted(lost)}


def test_most_of_the_suite_runs(unpatched: Run) -> None:
    """Other tests need an API key."""
    assert len(unpatched.passed) > 250
    failed = {name for name, outcome in unpatched.others.items() if "skipped" not in outcome}
    assert {name.rpartition(".")[0] for name in failed} <= {"tests.test_stopping_logic"}


def test_the_suite_uses_genmeters_monitors(unpatched: Run, patched: Run) -> None:
    """Only the second run uses genmeter."""
    found = re.search(r"^monitors of genmeter: (\d+)$", patched.output, re.MULTILINE)
    assert found, patched.output
    assert int(found[1]) >= 10
    assert "genmeter" not in unpatched.output
