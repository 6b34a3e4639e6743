"""Runs all benchmarks, and prints the machine, the tables and the aims."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import call
import cpu
import export
import job
import journal
import memory
import pages
import peers
import report
import scrape
import spans
import stream
import usage
import watch
from _machine import processor
from _page import write_figures
from _table import markdown_of, print_aims, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

BENCHMARKS = (
    *(call, usage, stream, spans, watch, cpu, memory, report, scrape, pages, job, journal),
    export,
)
PEERS = peers.__name__
PACKAGES = (
    *("opentelemetry-sdk", "opentelemetry-exporter-prometheus", "prometheus-client", "afterimage"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*(each.__name__ for each in BENCHMARKS), PEERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    peers.add_arguments(parser)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    print(about())
    print(
        "Times and CPU are the minimum of several rounds. Ratios are relative to the first subject"
    )
    print("of the group: the median over the rounds.")
    found = []
    for benchmark in BENCHMARKS:
        if benchmark.__name__ in options.only:
            rows = benchmark.run()
            print_table(rows)
            aims = benchmark.aims(rows)
            found += aims
            if options.write and rows:
                write_figures(benchmark.__name__, f"{about()}\n\n{markdown_of(rows, aims)}")
    print_aims(found)
    if PEERS in options.only:
        peers.report(peers.measure(options), write=options.write)
    print(f"\n{time.monotonic() - start:.0f} s in total")


def about() -> str:
    """Return the day, the machine and its load, and the versions."""
    return (
        f"{datetime.now(UTC):%-d %B %Y}, {os.cpu_count()} cores of {processor()}, "
        f"{platform.python_implementation()} {platform.python_version()}; "
        f"load {os.getloadavg()[0]:.1f} over the minute before; "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + "."
    )


if __name__ == "__main__":
    main()
