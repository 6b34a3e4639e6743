"""Blocks in whose middle the work of an exit must not begin."""

from __future__ import annotations

import threading

from genmeter.deferral import Deferral


def test_a_function_waits_for_the_end_of_the_outermost_block() -> None:
    """It runs once."""
    found: list[int] = []
    deferral = Deferral()
    with deferral:
        with deferral:
            assert deferral.put_off(lambda: found.append(1))
        assert found == []
    assert found == [1]
    with deferral:
        pass
    assert found == [1]
    assert not deferral.put_off(lambda: found.append(2))


def test_other_threads_put_nothing_off() -> None:
    """Nor does a block of theirs that the main thread is not in."""
    deferral = Deferral()
    inside, end = threading.Event(), threading.Event()

    def hold() -> None:
        with deferral:
            inside.set()
            end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    assert not deferral.put_off(lambda: None)
    with deferral:
        end.set()
        thread.join()
        answers: list[bool] = []
        other = threading.Thread(target=lambda: answers.append(deferral.put_off(lambda: None)))
        other.start()
        other.join()
        assert answers == [False]


def test_an_exception_ends_the_block() -> None:
    """What was put off runs, too."""
    found: list[int] = []
    deferral = Deferral()
    try:
        with deferral:
            deferral.put_off(lambda: found.append(1))
            raise KeyError
    except KeyError:
        pass
    assert found == [1]
    assert not deferral.put_off(lambda: None)


def test_a_child_leaves_the_block_in_which_it_was_forked() -> None:
    """A signal handler may fork in the middle of a block; the child's next blocks are as ever."""
    found: list[int] = []
    deferral = Deferral()
    with deferral:
        deferral.put_off(lambda: found.append(1))
        deferral.reset()
    with deferral:
        assert deferral.put_off(lambda: found.append(2))
        assert found == []
    assert found == [2]
