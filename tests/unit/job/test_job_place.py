"""Where the processes of a job meet."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.job import meeting
from genmeter.job.forks import Forks

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a process that was not asked for its family, with a temporary folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(meeting._Known, "family", None)
    monkeypatch.setattr(Forks, "is_forked", False)
    monkeypatch.setattr(Forks, "has_forked", False)
    monkeypatch.setattr(meeting._Known, "has_instance", False)
    monkeypatch.setattr(Forks, "has_forked", False)
    monkeypatch.setattr(meeting._Known, "temporary", "")
    monkeypatch.setenv(meeting.FAMILY, "")
    monkeypatch.setenv(meeting.FOLDER, "")


# --- the folder ----------------------------------------------------------------------------------


def test_the_folder_of_jobs_is_the_users_alone(tmp_path: Path) -> None:
    """It is below the temporary directory, of mode 0700 whatever the umask."""
    before = os.umask(0)
    try:
        folder = meeting.root()
    finally:
        os.umask(before)
    assert folder == tmp_path / f"genmeter-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert meeting.root() == folder


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
def test_a_folder_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """The message names the folder and what to do."""
    folder = tmp_path / f"genmeter-{os.getuid()}"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(meeting.FolderError, match="mode 0700") as caught:
        meeting.root()
    assert str(folder) in str(caught.value)
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """Even if it leads to a folder of the user's own."""
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    meeting.top().symlink_to(own)
    with pytest.raises(meeting.FolderError, match="symbolic link"):
        meeting.root()


def test_another_users_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may have made it before."""
    meeting.top().mkdir(mode=0o700)
    owner = os.getuid()
    top = meeting.top()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    monkeypatch.setattr(meeting, "top", lambda: top)
    with pytest.raises(meeting.FolderError, match="belong to this user alone"):
        meeting.root()


def test_a_file_in_its_place_is_refused() -> None:
    """It is no folder."""
    meeting.top().touch()
    with pytest.raises(meeting.FolderError, match="remove it, or set TMPDIR"):
        meeting.root()


def test_no_temporary_directory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to set."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(meeting.FolderError, match="set TMPDIR"):
        meeting.root()


# --- names ---------------------------------------------------------------------------------------

NAMES = [
    "nightly",
    "Nightly",
    "a/b",
    "a_b",
    "a b",
    "../../etc",
    "..",
    ".",
    "",
    "über",
    "ueber",
    "x" * 61,
    "x" * 62,
    "x" * 5_000,
    "\udc80",
    "new\nline",
    "nul\0",
    "a" * 59 + "/",
]


def test_different_names_have_different_folders() -> None:
    """Also those with characters that a path cannot have, and long ones."""
    found = [meeting.folder_of(name) for name in NAMES]
    assert len(set(found)) == len(NAMES)
    assert found == [meeting.folder_of(name) for name in NAMES]
    # Also on a file system that takes capitals for small letters.
    assert len({each.lower() for each in found}) == len(NAMES)
    # A name that spells another one's folder has a folder of its own.
    for name in NAMES:
        folder = meeting.folder_of(name)
        assert meeting.folder_of(folder) != folder
        assert meeting.folder_of(folder.removeprefix("job-").removeprefix("job~")) != folder or (
            folder == f"job-{name}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_can_be_made_for_any_name(name: str) -> None:
    """It is below the folder of all jobs."""
    folder = meeting.root() / meeting.folder_of(name)
    meeting.make_private(folder)
    assert folder.resolve().parent == meeting.root().resolve()
    assert meeting.is_safe(folder)


# --- families ------------------------------------------------------------------------------------

ASK = """
import json, multiprocessing, os, subprocess, sys

def ask(queue):
    from genmeter.job import meeting
    family = meeting.family()
    queue.put([family.key, family.instance, family.root, meeting.is_child()])

if __name__ == "__main__":
    from genmeter.job import meeting
    mine = meeting.family()
    found = [[mine.key, mine.instance, mine.root, meeting.is_child()]]
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        child = context.Process(target=ask, args=(queue,))
        child.start()
        found.append(queue.get())
        child.join()
    print(json.dumps([os.getpid(), found]))
"""


def _run(folder: Path, source: str, **variables: str) -> Any:
    import json

    program = folder / "ask.py"
    program.write_text(source)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_children_of_all_start_methods_are_one_family(tmp_path: Path) -> None:
    """They have their parent's key and instance id, and know that it is the first."""
    pid, found = _run(tmp_path, ASK)
    own = found[0]
    assert own[2:] == [pid, False]
    assert found[1:] == [[*own[:3], True]] * 3


def test_a_process_that_another_one_starts_is_a_family_of_its_own(tmp_path: Path) -> None:
    """A variable alone does not make it a child: it may be any program."""
    mine = meeting.family()
    pid, found = _run(tmp_path, ASK)
    assert found[0][0] != mine.key
    assert found[0][2:] == [pid, False]


def test_children_of_genmeter_run_are_one_family(tmp_path: Path) -> None:
    """So are programs that its program starts."""
    environ: dict[str, str] = {}
    meeting.mark_run(environ, 123)
    _, found = _run(tmp_path, ASK, **environ)
    assert len({each[0] for each in found}) == 1
    assert len({each[1] for each in found}) == 1
    assert [each[2:] for each in found] == [[123, True]] * 4


RAW = """
import json, os
{before}

found = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        from genmeter.job import meeting
        family = meeting.family()
        os.write(write, json.dumps([family.key, family.root, meeting.is_child()]).encode())
        os._exit(0)
    os.wait()
    found.append(json.loads(os.read(read, 1000)))
print(json.dumps(found))
"""


@pytest.mark.parametrize("before", ["import genmeter", "from genmeter import GenerationMonitor"])
def test_children_of_a_fork_before_the_first_monitor_are_one_family(
    tmp_path: Path, before: str
) -> None:
    """Their parent may never use genmeter."""
    one, other = _run(tmp_path, RAW.format(before=before))
    assert one == other
    assert one[1:] == [0, True]


@pytest.mark.parametrize("instance", ["host:8000", "a:b:c", "", "pod-1", "[::1]:80"])
def test_any_instance_id_is_inherited(monkeypatch: pytest.MonkeyPatch, instance: str) -> None:
    """It may have colons."""
    assert meeting.adopt_instance(instance) == instance
    assert meeting.adopt_instance("later") == instance
    mine = meeting.family()
    monkeypatch.setattr(meeting._Known, "family", None)
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert meeting.family() == mine


def test_a_variable_that_is_no_family_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may have set it."""
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    for text in ("x", "::", "run-", "run-x:y:", f"{meeting._mark()}:y:z", "a:b:²"):
        monkeypatch.setattr(meeting._Known, "family", None)
        monkeypatch.setenv(meeting.FAMILY, text)
        assert meeting.family().root == 0
