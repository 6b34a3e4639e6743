"""Makes an hour of the demo's job at speed, as blocks that a Prometheus can serve.

The job is told to a real monitor under the times that it would have taken, and the monitor's page
is kept each time that Prometheus would have scraped it::

    python tools/dashboards/backfill.py build/prometheus --scenario failing
    prometheus --storage.tsdb.path=build/prometheus --config.file=/dev/null

Scenarios: `normal`; `failing`, in which half way one model begins to fail, a handler too, and the
job tells of what cannot be counted or priced; `empty`, a monitor that nobody tells anything. The
same arguments give the same data.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from genmeter import call as generation
from genmeter import clock
from genmeter.cli.demo.simulate import (
    CUSTOM_METRICS,
    MODELS,
    PRICES,
    SCORE_SCALES,
    Begin,
    End,
    Plan,
    Simulator,
)
from genmeter.config.monitor import MonitorConfig
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

    from genmeter import GenerationMonitor
    from genmeter.call import GenerationHandle
    from genmeter.cli.demo.simulate import Action

SCENARIOS = ("normal", "failing", "empty")
FAILING = {"atlas-large": 0.65}
UNPRICED = "nova-preview"
FAULT_EVERY = 20.0  # seconds
MINUTE = 60.0
# Whose series begin at zero, where Prometheus takes in when they were created.
COUNTING = (" counter", " histogram")
CREATED = re.compile(r"\w+_created[{ ]")


class Clock:
    """The time that the monitor sees.

    Args:
        now: Unix time in seconds.
    """

    def __init__(self, now: float) -> None:
        self.now = now

    def read(self) -> float:
        """Give the Unix time in seconds."""
        return self.now

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the monitor see it: its events' times, and how long its handles were open."""
        stopwatch = SimpleNamespace(perf_counter=self.read)
        with (
            mock.patch.object(clock, "now", new=self.read),
            mock.patch.object(generation, "time", stopwatch),
        ):
            yield


class Script:
    """What the job does, a scenario's second half included.

    Args:
        scenario: One of `SCENARIOS`.
        plan: The job, of which ``failing`` counts for the second half only.
        monitor: Whom it tells.
        now: The monitor's clock.
        handler: The monitor's log handler.
    """

    def __init__(
        self,
        scenario: str,
        plan: Plan,
        monitor: GenerationMonitor,
        now: Clock,
        handler: BreakingHandler,
    ) -> None:
        self._is_failing = scenario == "failing"
        self._is_empty = scenario == "empty"
        self._plan = plan
        self._monitor = monitor
        self._clock = now
        self._handler = handler
        self._began = now.now
        self._simulator = Simulator(plan.seed, plan.rate)
        self._simulated_from = 0.0
        self._next_fault = plan.duration / 2
        self._open: dict[int, GenerationHandle] = {}

    def advance(self, until: float) -> None:
        """Tell what happens up to a time.

        Args:
            until: Seconds since the job began.
        """
        if self._is_empty:
            return
        if self._is_failing and self._simulated_from == 0.0 and until > self._plan.duration / 2:
            self._turn()
        for action in self._simulator.step(until - self._simulated_from):
            self._clock.now = self._began + self._simulated_from + action.at
            self._tell(action)
        while self._is_failing and self._next_fault <= until:
            self._clock.now = self._began + max(self._next_fault, self._clock.now - self._began)
            self._fault()
            self._next_fault += FAULT_EVERY

    def _turn(self) -> None:
        """Go on with a job in which a model fails."""
        for action in self._simulator.finish():
            self._tell(action)
        self._handler.is_full = True
        self._simulated_from = self._plan.duration / 2
        self._simulator = Simulator(self._plan.seed + 1, self._plan.rate, self._plan.failing)

    def _tell(self, action: Action) -> None:
        if isinstance(action, Begin):
            self._open[action.number] = self._monitor.generation(**action.kwargs).__enter__()
        elif isinstance(action, End):
            handle = self._open.pop(action.number)
            handle.usage(**action.tokens)
            if action.error is not None:
                handle.fail(action.error)
            handle.__exit__(None, None, None)
        else:
            getattr(self._monitor, action.method)(*action.args, **action.kwargs)

    def _fault(self) -> None:
        """Tell what the monitor must leave out, cannot price, and has a broken handler for."""
        self._monitor.track_generation(math.nan, True, model_name=MODELS[0].name)
        self._monitor.track_generation(
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
        self._monitor.log_warning("the store answers slowly")


class BreakingHandler:
    """A log handler that cannot write warnings once its disk is full.

    Attributes:
        is_full: Whether it is.
    """

    def __init__(self) -> None:
        self.is_full = False

    def handle_log(self, message: dict[str, Any]) -> None:
        """Fail, or do nothing."""
        if self.is_full and message["level"] == "warning":
            raise OSError(f"no space left for {message['message']!r}")


class Recording:
    """An OpenMetrics file of many scrapes, one below the other.

    Args:
        file: Where to.
        labels: The target's labels, put on every series.
    """

    def __init__(self, file: TextIO, labels: Mapping[str, str]) -> None:
        self._file = file
        self._labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        self._born: set[str] = set()
        self._last_at: float | None = None

    def add(self, page: str, at: float) -> None:
        """Add a scrape.

        Args:
            page: OpenMetrics, without exemplars: nobody traces the made-up job.
            at: Unix time in seconds.
        """
        is_counting, count = False, 0
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                is_counting = line.endswith(COUNTING)
            # Prometheus reads when a series was created from these, and drops them.
            if line.startswith("#") or (is_counting and CREATED.match(line)):
                continue
            series, _, value = line.rpartition(" ")
            is_new = series not in self._born
            self._born.add(series)
            if is_new and is_counting and self._last_at is not None:
                self._write(series, "0", self._last_at)
            self._write(series, value, at)
            count += 1
        # What Prometheus adds of its own; the duration is made up from the page's size.
        self._write("up", "1", at)
        self._write("scrape_samples_scraped", str(count), at)
        self._write("scrape_duration_seconds", f"{0.004 + count * 2e-5:.6f}", at)
        self._last_at = at

    def close(self) -> None:
        """Write the end."""
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
    """Play the job and write its scrapes.

    Args:
        file: An OpenMetrics file for `promtool tsdb create-blocks-from openmetrics`.
        scenario: One of `SCENARIOS`.
        end: Unix time of the last scrape, in seconds.
        seconds: How long the job has run by then.
        step: Seconds between two scrapes.
        rate: Calls of models a second.
        seed: Seed of all that is left to chance.
        labels: The target's labels.

    Returns:
        How many scrapes there are.
    """
    plan = Plan(duration=seconds, rate=rate, seed=seed, failing=FAILING)
    is_empty = scenario == "empty"
    config = MonitorConfig(
        models=() if is_empty else tuple(model.name for model in MODELS),
        # The hour is the first two thirds of the job.
        expected_samples=None if is_empty else round(plan.expected_samples * 1.5),
        prices=PRICES,
        score_scales=SCORE_SCALES,
        custom_metrics=CUSTOM_METRICS,
    )
    now = Clock(end - seconds)
    handler = BreakingHandler()
    recording = Recording(file, labels)
    count = round(seconds / step)
    with ExitStack() as stack:
        stack.enter_context(now.in_place())
        monitor = stack.enter_context(
            isolated_monitor(
                config,
                metrics_interval=0,
                alert_handlers=[lambda _alert: None],
                log_handlers=[handler],
            )
        )
        script = Script(scenario, plan, monitor, now, handler)
        for number in range(count + 1):
            script.advance(number * step)
            now.now = end - seconds + number * step
            if number * step % MINUTE < step:
                monitor.check_alerts()
            monitor.flush()
            recording.add(monitor.page(openmetrics=True), now.now)
    recording.close()
    return count + 1


def main() -> int:
    """Make the blocks."""
    asked = _arguments().parse_args()
    if asked.seconds < 2 * asked.step:
        print(f"--seconds {asked.seconds:g}: give at least two steps", file=sys.stderr)
        return 2
    promtool = shutil.which("promtool")
    if promtool is None:
        print("promtool is not installed: run `make servers`", file=sys.stderr)
        return 2
    # What the made-up job logs would go to the screen.
    logging.disable(logging.CRITICAL)
    end = asked.end if asked.end is not None else time.time()
    labels = {"job": asked.job, "instance": asked.instance}
    with tempfile.TemporaryDirectory() as folder:
        pages = asked.openmetrics or Path(folder) / "pages.om"
        with pages.open("w") as file:
            count = record(
                file,
                scenario=asked.scenario,
                end=end // asked.step * asked.step,
                seconds=asked.seconds,
                step=asked.step,
                rate=asked.rate,
                seed=asked.seed,
                labels=labels,
            )
        asked.out.mkdir(parents=True, exist_ok=True)
        command = [
            promtool,
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            "--quiet",
            pages,
            asked.out,
        ]
        subprocess.run(command, check=True)
    print(f"{count} scrapes of the {asked.scenario} job in {asked.out}")
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, metavar="FOLDER", help="the data folder of a Prometheus")
    add("--scenario", choices=SCENARIOS, default="normal", help="default: %(default)s")
    add("--end", type=float, metavar="UNIX", help="time of the last scrape (default: now)")
    add("--seconds", type=float, default=3600.0, help="how long (default: %(default)g)")
    add("--step", type=float, default=15.0, help="seconds between scrapes (default: %(default)g)")
    add("--rate", type=float, default=20.0, help="calls a second (default: %(default)g)")
    add("--seed", type=int, default=1, help="default: %(default)s")
    add("--job", default="genmeter", help="the job label (default: %(default)s)")
    add("--instance", default="127.0.0.1:9464", help="the instance label (default: %(default)s)")
    add("--openmetrics", type=Path, metavar="FILE", help="keep the pages in this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
