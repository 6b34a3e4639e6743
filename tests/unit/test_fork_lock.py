"""Locks that a thread holds at a fork are free in the child."""

from __future__ import annotations

import importlib
import multiprocessing
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import fork_lock
from genmeter.fork_lock import ForkLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG = 30.0


@contextmanager
def held_elsewhere(lock: ForkLock) -> Iterator[None]:
    """Hold a lock on another thread."""
    has_begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            has_begun.set()
            gate.wait(HANG)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert has_begun.wait(HANG)
    try:
        yield
    finally:
        gate.set()
        thread.join(HANG)


def in_child(function: Callable[..., object], *arguments: Any) -> int | None:
    """Return the exit code of a forked child that calls a function; None if it hangs."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join(HANG)
    if child.exitcode is None:
        child.kill()
        child.join()
        return None
    return child.exitcode


def use(lock: ForkLock) -> None:
    """Use a lock twice."""
    with lock, lock:
        pass


def test_a_lock_that_another_thread_holds_is_free_in_a_child() -> None:
    """And still held in the parent."""
    lock = ForkLock()
    with held_elsewhere(lock):
        assert in_child(use, lock) == 0
        assert not lock._lock.acquire(blocking=False)


def test_a_child_may_leave_a_block_that_its_parent_entered() -> None:
    """The lock is free there at once."""
    lock = ForkLock()
    with lock:
        assert in_child(lock.__exit__, None, None, None) == 0
        assert in_child(use, lock) == 0


@pytest.mark.parametrize(
    "name",
    [
        *("observed.blocks", "spans.monitors", "clients.watching", "hooks._base"),
        *("hooks.litellm", "hooks.llama_index", "patch"),
    ],
)
def test_each_lock_of_a_module_is_such_a_lock(name: str) -> None:
    """A plain one would hang the child of a job."""
    lock = importlib.import_module(f"genmeter.{name}")._lock
    assert type(lock) is ForkLock
    with held_elsewhere(lock):
        assert in_child(use, lock) == 0


def test_locks_are_not_kept_alive() -> None:
    """Those of objects are gone with them."""
    before = len(fork_lock._locks)
    lock = ForkLock()
    assert len(fork_lock._locks) == before + 1
    del lock
    assert len(fork_lock._locks) == before


@pytest.mark.parametrize("held", ["genmeter.hooks._base", "genmeter.hooks.llama_index"])
def test_a_hook_is_uninstalled_in_a_child_of_a_busy_parent(held: str) -> None:
    """It does not wait for a thread that is not there."""
    from genmeter.hooks import llama_index

    def child() -> None:
        llama_index._hook.install()
        assert llama_index._take("span") is None
        llama_index._hook.uninstall()

    with held_elsewhere(importlib.import_module(held)._lock):
        assert in_child(child) == 0
