"""Log lines that are logged later."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from _waiting import PATIENCE, eventually
from genmeter.pipeline.deferred_log import DeferredLog

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


def test_blocking_logging_handler_does_not_delay_the_end(
    hear: Callable[[Callable[[str], None]], None],
) -> None:
    """The wait ends with its time; what is left is logged when the handler goes on."""
    gate, heard, deferred_log = threading.Event(), list[str](), DeferredLog()

    def block(line: str) -> None:
        gate.wait(PATIENCE)
        heard.append(line)

    hear(block)
    for line in ("one", "two"):
        deferred_log.add(logging.WARNING, line)
    deferred_log.finish(0.01)
    deferred_log.finish(0.01)
    assert heard == []
    gate.set()
    assert eventually(lambda: heard == ["one", "two"])


def test_caller_logs_the_rest_if_no_thread_can_be_started(
    hear: Callable[[Callable[[str], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None can be started while the interpreter ends."""
    heard, deferred_log = list[str](), DeferredLog()
    hear(heard.append)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    deferred_log.add(logging.WARNING, "last")
    deferred_log.finish(PATIENCE)
    assert heard == ["last"]


def test_logging_handler_that_ends_the_job_is_not_waited_for(
    hear: Callable[[Callable[[str], None]], None],
) -> None:
    """It is the one who logs, so it would wait for itself."""
    heard, deferred_log = list[str](), DeferredLog()

    def finish(line: str) -> None:
        if line == "first":
            deferred_log.add(logging.WARNING, "more")
        deferred_log.finish(PATIENCE)
        heard.append(line)

    hear(finish)
    deferred_log.add(logging.WARNING, "first")
    deferred_log.flush()
    assert heard == ["first", "more"]


def test_adding_a_line_starts_no_thread() -> None:
    """Signal handlers and the drain call it."""
    before, deferred_log = threading.active_count(), DeferredLog()
    for _ in range(100):
        deferred_log.add(logging.WARNING, "a line")
    assert threading.active_count() == before
    assert len(deferred_log) == 100
    deferred_log.clear()
    assert len(deferred_log) == 0


def test_background_thread_ends_after_its_lines(
    hear: Callable[[Callable[[str], None]], None],
) -> None:
    """The thread logs all lines in their order and ends; the next lines get a new one."""
    heard, deferred_log = list[str](), DeferredLog()
    hear(heard.append)
    for line in ("one", "two"):
        deferred_log.add(logging.WARNING, "%s", line)
        deferred_log.flush_in_background()
        assert eventually(lambda line=line: heard[-1:] == [line])
        assert eventually(lambda: not _log_threads())
    assert heard == ["one", "two"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_failing_logging_handler_loses_only_its_line(
    hear: Callable[[Callable[[str], None]], None], error: type[BaseException]
) -> None:
    """Whatever it raises on the worker's thread, the lines after it are logged."""
    heard, deferred_log = list[str](), DeferredLog()

    def fail(line: str) -> None:
        heard.append(line)
        raise error

    hear(fail)
    for line in ("one", "two"):
        deferred_log.add(logging.WARNING, line)
    deferred_log.flush_in_background()
    assert eventually(lambda: heard == ["one", "two"])


def test_exit_of_a_signal_handler_passes_through_a_flush(
    hear: Callable[[Callable[[str], None]], None],
) -> None:
    """On a caller's thread a SystemExit may be the job's own end, which must not be swallowed."""
    deferred_log = DeferredLog()

    def leave(_: str) -> None:
        raise SystemExit

    hear(leave)
    deferred_log.add(logging.WARNING, "one")
    with pytest.raises(SystemExit):
        deferred_log.flush()


def _log_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "genmeter-log"]
