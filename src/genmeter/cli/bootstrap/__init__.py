"""What ``genmeter run`` does in the main process of the job, before the script and after it.

The folder is first on ``PYTHONPATH`` because of its ``sitecustomize.py``.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import sys
from contextlib import suppress
from multiprocessing import util as mp_util
from typing import TYPE_CHECKING, Any

from genmeter import patch, runtime
from genmeter.auto.summary import lines_of
from genmeter.auto.watching import AutoWatch
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import BudgetError, EndpointError, GenmeterError
from genmeter.exporters.settings import PROMETHEUS, ExportSettings
from genmeter.fork_lock import ForkLock
from genmeter.job.amounts import JobError
from genmeter.monitor import GenerationMonitor, job_token_usage
from genmeter.observed import gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.job.job import Job

__all__ = ["BUDGET_EXIT_CODE", "QUIET", "say", "start", "start_in_child"]

BUDGET_EXIT_CODE = 3
"""Exit code of a job that a budget stopped."""

QUIET = "_GENMETER_RUN_QUIET"
"""The variable of ``--quiet``."""
_USAGE_ERROR = 2


def start() -> None:
    """Open the endpoint, watch what calls models, and register the report at exit.

    An invalid setting or a port in use ends the process with exit code 2.
    """
    try:
        # The job's own monitors set the expected samples.
        config = MonitorConfig.from_env(expected_samples=None)
        monitor = _open(config)
    except GenmeterError as error:
        say(f"genmeter run: error: {error}")
        # After an exception Python would run the script all the same.
        os._exit(_USAGE_ERROR)
    patch.install()
    run = _Run(config, monitor)
    if run.has_budget:
        sys.excepthook = functools.partial(run.on_error, sys.excepthook)
    run.watch.start()
    # Runs before the monitor's hook, and after those of the script, which may still record.
    atexit.register(run.finish)
    if monitor is not None and monitor.endpoint_url is not None:
        say(f"metrics: {monitor.endpoint_url}")


def start_in_child() -> None:
    """Watch what calls models, in a Python process that the script started."""
    patch.install()
    run = _Run(MonitorConfig.from_env(expected_samples=None), None)
    run.watch.start()


def say(text: str) -> None:
    """Write a line to standard error, unless the script has closed it."""
    with suppress(Exception):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _open(config: MonitorConfig) -> GenerationMonitor | None:
    """Create a monitor for the whole run; None if the application has its own provider."""
    if config.meter_provider != "builtin":
        return None
    if PROMETHEUS in ExportSettings.from_env(os.environ).exporters:
        # Enabled in code, so that a port in use is an error rather than a warning.
        endpoint = dataclasses.replace(config.endpoint, enabled=True)
        config = dataclasses.replace(config, endpoint=endpoint)
    try:
        return GenerationMonitor(
            metric_handlers=[], log_handlers=[], metrics_interval=0, config=config
        )
    except EndpointError as error:
        raise EndpointError(
            f"{error}\n--host and --port set the address, such as: genmeter run --port 0 script.py"
        ) from error


class _Run:
    """The run of a script, in one of its processes.

    Args:
        config: The settings of its monitor.
        monitor: The monitor, kept alive until the end; None to make it when it is needed.
    """

    def __init__(self, config: MonitorConfig, monitor: GenerationMonitor | None) -> None:
        self._pid = os.getpid()
        self._config = config
        self._made = monitor
        self._lock = ForkLock()
        self._is_stopped = False
        self._guard = self.monitor  # one object; each access makes another
        self.has_budget = config.budget_tokens is not None or config.budget_usd is not None
        if self.has_budget and monitor is None:
            gate.add_guard(self._guard)  # at the first call, it makes the monitor and its guard
        self.watch = AutoWatch(self.monitor)

    def monitor(self) -> GenerationMonitor:
        """Return the monitor of what is watched."""
        with self._lock:
            if self._made is None:
                self._made = GenerationMonitor(
                    metric_handlers=[], log_handlers=[], metrics_interval=0, config=self._config
                )
                # After the monitor's own hook is registered, so it runs before it.
                atexit.register(self.watch.spans.flush)
                mp_util.Finalize(None, self.watch.spans.flush, exitpriority=1)
        gate.remove_guard(self._guard)
        return self._made

    def on_error(self, previous: Callable[..., Any], kind: type, error: Any, trace: Any) -> None:
        """Note whether a budget ended the script, and print the traceback; it is ``sys.excepthook``."""
        self._is_stopped = self._is_stopped or issubclass(kind, BudgetError)
        previous(kind, error, trace)

    def finish(self) -> None:
        """Print the report and shut down."""
        self.watch.spans.flush()
        if os.getpid() != self._pid:  # a forked child does not report
            return
        job = runtime.current()
        if QUIET not in os.environ:
            self._report()
        self._say_stopped()
        linger = self._config.endpoint.linger
        if linger and job.url() is not None:
            say(f"waiting up to {linger:g} s for one more scrape; Ctrl-C ends it")
        try:
            job.exit()
        except KeyboardInterrupt:
            say("not waiting any longer")

    def _report(self) -> None:
        process = runtime.current()
        process.settle_observed(process.timeout)
        report = job_token_usage()
        is_known = report.by_model or report.without_usage
        text = f"{report}" if is_known else "No token usage recorded."
        if report.by_model and (self._config.prices is not None or report.cost_usd):
            text += f"\n\n{report.cost()}"
        if (died := _died(process.job)) is not None:
            text += f"\n{died}"
        say(f"\n{text}")
        lines = lines_of(self.watch.seen, self.watch.spans.notes())
        if lines:
            say("\n" + "\n".join(lines))

    def _say_stopped(self) -> None:
        """Say that a budget stopped the job, and have the process exit with a code of its own."""
        job = runtime.current().job
        unknown = ""
        try:
            own, others, reason = job.refused()
        except JobError as error:
            own, others, reason = job.refusals.read(None)
            unknown = f"whether other processes of the job were refused calls is unknown: {error}"
        if not (own or others or self._is_stopped):
            if unknown and self.has_budget:
                say(f"\ngenmeter run: {unknown}")
            return
        text = "" if reason is None else f": {reason}"
        if own or others:
            text += f"; calls refused: {own + others:,}"
        if others:
            text += f", {others:,} of them in other processes"
        say(f"\ngenmeter run: the budget stopped the job{text}{unknown and f'; {unknown}'}")
        sys._genmeter_exit_code = _ExitCode(BUDGET_EXIT_CODE)  # type: ignore[attr-defined]  # noqa: SLF001


def _died(job: Job) -> str | None:
    """Return what is said of processes that died; None if none did."""
    job.fold_the_dead()
    census = job.census()
    if census is None or not census.died:
        return None
    processes = census.running + census.ended + census.died
    return (
        f"Incomplete: {census.died:,} of {processes:,} processes of the job died; what they had "
        "not published, at most about a second each, is missing."
    )


class _ExitCode:
    """Sets the exit code of the process at the very end of it.

    No hook can change the exit code of a script that has ended. An attribute of ``sys`` is deleted after the
    script's modules, so that its files are closed and all else is as at any exit.
    """

    def __init__(self, code: int) -> None:
        self._code = code
        # Of the module below `os`, in which packages replace it by functions that are gone by then.
        self._exit: Callable[[int], Any] = sys.modules[os.name]._exit  # noqa: SLF001 - os._exit
        self._streams = (sys.stdout, sys.stderr)

    def __del__(self) -> None:
        for stream in self._streams:
            try:
                stream.flush()
            except Exception:  # noqa: S112 - the names of this module are gone, suppress() too
                continue
        self._exit(self._code)
