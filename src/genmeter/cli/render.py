"""The subcommand: ``genmeter render KIND``. Each kind of file is a module of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from genmeter.cli import _render_dashboards as dashboards_command
from genmeter.cli import _render_reference as reference_command
from genmeter.cli import _render_rules as rules_command
from genmeter.cli import _render_runbook as runbook_command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

__all__ = ["HELP", "add_arguments", "run"]

HELP = "write rules for Prometheus, dashboards for Grafana, or pages about them"


class Kind(Protocol):
    """What the module of a kind of file has."""

    HELP: str
    """One line for the list of kinds."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the kind's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Render it; gives the exit code."""


_KINDS: Mapping[str, Kind] = {
    "dashboards": dashboards_command,
    "reference": reference_command,
    "rules": rules_command,
    "runbook": runbook_command,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds and their arguments.

    Args:
        parser: The subcommand's parser.
    """
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, kind in _KINDS.items():
        kind.add_arguments(
            kinds.add_parser(
                name, help=kind.HELP, description=f"{kind.HELP[:1].upper()}{kind.HELP[1:]}."
            )
        )


def run(args: argparse.Namespace) -> int:
    """Render a kind of file.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 1 where a file that is checked differs.

    Raises:
        ConfigError: An argument, or a file of settings, that cannot be used.
        ExportError: The output cannot be written.
        MissingExtraError: A package is absent that the kind needs.
    """
    return _KINDS[args.kind].run(args)
