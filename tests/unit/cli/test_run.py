"""`genmeter run`: the script behaves as under Python, with metrics and a report."""

from __future__ import annotations

import atexit
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from _measured import measured
from genmeter import GenerationMonitor, cli, patch
from genmeter.auto.watching import AutoWatch
from genmeter.cli import bootstrap
from genmeter.cli.bootstrap import sitecustomize
from genmeter.exporters._http import bind
from genmeter.testing import fresh_runtime
from otlp_receiver import HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Write = Callable[..., Path]

GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")
QUIET = ("run", "--no-endpoint", "--quiet")
FOLDER = str(Path(bootstrap.__file__).parent)
RECORD = (
    "from genmeter import GenerationMonitor\n"
    "GenerationMonitor().track_generation(\n"
    "    1.0, True, model_name='atlas', prompt_token_count=1200, completion_token_count=34)\n"
)
AFTERIMAGE = "class GenerationMonitor:\n    def __init__(self): pass\n"


class Executed(Exception):  # noqa: N818 - not an error
    """The process has become another program."""


@pytest.fixture(autouse=True)
def _own_process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable is set, and changes are undone."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_", "_GENMETER_"))
    }
    monkeypatch.setattr(os, "environ", clean)
    monkeypatch.chdir(tmp_path)
    started: list[AutoWatch] = []

    def auto_watch(monitor: Callable[[], GenerationMonitor]) -> AutoWatch:
        started.append(AutoWatch(monitor))
        return started[-1]

    monkeypatch.setattr(bootstrap, "AutoWatch", auto_watch)
    with fresh_runtime():
        yield
        while patch._installs:
            patch.uninstall()
        for each in started:
            each.stop()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line passed to `execv`, which is not called."""
    found: list[str] = []

    def execv(path: str, arguments: list[str]) -> None:
        found[:] = [path, *arguments]
        raise Executed

    monkeypatch.setattr(os, "execv", execv)
    return found


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Collects exit hooks; calling it runs them, last in first."""
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
    """Writes a file in the working directory."""

    def write(text: str, name: str = "job.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def process(*command: Any, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with additional variables."""
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **measured(), **environ},
        timeout=60,
        check=False,
    )


def run(*arguments: Any, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `genmeter run` to the end of its script."""
    return process(*GENMETER, "run", *arguments, **environ)


def become(executed: list[str], *arguments: str) -> list[str]:
    """Run the command up to `execv`; return its command line."""
    with pytest.raises(Executed):
        cli.main(["run", *arguments])
    return executed


# --- the script behaves as under Python -------------------------------------------------------------

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
    "exit code": "import sys; sys.exit(3)",
    "exit with a text": "import sys; sys.exit('no more')",
    "an exception": "def f():\n    return 1 / 0\n\nf()",
    "an exception of genmeter's": "import genmeter\nraise genmeter.ConfigError('mine')",
    "a failed import": "import there_is_no_such_module",
    "not Python": "this is no Python",
    "a hook that fails": (
        "import sys\ndef hook(*_):\n    raise OSError('hook')\nsys.excepthook = hook\n1 / 0"
    ),
    "an interruption": "raise KeyboardInterrupt",
    "its path and its flags": "import sys\nprint(sys.path, sys.flags, sys.warnoptions)",
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
def test_a_script_behaves_as_under_python(write: Write, case: str) -> None:
    """Output, exit code and tracebacks equal those of `python script.py`."""
    write(LIKE_PYTHON[case])
    arguments = ("job.py", "--port", "x", "--", "-m", "--p", "--quiet")
    plain = process(sys.executable, *arguments, stdin="a line\n")
    found = process(*GENMETER, *QUIET, *arguments, stdin="a line\n")
    assert (found.returncode, found.stdout) == (plain.returncode, plain.stdout)
    assert found.stderr == plain.stderr


def test_an_interrupted_script_dies_of_the_signal(write: Write) -> None:
    """A shell sees that Ctrl-C ended the script, and the report is printed."""
    # Short sleeps: a signal just before a sleep is only handled after it.
    write(
        f"{RECORD}print('ready', flush=True)\n"
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
    assert "genmeter" not in errors
    assert re.search(r"^atlas +1 +1,200 +34 +1,234$", errors, re.MULTILINE)


@pytest.mark.parametrize("case", ["what a module sees", "an exception", "exit code"])
def test_a_module_behaves_as_under_python(write: Write, case: str) -> None:
    """`-m` equals `python -m` in arguments, folder, package and tracebacks."""
    write(LIKE_PYTHON[case], "p/job.py")
    arguments = ("-m", "p.job", "--port", "x", "--quiet", "-m", "y")
    plain = process(sys.executable, *arguments)
    found = process(*GENMETER, *QUIET, *arguments)
    assert (found.returncode, found.stdout) == (plain.returncode, plain.stdout)
    assert found.stderr == plain.stderr


def test_attached_module_gets_all_arguments_after_it(executed: list[str], write: Write) -> None:
    """`-mMODULE` equals `-m MODULE`: what follows is the module's, also genmeter's own options."""
    write("", "p/job.py")
    become(executed, "--port", "0", "-mp.job", "--quiet", "a")
    assert executed[-4:] == ["-m", "p.job", "--quiet", "a"]


def test_interpreter_options_are_passed_on(write: Write) -> None:
    """The script's Python gets the -P, -O and -W of genmeter's."""
    write(LIKE_PYTHON["its path and its flags"])
    flags = ("-P", "-O", "-B", "-s", "-W", "error", "-X", "utf8")
    plain = process(sys.executable, *flags, "job.py")
    found = process(GENMETER[0], *flags, *GENMETER[1:], *QUIET, "job.py")
    assert found.stdout == plain.stdout


def test_the_bootstrap_is_first_on_pythonpath(
    executed: list[str], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other entries keep their order, and a nested run adds nothing."""
    write("")
    for before, after in (
        (None, [FOLDER]),
        ("", [FOLDER]),
        ("/one::/two", [FOLDER, "/one", "", "/two"]),
        (f"/one:{FOLDER}:/two", [FOLDER, "/one", "/two"]),
    ):
        monkeypatch.delitem(os.environ, "PYTHONPATH", raising=False)
        if before is not None:
            os.environ["PYTHONPATH"] = before
        become(executed, "--no-endpoint", "job.py")
        assert os.environ["PYTHONPATH"].split(":") == after


@pytest.mark.parametrize("ending", ["", "raise ValueError('theirs')\n"])
def test_the_users_own_sitecustomize_runs_too(write: Write, ending: str) -> None:
    """The hidden `sitecustomize` works as without genmeter, errors included."""
    write(f"import os\nos.environ['SEEN'] = 'yes'\n{ending}", "lib/sitecustomize.py")
    write(
        "import os, sys\nprint(os.environ['SEEN'])\n"
        "module = sys.modules.get('sitecustomize')\nprint(module and module.__file__)\n"
    )
    path = str(Path("lib").absolute())
    plain = process(sys.executable, "job.py", PYTHONPATH=path)
    found = process(*GENMETER, *QUIET, "job.py", PYTHONPATH=path)
    assert found.stdout == plain.stdout
    assert found.stdout.startswith("yes\n")
    assert found.stderr.count("ValueError: theirs") == (2 if ending else 0)  # genmeter's own, too


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to run"),
        (("--",), "there is nothing to run"),
        (("-m",), "there is nothing to run"),
        (("no.py",), "the script must be an existing file, got 'no.py'"),
        (("--port", "x", "job.py"), "--port must be a whole number from 0 to 65535, got 'x'"),
        (("--linger", "-1", "job.py"), "--linger must be seconds"),
        (
            ("--linger", "soon", "job.py"),
            "--linger must be seconds from 0 to 9223372036, got 'soon'",
        ),
        (("--prices", "no.json", "job.py"), "error: --prices: "),
        (("--host", " ", "job.py"), "--host must be a text that is not empty"),
        (("--no-endpoint", "--port", "1", "job.py"), "--no-endpoint contradicts --port"),
    ],
)
def test_an_invalid_command_line_is_an_error(
    write: Write,
    capsys: pytest.CaptureFixture[str],
    executed: list[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """The message names the argument and the remedy, and nothing is run."""
    write("print('it ran')")
    assert cli.main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert executed == []


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_a_python_that_ignores_its_environment_is_an_error(write: Write, flag: str) -> None:
    """The script's Python would ignore the bootstrap."""
    write("print('it ran')")
    found = process(GENMETER[0], flag, *GENMETER[1:], *QUIET, "job.py")
    assert (found.returncode, found.stdout) == (2, "")
    assert "-E" in found.stderr


def test_a_port_in_use_is_an_error_with_the_remedy(write: Write) -> None:
    """The script does not run without its endpoint."""
    write("print('it ran')")
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        found = run("--port", port, "job.py")
    assert (found.returncode, found.stdout) == (2, "")
    assert f"port {port}" in found.stderr
    assert "genmeter run --port 0 script.py" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_bootstrap_that_fails_does_not_stop_the_script(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault in genmeter is a warning, and the job runs."""
    write("import genmeter.patch\ndel genmeter.patch.install\n", "lib/sitecustomize.py")
    write("print('it ran')")
    found = run("--no-endpoint", "job.py", PYTHONPATH=str(Path("lib").absolute()))
    assert (found.returncode, found.stdout) == (0, "it ran\n")
    assert "the job is not watched: AttributeError" in found.stderr


# --- endpoint and report -----------------------------------------------------------------------


def test_the_endpoint_is_up_before_the_script_and_outlives_its_monitors(write: Write) -> None:
    """Counters continue across monitors, and the address is printed first."""
    write(
        "import atexit, sys, urllib.request\n"
        "def page():\n"
        "    return urllib.request.urlopen(url).read().decode()\n"
        "@atexit.register\n"
        "def late():\n"
        "    print('served' if page() else '')\n"
        "from genmeter import GenerationMonitor\n"
        "for _ in range(2):\n"
        "    with GenerationMonitor() as monitor:\n"
        "        url = monitor.endpoint_url\n"
        "        monitor.track_generation(1.0, True, model_name='atlas')\n"
        "print(url)\n"
        "print(page())\n"
    )
    found = run("--port", "0", "--host", "127.0.0.1", "job.py")
    address, page = found.stdout.split("\n", 1)
    assert found.stderr.startswith(f"metrics: {address}\n")
    (count,) = re.findall(
        r"^genmeter_generations_total\{.*outcome=\"success\".*\} (\S+)$", page, re.MULTILINE
    )
    assert float(count) == 2
    assert page.endswith("\nserved\n")
    with pytest.raises(OSError, match="refused"):
        urlopen(address)  # noqa: S310 - the run's own


def test_the_report_is_on_standard_error_with_the_cost(write: Write) -> None:
    """It has calls, tokens and USD by model; standard output belongs to the script."""
    write('{"atlas": {"input": 10, "output": 100}}', "prices.json")
    write(f"import os\nos.chdir('/')\n{RECORD}print('mine')\n")
    found = run("--no-endpoint", "--prices", "prices.json", "job.py")
    assert (found.returncode, found.stdout) == (0, "mine\n")
    assert re.search(r"^model +calls +prompt +completion +total$", found.stderr, re.MULTILINE)
    assert re.search(r"^atlas +1 +1,200 +34 +1,234$", found.stderr, re.MULTILINE)
    assert re.search(r"^total +0\.0154", found.stderr, re.MULTILINE)
    assert "metrics: " not in found.stderr


def test_the_report_includes_calls_recorded_at_exit(write: Write) -> None:
    """Events of the script's exit hooks and late threads are counted."""
    write(
        "import atexit, threading, time\n"
        "from genmeter import GenerationMonitor\n"
        "monitor = GenerationMonitor()\n"
        "def record(model):\n"
        "    time.sleep(0.1)\n"
        "    monitor.track_generation(1.0, True, model_name=model, total_token_count=5)\n"
        "atexit.register(record, 'hook')\n"
        "threading.Thread(target=record, args=('thread',)).start()\n"
        "raise SystemExit(4)\n"
    )
    found = process(*GENMETER, "run", "--no-endpoint", "job.py")
    assert found.returncode == 4
    assert re.search(r"^hook +1 .* 5$", found.stderr, re.MULTILINE)
    assert re.search(r"^thread +1 .* 5$", found.stderr, re.MULTILINE)


def test_the_report_follows_an_exception(write: Write) -> None:
    """A failed job has a report, after its traceback."""
    write(f"{RECORD}1 / 0\n")
    found = process(*GENMETER, "run", "--no-endpoint", "job.py")
    assert found.returncode == 1
    assert found.stderr.index("ZeroDivisionError") < found.stderr.index("1,234")


def test_the_report_of_a_job_without_tokens_says_so(
    capsys: pytest.CaptureFixture[str], at_exit: Callable[[], None]
) -> None:
    """An empty table could also mean that nothing was monitored."""
    os.environ["OTEL_METRICS_EXPORTER"] = "none"
    bootstrap.start()
    at_exit()
    assert "No token usage recorded." in capsys.readouterr().err


def test_the_report_names_calls_without_usage(
    capsys: pytest.CaptureFixture[str], at_exit: Callable[[], None]
) -> None:
    """A job of which no call says its usage has no tokens, but not no calls."""
    os.environ["OTEL_METRICS_EXPORTER"] = "none"
    bootstrap.start()
    with GenerationMonitor() as monitor:
        for _ in range(3):
            monitor.track_generation(1.0, True, model_name="silent")
    at_exit()
    found = capsys.readouterr().err
    assert "Calls without usage: 3 (silent: 3)" in found
    assert "No token usage recorded." not in found


def test_quiet_prints_only_the_address(write: Write) -> None:
    """Nothing else prints the address."""
    write(RECORD)
    found = run("--quiet", "--port", "0", "job.py")
    assert re.fullmatch(r"metrics: http://\S+\n", found.stderr)


def test_a_forked_child_does_not_report(write: Write) -> None:
    """The main process reports once."""
    write(f"import os\n{RECORD}pid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n")
    found = process(*GENMETER, "run", "--no-endpoint", "job.py")
    assert found.returncode == 0
    assert found.stderr.count("1,234") == 2  # the row and the total


def test_lingering_waits_for_one_more_scrape(write: Write) -> None:
    """The process ends after a scrape with the final values."""
    write(RECORD)
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
            # A scrape just before the wait does not end it.
            with suppress(OSError, HTTPException), urlopen(address) as answer:  # noqa: S310 - the run's own
                page = answer.read().decode()
        assert job.poll() == 0
    assert re.search(r"^genmeter_job_finished(\{.*\})? 1", page, re.MULTILINE)


def test_ctrl_c_ends_the_lingering(
    capsys: pytest.CaptureFixture[str],
    at_exit: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user can stop waiting, without a traceback."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    os.environ |= {"OTEL_EXPORTER_PROMETHEUS_PORT": "0", "GENMETER_ENDPOINT_LINGER": "50"}
    monkeypatch.setattr("genmeter.exporters._http.ScrapeServer.wait_for_scrape", interrupt)
    bootstrap.start()
    at_exit()
    assert "not waiting any longer" in capsys.readouterr().err


def test_options_reach_the_monitors_of_the_job(
    write: Write, tmp_path: Path, executed: list[str]
) -> None:
    """Each option sets a variable; paths are absolute."""
    write("{}", "prices.json")
    write("")
    options = ("--port", "0", "--host", "localhost", "--linger", "0.5", "--log-dir", "logs")
    become(executed, "--quiet", *options, "--prices", "prices.json", "job.py", "-m", "x")
    assert executed[:2] == [sys.executable, sys.executable]
    assert executed[-3:] == ["job.py", "-m", "x"]
    assert {
        name: value for name, value in os.environ.items() if name.startswith(("OTEL_", "GENMETER_"))
    } == {
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "localhost",
        "GENMETER_ENDPOINT_LINGER": "0.5",
        "GENMETER_LOG_DIR": str(tmp_path / "logs"),
        "GENMETER_PRICES": str(tmp_path / "prices.json"),
    }


def test_each_of_several_prices_is_absolute(
    write: Write, tmp_path: Path, executed: list[str]
) -> None:
    """But the name of the list."""
    write("{}", "a.json")
    write("{}", "b.json")
    write("")
    become(executed, "--quiet", "--prices", "a.json, b.json,genai-prices", "job.py")
    prices = f"{tmp_path / 'a.json'},{tmp_path / 'b.json'},genai-prices"
    assert os.environ["GENMETER_PRICES"] == prices


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [
        ("--no-endpoint", None, "none"),
        ("--no-endpoint", "prometheus,console", "console"),
        ("--port=0", "console", "console,prometheus"),
        ("--port=0", "none", "prometheus"),
        ("--port=0", "prometheus,console", "prometheus,console"),
        ("--quiet", "console", "console"),
    ],
)
def test_options_keep_the_other_exporters(
    write: Write, executed: list[str], option: str, before: str | None, after: str
) -> None:
    """`--no-endpoint` removes the scrape endpoint, `--port` and `--host` add it."""
    write("")
    if before is not None:
        os.environ["OTEL_METRICS_EXPORTER"] = before
    become(executed, option, "job.py")
    assert os.environ["OTEL_METRICS_EXPORTER"] == after


def test_expected_samples_are_counted_once(write: Write) -> None:
    """The monitor of the run does not add to the job's."""
    write(
        "import urllib.request\n"
        "from genmeter import GenerationMonitor\n"
        "one, two = GenerationMonitor(), GenerationMonitor()\n"
        "one.record_sample(True)\n"
        "print(urllib.request.urlopen(one.endpoint_url).read().decode())\n"
    )
    found = run("--quiet", "--port", "0", "job.py", GENMETER_EXPECTED_SAMPLES="40")
    (expected,) = re.findall(
        r"^genmeter_job_samples_expected(?:\{.*\})? (\S+)$", found.stdout, re.MULTILINE
    )
    assert float(expected) == 40


def test_the_provider_of_the_application_is_not_used_early(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    at_exit: Callable[[], None],
) -> None:
    """The script may set the global provider up before any monitor uses it."""
    os.environ |= {"GENMETER_METER_PROVIDER": "global", bootstrap.QUIET: "1"}
    bootstrap.start()
    at_exit()
    assert capsys.readouterr().err == ""
    assert caplog.messages == []


# --- AfterImage's monitor, in the main process and in its children ------------------------------

PRINT_MRO = (
    "from afterimage.monitoring import GenerationMonitor\n"
    "print([each.__module__ for each in GenerationMonitor.__mro__], flush=True)\n"
)


def test_afterimages_monitor_is_replaced(write: Write) -> None:
    """A script that imports AfterImage's class gets genmeter's."""
    write("", "afterimage/__init__.py")
    write(AFTERIMAGE, "afterimage/monitoring.py")
    write(PRINT_MRO)
    assert GenerationMonitor.__module__ in process(*GENMETER, *QUIET, "job.py").stdout


CHILDREN = {
    "multiprocessing's spawn": (
        "import multiprocessing\n"
        "from work import work\n"
        "child = multiprocessing.get_context('spawn').Process(target=work)\n"
        "child.start()\n"
        "child.join()\n"
    ),
    "multiprocessing's forkserver": (
        "import multiprocessing\n"
        "from work import work\n"
        "child = multiprocessing.get_context('forkserver').Process(target=work)\n"
        "child.start()\n"
        "child.join()\n"
    ),
    "a subprocess": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import work; work.work()'], check=True)\n"
    ),
}


@pytest.fixture
def family(write: Write) -> Callable[[str], None]:
    """Writes a job whose child records 7 tokens through AfterImage's class."""

    def family(kind: str) -> None:
        write("", "afterimage/__init__.py")
        write(
            "class GenerationMonitor:\n"
            "    def __init__(self): pass\n"
            "    def track_generation(self, *_, **__): print('AfterImage')\n",
            "afterimage/monitoring.py",
        )
        write(
            "import os\n"
            "def work():\n"
            "    from afterimage.monitoring import GenerationMonitor\n"
            "    monitor = GenerationMonitor()\n"
            "    monitor.track_generation(1.0, True, model_name='child', total_token_count=7)\n"
            "    monitor.flush()\n"
            "    print(monitor.endpoint_url, flush=True)\n",
            "work.py",
        )
        write(f"if __name__ == '__main__':\n{indent(RECORD + CHILDREN[kind], '    ')}")

    return family


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_spawned_child_pushes_its_counts(family: Callable[[str], None], kind: str) -> None:
    """They are pushed with those of the main process, which alone listens on the port."""
    family(kind)
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with HttpReceiver() as receiver:
        found = run(
            *("--port", port, "job.py"),
            PYTHONPATH=str(Path.cwd()),
            OTEL_METRICS_EXPORTER="prometheus,otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_RESOURCE_ATTRIBUTES="service.instance.id=mine",
        )
        assert (found.returncode, found.stdout) == (0, "None\n")
        assert receiver.total("genmeter.tokens", gen_ai_request_model="child") == 7
        assert receiver.total("genmeter.tokens", gen_ai_request_model="atlas") == 1234
    assert found.stderr.count("metrics: ") == 1
    assert found.stderr.count("model ") == 1  # only the main process reports


@pytest.mark.parametrize("kind", CHILDREN)
def test_the_report_includes_a_spawned_child(family: Callable[[str], None], kind: str) -> None:
    """Without an exporter too, and without a warning; only the main process listens."""
    family(kind)
    found = run("--port", "0", "job.py", PYTHONPATH=str(Path.cwd()))
    assert (found.returncode, found.stdout) == (0, "None\n")
    assert re.search(r"^child +1 .* 7$", found.stderr, re.MULTILINE)
    assert re.search(r"^total .* 1,241$", found.stderr, re.MULTILINE)
    assert "not served" not in found.stderr


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_child_patches_afterimage_when_it_imports_it(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_broken: bool,
) -> None:
    """Not before; and a failing patch does not fail the import."""
    write("", "afterimage/__init__.py")
    write(AFTERIMAGE, "afterimage/monitoring.py")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for name in [each for each in sys.modules if each.partition(".")[0] == "afterimage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    if is_broken:
        monkeypatch.delattr(patch, "install")
    sitecustomize._start()
    assert patch._installs == []
    found = importlib.import_module("afterimage.monitoring").GenerationMonitor
    for name in ("afterimage", "afterimage.monitoring"):
        del sys.modules[name]  # for good: monkeypatch would put it back
    assert issubclass(found, GenerationMonitor) is not is_broken
    assert ("is not watched: AttributeError" in capsys.readouterr().err) is is_broken


def test_a_child_without_afterimage_imports_nothing_of_genmeter(write: Write) -> None:
    """Python programs that a job starts are not slowed down."""
    write(
        "import subprocess, sys\n"
        "code = 'import sys; print({name.partition(chr(46))[0] for name in sys.modules})'\n"
        "print(subprocess.check_output([sys.executable, '-c', code], text=True))\n"
    )
    found = process(*GENMETER, *QUIET, "job.py")
    assert "'sys'" in found.stdout
    for name in ("genmeter", "wrapt", "opentelemetry"):
        assert f"'{name}'" not in found.stdout


def test_help_explains_child_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """Help has both forms of the command, and its limits."""
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("script.py [args ...]", "-m module [args ...]", "AfterImage", "not watched"):
        assert words in text
