"""Log lines that wait until logging them can do no harm."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
from _waiting import PATIENCE, eventually

from genmeter.notices import Notices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Called(logging.Handler):
    """Calls a function with every message."""

    def __init__(self, call: Callable[[str], None]) -> None:
        super().__init__()
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        """Call it."""
        self._call(record.getMessage())


@pytest.fixture
def hear() -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Give what has a function called with every line, until the end of the test."""
    logger = logging.getLogger("genmeter")
    handlers = []

    def add(call: Callable[[str], None]) -> None:
        handlers.append(_Called(call))
        logger.addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_logging_handler_that_blocks_does_not_hold_up_the_end(
    hear: Callable[[Callable[[str], None]], None],
) -> None:
    """The wait ends with its time; what is left is logged when the handler goes on."""
    gate, heard, notices = threading.Event(), list[str](), Notices()

    def block(line: str) -> None:
        gate.wait(PATIENCE)
        heard.append(line)

    hear(block)
    for line in ("one", "two"):
        notices.add(logging.WARNING, line)
    notices.finish(0.01)
    notices.finish(0.01)
    assert heard == []
    gate.set()
    assert eventually(lambda: heard == ["one", "two"])


def test_without_a_thread_the_end_is_logged_by_the_caller(
    hear: Callable[[Callable[[str], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that ends has none to give."""
    heard, notices = list[str](), Notices()
    hear(heard.append)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    notices.add(logging.WARNING, "last")
    notices.finish(PATIENCE)
    assert heard == ["last"]


def test_a_logging_handler_that_ends_the_job_is_not_waited_for(
    hear: Callable[[Callable[[str], None]], None],
) -> None:
    """It is the one who logs, so it would wait for itself."""
    heard, notices = list[str](), Notices()

    def finish(line: str) -> None:
        if line == "first":
            notices.add(logging.WARNING, "more")
        notices.finish(PATIENCE)
        heard.append(line)

    hear(finish)
    notices.add(logging.WARNING, "first")
    notices.tell()
    assert heard == ["first", "more"]
