"""``genmeter render reference``: every metric, indicator and alert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.cli._render_output import add_output_arguments, put
from genmeter.render.docs import render_reference

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "the reference of metrics, indicators and alerts, as Markdown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The parser of this kind.
    """
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Render the reference.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 1 where a file that is checked differs.

    Raises:
        ConfigError: The file to compare with cannot be read.
        ExportError: The output cannot be written.
    """
    return put(render_reference(), args)
