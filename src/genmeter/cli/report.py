"""``genmeter report``: report the usage of a job from its journal, an export or its endpoint."""

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
from genmeter.report.formats import (
    FIELDS,
    estimate_notes,
    printable,
    to_csv,
    to_json,
    to_table,
    unpriced_note,
)
from genmeter.report.sources import read_source
from genmeter.report.usage_table import GROUP_KEYS

if TYPE_CHECKING:
    from genmeter.report.usage_table import UsageTable

__all__ = ["HELP", "add_arguments", "run"]

HELP = "report the tokens, cost, outcomes and durations of a job by model and step"
_EPILOG = """\
SOURCE is one of
  a journal     metrics.jsonl of genmeter or AfterImage, or its folder, which
                includes rotated files
  an export     a .json or .parquet file of export_metrics or save_metrics, or
                a .json file of AfterImage; CSV and Excel are not supported
  an endpoint   of a running job: HOST:PORT or http://127.0.0.1:9464/metrics;
                with a login http://user:password@host:9464, with TLS https://
                (SSL_CERT_FILE is the certificate to trust)

--window is counted back from the newest event in the source, not from now. It
cannot be used with an endpoint, which only has totals since the job began. The
p50 and p95 of an endpoint are estimated from a histogram.

Conversations and evaluations are not counted as calls, but the tokens and cost
of evaluations are included. Costs are those that the job recorded, each call
priced when it ended; --prices prices each call of a journal or an export again
(costs that a provider reported stand), and the sums of an endpoint.

A call without usage is one whose tokens are unknown: they are missing in the
sums, and so is their cost.

AfterImage records no steps, and no model for failed calls: they are reported
for the only model of the source, or for "unknown" if it has several.

Fields of csv and json after the keys of --by; empty or null means unknown:
"""
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_WINDOW = timedelta(days=36_500)
_LARGE = 8 * 2**20  # bytes; smaller files need no progress bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
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
        help=f"group by some of {','.join(GROUP_KEYS)} (default: model,step)",
    )
    add(
        "--window",
        type=_window,
        metavar="TIME",
        help="only the time before the newest event, such as 30s, 15m, 1h or 7d",
    )
    add(
        "--prices",
        action="append",
        metavar="FILE",
        help="JSON or TOML file with USD per million tokens by model, or genai-prices; if given "
        "several times, the first with a price wins",
    )
    add("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    add("--output", metavar="FILE", help="write to this file instead of standard output")


def run(args: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        ConfigError: The source or the prices are invalid.
        ExportError: An export cannot be read, or the output cannot be written.
        MissingExtraError: A package that the source or the prices need is not installed.
    """
    prices = PriceTable.coerce(_prices(args.prices))
    table = _read(args.source, args.window, prices)
    if args.output is None:
        _print(f"{_render(table, args)}\n")
    else:
        write_files({Path(args.output): f"{_render(table, args)}\n"}, "--output", args.output)
    if args.format != "table" or args.output is not None:
        notes = [*table.notes]
        if table.unpriced:
            notes.append(unpriced_note(table))
        notes += estimate_notes(table)
        if table.is_empty():
            notes.insert(0, "Nothing to report: the source has no calls.")
        for note in notes:
            sys.stderr.write(f"genmeter report: {printable(note)}\n")
    return 0


def _prices(given: list[str] | None) -> str | list[str] | None:
    # The error on the only one has no index.
    return given[0] if given and len(given) == 1 else given


def _read(source: str, window: timedelta | None, prices: PriceTable | None) -> UsageTable:
    """Read a source; a large one with a progress bar if standard error is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task("reading", visible=False)
        return read_source(
            source,
            window,
            lambda done, total: bar.update(
                task, completed=done, total=total, visible=total >= _LARGE
            ),
            prices,
        )


def _render(table: UsageTable, args: argparse.Namespace) -> str:
    if args.format == "json":
        return to_json(table, args.by)
    if args.format == "csv":
        return to_csv(table, args.by)
    if args.output is not None:
        return to_table(table, args.by)
    is_terminal = sys.stdout.isatty()
    # A pipe is unlimited unless COLUMNS is set.
    is_limited = is_terminal or os.environ.get("COLUMNS")
    width = shutil.get_terminal_size().columns if is_limited else None
    return to_table(table, args.by, width, is_terminal=is_terminal)


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    # A name outside of the terminal's encoding must not fail the report.
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    if not set(keys) <= set(GROUP_KEYS) or len(set(keys)) < len(keys):
        raise argparse.ArgumentTypeError(
            f"must be comma-separated keys of {', '.join(GROUP_KEYS)}, each at most once, got "
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
            f"must be a number with a unit, such as 30s, 15m, 1h or 7d, and at most 100 years, "
            f"got {text!r}"
        )
    return window
