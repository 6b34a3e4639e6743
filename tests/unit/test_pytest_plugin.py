"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from _measured import measured
from genmeter import ConfigError, MonitorConfig, pytest_plugin
from genmeter.testing import isolated_monitor, redirected

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
from genmeter import GenerationMonitor

monitor = GenerationMonitor()


def call(tokens=10, **more):
    with monitor.generation(model="atlas", step="draft") as call:
        call.usage(prompt_token_count=tokens, completion_token_count=0, **more)
"""


def run_pytest(folder: Path, tests: str, *options: str) -> tuple[int, str]:
    """Run pytest with the plugin in a process of its own; return its exit code and output."""
    (folder / "job.py").write_text(JOB)
    (folder / "test_it.py").write_text(tests)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:genmeter"),
            *("-p", "genmeter.pytest_plugin", "-c", os.devnull, "--rootdir", str(folder)),
            *(*options, str(folder / "test_it.py")),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=folder,
        env={**os.environ, **measured(), "OTEL_METRICS_EXPORTER": "none", "PYTEST_ADDOPTS": ""},
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_monitor_of_a_module_records_to_the_fixture(tmp_path: Path) -> None:
    """Each test begins from zero, and the code's own reads are those of the fixture."""
    code, output = run_pytest(
        tmp_path,
        """
import job


def test_first(genmeter):
    job.call(10)
    assert genmeter.get_total_token_usage().total_tokens == 10
    assert job.monitor.get_total_token_usage().total_tokens == 10
    assert genmeter.value("genmeter_tokens_total", genmeter_step="draft") == 10


def test_second(genmeter):
    job.call(7)
    assert genmeter.get_total_token_usage().total_tokens == 7


def test_without_it():
    assert job.monitor.get_total_token_usage().total_tokens == 0
    job.call(3)
    assert job.monitor.get_total_token_usage().total_tokens == 3
""",
    )
    assert code == 0, output
    assert "3 passed" in output


def test_a_test_that_spends_too_much_fails(tmp_path: Path) -> None:
    """By the marker or the assertion; the message says what was spent."""
    code, output = run_pytest(
        tmp_path,
        """
import pytest

import job


@pytest.mark.genmeter(tokens=20)
def test_within():
    job.call(10)
    job.call(10)


@pytest.mark.genmeter(tokens=20)
def test_marker():
    job.call(21)


def test_assertion(genmeter):
    job.call(5)
    genmeter.assert_budget(calls=0)


@pytest.mark.genmeter(tokens=100)
class TestMany:
    def test_class(self):
        job.call(100)

    @pytest.mark.genmeter(tokens=1)
    def test_own_limit(self):
        job.call(2)
""",
        "--genmeter-report",
    )
    assert code == 1, output
    assert "3 failed, 2 passed" in output
    assert "AssertionError: over the budget: tokens 21 of 20" in output
    assert "AssertionError: over the budget: calls 1 of 0" in output
    assert "AssertionError: over the budget: tokens 2 of 1" in output
    summary = output[output.index("genmeter ===") :]
    assert summary.index("test_class") < summary.index("test_marker") < summary.index("test_within")
    assert "        6           148      0.0000  total" in summary


def test_a_marker_with_a_wrong_argument_stops_the_run(tmp_path: Path) -> None:
    """It names the test, the argument and the names that exist."""
    code, output = run_pytest(
        tmp_path,
        """
import pytest


@pytest.mark.genmeter(token=20)
def test_marker():
    pass
""",
    )
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py::test_marker: the marker genmeter takes tokens, usd" in output
    assert "got token" in output


def test_a_report_without_tests_says_so(tmp_path: Path) -> None:
    """No table without rows."""
    code, output = run_pytest(tmp_path, "def test_it():\n    pass\n", "--genmeter-report")
    assert code == 0
    assert "no test used the fixture genmeter" in output


def test_what_cannot_be_checked_is_over_the_budget() -> None:
    """A call of unknown usage, and with a limit of USD a model without a price."""
    with isolated_monitor() as monitor:
        with monitor.generation(model="atlas"):
            pass
        monitor.assert_budget(calls=1)
        monitor.assert_budget(tokens=0, allow_unread=True)
        with pytest.raises(AssertionError, match="1 calls of unknown usage"):
            monitor.assert_budget(tokens=100)
    with isolated_monitor(MonitorConfig(prices={"atlas": (1.0, 2.0)})) as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=1_000_000)
        monitor.assert_budget(usd=1.0)
        with pytest.raises(AssertionError, match=r"USD 1 of 0\.5"):
            monitor.assert_budget(usd=0.5)
        monitor.track_generation(1.0, True, model_name="birch", prompt_token_count=1)
        with pytest.raises(AssertionError, match="no price for birch"):
            monitor.assert_budget(usd=5)


@pytest.mark.parametrize("limits", [{}, {"tokens": -1}, {"usd": "1"}, {"calls": 1.5}])
def test_wrong_limits_are_refused(limits: dict[str, object]) -> None:
    """With the name of the argument."""
    with isolated_monitor() as monitor, pytest.raises(ConfigError, match=r"tokens|usd|calls"):
        monitor.assert_budget(**limits)  # type: ignore[arg-type]


def test_redirecting_is_one_step_for_other_threads() -> None:
    """A thread that records meanwhile never sees a monitor without its attributes."""
    with isolated_monitor() as outer:
        errors: list[BaseException] = []
        ends = threading.Event()

        def record() -> None:
            while not ends.is_set():
                try:
                    assert outer.log_dir
                    outer.track_generation(1.0, True, model_name="m", total_token_count=1)
                except BaseException as error:
                    errors.append(error)
                    return

        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        own = vars(outer)
        for _ in range(200):
            with isolated_monitor() as inner, redirected(inner):
                assert outer._session is inner._session
            assert vars(outer) is own
        ends.set()
        thread.join()
        assert errors == []


def test_redirected_monitors_are_themselves_again() -> None:
    """Also one that belongs to another runtime, and after an error."""
    with isolated_monitor() as outer, isolated_monitor() as inner:
        with pytest.raises(ZeroDivisionError), redirected(inner):  # noqa: PT012 - the error is last
            outer.track_generation(1.0, True, model_name="atlas", prompt_token_count=5)
            raise ZeroDivisionError
        outer.track_generation(1.0, True, model_name="atlas", prompt_token_count=7)
        assert inner.get_total_token_usage().total_tokens == 5
        assert outer.get_total_token_usage().total_tokens == 7


REPORTED = """
import job


def test_first(genmeter):
    job.call(10)


def test_second(genmeter):
    job.call(7)
    job.call(1)


def test_without_it():
    job.call(5)
"""


def test_the_report_of_a_test_has_what_it_spent(tmp_path: Path) -> None:
    """JUnit's XML too."""
    code, output = run_pytest(tmp_path, REPORTED, "--junitxml", str(tmp_path / "junit.xml"))
    assert code == 0, output
    text = (tmp_path / "junit.xml").read_text()
    for name, value in (("calls", 2), ("tokens", 8), ("unread", 0)):
        assert f'<property name="genmeter_{name}" value="{value}" />' in text
    assert text.count("genmeter_tokens") == 2


def test_rows_of_other_processes_are_in_the_report(pytestconfig: pytest.Config) -> None:
    """As pytest-xdist passes reports: as JSON."""
    reports = pytest_plugin._Reports()
    for when in ("setup", "call", "teardown"):
        report = pytest.TestReport(
            "test_it.py::test_a",
            ("test_it.py", 1, "test_a"),
            {},
            "passed",
            None,
            when,  # type: ignore[arg-type]
            user_properties=[
                *(("genmeter_calls", 1), ("genmeter_tokens", 10), ("genmeter_usd", 0.5)),
                *(("genmeter_unread", 0), ("other", "x")),
            ],
        )
        passed = json.loads(
            json.dumps(
                pytestconfig.hook.pytest_report_to_serializable(config=pytestconfig, report=report)
            )
        )
        read = pytestconfig.hook.pytest_report_from_serializable(config=pytestconfig, data=passed)
        reports.pytest_runtest_logreport(read)
    assert reports.spent == [("test_it.py::test_a", 1, 10, 0.5, 0)]


def test_the_report_has_the_tests_of_all_workers(tmp_path: Path) -> None:
    """If pytest-xdist is installed."""
    pytest.importorskip("xdist")
    code, output = run_pytest(tmp_path, REPORTED, "--genmeter-report", "-n", "2")
    assert code == 0, output
    for row in ("test_first", "test_second", "total"):
        assert row in output.partition("= genmeter =")[2]
