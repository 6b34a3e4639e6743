"""The lines of named jobs that have ended."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from genmeter.job._ended import _MAX_BYTES, Ended, ended_of_late, note_ended

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return the folder of all jobs."""
    return tmp_path / "genmeter-7"


def test_the_last_end_of_a_job_is_found(top: Path) -> None:
    """By the name of its folder; the file is the user's alone."""
    now = time.time()
    for number in range(3):
        note_ended(top, "job-a", Ended(now, number, 10 * number))
    note_ended(top, "job-b", Ended(now, 7, 70))
    assert ended_of_late(top, "job-a") == Ended(now, 2, 20)
    assert ended_of_late(top, "job-c") is None
    (file,) = top.parent.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("age", [61.0, -5.0])
def test_an_end_of_more_than_a_minute_ago_is_none(top: Path, age: float) -> None:
    """Nor one that the clock puts into the future."""
    note_ended(top, "job-a", Ended(time.time() - age, 1, 2))
    assert ended_of_late(top, "job-a") is None


def test_the_file_does_not_grow(top: Path) -> None:
    """Old lines go, those of the last minute stay."""
    now = time.time()
    for number in range(1_000):
        note_ended(top, f"job-{number}", Ended(now - 100, number, 1))
    note_ended(top, "job-new", Ended(now, 1, 1))
    note_ended(top, "job-newer", Ended(now, 2, 2))
    (file,) = top.parent.iterdir()
    assert file.stat().st_size < _MAX_BYTES + 100
    assert ended_of_late(top, "job-new") == Ended(now, 1, 1)
    assert ended_of_late(top, "job-newer") == Ended(now, 2, 2)


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b'["job-a"]', b'["job-a", "x", 1, 2]', b"\xff", b'["job-a", 1']
)
def test_a_damaged_line_is_skipped(top: Path, line: bytes) -> None:
    """The others are read."""
    now = time.time()
    note_ended(top, "job-a", Ended(now, 1, 2))
    (file,) = top.parent.iterdir()
    file.write_bytes(line + b"\n" + file.read_bytes() + line)
    assert ended_of_late(top, "job-a") == Ended(now, 1, 2)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_another_file_in_its_place_is_not_used(top: Path, kind: str) -> None:
    """Nobody else's file is written, and nothing waits."""
    path = top.with_name("genmeter-7.ended")
    target = top.with_name("target")
    target.touch()
    if kind == "link":
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"symbolic|directory|not this user's|No such device"):
        note_ended(top, "job-a", Ended(time.time(), 1, 2))
    assert ended_of_late(top, "job-a") is None
    assert target.read_bytes() == b""
