"""Draw the plots of a simulated job into a folder, for docs/plots.md and for review.

The job is the demo's, recorded at simulated times; equal arguments give equal pictures::

    python tools/draw_plots.py build/plots --hours 2 --rate 3
"""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from pathlib import Path
from unittest import mock

from genmeter import clock
from genmeter.call import handle, streams
from genmeter.cli.demo.simulate import Job, Plan
from genmeter.testing import isolated_monitor

START = datetime(2026, 3, 9, 8, 30).astimezone().timestamp()


def main() -> None:
    """Draw the plots, and print the names of the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="the folder; created if missing")
    parser.add_argument("--hours", type=float, default=2.0, help="duration of the job")
    parser.add_argument("--rate", type=float, default=3.0, help="calls per second, on average")
    parser.add_argument("--failing", default="", metavar="MODEL=SHARE", help="a model that fails")
    parser.add_argument("--size", type=float, nargs=2, default=(9.0, 4.5), help="inches")
    arguments = parser.parse_args()
    model, _, share = arguments.failing.partition("=")
    failing = {model: float(share)} if model else {}
    logging.getLogger("genmeter").setLevel(logging.ERROR)
    seconds = arguments.hours * 3600
    with isolated_monitor() as monitor:
        job = Job(Plan(duration=seconds, rate=arguments.rate, seed=7, failing=failing), monitor)

        def now() -> float:
            return START + job.now

        with (
            mock.patch.object(clock, "now", now),
            mock.patch.object(handle, "perf_counter", now),
            mock.patch.object(streams, "perf_counter", now),
        ):
            job.advance(seconds)
            job.cancel()
        monitor.visualize_metrics(arguments.folder, figsize=tuple(arguments.size))
    for file in sorted(arguments.folder.glob("*.png")):
        print(file)


if __name__ == "__main__":
    main()
