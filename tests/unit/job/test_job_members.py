"""Locks that say which processes of a job live, and which one leads."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest
from _other import Other

from genmeter.job._members import Members

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN = "[space.setdefault('m', Members(path))] and None"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the lock file."""
    return tmp_path / "members.lock"


@pytest.fixture
def members(path: Path) -> Iterator[Members]:
    """Return this process's locks."""
    made = Members(path)
    yield made
    made.close()


@pytest.fixture
def other(path: Path) -> Iterator[Other]:
    """Return another process that has opened the lock file."""
    with Other(path) as made:
        made(OPEN)
        yield made


def test_the_file_is_the_users_alone(members: Members, path: Path) -> None:
    """Nobody else may lock, and keep the job waiting."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert members.is_current


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """Nothing is created behind it."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="link"):
        Members(link)
    assert not (tmp_path / "target").exists()


def test_a_process_lives_until_it_leaves(members: Members, other: Other) -> None:
    """Its byte is free afterwards, and the job is empty."""
    byte = other("m.enter()")
    assert members.is_alive(byte)
    assert not members.is_empty()
    assert not members.is_alive(byte + 1)
    assert other("m.leave()") is None
    assert not members.is_alive(byte)
    assert members.is_empty()


def test_a_killed_process_does_not_live(members: Members, other: Other) -> None:
    """The kernel frees its locks, that of the leader too."""
    byte = other("m.enter()")
    assert other("m.lead()") is True
    assert members.has_leader()
    assert not members.lead()
    other.kill()
    assert not members.is_alive(byte)
    assert members.is_empty()
    assert not members.has_leader()
    assert members.lead()


def test_a_process_sees_itself(members: Members, other: Other) -> None:
    """A process's own locks are no obstacle to itself, so they are known."""
    byte = members.enter()
    assert members.is_alive(byte)
    assert members.lead()
    assert members.lead()
    assert members.has_leader()
    # Asking has not freed them.
    assert other(f"m.is_alive({byte})") is True
    assert other("m.lead()") is False
    assert other("m.is_empty()") is False


def test_the_next_process_leads(members: Members, other: Other) -> None:
    """A leader that stops leading stays a member."""
    byte = members.enter()
    assert members.lead()
    members.stop_leading()
    assert not members.leads
    assert other("m.lead()") is True
    assert not members.lead()
    assert other(f"m.is_alive({byte})") is True


def test_equal_process_ids_have_different_bytes(
    members: Members, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers that share the folder may have equal ids."""
    pid = other("os.getpid()")
    taken = other("m.enter()")
    monkeypatch.setattr(os, "getpid", lambda: pid)
    mine = members.enter()
    assert mine != taken
    assert members.is_alive(taken)
    assert other(f"m.is_alive({mine})") is True


def test_no_free_byte_is_an_error(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends in time."""
    monkeypatch.setattr(members, "_lock", lambda *_: False)
    with pytest.raises(OSError, match=r"no lock of .* is free"):
        members.enter()


def test_one_process_at_a_time_is_in_the_gate(members: Members, other: Other) -> None:
    """The others wait until it is free, or time is up."""
    other("space.setdefault('gate', m.gate(time.monotonic())).__enter__()")
    with (
        pytest.raises(TimeoutError, match="was not free in time"),
        members.gate(time.monotonic() + 0.02),
    ):
        pytest.fail("two processes are in the gate")
    other("space['gate'].__exit__(None, None, None)")
    with members.gate(time.monotonic()):
        assert other("m._lock(2, 0)") is False


def test_a_killed_process_frees_the_gate(members: Members, other: Other) -> None:
    """Joining goes on."""
    other("space.setdefault('gate', m.gate(time.monotonic())).__enter__()")
    other.kill()
    with members.gate(time.monotonic()):
        pass


def test_a_forked_child_has_no_locks(members: Members) -> None:
    """It closes the file without freeing its parent's."""
    byte = members.enter()
    assert members.lead()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            members.own = None
            members._leads = False
            found = [members.is_alive(byte), members.lead()]
            members.close()
            os.write(write, repr(found).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"[True, False]"
    os.close(read)
    os.close(write)
    with Other(members._path) as other:
        other(OPEN)
        assert other(f"m.is_alive({byte})") is True
        assert other("m.lead()") is False


def test_a_replaced_file_is_not_current(members: Members, path: Path) -> None:
    """Its locks mean nothing to those that open the new one."""
    path.unlink()
    assert not members.is_current
    path.touch()
    assert not members.is_current


def test_a_touch_sets_the_time(members: Members, path: Path) -> None:
    """What cleans the temporary directory by age leaves it."""
    os.utime(path, (0, 0))
    members.touch()
    assert path.stat().st_mtime > 1_000_000_000


def test_closed_locks_are_harmless(members: Members) -> None:
    """A thread that still asks at the end gets no error."""
    members.enter()
    members.close()
    members.close()
    members.leave()
    members.stop_leading()
    assert not members.is_current
    assert not members.lead()
    with pytest.raises(TimeoutError), members.gate(time.monotonic()):
        pytest.fail("a closed file has no lock")
