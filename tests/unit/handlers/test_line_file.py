"""The file that whole lines are appended to."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from genmeter.handlers._line_file import LineFile


def line_file(path: Path, max_bytes: int | None = None, keep: int = 5) -> LineFile:
    """Make one."""
    return LineFile(path, max_bytes=max_bytes, keep=keep)


def fail_after(monkeypatch: pytest.MonkeyPatch, count: int, error: int = errno.ENOSPC) -> None:
    """Let writes of this many bytes in all succeed, and those after them fail."""
    left = [count]
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(error, os.strerror(error))
        written = write(fd, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", limited)


def test_nothing_is_made_before_the_first_line(tmp_path: Path) -> None:
    """The folder and the file come with it; the file is opened once and its lines are there."""
    path = tmp_path / "a" / "b" / "lines"
    lines = line_file(path)
    assert not (tmp_path / "a").exists()
    lines.append(b"one\n")
    inode = path.stat().st_ino
    path.rename(path.with_name("moved"))
    lines.append(b"two\n")
    assert not path.exists()
    assert path.with_name("moved").read_bytes() == b"one\ntwo\n"
    assert path.with_name("moved").stat().st_ino == inode


def test_a_closed_file_is_opened_again(tmp_path: Path) -> None:
    """``close`` may come at any time and again, and loses nothing."""
    lines = line_file(tmp_path / "lines")
    lines.close()
    lines.append(b"one\n")
    lines.close()
    lines.close()
    lines.append(b"two\n")
    assert lines.path.read_bytes() == b"one\ntwo\n"
    lines.close()


def test_a_change_of_folder_does_not_move_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path counts from where the job was when it named it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    lines = line_file(Path("lines"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    lines.append(b"one\n")
    assert (tmp_path / "lines").read_bytes() == b"one\n"


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    """Threads and files of their own on the same path never mix their lines."""
    files = [line_file(tmp_path / "lines") for _ in range(2)]

    def write(number: int) -> None:
        for _ in range(200):
            files[number % 2].append(b"%d" % number * 100 + b"\n")

    threads = [threading.Thread(target=write, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = (tmp_path / "lines").read_text().splitlines()
    assert sorted(found) == sorted([str(number) * 100 for number in range(6)] * 200)


def test_a_line_that_was_not_finished_spoils_no_other(tmp_path: Path) -> None:
    """After a process was killed in the middle of a line, the next one begins on its own."""
    path = tmp_path / "lines"
    path.write_bytes(b"whole\nhal")
    lines = line_file(path)
    lines.append(b"one\n")
    lines.append(b"two\n")
    assert path.read_bytes() == b"whole\nhal\none\ntwo\n"


def test_a_write_that_fails_in_the_middle_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk gets full the file keeps its whole lines, and goes on once there is space."""
    lines = line_file(tmp_path / "lines")
    lines.append(b"one\n")
    with monkeypatch.context() as patch:
        fail_after(patch, 5)
        for _ in range(2):
            with pytest.raises(OSError, match="lines cannot be written: No space left") as caught:
                lines.append(b"two\nthree\n")
            assert caught.value.errno == errno.ENOSPC
            assert "free some space" in str(caught.value)
            assert lines.path.read_bytes() == b"one\n"
    lines.append(b"four\n")
    assert lines.path.read_bytes() == b"one\nfour\n"


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only some of the bytes is no error."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:2]))
    lines = line_file(tmp_path / "lines")
    lines.append(b"a line\n")
    assert lines.path.read_bytes() == b"a line\n"


def test_what_cannot_be_taken_back_spoils_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another process wrote behind the part that got through, the next line is on its own."""
    lines = line_file(tmp_path / "lines")
    write = os.write

    def torn(fd: int, data: bytes) -> int:
        if data == b"other":
            raise OSError(errno.ENOSPC, "full")
        written = write(fd, data[:3])
        with lines.path.open("ab") as other:
            other.write(b"behind\n")
        monkeypatch.setattr(os, "write", fail)
        return written

    def fail(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(OSError, match="full"):
        lines.append(b"my line\n")
    monkeypatch.undo()
    lines.append(b"mine again\n")
    assert lines.path.read_bytes().splitlines() == [b"my behind", b"", b"mine again"]


def test_a_file_that_cannot_be_cut_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses to take back, the half line ends and the next begins anew."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    lines = line_file(tmp_path / "lines")
    with monkeypatch.context() as patch:
        fail_after(patch, 3)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="No space"):
            lines.append(b"my line\n")
    lines.append(b"again\n")
    assert lines.path.read_bytes() == b"my \nagain\n"


def test_the_error_says_what_to_do_where_the_folder_is_a_file(tmp_path: Path) -> None:
    """A ``log_dir`` that is a file, or lies below one, is told as such at every attempt."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "lines", tmp_path / "file" / "below" / "lines"):
        lines = line_file(path)
        for _ in range(2):
            with pytest.raises(OSError, match=r"cannot be written: .*give a folder as log_dir"):
                lines.append(b"one\n")
    (tmp_path / "file").unlink()
    lines.append(b"two\n")
    assert lines.path.read_bytes() == b"two\n"


def test_a_device_that_is_full_is_told(tmp_path: Path) -> None:
    """What is no plain file is neither read nor cut."""
    (tmp_path / "lines").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device; free some space"):
        line_file(tmp_path / "lines").append(b"one\n")


def test_a_file_past_its_size_is_put_aside(tmp_path: Path) -> None:
    """``lines.log`` becomes ``lines.1.log`` and so on; the oldest goes, no other line is lost."""
    lines = line_file(tmp_path / "lines.log", max_bytes=10, keep=3)
    for number in range(100, 111):
        lines.append(b"%d\n" % number)
    found = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert found == {
        "lines.log": ["110"],
        "lines.1.log": ["108", "109"],
        "lines.2.log": ["106", "107"],
        "lines.3.log": ["104", "105"],
    }


def test_lines_of_one_append_stay_together(tmp_path: Path) -> None:
    """One that is larger than the limit has a file to itself."""
    lines = line_file(tmp_path / "lines", max_bytes=4, keep=9)
    for data in (b"long line\nand more\n", b"a\n", b"b\n", b"c\n"):
        lines.append(data)
    assert (tmp_path / "lines.2").read_bytes() == b"long line\nand more\n"
    assert (tmp_path / "lines.1").read_bytes() == b"a\nb\n"
    assert (tmp_path / "lines").read_bytes() == b"c\n"


def test_two_that_put_aside_the_same_file_lose_nothing(tmp_path: Path) -> None:
    """Who finds that another process was faster goes on with the new file."""
    first, second = (line_file(tmp_path / "lines", max_bytes=100, keep=500) for _ in range(2))
    for number in range(1_000):
        (first, second)[number % 3 == 0].append(b"line %04d\n" % number)
    found = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(found) == [f"line {number:04d}" for number in range(1_000)]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())


def test_while_another_puts_aside_the_file_grows_on(tmp_path: Path) -> None:
    """Nobody waits for the other's lock."""
    lines = line_file(tmp_path / "lines", max_bytes=5)
    lines.append(b"one\n")
    with (tmp_path / "lines").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        lines.append(b"two\n")
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"
    lines.append(b"three\n")
    assert (tmp_path / "lines").read_bytes() == b"three\n"


def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is put aside all the same."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lines = line_file(tmp_path / "lines", max_bytes=5)
    lines.append(b"one\n")
    lines.append(b"two\n")
    assert (tmp_path / "lines.1").read_bytes() == b"one\n"
    assert (tmp_path / "lines").read_bytes() == b"two\n"


def test_a_file_that_cannot_be_put_aside_grows_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No line is lost to it, and one warning says so."""
    (tmp_path / "lines.1" / "in the way").mkdir(parents=True)
    lines = line_file(tmp_path / "lines", max_bytes=5, keep=1)
    with caplog.at_level(logging.WARNING, "genmeter"):
        for _ in range(3):
            lines.append(b"line\n")
    assert (tmp_path / "lines").read_bytes() == b"line\n" * 3
    (record,) = caplog.records
    assert "cannot be put aside and goes on growing" in record.getMessage()


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """With its folder; lines do not go on to where nobody finds them."""
    lines = line_file(tmp_path / "folder" / "lines")
    lines.append(b"one\n")
    shutil.rmtree(tmp_path / "folder")
    lines.append(b"two\n")
    lines.append(b"three\n")
    assert lines.path.read_bytes() == b"two\nthree\n"


def test_a_file_that_was_moved_is_made_again_when_it_is_full(tmp_path: Path) -> None:
    """There is nothing to put aside then."""
    lines = line_file(tmp_path / "lines", max_bytes=5)
    lines.append(b"one\n")
    lines.path.rename(tmp_path / "moved")
    lines.append(b"two\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "moved"]
    assert lines.path.read_bytes() == b"two\n"


def test_a_line_that_another_process_just_writes_is_no_unfinished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens the file meanwhile sees it whole a moment later, and leaves no empty line."""
    path = tmp_path / "lines"
    path.write_bytes(b"hal")

    def finish(_: float) -> None:
        with path.open("ab") as other:
            other.write(b"f\n")

    monkeypatch.setattr("genmeter.handlers._line_file.time.sleep", finish)
    line_file(path).append(b"one\n")
    assert path.read_bytes() == b"half\none\n"
