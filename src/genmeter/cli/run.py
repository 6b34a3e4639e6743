"""``genmeter run``: Python runs a script, with AfterImage's monitor replaced.

The command sets the environment variables that its options stand for, puts the folder of
:mod:`genmeter.cli.bootstrap` first on ``PYTHONPATH``, and becomes ``python script.py``. Arguments,
standard streams, exit code, tracebacks and signals are Python's own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from genmeter.cli import bootstrap
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ConfigError
from genmeter.exporters.resource import MAIN_PID
from genmeter.exporters.settings import EXPORTERS, PROMETHEUS, ExportSettings

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

The report and the endpoint are the main process's. In Python processes that it
forks or spawns the monitor is replaced too; they push by OTLP where
OTEL_METRICS_EXPORTER asks for that, and listen only with --port 0. Children
that are started without PYTHONPATH, or with -E, -I or -S, are not reached.
"""
_MAX_PORT = 65_535
_OPTIONS = {
    "port": (
        "PORT",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "port of the endpoint, 0 for any free one; default: 9464",
    ),
    "host": ("HOST", "OTEL_EXPORTER_PROMETHEUS_HOST", "its interface; default: 127.0.0.1"),
    "log_dir": ("FOLDER", "GENMETER_LOG_DIR", "journal and log of monitors that name no folder"),
    "linger": (
        "SECONDS",
        "GENMETER_ENDPOINT_LINGER",
        "at the end, wait for one more scrape; default: 0",
    ),
    "prices": (
        "PRICES",
        "GENMETER_PRICES",
        "a JSON or TOML file of USD a million tokens by model, or genai-prices",
    ),
}


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
    for name, (metavar, variable, text) in _OPTIONS.items():
        add(_option(name), metavar=metavar, help=f"{text} ({variable})")
    add("--no-endpoint", action="store_true", help=f"serve no metrics ({EXPORTERS})")
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
    """Become the Python that runs the script; this returns only by raising.

    Args:
        args: As `add_arguments` declares them.

    Raises:
        ConfigError: An argument or an environment variable that cannot be used.
    """
    command = _command(args)
    for name, (_, variable, _) in _OPTIONS.items():
        value = getattr(args, name)
        if value is not None:
            os.environ[variable] = _checked(name, value)
    _choose_exporters(args)
    _check_config(args)
    paths = os.environ.get("PYTHONPATH")
    folder = str(Path(bootstrap.__file__).parent)
    others = [each for each in paths.split(os.pathsep) if each != folder] if paths else []
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *others])
    os.environ[MAIN_PID] = str(os.getpid())  # which the process keeps
    os.environ.pop(bootstrap.QUIET, None)
    if args.quiet:
        os.environ[bootstrap.QUIET] = "1"
    os.execv(sys.executable, command)  # noqa: S606 - the user's own script


def _command(args: argparse.Namespace) -> list[str]:
    """Return the command line of Python, with the options that this one was started with."""
    given = [*args.module, *args.script]
    if given[:1] == ["--"]:
        del given[0]
    if not given:
        raise ConfigError(
            f"there is nothing to run; give a script or -m and a module\nusage: {_USAGE}"
        )
    if not args.module and not Path(given[0]).exists():
        raise ConfigError(f"the script must be a file, got {given[0]!r}, which does not exist")
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise ConfigError(
            "genmeter run must be started without -E, -I and -S, since the script's Python gets "
            "them too and would not load genmeter"
        )
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    return [sys.executable, *flags, *(["-m"] if args.module else []), *given]


def _checked(name: str, value: str) -> str:
    if not value.strip():
        raise ConfigError(f"{_option(name)} must not be empty, got {value!r}")
    if name == "port" and not _is_port(value):
        raise ConfigError(f"--port must be a whole number from 0 to 65535, got {value!r}")
    if name == "log_dir" or (name == "prices" and value != "genai-prices"):
        return str(Path(value).absolute())  # the script may change the current folder
    return value


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"\s*0*[0-9]{1,5}\s*", text, re.ASCII)) and int(text) <= _MAX_PORT


def _choose_exporters(args: argparse.Namespace) -> None:
    """Add the endpoint to the exporters where an option asks for it, or take it away."""
    asked = [_option(name) for name in ("port", "host") if getattr(args, name) is not None]
    if not args.no_endpoint and not asked:
        return
    if args.no_endpoint and asked:
        raise ConfigError(f"--no-endpoint does not go with {asked[0]}; leave one of them out")
    settings = ExportSettings.from_env(os.environ)
    if asked and PROMETHEUS in settings.exporters:
        return
    names = [*settings.pushed, *([] if args.no_endpoint else [PROMETHEUS])]
    for warning in settings.warnings:
        if EXPORTERS in warning:  # the monitors do not see these names any more
            bootstrap.say(f"genmeter: {warning}")
    os.environ[EXPORTERS] = ",".join(names) or "none"


def _check_config(args: argparse.Namespace) -> None:
    """Read the variables; an error in one that stands for an option names the option."""
    try:
        MonitorConfig.from_env()
    except ConfigError as error:
        message = str(error)
        for name, (_, variable, _) in _OPTIONS.items():
            if getattr(args, name) is not None:
                message = re.sub(rf"\b{variable}\b", _option(name), message)
        raise ConfigError(message) from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
