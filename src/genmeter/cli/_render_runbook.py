"""``genmeter render runbook``: what each alert means and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.cli._render_output import add_output_arguments, put
from genmeter.config.alerts import AlertSettings
from genmeter.render.docs import render_runbook

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "the runbook of the alerts, as Markdown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The parser of this kind.
    """
    parser.add_argument(
        "--settings", metavar="FILE", help="TOML file of settings, as for the rules"
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Render the runbook.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 1 where a file that is checked differs.

    Raises:
        ConfigError: The settings' file cannot be used.
        ExportError: The output cannot be written.
    """
    return put(render_runbook(AlertSettings.coerce(args.settings)), args)
