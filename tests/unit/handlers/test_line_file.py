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
    """Create a line file."""
    return LineFile(path, max_bytes=max_bytes, keep=keep)


def fail_after(monkeypatch: pytest.MonkeyPatch, count: int, error: int = errno.ENOSPC) -> None:
    """Let writes fail after this many bytes."""
    left = [count]
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(error, os.strerror(error))
        written = write(fd, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", limited)


def test_first_line_creates_folder_and_file(tmp_path: Path) -> None:
    """The file is opened once."""
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


def test_closed_file_is_reopened(tmp_path: Path) -> None:
    """``close`` may be called at any time, repeatedly, without loss."""
    lines = line_file(tmp_path / "lines")
    lines.close()
    lines.append(b"one\n")
    lines.close()
    lines.close()
    lines.append(b"two\n")
    assert lines.path.read_bytes() == b"one\ntwo\n"
    lines.close()


def test_relative_path_is_resolved_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the working directory does not move the file."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    lines = line_file(Path("lines"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    lines.append(b"one\n")
    assert (tmp_path / "lines").read_bytes() == b"one\n"


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    """Threads and several files on one path never mix their lines."""
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


def test_unfinished_line_is_ended(tmp_path: Path) -> None:
    """After a process was killed within a line, the next line starts on its own."""
    path = tmp_path / "lines"
    path.write_bytes(b"whole\nhal")
    lines = line_file(path)
    lines.append(b"one\n")
    lines.append(b"two\n")
    assert path.read_bytes() == b"whole\nhal\none\ntwo\n"


def test_partial_write_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full disk the file has whole lines only, and accepts new ones."""
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


def test_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of only some bytes is not an error."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:2]))
    lines = line_file(tmp_path / "lines")
    lines.append(b"a line\n")
    assert lines.path.read_bytes() == b"a line\n"


def test_partial_write_before_another_writer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process wrote after the partial line, the next line starts on its own."""
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


def test_partial_write_that_cannot_be_undone_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file cannot be truncated, the partial line is ended first."""

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


def test_error_for_a_file_as_folder_has_a_remedy(tmp_path: Path) -> None:
    """A ``log_dir`` that is a file, or below one, is reported at every attempt."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "lines", tmp_path / "file" / "below" / "lines"):
        lines = line_file(path)
        for _ in range(2):
            with pytest.raises(OSError, match=r"cannot be written: .*set log_dir to a folder"):
                lines.append(b"one\n")
    (tmp_path / "file").unlink()
    lines.append(b"two\n")
    assert lines.path.read_bytes() == b"two\n"


def test_full_device_is_reported(tmp_path: Path) -> None:
    """A special file is neither read nor truncated."""
    (tmp_path / "lines").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device; free some space"):
        line_file(tmp_path / "lines").append(b"one\n")


def test_file_is_rotated_at_its_size(tmp_path: Path) -> None:
    """``lines.log`` becomes ``lines.1.log`` and so on; only the oldest file is lost."""
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
    """An append larger than the limit gets its own file."""
    lines = line_file(tmp_path / "lines", max_bytes=4, keep=9)
    for data in (b"long line\nand more\n", b"a\n", b"b\n", b"c\n"):
        lines.append(data)
    assert (tmp_path / "lines.2").read_bytes() == b"long line\nand more\n"
    assert (tmp_path / "lines.1").read_bytes() == b"a\nb\n"
    assert (tmp_path / "lines").read_bytes() == b"c\n"


def test_concurrent_rotation_loses_nothing(tmp_path: Path) -> None:
    """A process that finds the file rotated continues with the new one."""
    first, second = (line_file(tmp_path / "lines", max_bytes=100, keep=500) for _ in range(2))
    for number in range(1_000):
        (first, second)[number % 3 == 0].append(b"line %04d\n" % number)
    found = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(found) == [f"line {number:04d}" for number in range(1_000)]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())


def test_rotation_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    """While another process rotates, the file keeps growing."""
    lines = line_file(tmp_path / "lines", max_bytes=5)
    lines.append(b"one\n")
    with (tmp_path / "lines").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        lines.append(b"two\n")
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"
    lines.append(b"three\n")
    assert (tmp_path / "lines").read_bytes() == b"three\n"


def test_rotation_works_without_file_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is rotated even if the file system has no locks."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lines = line_file(tmp_path / "lines", max_bytes=5)
    lines.append(b"one\n")
    lines.append(b"two\n")
    assert (tmp_path / "lines.1").read_bytes() == b"one\n"
    assert (tmp_path / "lines").read_bytes() == b"two\n"


def test_file_that_cannot_be_rotated_keeps_growing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No line is lost, and one warning is logged."""
    (tmp_path / "lines.1" / "in the way").mkdir(parents=True)
    lines = line_file(tmp_path / "lines", max_bytes=5, keep=1)
    with caplog.at_level(logging.WARNING, "genmeter"):
        for _ in range(3):
            lines.append(b"line\n")
    assert (tmp_path / "lines").read_bytes() == b"line\n" * 3
    (record,) = caplog.records
    assert "keeps growing" in record.getMessage()


def test_removed_file_is_recreated(tmp_path: Path) -> None:
    """The folder is recreated too."""
    lines = line_file(tmp_path / "folder" / "lines")
    lines.append(b"one\n")
    shutil.rmtree(tmp_path / "folder")
    lines.append(b"two\n")
    lines.append(b"three\n")
    assert lines.path.read_bytes() == b"two\nthree\n"


def test_moved_file_is_recreated_at_its_size(tmp_path: Path) -> None:
    """Nothing is rotated then."""
    lines = line_file(tmp_path / "lines", max_bytes=5)
    lines.append(b"one\n")
    lines.path.rename(tmp_path / "moved")
    lines.append(b"two\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "moved"]
    assert lines.path.read_bytes() == b"two\n"


def test_line_being_written_is_not_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the file while another process writes leaves no empty line."""
    path = tmp_path / "lines"
    path.write_bytes(b"hal")

    def finish(_: float) -> None:
        with path.open("ab") as other:
            other.write(b"f\n")

    monkeypatch.setattr("genmeter.handlers._line_file.time.sleep", finish)
    line_file(path).append(b"one\n")
    assert path.read_bytes() == b"half\none\n"
