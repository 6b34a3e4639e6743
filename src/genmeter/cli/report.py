"""``genmeter report``: report the usage of jobs from their journals, exports and endpoints."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING

from genmeter.cli._arguments import checked
from genmeter.cli._files import write_files, write_output
from genmeter.config.checks import count, number
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError
from genmeter.report.comparison import Comparison, Run
from genmeter.report.details import Details
from genmeter.report.formats import FIELDS, all_notes, printable, to_csv, to_json, to_table
from genmeter.report.sources import read_sources, source_name
from genmeter.report.usage_table import GROUP_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from genmeter.report.page import Limit
    from genmeter.report.usage_table import UsageTable

__all__ = ["HELP", "add_arguments", "run"]

HELP = "report the tokens, cost, outcomes and durations of jobs by model and step"
_EPILOG = """\
SOURCE is one of
  a journal     metrics.jsonl of genmeter or AfterImage, or a folder: all
                journals in it at any depth, with their rotated files
  an export     a .json or .parquet file of export_metrics or save_metrics, or
                a .json file of AfterImage; CSV and Excel are not supported
  an endpoint   of a running job: HOST:PORT or http://127.0.0.1:9464/metrics;
                with a login http://user:password@host:9464, with TLS https://
                (SSL_CERT_FILE is the certificate to trust)
  a fleet       prometheus=http://HOST:9090, a Prometheus or a VictoriaMetrics:
                the samples of --window, counted back from now; with a login
                in the address, or GENMETER_PROMETHEUS_TOKEN (docs/fleet.md)
  a pattern     of paths, quoted: 'runs/*/metrics.jsonl', 'runs/**/*.json'

Several sources are added up. A file or an endpoint that is given twice counts
once. A job that is both in a journal and at an endpoint or in a fleet counts
twice, as does a target that two fleets have; the report says so if both name
the same job (GENMETER_JOB, OTEL_SERVICE_NAME) or target.

--by process shows the processes of a journal as HOST:PID, and an endpoint by
its address; --by job shows the names of jobs.

--compare takes each SOURCE as a run, the first of which the others are
compared with. Better and worse are said of cost, failures and durations, where
both numbers are exact. A window is counted back for each run by itself.

--html FILE writes a page too: one file with plots, which loads nothing, so that
it can be sent. It has what the sources have beside the sums: calls over time,
errors, first-chunk times, scores, progress, alerts; and says what they lack. It
names models, steps, jobs, hosts and paths, and has no texts of errors. It needs
genmeter[plots].

--window is counted back from the newest event in all sources, not from now,
except for a fleet, which needs it. It cannot be used with an endpoint, which
only has totals since the job began. The p50 and p95 of an endpoint or a fleet
are estimated from a histogram.

Conversations and evaluations are not counted as calls, but the tokens and cost
of evaluations are included. Costs are those that the job recorded, each call
priced when it ended; --prices prices each call of a journal or an export again
(costs that a provider reported stand), and the sums of an endpoint.

A call without usage is one whose tokens are unknown: they are missing in the
sums, and so is their cost. A note says what else is missing: rotated files
that were deleted, invalid lines, a process that died. If it is an endpoint
or a fleet that did not answer, the report comes without it, and the exit code
is 3.

AfterImage records no steps, and no model for failed calls: they are reported
for the only model of the source, or for "unknown" if it has several.

Exit codes:
  0   the report was written
  2   an argument or a source is invalid, or no source could be read
  3   the numbers of an endpoint or a fleet that did not answer are missing
  4   the sum is over --fail-over-tokens or --fail-over-cost

Fields of csv and json after the keys of --by; empty or null means unknown:
"""
_MISSING = 3
_OVER = 4
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_WINDOW = timedelta(days=36_500)
_PAGE_SUFFIXES = (".html", ".htm")
_LARGE = 8 * 2**20  # bytes; smaller files need no progress bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    fields = "\n".join(f"  {name:<22} {text}" for name, text in FIELDS.items())
    parser.epilog = f"{_EPILOG}{fields}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a journal, a folder, an export, the address of an endpoint, or a pattern",
    )
    add(
        "--by",
        type=_keys,
        metavar="KEYS",
        help=f"group by some of {','.join(GROUP_KEYS)} (default: model,step; with --compare: model)",
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
    add(
        "--fail-over-tokens",
        type=checked(count()),
        metavar="N",
        help=f"exit with {_OVER} if the sum of the tokens is over N",
    )
    add(
        "--fail-over-cost",
        type=checked(number(0)),
        metavar="USD",
        help=f"exit with {_OVER} if the sum of the costs is over this many USD",
    )
    add("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    add("--output", metavar="FILE", help="write to this file instead of standard output")
    add(
        "--compare",
        action="store_true",
        help="each SOURCE is a run: show them side by side, and how each differs from the first",
    )
    add(
        "--html",
        type=_page_path,
        metavar="FILE",
        help="write a page to pass around too: one .html file with plots, which loads nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        ConfigError: A source or the prices are invalid, or there is no cost to check.
        ExportError: An export cannot be read, or the output cannot be written.
        MissingExtraError: A package that a source or the prices need is not installed.
    """
    _check_arguments(args)
    prices = PriceTable.coerce(_prices(args.prices))
    if args.compare:
        return _run_comparison(args, prices)
    by = args.by or ("model", "step")
    details = None if args.html is None else Details()
    table = _read(args.sources, args.window, prices, details)
    is_over, limits = _check_limits(table, args.fail_over_tokens, args.fail_over_cost)
    page = None
    if details is not None:
        from genmeter.report.page import usage_page

        names = _source_names(args.sources)
        run = Run("", names, table, details)
        page = usage_page(run, by, limits=_limits_of(table, args))
    _write(args, _render(table, args, by), page)
    notes = []
    if args.format != "table" or args.output is not None:
        if table.is_empty():
            notes.append("Nothing to report: the source has no calls.")
        notes += all_notes(table)
    _say([*notes, *limits])
    if is_over:
        return _OVER
    return _MISSING if table.unread else 0


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError if arguments do not suit each other."""
    if args.compare:
        if len(args.sources) < 2:  # noqa: PLR2004
            raise ConfigError(
                f"--compare needs at least two SOURCEs, each a run, got {args.sources[0]!r}; add another "
                "(a quoted pattern is one run)"
            )
        for option in ("fail_over_tokens", "fail_over_cost"):
            if getattr(args, option) is not None:
                name = f"--{option.replace('_', '-')}"
                raise ConfigError(
                    f"{name} must be omitted with --compare, got {getattr(args, option):g}; check each "
                    "run by itself"
                )
    if args.html is not None and args.output is not None:
        page, output = (os.path.realpath(each) for each in (args.html, args.output))
        if page == output:
            raise ConfigError(
                f"--html and --output must be different files, got {args.html!r} for both; change one"
            )


def _run_comparison(args: argparse.Namespace, prices: PriceTable | None) -> int:
    """Show each source as a run, side by side."""
    from genmeter.report.comparison_formats import to_csv, to_json

    runs = []
    for at, source in enumerate(args.sources):
        details = Details()
        table = _read([source], args.window, prices, details)
        runs.append(Run(_run_name(at), _source_names([source]), table, details))
    comparison = Comparison(runs, args.by or ("model",))
    page = None
    if args.html is not None:
        from genmeter.report.comparison_page import comparison_page

        page = comparison_page(comparison)
    if args.format == "table":
        text = _compared(comparison, args)
    else:
        text = (to_json if args.format == "json" else to_csv)(comparison)
    _write(args, text, page)
    if args.format != "table" or args.output is not None:
        _say([f"{run.name}: {note}" for run in runs for note in all_notes(run.table)])
    return 0


def _compared(comparison: Comparison, args: argparse.Namespace) -> str:
    from genmeter.report.comparison_formats import to_text

    if args.output is not None:
        return to_text(comparison)
    return to_text(comparison, _width(), is_terminal=sys.stdout.isatty())


def _run_name(at: int) -> str:
    """Return the name of a run: A to Z, then A1 and so on."""
    count = len(ascii_uppercase)
    return f"{ascii_uppercase[at % count]}{at // count or ''}"


def _source_names(sources: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(source_name, sources)))


def _write(args: argparse.Namespace, text: str, page: str | None) -> None:
    """Write the page and the report, files first."""
    if page is not None:
        write_files({Path(args.html): page}, "--html", args.html)
    if args.output is None:
        _print(f"{text}\n")
    else:
        write_files({Path(args.output): f"{text}\n"}, "--output", args.output)


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        sys.stderr.write(f"genmeter report: {printable(note)}\n")


def _limits_of(table: UsageTable, args: argparse.Namespace) -> list[Limit]:
    """Return the limits that were checked, for the page."""
    from genmeter.report.page import Limit

    total, limits = table.total(), []
    if (most := args.fail_over_tokens) is not None:
        used = total.total_tokens
        share = used / most if most else None
        text = (f"{most:,} tokens", f"{used:,}")
        limits.append(Limit("--fail-over-tokens", *text, share, used > most, _doubt(table)))
    if (limit := args.fail_over_cost) is not None:
        cost = total.cost or 0.0
        share = cost / limit if limit else None
        text = (f"{limit:,.6g} USD", f"{cost:,.6g}")
        doubt = _doubt(table, is_cost=True)
        limits.append(Limit("--fail-over-cost", *text, share, cost > limit, doubt))
    return limits


def _check_limits(
    table: UsageTable, max_tokens: int | None, max_cost: float | None
) -> tuple[bool, list[str]]:
    """Return whether the sum is over a limit, and what to say about the limits.

    Raises:
        ConfigError: The cost has a limit, and is unknown.
    """
    total = table.total()
    if max_cost is not None and total.cost is None and total.total_tokens:
        raise ConfigError(
            f"--fail-over-cost {max_cost:g} cannot be checked, because no call has a cost; add "
            "--prices FILE or --prices genai-prices"
        )
    tokens, cost = total.total_tokens, total.cost or 0.0
    is_over, notes = False, []
    if max_tokens is not None:
        is_over = tokens > max_tokens
        doubt = _doubt(table)
        if is_over or doubt:
            verb = "are over" if is_over else "are not over"
            notes.append(f"{tokens:,} tokens {verb} --fail-over-tokens {max_tokens:,}{doubt}")
    if max_cost is not None:
        is_costly = cost > max_cost
        doubt = _doubt(table, is_cost=True)
        if is_costly or doubt:
            verb = "are over" if is_costly else "are not over"
            notes.append(f"{cost:,.6g} USD {verb} --fail-over-cost {max_cost:,.6g}{doubt}")
        is_over = is_over or is_costly
    return is_over, notes


def _doubt(table: UsageTable, *, is_cost: bool = False) -> str:
    """Return what is wrong with a sum, to follow it; empty if nothing is known to be."""
    reasons = []
    if without := table.total().calls_without_usage:
        reasons.append(f"calls without usage: {without:,}")
    if is_cost and table.unpriced:
        reasons.append(f"models without a price: {len(table.unpriced):,}")
    is_higher = bool(reasons)
    if not table.is_complete:
        reasons.append("the numbers are incomplete")
    if reasons:
        return f"; the real number {'is' if is_higher else 'may be'} higher ({'; '.join(reasons)})"
    return "; some of it may be counted twice" if table.is_repeated else ""


def _prices(given: list[str] | None) -> str | list[str] | None:
    # The error on the only one has no index.
    return given[0] if given and len(given) == 1 else given


def _read(
    sources: list[str],
    window: timedelta | None,
    prices: PriceTable | None,
    details: Details | None,
) -> UsageTable:
    """Read the sources; large ones with a progress bar if standard error is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_interactive) as bar:
        task = bar.add_task("reading", visible=False)
        return read_sources(
            sources,
            window=window,
            progress=lambda done, total: bar.update(
                task, completed=done, total=total, visible=total >= _LARGE
            ),
            prices=prices,
            on_error="note_servers",
            details=details,
        )


def _render(table: UsageTable, args: argparse.Namespace, by: Sequence[str]) -> str:
    if args.format == "json":
        return to_json(table, by)
    if args.format == "csv":
        return to_csv(table, by)
    if args.output is not None:
        return to_table(table, by)
    return to_table(table, by, _width(), is_terminal=sys.stdout.isatty())


def _width() -> int | None:
    """Return the columns of the output; None is unlimited."""
    # A pipe is unlimited unless COLUMNS is set.
    is_limited = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return shutil.get_terminal_size().columns if is_limited else None


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    # A name outside of the terminal's encoding must not fail the report.
    write_output(text.encode(encoding, "replace").decode(encoding))


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    if not set(keys) <= set(GROUP_KEYS) or len(set(keys)) < len(keys):
        raise argparse.ArgumentTypeError(
            f"must be comma-separated keys of {', '.join(GROUP_KEYS)}, each at most once, got "
            f"{text!r}"
        )
    return keys


def _page_path(text: str) -> str:
    # The name of a journal, as if the option had no value, must not be overwritten.
    if Path(text).suffix.lower() not in _PAGE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"must be a file that ends in .html, got {text!r}")
    return text


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
