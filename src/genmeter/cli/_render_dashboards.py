"""``genmeter render dashboards``: its arguments, and the folder that it fills or compares."""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.config.alerts import AlertSettings
from genmeter.errors import ConfigError, ExportError
from genmeter.files.atomic import AtomicFiles
from genmeter.render.grafana.files import render_dashboards

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

__all__ = ["HELP", "add_arguments", "run"]

HELP = "the dashboards for Grafana"
_DIFFERS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The parser of this kind.
    """
    add = parser.add_argument
    add(
        "--out",
        metavar="DIR",
        default="dashboards",
        help="the folder for the files, made where it is not there (default: dashboards)",
    )
    add(
        "--check",
        action="store_true",
        help="write nothing: show how the files in DIR differ, and exit 1 if they do",
    )
    add(
        "--settings",
        "--thresholds",
        metavar="FILE",
        help="TOML file of the alerts' settings, as for the rules, whose thresholds are drawn",
    )
    add("--selector", metavar="MATCHERS", help="matchers for every query, such as 'cluster=\"a\"'")


def run(args: argparse.Namespace) -> int:
    """Render the dashboards.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 1 where a file that is checked differs.

    Raises:
        ConfigError: An option or the settings' file cannot be used, or a file cannot be read.
        ExportError: A file cannot be written.
        MissingExtraError: grafana-foundation-sdk is not installed.
    """
    settings = AlertSettings() if args.settings is None else AlertSettings.from_file(args.settings)
    if args.selector is not None:
        settings = replace(settings, selector=args.selector)
    files, folder = render_dashboards(settings), Path(args.out)
    return _compare(files, folder) if args.check else _write(files, folder)


def _compare(files: Mapping[str, str], folder: Path) -> int:
    differs = False
    for name, text in files.items():
        path = folder / name
        try:
            found = path.read_bytes().decode() if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--check: {str(path)!r} cannot be read: {error}") from error
        differs = differs or found != text
        old, new = (each.splitlines(keepends=True) for each in (found, text))
        made = f"{path} (as it would be rendered)"
        sys.stdout.writelines(difflib.unified_diff(old, new, str(path), made))
    return _DIFFERS if differs else 0


def _write(files: Mapping[str, str], folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with AtomicFiles() as atomic:
            for name, text in files.items():
                atomic.stage(folder / name).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ExportError(
            f"--out {str(folder)!r} cannot be written: {error.strerror or error}; give another "
            "folder"
        ) from error
    for name in files:
        sys.stdout.write(f"{folder / name}\n")
    return 0
