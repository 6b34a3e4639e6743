"""What the kernel shows of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from genmeter.job import _processes, _starters
from genmeter.job._processes import Process, ancestors, own_start, python_processes, variable
from genmeter.job._starters import goes_on, note_end, note_others, note_starters
from genmeter.job.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

ME = os.getpid()


class Kernel:
    """A folder in the form of ``/proc``.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(
        self,
        pid: int,
        parent: int,
        *command: str,
        job: str | None = None,
        leads: bool = False,
        state: str = "S",
        temporary: str | None = None,
    ) -> None:
        """Add a process; ``leads`` that it leads the session of a terminal."""
        entry = self._folder / str(pid)
        entry.mkdir()
        session, terminal = (pid, 34_816) if leads else (1, 0)
        fields = [state, parent, pid, session, terminal, *[0] * 14, 100 + pid, 0]
        (entry / "stat").write_text(f"{pid} (a) b c) {' '.join(map(str, fields))}\n")
        (entry / "cmdline").write_bytes(b"".join(each.encode() + b"\0" for each in command))
        lines = ["A=1", *([] if job is None else [f"GENMETER_JOB={job}"]), "XGENMETER_JOB=no"]
        lines += [] if temporary is None else [f"TMPDIR={temporary}"]
        (entry / "environ").write_bytes(b"".join(each.encode() + b"\0" for each in lines))
        (entry / "exe").symlink_to(f"/usr/bin/{command[0].removeprefix('-')}")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Return a table of processes that has this one, started by the shell 50."""
    folder = tmp_path / "proc"
    folder.mkdir()
    monkeypatch.setattr(_processes, "_PROC", folder)
    monkeypatch.setattr(_processes.os, "getppid", lambda: 50)
    monkeypatch.setattr(
        Process, "is_running", property(lambda each: (folder / str(each.pid)).exists())
    )
    made = Kernel(folder)
    made.add(ME, 50, "python3.11", "job.py", job="night")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return the store of a job."""
    made = Store(tmp_path / "job.sqlite")
    made.create({}, keep=False)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("command", "leads", "found"),
    [
        (("sh", "loop.sh"), False, [50, 40]),
        (("bash", "-c", "python job.py"), True, [50, 40]),  # `docker run -t`
        (("bash",), True, []),
        (("-zsh",), True, []),
        (("bash", "--login", "-i"), True, []),
        (("bash", "-i"), False, [50, 40]),  # without a terminal
    ],
)
def test_the_prompt_of_a_terminal_ends_the_ancestors(
    kernel: Kernel, command: tuple[str, ...], leads: bool, found: list[int]
) -> None:
    """What a user starts there, one after the other, are runs of their own."""
    kernel.add(50, 40, *command, leads=leads)
    kernel.add(40, 0, "init")
    assert list(ancestors()) == found


def test_a_launcher_or_a_script_with_the_name_keeps_the_job(kernel: Kernel, store: Store) -> None:
    """Whatever is between it and the process; one of another name does not."""
    kernel.add(50, 40, "sh", "-c", "python job.py")
    kernel.add(40, 30, "srun", job=" night ")
    kernel.add(30, 20, "sh", "all.sh", job="other")
    kernel.add(20, 0, "sshd")
    note_starters(store, "night")
    assert [each.pid for each in _starters._read(store, "starters")] == [40]
    assert goes_on(store)
    (kernel._folder / "40").rename(kernel._folder / "x")
    assert not goes_on(store)


@pytest.mark.parametrize(
    ("changes", "keeps"),
    [
        ({}, True),
        ({"job": "other"}, False),
        ({"job": None}, False),
        ({"command": ("tail", "-f", "log")}, False),
        (
            {"command": ("python3", "-c", "from multiprocessing.resource_tracker import main")},
            False,
        ),
        ({"command": ("python3", "-c", "from joblib.x.resource_tracker import main")}, False),
        ({"command": ("python3", "-c", "from multiprocessing.forkserver import main")}, False),
        ({"parent": 61}, False),  # this process has started its parent
    ],
)
def test_another_python_process_with_the_name_keeps_the_job(
    kernel: Kernel, store: Store, changes: dict[str, object], keeps: bool
) -> None:
    """One that may record yet: no helper, and nothing that ends with this process."""
    kernel.add(61, ME, "python3", "-m", "worker", job=None)
    found = {"parent": 50, "command": ("python3.12", "rank.py"), "job": "night", **changes}
    kernel.add(60, found["parent"], *found["command"], job=found["job"])  # type: ignore[arg-type, misc]
    assert list(python_processes()) == ([60] if keeps or "job" in changes else [])
    note_others(store, "night")
    assert goes_on(store) is keeps


@pytest.mark.parametrize(("temporary", "keeps"), [(None, True), ("", True), ("/scratch", False)])
def test_a_process_of_another_folder_does_not_keep_the_job(
    kernel: Kernel, store: Store, temporary: str | None, keeps: bool
) -> None:
    """It has a job of the same name there."""
    kernel.add(60, 50, "python3.12", "rank.py", job="night", temporary=temporary)
    note_others(store, "night")
    assert goes_on(store) is keeps


def test_a_process_that_has_left_the_job_does_not_keep_it(
    kernel: Kernel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it ends, it still runs."""
    kernel.add(60, 50, "python3.12", "rank.py", job="night")
    monkeypatch.setattr(_starters.os, "getpid", lambda: 60)
    note_end(store)
    monkeypatch.setattr(_starters.os, "getpid", lambda: ME)
    note_others(store, "night")
    assert not goes_on(store)


def test_one_that_kept_a_job_may_join_it(kernel: Kernel, store: Store) -> None:
    """It is no reason to wait for others when it leaves, but one to go on when it comes."""
    _starters._add(store, "starters", [ME])
    assert goes_on(store, is_leaving=False)
    assert not goes_on(store)


# --- the real ones -------------------------------------------------------------------------------


def test_a_variable_is_that_of_the_start() -> None:
    """Also of a process that changes its environment later, and with any characters."""
    value = "a=b c\udcff"
    code = "import os, sys; os.environ['X_Y'] = 'other'; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={"X_Y": value, "XX_Y": "no"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert variable(process.pid, "X_Y") == value
        assert variable(process.pid, "Y") is None
        assert process.pid not in list(python_processes())  # this process has started it
        process.kill()
        process.wait()
        assert variable(process.pid, "X_Y") is None
    assert not Process.of(process.pid).is_running


def test_the_start_of_this_process_is_known() -> None:
    """In the time of the clock, and never too early: what ended before it did not run beside it."""
    code = "from genmeter.job._processes import own_start; print(own_start())"
    for _ in range(5):
        before = time.time()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert before <= float(done.stdout) <= time.time()
    assert (own_start() or 0.0) < before


def test_without_proc_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of Linux."""
    monkeypatch.setattr(_processes, "_PROC", tmp_path / "absent")
    assert (list(python_processes()), variable(ME, "PATH"), own_start()) == ([], None, None)
    assert list(ancestors()) == [os.getppid()]
    assert Process.of(ME).is_running
