"""``genmeter top``: arguments, plain lines, and the screen of a terminal."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest

from _measured import measured
from _ports import free_port
from _waiting import PATIENCE
from genmeter import cli
from genmeter.cli import top
from genmeter.config.monitor import MonitorConfig
from genmeter.exporters._http import ScrapeServer
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

Capsys = pytest.CaptureFixture[str]
GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")


@contextmanager
def job(calls: int = 3, **config: Any) -> Iterator[tuple[IsolatedMonitor, ScrapeServer]]:
    """A monitor with some calls and samples, and its endpoint."""
    with isolated_monitor(MonitorConfig(expected_samples=10, **config)) as monitor:
        server = ScrapeServer(
            lambda openmetrics: monitor.page(openmetrics=openmetrics).encode(), port=0
        )
        server.start()
        for _ in range(calls):
            monitor.track_generation(1.0, True, model_name="atlas-large", total_token_count=50)
            monitor.record_sample(accepted=True)
        try:
            yield monitor, server
        finally:
            server.close()


def closed_address() -> str:
    """An address of this machine where nothing listens."""
    return f"127.0.0.1:{free_port()}"


def lines_of(capsys: Capsys, *arguments: str) -> tuple[int, list[dict[str, str]], str]:
    """Run `genmeter top`; return its exit code, the fields of its lines, and its errors."""
    code = cli.main(["top", *arguments])
    written = capsys.readouterr()
    found = [
        dict(field.split("=", 1) for field in line.split()[1:]) for line in written.out.splitlines()
    ]
    return code, found, written.err


# --- plain lines -------------------------------------------------------------------------------


def test_once_prints_the_numbers_of_a_running_job(capsys: Capsys) -> None:
    """They are those of its report."""
    with job() as (monitor, server):
        code, (line,), errors = lines_of(capsys, f"127.0.0.1:{server.port}", "--once")
        report = monitor.get_total_token_usage()
    assert (code, errors) == (0, "")
    assert (line["state"], line["calls"], line["tokens"]) == ("running", "3", "150")
    assert int(line["tokens"]) == report.total_tokens
    assert (line["samples"], line["expected"], line["calls_per_s"]) == ("3", "10", "-")


def test_count_prints_rates_from_the_second_reading_on(capsys: Capsys) -> None:
    """A line an interval, then it ends."""
    with job() as (_, server):
        code, lines, _ = lines_of(
            capsys, f"127.0.0.1:{server.port}", "--count", "3", "--interval", "0.1"
        )
    assert code == 0
    assert [line["calls_per_s"] for line in lines] == ["-", "0.00", "0.00"]


def test_several_jobs_have_a_total(capsys: Capsys) -> None:
    """Which is their sum."""
    with job(3) as (_, one), job(4) as (_, two):
        addresses = [f"127.0.0.1:{server.port}" for server in (one, two)]
        _, lines, _ = lines_of(capsys, *addresses, "--once")
    assert [line["source"] for line in lines] == [*addresses, "total"]
    assert [line["calls"] for line in lines] == ["3", "4", "7"]


def test_a_source_that_does_not_answer_fails_once_and_the_others_are_printed(
    capsys: Capsys,
) -> None:
    """The exit code is for scripts, the reason for people."""
    with job() as (_, server):
        gone = closed_address()
        code, lines, errors = lines_of(capsys, f"127.0.0.1:{server.port}", gone, "--once")
    assert code == 1
    assert [line["state"] for line in lines] == ["running", "no-answer", "partial"]
    assert errors.startswith(f"genmeter top: {gone}: does not respond: ")


def test_the_reason_of_silence_is_written_once(capsys: Capsys) -> None:
    """Not with every line."""
    arguments = (closed_address(), "--count", "3", "--interval", "0.1")
    _, lines, errors = lines_of(capsys, *arguments)
    assert len(lines) == 3
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nightly", "--once"), "'nightly' must be the name of a running job"),
        (("a:1", "http://a:1/metrics"), "each SOURCE must be given once, got 'a:1' twice"),
        (("logs/metrics.jsonl",), "genmeter report reads journals"),
    ],
)
def test_an_invalid_source_is_an_error(
    capsys: Capsys, arguments: tuple[str, ...], message: str
) -> None:
    """Before anything is shown."""
    assert cli.main(["top", *arguments]) == 2
    written = capsys.readouterr()
    assert message in written.err
    assert written.out == ""


@pytest.mark.parametrize(
    "arguments",
    [(), ("a:1", "--interval", "0"), ("a:1", "--count", "0"), ("a:1", "--once", "--count", "2")],
)
def test_invalid_arguments_show_the_usage(capsys: Capsys, arguments: tuple[str, ...]) -> None:
    """As of every command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["top", *arguments])
    assert caught.value.code == 2
    assert "usage: genmeter top" in capsys.readouterr().err


def test_sigterm_ends_the_lines() -> None:
    """Without a terminal, with exit code 0 and without a traceback."""
    with (
        job() as (_, server),
        subprocess.Popen(
            [*GENMETER, "top", f"127.0.0.1:{server.port}", "--interval", "0.1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert "calls=3" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


# --- the screen --------------------------------------------------------------------------------

if sys.platform != "win32":
    import fcntl
    import termios

    ON, OFF = "\x1b[?1049h", "\x1b[?1049l"  # the alternate screen
    HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # the cursor

    class Pty:
        """A command in a terminal of its own; it ends with the block.

        Attributes:
            text: What it has written.
            process: The process.
        """

        def __init__(
            self, *arguments: str, width: int = 80, height: int = 24, **environ: str
        ) -> None:
            self._master, self._slave = os.openpty()
            size = struct.pack("HHHH", height, width, 0, 0)
            fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
            self.before = termios.tcgetattr(self._slave)
            self.text = ""
            self.process = subprocess.Popen(
                # The terminal becomes the controlling one, so that its keys send signals.
                [*GENMETER[:1], "-c", f"{_CONTROLLING}{GENMETER[2]}", *arguments],
                stdin=self._slave,
                stdout=self._slave,
                stderr=self._slave,
                start_new_session=True,
                env={
                    **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")},
                    "TERM": "xterm-256color",
                    **environ,
                },
            )

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *exc_info: object) -> None:
            self.process.kill()  # of a test that failed
            self.process.wait()
            os.close(self._master)
            os.close(self._slave)

        def press(self, keys: bytes) -> None:
            """Send keys."""
            os.write(self._master, keys)

        def wait_for(self, words: str) -> None:
            """Read until it has written some words."""
            deadline = time.monotonic() + PATIENCE
            while words not in self.text:
                if time.monotonic() > deadline or not self._read():
                    pytest.fail(f"{words!r} is not in {self.text}")

        def end(self) -> int:
            """Return the exit code, after reading the rest."""
            deadline = time.monotonic() + PATIENCE
            while self._read():
                assert time.monotonic() < deadline, self.text
            code = self.process.wait(PATIENCE)
            self.after = termios.tcgetattr(self._slave)
            return code

        def _read(self) -> bool:
            """Read what it has written, at least a part; return whether it may write more."""
            while not select.select([self._master], [], [], 0.05)[0]:
                if self.process.poll() is not None:
                    return bool(select.select([self._master], [], [], 0)[0])
            self.text += os.read(self._master, 65536).decode("utf-8", "replace")
            return True

    # Under nohup, or as a background job of a shell, a test's processes ignore a signal.
    _CONTROLLING = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""

    @pytest.mark.parametrize(
        "ending", [b"q", b"Q", b"xq", b"\x03", b"\x1aq", signal.SIGTERM, signal.SIGHUP]
    )
    def test_the_terminal_is_restored_however_the_view_ends(ending: bytes | signal.Signals) -> None:
        """By q, Ctrl-C or a signal: screen, cursor and settings are as before."""
        with (
            job() as (_, server),
            Pty("top", f"127.0.0.1:{server.port}", "--interval", "0.2") as pty,
        ):
            pty.wait_for("atlas-large")
            if isinstance(ending, bytes):
                pty.press(ending)
            else:
                pty.process.send_signal(ending)
            assert pty.end() == 0
        assert pty.after == pty.before
        for begin, end in ((ON, OFF), (HIDDEN, SHOWN)):
            assert pty.text.count(begin) == pty.text.count(end) == 1
            assert pty.text.index(begin) < pty.text.index("atlas-large") < pty.text.index(end)
        assert "Traceback" not in pty.text

    def test_the_terminal_is_restored_after_an_error() -> None:
        """The traceback is on the normal screen."""
        broken = "import genmeter.cli.top as top; top.screen = lambda *_: 1 / 0\n"
        with pytest.MonkeyPatch.context() as patch, job() as (_, server):
            patch.setitem(globals(), "_CONTROLLING", f"{_CONTROLLING}{broken}")
            with Pty("top", f"127.0.0.1:{server.port}") as pty:
                assert pty.end() == 1
        assert pty.after == pty.before
        assert pty.text.index(OFF) < pty.text.index("ZeroDivisionError")

    def test_a_job_that_ends_keeps_its_numbers_in_the_view() -> None:
        """The view says since when it has no answer."""
        with ExitStack() as stack:
            with job() as (_, server):
                pty = stack.enter_context(
                    Pty("top", f"127.0.0.1:{server.port}", "--interval", "0.2", **measured())
                )
                pty.wait_for("atlas-large")
            pty.wait_for("no answer for 1 s")
            pty.text = ""
            pty.wait_for("150 tokens")
            pty.press(b"q")
            assert pty.end() == 0

    def test_the_screen_fits_a_small_terminal() -> None:
        """No line is longer than the terminal."""
        with (
            job() as (_, server),
            Pty("top", f"127.0.0.1:{server.port}", width=60, height=10, **measured()) as pty,
        ):
            pty.wait_for("1 model does not fit")
            pty.press(b"q")
            assert pty.end() == 0

    def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
        """It cannot move its cursor."""
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(top, "_print", lambda *_: 7)
        assert cli.main(["top", "a:1"]) == 7
