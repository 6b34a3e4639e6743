"""The command line: ``genmeter COMMAND``. Each command is a module of its own."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Protocol

from genmeter._version import __version__
from genmeter.cli import render, report, run
from genmeter.cli.demo import command as demo
from genmeter.errors import GenmeterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["main"]


class Command(Protocol):
    """What a command's module has."""

    HELP: str
    """One line for the list of commands."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; gives the exit code."""


_COMMANDS: Mapping[str, Command] = {
    "demo": demo,
    "render": render,
    "report": report,
    "run": run,
}
_USAGE_ERROR = 2  # argparse's own
_BROKEN_PIPE = 128 + 13  # what a shell says of a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments, those of the process by default.

    Returns:
        The exit code: 0, 2 where something cannot be used, or the command's own.

    Raises:
        SystemExit: After ``--help``, ``--version`` and arguments that cannot be used.
    """
    parser, parsers = _parsers()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        # parse_args() would show the usage that has no options.
        parsers[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    command = _COMMANDS[args.command]
    try:
        return command.run(args)
    except GenmeterError as error:
        sys.stderr.write(f"genmeter {args.command}: error: {error}\n")
        return _USAGE_ERROR
    except BrokenPipeError:
        # Who read the output is gone; the interpreter would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Give the parser, and that of each command."""
    parser = argparse.ArgumentParser(
        prog="genmeter", description="The instrument panel for LLM generation jobs."
    )
    parser.add_argument("--version", action="version", version=f"genmeter {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {
        name: commands.add_parser(
            name, help=command.HELP, description=f"{command.HELP[:1].upper()}{command.HELP[1:]}."
        )
        for name, command in _COMMANDS.items()
    }
    for name, command in _COMMANDS.items():
        command.add_arguments(parsers[name])
    return parser, parsers
