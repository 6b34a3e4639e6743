"""The thread that evaluates the alerts of all monitors of a process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from _waiting import PATIENCE, eventually
from genmeter.alerting._schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterator


def threads() -> list[threading.Thread]:
    """Return the schedule's threads."""
    return [each for each in threading.enumerate() if each.name == "a-schedule"]


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    """Return an empty schedule, and check that its thread ends."""
    made = Schedule("a-schedule")
    yield made
    assert eventually(lambda: not threads())


def test_each_function_has_its_own_interval_on_one_thread(schedule: Schedule) -> None:
    """Functions with short and long intervals do not delay each other."""
    seldom, often = list[str](), list[str]()
    assert schedule.add(1, lambda: seldom.append(threading.current_thread().name), PATIENCE * 60)
    assert schedule.add(2, lambda: often.append(threading.current_thread().name), 0.001)
    assert eventually(lambda: len(often) >= 3)
    assert seldom == []
    assert set(often) == {"a-schedule"}
    assert len(threads()) == 1
    for key in (1, 2):
        schedule.discard(key)


def test_thread_ends_with_the_last_function_and_restarts(schedule: Schedule) -> None:
    """A process without monitors has no such thread."""
    calls: list[int] = []
    for round_ in range(3):
        schedule.add(1, lambda: None, PATIENCE * 60)
        schedule.add(2, lambda round_=round_: calls.append(round_), 0.001)  # type: ignore[misc]
        assert eventually(lambda round_=round_: round_ in calls)
        schedule.discard(1)
        assert threads()
        schedule.discard(2)
        assert eventually(lambda: not threads())


def test_existing_key_keeps_its_function(schedule: Schedule) -> None:
    """Two threads that start the same evaluation at once start it once."""
    calls: list[int] = []
    schedule.add(1, lambda: calls.append(1), 0.001)
    schedule.add(1, lambda: calls.append(2), 0.001)
    assert len(schedule) == 1
    assert eventually(lambda: len(calls) >= 2)
    assert set(calls) == {1}
    schedule.discard(1)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_function_that_raises_affects_no_other(
    schedule: Schedule, error: type[BaseException]
) -> None:
    """After any exception all functions are called again."""
    failed, calls = list[int](), list[int]()

    def fail() -> None:
        failed.append(1)
        raise error

    schedule.add(1, fail, 0.001)
    schedule.add(2, lambda: calls.append(1), 0.001)
    assert eventually(lambda: len(failed) >= 3 and len(calls) >= 3)
    for key in (1, 2):
        schedule.discard(key)


def test_add_retries_to_start_the_thread(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread could be started, the next call of ``add`` tries again."""
    calls: list[int] = []

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert not schedule.add(1, lambda: calls.append(1), 0.001)
    assert eventually(lambda: schedule.add(1, lambda: calls.append(2), 0.001))
    assert eventually(lambda: calls)
    assert set(calls) == {1}
    schedule.discard(1)


def test_concurrent_add_and_discard_leave_no_entries(schedule: Schedule) -> None:
    """An addition while the thread ends is not lost."""
    called = [threading.Event() for _ in range(200)]

    def use(number: int) -> None:
        schedule.add(number, called[number].set, 0.0005)
        assert called[number].wait(PATIENCE)
        schedule.discard(number)

    def use_some(first: int) -> None:
        for number in range(first, 200, 4):
            use(number)

    users = [threading.Thread(target=use_some, args=[first]) for first in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    assert all(each.is_set() for each in called)
    assert len(schedule) == 0


def test_forked_child_starts_with_an_empty_schedule(schedule: Schedule) -> None:
    """The functions and the thread of the parent are not the child's."""
    schedule.add(1, lambda: None, PATIENCE)
    parents = threads()
    schedule.discard(1)
    assert eventually(lambda: not threads())
    schedule.add(2, lambda: None, PATIENCE)
    worker = schedule._worker
    assert worker is not None
    schedule.after_fork_in_child()
    assert len(schedule) == 0
    calls: list[int] = []
    schedule.add(3, lambda: calls.append(1), 0.001)
    assert eventually(lambda: calls)
    assert not set(parents) & set(threads())
    schedule.discard(3)
    worker.close()
