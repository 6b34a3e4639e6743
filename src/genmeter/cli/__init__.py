"""The command line: ``genmeter COMMAND``, with one module for each command."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from genmeter._version import __version__
from genmeter.cli import render, report, run, top
from genmeter.cli.demo import command as demo
from genmeter.errors import GenmeterError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


_COMMANDS = {"demo": demo, "render": render, "report": report, "run": run, "top": top}
_USAGE_ERROR = 2  # argparse's own
_BROKEN_PIPE = 128 + 13  # a shell's exit code for SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 for invalid input, or the command's own.

    Raises:
        SystemExit: After ``--help``, ``--version`` and invalid arguments.
    """
    parser, parsers = _parsers()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["run"]:
        argv = run.detach_module(argv)
    # Options may stand between the sources; with "--" argparse cannot have both (before 3.13).
    if argv[:1] == ["report"] and "--" not in argv:
        named = argparse.Namespace(command="report")
        args, unknown = parsers["report"].parse_known_intermixed_args(argv[1:], named)
    else:
        args, unknown = parser.parse_known_args(argv)
    if unknown:
        # parse_args() would show the usage without the command's options.
        parsers[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code: int = _COMMANDS[args.command].run(args)
        return code
    except GenmeterError as error:
        sys.stderr.write(f"genmeter {args.command}: error: {error}\n")
        return _USAGE_ERROR
    except BrokenPipeError:
        # The reader of the output is gone; flushing at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and the parser of each command."""
    parser = argparse.ArgumentParser(
        prog="genmeter", description="The instrument panel for LLM generation jobs."
    )
    parser.add_argument("--version", action="version", version=f"genmeter {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, command in _COMMANDS.items():
        description = f"{command.HELP[:1].upper()}{command.HELP[1:]}."
        parsers[name] = commands.add_parser(name, help=command.HELP, description=description)
        command.add_arguments(parsers[name])
    return parser, parsers
