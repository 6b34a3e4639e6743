"""``genmeter run``: run a script, and record the calls that it makes to models.

The command sets the environment variables of its options, puts the folder of
:mod:`genmeter.cli.bootstrap` first on ``PYTHONPATH``, and becomes ``python script.py``. So
arguments, standard streams, exit code, tracebacks and signals are those of Python.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.cli import bootstrap
from genmeter.config.checks import NAME, PORT
from genmeter.config.monitor import MonitorConfig
from genmeter.config.prices import split_prices
from genmeter.errors import ConfigError
from genmeter.exporters.resource import MAIN_PID
from genmeter.exporters.settings import EXPORTERS, PROMETHEUS, ExportSettings
from genmeter.job import meeting

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HELP", "add_arguments", "detach_module", "run"]

HELP = "run a script, record its calls of models, and print a token report"
_USAGE = """\
genmeter run [options] script.py [args ...]
       genmeter run [options] -m module [args ...]"""
_DESCRIPTION = """\
Run a script like `python script.py`, record the calls that its clients make,
and print a token report. AfterImage gets genmeter's monitor in place of its own.
The script needs no change and no import. Arguments after its name are passed
to it."""
_EPILOG = """\
Options are passed to the job as environment variables (in parentheses), so they
apply to all of its monitors; other OTEL_* and GENMETER_* variables apply too.
The address and the report are written to standard error. The exit code is the
script's; 2 if an argument is invalid or the port is in use; 3 if the budget
refused a call.

A client is watched from its import on: by an installed OpenTelemetry
instrumentation, by genmeter's hook of a framework, or by genmeter itself; the
end of the report says by what. With a budget, the call after the one that
reaches the limit raises BudgetExceededError in the script.

The endpoint and the report are those of the whole job: Python processes that the
script starts are watched too, and their calls count with its own. Processes that
are started without PYTHONPATH, or with -E, -I or -S, are not watched.
"""
_OPTIONS = {
    "port": (
        "PORT",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "port of the endpoint, 0 for any free; default: 9464",
    ),
    "host": ("HOST", "OTEL_EXPORTER_PROMETHEUS_HOST", "host to listen on; default: 127.0.0.1"),
    "log_dir": (
        "FOLDER",
        "GENMETER_LOG_DIR",
        "folder of journal and log, for monitors without one",
    ),
    "linger": (
        "SECONDS",
        "GENMETER_ENDPOINT_LINGER",
        "at the end, wait this long for one more scrape; default: 0",
    ),
    "prices": (
        "PRICES",
        "GENMETER_PRICES",
        "JSON or TOML file with USD per million tokens, or genai-prices; several are comma-separated",
    ),
    "budget_tokens": (
        "N",
        "GENMETER_BUDGET_TOKENS",
        "stop the job at this number of tokens",
    ),
    "budget_usd": (
        "USD",
        "GENMETER_BUDGET_USD",
        "stop the job at this cost",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage, parser.description, parser.epilog = _USAGE, _DESCRIPTION, _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # Abbreviations would match the script's arguments too.
    parser.allow_abbrev = False
    add = parser.add_argument
    for name, (metavar, variable, text) in _OPTIONS.items():
        add(_option(name), metavar=metavar, help=f"{text} ({variable})")
    add("--no-endpoint", action="store_true", help=f"do not serve metrics ({EXPORTERS})")
    add("--quiet", action="store_true", help="do not print the token report")
    # Both take all that follows, options included.
    add(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="module",
        help="run a module, like `python -m`",
    )
    add("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def detach_module(arguments: Sequence[str]) -> list[str]:
    """Split ``-mMODULE``, after which argparse would read the module's arguments as genmeter's."""
    found = list(arguments)
    is_value = False
    for index, text in enumerate(found):
        if is_value or index == 0:
            is_value = False
        elif text.startswith("-m") and len(text) > len("-m"):
            found[index : index + 1] = ["-m", text.removeprefix("-m")]
            break
        elif text in ("-m", "--") or not text.startswith("-"):
            break
        else:
            is_value = text in [_option(name) for name in _OPTIONS]
    return found


def run(args: argparse.Namespace) -> int:
    """Replace this process by the Python that runs the script.

    Raises:
        ConfigError: An argument or an environment variable is invalid.
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
    others = [path for path in paths.split(os.pathsep) if path != folder] if paths else []
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *others])
    os.environ[MAIN_PID] = str(os.getpid())  # execv keeps the process id
    meeting.mark_run(os.environ, os.getpid())
    os.environ.pop(bootstrap.QUIET, None)
    if args.quiet:
        os.environ[bootstrap.QUIET] = "1"
    os.execv(sys.executable, command)  # noqa: S606 - the user's own script


def _command(args: argparse.Namespace) -> list[str]:
    """Return the command line of the script's Python, with the options of this one."""
    target = [*args.module, *args.script]
    if target[:1] == ["--"]:
        del target[0]
    if not target:
        raise ConfigError(f"there is nothing to run; add a script, or -m and a module\n{_USAGE}")
    if not args.module and not Path(target[0]).exists():
        raise ConfigError(f"the script must be an existing file, got {target[0]!r}")
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise ConfigError(
            "genmeter run must be started without -E, -I and -S; the script's Python inherits them "
            "and would not load genmeter"
        )
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    return [sys.executable, *flags, *(["-m"] if args.module else []), *target]


def _checked(name: str, value: str) -> str:
    NAME(_option(name), value.strip())
    if name == "port":
        return str(PORT("--port", PORT.read(value)))
    # The script may change the working directory.
    if name == "log_dir":
        return str(Path(value).absolute())
    if name == "prices":
        prices = split_prices(value)
        parts = (prices,) if isinstance(prices, str) else prices
        return ",".join(
            part if part == "genai-prices" else str(Path(part).absolute()) for part in parts
        )
    return value


def _choose_exporters(args: argparse.Namespace) -> None:
    """Add the endpoint to the exporters, or remove it, if an option says so."""
    options = [_option(name) for name in ("port", "host") if getattr(args, name) is not None]
    if not args.no_endpoint and not options:
        return
    if args.no_endpoint and options:
        raise ConfigError(f"--no-endpoint contradicts {options[0]}; omit one of them")
    settings = ExportSettings.from_env(os.environ)
    if options and PROMETHEUS in settings.exporters:
        return
    names = [*settings.pushed, *([] if args.no_endpoint else [PROMETHEUS])]
    for warning in settings.warnings:
        if EXPORTERS in warning:  # the job's monitors do not see these names any more
            bootstrap.say(f"genmeter: {warning}")
    os.environ[EXPORTERS] = ",".join(names) or "none"


def _check_config(args: argparse.Namespace) -> None:
    """Check the variables; an error in the variable of an option names the option."""
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
