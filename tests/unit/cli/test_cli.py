"""The command line: what it takes, what it says, and how it ends."""

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

SHORT = ("demo", "--duration", "0.4", "--rate", "200", "--port", "0")
GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")


@pytest.fixture(autouse=True)
def _own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is set from outside, and nothing is shared with other tests."""
    for name in os.environ:
        if name.startswith(("OTEL_", "GENMETER_")):
            monkeypatch.delenv(name)
    with fresh_runtime():
        yield


def url_in(text: str) -> str:
    """The address that the demo says it serves its metrics at."""
    found = re.search(r"^metrics: (http://\S+)$", text, re.MULTILINE)
    assert found, text
    return found[1]


# --- the arguments -----------------------------------------------------------------------------


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """`genmeter --version` says which release is installed."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"genmeter {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("run", "--quite", "job.py"), "[options] script.py"),
        (("report", "logs", "more"), "[--window TIME]"),
        (("demo", "--fast"), "[--duration "),
    ],
)
def test_what_a_command_does_not_know_is_answered_with_its_own_usage(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], usage: str
) -> None:
    """Who mistypes an option is shown those of the command, not the list of commands."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: genmeter {arguments[0]} ")
    assert f"genmeter {arguments[0]}: error: unrecognized arguments: " in err
    assert usage in err


def test_help_lists_every_command_and_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks for help sees what there is, with the defaults."""
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
def test_the_description_of_a_command_keeps_its_capitals(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Names such as Prometheus and AfterImage are written as everywhere else."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    for name in ("Prometheus", "Grafana", "AfterImage"):
        assert not re.search(rf"(?<![-./\w]){name.lower()}(?!\w)", text)


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare `genmeter` says what is missing rather than doing something."""
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("--duration", "0", "must be seconds, more than 0"),
        ("--duration", "soon", "must be seconds, more than 0"),
        ("--duration", "inf", "must be seconds, more than 0"),
        ("--duration", "nan", "must be seconds, more than 0"),
        ("--rate", "-1", "must be calls a second, more than 0 and at most 2,000"),
        ("--rate", "2001", "must be calls a second, more than 0 and at most 2,000"),
        ("--seed", "1.5", "must be a whole number"),
        ("--port", "65536", "must be a port from 1 to 65535, or 0"),
        ("--port", "-1", "must be a port from 1 to 65535, or 0"),
        ("--port", "http", "must be a port from 1 to 65535, or 0"),
        ("--linger", "-0.1", "must be seconds, 0 to"),
        ("--fail", "gpt=0.5", "one of the models atlas-large, "),
        ("--fail", "atlas-large", "a share from 0 to 1, such as atlas-large=0.5"),
        ("--fail", "atlas-large=1.1", "a share from 0 to 1, such as atlas-large=0.5"),
    ],
)
def test_a_bad_value_is_answered_with_its_name_and_the_remedy(
    capsys: pytest.CaptureFixture[str], name: str, value: str, remedy: str
) -> None:
    """The message names the argument, the value and what to give instead."""
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", f"{name}={value}"])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert f"argument {name}: must be" in message
    assert f"got {value!r}" in message
    assert remedy in message


def test_a_bad_variable_is_an_error_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be used of the environment ends the command with 2, not with a traceback."""
    monkeypatch.setenv("GENMETER_MAX_MODELS", "many")
    assert cli.main([*SHORT]) == 2
    message = capsys.readouterr().err
    assert message.startswith("genmeter demo: error: GENMETER_MAX_MODELS must be ")


# --- the endpoint ------------------------------------------------------------------------------


def test_a_taken_port_is_an_error_that_names_the_argument(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where another program has the port the demo says how to choose one, and does not run."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["demo", "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert f"port {port}" in captured.err
    assert "genmeter demo --port 0" in captured.err
    assert captured.out == ""


def test_a_taken_port_of_the_environment_is_an_error_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A demo without its endpoint would be a surprise, so no port is taken lightly."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        assert cli.main(["demo"]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_the_environment_can_turn_the_endpoint_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the environment names no Prometheus exporter the demo serves nothing, and says so."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert cli.main(["demo", "--duration", "0.1", "--linger", "30"]) == 0
    out = capsys.readouterr().out
    assert "metrics: not served" in out
    assert "waiting" not in out


def test_a_port_that_is_asked_for_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An argument is nearer to the user than a variable."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    assert cli.main([*SHORT]) == 0
    url_in(capsys.readouterr().out)


# --- a run -------------------------------------------------------------------------------------


def test_a_run_says_the_address_and_ends_with_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where standard output is no terminal all of it is plain text."""
    assert cli.main([*SHORT, "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert "seed 3" in captured.out
    url_in(captured.out)
    assert "atlas-large" in captured.out
    assert "prompt  completion" in captured.out
    assert "USD" in captured.out
    assert "\x1b" not in captured.out
    assert captured.err == ""


def test_the_same_seed_prints_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs differ in the port alone, on the real clock too."""
    reports = []
    for _ in range(2):
        with fresh_runtime():
            cli.main([*SHORT, "--quiet"])
        reports.append(capsys.readouterr().out.partition("\nTokens")[2])
    assert reports[0] == reports[1]
    assert "calls" in reports[0]


def test_a_model_fails_as_often_as_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """`--fail` may be given several times, and reaches the job."""
    fail = [f"--fail={name}=1" for name in ("atlas-large", "atlas-mini", "harbor-chat")]
    assert cli.main([*SHORT, *fail]) == 0
    out = capsys.readouterr().out
    assert "samples: 0 accepted" in out
    assert "generation_failed" in out


def test_the_metrics_of_a_lingering_demo_can_be_scraped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the end the endpoint waits for one more scrape, which says that the job is over."""
    pages: list[bytes] = []

    def scrape(text: str) -> None:
        spoken.append(text)
        if text.startswith("waiting"):
            url = url_in("\n".join(spoken))
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

    spoken: list[str] = []
    threads: list[threading.Thread] = []
    monkeypatch.setattr(command, "say", scrape)
    assert cli.main([*SHORT, "--linger", "60"]) == 0
    threads[0].join()
    assert re.search(rb"^genmeter_job_finished 1(\.0)?$", pages[0], re.MULTILINE)
    tokens = re.findall(rb"^genmeter_tokens_total\{.*\} (\d+)(?:\.0)?$", pages[0], re.MULTILINE)
    reported = re.search(r"^total +[\d,]+ +[\d,]+ +[\d,]+ +([\d,]+)", spoken[1], re.MULTILINE)
    assert reported
    assert sum(map(int, tokens)) == int(reported[1].replace(",", "")) > 0
    assert any("waiting up to 60 s for one more scrape" in text for text in spoken)


# --- the end -----------------------------------------------------------------------------------


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the job sent a signal as soon as it shows something."""

    def prepare(number: int) -> None:
        monkeypatch.setattr(
            command,
            "choose_view",
            lambda *_, **__: nullcontext(lambda _: signal.raise_signal(number)),
        )

    return prepare


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_with_its_report(
    interrupted: Callable[[int], None], capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Ctrl-C and SIGTERM end a long job at once and cleanly, with the report and 0."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    seen: list[str] = []

    def note(*_: object) -> None:
        seen.append("a second one")

    signal.signal(number, note)
    try:
        interrupted(number)
        assert cli.main(["demo", "--duration", "1000", "--port", "0"]) == 0
        assert signal.getsignal(number) is note
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(each, handler)
    assert "Tokens, after 0 s:" in capsys.readouterr().out
    # The picture after the stop raises it again, and by then it is the process's own affair.
    assert seen == ["a second one"]


def test_ctrl_c_ends_the_wait_for_a_scrape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who does not want to wait for a scrape need not."""

    def interrupt(_: GenerationMonitor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GenerationMonitor, "shutdown", interrupt)
    assert cli.main([*SHORT, "--linger", "0.01"]) == 0
    assert capsys.readouterr().out.endswith("not waiting any longer\n")


def test_the_demo_runs_on_a_thread_that_is_not_the_main_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where signals cannot be handled the demo runs without them."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main([*SHORT])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "Tokens" in capsys.readouterr().out


def test_a_reader_that_leaves_ends_the_demo_without_a_traceback(tmp_path: Path) -> None:
    """`genmeter demo | head -1` is told by the exit code alone that nobody reads any more."""
    errors = tmp_path / "stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [*GENMETER, *SHORT, "--quiet"], stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 141
    assert errors.read_text() == ""


def test_on_a_terminal_the_job_is_seen_live() -> None:
    """In a real pseudo-terminal there is the bar, the samples, the table, then the report."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        [*GENMETER, *SHORT],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 65536):
            written += chunk
    except OSError:
        pass  # what Linux says where the other end is closed
    finally:
        os.close(master)
    assert process.wait(60) == 0
    text = written.decode()
    assert "\x1b[?25l" in text
    assert "\x1b[?25h" in text
    for word in ("metrics: http", "left", "accepted", "p95", "Tokens, after 0 s:"):
        assert word in text
    assert "Traceback" not in text
