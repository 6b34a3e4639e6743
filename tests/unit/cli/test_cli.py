"""The command line: arguments, output and exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from genmeter import GenerationMonitor, __version__, cli
from genmeter.cli.demo import command
from genmeter.exporters._http import bind
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHORT = ("demo", "--duration", "0.5", "--rate", "200", "--port", "0")
GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")


@pytest.fixture(autouse=True)
def _own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable is set, and no runtime is shared with other tests."""
    for name in os.environ:
        if name.startswith(("OTEL_", "GENMETER_")):
            monkeypatch.delenv(name)
    with fresh_runtime():
        yield


def url_in(text: str) -> str:
    """The address of the metrics in the demo's output."""
    found = re.search(r"^metrics: (http://\S+)$", text, re.MULTILINE)
    assert found, text
    return found[1]


# --- the arguments -----------------------------------------------------------------------------


def test_the_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`genmeter --version` names the installed release."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"genmeter {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("run", "--quite", "job.py"), "[options] script.py"),
        (("report", "logs", "--more"), "[--window TIME]"),
        (("demo", "--fast"), "[--duration "),
    ],
)
def test_an_unknown_option_shows_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], usage: str
) -> None:
    """The usage lists the options of the command, not the commands."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: genmeter {arguments[0]} ")
    assert f"genmeter {arguments[0]}: error: unrecognized arguments: " in err
    assert usage in err


def test_help_lists_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of the demo is complete."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("duration", "rate", "seed", "port", "linger", "fail", "quiet"):
        assert f"--{name}" in text
    assert "(default: 60)" in text
    assert "127.0.0.1:9464" in text


@pytest.mark.parametrize("command", ["demo", "render", "report", "run"])
def test_help_spells_product_names_with_capitals(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Prometheus, Grafana and AfterImage are proper names."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    for name in ("Prometheus", "Grafana", "AfterImage"):
        assert not re.search(rf"(?<![-./\w]){name.lower()}(?![\w=])", text)


def test_a_missing_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare `genmeter` names the missing argument."""
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("--duration", "0", "seconds from 0.001"),
        ("--duration", "soon", "seconds from 0.001"),
        ("--duration", "inf", "seconds from 0.001"),
        ("--duration", "nan", "seconds from 0.001"),
        ("--rate", "-1", "calls per second from 0.001 to 2000"),
        ("--rate", "2001", "calls per second from 0.001 to 2000"),
        ("--seed", "1.5", "a whole number"),
        ("--port", "65536", "a whole number from 0 to 65535"),
        ("--port", "-1", "a whole number from 0 to 65535"),
        ("--port", "http", "a whole number from 0 to 65535"),
        ("--linger", "-0.1", "seconds from 0 to"),
        ("--fail", "gpt=0.5", "MODEL=SHARE with a model of atlas-large, "),
        ("--fail", "atlas-large", "MODEL=SHARE with a share from 0 to 1"),
        ("--fail", "atlas-large=1.1", "MODEL=SHARE with a share from 0 to 1"),
    ],
)
def test_an_invalid_value_is_an_error_with_the_requirement(
    capsys: pytest.CaptureFixture[str], name: str, value: str, remedy: str
) -> None:
    """The message names the argument, the requirement and the value."""
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", f"{name}={value}"])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert f"argument {name}: must be {remedy}" in message
    assert f"got {value.removeprefix('atlas-large').removeprefix('=')}" in message.replace("'", "")


def test_an_invalid_variable_is_an_error_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends the command with 2, without a traceback."""
    monkeypatch.setenv("GENMETER_MAX_MODELS", "many")
    assert cli.main([*SHORT]) == 2
    message = capsys.readouterr().err
    assert message.startswith("genmeter demo: error: GENMETER_MAX_MODELS must be ")


# --- the endpoint ------------------------------------------------------------------------------


def test_a_port_in_use_is_an_error_that_names_the_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The demo explains how to choose another port, and does not run."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["demo", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert f"port {port}" in captured.err
    assert "genmeter demo --port 0" in captured.err
    assert captured.out == ""


def test_a_port_in_use_of_the_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo does not run without its endpoint."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        assert cli.main(["demo"]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_the_environment_can_disable_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the Prometheus exporter nothing is served, and the demo says so."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert cli.main(["demo", "--duration", "0.1", "--linger", "30"]) == 0
    out = capsys.readouterr().out
    assert "metrics: not served" in out
    assert "waiting" not in out


def test_the_port_option_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--port` enables the endpoint."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert cli.main([*SHORT]) == 0
    url_in(capsys.readouterr().out)


# --- a run -------------------------------------------------------------------------------------


def test_the_demo_prints_its_address_and_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a terminal all output is plain text."""
    assert cli.main([*SHORT, "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert "seed 3" in captured.out
    url_in(captured.out)
    assert "atlas-mini" in captured.out
    assert "prompt  completion" in captured.out
    assert "USD" in captured.out
    assert "\x1b" not in captured.out
    assert captured.err == ""


def test_the_same_seed_prints_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs on the real clock differ only in the port."""
    reports = []
    for _ in range(2):
        with fresh_runtime():
            cli.main([*SHORT, "--quiet"])
        reports.append(capsys.readouterr().out.partition("\nTokens")[2])
    assert reports[0] == reports[1]
    assert "calls" in reports[0]


def test_the_fail_option_is_repeatable(capsys: pytest.CaptureFixture[str]) -> None:
    """Every named model fails."""
    fail = [f"--fail={name}=1" for name in ("atlas-large", "atlas-mini", "harbor-chat")]
    assert cli.main([*SHORT, *fail]) == 0
    out = capsys.readouterr().out
    assert "samples: 0 accepted" in out
    assert "generation_failed" in out


def test_a_lingering_demo_waits_for_a_scrape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last scrape has the final totals and shows that the job has finished."""
    pages: list[bytes] = []

    def scrape(text: str) -> None:
        printed.append(text)
        if text.startswith("waiting"):
            url = url_in("\n".join(printed))
            threads.append(threading.Thread(target=lambda: pages.append(read(url))))
            threads[-1].start()

    def read(url: str) -> bytes:
        # A scrape that began before the wait does not count, so it goes on until it is refused.
        page = b""
        try:
            while True:
                with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
                    page = answer.read()
        except OSError:
            return page

    printed: list[str] = []
    threads: list[threading.Thread] = []
    monkeypatch.setattr(command, "say", scrape)
    assert cli.main([*SHORT, "--linger", "60"]) == 0
    threads[0].join()
    assert re.search(rb"^genmeter_job_finished 1(\.0)?$", pages[0], re.MULTILINE)
    tokens = re.findall(rb"^genmeter_tokens_total\{.*\} (\d+)(?:\.0)?$", pages[0], re.MULTILINE)
    reported = re.search(r"^total +[\d,]+ +[\d,]+ +[\d,]+ +([\d,]+)", printed[1], re.MULTILINE)
    assert reported
    assert sum(map(int, tokens)) == int(reported[1].replace(",", "")) > 0
    assert any("waiting up to 60 s for one more scrape" in text for text in printed)


# --- the end -----------------------------------------------------------------------------------


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that makes the first step of the job raise a signal."""

    def prepare(number: int) -> None:
        monkeypatch.setattr(
            command,
            "show_progress",
            lambda *_, **__: nullcontext(lambda: signal.raise_signal(number)),
        )

    return prepare


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_with_its_report(
    interrupted: Callable[[int], None], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Ctrl-C and SIGTERM end a long job early, with the report and exit code 0."""
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    inherited = signal.signal(number, default)  # a background job's parent ignores Ctrl-C
    try:
        interrupted(number)
        assert cli.main(["demo", "--duration", "1000", "--port", "0"]) == 0
        assert signal.getsignal(number) is default
    finally:
        signal.signal(number, inherited)
    assert "Tokens after 0 s:" in capsys.readouterr().out


def test_ctrl_c_ends_the_wait_for_a_scrape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user can stop waiting."""

    def interrupt(_: GenerationMonitor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GenerationMonitor, "shutdown", interrupt)
    assert cli.main([*SHORT, "--linger", "0.01"]) == 0
    assert capsys.readouterr().out.endswith("not waiting any longer\n")


def test_a_closed_pipe_ends_the_demo_without_a_traceback(tmp_path: Path) -> None:
    """`genmeter demo | head -1` ends with the exit code of SIGPIPE."""
    errors = tmp_path / "stderr"
    with errors.open("wb") as stderr:
        command = [*GENMETER, *SHORT, "--quiet"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process:
            try:
                assert process.stdout is not None
                process.stdout.close()
                assert process.wait(60) == 141
            finally:
                process.kill()
    assert errors.read_text() == ""


def test_a_terminal_shows_the_live_view() -> None:
    """A pseudo-terminal gets the progress bar, the samples, the table, then the report."""
    master, slave = os.openpty()
    written = b""
    with subprocess.Popen(
        [*GENMETER, *SHORT],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    ) as process:
        os.close(slave)
        try:
            while chunk := os.read(master, 65536):
                written += chunk
        except OSError:
            pass  # Linux, when the other end is closed
        finally:
            os.close(master)  # it gets SIGHUP if it goes on
        assert process.wait(60) == 0
    text = written.decode()
    assert "\x1b[?25l" in text
    assert "\x1b[?25h" in text
    for word in ("metrics: http", "left", "accepted", "p95", "Tokens after 1 s:"):
        assert word in text
    assert "Traceback" not in text
