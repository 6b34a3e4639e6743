"""`genmeter run`: the script is as under Python, and the metrics and the report are beside it."""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from genmeter import GenerationMonitor, cli
from genmeter import patch as takeover
from genmeter.exporters.http import bind
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[..., Path]

GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")
QUIET = ("run", "--no-endpoint", "--quiet")
TELL = (
    "from genmeter import GenerationMonitor\n"
    "GenerationMonitor().track_generation(\n"
    "    1.0, True, model_name='atlas', prompt_token_count=1200, completion_token_count=34)\n"
)


@pytest.fixture(autouse=True)
def _own_process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is set from outside, and what a run changes for good is put back."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_"))
    }
    monkeypatch.setattr(os, "environ", clean)
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("argv", sys.argv),
        ("path", sys.path.copy()),
        ("excepthook", sys.excepthook),
    ):
        monkeypatch.setattr(sys, name, value)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    with fresh_runtime():
        yield
        while takeover._installs:
            takeover.uninstall()


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Keeps what is to be called at the end of the process; a call does it now, last in first."""
    hooks: list[Callable[[], Any]] = []

    def register(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hooks.append(lambda: hook(*args, **kwargs))
        return hook

    monkeypatch.setattr(atexit, "register", register)

    def end() -> None:
        while hooks:
            hooks.pop()()

    return end


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file below the current folder."""

    def write(text: str, name: str = "job.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def process(*command: Any, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with nothing set from outside."""
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
        check=False,
    )


# --- the script is as under Python -------------------------------------------------------------

LIKE_PYTHON = {
    "what it sees": (
        "import sys\n"
        "print(sys.argv, __name__, __file__, __package__, __spec__, __doc__, sys.path[0])\n"
        "print(sys.modules['__main__'].__dict__ is globals(), __builtins__, __loader__.path)\n"
        "print(repr(sys.stdin.read()), sorted(globals()), __annotations__)"
    ),
    "what a module sees": (
        "import sys\n"
        "print(sys.argv, __name__, __file__, __package__, getattr(__spec__, 'name', None))\n"
        "print(sys.modules['__main__'].__dict__ is globals(), sys.path[0])"
    ),
    "its own future": "def f(x: unknown): pass",
    "exit code": "import sys; sys.exit(3)",
    "exit without a code": "import sys; sys.exit(None)",
    "exit with a text": "import sys; sys.exit('no more')",
    "an exception": "def f():\n    return 1 / 0\n\nf()",
    "a cause": "try:\n    {}['key']\nexcept KeyError as e:\n    raise ValueError('x') from e",
    "an exception of genmeter's": "import genmeter\nraise genmeter.ConfigError('mine')",
    "a broken pipe": "raise BrokenPipeError('mine')",
    "no exception at all": "raise BaseException('odd')",
    "a failed import": "import there_is_no_such_module",
    "not Python": "this is no Python",
    "not Python at its end": "print(1",
    "a hook for exceptions": (
        "import sys\nsys.excepthook = lambda kind, error, trace: print(kind, error)\n1 / 0"
    ),
    "a hook that exits": "import sys\nsys.excepthook = lambda *_: sys.exit(5)\n1 / 0",
    "a hook that fails": (
        "import sys\ndef hook(*_):\n    raise OSError('hook')\nsys.excepthook = hook\n1 / 0"
    ),
    "an interruption": "raise KeyboardInterrupt",
    "what runs after": (
        "import atexit, threading, time, pickle\n"
        "class Mine: pass\n"
        "def late():\n    time.sleep(0.1)\n    print('late', len(pickle.dumps(Mine())) > 0)\n"
        "threading.Thread(target=late).start()\n"
        "atexit.register(print, 'at the exit')\n"
        "print('done')"
    ),
}


@pytest.mark.parametrize("case", LIKE_PYTHON)
def test_a_script_does_what_it_does_under_python(write: Write, case: str) -> None:
    """Output, exit code and tracebacks are those of `python script.py`, to the letter."""
    write(LIKE_PYTHON[case])
    arguments = ("job.py", "--port", "x", "--", "-m", "--p", "--quiet")
    plain = process(sys.executable, *arguments, stdin="a line\n")
    found = process(*GENMETER, *QUIET, *arguments, stdin="a line\n")
    assert (found.returncode, found.stdout) == (plain.returncode, plain.stdout)
    assert found.stderr == plain.stderr


def test_an_interrupted_script_ends_by_the_signal(write: Write) -> None:
    """A shell sees that Ctrl-C ended the script, and the report is there all the same."""
    # Short sleeps: a signal that comes just before one is only seen after it.
    write(
        f"{TELL}print('ready', flush=True)\n"
        "import time\nfor _ in range(600):\n    time.sleep(0.1)\n"
    )
    python, option, main = GENMETER
    # A background job's parent ignores it.
    heeding = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {main}"
    with subprocess.Popen(
        (python, option, heeding, "run", "--no-endpoint", "job.py"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert 'job.py", line' in errors
    assert "run.py" not in errors
    assert re.search(r"^atlas +1 +1,200 +34 +1,234$", errors, re.MULTILINE)


@pytest.mark.parametrize("case", ["what a module sees", "an exception", "exit code"])
def test_a_module_does_what_it_does_under_python(write: Write, case: str) -> None:
    """`-m` is `python -m`: its arguments, its folder and its package."""
    write(LIKE_PYTHON[case], "p/job.py")
    arguments = ("-m", "p.job", "--port", "x", "--quiet", "-m", "y")
    plain = process(sys.executable, *arguments)
    found = process(*GENMETER, *QUIET, *arguments)

    def own(text: str) -> str:  # Python's own runner stands in its traceback, ours does not
        return re.sub(r'  File "<frozen runpy>".*\n', "", text)

    assert (found.returncode, found.stdout) == (plain.returncode, plain.stdout)
    assert found.stderr == own(plain.stderr)


@pytest.mark.parametrize("case", ["an exception", "exit with a text", "a hook that fails"])
@pytest.mark.usefixtures("at_exit")
def test_the_exit_code_is_that_of_python(write: Write, case: str) -> None:
    """What a command's caller gets in the same process is what Python would end with."""
    write(LIKE_PYTHON[case])
    plain = process(sys.executable, "job.py")
    try:
        found = cli.main([*QUIET, "job.py"])
    except SystemExit as end:
        found = int(isinstance(end.code, str))
    assert found == plain.returncode


def test_the_path_is_left_alone_in_safe_mode(write: Write) -> None:
    """`python -P` keeps the script's folder out of the path, and so does a run under it."""
    write("import sys\nprint(sys.path)")
    plain = process(sys.executable, "-P", "job.py")
    found = process(GENMETER[0], "-P", *GENMETER[1:], *QUIET, "job.py")
    assert found.stdout == plain.stdout


# --- what cannot be run ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to run"),
        (("--",), "there is nothing to run"),
        (("-m",), "there is nothing to run"),
        (("no.py",), "the script is 'no.py', which cannot be read: No such file"),
        (("folder",), "the script is 'folder', a folder; give a Python file, or -m"),
        (("data.bin",), "the script is 'data.bin', which is not Python"),
        (("-m", "no_such_module"), "-m is 'no_such_module', a module that Python does not find"),
        (("-m", ".relative"), "-m is '.relative'"),
        (("-m", "json.nothing"), "the module cannot be run: No module named json.nothing"),
        (("-m", "json"), "'json' is a package and cannot be directly executed"),
        (("--port", "x", "job.py"), "--port must be a whole number from 0 to 65535, got 'x'"),
        (("--linger", "-1", "job.py"), "--linger must be seconds"),
        (
            ("--linger", "soon", "job.py"),
            "--linger must be seconds from 0 to 9223372036, got 'soon'",
        ),
        (("--prices", "no.json", "job.py"), "error: --prices: "),
        (("--host", " ", "job.py"), "--host is ' '; give a value"),
        (("--no-endpoint", "--port", "1", "job.py"), "--no-endpoint does not go with --port"),
    ],
)
@pytest.mark.usefixtures("at_exit")
def test_what_cannot_be_run_is_named(
    write: Write,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """The message has the argument and the remedy, the exit code is 2, and nothing was run."""
    write("print('it ran')")
    write("", "folder/inside.py")
    write("\0\0", "data.bin")
    given = (
        arguments
        if "--port" in arguments or arguments[:1] == ("--host",)
        else ("--port", "0", *arguments)
    )
    assert cli.main(["run", *given]) == 2
    found = capsys.readouterr()
    assert message in found.err
    assert found.out == ""


def test_a_taken_port_is_named_with_its_remedy(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script does not run unwatched where the endpoint was to be there."""
    write("print('it ran')")
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["run", "--port", str(port), "job.py"]) == 2
    found = capsys.readouterr()
    assert f"port {port}" in found.err
    assert "genmeter run --port 0 script.py" in found.err
    assert found.out == ""


# --- what is beside the script -----------------------------------------------------------------


def test_the_endpoint_is_up_before_the_script_and_outlives_its_monitors(
    write: Write, capsys: pytest.CaptureFixture[str], at_exit: Callable[[], None]
) -> None:
    """Counters go on over monitors that come and go, and the address is told first."""
    write(
        "import os, sys, urllib.request\n"
        "from genmeter import GenerationMonitor\n"
        "for _ in range(2):\n"
        "    with GenerationMonitor() as monitor:\n"
        "        url = monitor.endpoint_url\n"
        "        monitor.track_generation(1.0, True, model_name='atlas')\n"
        "print(url)\n"
        "print(urllib.request.urlopen(url).read().decode())\n"
    )
    assert cli.main(["run", "--port", "0", "--host", "127.0.0.1", "job.py"]) == 0
    found = capsys.readouterr()
    address, page = found.out.split("\n", 1)
    assert f"metrics: {address}\n" in found.err
    (count,) = re.findall(
        r"^genmeter_generations_total\{.*outcome=\"success\".*\} (\S+)$", page, re.MULTILINE
    )
    assert float(count) == 2
    with urlopen(address) as answer:  # noqa: S310 - the run's own
        assert answer.status == 200
    at_exit()
    with pytest.raises(OSError, match="refused"):
        urlopen(address)  # noqa: S310 - the run's own


def test_the_report_is_on_standard_error_with_the_cost(
    write: Write, capsys: pytest.CaptureFixture[str], at_exit: Callable[[], None]
) -> None:
    """Models, calls, tokens and, where prices are known, USD; standard output is the script's."""
    write('{"atlas": {"input": 10, "output": 100}}', "prices.json")
    write(f"import os\nos.chdir('/')\n{TELL}print('mine')\n")
    assert cli.main(["run", "--no-endpoint", "--prices", "prices.json", "job.py"]) == 0
    at_exit()
    found = capsys.readouterr()
    assert found.out == "mine\n"
    assert re.search(r"^model +calls +prompt +completion +total$", found.err, re.MULTILINE)
    assert re.search(r"^atlas +1 +1,200 +34 +1,234$", found.err, re.MULTILINE)
    assert re.search(r"^total +0\.0154", found.err, re.MULTILINE)
    assert "metrics: " not in found.err


def test_the_report_holds_what_is_told_at_the_very_end(write: Write) -> None:
    """What the script's own hooks at exit and late threads tell is in the report."""
    write(
        "import atexit, threading, time\n"
        "from genmeter import GenerationMonitor\n"
        "monitor = GenerationMonitor()\n"
        "def tell(model):\n"
        "    time.sleep(0.1)\n"
        "    monitor.track_generation(1.0, True, model_name=model, total_token_count=5)\n"
        "atexit.register(tell, 'hook')\n"
        "threading.Thread(target=tell, args=('thread',)).start()\n"
        "raise SystemExit(4)\n"
    )
    found = process(*GENMETER, "run", "--no-endpoint", "job.py")
    assert found.returncode == 4
    assert re.search(r"^hook +1 .* 5$", found.stderr, re.MULTILINE)
    assert re.search(r"^thread +1 .* 5$", found.stderr, re.MULTILINE)


def test_the_report_follows_an_exception(write: Write) -> None:
    """A job that broke off still says what it used, after its traceback."""
    write(f"{TELL}1 / 0\n")
    found = process(*GENMETER, "run", "--no-endpoint", "job.py")
    assert found.returncode == 1
    assert found.stderr.index("ZeroDivisionError") < found.stderr.index("1,234")


def test_a_job_that_told_nothing_is_reported_as_such(
    write: Write, capsys: pytest.CaptureFixture[str], at_exit: Callable[[], None]
) -> None:
    """An empty table would not say whether anything was watched."""
    write("")
    cli.main(["run", "--no-endpoint", "job.py"])
    at_exit()
    assert "No call told of tokens." in capsys.readouterr().err


def test_quiet_leaves_the_report_out(
    write: Write, capsys: pytest.CaptureFixture[str], at_exit: Callable[[], None]
) -> None:
    """The address stays, since nothing else tells it."""
    write(TELL)
    cli.main(["run", "--quiet", "--port", "0", "job.py"])
    at_exit()
    assert re.fullmatch(r"metrics: http://\S+\n", capsys.readouterr().err)


def test_a_forked_child_does_not_report(write: Write) -> None:
    """The report is the main process's, once."""
    write(f"import os\n{TELL}pid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n")
    found = process(*GENMETER, "run", "--no-endpoint", "job.py")
    assert found.returncode == 0
    assert found.stderr.count("1,234") == 2  # the model's row, and the sum


def test_lingering_waits_for_one_more_scrape(write: Write) -> None:
    """The last numbers are scraped after the script's end, and then the process ends at once."""
    write(TELL)
    deadline = time.monotonic() + 40
    with subprocess.Popen(
        (*GENMETER, "run", "--port", "0", "--linger", "50", "job.py"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as job:
        assert job.stderr is not None
        lines = iter(job.stderr.readline, "")
        address = next(lines).removeprefix("metrics: ").strip()
        assert any("waiting up to 50 s for one more scrape" in line for line in lines)
        page = ""
        while job.poll() is None and time.monotonic() < deadline:
            # A scrape that comes just before it waits is not the one that it waits for.
            with suppress(OSError, HTTPException), urlopen(address) as answer:  # noqa: S310 - the run's own
                page = answer.read().decode()
        assert job.poll() == 0
    assert re.search(r"^genmeter_job_finished(\{.*\})? 1", page, re.MULTILINE)


def test_ctrl_c_ends_the_lingering(
    write: Write,
    capsys: pytest.CaptureFixture[str],
    at_exit: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who does not want to wait for a scrape leaves without a traceback."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    write("")
    cli.main(["run", "--port", "0", "--linger", "50", "job.py"])
    monkeypatch.setattr("genmeter.exporters.http.ScrapeServer.wait_for_scrape", interrupt)
    at_exit()
    assert "not waiting any longer" in capsys.readouterr().err


def test_options_reach_the_monitors_of_the_job(
    write: Write, tmp_path: Path, at_exit: Callable[[], None]
) -> None:
    """Each option is a standard variable, with paths that a change of folder does not break."""
    write("{}", "prices.json")
    write("")
    options = ("--port", "0", "--host", "localhost", "--linger", "0.5", "--log-dir", "logs")
    cli.main(["run", "--quiet", *options, "--prices", "prices.json", "job.py"])
    at_exit()
    assert {
        name: value for name, value in os.environ.items() if name.startswith(("OTEL_", "GENMETER_"))
    } == {
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "localhost",
        "GENMETER_ENDPOINT_LINGER": "0.5",
        "GENMETER_LOG_DIR": str(tmp_path / "logs"),
        "GENMETER_PRICES": str(tmp_path / "prices.json"),
    }


@pytest.mark.parametrize(("before", "after"), [(None, "none"), ("prometheus,console", "console")])
@pytest.mark.usefixtures("at_exit")
def test_without_an_endpoint_the_other_exporters_stay(
    write: Write, before: str | None, after: str
) -> None:
    """`--no-endpoint` takes the scrape endpoint away and nothing else."""
    write("")
    if before is not None:
        os.environ["OTEL_METRICS_EXPORTER"] = before
    cli.main([*QUIET, "job.py"])
    assert os.environ["OTEL_METRICS_EXPORTER"] == after


@pytest.mark.usefixtures("at_exit")
def test_expected_samples_count_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's own monitor does not add to what the environment says of the job."""
    os.environ["GENMETER_EXPECTED_SAMPLES"] = "40"
    write(
        "import urllib.request\n"
        "from genmeter import GenerationMonitor\n"
        "one, two = GenerationMonitor(), GenerationMonitor()\n"
        "one.record_sample(True)\n"
        "print(urllib.request.urlopen(one.endpoint_url).read().decode())\n"
    )
    cli.main(["run", "--quiet", "--port", "0", "job.py"])
    (expected,) = re.findall(
        r"^genmeter_job_samples_expected(?:\{.*\})? (\S+)$", capsys.readouterr().out, re.MULTILINE
    )
    assert float(expected) == 40


@pytest.mark.usefixtures("at_exit")
def test_the_applications_provider_is_left_to_the_application(
    write: Write, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the script sets the global provider up, no monitor asks for it before that."""
    os.environ["GENMETER_METER_PROVIDER"] = "global"
    write("")
    assert cli.main(["run", "--quiet", "job.py"]) == 0
    assert capsys.readouterr().err == ""
    assert caplog.messages == []


@pytest.mark.usefixtures("at_exit")
def test_afterimages_monitor_is_replaced(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that names only AfterImage's class gets genmeter's."""
    for name in [each for each in sys.modules if each.partition(".")[0] == "afterimage"]:
        monkeypatch.delitem(sys.modules, name)
    write("", "afterimage/__init__.py")
    write("class GenerationMonitor:\n    def __init__(self): pass\n", "afterimage/monitoring.py")
    write(
        "from afterimage.monitoring import GenerationMonitor\n"
        "print([each.__module__ for each in GenerationMonitor.__mro__])\n"
    )
    assert cli.main([*QUIET, "job.py"]) == 0
    for name in ("afterimage", "afterimage.monitoring"):
        del sys.modules[name]  # for good: monkeypatch would put it back
    assert GenerationMonitor.__module__ in capsys.readouterr().out


def test_help_says_what_a_child_process_gets(capsys: pytest.CaptureFixture[str]) -> None:
    """Who reads the help learns both ways to call it, and the limit of it."""
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("script.py [args ...]", "-m module [args ...]", "AfterImage", "spawned"):
        assert words in text
