"""Runs all benchmarks, and prints the machine, the tables and the aims."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import call
import cpu
import export
import job
import journal
import memory
import pages
import report
import scrape
import spans
import stream
import usage
from _table import print_aims, print_table

BENCHMARKS = (call, usage, stream, spans, cpu, memory, report, scrape, pages, job, journal, export)
PACKAGES = ("opentelemetry-sdk", "opentelemetry-exporter-prometheus", "prometheus-client")


def main() -> None:
    """Run the benchmarks."""
    start = time.monotonic()
    print(f"{platform.python_implementation()} {platform.python_version()}, {_processor()}")
    print(f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} of them busy over the last minute")
    print(", ".join(f"{name} {version(name)}" for name in (*PACKAGES, "afterimage")))
    print(
        "Times and CPU are the minimum of several rounds. Ratios are relative to the first subject"
    )
    print("of the group: the median over the rounds.")
    aims = []
    for benchmark in BENCHMARKS:
        rows = benchmark.run()
        print_table(rows)
        aims += benchmark.aims(rows)
    print_aims(aims)
    print(f"\n{time.monotonic() - start:.0f} s in total")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    main()
