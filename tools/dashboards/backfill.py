"""Simulate an hour of the demo's job, as blocks that a Prometheus can serve.

The job records with a real monitor at simulated times, and every simulated scrape is written::

    python tools/dashboards/backfill.py build/prometheus --scenario failing
    prometheus --storage.tsdb.path=build/prometheus --config.file=/dev/null

Scenarios: `normal`; `failing`, in whose second half one model and a log handler fail, and invalid
and unpriced calls are recorded; `empty`, a monitor without events. Equal arguments give equal data.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from genmeter import clock
from genmeter.call import handle, streams
from genmeter.cli.demo.simulate import CUSTOM_METRICS, MODELS, PRICES, SCORE_SCALES, Job, Plan
from genmeter.config.monitor import MonitorConfig
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TextIO

    from genmeter import GenerationMonitor

SCENARIOS = ("normal", "failing", "empty")
FAILING = {"atlas-large": 0.65}
UNPRICED = "nova-preview"
FAULT_EVERY = 20.0  # seconds
MINUTE = 60.0
# Types whose series start at zero if Prometheus knows when they were created.
COUNTING = (" counter", " histogram")
CREATED = re.compile(r"\w+_created[{ ]")


@contextmanager
def simulated_time(now: Callable[[], float]) -> Iterator[None]:
    """Let the monitor see a simulated Unix time, also for its handles and streams."""
    with (
        mock.patch.object(clock, "now", new=now),
        mock.patch.object(handle, "perf_counter", now),
        mock.patch.object(streams, "perf_counter", now),
    ):
        yield


def advance(job: Job, until: float, scenario: str, handler: BreakingHandler) -> None:
    """Record everything up to a time.

    Args:
        job: The job.
        until: Seconds since the job began.
        scenario: One of `SCENARIOS`.
        handler: The monitor's log handler.
    """
    if scenario == "empty":
        job.now = until
        return
    if scenario == "failing":
        faults = itertools.count(job.plan.duration / 2, FAULT_EVERY)
        for at in itertools.takewhile(lambda at: at <= until, faults):
            if at > job.now:
                job.advance(at)
                job.plan = dataclasses.replace(job.plan, failing=FAILING)
                handler.is_full = True
                record_faults(job.monitor)
    job.advance(until)


def record_faults(monitor: GenerationMonitor) -> None:
    """Record an invalid call, an unpriced call and a message that the handler fails on."""
    monitor.track_generation(math.nan, True, model_name=MODELS[0].name)
    monitor.track_generation(
        1.5,
        True,
        model_name=UNPRICED,
        provider="nova",
        prompt_token_count=900,
        cache_write_token_count=512,
        completion_token_count=250,
        finish_reason="stop",
        metadata={"operation": "answer_generation"},
    )
    monitor.log_warning("the store answers slowly")


class BreakingHandler:
    """A log handler that fails on warnings while its disk is full."""

    def __init__(self) -> None:
        self.is_full = False

    def handle_log(self, message: dict[str, Any]) -> None:
        """Raise for a warning while the disk is full."""
        if self.is_full and message["level"] == "warning":
            raise OSError(f"no space left for {message['message']!r}")


class Recording:
    """An OpenMetrics file of consecutive scrapes.

    Args:
        file: The output.
        labels: The target's labels, added to every series.
    """

    def __init__(self, file: TextIO, labels: Mapping[str, str]) -> None:
        self._file = file
        self._labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        self._seen: set[str] = set()
        self._last_at: float | None = None

    def add(self, page: str, at: float) -> None:
        """Add a scrape.

        Args:
            page: OpenMetrics without exemplars, since the job has no traces.
            at: Unix time in seconds.
        """
        is_counting, count = False, 0
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                is_counting = line.endswith(COUNTING)
            # Prometheus reads the start of a series from these, and drops them.
            if line.startswith("#") or (is_counting and CREATED.match(line)):
                continue
            series, _, value = line.rpartition(" ")
            is_new = series not in self._seen
            self._seen.add(series)
            if is_new and is_counting and self._last_at is not None:
                self._write(series, "0", self._last_at)
            self._write(series, value, at)
            count += 1
        # Prometheus adds these; the duration is derived from the size of the page.
        self._write("up", "1", at)
        self._write("scrape_samples_scraped", str(count), at)
        self._write("scrape_duration_seconds", f"{0.004 + count * 2e-5:.6f}", at)
        self._last_at = at

    def close(self) -> None:
        """Write the end of the file."""
        self._file.write("# EOF\n")

    def _write(self, series: str, value: str, at: float) -> None:
        labelled = f"{series[:-1]}," if series.endswith("}") else f"{series}{{"
        self._file.write(f"{labelled}{self._labels}}} {value} {at:.3f}\n")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def record(
    file: TextIO,
    *,
    scenario: str = "normal",
    end: float,
    seconds: float = 3600.0,
    step: float = 15.0,
    rate: float = 20.0,
    seed: int = 1,
    labels: Mapping[str, str],
) -> int:
    """Simulate the job and write its scrapes.

    Args:
        file: An OpenMetrics file for `promtool tsdb create-blocks-from openmetrics`.
        scenario: One of `SCENARIOS`.
        end: Unix time of the last scrape, in seconds.
        seconds: Duration of the job up to then.
        step: Seconds between two scrapes.
        rate: Calls of models per second.
        seed: Seed of the job.
        labels: The target's labels.

    Returns:
        The number of scrapes.
    """
    plan = Plan(duration=seconds, rate=rate, seed=seed)
    is_empty = scenario == "empty"
    config = MonitorConfig(
        models=() if is_empty else tuple(model.name for model in MODELS),
        # The hour is two thirds of the job.
        expected_samples=None if is_empty else round(plan.expected_samples * 1.5),
        prices=PRICES,
        score_scales=SCORE_SCALES,
        custom_metrics=CUSTOM_METRICS,
    )
    began = end - seconds
    job: Job | None = None
    handler = BreakingHandler()
    recording = Recording(file, labels)
    count = round(seconds / step)
    with (
        simulated_time(lambda: began + (job.now if job is not None else 0.0)),
        isolated_monitor(
            config,
            metrics_interval=0,
            alert_handlers=[lambda _alert: None],
            log_handlers=[handler],
        ) as monitor,
    ):
        job = Job(plan, monitor)
        for number in range(count + 1):
            advance(job, number * step, scenario, handler)
            if number * step % MINUTE < step:
                monitor.check_alerts()
            monitor.flush()
            recording.add(monitor.page(openmetrics=True), began + number * step)
    recording.close()
    return count + 1


def main() -> int:
    """Create the blocks."""
    args = _arguments().parse_args()
    if args.seconds < 2 * args.step:
        print(f"--seconds must be at least two steps, got {args.seconds:g}", file=sys.stderr)
        return 2
    promtool = shutil.which("promtool")
    if promtool is None:
        print("promtool is not installed: run `make servers`", file=sys.stderr)
        return 2
    # The job's messages would appear on the terminal.
    logging.disable(logging.CRITICAL)
    end = args.end if args.end is not None else time.time()
    labels = {"job": args.job, "instance": args.instance}
    with tempfile.TemporaryDirectory() as folder:
        pages = args.openmetrics or Path(folder) / "pages.om"
        with pages.open("w") as file:
            count = record(
                file,
                scenario=args.scenario,
                end=end // args.step * args.step,
                seconds=args.seconds,
                step=args.step,
                rate=args.rate,
                seed=args.seed,
                labels=labels,
            )
        args.out.mkdir(parents=True, exist_ok=True)
        command = [
            promtool,
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            "--quiet",
            pages,
            args.out,
        ]
        subprocess.run(command, check=True)
    print(f"{count} scrapes of the {args.scenario} job in {args.out}")
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, metavar="FOLDER", help="the data folder of a Prometheus")
    add("--scenario", choices=SCENARIOS, default="normal", help="default: %(default)s")
    add("--end", type=float, metavar="UNIX", help="time of the last scrape (default: now)")
    add("--seconds", type=float, default=3600.0, help="duration (default: %(default)g)")
    add("--step", type=float, default=15.0, help="seconds between scrapes (default: %(default)g)")
    add("--rate", type=float, default=20.0, help="calls per second (default: %(default)g)")
    add("--seed", type=int, default=1, help="default: %(default)s")
    add("--job", default="genmeter", help="the job label (default: %(default)s)")
    add("--instance", default="127.0.0.1:9464", help="the instance label (default: %(default)s)")
    add("--openmetrics", type=Path, metavar="FILE", help="keep the pages in this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
