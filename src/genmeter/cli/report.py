"""The subcommand: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from genmeter.config.prices import PriceTable
from genmeter.errors import ExportError
from genmeter.files.atomic import AtomicFiles
from genmeter.report.aggregate import GROUP_KEYS, make_report
from genmeter.report.formats import FIELDS, to_csv, to_json
from genmeter.report.sources import read_source
from genmeter.report.table import to_table

if TYPE_CHECKING:
    from genmeter.report.aggregate import Report

__all__ = ["HELP", "add_arguments", "run"]

HELP = "say what a job used: tokens, cost, outcomes and durations by model and step"
_EPILOG = """\
SOURCE is one of
  a journal     metrics.jsonl or the folder that has one, genmeter's or
                AfterImage's; of a folder also what was rotated away
  an export     the .json or .parquet file that export_metrics or save_metrics
                wrote, or the .json of AfterImage; CSV and Excel are not read
  an endpoint   of a running job: http://127.0.0.1:9464/metrics or HOST:PORT,
                with http://user:password@host:9464 where it asks for a login;
                https:// where it has TLS, SSL_CERT_FILE names what to trust

--window counts back from the newest event in the source, not from now. An
endpoint has totals since the job began, so it takes no window, and its p50 and
p95 are estimated from the buckets of a histogram.

Conversations span calls and are counted apart. So are evaluations, but their
tokens and cost are in the report. The cost of an endpoint is by the prices of
the job, unless --prices is given. Elsewhere there is none without --prices.

AfterImage tells no step, and no model of a failed call: these count for the
only model of the source, or for "unknown" where it has several.

Fields of csv and json after the keys of --by; empty or null is unknown:
"""
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MOST_WINDOW = timedelta(days=36_500)


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
        ConfigError: The source or the prices cannot be used.
        ExportError: An export cannot be read, or the output cannot be written.
        MissingExtraError: A package is absent that the source or the prices need.
    """
    prices = PriceTable.coerce(args.prices)
    report = make_report(read_source(args.source, args.window), args.by, prices, args.window)
    is_printed = args.output is None
    text = f"{_render(report, args.format, _terminal_width() if is_printed else None)}\n"
    if not is_printed:
        _write(args.output, text)
    else:
        _print(text)
    if args.format != "table" or not is_printed:
        told = [*report.notes]
        if report.unpriced:
            told.append(f"Without a price, so not in the cost: {', '.join(report.unpriced)}.")
        if report.is_empty():
            told.insert(0, "Nothing to report: the source has no call that counts.")
        for line in told:
            sys.stderr.write(f"genmeter report: {_on_one_line(line)}\n")
    return 0


def _render(report: Report, form: str, width: int | None) -> str:
    match form:
        case "json":
            return to_json(report)
        case "csv":
            return to_csv(report)
        case _:
            return to_table(report, width)


def _terminal_width() -> int | None:
    """Give the columns to keep to; none where nobody looks at a terminal and none are asked for."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    # A name that the terminal's encoding does not know must not cost the report.
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _write(output: str, text: str) -> None:
    # A link stays one: what it points to is written.
    path = Path(os.path.realpath(output))
    try:
        if path.exists() and not path.is_file():
            raise ExportError(
                f"output={output!r} is no regular file; give another path, or none for standard "
                "output"
            )
        with AtomicFiles() as files:
            files.stage(path).write_text(text, encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise ExportError(
            f"output={output!r} cannot be written: {error.strerror or error}; give another path"
        ) from error


def _on_one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    if not set(keys) <= set(GROUP_KEYS) or len(set(keys)) < len(keys):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used; give some of {', '.join(GROUP_KEYS)}, each once, with "
            "commas between them"
        )
    return keys


def _window(text: str) -> timedelta:
    found = _WINDOW.fullmatch(text)
    try:
        window = timedelta(**{_UNITS[found[2]]: float(found[1])}) if found else timedelta()
    except OverflowError:
        window = timedelta()
    if not timedelta() < window <= _MOST_WINDOW:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used; give a number of at most 100 years with its unit, such as "
            "30s, 15m, 1h or 7d"
        )
    return window
