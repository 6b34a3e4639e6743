"""``genmeter report``: what a job used, from its journal, an export or its endpoint."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.cli._files import write_files
from genmeter.config.prices import PriceTable
from genmeter.report.formats import FIELDS, printable, to_csv, to_json, to_table, unpriced_note
from genmeter.report.sources import read_source
from genmeter.report.usage_table import GROUP_KEYS

if TYPE_CHECKING:
    from genmeter.report.usage_table import UsageTable

__all__ = ["HELP", "add_arguments", "run"]

HELP = "report what a job used: tokens, cost, outcomes and durations by model and step"
_EPILOG = """\
SOURCE is one of
  a journal     metrics.jsonl or the folder that has one, genmeter's or
                AfterImage's; of a folder its rotated files too
  an export     the .json or .parquet file that export_metrics or save_metrics
                wrote, or the .json of AfterImage; CSV and Excel are not read
  an endpoint   of a running job: http://127.0.0.1:9464/metrics or HOST:PORT,
                http://user:password@host:9464 if it needs a login, https://
                if it has TLS (SSL_CERT_FILE names the certificate to trust)

--window counts back from the newest event in the source, not from now. An
endpoint has totals since the job began, so it takes no window, and its p50 and
p95 are estimated from the buckets of a histogram.

Conversations span calls and are counted apart. So are evaluations, but their
tokens and cost are in the report. Costs need --prices; an endpoint has those
by the job's own prices, which --prices replaces.

AfterImage records no step, and no model of a failed call: these count for the
only model of the source, or for "unknown" if it has several.

Fields of csv and json after the keys of --by; empty or null is unknown:
"""
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_WINDOW = timedelta(days=36_500)
_LARGE = 8 * 2**20  # bytes; less is read in a moment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The subcommand's parser.
    """
    fields = "\n".join(f"  {name:<22} {text}" for name, text in FIELDS.items())
    parser.epilog = f"{_EPILOG}{fields}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a journal, an export, or the address of an endpoint")
    add(
        "--by",
        type=_keys,
        default=("model", "step"),
        metavar="KEYS",
        help=f"group by these, of {','.join(GROUP_KEYS)} (default: model,step)",
    )
    add(
        "--window",
        type=_window,
        metavar="TIME",
        help="only the last while before the newest event, such as 30s, 15m, 1h or 7d",
    )
    add(
        "--prices",
        metavar="FILE",
        help="JSON or TOML file of USD a million tokens by model, or genai-prices",
    )
    add("--format", choices=("table", "csv", "json"), default="table", help="(default: table)")
    add("--output", metavar="FILE", help="write to this file rather than to standard output")


def run(args: argparse.Namespace) -> int:
    """Make the report.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code.

    Raises:
        ConfigError: The source or the prices are invalid.
        ExportError: An export cannot be read, or the output cannot be written.
        MissingExtraError: A package that the source or the prices need is not installed.
    """
    prices = PriceTable.coerce(args.prices)
    table = _read(args.source, args.window)
    if prices is not None:
        table.apply_prices(prices)
    if args.output is None:
        _print(f"{_render(table, args)}\n")
    else:
        write_files({Path(args.output): f"{_render(table, args)}\n"}, "--output", args.output)
    if args.format != "table" or args.output is not None:
        notes = [*table.notes]
        if table.unpriced:
            notes.append(unpriced_note(table))
        if table.is_empty():
            notes.insert(0, "Nothing to report: the source has no call that counts.")
        for note in notes:
            sys.stderr.write(f"genmeter report: {printable(note)}\n")
    return 0


def _read(source: str, window: timedelta | None) -> UsageTable:
    """Read a source, with a progress bar if it is large and standard error a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    ) as bar:
        task = bar.add_task("reading", visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=total >= _LARGE)

        return read_source(source, window, show)


def _render(table: UsageTable, args: argparse.Namespace) -> str:
    if args.format == "json":
        return to_json(table, args.by)
    if args.format == "csv":
        return to_csv(table, args.by)
    if args.output is not None:
        return to_table(table, args.by)
    is_terminal = sys.stdout.isatty()
    # A pipe has no limit unless COLUMNS sets one.
    is_limited = is_terminal or os.environ.get("COLUMNS")
    width = shutil.get_terminal_size().columns if is_limited else None
    return to_table(table, args.by, width, is_terminal=is_terminal)


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    # A name that the terminal's encoding lacks must not fail the report.
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    if not set(keys) <= set(GROUP_KEYS) or len(set(keys)) < len(keys):
        raise argparse.ArgumentTypeError(
            f"must be some of {', '.join(GROUP_KEYS)}, each once, with commas between them, got "
            f"{text!r}"
        )
    return keys


def _window(text: str) -> timedelta:
    found = _WINDOW.fullmatch(text)
    try:
        window = timedelta(**{_UNITS[found[2]]: float(found[1])}) if found else timedelta()
    except OverflowError:
        window = timedelta()
    if not timedelta() < window <= _MAX_WINDOW:
        raise argparse.ArgumentTypeError(
            f"must be a number with its unit, such as 30s, 15m, 1h or 7d, and at most 100 years, "
            f"got {text!r}"
        )
    return window
