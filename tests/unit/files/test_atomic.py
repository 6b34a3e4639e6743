"""Files that appear together when they are complete, or not at all."""

from __future__ import annotations

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genmeter.files.atomic import AtomicFiles


def write(files: AtomicFiles, folder: Path, *names: str) -> None:
    """Stage files that hold their own names."""
    for name in names:
        files.stage(folder / name).write_text(name)


def names(folder: Path) -> set[str]:
    """Return the names of all files of a folder."""
    return {each.name for each in folder.iterdir()}


def test_files_appear_when_the_block_ends(tmp_path: Path) -> None:
    """Until then a reader sees the old ones; missing folders are created."""
    target = tmp_path / "new" / "a"
    with AtomicFiles() as files:
        write(files, tmp_path / "new", "a", "b")
        assert not target.exists()
    assert names(target.parent) == {"a", "b"}
    assert target.read_text() == "a"


def test_error_in_the_block_changes_nothing(tmp_path: Path) -> None:
    """The old file is unchanged, nothing is removed and no temporary file remains."""
    (tmp_path / "a").write_text("old")

    def fail() -> None:
        with AtomicFiles() as files:
            files.remove(tmp_path / "a")
            write(files, tmp_path, "a", "b")
            raise RuntimeError("unforeseen")

    with pytest.raises(RuntimeError, match="unforeseen"):
        fail()
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text() == "old"


def test_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A file that cannot be renamed is deleted."""
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"), AtomicFiles() as files:
        write(files, tmp_path, "taken")
    assert names(tmp_path) == {"taken"}


def test_failed_rename_of_a_set_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were renamed before it are the old ones again, and new ones are removed."""
    (tmp_path / "a").write_text("old a")
    (tmp_path / "d").write_text("old d")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "c":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output"), AtomicFiles() as files:
        write(files, tmp_path, "a", "b", "c", "d")
    assert names(tmp_path) == {"a", "d"}
    assert (tmp_path / "a").read_text() == "old a"
    assert (tmp_path / "d").read_text() == "old d"


def test_set_is_renamed_on_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed rename cannot be undone there, but no file is lost."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="directory"), AtomicFiles() as files:
        write(files, tmp_path, "a", "b")
    assert names(tmp_path) == {"a", "b"}
    assert (tmp_path / "a").read_text() == "a"
    with AtomicFiles() as files:
        write(files, tmp_path, "a", "c")
    assert names(tmp_path) == {"a", "b", "c"}


def test_superseded_files_are_removed(tmp_path: Path) -> None:
    """A file that does not exist any more is not an error."""
    (tmp_path / "old").write_text("old")
    with AtomicFiles() as files:
        files.remove(tmp_path / "old", tmp_path / "gone")
        write(files, tmp_path, "new")
    assert names(tmp_path) == {"new"}


def test_failed_removal_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The new file is written, and the warning names the old one."""
    (tmp_path / "old").mkdir()
    with AtomicFiles() as files:
        files.remove(tmp_path / "old")
        write(files, tmp_path, "new")
    assert names(tmp_path) == {"new", "old"}
    assert f"cannot remove {tmp_path / 'old'}" in caplog.text


def test_sets_are_renamed_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of one set appear together, whatever another thread writes."""
    renamed: list[int] = []
    rename = Path.replace

    def note(self: Path, target: Path) -> Path:
        renamed.append(threading.get_ident())
        time.sleep(0.002)  # so that the other thread could rename
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", note)
    both = threading.Barrier(2)

    def work(_: int) -> None:
        with AtomicFiles() as files:
            write(files, tmp_path, *"abcde")
            both.wait()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert len(renamed) == 10
    assert len(list(itertools.groupby(renamed))) == 2


def test_child_forked_during_a_rename_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for a lock that only its parent can release."""
    renaming, forked = threading.Event(), threading.Event()
    rename = Path.replace

    def wait(self: Path, target: Path) -> Path:
        renaming.set()
        forked.wait(10)
        return rename(self, target)

    def work() -> None:
        with AtomicFiles() as files:
            write(files, tmp_path, "parent")

    monkeypatch.setattr(Path, "replace", wait)
    thread = threading.Thread(target=work)
    thread.start()
    assert renaming.wait(10)
    monkeypatch.undo()
    child = os.fork()
    if child == 0:
        try:
            with AtomicFiles() as files:
                write(files, tmp_path, "child")
        finally:
            os._exit(0)
    forked.set()
    thread.join()
    deadline = time.monotonic() + 10
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert names(tmp_path) == {"parent", "child"}
