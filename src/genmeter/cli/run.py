"""``genmeter run``: a script as Python runs it, with AfterImage's monitor replaced.

The script has the process: its arguments, standard streams, exit code and tracebacks are as under
``python script.py``. Beside it stand one monitor that holds the endpoint open from before the
script's first line to the end, and a token report on standard error.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import dataclasses
import importlib.util
import os
import re
import runpy
import sys
from contextlib import suppress
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from genmeter import patch as takeover
from genmeter import runtime
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ConfigError, EndpointError
from genmeter.exporters.settings import PROMETHEUS, ExportSettings
from genmeter.monitor import GenerationMonitor, process_token_usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from genmeter.config.prices import PriceTable

__all__ = ["HELP", "add_arguments", "run"]

HELP = "run a script with AfterImage's monitor replaced, the endpoint up, and a token report"
_USAGE = """\
genmeter run [options] script.py [args ...]
       genmeter run [options] -m module [args ...]"""
_DESCRIPTION = """\
Run a script as `python script.py` does, with genmeter's monitor in the place
of AfterImage's. The script is not changed and needs to import nothing. What
follows its name is its own."""
_EPILOG = """\
The options are handed on through environment variables (in parentheses), so
that every monitor of the job sees them; further OTEL_* and GENMETER_* variables
count as usual. The address and the report go to standard error. The exit code
is the script's own; 2 where an argument cannot be used or the port is taken.

The report is of this process. Children that are forked push by OTLP; children
that are spawned start a fresh interpreter, where nothing is replaced:
`opentelemetry-instrument` reaches those.
"""
_EXPORTERS = "OTEL_METRICS_EXPORTER"
_MAX_PORT = 65_535
# The frames of these stand between the interpreter and the script.
_RUNNERS = (__file__, runpy.__file__, runpy.run_module.__code__.co_filename)
_kept: list[dict[str, Any]] = []  # a module's objects, which live until the exit as under Python
_OPTIONS = (
    (
        "port",
        "PORT",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "port of the endpoint, 0 for any free one; default: 9464",
    ),
    (
        "host",
        "HOST",
        "OTEL_EXPORTER_PROMETHEUS_HOST",
        "interface of the endpoint; default: 127.0.0.1",
    ),
    (
        "log_dir",
        "FOLDER",
        "GENMETER_LOG_DIR",
        "write the journal and the log there, for monitors that name no folder",
    ),
    (
        "linger",
        "SECONDS",
        "GENMETER_ENDPOINT_LINGER",
        "at the end, wait so long for one more scrape; default: 0",
    ),
    (
        "prices",
        "PRICES",
        "GENMETER_PRICES",
        "a JSON or TOML file of USD a million tokens by model, or genai-prices",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The subcommand's parser.
    """
    parser.usage, parser.description, parser.epilog = _USAGE, _DESCRIPTION, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # Abbreviations would be looked for among the script's arguments too.
    parser.allow_abbrev = False
    add = parser.add_argument
    for name, metavar, variable, text in _OPTIONS:
        add(_option(name), metavar=metavar, help=f"{text} ({variable})")
    add("--no-endpoint", action="store_true", help=f"serve no metrics ({_EXPORTERS})")
    add("--quiet", action="store_true", help="no token report at the end")
    # Either takes whatever follows, options as well.
    add(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="module",
        help="run a module, as `python -m` does",
    )
    add("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the script.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 0, or 1 where the script raised.

    Raises:
        ConfigError: An argument or an environment variable that cannot be used.
        EndpointError: The endpoint cannot listen on its port.
        SystemExit: The script's own.
        KeyboardInterrupt: The script was interrupted.
    """
    job = _job(args)
    _hand_on(args)
    config = _config(args)
    monitor = _open(args, config)
    takeover.install()
    # Before the monitor's own hook at exit, and after those of the script: it may tell until then.
    atexit.register(
        _finish, os.getpid(), config.prices, is_quiet=args.quiet, linger=config.endpoint.linger
    )
    if monitor is not None and monitor.endpoint_url is not None:
        _say(f"metrics: {monitor.endpoint_url}")
    return _execute(job)


# --- the options -------------------------------------------------------------------------------


def _job(args: argparse.Namespace) -> Callable[[], None]:
    """Give what runs the script or the module."""
    given = [*args.module, *args.script]
    if given[:1] == ["--"]:
        del given[0]
    if not given:
        raise ConfigError(
            f"there is nothing to run; give a script or -m and a module\nusage: {_USAGE}"
        )
    if args.module:
        _replace_first_path(str(Path.cwd()))
        if not _is_module(given[0].partition(".")[0]):
            raise ConfigError(f"-m is {given[0]!r}, a module that Python does not find; give one")
        return partial(_run_module, given)
    path = Path(given[0])
    loader = SourceFileLoader("__main__", str(path.absolute()))
    try:
        source = loader.get_data(loader.path)
    except IsADirectoryError as error:
        raise ConfigError(
            f"the script is {str(path)!r}, a folder; give a Python file, or -m and a package's name"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the script is {str(path)!r}, which cannot be read: {error.strerror or error}; give a "
            "Python file"
        ) from error
    if b"\0" in source:
        raise ConfigError(f"the script is {str(path)!r}, which is not Python; give a Python file")
    return partial(_run_script, given, loader, source)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # an empty name, or a module without a specification
        return False


def _hand_on(args: argparse.Namespace) -> None:
    """Set the variables that stand for the options."""
    if args.no_endpoint:
        _remove_endpoint(args)
    for name, _, variable, _ in _OPTIONS:
        value = getattr(args, name)
        if value is not None:
            os.environ[variable] = _checked(name, value)


def _config(args: argparse.Namespace) -> MonitorConfig:
    """Read the variables; an error in one that stands for an option names the option."""
    try:
        return MonitorConfig.from_env(expected_samples=None)  # the job's monitors count these
    except ConfigError as error:
        message = str(error)
        for name, _, variable, _ in _OPTIONS:
            if getattr(args, name) is not None:
                message = re.sub(rf"\b{variable}\b", _option(name), message)
        raise ConfigError(message) from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _checked(name: str, value: str) -> str:
    if not value.strip():
        raise ConfigError(f"{_option(name)} is {value!r}; give a value")
    if name == "port" and not _is_port(value):
        raise ConfigError(f"--port must be a whole number from 0 to 65535, got {value!r}")
    if name == "log_dir" or (name == "prices" and value != "genai-prices"):
        return str(Path(value).absolute())  # the script may change the current folder
    return value


def _remove_endpoint(args: argparse.Namespace) -> None:
    for name in ("port", "host"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--no-endpoint does not go with --{name}; leave one of them out")
    settings = ExportSettings.from_env(os.environ)
    for warning in settings.warnings:
        if _EXPORTERS in warning:  # the monitors do not see these names any more
            _say(f"genmeter: {warning}")
    os.environ[_EXPORTERS] = ",".join(settings.pushed) or "none"


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"\s*0*[0-9]{1,5}\s*", text, re.ASCII)) and int(text) <= _MAX_PORT


def _open(args: argparse.Namespace, config: MonitorConfig) -> GenerationMonitor | None:
    """Make the monitor that spans the run; none where the application's provider is asked for."""
    if config.meter_provider != "builtin":
        return None
    is_asked = args.port is not None or args.host is not None
    if is_asked or PROMETHEUS in ExportSettings.from_env(os.environ).exporters:
        # Asked for in code, so that a taken port is an error rather than a warning.
        endpoint = dataclasses.replace(config.endpoint, enabled=True)
        config = dataclasses.replace(config, endpoint=endpoint)
    try:
        return GenerationMonitor(
            metric_handlers=[], log_handlers=[], metrics_interval=0, config=config
        )
    except EndpointError as error:
        raise EndpointError(
            f"{error}\n--port and --host name another place: genmeter run --port 0 script.py"
        ) from error


# --- the script --------------------------------------------------------------------------------


def _run_script(argv: list[str], loader: SourceFileLoader, source: bytes) -> None:
    """Do what ``python script.py`` does."""
    main = ModuleType("__main__")
    main.__dict__.update(
        __builtins__=builtins, __cached__=None, __file__=loader.path, __loader__=loader
    )
    if "__annotations__" in vars(sys.modules["__main__"]):  # up to Python 3.13
        main.__annotations__ = {}
    # For good: threads and exit hooks of the script look things up there.
    sys.modules["__main__"] = main
    sys.argv = argv
    _replace_first_path(str(Path(loader.path).resolve().parent))
    # Not by the loader: its frames would stand in the traceback of a SyntaxError.
    code = compile(source, loader.path, "exec", dont_inherit=True)
    exec(code, main.__dict__)  # noqa: S102 - it is the job


def _run_module(argv: list[str]) -> None:
    """Do what ``python -m module`` does."""
    sys.argv = argv.copy()
    _kept.append(runpy.run_module(argv[0], run_name="__main__", alter_sys=True))


def _replace_first_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _execute(job: Callable[[], None]) -> int:
    """Run the script to its end, and show what it raised as Python does."""
    raised: BaseException | None = None
    try:
        job()
    except SystemExit:
        raise
    except BaseException as error:
        raised = error
    # Not while it is handled: an error of the script's hook would have it as its context.
    if raised is None:
        return 0
    if isinstance(raised, ImportError) and _own_part(raised) is None:
        raise ConfigError(f"the module cannot be run: {raised}")
    _show(raised)
    if isinstance(raised, KeyboardInterrupt):
        # Python ends the process by the signal then, and has nothing more to show.
        sys.excepthook = lambda *_: None
        raise raised
    return 1


def _show(error: BaseException) -> None:
    _strip(error)
    broken: Exception | None = None
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except Exception as problem:
        broken = problem
    if broken is not None:
        _say("Error in sys.excepthook:")
        _strip(broken)
        sys.__excepthook__(type(broken), broken, broken.__traceback__)
        _say("\nOriginal exception was:")
        sys.__excepthook__(type(error), error, error.__traceback__)


def _strip(error: BaseException) -> None:
    error.__traceback__ = _own_part(error)


def _own_part(error: BaseException) -> TracebackType | None:
    """Give the traceback from the script's first frame on; None where nothing of it ran."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename in _RUNNERS:
        found = found.tb_next
    return found


# --- the end -----------------------------------------------------------------------------------


def _finish(pid: int, prices: PriceTable | None, *, is_quiet: bool, linger: float) -> None:
    if os.getpid() != pid:  # a child that was forked ends like a process of its own
        return
    if not is_quiet:
        _say(_report(prices))
    runtime_of_job = runtime.current()
    if linger and runtime_of_job.url() is not None:
        _say(f"waiting up to {linger:g} s for one more scrape; Ctrl-C ends it")
    try:
        runtime_of_job.exit()
    except KeyboardInterrupt:
        _say("not waiting any longer")


def _report(prices: PriceTable | None) -> str:
    report = process_token_usage()
    if not report.by_model:
        return "\nNo call told of tokens."
    cost = "" if prices is None else f"\n\n{report.cost(prices)}"
    return f"\n{report}{cost}"


def _say(text: str) -> None:
    with suppress(Exception):  # the script may have closed it
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
